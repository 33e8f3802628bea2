/* sm90/scheduler.c: the host part of tile scheduling: problem order and tile numbers. Pure; owns nothing. */
#include "scheduler.h"

#include <stdlib.h>
#include <string.h>

/* Tiles per head below which a sequence counts as short. */
#define SHORT_BLOCKS 16u

int attn_sm90_shape_compare(const attn_problem_t *a, const attn_problem_t *b)
{
    if (a->s_q != b->s_q)
        return a->s_q > b->s_q ? -1 : 1;
    if (a->s_kv != b->s_kv)
        return a->s_kv > b->s_kv ? -1 : 1;
    if (a->h_q != b->h_q)
        return a->h_q > b->h_q ? -1 : 1;
    if (a->h_kv != b->h_kv)
        return a->h_kv > b->h_kv ? -1 : 1;
    if (a->batch != b->batch)
        return a->batch > b->batch ? -1 : 1;
    return a->d == b->d ? 0 : a->d > b->d ? -1 : 1;
}

static int entry_compare(const void *a, const void *b, void *arg)
{
    const attn_sm90_plan_entry_t *x = a, *y = b;
    const attn_problem_t *problems = arg;
    int by_shape;

    if (x->longest != y->longest)
        return x->longest > y->longest ? -1 : 1;
    by_shape = attn_sm90_shape_compare(&problems[x->problem], &problems[y->problem]);
    if (by_shape != 0)
        return by_shape;
    return x->problem < y->problem ? -1 : x->problem > y->problem;
}

/* Cuts a span's heads into sections. The last one gets enough tiles that its longest does not outlast the others: the
 * work of h heads of m tiles is h*m*(m + 1)/2, the longest tile m, so 2*units/(m + 1) heads keep `units` busy as long
 * as that. Short sequences get half of it: their longest tile is little, and their K and V are what the cache is for.
 */
static void cut_sections(const attn_problem_t *p, bool causal, uint32_t units, attn_sm90_span_t *span)
{
    uint64_t bytes_per_kv_head = (uint64_t)p->s_kv * p->d * 2 * 2; /* K and V, 16-bit elements */
    uint64_t kv_heads = bytes_per_kv_head == 0 ? span->heads : ATTN_SM90_SECTION_BYTES / bytes_per_kv_head;
    uint64_t heads = (kv_heads < 1 ? 1 : kv_heads) * span->kv_heads;
    uint32_t last = (span->m_blocks < SHORT_BLOCKS ? units : 2 * units) / (span->m_blocks + 1) + 1;

    if (!causal)
        heads = 1;
    span->section_heads = heads < span->heads ? (uint32_t)heads : span->heads;
    span->sections = span->heads > last ? (span->heads - last) / span->section_heads + 1 : 1;
    span->by_section_tiles = attn_sm90_divisor(span->m_blocks * span->section_heads);
    span->by_section_heads = attn_sm90_divisor(span->section_heads);
    span->by_last_heads = attn_sm90_divisor(span->heads - (span->sections - 1) * span->section_heads);
    span->by_problem_heads = attn_sm90_divisor(span->problem_heads);
    span->by_batch_heads = attn_sm90_divisor(span->batch_heads);
    span->by_kv_heads = attn_sm90_divisor(span->kv_heads);
}

/* The end of the run of problems of one shape that begins with entry `first`. */
static uint32_t shape_end(const attn_group_t *group, const attn_sm90_plan_entry_t *entries, uint32_t first,
                          uint32_t count)
{
    const attn_problem_t *p = &group->problems[entries[first].problem];
    uint32_t end = first + 1;

    while (end < count && attn_sm90_shape_compare(p, &group->problems[entries[end].problem]) == 0)
        end++;
    return end;
}

/* Copies the run of one shape that begins with entry `from` behind `to`; both then stand behind it. */
static void shape_move(const attn_group_t *group, const attn_sm90_plan_entry_t *entries, uint32_t *from, uint32_t count,
                       attn_sm90_plan_entry_t **to)
{
    uint32_t end = shape_end(group, entries, *from, count);

    memcpy(*to, &entries[*from], (end - *from) * sizeof(entries[0]));
    *to += end - *from;
    *from = end;
}

/* Among problems whose longest tiles are equal, has one with many rows follow each one with few, those with the most
 * first in either half: tiles of many rows wait for memory and tiles of few for the steps of their warp group, so side
 * by side they take less time than one kind after the other. */
