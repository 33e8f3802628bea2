/* cuda/variants.c: the variants that run on a CUDA device, by name. Static data, any thread. */
#include "cuda/variants.h"

#include <string.h>

#include "attn/engine_variants.h"
#include "cuda/cuda.h"
#include "faults/faults.h"
#include "faults/faults_info.h"
#include "reference/reference_info.h"
#include "sm90/unified.h"

static const attn_variant_t reference = {&attn_reference_info, attn_cuda_reference_workspace,
                                         attn_cuda_reference_launch};

static const attn_variant_t *const kernels[] = {&reference, &attn_variant_unified, &attn_variant_gqa_fwd_ws,
                                                &attn_variant_gqa_prefill_fwd_ws};

/* Test-only variants that do something on the GPU rather than in their launch. */
static const attn_variant_t device_faults[] = {
    {&attn_fault_infos[ATTN_FAULT_NULL], NULL, attn_cuda_null_launch},
    {&attn_fault_infos[ATTN_FAULT_SPIN], NULL, attn_cuda_spin_launch},
    {&attn_fault_infos[ATTN_FAULT_SPIN_SERVE], NULL, attn_cuda_spin_launch},
    {&attn_fault_infos[ATTN_FAULT_OOB], NULL, attn_cuda_oob_launch},
    {&attn_fault_infos[ATTN_FAULT_WRITE_INPUT], NULL, attn_cuda_write_input_launch},
};

const attn_variant_t *attn_cuda_variant_find(const char *name)
{
    for (size_t i = 0; i < sizeof kernels / sizeof kernels[0]; i++)
        if (strcmp(kernels[i]->info->name, name) == 0)
            return kernels[i];
    for (size_t i = 0; i < sizeof device_faults / sizeof device_faults[0]; i++)
        if (strcmp(device_faults[i].info->name, name) == 0)
            return &device_faults[i];
    return attn_fault_variant_find(name);
}

/* Query rows of a tile of `unified`, at least (sm90/tiles.cuh). Every tile of a query head reads the head's K and V. */
#define UNIFIED_TILE_ROWS 128u

uint64_t attn_cuda_variant_reads(const attn_variant_t *variant, const attn_spec_t *spec, const attn_sizes_t *sizes)
{
    if (variant->launch != attn_variant_unified.launch || spec->h_kv == 0)
        return UINT64_MAX;
    /* No sequence of a packed request has more tiles than all rows together would have. */
    uint64_t tiles = ((uint64_t)spec->s_q + UNIFIED_TILE_ROWS - 1) / UNIFIED_TILE_ROWS, times, again, reads;
    if (__builtin_mul_overflow(tiles, (uint64_t)(spec->h_q / spec->h_kv), &times) ||
        __builtin_mul_overflow(times, sizes->k + sizes->v, &again) || __builtin_add_overflow(again, sizes->q, &reads))
        return UINT64_MAX;
    return reads;
}
