/* sm90/divisor.h: division by a number that is known before a launch, without the division. Pure; host and device, any
 * thread, owns nothing.
 *
 * With l = ceil(log2(by)) and magic = ceil(2^(31 + l) / by), floor(n / by) = floor(n * magic / 2^(31 + l)) for all
 * n < 2^31 (Granlund and Montgomery, "Division by Invariant Integers using Multiplication", 1994, theorem 4.2). The
 * scheduler warp divides five times per tile; the device's own division takes 20 dependent instructions. */
#ifndef ATTN_SM90_DIVISOR_H
#define ATTN_SM90_DIVISOR_H

#include <stdint.h>

#include "both.h"

typedef struct attn_sm90_divisor {
    uint32_t magic, shift;
} attn_sm90_divisor_t;

/* The divisor `by`, which is below 2^31 and not 0. */
ATTN_SM90_BOTH attn_sm90_divisor_t attn_sm90_divisor(uint32_t by)
{
    attn_sm90_divisor_t divisor = {0, 0};

    while ((UINT32_C(1) << divisor.shift) < by) {
        divisor.shift++;
    }
    divisor.magic = (uint32_t)(((UINT64_C(1) << (31 + divisor.shift)) + by - 1) / by);
    return divisor;
}

/* floor(n / by), for n below 2^31. */
ATTN_SM90_BOTH uint32_t attn_sm90_divide(uint32_t n, attn_sm90_divisor_t by)
{
    return (uint32_t)((uint64_t)(n << 1) * by.magic >> 32) >> by.shift;
}

#endif