static void mix_shapes(const attn_group_t *group, attn_sm90_plan_t *plan)
{
    attn_sm90_plan_entry_t *scratch = plan->entries + group->count;

    for (uint32_t first = 0, end; first < group->count; first = end) {
        attn_sm90_plan_entry_t *entries = plan->entries + first, *to = entries;
        uint32_t shapes = 0, half, many = 0, few = 0, count;

        for (end = first; end < group->count && plan->entries[end].longest == entries[0].longest; shapes++)
            end = shape_end(group, plan->entries, end, group->count);
        count = end - first;
        memcpy(scratch, entries, count * sizeof(entries[0]));
        for (uint32_t i = 0; i < (shapes + 1) / 2; i++)
            few = shape_end(group, scratch, few, count);
        half = few;
        while (many < half) {
            shape_move(group, scratch, &many, half, &to);
            if (few < count)
                shape_move(group, scratch, &few, count, &to);
        }
    }
}

/* Makes a span of the `count` problems of one shape from place `first` of the launch on: `m_blocks` tiles for each
 * `together` of their heads. False when its tiles exceed ATTN_SM90_TILES_MAX. */
static bool span_add(const attn_problem_t *p, uint32_t first, uint32_t count, uint64_t m_blocks, uint32_t together,
                     bool causal, uint32_t units, attn_sm90_plan_t *plan)
{
    attn_sm90_span_t *span = &plan->spans[plan->spans_used];
    uint32_t ratio = p->h_q / p->h_kv;
    uint64_t heads, most = ATTN_SM90_TILES_MAX - plan->tiles;

    span->kv_heads = (ratio + together - 1) / together;
    span->batch_heads = p->h_kv * span->kv_heads;
    span->problem_heads = p->batch * span->batch_heads;
    heads = (uint64_t)span->problem_heads * count;
    if (heads > most || m_blocks > most / heads)
        return false;
    span->tile_begin = plan->tiles;
    span->m_blocks = (uint32_t)m_blocks;
    span->heads = (uint32_t)heads;
    span->problem_begin = first;
    span->together = together;
    span->row_begin = span->unused = 0;
    cut_sections(p, causal, units, span);
    plan->spans_used++;
    plan->tiles += (uint32_t)(heads * m_blocks);
    return true;
}

/* Makes spans of runs of problems of one shape, in launch order: of each run the tiles that heads share, which are as
 * long as any, before the others. */
static attn_status_t number_tiles(const attn_group_t *group, uint32_t tile_m, uint32_t units, attn_sm90_plan_t *plan)
{
    bool causal = group->config.causal;

    plan->spans_used = plan->tiles = 0;
    for (uint32_t first = 0, end; first < group->count; first = end) {
        const attn_problem_t *p = &group->problems[plan->entries[first].problem];
        uint32_t together = attn_sm90_together(p->s_q, p->h_q / p->h_kv, tile_m), count;
        uint64_t m_blocks = ((uint64_t)p->s_q + tile_m - 1) / tile_m;

        end = shape_end(group, plan->entries, first, group->count);
        count = end - first;
        if (together > 1) {
            m_blocks--;
            if (!span_add(p, first, count, 1, together, causal, units, plan))
                return ATTN_ERR_TOO_LARGE;
            plan->spans[plan->spans_used - 1].row_begin = (uint32_t)(m_blocks * tile_m);
        }
        if (m_blocks > 0 && !span_add(p, first, count, m_blocks, 1, causal, units, plan))
            return ATTN_ERR_TOO_LARGE;
    }
    return ATTN_OK;
}

attn_status_t attn_sm90_plan(const attn_group_t *group, uint32_t tile_m, uint32_t tile_n, uint32_t units,
                             attn_sm90_plan_t *plan)
{
    for (uint32_t i = 0; i < group->count; i++) {
        const attn_problem_t *p = &group->problems[i];
        attn_sm90_plan_entry_t *e = &plan->entries[i];
        uint64_t m_blocks = ((uint64_t)p->s_q + tile_m - 1) / tile_m, heads = (uint64_t)p->batch * p->h_q;
        int32_t row;

        if (heads > ATTN_SM90_TILES_MAX || m_blocks > ATTN_SM90_TILES_MAX / heads)
            return ATTN_ERR_TOO_LARGE;
        e->problem = i;
        row = m_blocks == 0 ? 0
                            : attn_sm90_tile_row((uint32_t)m_blocks - 1, (uint32_t)m_blocks, (int32_t)tile_m,
                                                 (int32_t)p->s_q, group->config.causal);
        e->longest = attn_sm90_key_blocks(row, (int32_t)tile_m, (int32_t)p->s_q, (int32_t)p->s_kv, group->config.causal,
                                          (int32_t)tile_n);
    }
    if (group->count > 1)
        qsort_r(plan->entries, group->count, sizeof(plan->entries[0]), entry_compare, (void *)group->problems);
    mix_shapes(group, plan);
    return number_tiles(group, tile_m, units, plan);
}
