/* reference/rows.c: scratch of a block and how a problem is cut into blocks. Pure, any thread. */
#include "reference/rows.h"

static size_t rows_take(size_t *used, size_t elements, size_t element)
{
    const size_t at = *used;
    *used += (elements * element + 63) / 64 * 64;
    return at;
}

/* Places in scratch from `memory` (NULL to measure); returns the bytes. */
static size_t rows_place(char *memory, uint32_t d, int64_t s_kv, bool naive, attn_reference_scratch_t *ret)
{
    const size_t rows = ATTN_REFERENCE_ROWS, keys = ATTN_REFERENCE_KEYS;
    const size_t d_padded = (d + 3u) / 4 * 4;
    const size_t scores = ((size_t)s_kv + keys) * rows;
    size_t used = 0;
    const size_t o = rows_take(&used, rows * d, sizeof(double));
    const size_t lse = rows_take(&used, rows, sizeof(double));
    const size_t q = rows_take(&used, rows * d_padded, sizeof(double));
    const size_t kv = rows_take(&used, keys * d_padded, sizeof(double));
    const size_t acc = rows_take(&used, rows * d_padded, sizeof(double));
    const size_t all = rows_take(&used, scores, sizeof(double));
    const size_t half = naive ? 1 : 0;
    const size_t naive_o = rows_take(&used, half * rows * d, sizeof(float));
    const size_t naive_q = rows_take(&used, half * rows * d_padded, sizeof(float));
    const size_t naive_kv = rows_take(&used, half * keys * d_padded, sizeof(float));
    const size_t naive_acc = rows_take(&used, half * rows * d_padded, sizeof(float));
    const size_t size = rows_take(&used, half * rows * d, sizeof(float));
    const size_t naive_size = rows_take(&used, half * rows * d_padded, sizeof(float));
    const size_t naive_all = rows_take(&used, half * scores, sizeof(float));
    if (memory)
        *ret = (attn_reference_scratch_t){.o = (double *)(memory + o),
                                          .lse = (double *)(memory + lse),
                                          .naive = (float *)(memory + naive_o),
                                          .size = (float *)(memory + size),
                                          .naive_size = (float *)(memory + naive_size),
                                          .q = (double *)(memory + q),
                                          .kv = (double *)(memory + kv),
                                          .scores = (double *)(memory + all),
                                          .acc = (double *)(memory + acc),
                                          .naive_q = (float *)(memory + naive_q),
                                          .naive_kv = (float *)(memory + naive_kv),
                                          .naive_scores = (float *)(memory + naive_all),
                                          .naive_acc = (float *)(memory + naive_acc)};
    return used;
}

size_t attn_reference_scratch_bytes(uint32_t d, int64_t s_kv, bool naive)
{
    return (rows_place(NULL, d, s_kv, naive, NULL) + 4095) / 4096 * 4096;
}

void attn_reference_scratch_open(void *memory, uint32_t d, int64_t s_kv, bool naive, attn_reference_scratch_t *ret)
{
    rows_place(memory, d, s_kv, naive, ret);
}

unsigned attn_reference_threads(unsigned threads, size_t scratch_bytes)
{
    const uint64_t fit = (UINT64_C(1) << 30) / scratch_bytes;
    threads = threads < 1 ? 1 : threads;
    return fit >= threads ? threads : fit < 1 ? 1 : (unsigned)fit;
}

static uint64_t rows_blocks_per_head(const attn_problem_t *problem)
{
    const int64_t rows = problem->s_q * (problem->h_q / problem->h_kv);
    return (uint64_t)((rows + ATTN_REFERENCE_ROWS - 1) / ATTN_REFERENCE_ROWS);
}

uint64_t attn_reference_block_count(const attn_problem_t *problem)
{
    return rows_blocks_per_head(problem) * problem->batch * problem->h_kv;
}

attn_reference_block_t attn_reference_block_at(const attn_problem_t *problem, const attn_config_t *config,
                                               uint64_t index)
{
    const uint64_t per_head = rows_blocks_per_head(problem);
    const uint64_t head = index / per_head;
    const int64_t rows = problem->s_q * (problem->h_q / problem->h_kv);
    attn_reference_block_t block = {.problem = problem,
                                    .config = config,
                                    .batch = (uint32_t)(head / problem->h_kv),
                                    .h_kv = (uint32_t)(head % problem->h_kv),
                                    /* from the last rows, which see most, to the first */
                                    .row = (int64_t)(per_head - 1 - index % per_head) * ATTN_REFERENCE_ROWS};
    block.rows = rows - block.row < ATTN_REFERENCE_ROWS ? rows - block.row : ATTN_REFERENCE_ROWS;
    return block;
}
