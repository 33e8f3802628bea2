/* codec/query.h: the query of a URL, strictly: every parameter is known where it is given, given once, and its value is
 * read whole. Pure; any thread. */
#ifndef ATTND_CODEC_QUERY_H
#define ATTND_CODEC_QUERY_H

#include "codec/ask.h"

/* Which parameters belong to a request. */
typedef enum attn_query_use {
    ATTN_QUERY_NONE = 0,             /* x-attn: the metadata says everything */
    ATTN_QUERY_ATTENTION = 1 << 0,   /* safetensors to /v1/attention */
    ATTN_QUERY_COMPARE = 1 << 1,     /* safetensors to /v1/compare */
    ATTN_QUERY_COMPARE_WAIT = 1 << 2 /* x-attn or JSON to /v1/compare: only `wait` */
} attn_query_use_t;

/* Reads "a=1&b=2" (no question mark; percent-encoded; NULL or "" is empty) into a zeroed ask and compare. Values that
 * need the shapes are checked later by attn_spec_measure(). Errors: INVALID_ARGUMENT; UNIMPLEMENTED for a reserved
 * feature. `compare` may be NULL when `use` has no compare. */
attn_status_t attn_query_parse(const char *query, attn_query_use_t use, attn_ask_t *ask, attn_compare_ask_t *compare,
                               attn_error_t *err);

/* Every parameter of the query must be `known` (NULL: there must be none), given once. */
attn_status_t attn_query_check(const char *query, const char *known, attn_error_t *err);

/* Decodes %XX and '+' of `length` bytes into `ret` (length + 1 bytes of room). False for broken escapes and for NUL. */
bool attn_percent_decode(const char *text, size_t length, char *ret);

/* Milliseconds of "30s", "500ms", "2m" or "30" (seconds); at most one hour. */
bool attn_duration_parse(const char *text, uint32_t *ret_ms);

#endif
