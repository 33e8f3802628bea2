/* attn/engine_variants.h: how workers find what runs a row. Only workers link the libraries behind these. */
#ifndef ATTN_ENGINE_VARIANTS_H
#define ATTN_ENGINE_VARIANTS_H

#include "attn/kernel.h"

#ifdef __cplusplus
extern "C" {
#endif

/* In attn_kernels_cpu: `cpu`, `reference` and the test-only variants on the CPU. NULL when unknown there. Static
 * storage, any thread. A launch uses exec->device->units threads; one launch runs at a time, others wait. */
const attn_variant_t *attn_cpu_variant_find(const char *name);

/* In attn_kernels_cuda: every variant that runs on a CUDA device. NULL when unknown there. */
const attn_variant_t *attn_cuda_variant_find(const char *name);

#ifdef __cplusplus
}
#endif
#endif
