/* reference/rows.h: the plain formula for some query rows of one key head, in fp64; beside it, on request, the plain
 * formula as the request's dtype would do it. Used by `reference` and by the truth of the accuracy module. */
#ifndef ATTN_REFERENCE_ROWS_H
#define ATTN_REFERENCE_ROWS_H

#include "attn/kernel.h"
#include "cpu/pool.h"

enum { ATTN_REFERENCE_ROWS = 16, ATTN_REFERENCE_KEYS = 64 };

/* Rows of a key head are numbered as in cpu/tile.h: row = query * (h_q / h_kv) + head within the group. */
typedef struct attn_reference_block {
    const attn_problem_t *problem;
    const attn_config_t *config;
    uint32_t batch, h_kv;
    int64_t row, rows; /* 1 to ATTN_REFERENCE_ROWS rows from `row` on */
    bool naive;
} attn_reference_block_t;

/* Scratch of one thread, 64-byte aligned, and what a block leaves there. */
typedef struct attn_reference_scratch {
    double *o;    /* [rows][d]: O64 */
    double *lse;  /* [rows]: natural log; -inf for a row that sees nothing */
    float *naive; /* [rows][d]: scores, probabilities and result rounded to the dtype, sums in fp32 */
    float *size;  /* [rows][d]: sum of P |V|, to judge roundings by; with naive only */
    double *q, *kv, *scores, *acc;
    float *naive_q, *naive_kv, *naive_scores, *naive_acc, *naive_size;
} attn_reference_scratch_t;

size_t attn_reference_scratch_bytes(uint32_t d, int64_t s_kv, bool naive);
void attn_reference_scratch_open(void *memory, uint32_t d, int64_t s_kv, bool naive, attn_reference_scratch_t *ret);

/* Threads that may work at a time, so that their scratch stays below 1 GiB together (but at least one). */
unsigned attn_reference_threads(unsigned threads, size_t scratch_bytes);

/* How a problem is cut into blocks: how many, and the n-th, longest first within a head. */
uint64_t attn_reference_block_count(const attn_problem_t *problem);
attn_reference_block_t attn_reference_block_at(const attn_problem_t *problem, const attn_config_t *config,
                                               uint64_t index);

#endif
