/* cpu/isa.h: the parts of the CPU engines that are compiled once per instruction set, and which of them runs. */
#ifndef ATTN_CPU_ISA_H
#define ATTN_CPU_ISA_H

#include "cpu/pool.h"
#include "cpu/tile.h"
#include "reference/rows.h"

typedef struct attn_cpu_isa {
    const char *name;
    unsigned lanes; /* rows per panel of a tile */
    void (*tile_run)(const attn_cpu_tile_t *tile, void *scratch, attn_pool_thread_t *thread);
    /* False when the job was cancelled. */
    bool (*reference_rows)(const attn_reference_block_t *block, const attn_reference_scratch_t *scratch,
                           attn_pool_thread_t *thread);
} attn_cpu_isa_t;

extern const attn_cpu_isa_t attn_cpu_isa_base;
#if defined(__x86_64__)
extern const attn_cpu_isa_t attn_cpu_isa_avx2, attn_cpu_isa_avx512;
#endif

/* The best that this machine has, or the one that was forced. Any thread. */
const attn_cpu_isa_t *attn_cpu_isa(void);

/* Forces the one of this name, for tests and benchmarks; NULL goes back to the best. False when unknown or not
 * supported by this machine. Not while a launch runs. */
bool attn_cpu_isa_force(const char *name);

#endif
