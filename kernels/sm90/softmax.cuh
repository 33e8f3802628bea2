// softmax.cuh: online softmax of a consumer thread's two rows, in base 2.
//
// State is `top` = running maximum * scale, rounded once: P, the rescale factor and LSE all use that value. Rounding
// is monotone, so max over rounded products is the rounded product of the max. `sum` is this thread's part only.
#ifndef ATTN_SM90_SOFTMAX_CUH
#define ATTN_SM90_SOFTMAX_CUH

#include "ptx/math.cuh"
#include "traits.cuh"

namespace attn_sm90 {

constexpr float kLn2 = 0.693147180559945309f;

struct Rows {
    float top[2], sum[2];
};

__device__ __forceinline__ float quad_max(float x)
{
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

__device__ __forceinline__ float quad_sum(float x)
{
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

// softcap * tanh(score * sm_scale / softcap); the outer factor is part of `scale`.
template <class T> __device__ __forceinline__ void softcap_apply(float cap_scale, float (&s)[T::kScoreRegs])
{
#pragma unroll
    for (int i = 0; i < T::kScoreRegs; ++i) {
        s[i] = tanh_approx(s[i] * cap_scale);
    }
}

// New maxima of this thread's rows, the value that the exponents are relative to, and the factor for what was
// accumulated before. kFirst: nothing was. A row that has seen nothing yet has top = -inf; 0 stands in for it so that
// its P is 0 and not NaN.
template <class T, bool kFirst>
__device__ __forceinline__ void softmax_top(float scale, const float (&s)[T::kScoreRegs], Rows &rows, float (&base)[2],
                                            float (&rescale)[2])
{
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        float a = fmaxf(s[2 * r], s[2 * r + 1]);
        float b = fmaxf(s[4 + 2 * r], s[4 + 2 * r + 1]);
#pragma unroll
        for (int j = 2; j < T::kKeys / 8; j += 2) {
            a = fmaxf(a, fmaxf(s[4 * j + 2 * r], s[4 * j + 2 * r + 1]));
            b = fmaxf(b, fmaxf(s[4 * j + 4 + 2 * r], s[4 * j + 4 + 2 * r + 1]));
        }
        float top = quad_max(fmaxf(a, b)) * scale;
        if (!kFirst) {
            top = fmaxf(top, rows.top[r]);
        }
        base[r] = top == -INFINITY ? 0.f : top;
        if (!kFirst) {
            rescale[r] = ex2(rows.top[r] - base[r]);
        }
        rows.top[r] = top;
    }
}

// Scores to P = exp2(score*scale - base), packed as the A operand of wgmma (the accumulator's layout is the operand's,
// two columns to a register), and their sums; and the rescale of O, unless kFirst.
//
// The exponent unit takes 8 clocks per warp and instruction, so everything else hides between its operations when it
// is not waiting for one that was just issued: sums and packing follow two chunks of 16 keys behind, and O is rescaled
// in equal parts. Left to itself the compiler adds each exponential two operations after it, which costs 600 clocks.
template <class T, bool kFirst>
__device__ __forceinline__ void softmax_exp(float scale, float (&s)[T::kScoreRegs], const float (&base)[2],
                                            const float (&rescale)[2], Rows &rows, float (&o)[T::kOutRegs],
                                            uint32_t (&p)[T::kProbRegs])
{
    constexpr int kChunks = T::kKeys / 16, kLag = 1;
    constexpr int kOutEach = (T::kOutRegs + kChunks - 1) / kChunks;
    float sum[2][2];
#pragma unroll
    for (int chunk = 0; chunk < kChunks + kLag; ++chunk) {
        if (chunk < kChunks) {
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                float &x = s[8 * chunk + i];
                x = ex2(fmaf(x, scale, -base[(i >> 1) & 1]));
            }
            if (!kFirst) {
#pragma unroll
                for (int i = 0; i < kOutEach; ++i) {
                    const int at = chunk * kOutEach + i;
                    if (at < T::kOutRegs) {
                        o[at] *= rescale[(at >> 1) & 1];
                    }
                }
            }
        }
        if (chunk >= kLag) {
            const int done = chunk - kLag;
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                float &to = sum[(i >> 1) & 1][i & 1];
                to = done == 0 && i < 4 ? s[i] : to + s[8 * done + i];
            }
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                p[4 * done + i] = pack2<typename T::E>(s[8 * done + 2 * i], s[8 * done + 2 * i + 1]);
            }
        }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const float block = sum[r][0] + sum[r][1];
        rows.sum[r] = kFirst ? block : fmaf(rows.sum[r], rescale[r], block);
    }
}

} // namespace attn_sm90
#endif
