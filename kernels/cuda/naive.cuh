// naive.cuh: the plain formula in the request's dtype, whose error is the yardstick of attn/accuracy.h: scores and
// probabilities rounded to the dtype, fp32 accumulation, sums over keys in order, as kernels/reference/rows_body.h does
// on the CPU. It leaves only its distance from O64.
//
// One block has 64 query rows and passes three times over the keys: for the maxima, the sums, and O. A thread holds 8
// rows by 4 keys of the scores, then 8 rows by kHeadDim / 16 columns of O.
#ifndef ATTN_CUDA_NAIVE_CUH
#define ATTN_CUDA_NAIVE_CUH

#include "problem.cuh"

namespace attn_cuda {

template <int kHeadDim_> struct NaiveTraits {
    static constexpr int kHeadDim = kHeadDim_;
    static constexpr int kRows = 64, kKeys = 64;
    static constexpr int kThreadRows = 8, kThreadKeys = 4, kColumnThreads = 16;
    static constexpr int kVectors = kHeadDim / 4 / kColumnThreads; // float4 of O per thread and row
    static constexpr int kStride = kHeadDim + 4; // floats; keeps float4 aligned and spreads rows over the banks
    static constexpr int kStrideP = kKeys + 1;
    static constexpr int kSharedBytes = ((kRows + kKeys) * kStride + kRows * kStrideP + kRows) * 4;
    static_assert(kRows / kThreadRows * kColumnThreads == kThreads && kColumnThreads * kThreadKeys == kKeys, "");
};

template <class T, int kHeadDim>
__device__ __forceinline__ void load_floats(float *shared, const T *head, int64_t stride_s, int64_t first, int64_t rows,
                                            uint32_t d)
{
    using Tr = NaiveTraits<kHeadDim>;
#pragma unroll 8
    for (int i = threadIdx.x; i < Tr::kKeys * kHeadDim; i += kThreads) {
        const int r = i / kHeadDim, c = i % kHeadDim;
        shared[r * Tr::kStride + c] = first + r < rows && c < d ? to_float(head[(first + r) * stride_s + c]) : 0.0f;
    }
}

// Rounded scores of this thread's 8 rows (from 8 * row_thread) and 4 keys (key_thread + 16 * j).
template <class T, int kHeadDim>
__device__ __forceinline__ void naive_scores(const float *shared_q, const float *shared_k, float scale, float cap,
                                             float (&s)[8][4])
{
    using Tr = NaiveTraits<kHeadDim>;
    const int row_thread = threadIdx.x / Tr::kColumnThreads, key_thread = threadIdx.x % Tr::kColumnThreads;
#pragma unroll
    for (int r = 0; r < 8; r++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            s[r][j] = 0.0f;
#pragma unroll 2
    for (int x = 0; x < kHeadDim; x += 4) {
        float4 k[4];
#pragma unroll
        for (int j = 0; j < 4; j++)
            k[j] = *reinterpret_cast<const float4 *>(shared_k + (key_thread + 16 * j) * Tr::kStride + x);
#pragma unroll
        for (int r = 0; r < 8; r++) {
            const float4 q = *reinterpret_cast<const float4 *>(shared_q + (row_thread * 8 + r) * Tr::kStride + x);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                s[r][j] = fmaf(q.x, k[j].x, s[r][j]);
                s[r][j] = fmaf(q.y, k[j].y, s[r][j]);
                s[r][j] = fmaf(q.z, k[j].z, s[r][j]);
                s[r][j] = fmaf(q.w, k[j].w, s[r][j]);
            }
        }
    }
#pragma unroll
    for (int r = 0; r < 8; r++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            s[r][j] = to_float(from_float<T>(s[r][j] * scale));
            if (cap > 0.0f)
                s[r][j] = to_float(from_float<T>(cap * tanhf(s[r][j] / cap)));
        }
}

// out += P V, or P |V|, over one step of keys. A key that a row does not see takes no part in it, whatever V holds.
template <int kHeadDim, bool kAbsolute>
__device__ __forceinline__ void naive_weigh(const float *shared_p, const float *shared_v, int64_t seen_first,
                                            int64_t seen_last, int64_t key, const int64_t (&seen)[8],
                                            float4 (&out)[8][NaiveTraits<kHeadDim>::kVectors])
{
    using Tr = NaiveTraits<kHeadDim>;
    const int row_thread = threadIdx.x / Tr::kColumnThreads, column_thread = threadIdx.x % Tr::kColumnThreads;
    const bool all_seen = key + Tr::kKeys <= seen_first;
    const int keys = static_cast<int>(min(static_cast<int64_t>(Tr::kKeys), seen_last - key));
#pragma unroll 2
    for (int j = 0; j < keys; j++)
#pragma unroll
        for (int r = 0; r < 8; r++) {
            if (!all_seen && key + j >= seen[r])
                continue;
            const float p = shared_p[(row_thread * 8 + r) * Tr::kStrideP + j];
#pragma unroll
            for (int c = 0; c < Tr::kVectors; c++) {
                const float4 x = *reinterpret_cast<const float4 *>(shared_v + j * Tr::kStride +
                                                                   (c * Tr::kColumnThreads + column_thread) * 4);
                out[r][c].x = fmaf(p, kAbsolute ? fabsf(x.x) : x.x, out[r][c].x);
                out[r][c].y = fmaf(p, kAbsolute ? fabsf(x.y) : x.y, out[r][c].y);
                out[r][c].z = fmaf(p, kAbsolute ? fabsf(x.z) : x.z, out[r][c].z);
                out[r][c].w = fmaf(p, kAbsolute ? fabsf(x.w) : x.w, out[r][c].w);
            }
        }
}

// Sum over this thread's row of what the 16 threads of a row hold.
__device__ __forceinline__ double row_sum(double x)
{
#pragma unroll
    for (int lane = 1; lane < 16; lane *= 2)
        x += __shfl_xor_sync(~0u, x, lane);
    return x;
}

template <class T, int kHeadDim>
__global__ void __launch_bounds__(kThreads) naive_kernel(const __grid_constant__ Launch launch)
{
    using Tr = NaiveTraits<kHeadDim>;
    extern __shared__ float4 shared_vectors[];
    float *const shared_q = reinterpret_cast<float *>(shared_vectors);
    float *const shared_kv = shared_q + Tr::kRows * Tr::kStride;
    float *const shared_p = shared_kv + Tr::kKeys * Tr::kStride;
    float *const shared_sum = shared_p + Tr::kRows * Tr::kStrideP;

    const Tile tile = tile_of_block(launch, Tr::kRows);
    const Problem &problem = *tile.problem;
    const uint32_t d = problem.d;
    const uint32_t head_kv = tile.head / (problem.h_q / problem.h_kv);
    const T *const k = head_of<T>(problem.k, tile.batch, head_kv);
    const T *const v = head_of<T>(problem.v, tile.batch, head_kv);
    const float scale = problem.sm_scale, cap = problem.softcap;
    const int row_thread = threadIdx.x / Tr::kColumnThreads, column_thread = threadIdx.x % Tr::kColumnThreads;

    int64_t seen[8];
    float shift[8];
#pragma unroll
    for (int r = 0; r < 8; r++) {
        seen[r] = keys_of_row(problem, launch.causal, tile.row + row_thread * 8 + r);
        shift[r] = -INFINITY;
    }
    const int64_t seen_first = keys_of_row(problem, launch.causal, tile.row);
    const int64_t seen_last = keys_of_row(problem, launch.causal, min(tile.row + Tr::kRows, problem.s_q) - 1);

    load_floats<T, kHeadDim>(shared_q, head_of<T>(problem.q, tile.batch, tile.head), problem.q.stride_s, tile.row,
                             problem.s_q, d);
    float s[8][4];

    for (int64_t key = 0; key < seen_last; key += Tr::kKeys) {
        __syncthreads();
        load_floats<T, kHeadDim>(shared_kv, k, problem.k.stride_s, key, problem.s_kv, d);
        __syncthreads();
        naive_scores<T, kHeadDim>(shared_q, shared_kv, scale, cap, s);
#pragma unroll
        for (int r = 0; r < 8; r++)
#pragma unroll
            for (int j = 0; j < 4; j++)
                if (key + column_thread + 16 * j < seen[r])
                    shift[r] = fmaxf(shift[r], s[r][j]);
    }
#pragma unroll
    for (int r = 0; r < 8; r++) {
#pragma unroll
        for (int lane = 1; lane < Tr::kColumnThreads; lane *= 2)
            shift[r] = fmaxf(shift[r], __shfl_xor_sync(~0u, shift[r], lane));
        shift[r] = shift[r] == -INFINITY ? 0.0f : shift[r];
    }

    float4 out[8][Tr::kVectors];
#pragma unroll
    for (int r = 0; r < 8; r++)
#pragma unroll
        for (int c = 0; c < Tr::kVectors; c++)
            out[r][c] = make_float4(0, 0, 0, 0);

    // Thread i < 64 adds up row i; keys that the row does not see add nothing. `out` becomes sum P |V|, times the sum.
    float sum = 0.0f;
    for (int64_t key = 0; key < seen_last; key += Tr::kKeys) {
        __syncthreads();
        load_floats<T, kHeadDim>(shared_kv, k, problem.k.stride_s, key, problem.s_kv, d);
        __syncthreads();
        naive_scores<T, kHeadDim>(shared_q, shared_kv, scale, cap, s);
#pragma unroll
        for (int r = 0; r < 8; r++)
#pragma unroll
            for (int j = 0; j < 4; j++)
                shared_p[(row_thread * 8 + r) * Tr::kStrideP + column_thread + 16 * j] =
                    key + column_thread + 16 * j < seen[r] ? expf(s[r][j] - shift[r]) : 0.0f;
        __syncthreads();
        load_floats<T, kHeadDim>(shared_kv, v, problem.v.stride_s, key, problem.s_kv, d);
        if (threadIdx.x < Tr::kRows)
            for (int j = 0; j < Tr::kKeys; j++)
                sum += shared_p[threadIdx.x * Tr::kStrideP + j];
        __syncthreads();
        naive_weigh<kHeadDim, true>(shared_p, shared_kv, seen_first, seen_last, key, seen, out);
    }
    if (threadIdx.x < Tr::kRows)
        shared_sum[threadIdx.x] = sum;
    __syncthreads();
    float sums[8];
#pragma unroll
    for (int r = 0; r < 8; r++)
        sums[r] = shared_sum[row_thread * 8 + r];

    // The least that a row's error counts as, of the roundings of its terms.
    double least[8];
#pragma unroll
    for (int r = 0; r < 8; r++) {
        double square = 0.0;
#pragma unroll
        for (int c = 0; c < Tr::kVectors; c++) {
            const float values[4] = {out[r][c].x, out[r][c].y, out[r][c].z, out[r][c].w};
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const double size = static_cast<double>(values[e]) / sums[r];
                square += isfinite(size) ? size * size : 0.0; // columns beyond d are zero
            }
            out[r][c] = make_float4(0, 0, 0, 0);
        }
        const int64_t row = min(tile.row + row_thread * 8 + r, problem.s_q - 1);
        const double lse =
            fabs(problem.lse64[(static_cast<int64_t>(tile.batch) * problem.h_q + tile.head) * problem.s_q + row]);
        least[r] = 0x1p-20 * (isfinite(lse) && lse > 1.0 ? lse : 1.0) * sqrt(row_sum(square));
    }

