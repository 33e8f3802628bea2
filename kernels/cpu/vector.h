/* cpu/vector.h: vectors of VECTOR_LANES floats for the file that includes it, which sets the instruction set first.
 * exp2 is good to 2 ulp, tanh to 3; both keep NaN. */
#ifndef ATTN_CPU_VECTOR_H
#define ATTN_CPU_VECTOR_H

#include <stdint.h>
#include <string.h>

typedef float vf_t __attribute__((vector_size(VECTOR_LANES * 4)));
typedef int32_t vi_t __attribute__((vector_size(VECTOR_LANES * 4)));
typedef uint32_t vu_t __attribute__((vector_size(VECTOR_LANES * 4)));
typedef float v4_t __attribute__((vector_size(16)));
typedef int32_t v4i_t __attribute__((vector_size(16)));

#define VECTOR_INLINE static inline __attribute__((always_inline))

VECTOR_INLINE vf_t vector_set(float value)
{
    return value - (vf_t){0};
}

VECTOR_INLINE vf_t vector_select(vi_t mask, vf_t a, vf_t b)
{
    return (vf_t)((mask & (vi_t)a) | (~mask & (vi_t)b));
}

/* b where a is NaN. */
VECTOR_INLINE vf_t vector_max(vf_t a, vf_t b)
{
#if VECTOR_LANES == 16
    return _mm512_max_ps(a, b);
#elif VECTOR_LANES == 8
    return _mm256_max_ps(a, b);
#else
    return vector_select(a > b, a, b);
#endif
}

/* 2^f for f in [-1/2, 1/2]; coefficients of Cephes exp2f. */
VECTOR_INLINE vf_t vector_exp2_polynomial(vf_t f)
{
    vf_t p = vector_set(1.535336188319500e-4f);
    p = p * f + 1.339887440266574e-3f;
    p = p * f + 9.618437357674640e-3f;
    p = p * f + 5.550332471162809e-2f;
    p = p * f + 2.402264791363012e-1f;
    p = p * f + 6.931472028550421e-1f;
    return p * f + 1.0f;
}

/* 2^x for x <= 127; below 2^-126 it is zero or subnormal. */
VECTOR_INLINE vf_t vector_exp2(vf_t x)
{
#if VECTOR_LANES == 16
    x = _mm512_max_ps(vector_set(-200.0f), x); /* the second operand where one is NaN */
    const vf_t n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    return _mm512_scalef_ps(vector_exp2_polynomial(x - n), n);
#else
    const vf_t magic = vector_set(0x1.8p23f); /* adding it rounds to an integer in the low bits */
    const vf_t shifted = x + magic;
    const vf_t p = vector_exp2_polynomial(x - (shifted - magic));
    const vf_t scaled = (vf_t)((vu_t)p + (((vu_t)shifted - (vu_t)magic) << 23));
    const vf_t flushed = vector_select(x < -126.0f, vector_set(0), scaled);
    return vector_select(x == x, flushed, x);
#endif
}

/* Cephes tanhf: a polynomial below 0.625, where 1 - e would cancel, else from exp(-2|y|). */
VECTOR_INLINE vf_t vector_tanh(vf_t y)
{
    const vu_t sign = (vu_t)y & 0x80000000u;
    const vf_t magnitude = (vf_t)((vu_t)y & 0x7fffffffu);
    const vf_t e = vector_exp2(magnitude * -2.8853900817779268f);
    const vf_t large = (vf_t)((vu_t)((1.0f - e) / (1.0f + e)) | sign);
    const vf_t z = y * y;
    vf_t p = vector_set(-5.70498872745e-3f);
    p = p * z + 2.06390887954e-2f;
    p = p * z - 5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z - 3.33332819422e-1f;
    return vector_select(magnitude < 0.625f, p * z * y + y, large);
}

/* Rows a, b, c, d of a 4x4 block become its columns. */
VECTOR_INLINE void vector_transpose4(v4_t *a, v4_t *b, v4_t *c, v4_t *d)
{
    const v4_t ab_low = __builtin_shuffle(*a, *b, (v4i_t){0, 4, 1, 5});
    const v4_t ab_high = __builtin_shuffle(*a, *b, (v4i_t){2, 6, 3, 7});
    const v4_t cd_low = __builtin_shuffle(*c, *d, (v4i_t){0, 4, 1, 5});
    const v4_t cd_high = __builtin_shuffle(*c, *d, (v4i_t){2, 6, 3, 7});
    *a = __builtin_shuffle(ab_low, cd_low, (v4i_t){0, 1, 4, 5});
    *b = __builtin_shuffle(ab_low, cd_low, (v4i_t){2, 3, 6, 7});
    *c = __builtin_shuffle(ab_high, cd_high, (v4i_t){0, 1, 4, 5});
    *d = __builtin_shuffle(ab_high, cd_high, (v4i_t){2, 3, 6, 7});
}

/* n elements of a row as floats, and back. */
VECTOR_INLINE void vector_load_row(attn_dtype_t dtype, const void *source, float *restrict ret, uint32_t n)
{
    if (dtype == ATTN_DTYPE_F32) {
        memcpy(ret, source, n * sizeof(float));
    } else if (dtype == ATTN_DTYPE_BF16) {
        const uint16_t *from = source;
        for (uint32_t i = 0; i < n; i++)
            ret[i] = attn_bf16_to_float(from[i]);
    } else {
        const uint16_t *from = source;
        uint32_t i = 0;
#if VECTOR_LANES == 16
        for (; i + 16 <= n; i += 16)
            _mm512_storeu_ps(ret + i, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(from + i))));
#elif VECTOR_LANES == 8
        for (; i + 8 <= n; i += 8)
            _mm256_storeu_ps(ret + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + i))));
#endif
        for (; i < n; i++)
            ret[i] = attn_f16_to_float(from[i]);
    }
}

VECTOR_INLINE void vector_store_row(attn_dtype_t dtype, const float *restrict source, void *ret, uint32_t n)
{
    if (dtype == ATTN_DTYPE_F32) {
        memcpy(ret, source, n * sizeof(float));
    } else if (dtype == ATTN_DTYPE_BF16) {
        uint16_t *to = ret;
        for (uint32_t i = 0; i < n; i++)
            to[i] = attn_float_to_bf16(source[i]);
    } else {
        uint16_t *to = ret;
        uint32_t i = 0;
#if VECTOR_LANES == 16
        for (; i + 16 <= n; i += 16)
            _mm256_storeu_si256((__m256i *)(to + i),
                                _mm512_cvtps_ph(_mm512_loadu_ps(source + i), _MM_FROUND_TO_NEAREST_INT));
#elif VECTOR_LANES == 8
        for (; i + 8 <= n; i += 8)
            _mm_storeu_si128((__m128i *)(to + i),
                             _mm256_cvtps_ph(_mm256_loadu_ps(source + i), _MM_FROUND_TO_NEAREST_INT));
#endif
        for (; i < n; i++)
            to[i] = attn_float_to_f16(source[i]);
    }
}

#endif
