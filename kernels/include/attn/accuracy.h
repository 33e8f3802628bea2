/* attn/accuracy.h: how far an answer is from the truth (design section 6). Shared by compare and by the tests.
 *
 * *Truth* of a request: O64 and LSE64 from fp64 with the inputs as rounded, and, per row, the error of the plain
 * formula (scores and probabilities rounded to the request's dtype, fp32 accumulation). It is one blob with a
 * layout of this module, so that it can lie in an arena and be computed once for many variants. */
#ifndef ATTN_ACCURACY_H
#define ATTN_ACCURACY_H

#include "attn/spec.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct attn_judgement {
    double max_abs;            /* max |O - O64| */
    double max_abs_allowed;    /* 2 max|Onaive - O64| + 2 max|(O64 + 0.3 - 0.3) - O64| in the request's dtype */
    double rmse;               /* sqrt(mean((O - O64)^2)) */
    double row_rel;            /* worst ||O - O64|| / ||O64|| over rows */
    double row_rel_allowed;    /* at the row of row_excess: twice the larger of naive_row_err (relative) and the
                                  dtype's unit roundoff */
    double row_excess;         /* worst row_rel / its allowance, over rows; <= 1 passes */
    double lse_err;            /* worst |LSE - LSE64| / max(1, |LSE64|); 0 when there is none */
    double lse_allowed;        /* 1e-5, plus softcap * 2^-11 where tanh is approximate */
    uint64_t special_mismatch; /* elements of O and LSE whose NaN, +inf, -inf or masked-row zero differ */
    uint64_t elements;
    uint32_t pass; /* 1 when all of the above hold */
    uint32_t reserved;
} attn_judgement_t;

/* Bytes of the truth blob; 0 when they exceed 2^63. */
uint64_t attn_truth_bytes(const attn_spec_t *spec);

/* Computes the truth on the CPU in pieces of at most 50 ms (exec->checkpoint between them).
 * Errors: CANCELLED, NO_MEMORY. */
attn_status_t attn_truth_compute(const attn_spec_t *spec, const int32_t *cu_seqlens_q, const int32_t *cu_seqlens_k,
                                 const attn_addresses_t *tensors, void *truth, const attn_exec_t *exec,
                                 attn_error_t *err);

/* Judges tensors->o (and ->lse when the spec has it) against a truth blob, on up to `threads` threads in pieces of at
 * most a few ms: exec->checkpoint is called between them (NULL is fine). The same result on any number of threads.
 * Errors: INVALID_ARGUMENT, CANCELLED, NO_MEMORY. */
attn_status_t attn_truth_judge(const attn_spec_t *spec, const int32_t *cu_seqlens_q, const int32_t *cu_seqlens_k,
                               const attn_addresses_t *tensors, const void *truth, unsigned threads,
                               const attn_exec_t *exec, attn_judgement_t *ret, attn_error_t *err);

/* Views into a truth blob, for whoever computes it elsewhere (the GPU) with the same layout. Row r of O64 is
 * sequence-major: for problem p, batch b, head h, query i in that order. `naive_row_err` is ||Onaive - O64||, but at
 * least 2^-20 max(1, |LSE64|) ||sum_j P_j |V_j| ||, which is 16 roundoffs of fp32: a score is known to |S| 2^-24 and P
 * to as much of itself, while in a row that hangs on two keys, or whose sum cancels, the plain formula may be right by
 * luck. It matters in fp32 only: 64 keys missing of 32,768 (4 % of a row of such a mean) are still 15 times what it
 * allows. The truths of the CPU and of the GPU have the same floor. It is short where a row's scores are small by
 * cancellation: their rounding is that of their terms (one request of a random sweep, 129 x 5, d 256, scale 1, 1.24
 * times what is allowed). */
typedef struct attn_truth_view {
    double *naive_max_abs; /* one */
    double *o;             /* rows x d */
    double *lse;           /* rows */
    double *naive_row_err; /* rows */
    uint64_t rows;
} attn_truth_view_t;
void attn_truth_open(const attn_spec_t *spec, void *truth, attn_truth_view_t *ret);

/* N(0,1) values by Philox4x32-10 keyed with (seed, tensor index 0=q 1=k 2=v) and counted by element, rounded to
 * the dtype: the same numbers on every machine. */
void attn_fill_normal(attn_dtype_t dtype, uint64_t seed, uint32_t tensor, void *ret_data, uint64_t elements);

/* Elements [first, first + elements) of the same sequence, so that a long fill can be done in pieces. */
void attn_fill_normal_at(attn_dtype_t dtype, uint64_t seed, uint32_t tensor, uint64_t first, void *ret_data,
                         uint64_t elements);

#ifdef __cplusplus
}
#endif
#endif
