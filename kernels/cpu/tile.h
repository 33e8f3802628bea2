/* cpu/tile.h: the unit of work of `cpu`: some query rows of one key head against all keys that they see. One
 * implementation per instruction set, from the same source (tile_body.h); the result of a row does not depend on the
 * tile that it lies in. */
#ifndef ATTN_CPU_TILE_H
#define ATTN_CPU_TILE_H

#include "attn/kernel.h"

enum {
    /* Keys per step. K and V of a step, as floats at d = 128, are 64 KiB each: they stay in L2 for all panels of a
     * tile, and a panel's scores (24 KiB at 48 lanes) in L1. Measured on Sapphire Rapids: see the commit. */
    ATTN_CPU_KEYS = 128,
    ATTN_CPU_PANELS_MAX = 4,
    ATTN_CPU_LANES_MAX = 48,
};

/* Rows of a key head are numbered query-major over the heads that share it: row = query * (h_q / h_kv) + head within
 * the group. So a panel spans few queries, and little of its triangle at the causal edge is wasted. */
typedef struct attn_cpu_tile {
    const attn_problem_t *problem;
    const attn_config_t *config;
    uint32_t batch, h_kv;
    int64_t row_begin, row_end; /* at most panels_max * lanes rows */
} attn_cpu_tile_t;

/* Bytes of scratch that a tile needs, 64-byte aligned, for any instruction set. */
size_t attn_cpu_scratch_bytes(uint32_t d);

#endif
