/* sm90/scheduler.c: the host part of tile scheduling: problem order and tile numbers. Pure; owns nothing. */
#include "scheduler.h"

#include <stdlib.h>

static int entry_compare(const void *a, const void *b)
{
    const attn_sm90_plan_entry_t *x = a, *y = b;

    if (x->longest != y->longest)
        return x->longest > y->longest ? -1 : 1;
    return x->problem < y->problem ? -1 : x->problem > y->problem;
}

static uint32_t section_heads(const attn_problem_t *p, bool causal, uint32_t heads)
{
    uint64_t bytes_per_kv_head, kv_heads, section;
    uint32_t ratio = p->h_q / p->h_kv;

    if (!causal)
        return 1;
    bytes_per_kv_head = (uint64_t)p->s_kv * p->d * 2 * 2; /* K and V, 16-bit elements */
    kv_heads = bytes_per_kv_head == 0 ? heads : ATTN_SM90_SECTION_BYTES / bytes_per_kv_head;
    if (kv_heads < 1)
        kv_heads = 1;
    section = kv_heads * ratio;
    return section < heads ? (uint32_t)section : heads;
}

attn_status_t attn_sm90_plan(const attn_group_t *group, uint32_t tile_m, uint32_t tile_n,
                             attn_sm90_plan_entry_t *entries, uint32_t *ret_count, uint32_t *ret_tiles)
{
    uint32_t count = 0;
    uint64_t tiles = 0;

    for (uint32_t i = 0; i < group->count; i++) {
        const attn_problem_t *p = &group->problems[i];
        attn_sm90_plan_entry_t *e = &entries[count];
        uint64_t m_blocks, heads;

        if (p->batch == 0 || p->h_q == 0 || p->s_q == 0)
            continue;
        m_blocks = ((uint64_t)p->s_q + tile_m - 1) / tile_m;
        heads = (uint64_t)p->batch * p->h_q;
        if (heads > ATTN_SM90_TILES_MAX || m_blocks > ATTN_SM90_TILES_MAX / heads)
            return ATTN_ERR_TOO_LARGE;
        e->problem = i;
        e->longest = attn_sm90_key_blocks((int32_t)((m_blocks - 1) * tile_m), (int32_t)tile_m, (int32_t)p->s_q,
                                          (int32_t)p->s_kv, group->config.causal, (int32_t)tile_n);
        e->span.tile_begin = 0;
        e->span.m_blocks = (uint32_t)m_blocks;
        e->span.heads = (uint32_t)heads;
        e->span.section_heads = section_heads(p, group->config.causal, (uint32_t)heads);
        count++;
    }
    if (count > 1)
        qsort(entries, count, sizeof(entries[0]), entry_compare);
    for (uint32_t i = 0; i < count; i++) {
        entries[i].span.tile_begin = (uint32_t)tiles;
        tiles += (uint64_t)entries[i].span.m_blocks * entries[i].span.heads;
        if (tiles > ATTN_SM90_TILES_MAX)
            return ATTN_ERR_TOO_LARGE;
    }
    *ret_count = count;
    *ret_tiles = (uint32_t)tiles;
    return ATTN_OK;
}
