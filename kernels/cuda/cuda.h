/* cuda/cuda.h: what the GPU engine and its tests need of kernels/cuda beyond attn_cuda_variant_find()
 * (attn/engine_variants.h). One device per process: the current one. */
#ifndef ATTN_CUDA_CUDA_H
#define ATTN_CUDA_CUDA_H

#include "attn/accuracy.h"
#include "attn/kernel.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The truth of attn/accuracy.h, with the definitions of attn_truth_compute(), on the GPU. `tensors` (q, k, v) and
 * `truth` (attn_truth_bytes()) are device addresses. Asynchronous on exec->stream, except that a long computation is
 * launched in pieces of about 25 ms with exec->checkpoint between them. `exec` needs attn_cuda_truth_workspace() bytes
 * of workspace. Errors: CANCELLED, NO_MEMORY, DEVICE; after one, work may still be on the stream. */
attn_status_t attn_cuda_truth_compute(const attn_spec_t *spec, const int32_t *cu_seqlens_q, const int32_t *cu_seqlens_k,
                                      const attn_addresses_t *tensors, void *truth, const attn_exec_t *exec,
                                      attn_error_t *err);
size_t attn_cuda_truth_workspace(const attn_spec_t *spec, const attn_device_t *device);

/* Copies by one kernel, for many small pieces: each side is device memory or pinned and mapped host memory; addresses
 * and lengths are multiples of 16. Over 100 of them come in several launches. Asynchronous. What follows on the stream
 * may begin early (attn_exec_t). Returns a cudaError_t. */
typedef struct attn_cuda_move {
    void *to;
    const void *from;
    size_t bytes;
} attn_cuda_move_t;
/* When it ran, in nanoseconds of the GPU's clock, for whoever cannot put an event behind it. */
enum { ATTN_CUDA_GATHER_BLOCKS = 264 }; /* two for each multiprocessor */
typedef struct attn_cuda_gather_times {
    uint64_t began;
    uint64_t ended[ATTN_CUDA_GATHER_BLOCKS]; /* of these, `blocks` are written */
} attn_cuda_gather_times_t;
/* `times`: in pinned memory, written by the kernel; NULL is fine. */
int attn_cuda_gather(const attn_cuda_move_t *moves, uint32_t count, attn_cuda_gather_times_t *times,
                     uint32_t *ret_blocks, void *stream);

/* Fills *err for a failed CUDA call: NO_MEMORY or DEVICE. `rc` is a cudaError_t. "<what>: <CUDA's sentence>". */
attn_status_t attn_cuda_error(attn_error_t *err, int rc, const char *what);

#ifdef __cplusplus
}
#endif
#endif
