/* cpu/isa_avx512.c: what is compiled for AVX-512 (F, BW, DQ, VL).
 *
 * 16-bit inputs become floats when a step is loaded and go through the same multiply-adds: vdpbf16ps starts every other
 * cycle on Sapphire Rapids, so its 32 products are half of what two vfmadd per cycle do (1.28 against 5.3 per ns,
 * measured), and it would flush subnormals. */
#if defined(__x86_64__)
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#include <immintrin.h>
#define VECTOR_LANES 16
#define TILE_ROWS 8
#define TILE_VECTORS 3 /* 24 accumulators, 3 vectors and a broadcast of 32 registers; 11 loads for 24 multiply-adds */
#include "cpu/isa.h"
#include "cpu/tile_body.h"
#include "reference/rows_body.h"

const attn_cpu_isa_t attn_cpu_isa_avx512 = {
    .name = "avx512", .lanes = TILE_LANES, .tile_run = tile_run, .reference_rows = rows_run};
#endif
