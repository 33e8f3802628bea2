// problem.cuh: what the plain CUDA kernels (fp64 `exact`, fp32 `naive`) take: up to 16 problems by value, cut into
// tiles of query rows. As kernel parameters they need no staging copy and no host memory that must stay alive.
#ifndef ATTN_CUDA_PROBLEM_CUH
#define ATTN_CUDA_PROBLEM_CUH

#include <cstdint>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace attn_cuda {

constexpr int kThreads = 128;
constexpr int kProblemsMax = 16;

struct Tensor {
    const void *data;
    int64_t stride_b, stride_s, stride_h; // elements
};

struct Problem {
    Tensor q, k, v;
    void *o; // in the request's dtype, or NULL
    int64_t o_stride_b, o_stride_s, o_stride_h;
    float *lse; // or NULL
    int64_t lse_stride_b, lse_stride_h;
    double *o64, *lse64, *row_err; // of the truth, or NULL; row (b * h_q + h) * s_q + i
    int64_t s_q, s_kv;
    uint32_t batch, h_q, h_kv, d;
    float sm_scale, softcap;
    int64_t tile_first; // in this problem: tile of the first block that works on it
    uint32_t block_end; // in this launch: blocks below this and not below the previous problem's belong to it
    uint32_t reserved;
};

struct Launch {
    Problem problems[kProblemsMax];
    int64_t key_begin, key_end; // part of the keys that this launch looks at
    double *state;              // of tiles whose keys come in several launches, or NULL
    double *max_abs;            // naive: the greatest |Onaive - O64| so far
    uint32_t causal;
    uint32_t reserved;
};
static_assert(sizeof(Launch) <= 4096, "kernel parameters");

// Where a block works.
struct Tile {
    const Problem *problem;
    uint32_t batch, head;
    int64_t row; // first query row
};

// Tiles of a problem: query tiles vary fastest and the last ones, which see most keys, come first.
__device__ __forceinline__ Tile tile_of_block(const Launch &launch, int rows_per_tile)
{
    uint32_t index = 0, first = 0;
    while (blockIdx.x >= launch.problems[index].block_end)
        first = launch.problems[index++].block_end;
    const Problem &problem = launch.problems[index];
    const int64_t tile = problem.tile_first + (blockIdx.x - first);
    const int64_t row_tiles = (problem.s_q + rows_per_tile - 1) / rows_per_tile;
    const int64_t head = tile / row_tiles;
    return {&problem, static_cast<uint32_t>(head / problem.h_q), static_cast<uint32_t>(head % problem.h_q),
            (row_tiles - 1 - tile % row_tiles) * rows_per_tile};
}

// Keys [0, n) that a query row sees.
__device__ __forceinline__ int64_t keys_of_row(const Problem &problem, bool causal, int64_t row)
{
    if (!causal)
        return problem.s_kv;
    const int64_t keys = row + problem.s_kv - problem.s_q + 1;
    return keys < 0 ? 0 : keys < problem.s_kv ? keys : problem.s_kv;
}

// First element of (batch, head); rows are stride_s apart.
template <class T> __device__ __forceinline__ const T *head_of(const Tensor &tensor, uint32_t batch, uint32_t head)
{
    return static_cast<const T *>(tensor.data) + batch * tensor.stride_b + head * tensor.stride_h;
}

__device__ __forceinline__ float to_float(float x)
{
    return x;
}
__device__ __forceinline__ float to_float(__half x)
{
    return __half2float(x);
}
__device__ __forceinline__ float to_float(__nv_bfloat16 x)
{
    return __bfloat162float(x);
}

// One rounding, to nearest even.
template <class T> __device__ __forceinline__ T from_double(double x);
template <> __device__ __forceinline__ float from_double<float>(double x)
{
    return static_cast<float>(x);
}
template <> __device__ __forceinline__ __half from_double<__half>(double x)
{
    return __double2half(x);
}
template <> __device__ __forceinline__ __nv_bfloat16 from_double<__nv_bfloat16>(double x)
{
    return __double2bfloat16(x);
}

template <class T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x)
{
    return x;
}
template <> __device__ __forceinline__ __half from_float<__half>(float x)
{
    return __float2half_rn(x);
}
template <> __device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x)
{
    return __float2bfloat16_rn(x);
}

} // namespace attn_cuda
#endif
