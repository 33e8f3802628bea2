/* codec/json.h: JSON from strangers, with the limits that jansson has not. Any thread. */
#ifndef ATTND_CODEC_JSON_H
#define ATTND_CODEC_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "attn/status.h"

#define ATTN_JSON_DEPTH_MAX 8
#define ATTN_JSON_VALUES_MAX 4096

/* Parses one JSON text; `what` ("safetensors header") begins the sentence. Refuses duplicate keys, nesting deeper than
 * ATTN_JSON_DEPTH_MAX and more than ATTN_JSON_VALUES_MAX values before anything is built: jansson takes about 100
 * bytes of heap for each value of 2 bytes. json_decref() frees it. Errors: INVALID_ARGUMENT. */
attn_status_t attn_json_parse(const char *what, const char *text, size_t bytes, json_t **ret, attn_error_t *err);

/* A whole number of 0 or more. */
bool attn_json_u64(const json_t *value, uint64_t *ret);

/* An error as {"error", "code", "request_id", "retryable", "missing"}; malloc'ed, NULL without memory. `missing` may
 * be NULL. */
struct attn_missing;
char *attn_json_error(const attn_error_t *error, const char *request_id, const struct attn_missing *missing);

#endif
