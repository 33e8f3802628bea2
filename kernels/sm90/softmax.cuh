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

// Scores to exp2(score*scale - top), and the factor for what was accumulated before. kFirst: nothing was.
// A row that has seen nothing yet has top = -inf; 0 stands in for it so that its P is 0 and not NaN.
template <class T, bool kFirst>
__device__ __forceinline__ void softmax_step(float scale, float (&s)[T::kScoreRegs], Rows &rows, float (&rescale)[2])
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
        const float base = top == -INFINITY ? 0.f : top;
        if (!kFirst) {
            rescale[r] = ex2(rows.top[r] - base);
        }
        rows.top[r] = top;
        float sum0 = 0.f, sum1 = 0.f;
#pragma unroll
        for (int j = 0; j < T::kKeys / 8; ++j) {
            float &x = s[4 * j + 2 * r], &y = s[4 * j + 2 * r + 1];
            x = ex2(fmaf(x, scale, -base));
            y = ex2(fmaf(y, scale, -base));
            sum0 += x;
            sum1 += y;
        }
        rows.sum[r] = kFirst ? sum0 + sum1 : fmaf(rows.sum[r], rescale[r], sum0 + sum1);
    }
}

// P as the A operand of wgmma: the accumulator's layout is the operand's, two columns to a register.
template <class T>
__device__ __forceinline__ void probabilities_pack(const float (&s)[T::kScoreRegs], uint32_t (&p)[T::kProbRegs])
{
#pragma unroll
    for (int i = 0; i < T::kProbRegs; ++i) {
        p[i] = pack2<typename T::E>(s[2 * i], s[2 * i + 1]);
    }
}

template <class T> __device__ __forceinline__ void output_rescale(const float (&rescale)[2], float (&o)[T::kOutRegs])
{
#pragma unroll
    for (int i = 0; i < T::kOutRegs; ++i) {
        o[i] *= rescale[(i >> 1) & 1];
    }
}

} // namespace attn_sm90
#endif
