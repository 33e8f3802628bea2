/* accuracy/fill.c: N(0,1) values from a seed, the same bits on every machine. Pure, any thread.
 *
 * Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) and Box-Muller. Logarithm and
 * sine are series in plain double arithmetic instead of libm, whose last bits differ between versions; this file is
 * compiled with -ffp-contract=off for the same reason. Both are good to 1e-14, far below a float's rounding. */
#include "attn/accuracy.h"

#include <math.h>

#include "cpu/convert.h"

static void fill_philox(uint64_t seed, uint32_t tensor, uint64_t block, uint32_t ret[4])
{
    uint32_t c0 = (uint32_t)block, c1 = (uint32_t)(block >> 32), c2 = tensor, c3 = 0;
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        const uint64_t p0 = (uint64_t)c0 * 0xD2511F53u;
        const uint64_t p1 = (uint64_t)c2 * 0xCD9E8D57u;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    ret[0] = c0;
    ret[1] = c1;
    ret[2] = c2;
    ret[3] = c3;
}

/* ln u for u in (0, 1): u = 2^e m with m in [sqrt(1/2), sqrt(2)), then 2 atanh((m - 1) / (m + 1)). */
static double fill_log(double u)
{
    int exponent;
    double m = frexp(u, &exponent); /* exact */
    if (m < 0.70710678118654752) {
        m *= 2;
        exponent--;
    }
    const double s = (m - 1) / (m + 1);
    const double z = s * s;
    static const double inverse[] = {1.0 / 19, 1.0 / 17, 1.0 / 15, 1.0 / 13, 1.0 / 11,
                                     1.0 / 9,  1.0 / 7,  1.0 / 5,  1.0 / 3,  1.0};
    double sum = 0;
    for (int i = 0; i < 10; i++)
        sum = sum * z + inverse[i];
    return 2 * s * sum + exponent * 0.69314718055994531;
}

/* sin and cos of 2 pi t for t in [0, 1), from Taylor series within an eighth of a turn. */
static void fill_sincos(double t, double *ret_sin, double *ret_cos)
{
    const int quarter = (int)(t * 4 + 0.5);
    const double x = (t - quarter * 0.25) * 6.2831853071795865;
    const double z = x * x;
    static const double sine_steps[] = {1.0 / (16 * 17), 1.0 / (14 * 15), 1.0 / (12 * 13), 1.0 / (10 * 11),
                                        1.0 / (8 * 9),   1.0 / (6 * 7),   1.0 / (4 * 5),   1.0 / (2 * 3)};
    static const double cosine_steps[] = {1.0 / (16 * 15), 1.0 / (14 * 13), 1.0 / (12 * 11), 1.0 / (10 * 9),
                                          1.0 / (8 * 7),   1.0 / (6 * 5),   1.0 / (4 * 3),   1.0 / (2 * 1)};
    double sine = 1, cosine = 1;
    for (int i = 0; i < 8; i++) {
        sine = 1 - sine * z * sine_steps[i];
        cosine = 1 - cosine * z * cosine_steps[i];
    }
    sine *= x;
    switch (quarter & 3) {
    case 0:
        *ret_sin = sine;
        *ret_cos = cosine;
        return;
    case 1:
        *ret_sin = cosine;
        *ret_cos = -sine;
        return;
    case 2:
        *ret_sin = -sine;
        *ret_cos = -cosine;
        return;
    default:
        *ret_sin = -cosine;
        *ret_cos = sine;
        return;
    }
}

void attn_fill_normal_at(attn_dtype_t dtype, uint64_t seed, uint32_t tensor, uint64_t first, void *ret_data,
                         uint64_t elements)
{
    const uint64_t end = first + elements;
    for (uint64_t block = first / 4; block * 4 < end; block++) {
        uint32_t random[4];
        fill_philox(seed, tensor, block, random);
        double normal[4];
        for (int pair = 0; pair < 2; pair++) {
            const double u = (random[2 * pair] + 0.5) * 0x1p-32;
            const double radius = sqrt(-2 * fill_log(u));
            double sine, cosine;
            fill_sincos(random[2 * pair + 1] * 0x1p-32, &sine, &cosine);
            normal[2 * pair] = radius * cosine;
            normal[2 * pair + 1] = radius * sine;
        }
        for (uint64_t lane = 0; lane < 4; lane++) {
            const uint64_t element = block * 4 + lane;
            if (element >= first && element < end)
                attn_element_store(dtype, ret_data, (int64_t)(element - first), normal[lane]);
        }
    }
}

void attn_fill_normal(attn_dtype_t dtype, uint64_t seed, uint32_t tensor, void *ret_data, uint64_t elements)
{
    attn_fill_normal_at(dtype, seed, tensor, 0, ret_data, elements);
}
