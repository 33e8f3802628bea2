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

uint32_t attn_engine_problem_count(const attn_engine_group_t *group)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < group->count; i++)
        count += attn_spec_problem_count(&group->requests[i].spec);
    return count;
}

uint32_t attn_engine_problems(const attn_engine_request_t *request, const attn_addresses_t *at, attn_problem_t *ret)
{
    attn_spec_problems(&request->spec, request->cu_seqlens_q, request->cu_seqlens_k, at, ret);
    return attn_spec_problem_count(&request->spec);
}

attn_config_t attn_engine_config(const attn_engine_group_t *group)
{
    const attn_spec_t *spec = &group->requests[0].spec;
    return (attn_config_t){(attn_dtype_t)spec->dtype, spec->causal != 0, spec->softcap > 0};
}

void attn_engine_queue_push(attn_engine_queue_t *queue, attn_engine_group_t *group)
{
    queue->group[(queue->first + queue->count++) % ATTN_WIRE_GROUPS] = group;
}

attn_engine_group_t *attn_engine_queue_take(attn_engine_queue_t *queue)
{
    if (queue->count == 0)
        return NULL;
    attn_engine_group_t *group = queue->group[queue->first];
    queue->first = (queue->first + 1) % ATTN_WIRE_GROUPS;
    queue->count--;
    return group;
}
