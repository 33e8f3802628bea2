// exact.cuh: attention in fp64 on the fp64 tensor units, for `reference` and for the truth of a comparison.
//
// One block has 4 warps of 8 * kRowBlocks query rows. K and V pass through one shared buffer as doubles. The work of a
// tile is S = Q K^T, an online softmax and O += P V by mma.m8n8k4, whose result is the IEEE fused multiply-add chain
// (PTX ISA, "Matrix fragments for mma.m8n8k4 with .f64"): lane l holds A[l / 4][l % 4], B[l % 4][l / 4] and
// C[l / 4][2 * (l % 4) + {0, 1}]. P goes from C to A registers without a shuffle: step e of a block of 8 keys takes
// keys 2 * (l % 4) + e, and V is read in that order.
#ifndef ATTN_CUDA_EXACT_CUH
#define ATTN_CUDA_EXACT_CUH

#include "problem.cuh"

namespace attn_cuda {

constexpr int kWarps = kThreads / 32;

// Tile sizes by padded head dim. Two blocks of 100 KB share a multiprocessor, so that one computes while the other
// loads; O takes 128 registers of a lane in either case from d = 128 on.
template <int kHeadDim_> struct ExactTraits {
    static constexpr int kHeadDim = kHeadDim_;
    static constexpr int kRowBlocks = kHeadDim <= 128 ? 2 : 1;
    static constexpr int kRows = kWarps * 8 * kRowBlocks;
    static constexpr int kKeys = kHeadDim <= 128 ? 32 : 16;
    static constexpr int kKeyBlocks = kKeys / 8;
    static constexpr int kOutBlocks = kHeadDim / 8;
    // Row strides in doubles: 4 mod 16 for Q and K, 2 mod 8 for V make the fragment reads free of bank conflicts.
    static constexpr int kStrideK = kHeadDim + 4;
    static constexpr int kStrideV = kHeadDim + 2;
    static constexpr int kSharedBytes = (kRows + kKeys) * kStrideK * 8;
    // Doubles of carried state per thread: O, row maximum, row sum.
    static constexpr int kState = kRowBlocks * (kOutBlocks * 2 + 2);
};

__device__ __forceinline__ void mma_f64(double (&c)[2], double a, double b)
{
    asm volatile("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
                 : "+d"(c[0]), "+d"(c[1])
                 : "d"(a), "d"(b));
}

// Rows [first, first + kRows) of a head as doubles, zero beyond `rows` and beyond d. Returns whether one of this
// thread's values is not finite.
template <class T, int kHeadDim, int kRows>
__device__ __forceinline__ bool load_rows(double *shared, int stride, const T *head, int64_t stride_s, int64_t first,
                                          int64_t rows, uint32_t d)
{
    bool special = false;
#pragma unroll 8
    for (int i = threadIdx.x; i < kRows * kHeadDim; i += kThreads) {
        const int r = i / kHeadDim, c = i % kHeadDim;
        float x = 0.0f; // holds any of the three dtypes exactly
        if (first + r < rows && c < d)
            x = to_float(head[(first + r) * stride_s + c]);
        special |= !isfinite(x);
        shared[r * stride + c] = x;
    }
    return special;
}

template <class T, int kHeadDim>
__global__ void __launch_bounds__(kThreads, 2) exact_kernel(const __grid_constant__ Launch launch)
{
    using Tr = ExactTraits<kHeadDim>;
    extern __shared__ double shared[];
    double *const shared_q = shared;
    double *const shared_kv = shared + Tr::kRows * Tr::kStrideK;

    const Tile tile = tile_of_block(launch, Tr::kRows);
    const Problem &problem = *tile.problem;
    const uint32_t d = problem.d;
    const uint32_t head_kv = tile.head / (problem.h_q / problem.h_kv);
    const T *const k = head_of<T>(problem.k, tile.batch, head_kv);
    const T *const v = head_of<T>(problem.v, tile.batch, head_kv);
    const double scale = problem.sm_scale, cap = problem.softcap;

    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int quad = lane / 4, part = lane % 4;
    int64_t row[Tr::kRowBlocks], seen[Tr::kRowBlocks];
#pragma unroll
    for (int r = 0; r < Tr::kRowBlocks; r++) {
        row[r] = tile.row + (warp * Tr::kRowBlocks + r) * 8 + quad;
        seen[r] = keys_of_row(problem, launch.causal, row[r]);
    }
    const int64_t seen_first = keys_of_row(problem, launch.causal, tile.row);
    const int64_t row_last = min(tile.row + Tr::kRows, problem.s_q) - 1;
    const int64_t seen_last = min(keys_of_row(problem, launch.causal, row_last), launch.key_end);

    double out[Tr::kRowBlocks][Tr::kOutBlocks][2] = {};
    double most[Tr::kRowBlocks], sum[Tr::kRowBlocks]; // sum: of this lane's keys
#pragma unroll
    for (int r = 0; r < Tr::kRowBlocks; r++) {
        most[r] = -INFINITY;
        sum[r] = 0.0;
    }
    double *const state =
        launch.state ? launch.state + static_cast<uint64_t>(blockIdx.x) * Tr::kState * kThreads + threadIdx.x : nullptr;
    if (state && launch.key_begin > 0) {
        int at = 0;
#pragma unroll
        for (int r = 0; r < Tr::kRowBlocks; r++) {
#pragma unroll
            for (int n = 0; n < Tr::kOutBlocks; n++)
#pragma unroll
                for (int e = 0; e < 2; e++)
                    out[r][n][e] = state[at++ * kThreads];
            most[r] = state[at++ * kThreads];
            sum[r] = state[at++ * kThreads];
        }
    }

    load_rows<T, kHeadDim, Tr::kRows>(shared_q, Tr::kStrideK, head_of<T>(problem.q, tile.batch, tile.head),
                                      problem.q.stride_s, tile.row, problem.s_q, d);
    const double *const my_q = shared_q + (warp * Tr::kRowBlocks * 8 + quad) * Tr::kStrideK + part;

    for (int64_t key = launch.key_begin; key < seen_last; key += Tr::kKeys) {
        __syncthreads();
        load_rows<T, kHeadDim, Tr::kKeys>(shared_kv, Tr::kStrideK, k, problem.k.stride_s, key, problem.s_kv, d);
        __syncthreads();

        double p[Tr::kRowBlocks][Tr::kKeyBlocks][2] = {};
#pragma unroll 4
        for (int i = 0; i < kHeadDim; i += 4) {
            double a[Tr::kRowBlocks];
#pragma unroll
            for (int r = 0; r < Tr::kRowBlocks; r++)
                a[r] = my_q[r * 8 * Tr::kStrideK + i];
#pragma unroll
            for (int n = 0; n < Tr::kKeyBlocks; n++) {
                const double b = shared_kv[(n * 8 + quad) * Tr::kStrideK + i + part];
#pragma unroll
                for (int r = 0; r < Tr::kRowBlocks; r++)
                    mma_f64(p[r][n], a[r], b);
            }
        }

#pragma unroll
        for (int r = 0; r < Tr::kRowBlocks; r++) {
            double greatest = most[r];
#pragma unroll
            for (int n = 0; n < Tr::kKeyBlocks; n++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    double s = p[r][n][e] * scale;
                    if (cap > 0.0)
                        s = cap * tanh(s / cap);
                    if (key + n * 8 + part * 2 + e >= seen[r])
                        s = -INFINITY;
                    p[r][n][e] = s;
                    greatest = fmax(greatest, s);
                }
            greatest = fmax(greatest, __shfl_xor_sync(~0u, greatest, 1));
            greatest = fmax(greatest, __shfl_xor_sync(~0u, greatest, 2));
            const double shrink = most[r] == greatest ? 1.0 : exp(most[r] - greatest);
            most[r] = greatest;
            sum[r] *= shrink;
#pragma unroll
            for (int n = 0; n < Tr::kKeyBlocks; n++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    const double s = p[r][n][e];
                    p[r][n][e] = s == -INFINITY ? 0.0 : exp(s - greatest);
                    sum[r] += p[r][n][e];
                }
#pragma unroll
            for (int n = 0; n < Tr::kOutBlocks; n++)
#pragma unroll
                for (int e = 0; e < 2; e++)
                    out[r][n][e] *= shrink;
        }

        __syncthreads();
        const bool special =
            load_rows<T, kHeadDim, Tr::kKeys>(shared_kv, Tr::kStrideV, v, problem.v.stride_s, key, problem.s_kv, d);
        if (!__syncthreads_or(special && key + Tr::kKeys > seen_first)) {
#pragma unroll
            for (int n = 0; n < Tr::kKeyBlocks; n++)
#pragma unroll
                for (int e = 0; e < 2; e++)
#pragma unroll
                    for (int c = 0; c < Tr::kOutBlocks; c++) {
                        const double b = shared_kv[(n * 8 + part * 2 + e) * Tr::kStrideV + c * 8 + quad];
#pragma unroll
                        for (int r = 0; r < Tr::kRowBlocks; r++)
                            mma_f64(out[r][c], p[r][n][e], b);
                    }
        } else {
            // A masked key's NaN or infinity must not reach a row that does not see it, and 0 * NaN would.
#pragma unroll
            for (int n = 0; n < Tr::kKeyBlocks; n++)
#pragma unroll
                for (int e = 0; e < 2; e++)
#pragma unroll 1
                    for (int i = 0; i < 4; i++) {
                        const double *const values = shared_kv + (n * 8 + i * 2 + e) * Tr::kStrideV + part * 2;
#pragma unroll
                        for (int r = 0; r < Tr::kRowBlocks; r++) {
                            const double weight = __shfl_sync(~0u, p[r][n][e], quad * 4 + i);
                            if (key + n * 8 + i * 2 + e >= seen[r])
                                continue;
#pragma unroll
                            for (int c = 0; c < Tr::kOutBlocks; c++) {
                                out[r][c][0] = fma(weight, values[c * 8], out[r][c][0]);
                                out[r][c][1] = fma(weight, values[c * 8 + 1], out[r][c][1]);
                            }
                        }
                    }
        }
    }

    if (state && launch.key_end < problem.s_kv) {
        int at = 0;
#pragma unroll
        for (int r = 0; r < Tr::kRowBlocks; r++) {
#pragma unroll
            for (int n = 0; n < Tr::kOutBlocks; n++)
#pragma unroll
                for (int e = 0; e < 2; e++)
                    state[at++ * kThreads] = out[r][n][e];
            state[at++ * kThreads] = most[r];
            state[at++ * kThreads] = sum[r];
        }
        return;
    }

#pragma unroll
    for (int r = 0; r < Tr::kRowBlocks; r++) {
        double total = sum[r];
        total += __shfl_xor_sync(~0u, total, 1);
        total += __shfl_xor_sync(~0u, total, 2);
        if (row[r] >= problem.s_q)
            continue;
        const bool masked = total == 0.0; // sees nothing, or only scores of -inf: O = 0, LSE = -inf
        const double lse = masked ? -INFINITY : most[r] + log(total);
        const double part_of_sum = masked ? 0.0 : 1.0 / total;
        const int64_t out_row = (static_cast<int64_t>(tile.batch) * problem.h_q + tile.head) * problem.s_q + row[r];
        T *const o = problem.o ? static_cast<T *>(problem.o) + tile.batch * problem.o_stride_b +
                                     row[r] * problem.o_stride_s + tile.head * problem.o_stride_h
                               : nullptr;
#pragma unroll
        for (int c = 0; c < Tr::kOutBlocks; c++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const uint32_t column = c * 8 + part * 2 + e;
                if (column >= d)
                    continue;
                const double x = out[r][c][e] * part_of_sum;
                if (o)
                    o[column] = from_double<T>(x);
                if (problem.o64)
                    problem.o64[out_row * d + column] = x;
            }
        if (part == 0 && problem.lse)
            problem.lse[tile.batch * problem.lse_stride_b + tile.head * problem.lse_stride_h + row[r]] =
                static_cast<float>(lse);
        if (part == 0 && problem.lse64)
            problem.lse64[out_row] = lse;
    }
}

} // namespace attn_cuda
#endif
