// unified_stress.cuh: barrier phases, streams, captured graphs, few multiprocessors, refusals and huge strides.
#ifndef ATTN_TESTS_UNIFIED_STRESS_CUH
#define ATTN_TESTS_UNIFIED_STRESS_CUH

#include "unified_exact.cuh"

// 1 to 9 key blocks times 1 to 5 tiles per thread block: with one multiprocessor a launch's tiles queue up on it.
static void test_phases()
{
    const int units = device.units;
    static const uint32_t dims[] = {64, 128, 192, 256};
    for (uint32_t d : dims) {
        const int64_t keys = d <= 128 ? 128 : (d == 192 ? 112 : 80);
        for (int blocks = 1; blocks <= 9; ++blocks) {
            for (uint32_t tiles = 1; tiles <= 5; ++tiles) {
                device.units = 1 + (blocks + tiles) % 2;
                Case c = case_of(blocks & 1 ? kF16 : kBf16, tiles & 1, 1, tiles, tiles, d, 100, keys * blocks - blocks);
                check_case(c, 2000 + blocks * 10 + tiles, 8);
            }
        }
    }
    device.units = 1;
    check_group(case_of(kBf16, true, 1, 1, 1, 128, 1, 1), 40, 2100);
    device.units = 7;
    check_group(case_of(kF16, true, 1, 1, 1, 64, 1, 1), 40, 2101);
    device.units = units;
}

// Four streams, each with its workspace and 50 groups in flight order; then the same addresses with new shapes.
static void test_streams()
{
    static const int kStreams = 4, kRounds = 50;
    static const uint32_t kCount = 16;
    static attn_problem_t problems[kCount];
    static Lane lanes[kStreams];
    static cudaStream_t streams[kStreams];
    static Instance inputs[kStreams][kCount], alone[kStreams][kCount];
    pool_used = 0;
    for (int s = 0; s < kStreams; ++s) {
        CUDA_OK(cudaStreamCreateWithFlags(&streams[s], cudaStreamNonBlocking));
        lanes[s] = lane_make(streams[s]);
        for (uint32_t i = 0; i < kCount; ++i) {
            Case c = case_of(s & 1 ? kF16 : kBf16, s & 2, 1, 4, 2, s == 3 ? 64 : 128, 37 + 61 * i + s, 90 + 50 * i);
            alone[s][i] = instance_make(c, 3000 + s * 100 + i);
            run_alone(alone[s][i]);
            inputs[s][i] = alone[s][i];
            inputs[s][i].o = tensor_make(c.batch, c.s_q, c.h_q, c.d, c.layout);
            inputs[s][i].lse = tensor_make(c.batch, c.s_q, c.h_q, 2, kBhsd);
            instance_bind(&inputs[s][i]);
            outputs_poison(inputs[s][i]);
        }
    }
    CUDA_OK(cudaDeviceSynchronize());
    for (int round = 0; round < kRounds; ++round) {
        for (int s = 0; s < kStreams; ++s) {
            const uint32_t count = round % 3 == 0 ? kCount : 1 + round % 6;
            if (round % 3 == 0 || count > 6) {
                CUDA_OK(cudaStreamSynchronize(streams[s])); // the staging is still read by the launch before
            }
            for (uint32_t i = 0; i < count; ++i) {
                problems[i] = inputs[s][(i + round) % kCount].problem;
            }
            expect(launch_group(lanes[s], inputs[s][0].c, problems, count) == ATTN_OK, "launch on stream %d", s);
        }
    }
    CUDA_OK(cudaDeviceSynchronize());
    for (int s = 0; s < kStreams; ++s) {
        for (uint32_t i = 0; i < kCount; ++i) {
            expect_same(alone[s][i], inputs[s][i], "streams");
        }
        uint32_t header[ATTN_WORKSPACE_ZEROED / 4], used = 0;
        CUDA_OK(cudaMemcpy(header, lanes[s].exec.workspace, sizeof(header), cudaMemcpyDeviceToHost));
        for (uint32_t word : header) {
            used |= word;
        }
        expect(used == 0, "the workspace's header is not zero after the launches on stream %d", s);
    }
    // The same addresses with new shapes: rows of the first half of a buffer as a problem of their own.
    for (int s = 0; s < kStreams; ++s) {
        Instance x = inputs[s][kCount - 1];
        for (int64_t s_q = 1; s_q < x.c.s_q; s_q += 97) {
            x.c.s_q = s_q;
            x.c.s_kv = s_q + 13;
            x.c.lse = false;
            x.q.length = x.o.length = s_q;
            instance_bind(&x);
            run_alone(x);
            expect_true(x, 16);
        }
        CUDA_OK(cudaStreamDestroy(streams[s]));
        CUDA_OK(cudaFree(lanes[s].exec.workspace));
        CUDA_OK(cudaFreeHost(lanes[s].exec.host_workspace));
    }
}

