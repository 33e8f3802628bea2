// kernel_bench.cu: times `unified` per shape, warm and with a flushed L2, beside its floors, and the cost of LSE and
// of grouping; ragged groups beside their bound (kernel_bench_ragged.cuh; --rows ragged). Needs only the CUDA toolkit.
// Usage: kernel_bench [--rows SUBSTRING] [--dtype bf16|fp16] [--rounds N].
//
// Warm: a CUDA graph of back-to-back launches, median of the rounds. Flushed: single launches after writing 256 MiB.
// Floors: tensors once at the rate of a device-to-device copy measured first, products at 4096 FLOP per clock and
// multiprocessor at the clock that the driver names as the maximum. Peers: kernel_peers.py.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <unistd.h>

#include "kernel_bench_ragged.cuh"
#include "kernel_bench_support.cuh"

struct Row {
    const char *name;
    uint32_t batch, h_q, h_kv, d;
    int64_t s_q, s_kv;
    bool causal;
    float softcap, scale;
};

static const int kMaxRows = 96;
static Row rows[kMaxRows];
static int row_count;
static char names[kMaxRows][48];

static void row_add(uint32_t batch, int64_t s_q, int64_t s_kv, uint32_t h_q, uint32_t h_kv, uint32_t d, bool causal,
                    float softcap, float scale)
{
    char *const name = names[row_count];
    snprintf(name, sizeof(names[0]), "D%u %s B%u %lldx%lld H%u/%u%s", d, causal ? "c" : "n", batch,
             static_cast<long long>(s_q), static_cast<long long>(s_kv), h_q, h_kv, softcap > 0 ? " cap" : "");
    rows[row_count++] = {name, batch, h_q, h_kv, d, s_q, s_kv, causal, softcap, scale};
}

static void rows_make()
{
    static const uint32_t dims[][2] = {{128, 16}, {64, 32}, {256, 8}, {96, 16}, {192, 16}};
    for (const auto &d : dims) {
        for (int64_t s = 512; s <= 16384; s *= 2) {
            for (int causal = 1; causal >= 0; --causal) {
                row_add(static_cast<uint32_t>(16384 / s), s, s, d[1], d[1], d[0], causal, 0.f, 0.f);
            }
        }
    }
    static const int64_t gqa[][5] = {{4, 512, 512, 32, 8},    {1, 1024, 1024, 32, 8},   {1, 4096, 4096, 32, 8},
                                     {1, 8192, 8192, 32, 8},  {1, 32768, 32768, 32, 8}, {1, 4096, 4096, 64, 8},
                                     {1, 4096, 4096, 128, 8}, {2, 512, 4096, 32, 8},    {1, 512, 4096, 32, 8},
                                     {1, 512, 4096, 64, 8},   {1, 2048, 32768, 32, 8}};
    for (const auto &g : gqa) {
        row_add(static_cast<uint32_t>(g[0]), g[1], g[2], static_cast<uint32_t>(g[3]), static_cast<uint32_t>(g[4]), 128,
                true, 0.f, 0.f);
    }
    // No multiples of a tile: what is left over of heads of one key head shares tiles in the first four.
    static const int64_t odd[][6] = {{96, 180, 180, 32, 8, 128},  {16, 799, 799, 32, 8, 128},
                                     {1, 2100, 2100, 32, 8, 128}, {4, 300, 3001, 32, 8, 128},
                                     {16, 799, 799, 16, 16, 128}, {16, 1000, 1000, 32, 8, 64},
                                     {16, 1000, 1000, 8, 8, 256}};
    for (const auto &o : odd) {
        for (int causal = 1; causal >= 0; --causal) {
            row_add(static_cast<uint32_t>(o[0]), o[1], o[2], static_cast<uint32_t>(o[3]), static_cast<uint32_t>(o[4]),
                    static_cast<uint32_t>(o[5]), causal, 0.f, 0.f);
        }
    }
    row_add(1, 4096, 4096, 32, 8, 128, true, 30.f, 0.1f);
    row_add(2, 512, 4096, 32, 8, 128, true, 30.f, 0.1f);
}

static uint16_t *flush_memory;
static const size_t kFlushBytes = size_t{256} << 20;

static float flushed_run(const attn_config_t &config, const attn_problem_t *problem)
{
    static cudaEvent_t start, end;
    if (start == nullptr) {
        CUDA_OK(cudaEventCreate(&start));
        CUDA_OK(cudaEventCreate(&end));
    }
    float ms;
    CUDA_OK(cudaMemsetAsync(flush_memory, 1, kFlushBytes, stream));
    CUDA_OK(cudaEventRecord(start, stream));
    launch(config, problem, 1);
    CUDA_OK(cudaEventRecord(end, stream));
    CUDA_OK(cudaEventSynchronize(end));
    CUDA_OK(cudaEventElapsedTime(&ms, start, end));
    return ms * 1000;
}

