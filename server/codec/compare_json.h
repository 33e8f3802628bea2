/* codec/compare_json.h: comparisons in JSON: what is asked, how a job stands. Pure; any thread. */
#ifndef ATTND_CODEC_COMPARE_JSON_H
#define ATTND_CODEC_COMPARE_JSON_H

#include <stddef.h>

#include "codec/ask.h"
#include "sched/compare.h"

/* Reads the body of POST /v1/compare for inputs that the daemon makes:
 *   {"shape": {"batch": 1, "s_q": 1024, "s_kv": 1024, "h_q": 32, "h_kv": 8, "d": 128}, "seed": 1,
 *    "variants": ["unified", "cpu"], "dtype": "bf16", "layout": "bshd", "causal": true, "sm_scale": 0.1,
 *    "softcap": 30, "return_lse": true, "warmup": 2, "rounds": 10}
 * Only "shape" is needed, and of it s_q, h_q and d: batch is 1, s_kv is s_q, h_kv is h_q. Packed: "layout": "thd" with
 * "cu_seqlens_q" and "cu_seqlens_k", lists that stand for batch, s_q and s_kv. dtype is bf16 and the seed 0 unless
 * given. What is in *compare from the query (wait_ms) stays. On failure *ask may hold cu_seqlens for attn_ask_clear().
 * Errors: INVALID_ARGUMENT, UNIMPLEMENTED (a reserved feature), TOO_LARGE, NO_MEMORY. */
attn_status_t attn_compare_json_read(const char *text, size_t bytes, attn_ask_t *ask, attn_compare_ask_t *compare,
                                     attn_error_t *err);

/* A job as the members of attn.v1.Job; malloc'ed, NULL without memory. Without `with_result` only its state and
 * progress. Numbers that are not finite are null. */
char *attn_compare_json_write(const attn_compare_view_t *view, bool with_result);

#endif
