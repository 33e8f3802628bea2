/* cuda/variants.c: the variants that run on a CUDA device, by name. Static data, any thread. */
#include "cuda/variants.h"

#include <string.h>

#include "attn/engine_variants.h"
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
