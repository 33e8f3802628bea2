/* sm90/scheduler.h: which tile of which problem is tile number t, and in which order problems come.
 *
 * Pure arithmetic that host and device share; no CUDA, any thread, owns nothing. A *tile* is tile_m query rows of
 * one head; a *key block* is tile_n keys. Tiles of a group are numbered problem after problem, problems with the
 * longest tile first. Inside a causal problem heads come in sections whose K and V fit the L2 cache, and a section
 * runs its longest tiles first. */
#ifndef ATTN_SM90_SCHEDULER_H
#define ATTN_SM90_SCHEDULER_H

#include "attn/kernel.h"

#ifdef __CUDACC__
#define ATTN_SM90_BOTH __host__ __device__ __forceinline__
#else
#define ATTN_SM90_BOTH static inline
#endif

/* K and V of a section stay below this, so that with Q and O passing by they remain in the 50 MB L2. */
#define ATTN_SM90_SECTION_BYTES (32u << 20)
/* Tiles of a launch are numbered in 32 bits with room for one failed fetch per block. */
#define ATTN_SM90_TILES_MAX 0x7fff0000u

/* The tiles of one problem. */
typedef struct attn_sm90_span {
    uint32_t tile_begin;    /* number of its first tile in the launch */
    uint32_t m_blocks;      /* tiles per head */
    uint32_t heads;         /* batch * h_q */
    uint32_t section_heads; /* heads per section; 1 when not causal */
} attn_sm90_span_t;

/* The place of tile `tile` (tile_begin <= tile) of a problem: its block of rows and its head (batch*h_q + h). */
ATTN_SM90_BOTH void attn_sm90_tile_locate(const attn_sm90_span_t *span, uint32_t tile, bool longest_first,
                                          uint32_t *ret_m_block, uint32_t *ret_head)
{
    const uint32_t t = tile - span->tile_begin;
    if (!longest_first) {
        *ret_head = t / span->m_blocks;
        *ret_m_block = t % span->m_blocks;
        return;
    }
    const uint32_t section_tiles = span->m_blocks * span->section_heads;
    const uint32_t section = t / section_tiles;
    const uint32_t rest = t % section_tiles;
    const uint32_t head_first = section * span->section_heads;
    const uint32_t left = span->heads - head_first;
    const uint32_t heads = left < span->section_heads ? left : span->section_heads;
    *ret_m_block = span->m_blocks - 1 - rest / heads;
    *ret_head = head_first + rest % heads;
}

/* Keys that row `row` sees: min(s_kv, row + s_kv - s_q + 1) when causal, never negative. */
ATTN_SM90_BOTH int32_t attn_sm90_visible_keys(int32_t row, int32_t s_q, int32_t s_kv, bool causal)
{
    if (!causal) {
        return s_kv;
    }
    const int32_t end = row + (s_kv - s_q) + 1;
    return end < 0 ? 0 : (end < s_kv ? end : s_kv);
}

/* Key blocks that the tile of rows [row_first, row_first + tile_m) walks; at least one, so that rows that see
 * nothing take the same path as all others. */
ATTN_SM90_BOTH int32_t attn_sm90_key_blocks(int32_t row_first, int32_t tile_m, int32_t s_q, int32_t s_kv, bool causal,
                                            int32_t tile_n)
{
    const int32_t row_last = (s_q - row_first < tile_m ? s_q : row_first + tile_m) - 1;
    const int32_t keys = attn_sm90_visible_keys(row_last, s_q, s_kv, causal);
    const int32_t blocks = keys / tile_n + (keys % tile_n != 0);
    return blocks < 1 ? 1 : blocks;
}

#ifdef __cplusplus
extern "C" {
#endif

/* One entry of a plan: a problem of the group that has output. */
typedef struct attn_sm90_plan_entry {
    uint32_t problem; /* its index in the group */
    int32_t longest;  /* key blocks of its longest tile */
    attn_sm90_span_t span;
} attn_sm90_plan_entry_t;

/* Orders the group's problems that have output and numbers their tiles. `entries` has room for group->count.
 * Outputs: entries used and tiles in all. ATTN_ERR_TOO_LARGE when the tiles exceed ATTN_SM90_TILES_MAX. */
attn_status_t attn_sm90_plan(const attn_group_t *group, uint32_t tile_m, uint32_t tile_n,
                             attn_sm90_plan_entry_t *entries, uint32_t *ret_count, uint32_t *ret_tiles);

#ifdef __cplusplus
}
#endif
#endif
