/* sm90/merge.c: evenly spaced problems of one shape as one with a batch dimension. Pure; owns nothing. */
#include "merge.h"

#include <stdlib.h>

#include "scheduler.h"

/* A batch stride in bytes that a tensor map can hold, with room. */
#define STRIDE_MAX (INT64_C(1) << 39)

/* Neighbours in memory become neighbours in order. */
static int problem_compare(const void *a, const void *b)
{
    const attn_problem_t *x = a, *y = b;
    int by_shape = attn_sm90_shape_compare(x, y);

    if (by_shape != 0)
        return by_shape;
    return (x->q.data > y->q.data) - (x->q.data < y->q.data);
}

static bool same_layout(const attn_view_t *a, const attn_view_t *b)
{
    return a->stride_s == b->stride_s && a->stride_h == b->stride_h;
}

/* Whether one launch record could describe both, were it not for their addresses. */
static bool alike(const attn_problem_t *a, const attn_problem_t *b)
{
    return attn_sm90_shape_compare(a, b) == 0 && a->sm_scale == b->sm_scale && a->softcap == b->softcap &&
           same_layout(&a->q, &b->q) && same_layout(&a->o, &b->o) &&
           (a->s_kv == 0 || (same_layout(&a->k, &b->k) && same_layout(&a->v, &b->v))) &&
           (a->lse == NULL) == (b->lse == NULL) && (a->lse == NULL || a->lse_stride_h == b->lse_stride_h);
}

/* Elements of `size` bytes from one address to the next, or 0 when that is no batch stride. */
static int64_t distance(const void *from, const void *to, int64_t size, int64_t multiple)
{
    int64_t bytes = (int64_t)((uintptr_t)to - (uintptr_t)from);

    return bytes > 0 && bytes < STRIDE_MAX && bytes % multiple == 0 ? bytes / size : 0;
}

/* The batch strides that would make b follow a. */
typedef struct steps {
    int64_t q, k, v, o, lse;
} steps_t;

static bool steps_between(const attn_problem_t *a, const attn_problem_t *b, steps_t *ret)
{
    bool keys = a->s_kv > 0;

    *ret = (steps_t){.q = distance(a->q.data, b->q.data, 2, 16),
                     .k = keys ? distance(a->k.data, b->k.data, 2, 16) : 0,
                     .v = keys ? distance(a->v.data, b->v.data, 2, 16) : 0,
                     .o = distance(a->o.data, b->o.data, 2, 16),
                     .lse = a->lse ? distance(a->lse, b->lse, 4, 4) : 0};
    return ret->q && ret->o && (!keys || (ret->k && ret->v)) && (!a->lse || ret->lse);
}

static bool steps_equal(const steps_t *a, const steps_t *b)
{
    return a->q == b->q && a->k == b->k && a->v == b->v && a->o == b->o && a->lse == b->lse;
}

/* How many problems from the first on are one; at least 1. */
static uint32_t run_length(const attn_problem_t *first, uint32_t count, steps_t *ret_steps)
{
    uint32_t length = 1;

    while (length < count && first->batch == 1 && alike(first, first + length)) {
        steps_t steps = {0}; /* gcc 12 does not see that steps_between() always writes it */

        if (!steps_between(first + length - 1, first + length, &steps) ||
            (length > 1 && !steps_equal(&steps, ret_steps)))
            break;
        *ret_steps = steps;
        length++;
    }
    return length;
}

uint32_t attn_sm90_merge(const attn_group_t *group, attn_problem_t *merged)
{
    uint32_t count = 0, used = 0;

    for (uint32_t i = 0; i < group->count; i++) {
        const attn_problem_t *p = &group->problems[i];

        if (p->batch > 0 && p->h_q > 0 && p->s_q > 0)
            merged[count++] = *p;
    }
    if (count > 1)
        qsort(merged, count, sizeof(merged[0]), problem_compare);
    for (uint32_t i = 0; i < count;) {
        steps_t steps = {0}; /* gcc 12 does not see that steps_between() always writes it */
        uint32_t length = run_length(&merged[i], count - i, &steps);
        attn_problem_t p = merged[i];

        if (length == 2 && count > 2) /* any two are evenly spaced: that makes them differ from the others */
            length = 1;
        if (length > 1) {
            p.batch = length;
            p.q.stride_b = steps.q;
            p.k.stride_b = steps.k;
            p.v.stride_b = steps.v;
            p.o.stride_b = steps.o;
            p.lse_stride_b = steps.lse;
        }
        merged[used++] = p;
        i += length;
    }
    return used;
}
