/* cpu/convert.h: one element at a time between the 16-bit formats and float or double, rounding to nearest even.
 * Pure integer arithmetic, so the bits do not depend on the machine. Any thread. */
#ifndef ATTN_CPU_CONVERT_H
#define ATTN_CPU_CONVERT_H

#include <stdint.h>
#include <string.h>

#include "attn/kernel.h"

static inline uint32_t attn_float_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float attn_bits_float(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline float attn_bf16_to_float(uint16_t value)
{
    return attn_bits_float((uint32_t)value << 16);
}

static inline uint16_t attn_float_to_bf16(float value)
{
    const uint32_t bits = attn_float_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((bits >> 16) | 0x40u); /* a NaN stays one, quiet */
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

static inline float attn_f16_to_float(uint16_t value)
{
    const uint32_t sign = (uint32_t)(value & 0x8000u) << 16;
    const uint32_t magnitude = value & 0x7fffu;
    if (magnitude >= 0x7c00u) /* inf, NaN */
        return attn_bits_float(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
    if (magnitude >= 0x0400u)
        return attn_bits_float(sign | ((magnitude << 13) + (112u << 23)));
    const float subnormal = (float)magnitude * 0x1p-24f; /* exact */
    return attn_bits_float(sign | attn_float_bits(subnormal));
}

static inline uint16_t attn_float_to_f16(float value)
{
    const uint32_t bits = attn_float_bits(value);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u);
    if (magnitude >= 0x477ff000u) /* 65520 and above round to inf */
        return (uint16_t)(sign | 0x7c00u);
    if (magnitude >= 0x38800000u) { /* normal: 2^-14 and above */
        const uint32_t rebased = magnitude - (112u << 23);
        return (uint16_t)(sign | ((rebased + 0xfffu + ((rebased >> 13) & 1u)) >> 13));
    }
    if (magnitude <= 0x33000000u) /* 2^-25 and below round to zero (2^-25 is a tie to even) */
        return (uint16_t)sign;
    const uint32_t shift = 126u - (magnitude >> 23); /* 14 (2^-15) to 24 (2^-25) */
    const uint32_t mantissa = (magnitude & 0x7fffffu) | 0x800000u;
    const uint32_t half = 1u << (shift - 1u);
    const uint32_t kept = mantissa >> shift;
    const uint32_t rest = mantissa & ((1u << shift) - 1u);
    return (uint16_t)(sign | (kept + (rest > half || (rest == half && (kept & 1u)))));
}

/* Rounds to odd, so that a second rounding to 16 bits gives what one rounding from double would. */
static inline float attn_double_to_float_odd(double value)
{
    const float nearest = (float)value;
    if ((double)nearest == value || nearest != nearest)
        return nearest;
    uint32_t bits = attn_float_bits(nearest);
    const double magnitude = value < 0 ? -value : value;
    const double rounded = nearest < 0 ? -(double)nearest : (double)nearest;
    if (rounded > magnitude)
        bits -= 1; /* toward zero first; an inf from overflow becomes the largest float */
    return attn_bits_float(bits | 1u);
}

static inline double attn_element_load(attn_dtype_t dtype, const void *data, int64_t index)
{
    switch (dtype) {
    case ATTN_DTYPE_F16:
        return (double)attn_f16_to_float(((const uint16_t *)data)[index]);
    case ATTN_DTYPE_BF16:
        return (double)attn_bf16_to_float(((const uint16_t *)data)[index]);
    case ATTN_DTYPE_F32:
    case ATTN_DTYPE_INVALID:
        break;
    }
    return (double)((const float *)data)[index];
}

static inline void attn_element_store(attn_dtype_t dtype, void *data, int64_t index, double value)
{
    switch (dtype) {
    case ATTN_DTYPE_F16:
        ((uint16_t *)data)[index] = attn_float_to_f16(attn_double_to_float_odd(value));
        return;
    case ATTN_DTYPE_BF16:
        ((uint16_t *)data)[index] = attn_float_to_bf16(attn_double_to_float_odd(value));
        return;
    case ATTN_DTYPE_F32:
    case ATTN_DTYPE_INVALID:
        break;
    }
    ((float *)data)[index] = (float)value;
}

/* `value` rounded to the dtype, as a float again. */
static inline float attn_float_round(attn_dtype_t dtype, float value)
{
    if (dtype == ATTN_DTYPE_F16)
        return attn_f16_to_float(attn_float_to_f16(value));
    if (dtype == ATTN_DTYPE_BF16)
        return attn_bf16_to_float(attn_float_to_bf16(value));
    return value;
}

#endif
