/* codec/safetensors.h: the header of a safetensors file: read from strangers, written for answers. Pure; any thread.
 *
 * A file is a little-endian u64 length, that many bytes of JSON {"name": {"dtype", "shape", "data_offsets"}, …,
 * "__metadata__": {string: string}}, and the tensors, which tile the rest. */
#ifndef ATTND_CODEC_SAFETENSORS_H
#define ATTND_CODEC_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "attn/status.h"
#include "codec/ask.h"
#include "codec/tiling.h"

enum { ATTN_TENSOR_Q, ATTN_TENSOR_K, ATTN_TENSOR_V, ATTN_TENSOR_CU_Q, ATTN_TENSOR_CU_K, ATTN_TENSOR_COUNT };

/* Reads a request's header (without the length in front): q, k, v of one dtype, and int32 cu_seqlens_q, cu_seqlens_k
 * when packed. ask->spec.layout may be preset (the query's `layout`); INVALID means bshd, or thd when there are
 * cu_seqlens. Fills dtype, extents and sizes; flags and scales are preset. `total` is what is left of the body.
 * ret_slices are sorted by offset, tagged with ATTN_TENSOR_*. Errors: INVALID_ARGUMENT, UNIMPLEMENTED, TOO_LARGE. */
attn_status_t attn_safetensors_read(const char *header, size_t bytes, uint64_t total, attn_ask_t *ask,
                                    attn_slice_t ret_slices[ATTN_TENSOR_COUNT], uint32_t *ret_count, attn_error_t *err);

typedef struct attn_safetensors_tensor {
    const char *name, *dtype; /* "o", "BF16" */
    uint32_t rank;
    uint64_t shape[4];
    uint64_t bytes;
} attn_safetensors_tensor_t;
typedef struct attn_safetensors_pair {
    const char *key, *value; /* UTF-8 */
} attn_safetensors_pair_t;

/* A head: length and JSON, padded with spaces to a multiple of 8; the tensors follow in this order. malloc'ed. */
attn_status_t attn_safetensors_write(const attn_safetensors_tensor_t *tensors, uint32_t tensor_count,
                                     const attn_safetensors_pair_t *metadata, uint32_t pair_count, void **ret,
                                     size_t *ret_bytes, attn_error_t *err);

const char *attn_safetensors_dtype(uint32_t dtype); /* "F16", "BF16", "F32" */

#endif
