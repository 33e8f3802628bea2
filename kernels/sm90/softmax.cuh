// softmax.cuh: online softmax of a consumer thread's two rows, in base 2.
//
// P = exp2(score*scale - base). The base of a row is not its running maximum but the maximum of its first block, and
// changes only when P of a block sum up to kSumLimit, which few rows reach. So the exponents of a block do not wait for
// its maximum, and O and the sums are almost never rescaled. P, the rescale factor and LSE all use the base, which is
// rounded once. No P is larger than that sum, which is needed anyway, so no P is looked at.
//
// But for one thing: the product takes P rounded to E, the sum takes it as it is. In a row that hangs on one key their
// difference is the row's error (2^-8 for bf16), unless that P is an exact power of 2, as the first block's largest is.
// So where a block's sum has grown enough for such a key to be in it, each thread adds what rounding made of its
// largest P to `excess`, by which the epilogue divides O as well. LSE is of the sum as it is.
//
// Why it matters: beside a busy tensor core every FADD, FMUL and FFMA takes about a clock from wgmma, and every other
// instruction takes twice as long as alone (measured: NOTES.md). Per score there are two of the first kind here.
#ifndef ATTN_SM90_SOFTMAX_CUH
#define ATTN_SM90_SOFTMAX_CUH

#include "ptx/math.cuh"
#include "traits.cuh"

namespace attn_sm90 {

constexpr float kLn2 = 0.693147180559945309f;

// Base of a row that has seen nothing: any score makes P infinite, which raises the base, and -inf makes it 0.
constexpr float kNoBase = -1.0e38f;

// What a thread's P of a block, two rows of at most 32, may sum up to. bf16 has the range of fp32; there it is the
// rounding of the exponent, score*scale - base, that should stay below 2^-20.
template <class E> constexpr float kSumLimit = 0x1p30f;
template <> constexpr float kSumLimit<__half> = 0x1p15f;

struct Rows {
    float base[2];
    float sum[2];    // this thread's part only, and so is
    float excess[2]; // of P as rounded over P as summed, of the keys that matter
};

// What is made of them at the end of a tile, of whole rows.
struct RowEnds {
    float inverse[2]; // what O is multiplied by
    float lse[2];     // base 2; -inf: the row sees nothing
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

// softcap * tanh(score * sm_scale / softcap) of one chunk of 16 keys; the outer factor is part of `scale`.
template <class T> __device__ __forceinline__ void softcap_chunk(float cap_scale, int chunk, float (&s)[T::kScoreRegs])
{
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        s[8 * chunk + i] = tanh_approx(s[8 * chunk + i] * cap_scale);
    }
}

template <class T> __device__ __forceinline__ void softcap_apply(float cap_scale, float (&s)[T::kScoreRegs])
{
#pragma unroll
    for (int chunk = 0; chunk < T::kKeys / 16; ++chunk) {
        softcap_chunk<T>(cap_scale, chunk, s);
    }
}

// Base for a row whose largest score in this quad's block is `most`; rows that see nothing keep `base`.
__device__ __forceinline__ float softmax_base(float scale, float most, float base)
{
    return fmaxf(quad_max(most) * scale, base);
}

// This thread's largest scores of its two rows.
template <class T> __device__ __forceinline__ void softmax_max(const float (&s)[T::kScoreRegs], float (&most)[2])
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
        most[r] = fmaxf(a, b);
    }
}

// The base of a tile's first block.
template <class T>
__device__ __forceinline__ void softmax_begin(float scale, const float (&s)[T::kScoreRegs], Rows &rows)
{
    float most[2];
    softmax_max<T>(s, most);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        rows.base[r] = softmax_base(scale, most[r], kNoBase);
    }
}

// Whether a key on which the row hangs may be in a block: its sum is four times this thread's sum of the row so far,
// compared as integers. With scores that do not stand out, hardly ever, but for rows that saw few keys before.
__device__ __forceinline__ bool softmax_grew(float block_sum, float sum)
{
    return __float_as_uint(block_sum) > __float_as_uint(sum) + (2u << 23);
}

// Raises the bases of rows whose maximum has grown, and says by how much that shrinks their O; shrinks their sums.
__device__ __forceinline__ void softmax_raise(float scale, const float (&most)[2], Rows &rows, float (&rescale)[2])
{
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const float base = softmax_base(scale, most[r], rows.base[r]);
        rescale[r] = ex2(rows.base[r] - base);
        rows.base[r] = base;
        rows.sum[r] *= rescale[r];
        rows.excess[r] *= rescale[r];
    }
}

// Counts the rounding of this thread's largest P of a block.
template <class T> __device__ __forceinline__ void softmax_count_excess(float scale, const float (&most)[2], Rows &rows)
{
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const float p = ex2(fmaf(most[r], scale, -rows.base[r])); // to the bit what softmax_exp() made of it
        rows.excess[r] += rounded<typename T::E>(p) - p;
    }
}

// Scores to P, packed as the A operand of wgmma (the accumulator's layout is the operand's, two columns to a
// register), and this block's sums. Returns the sum over both rows. kCap: caps the scores on the way.
//
// The exponent unit takes 8 clocks per warp and instruction: the rest hides between its operations when it does not
// wait for one that was just issued, so exponentials follow a chunk of 16 keys behind the cap, and sums and packing
// another one behind.
template <class T, bool kCap>
__device__ __forceinline__ float softmax_exp(float scale, float cap_scale, float (&s)[T::kScoreRegs],
                                             const float (&base)[2], float (&block_sum)[2], uint32_t (&p)[T::kProbRegs])
{
    constexpr int kChunks = T::kKeys / 16;
    float x[2][8], sum[2][2];
    if (kCap) {
        softcap_chunk<T>(cap_scale, 0, s);
    }
#pragma unroll
    for (int chunk = 0; chunk <= kChunks; ++chunk) {
        if (kCap && chunk + 1 < kChunks) {
            softcap_chunk<T>(cap_scale, chunk + 1, s);
        }
        if (chunk < kChunks) {
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                x[chunk & 1][i] = ex2(fmaf(s[8 * chunk + i], scale, -base[(i >> 1) & 1]));
            }
        }
        if (chunk > 0) {
            const float(&y)[8] = x[(chunk - 1) & 1];
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                float &to = sum[(i >> 1) & 1][i & 1];
                to = chunk == 1 && i < 4 ? y[i] : to + y[i];
            }
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                p[4 * (chunk - 1) + i] = pack2<typename T::E>(y[2 * i], y[2 * i + 1]);
            }
        }
    }
    block_sum[0] = sum[0][0] + sum[0][1];
    block_sum[1] = sum[1][0] + sum[1][1];
    return block_sum[0] + block_sum[1];
}

__device__ __forceinline__ RowEnds softmax_end(const Rows &rows)
{
    RowEnds ends;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const float sum = quad_sum(rows.sum[r]), excess = quad_sum(rows.excess[r]);
        const bool empty = sum == 0.f;                     // a NaN is not empty
        ends.inverse[r] = empty ? 0.f : rcp(sum + excess); // not empty: 1/2 at least
        ends.lse[r] = empty ? -INFINITY : rows.base[r] + lg2(sum);
    }
    return ends;
}

} // namespace attn_sm90
#endif