// A captured graph replayed 100 times with changed contents.
static void test_graphs()
{
    // One problem; equal ones, which are listed; ones that are uploaded without maps of their own, and with.
    static const uint32_t counts[] = {1, 12, 60, 60};
    for (int kind = 0; kind < 4; ++kind) {
        static attn_problem_t problems[60];
        pool_used = 0;
        const uint32_t count = counts[kind];
        void *other;
        cudaStream_t stream;
        cudaGraph_t graph;
        cudaGraphExec_t replay;
        CUDA_OK(cudaStreamCreate(&stream));
        CUDA_OK(cudaMalloc(&other, 2048));
        const Lane lane = lane_make(stream);
        const Case like = case_of(kBf16, true, 1, 4, 2, 128, 300, 500);
        for (uint32_t i = 0; i < count; ++i) {
            Case c = like;
            if (kind >= 2) {
                c.s_q = 20 + 9 * i;
                c.s_kv = c.s_q + i % 3 * 50;
                c.h_q = kind == 3 && i % 2 ? 2 : 4;
            }
            members[i] = instance_make(c, 3500 + i);
            problems[i] = members[i].problem;
        }
        CUDA_OK(cudaDeviceSynchronize());
        // Behind a copy, and behind another launch, under whose end an upload begins.
        CUDA_OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
        CUDA_OK(cudaMemcpyAsync(other, static_cast<char *>(other) + 1024, 1024, cudaMemcpyDeviceToDevice, stream));
        expect(launch_group(lane, like, problems, count) == ATTN_OK, "capture");
        expect(launch_group(lane, like, problems, count) == ATTN_OK, "capture");
        CUDA_OK(cudaStreamEndCapture(stream, &graph));
        CUDA_OK(cudaGraphInstantiate(&replay, graph, 0));
        for (int n = 0; n < 100; ++n) {
            const Instance &x = members[n % count];
            tensor_fill(x.q, x.c.dtype, kNormal, 1.f, 3600 + n);
            tensor_fill(x.v, x.c.dtype, kNormal, 1.f, 3800 + n);
            outputs_poison(x);
            CUDA_OK(cudaDeviceSynchronize());
            CUDA_OK(cudaGraphLaunch(replay, stream));
            CUDA_OK(cudaStreamSynchronize(stream));
            expect_true(x, 8);
        }
        CUDA_OK(cudaGraphExecDestroy(replay));
        CUDA_OK(cudaGraphDestroy(graph));
        CUDA_OK(cudaStreamDestroy(stream));
        CUDA_OK(cudaFree(other));
        CUDA_OK(cudaFree(lane.exec.workspace));
        CUDA_OK(cudaFreeHost(lane.exec.host_workspace));
    }
}

static void expect_refused(const Instance &x, const attn_problem_t &p, attn_status_t status, const char *what)
{
    attn_group_t group = {{x.c.dtype, x.c.causal, x.c.softcap > 0}, 1, &p};
    attn_error_t err;
    err.message[0] = 0;
    const attn_status_t st = attn_variant_unified.launch(&group, &lane0.exec, &err);
    expect(st == status && err.message[0] != 0, "%s: status %d, \"%s\"", what, st, err.message);
}

static void test_refusals()
{
    pool_used = 0;
    const Instance x = instance_make(case_of(kBf16, true, 1, 4, 2, 128, 100, 100), 1);
    attn_problem_t p = x.problem;
    p.q.data = static_cast<unsigned char *>(p.q.data) + 2;
    expect_refused(x, p, ATTN_ERR_FAILED_PRECONDITION, "unaligned Q");
    p = x.problem;
    p.k.stride_s += 1;
    expect_refused(x, p, ATTN_ERR_FAILED_PRECONDITION, "unaligned stride of K");
    p = x.problem;
    p.k.stride_s = int64_t{1} << 39;
    expect_refused(x, p, ATTN_ERR_INVALID_ARGUMENT, "rows of K 2^40 bytes apart");
    p = x.problem;
    p.q.stride_h = int64_t{1} << 38; // the ratio is 2
    expect_refused(x, p, ATTN_ERR_INVALID_ARGUMENT, "groups of heads of Q 2^40 bytes apart");
    p = x.problem;
    p.v.stride_h = -128;
    expect_refused(x, p, ATTN_ERR_INVALID_ARGUMENT, "heads of V backwards");
    p = x.problem;
    p.d = 100;
    expect_refused(x, p, ATTN_ERR_INVALID_ARGUMENT, "head dim 100");
    p = x.problem;
    p.h_kv = 3;
    expect_refused(x, p, ATTN_ERR_INVALID_ARGUMENT, "4 heads over 3");
    p = x.problem;
    p.softcap = 5.f;
    expect_refused(x, p, ATTN_ERR_INVALID_ARGUMENT, "softcap in a group without");
    p = x.problem;
    p.sm_scale = 0.f;
    expect_refused(x, p, ATTN_ERR_INVALID_ARGUMENT, "scale of zero");
    p = x.problem;
    p.s_kv = int64_t{1} << 40;
    expect_refused(x, p, ATTN_ERR_TOO_LARGE, "2^40 keys");
}

// Strides that put elements beyond 2^31: 64-bit offsets everywhere.
static void test_huge()
{
    pool_used = 0;
    Case c = case_of(kBf16, true, 2, 2, 1, 128, 200, 260);
    Instance x = instance_make(c, 4000), far = x;
    run_alone(x);
    // Batches 1.1e9 elements apart: batch 1 of the last tensor is beyond 2^31 bytes, offsets beyond 2^31 with s.
    Tensor *const parts[] = {&far.q, &far.k, &far.v, &far.o};
    const int64_t apart = (int64_t{1} << 31) + 1024;
    unsigned char *const base = static_cast<unsigned char *>(pool_take(static_cast<size_t>(apart) * 2 + (64 << 20)));
    for (int t = 0; t < 4; ++t) {
        parts[t]->view.data = base + t * (8 << 20);
        parts[t]->view.stride_b = apart;
    }
    instance_copy_inputs(x, far);
    instance_bind(&far);
    run_alone(far);
    expect_same(x, far, "batches 2^31 elements apart");
    expect_true(x);
}

#endif
