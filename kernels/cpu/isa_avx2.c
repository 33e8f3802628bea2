/* cpu/isa_avx2.c: what is compiled for AVX2, FMA and F16C. */
#if defined(__x86_64__)
#pragma GCC target("avx2,fma,f16c")
#include <immintrin.h>
#define VECTOR_LANES 8
#define TILE_ROWS 4
#define TILE_VECTORS 3 /* 12 accumulators, 3 vectors and a broadcast are the 16 registers */
#include "cpu/isa.h"
#include "cpu/tile_body.h"
#include "reference/rows_body.h"

const attn_cpu_isa_t attn_cpu_isa_avx2 = {
    .name = "avx2", .lanes = TILE_LANES, .tile_run = tile_run, .reference_rows = rows_run};
#endif
