/* cpu/tile.h: the unit of work of `cpu`: some query rows of one key head against all keys that they see. One
 * implementation per instruction set, from the same source (tile_body.h); the result of a row does not depend on the
 * tile that it lies in. */
#ifndef ATTN_CPU_TILE_H
#define ATTN_CPU_TILE_H

#include "attn/kernel.h"

enum {
    /* Keys per step. As floats at d = 128, K and V of a step are 64 KiB each and stay in L2 for all panels of a tile;
     * a panel's scores (24 KiB at 48 lanes) stay in L1. */
    ATTN_CPU_KEYS = 128,
    /* Panels that share a converted step of K and V: 8 instead of 4 took 184 ms to 150 at 2048 x 2048, d = 128, fp32 on
     * one core, where a fifth of the time went into reading K and V again. */
    ATTN_CPU_PANELS_MAX = 8,
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
