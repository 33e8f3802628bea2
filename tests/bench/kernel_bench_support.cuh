// kernel_bench_support.cuh: what all rows of kernel_bench share: inputs, launches and their times. One thread.
#ifndef ATTN_TESTS_KERNEL_BENCH_SUPPORT_CUH
#define ATTN_TESTS_KERNEL_BENCH_SUPPORT_CUH

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cuda_runtime.h>

#include "attn/kernel.h"
#include "unified.h"

#define CUDA_OK(call)                                                                                                  \
    do {                                                                                                               \
        const cudaError_t rc_ = (call);                                                                                \
        if (rc_ != cudaSuccess) {                                                                                      \
            printf("%s:%d %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(rc_));                              \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

static const int kMaxRounds = 32;

// Values of about N(0, 1): sums of four bytes of a hash.
__global__ void fill(uint16_t *p, size_t n, bool bf16, uint32_t seed)
{
    for (size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; i < n;
         i += static_cast<size_t>(gridDim.x) * blockDim.x) {
        uint32_t x = static_cast<uint32_t>(i) * 2654435761u + seed;
        x ^= x >> 16;
        x *= 0x7feb352du;
        x ^= x >> 15;
        x *= 0x846ca68bu;
        x ^= x >> 16;
        const float sum = static_cast<float>((x & 255) + (x >> 8 & 255) + (x >> 16 & 255) + (x >> 24));
        const float f = (sum - 510.f) / 147.8f;
        const uint32_t bits = __float_as_uint(f);
        if (bf16) {
            p[i] = static_cast<uint16_t>((bits + 0x8000u) >> 16);
        } else {
            asm("{.reg .b16 h; cvt.rn.f16.f32 h, %1; mov.b16 %0, h;}" : "=h"(p[i]) : "f"(f));
        }
    }
}

static attn_device_t device;
static attn_exec_t run_on;
static cudaStream_t stream;

static void launch(const attn_config_t &config, const attn_problem_t *problems, uint32_t count)
{
    attn_group_t group = {config, count, problems};
    attn_error_t err;
    if (attn_variant_unified.launch(&group, &run_on, &err) != ATTN_OK) {
        printf("launch: %s\n", err.message);
        exit(1);
    }
}

static float median(float *x, int n)
{
    std::sort(x, x + n);
    return x[n / 2];
}

struct Timer {
    cudaGraphExec_t graph;
    int repeats;
};

static Timer timer_make(const attn_config_t &config, const attn_problem_t *problems, uint32_t count, double guess_us)
{
    Timer t;
    cudaGraph_t graph;
    t.repeats = std::max(1, std::min(20, static_cast<int>(2000 / guess_us)));
    launch(config, problems, count);
    CUDA_OK(cudaStreamSynchronize(stream));
    CUDA_OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < t.repeats; ++i) {
        launch(config, problems, count);
    }
    CUDA_OK(cudaStreamEndCapture(stream, &graph));
    CUDA_OK(cudaGraphInstantiate(&t.graph, graph, 0));
    CUDA_OK(cudaGraphDestroy(graph));
    CUDA_OK(cudaGraphLaunch(t.graph, stream));
    return t;
}

static float timer_run(const Timer &t)
{
    static cudaEvent_t start, end;
    if (start == nullptr) {
        CUDA_OK(cudaEventCreate(&start));
        CUDA_OK(cudaEventCreate(&end));
    }
    float ms;
    CUDA_OK(cudaEventRecord(start, stream));
    CUDA_OK(cudaGraphLaunch(t.graph, stream));
    CUDA_OK(cudaEventRecord(end, stream));
    CUDA_OK(cudaEventSynchronize(end));
    CUDA_OK(cudaEventElapsedTime(&ms, start, end));
    return ms * 1000 / static_cast<float>(t.repeats);
}

static attn_view_t view_of(uint16_t *data, int64_t s, uint32_t h, uint32_t d)
{
    return {data, s * h * d, static_cast<int64_t>(h) * d, d};
}

#endif
