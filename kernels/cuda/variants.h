/* cuda/variants.h: what variants.c puts behind names. Launches are asynchronous on exec->stream. */
#ifndef ATTN_CUDA_VARIANTS_H
#define ATTN_CUDA_VARIANTS_H

#include "attn/kernel.h"

#ifdef __cplusplus
extern "C" {
#endif

attn_workspace_size_t attn_cuda_reference_workspace(const attn_group_t *group, const attn_device_t *device);
attn_status_t attn_cuda_reference_launch(const attn_group_t *group, const attn_exec_t *exec, attn_error_t *err);

/* Test-only variants that misbehave on the device: zeros as an answer, a kernel that never ends, a store where there
 * is no memory, a store to K. */
attn_status_t attn_cuda_null_launch(const attn_group_t *group, const attn_exec_t *exec, attn_error_t *err);
attn_status_t attn_cuda_spin_launch(const attn_group_t *group, const attn_exec_t *exec, attn_error_t *err);
attn_status_t attn_cuda_oob_launch(const attn_group_t *group, const attn_exec_t *exec, attn_error_t *err);
attn_status_t attn_cuda_write_input_launch(const attn_group_t *group, const attn_exec_t *exec, attn_error_t *err);

#ifdef __cplusplus
}
#endif
#endif
