/* codec/tiling.h: tensors tile the body: every byte of it belongs to exactly one. Pure; any thread. */
#ifndef ATTND_CODEC_TILING_H
#define ATTND_CODEC_TILING_H

#include <stdint.h>

#include "attn/status.h"

typedef struct attn_slice {
    const char *name; /* for sentences */
    uint64_t offset, length;
    uint32_t tag; /* the caller's */
} attn_slice_t;

/* Sorts the slices by offset and checks that they cover [0, total) without holes and overlaps. Empty ones may lie
 * anywhere within. Errors: INVALID_ARGUMENT. */
attn_status_t attn_tiling_check(attn_slice_t *slices, uint32_t count, uint64_t total, attn_error_t *err);

#endif
