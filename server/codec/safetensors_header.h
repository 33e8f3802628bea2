/* codec/safetensors_header.h: the entries of a request's safetensors header, as safetensors.c and safetensors_plain.c
 * share them. Pure; any thread. */
#ifndef ATTND_CODEC_SAFETENSORS_HEADER_H
#define ATTND_CODEC_SAFETENSORS_HEADER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "codec/safetensors.h"

#define ATTN_SAFETENSORS_RANK_MAX 8

typedef struct attn_safetensors_entry {
    bool present;
    char dtype[8];
    size_t rank;
    uint64_t shape[ATTN_SAFETENSORS_RANK_MAX];
    uint64_t begin, end;
} attn_safetensors_entry_t;

extern const char *const attn_safetensors_names[ATTN_TENSOR_COUNT]; /* "q", "k", … by ATTN_TENSOR_* */

/* Reads a header in the form that writers of safetensors give it: known names, no escapes, whole numbers. False when it
 * is anything else, right or wrong; `ret` (zeroed by the caller) is undefined then. What is taken here means the same
 * to a parser of all of JSON. */
bool attn_safetensors_plain(const char *header, size_t bytes, attn_safetensors_entry_t ret[ATTN_TENSOR_COUNT]);

/* Reads any header, or says what is wrong with it. Which tensors there are is not looked at. Errors: INVALID_ARGUMENT,
 * UNIMPLEMENTED. */
attn_status_t attn_safetensors_parse(const char *header, size_t bytes, attn_safetensors_entry_t ret[ATTN_TENSOR_COUNT],
                                     attn_error_t *err);

#endif
