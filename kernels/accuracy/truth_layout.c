/* accuracy/truth_layout.c: where things lie in a truth blob. Pure; linked into the front, which reserves the memory. */
#include "attn/accuracy.h"

/* The maximum has a cache line of its own, so that O64 starts aligned. */
enum { TRUTH_HEADER_DOUBLES = 8 };

static bool truth_rows(const attn_spec_t *spec, uint64_t *ret)
{
    uint64_t rows = spec->layout == ATTN_LAYOUT_THD ? 1 : spec->batch;
    if (__builtin_mul_overflow(rows, (uint64_t)spec->h_q, &rows) ||
        __builtin_mul_overflow(rows, (uint64_t)spec->s_q, &rows))
        return false;
    *ret = rows;
    return true;
}

uint64_t attn_truth_bytes(const attn_spec_t *spec)
{
    uint64_t rows, bytes;
    if (!truth_rows(spec, &rows) || __builtin_mul_overflow(rows, (uint64_t)spec->d + 2, &bytes) ||
        __builtin_add_overflow(bytes, (uint64_t)TRUTH_HEADER_DOUBLES, &bytes) ||
        __builtin_mul_overflow(bytes, (uint64_t)sizeof(double), &bytes) || bytes > INT64_MAX)
        return 0;
    return bytes;
}

void attn_truth_open(const attn_spec_t *spec, void *truth, attn_truth_view_t *ret)
{
    uint64_t rows = 0;
    truth_rows(spec, &rows);
    double *at = truth;
    *ret = (attn_truth_view_t){.naive_max_abs = at, .o = at + TRUTH_HEADER_DOUBLES, .rows = rows};
    ret->lse = ret->o + rows * spec->d;
    ret->naive_row_err = ret->lse + rows;
}