static double copy_bytes_per_us; // read and written

static void copy_rate_measure()
{
    const size_t bytes = kFlushBytes / 2;
    cudaEvent_t start, end;
    float times[9], ms;
    CUDA_OK(cudaEventCreate(&start));
    CUDA_OK(cudaEventCreate(&end));
    for (float &t : times) {
        CUDA_OK(cudaEventRecord(start, stream));
        CUDA_OK(cudaMemcpyAsync(flush_memory, flush_memory + bytes / 2, bytes, cudaMemcpyDeviceToDevice, stream));
        CUDA_OK(cudaEventRecord(end, stream));
        CUDA_OK(cudaEventSynchronize(end));
        CUDA_OK(cudaEventElapsedTime(&ms, start, end));
        t = ms * 1000;
    }
    copy_bytes_per_us = 2.0 * static_cast<double>(bytes) / static_cast<double>(median(times, 9));
    CUDA_OK(cudaEventDestroy(start));
    CUDA_OK(cudaEventDestroy(end));
}

static void bench(const Row &r, attn_dtype_t dtype, int rounds, double clock_ghz)
{
    const size_t q_count = static_cast<size_t>(r.batch) * static_cast<size_t>(r.s_q) * r.h_q * r.d;
    const size_t k_count = static_cast<size_t>(r.batch) * static_cast<size_t>(r.s_kv) * r.h_kv * r.d;
    uint16_t *q, *k, *v, *o;
    float *lse;
    CUDA_OK(cudaMalloc(&q, q_count * 2));
    CUDA_OK(cudaMalloc(&k, k_count * 2));
    CUDA_OK(cudaMalloc(&v, k_count * 2));
    CUDA_OK(cudaMalloc(&o, q_count * 2));
    CUDA_OK(cudaMalloc(&lse, static_cast<size_t>(r.batch) * r.h_q * static_cast<size_t>(r.s_q) * 4));
    fill<<<1024, 256, 0, stream>>>(q, q_count, dtype == ATTN_DTYPE_BF16, 1);
    fill<<<1024, 256, 0, stream>>>(k, k_count, dtype == ATTN_DTYPE_BF16, 2);
    fill<<<1024, 256, 0, stream>>>(v, k_count, dtype == ATTN_DTYPE_BF16, 3);
    CUDA_OK(cudaGetLastError());

    attn_problem_t p;
    memset(&p, 0, sizeof(p));
    p.batch = r.batch;
    p.h_q = r.h_q;
    p.h_kv = r.h_kv;
    p.d = r.d;
    p.s_q = r.s_q;
    p.s_kv = r.s_kv;
    p.q = view_of(q, r.s_q, r.h_q, r.d);
    p.k = view_of(k, r.s_kv, r.h_kv, r.d);
    p.v = view_of(v, r.s_kv, r.h_kv, r.d);
    p.o = view_of(o, r.s_q, r.h_q, r.d);
    p.sm_scale = r.scale > 0 ? r.scale : 1.f / sqrtf(static_cast<float>(r.d));
    p.softcap = r.softcap;
    attn_problem_t with_lse = p;
    with_lse.lse = lse;
    with_lse.lse_stride_h = r.s_q;
    with_lse.lse_stride_b = r.s_q * r.h_q;
    static attn_problem_t parts[64]; // the same work as one problem per batch entry
    for (uint32_t b = 0; b < r.batch && b < 64; ++b) {
        parts[b] = p;
        parts[b].batch = 1;
        parts[b].q.data = q + static_cast<int64_t>(b) * p.q.stride_b;
        parts[b].k.data = k + static_cast<int64_t>(b) * p.k.stride_b;
        parts[b].v.data = v + static_cast<int64_t>(b) * p.v.stride_b;
        parts[b].o.data = o + static_cast<int64_t>(b) * p.o.stride_b;
    }
    const attn_config_t config = {dtype, r.causal, r.softcap > 0};
    const double diagonal = static_cast<double>(r.s_q) * static_cast<double>(r.s_q) / 2;
    const double pairs = static_cast<double>(r.s_q) * static_cast<double>(r.s_kv) - (r.causal ? diagonal : 0);
    const double flops = 4.0 * r.batch * r.h_q * r.d * pairs;
    const double guess = flops / 500e6 + 5;
    const Timer plain = timer_make(config, &p, 1, guess), lse_on = timer_make(config, &with_lse, 1, guess);
    const bool grouped = r.batch > 1 && r.batch <= 64;
    const Timer group = grouped ? timer_make(config, parts, r.batch, guess) : plain;
    float a[kMaxRounds], b[kMaxRounds], c[kMaxRounds], f[kMaxRounds];
    for (int i = 0; i < rounds; ++i) {
        a[i] = timer_run(plain);
        b[i] = timer_run(lse_on);
        c[i] = timer_run(group);
        f[i] = flushed_run(config, &p);
    }
    const double us = median(a, rounds);
    printf("%-28s %s %9.1f us %4.0f TFLOP/s  flushed %9.1f  floors: memory %7.1f tensor %8.1f  lse %+5.1f %%", r.name,
           dtype == ATTN_DTYPE_BF16 ? "bf16" : "fp16", us, flops / us / 1e6, static_cast<double>(median(f, rounds)),
           static_cast<double>(2 * q_count + 2 * k_count) * 2 / copy_bytes_per_us,
           flops / (4096.0 * device.units * clock_ghz * 1e3), 100 * (static_cast<double>(median(b, rounds)) / us - 1));
    if (grouped) {
        printf("  group of %u %+5.1f %%", r.batch, 100 * (static_cast<double>(median(c, rounds)) / us - 1));
    }
    printf("\n");
    fflush(stdout);
    CUDA_OK(cudaGraphExecDestroy(plain.graph));
    CUDA_OK(cudaGraphExecDestroy(lse_on.graph));
    if (grouped) {
        CUDA_OK(cudaGraphExecDestroy(group.graph));
    }
    void *const memory[] = {q, k, v, o, lse};
    for (void *m : memory) {
        CUDA_OK(cudaFree(m));
    }
}

