/* sm90/scheduler.h: which tile of which problem is tile number t, and in which order problems come.
 *
 * Pure arithmetic that host and device share; no CUDA, any thread, owns nothing. A *tile* is tile_m query rows of
 * one head; or, where the rows that are left over for a head's last tile fit one warp group, those of as many heads of
 * one key head as it has warp groups: such heads count as one here. A *key block* is tile_n keys. A *span* is the tiles
 * of one problem, or of several of one shape, which are then scheduled like a batch: their heads count through. Tiles
 * that heads share are a span of their own, before the one of the others. Spans are numbered one after the other, those
 * with the longest tile first. Inside a causal span heads come in sections whose K and V stay in the L2 cache, and a
 * section runs its longest tiles first. */
#ifndef ATTN_SM90_SCHEDULER_H
#define ATTN_SM90_SCHEDULER_H

#include "attn/kernel.h"
#include "divisor.h"

/* K and V of a section stay below this. The L2 has 50 MB, but each half of the chip keeps its own copy of what both
 * read, and Q and O pass by: with 32 MB, K and V of 512 tokens are read twice from memory (H100, 512 causal: 122 us;
 * with 8 MB 100, with 4 MB 101; long sequences have one key head per section and do not care). */
#define ATTN_SM90_SECTION_BYTES (8u << 20)
/* Query rows of a warp group. */
#define ATTN_SM90_GROUP_ROWS 64
/* Tiles of a launch are numbered in 32 bits with room for one failed fetch per block. */
#define ATTN_SM90_TILES_MAX 0x7fff0000u

typedef struct attn_sm90_span {
    uint32_t tile_begin;    /* number of its first tile in the launch */
    uint32_t m_blocks;      /* tiles per head */
    uint32_t heads;         /* of all its problems */
    uint32_t section_heads; /* heads per section but the last, which has the rest; 1 when not causal */
    uint32_t sections;
    uint32_t problem_begin;                        /* its first problem's place in the launch */
    uint32_t problem_heads, batch_heads, kv_heads; /* heads of a problem, of one of its batches, of one key head */
    uint32_t together;                             /* query heads that count as one */
    uint32_t row_begin;                            /* first query row of tiles that heads share */
    uint32_t unused;                               /* spans are copied in pieces of 16 bytes */
    attn_sm90_divisor_t by_section_tiles;          /* of a section but the last: m_blocks * section_heads */
    attn_sm90_divisor_t by_section_heads, by_last_heads, by_problem_heads, by_batch_heads, by_kv_heads;
} attn_sm90_span_t;

/* Spans that a problem may need: of tiles that heads share, and of the others. */
#define ATTN_SM90_SPANS_EACH 2

/* Query heads, of `ratio` that have one key head, that share their last tile of tile_m rows: as many in each as can be
 * where the tiles that they need are filled evenly. s_q > 0. */
ATTN_SM90_BOTH uint32_t attn_sm90_together(int64_t s_q, uint32_t ratio, uint32_t tile_m)
{
    const uint32_t groups = tile_m / ATTN_SM90_GROUP_ROWS, tiles = (ratio + groups - 1) / groups;
    return (s_q - 1) % tile_m < ATTN_SM90_GROUP_ROWS ? (ratio + tiles - 1) / tiles : 1;
}

/* The place of tile `tile` (tile_begin <= tile) of a span: its block of rows and its head, of `heads`. */
ATTN_SM90_BOTH void attn_sm90_tile_locate(const attn_sm90_span_t *span, uint32_t tile, bool longest_first,
                                          uint32_t *ret_m_block, uint32_t *ret_head)
{
    const uint32_t t = tile - span->tile_begin, full = attn_sm90_divide(t, span->by_section_tiles);
    if (!longest_first) {
        *ret_head = full;
        *ret_m_block = t - full * span->m_blocks;
        return;
    }
    const bool last = full + 1 >= span->sections;
    const uint32_t head_first = (last ? span->sections - 1 : full) * span->section_heads;
    const uint32_t heads = last ? span->heads - head_first : span->section_heads;
    const attn_sm90_divisor_t by_heads = {last ? span->by_last_heads.magic : span->by_section_heads.magic,
                                          last ? span->by_last_heads.shift : span->by_section_heads.shift};
    const uint32_t rest = t - head_first * span->m_blocks, above = attn_sm90_divide(rest, by_heads);
    *ret_m_block = span->m_blocks - 1 - above;
    *ret_head = head_first + rest - above * heads;
}

/* First row of tile `m_block` of the `m_blocks` of a head that are not shared. Of tiles of three warp groups rows that
 * are missing for whole tiles are missing in whole warp groups from the first tile when causal, which is the shortest:
 * its first rows are negative then. The last one would leave the fewest warp groups with the most key blocks. With two
 * warp groups that would leave one of them alone with the last key block of every tile, which costs more. */
ATTN_SM90_BOTH int32_t attn_sm90_tile_row(uint32_t m_block, uint32_t m_blocks, int32_t tile_m, int32_t s_q, bool causal)
{
    const uint32_t rows = m_blocks * (uint32_t)tile_m; /* fewer than s_q where the last tile is shared */
    const bool at_start = causal && tile_m > 2 * ATTN_SM90_GROUP_ROWS && rows > (uint32_t)s_q;
    const uint32_t shift = at_start ? (rows - (uint32_t)s_q) / ATTN_SM90_GROUP_ROWS * ATTN_SM90_GROUP_ROWS : 0;
    return (int32_t)(m_block * (uint32_t)tile_m - shift);
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
    const uint32_t keys = (uint32_t)attn_sm90_visible_keys(row_last, s_q, s_kv, causal);
    const uint32_t blocks = (keys + (uint32_t)tile_n - 1) / (uint32_t)tile_n;
    return blocks < 1 ? 1 : (int32_t)blocks;
}

/* Key blocks of them that a warp group's rows [row_first, row_first + rows) see, the first ones: 0 when it has no row,
 * at least one otherwise. */
ATTN_SM90_BOTH int32_t attn_sm90_live_blocks(int32_t row_first, int32_t rows, int32_t s_q, int32_t s_kv, bool causal,
                                             int32_t tile_n)
{
    return row_first >= 0 && row_first < s_q ? attn_sm90_key_blocks(row_first, rows, s_q, s_kv, causal, tile_n) : 0;
}

#ifdef __cplusplus
extern "C" {
#endif

/* Order of problems by shape, longest first: negative, zero or positive as a comes before, with or after b. */
int attn_sm90_shape_compare(const attn_problem_t *a, const attn_problem_t *b);

/* One entry of a plan: a problem of the group. */
typedef struct attn_sm90_plan_entry {
    uint32_t problem; /* its index in the group */
    int32_t longest;  /* key blocks of its longest tile */
} attn_sm90_plan_entry_t;

typedef struct attn_sm90_plan {
    attn_sm90_plan_entry_t *entries; /* in launch order; room for twice group->count */
    attn_sm90_span_t *spans;         /* room for ATTN_SM90_SPANS_EACH * group->count */
    uint32_t spans_used, tiles;
} attn_sm90_plan_t;

/* Orders the group's problems, which all have output, and numbers their tiles for a device that runs `units` at a time;
 * the caller provides the plan's arrays. ATTN_ERR_TOO_LARGE when the tiles exceed ATTN_SM90_TILES_MAX. */
attn_status_t attn_sm90_plan(const attn_group_t *group, uint32_t tile_m, uint32_t tile_n, uint32_t units,
                             attn_sm90_plan_t *plan);

#ifdef __cplusplus
}
#endif
#endif