    for (int64_t key = 0; key < seen_last; key += Tr::kKeys) {
        __syncthreads();
        load_floats<T, kHeadDim>(shared_kv, k, problem.k.stride_s, key, problem.s_kv, d);
        __syncthreads();
        naive_scores<T, kHeadDim>(shared_q, shared_kv, scale, cap, s);
        __syncthreads();
#pragma unroll
        for (int r = 0; r < 8; r++)
#pragma unroll
            for (int j = 0; j < 4; j++)
                shared_p[(row_thread * 8 + r) * Tr::kStrideP + column_thread + 16 * j] =
                    to_float(from_float<T>(expf(s[r][j] - shift[r]) / sums[r]));
        load_floats<T, kHeadDim>(shared_kv, v, problem.v.stride_s, key, problem.s_kv, d);
        __syncthreads();
        naive_weigh<kHeadDim, false>(shared_p, shared_kv, seen_first, seen_last, key, seen, out);
    }

    double greatest = 0.0;
#pragma unroll
    for (int r = 0; r < 8; r++) {
        const int64_t row = tile.row + row_thread * 8 + r;
        const bool inside = row < problem.s_q;
        const int64_t out_row = (static_cast<int64_t>(tile.batch) * problem.h_q + tile.head) * problem.s_q + row;
        double square = 0.0;
#pragma unroll
        for (int c = 0; c < Tr::kVectors; c++) {
            const float values[4] = {out[r][c].x, out[r][c].y, out[r][c].z, out[r][c].w};
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const uint32_t column = (c * Tr::kColumnThreads + column_thread) * 4 + e;
                if (!inside || column >= d)
                    continue;
                const double value = sums[r] == 0.0f ? 0.0 : to_float(from_float<T>(values[e]));
                const double error = fabs(value - problem.o64[out_row * d + column]);
                if (!isfinite(error))
                    continue; // judged by position
                square += error * error;
                greatest = fmax(greatest, error);
            }
        }
        square = row_sum(square);
        if (inside && column_thread == 0)
            problem.row_err[out_row] = fmax(sqrt(square), least[r]);
    }
#pragma unroll
    for (int lane = 1; lane < 32; lane *= 2)
        greatest = fmax(greatest, __shfl_xor_sync(~0u, greatest, lane));
    // Doubles that are not negative are ordered as their bits are.
    if (threadIdx.x % 32 == 0 && greatest > 0.0)
        atomicMax(reinterpret_cast<unsigned long long *>(launch.max_abs),
                  static_cast<unsigned long long>(__double_as_longlong(greatest)));
}

} // namespace attn_cuda
#endif