int main(int argc, char **argv)
{
    const char *filter = "", *only = "";
    int rounds = 7, count = 0;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--rows") == 0) {
            filter = argv[i + 1];
        } else if (strcmp(argv[i], "--dtype") == 0) {
            only = argv[i + 1];
        } else if (strcmp(argv[i], "--rounds") == 0) {
            rounds = std::max(1, std::min(kMaxRounds, atoi(argv[i + 1])));
        }
    }
    alarm(540);
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
        printf("skipped: no GPU\n");
        return 0;
    }
    cudaDeviceProp prop;
    int khz = 0;
    CUDA_OK(cudaGetDeviceProperties(&prop, 0));
    CUDA_OK(cudaDeviceGetAttribute(&khz, cudaDevAttrClockRate, 0));
    if (prop.major != 9) {
        printf("skipped: no Hopper GPU\n");
        return 0;
    }
    device.kind = ATTN_DEVICE_CUDA;
    device.arch = 90;
    device.units = prop.multiProcessorCount;
    CUDA_OK(cudaStreamCreate(&stream));
    run_on.device = &device;
    run_on.stream = stream;
    run_on.workspace_bytes = run_on.host_workspace_bytes = 1 << 20;
    CUDA_OK(cudaMalloc(&run_on.workspace, run_on.workspace_bytes));
    CUDA_OK(cudaMemset(run_on.workspace, 0, ATTN_WORKSPACE_ZEROED));
    CUDA_OK(cudaMallocHost(&run_on.host_workspace, run_on.host_workspace_bytes));
    CUDA_OK(cudaMalloc(&flush_memory, kFlushBytes));
    rows_make();
    copy_rate_measure();
    printf("# %s, %d multiprocessors, up to %.3f GHz, copies %.2f TB/s\n", prop.name, device.units, khz * 1e-6,
           copy_bytes_per_us * 1e-6);
    for (int i = 0; i < row_count; ++i) {
        for (int t = 0; t < 2; ++t) {
            if (strstr(rows[i].name, filter) != nullptr && (only[0] == 0 || (t == 0) == (strcmp(only, "bf16") == 0))) {
                bench(rows[i], t == 0 ? ATTN_DTYPE_BF16 : ATTN_DTYPE_F16, rounds, khz * 1e-6);
            }
        }
    }
    for (int t = 0; t < 2; ++t) {
        if (only[0] == 0 || (t == 0) == (strcmp(only, "bf16") == 0)) {
            bench_ragged(filter, t == 0 ? ATTN_DTYPE_BF16 : ATTN_DTYPE_F16, rounds, copy_bytes_per_us);
        }
    }
    return 0;
}
