/* cpu/isa_base.c: what is compiled for any machine: 4 floats per vector, which is SSE2 and NEON. */
#define VECTOR_LANES 4
#define TILE_ROWS 4
#define TILE_VECTORS 2 /* 8 accumulators, 2 vectors and a broadcast fit 16 registers without a fused multiply-add */
#include "cpu/isa.h"
#include "cpu/tile_body.h"
#include "reference/rows_body.h"

const attn_cpu_isa_t attn_cpu_isa_base = {
    .name = "base", .lanes = TILE_LANES, .tile_run = tile_run, .reference_rows = rows_run};
