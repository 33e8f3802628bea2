// unified_support.cuh: what the GPU tests of `unified` share: device memory with poison around every tensor, inputs
// from a seed, launching, and exact comparisons. One thread; memory comes from one pool that a test resets.
#ifndef ATTN_TESTS_UNIFIED_SUPPORT_CUH
#define ATTN_TESTS_UNIFIED_SUPPORT_CUH

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <unistd.h>

#include "attn/kernel.h"
#include "unified.h"

#define CUDA_OK(call)                                                                                                  \
    do {                                                                                                               \
        const cudaError_t rc_ = (call);                                                                                \
        if (rc_ != cudaSuccess) {                                                                                      \
            printf("FAIL %s:%d %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(rc_));                         \
            printf("%d passed, %d failed\n", tally.passed, tally.failed + 1);                                          \
            fflush(stdout);                                                                                            \
            _exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)

struct Tally {
    int passed, failed;
};
static Tally tally;

static void expect(bool ok, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void expect(bool ok, const char *format, ...)
{
    if (ok) {
        tally.passed++;
        return;
    }
    tally.failed++;
    if (tally.failed > 60) {
        return;
    }
    va_list args;
    va_start(args, format);
    printf("FAIL ");
    vprintf(format, args);
    printf("\n");
    va_end(args);
    fflush(stdout);
}

static const attn_dtype_t kF16 = ATTN_DTYPE_F16, kBf16 = ATTN_DTYPE_BF16;

// ---- pool ----------------------------------------------------------------------------------------------

static const size_t kPoolBytes = size_t{12} << 30;
static const size_t kGuard = 4096; // bytes of poison on each side of a tensor
static unsigned char *pool;
static size_t pool_used;

static void *pool_take(size_t bytes)
{
    const size_t at = (pool_used + 1023) / 1024 * 1024;
    if (at + bytes > kPoolBytes) {
        printf("FAIL the test pool is too small\n");
        _exit(1);
    }
    pool_used = at + bytes;
    return pool + at;
}

// ---- tensors -------------------------------------------------------------------------------------------

enum Layout { kBshd, kBhsd, kPadded }; // kPadded: bshd with 8 unused elements after each head and each row

struct Tensor {
    attn_view_t view;
    uint32_t batch, heads, d;
    int64_t length;
    void *memory; // with guards
    size_t bytes;
};

static Tensor tensor_make(uint32_t batch, int64_t length, uint32_t heads, uint32_t d, Layout layout)
{
    Tensor t;
    t.batch = batch;
    t.heads = heads;
    t.d = d;
    t.length = length;
    if (layout == kBhsd) {
        t.view.stride_s = d;
        t.view.stride_h = length * d;
        t.view.stride_b = t.view.stride_h * heads;
    } else {
        const int64_t pad = layout == kPadded ? 8 : 0;
        t.view.stride_h = d + pad;
        t.view.stride_s = t.view.stride_h * heads + pad;
        t.view.stride_b = t.view.stride_s * length;
    }
    t.bytes = static_cast<size_t>(t.view.stride_b) * batch * 2 + 2 * kGuard;
    t.memory = pool_take(t.bytes);
    t.view.data = static_cast<unsigned char *>(t.memory) + kGuard;
    return t;
}

__device__ inline uint32_t hash32(uint64_t x)
{
    x ^= x >> 33;
    x *= 0xff51afd7ed558ccdull;
    x ^= x >> 33;
    x *= 0xc4ceb9fe1a85ec53ull;
    x ^= x >> 33;
    return static_cast<uint32_t>(x);
}

// N(0, 1) from (seed, index).
__device__ inline float normal(uint64_t seed, uint64_t index)
{
    const float u = (hash32(seed * 0x9E3779B97F4A7C15ull + 2 * index) + 1.f) * (1.f / 4294967552.f);
    const float w = hash32(seed * 0x9E3779B97F4A7C15ull + 2 * index + 1) * (1.f / 4294967296.f);
    return sqrtf(-2.f * logf(u)) * cospif(2.f * w);
}

__device__ inline uint16_t to_bits(attn_dtype_t dtype, float x)
{
    return dtype == ATTN_DTYPE_F16 ? __half_as_ushort(__float2half_rn(x)) : __bfloat16_as_ushort(__float2bfloat16_rn(x));
}

__device__ inline float from_bits(attn_dtype_t dtype, uint16_t x)
{
    return dtype == ATTN_DTYPE_F16 ? __half2float(__ushort_as_half(x)) : __bfloat162float(__ushort_as_bfloat16(x));
}

__device__ inline int64_t element_at(const Tensor &t, uint64_t n, uint32_t *b, int64_t *s, uint32_t *h, uint32_t *i)
{
    *i = n % t.d;
    n /= t.d;
    *h = n % t.heads;
    n /= t.heads;
    *s = n % t.length;
    *b = n / t.length;
    return *b * t.view.stride_b + *s * t.view.stride_s + *h * t.view.stride_h + *i;
}

static uint64_t tensor_elements(const Tensor &t)
{
    return static_cast<uint64_t>(t.batch) * t.length * t.heads * t.d;
}

// Fills: gaussian*scale; with outliers (N(0,1) + N(0,100)*Bernoulli(0.001)); or one constant.
enum Fill { kNormal, kOutliers, kConstant };

__global__ void fill_kernel(Tensor t, attn_dtype_t dtype, Fill fill, float scale, uint64_t seed, uint64_t count)
{
    for (uint64_t n = blockIdx.x * static_cast<uint64_t>(blockDim.x) + threadIdx.x; n < count;
         n += static_cast<uint64_t>(gridDim.x) * blockDim.x) {
        uint32_t b, h, i;
        int64_t s;
        const int64_t at = element_at(t, n, &b, &s, &h, &i);
        float x = scale;
        if (fill != kConstant) {
            x = normal(seed, n) * scale;
            if (fill == kOutliers && hash32(seed * 77 + n) < 4294967u) {
                x += 10.f * normal(seed + 1000003, n);
            }
        }
        static_cast<uint16_t *>(t.view.data)[at] = to_bits(dtype, x);
    }
}

static unsigned blocks_for(uint64_t count)
{
    const uint64_t blocks = (count + 255) / 256;
    return static_cast<unsigned>(blocks < 1 ? 1 : (blocks > 4096 ? 4096 : blocks));
}

// Poisons the whole buffer with NaN (0xFFFF is one in both dtypes), then writes the elements.
static void tensor_fill(const Tensor &t, attn_dtype_t dtype, Fill fill, float scale, uint64_t seed)
{
    CUDA_OK(cudaMemsetAsync(t.memory, 0xFF, t.bytes, 0));
    const uint64_t count = tensor_elements(t);
    if (count > 0) {
        fill_kernel<<<blocks_for(count), 256>>>(t, dtype, fill, scale, seed, count);
    }
}

__global__ void set_kernel(Tensor t, uint64_t count)
{
    for (uint64_t n = blockIdx.x * static_cast<uint64_t>(blockDim.x) + threadIdx.x; n < count;
         n += static_cast<uint64_t>(gridDim.x) * blockDim.x) {
        uint32_t b, h, i;
        int64_t s;
        static_cast<uint16_t *>(t.view.data)[element_at(t, n, &b, &s, &h, &i)] = 0xFFFF;
    }
}

__global__ void count_kernel(const uint16_t *memory, uint64_t count, unsigned long long *ret)
{
    unsigned long long changed = 0;
    for (uint64_t n = blockIdx.x * static_cast<uint64_t>(blockDim.x) + threadIdx.x; n < count;
         n += static_cast<uint64_t>(gridDim.x) * blockDim.x) {
        changed += memory[n] != 0xFFFF;
    }
    if (changed) {
        atomicAdd(ret, changed);
    }
}

static unsigned long long *counter_device; // scratch for counting kernels

static unsigned long long counter_read()
{
    unsigned long long n;
    CUDA_OK(cudaMemcpy(&n, counter_device, sizeof(n), cudaMemcpyDeviceToHost));
    return n;
}

// Elements outside the tensor that are no longer poison. Destroys the tensor's own elements.
static unsigned long long tensor_strays(const Tensor &t)
{
    const uint64_t count = tensor_elements(t);
    CUDA_OK(cudaMemset(counter_device, 0, sizeof(*counter_device)));
    if (count > 0) {
        set_kernel<<<blocks_for(count), 256>>>(t, count);
    }
    count_kernel<<<blocks_for(t.bytes / 2), 256>>>(static_cast<const uint16_t *>(t.memory), t.bytes / 2,
                                                   counter_device);
    return counter_read();
}

// Elements whose bits differ; `head_ratio` > 1: head h of `a` against h / head_ratio... is not needed: heads agree.
__global__ void differ_kernel(Tensor a, Tensor b, uint64_t count, unsigned long long *ret)
{
    for (uint64_t n = blockIdx.x * static_cast<uint64_t>(blockDim.x) + threadIdx.x; n < count;
         n += static_cast<uint64_t>(gridDim.x) * blockDim.x) {
        uint32_t i0, i1, i2;
        int64_t s;
        const uint16_t x = static_cast<uint16_t *>(a.view.data)[element_at(a, n, &i0, &s, &i1, &i2)];
        const uint16_t y = static_cast<uint16_t *>(b.view.data)[element_at(b, n, &i0, &s, &i1, &i2)];
        if (x != y) {
            atomicAdd(ret, 1ull);
        }
    }
}

static unsigned long long tensors_differ(const Tensor &a, const Tensor &b)
{
    const uint64_t count = tensor_elements(a);
    CUDA_OK(cudaMemset(counter_device, 0, sizeof(*counter_device)));
    if (count > 0) {
        differ_kernel<<<blocks_for(count), 256>>>(a, b, count, counter_device);
    }
    return counter_read();
}

static void poke(const Tensor &t, int64_t s, uint32_t h, uint32_t i, uint16_t bits)
{
    CUDA_OK(cudaMemcpy(static_cast<uint16_t *>(t.view.data) + s * t.view.stride_s + h * t.view.stride_h + i, &bits,
                       sizeof(bits), cudaMemcpyHostToDevice));
}

// ---- problems ------------------------------------------------------------------------------------------

struct Case {
    attn_dtype_t dtype;
    bool causal;
    float softcap; // 0: off
    uint32_t batch, h_q, h_kv, d;
    int64_t s_q, s_kv;
    Layout layout;
    bool lse;
    float sm_scale; // 0: 1/sqrt(d)
    float input_scale;
};

static Case case_of(attn_dtype_t dtype, bool causal, uint32_t batch, uint32_t h_q, uint32_t h_kv, uint32_t d,
                    int64_t s_q, int64_t s_kv)
{
    return {dtype, causal, 0.f, batch, h_q, h_kv, d, s_q, s_kv, kBshd, true, 0.f, 1.f};
}

static const char *case_name(const Case &c)
{
    static char text[200];
    snprintf(text, sizeof(text), "%s %s%s b%u h%u/%u d%u %lldx%lld layout%d%s scale %.3g in %.3g",
             c.dtype == kF16 ? "fp16" : "bf16", c.causal ? "causal" : "full", c.softcap > 0 ? " cap" : "", c.batch,
             c.h_q, c.h_kv, c.d, static_cast<long long>(c.s_q), static_cast<long long>(c.s_kv), c.layout,
             c.lse ? " lse" : "", static_cast<double>(c.sm_scale), static_cast<double>(c.input_scale));
    return text;
}

struct Instance {
    Case c;
    Tensor q, k, v, o, lse; // lse as 16-bit halves of floats: d = 2
    attn_problem_t problem;
};

static void outputs_poison(const Instance &x)
{
    CUDA_OK(cudaMemsetAsync(x.o.memory, 0xFF, x.o.bytes, 0));
    if (x.c.lse) {
        CUDA_OK(cudaMemsetAsync(x.lse.memory, 0xFF, x.lse.bytes, 0));
    }
}

static void instance_bind(Instance *x)
{
    attn_problem_t &p = x->problem;
    memset(&p, 0, sizeof(p));
    p.batch = x->c.batch;
    p.h_q = x->c.h_q;
    p.h_kv = x->c.h_kv;
    p.d = x->c.d;
    p.s_q = x->c.s_q;
    p.s_kv = x->c.s_kv;
    p.q = x->q.view;
    p.k = x->k.view;
    p.v = x->v.view;
    p.o = x->o.view;
    if (x->c.lse) {
        p.lse = static_cast<float *>(x->lse.view.data);
        p.lse_stride_h = x->c.s_q;
        p.lse_stride_b = x->c.s_q * x->c.h_q;
    }
    p.sm_scale = x->c.sm_scale > 0 ? x->c.sm_scale : 1.f / sqrtf(static_cast<float>(x->c.d));
    p.softcap = x->c.softcap;
}

// Inputs from the seed, outputs poisoned.
static Instance instance_make(const Case &c, uint64_t seed, Fill fill = kNormal)
{
    Instance x;
    x.c = c;
    x.q = tensor_make(c.batch, c.s_q, c.h_q, c.d, c.layout);
    x.k = tensor_make(c.batch, c.s_kv, c.h_kv, c.d, c.layout);
    x.v = tensor_make(c.batch, c.s_kv, c.h_kv, c.d, c.layout);
    x.o = tensor_make(c.batch, c.s_q, c.h_q, c.d, c.layout);
    x.lse = tensor_make(c.batch, c.s_q, c.h_q, 2, kBhsd);
    tensor_fill(x.q, c.dtype, fill, c.input_scale, seed * 3 + 1);
    tensor_fill(x.k, c.dtype, fill, c.input_scale, seed * 3 + 2);
    tensor_fill(x.v, c.dtype, fill, 1.f, seed * 3 + 3);
    instance_bind(&x);
    outputs_poison(x);
    return x;
}

// ---- launching -----------------------------------------------------------------------------------------

struct Lane { // a stream with its workspace
    attn_exec_t exec;
};
static attn_device_t device;

static Lane lane_make(cudaStream_t stream)
{
    Lane lane;
    memset(&lane, 0, sizeof(lane));
    lane.exec.device = &device;
    lane.exec.stream = stream;
    lane.exec.workspace_bytes = 1 << 20;
    lane.exec.host_workspace_bytes = 1 << 20;
    CUDA_OK(cudaMalloc(&lane.exec.workspace, lane.exec.workspace_bytes));
    CUDA_OK(cudaMemset(lane.exec.workspace, 0, ATTN_WORKSPACE_ZEROED));
    CUDA_OK(cudaMallocHost(&lane.exec.host_workspace, lane.exec.host_workspace_bytes));
    return lane;
}

static Lane lane0; // default stream

static attn_status_t launch_group(const Lane &lane, const Case &c, const attn_problem_t *problems, uint32_t count)
{
    attn_group_t group;
    attn_error_t err;
    memset(&err, 0, sizeof(err));
    group.config.dtype = c.dtype;
    group.config.causal = c.causal;
    group.config.softcap = c.softcap > 0;
    group.count = count;
    group.problems = problems;
    const attn_status_t st = attn_variant_unified.launch(&group, &lane.exec, &err);
    if (st != ATTN_OK) {
        printf("launch: %d %s\n", st, err.message);
    }
    return st;
}

static void run_alone(const Instance &x)
{
    expect(launch_group(lane0, x.c, &x.problem, 1) == ATTN_OK, "launch of %s", case_name(x.c));
    CUDA_OK(cudaGetLastError());
}

// False when there is no Hopper GPU.
static bool support_init()
{
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
        return false;
    }
    cudaDeviceProp prop;
    CUDA_OK(cudaGetDeviceProperties(&prop, 0));
    if (prop.major != 9) {
        return false;
    }
    device.kind = ATTN_DEVICE_CUDA;
    device.arch = 10 * prop.major + prop.minor;
    device.units = prop.multiProcessorCount;
    snprintf(device.name, sizeof(device.name), "%s", prop.name);
    CUDA_OK(cudaMalloc(&pool, kPoolBytes));
    CUDA_OK(cudaMalloc(&counter_device, sizeof(*counter_device)));
    lane0 = lane_make(0);
    return true;
}

#endif
