/* worker/engine.c: what the engines share. Any thread; owns nothing. */
#include "worker/engine.h"

#include <stdlib.h>

static int round_compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void attn_engine_rounds(double *rounds, uint32_t n, attn_engine_result_t *ret)
{
    qsort(rounds, n, sizeof *rounds, round_compare);
    ret->kernel_us = n % 2 ? rounds[n / 2] : (rounds[n / 2 - 1] + rounds[n / 2]) / 2;
    ret->kernel_min_us = rounds[0];
}
