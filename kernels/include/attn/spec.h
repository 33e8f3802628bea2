/* attn/spec.h: what a request says about its tensors, and the one overflow-checked size routine.
 *
 * Every door (protobuf, safetensors query, JSON, shared memory) fills an attn_spec_t and calls
 * attn_spec_measure(); nothing else multiplies extents. Pure functions, any thread. */
#ifndef ATTN_SPEC_H
#define ATTN_SPEC_H

#include "attn/kernel.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum attn_layout {
    ATTN_LAYOUT_INVALID = 0,
    ATTN_LAYOUT_BSHD = 1, /* [batch, s, h, d] */
    ATTN_LAYOUT_BHSD = 2, /* [batch, h, s, d] */
    ATTN_LAYOUT_THD = 3   /* packed [total, h, d] with cu_seqlens */
} attn_layout_t;

const char *attn_layout_name(attn_layout_t layout); /* "bshd", …; static storage */

/* Fixed width: the same record crosses to the worker. O has Q's shape and layout. */
typedef struct attn_spec {
    uint32_t dtype;  /* attn_dtype_t */
    uint32_t layout; /* attn_layout_t */
    uint32_t batch;  /* sequences; for thd the number of entries of cu_seqlens less one */
    uint32_t h_q, h_kv, d;
    int64_t s_q, s_kv; /* for thd: total_q and total_kv */
    float sm_scale;    /* resolved: never 0 after attn_spec_measure() (0 in = 1/sqrt(d)) */
    float softcap;     /* 0 = off */
    uint8_t causal, return_lse;
    uint8_t reserved[6]; /* zero */
} attn_spec_t;

typedef struct attn_sizes {
    uint64_t q, k, v, o, lse; /* bytes; lse 0 when not asked for */
} attn_sizes_t;

#define ATTN_EXTENT_MAX (INT64_C(1) << 40) /* of one dimension; products are checked on their own */
#define ATTN_BATCH_MAX 1048576u

/* Validates a spec (positive h_q, h_kv, d; h_q % h_kv == 0; d <= ATTN_HEAD_DIM_MAX; finite sm_scale > 0 or 0 for the
 * default; finite softcap >= 0; known dtype and layout; extents within limits), resolves sm_scale in place and
 * gives the byte size of each tensor. Errors: INVALID_ARGUMENT with a sentence, TOO_LARGE when a size overflows
 * int64. `spec` and *ret are untouched on failure. */
attn_status_t attn_spec_measure(attn_spec_t *spec, attn_sizes_t *ret, attn_error_t *err);

/* Validates packed sequence offsets: `count` == batch + 1 entries, first 0, non-decreasing, last == total.
 * `name` ("cu_seqlens_q") goes into the sentence. */
attn_status_t attn_cu_seqlens_check(const char *name, const int32_t *cu_seqlens, uint64_t count, uint32_t batch,
                                    int64_t total, attn_error_t *err);

/* What the request needs of a variant. cu_seqlens may be NULL unless thd. `placement_alignment` is the largest
 * power of two that divides every tensor's address. */
void attn_spec_need(const attn_spec_t *spec, const int32_t *cu_seqlens_q, const int32_t *cu_seqlens_k,
                    uint32_t placement_alignment, attn_need_t *ret);

/* Addresses of a request's tensors in this process (or on the device). lse NULL when not asked for. */
typedef struct attn_addresses {
    void *q, *k, *v, *o;
    float *lse;
} attn_addresses_t;

/* Problems that a spec expands to: 1, or `batch` for thd. */
uint32_t attn_spec_problem_count(const attn_spec_t *spec);

/* Writes attn_spec_problem_count() problems. Strides by layout; thd: LSE is [h_q, total_q]. */
void attn_spec_problems(const attn_spec_t *spec, const int32_t *cu_seqlens_q, const int32_t *cu_seqlens_k,
                        const attn_addresses_t *addresses, attn_problem_t *ret_problems);

#ifdef __cplusplus
}
#endif
#endif
