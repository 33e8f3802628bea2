/* accuracy/judge.c: compares an answer with a truth blob by the rules of attn/accuracy.h. Pure, any thread. */
#include <math.h>
#include <stdlib.h>

#include "attn/accuracy.h"
#include "cpu/convert.h"

/* "Floored at the dtype's rounding", relative to a row: unit roundoff, because O is rounded to the dtype once. */
static double judge_row_floor(attn_dtype_t dtype)
{
    return dtype == ATTN_DTYPE_BF16 ? 0x1p-8 : dtype == ATTN_DTYPE_F16 ? 0x1p-11 : 0x1p-24;
}

typedef struct judge_state {
    attn_dtype_t dtype;
    uint32_t d;
    double rounding; /* max |(O64 + 0.3 - 0.3) - O64| in the dtype */
    double squares;
    uint64_t finite; /* elements in squares */
    attn_judgement_t *j;
} judge_state_t;

/* NaN, +inf, -inf: the same kind on both sides? */
static bool judge_same_kind(double value, double truth)
{
    if (isnan(truth))
        return isnan(value);
    if (isinf(truth))
        return value == truth;
    return isfinite(value);
}

/* The allowance of an element's format at O64: both additions in the dtype, as PyTorch's tensor + 0.3 does. */
static double judge_rounding(attn_dtype_t dtype, double truth)
{
    const float rounded = attn_float_round(dtype, (float)truth);
    const float there = attn_float_round(dtype, rounded + 0.3f);
    const float back = attn_float_round(dtype, there - 0.3f);
    return fabs((double)back - (double)rounded);
}

static void judge_row(judge_state_t *state, const void *o, int64_t at, const double *truth, double truth_lse,
                      double naive_row_err)
{
    attn_judgement_t *j = state->j;
    const bool masked = isinf(truth_lse) && truth_lse < 0;
    double error_square = 0, truth_square = 0;
    for (uint32_t x = 0; x < state->d; x++) {
        const double value = attn_element_load(state->dtype, o, at + x);
        j->elements++;
        if (!judge_same_kind(value, truth[x]) || (masked && value != truth[x])) {
            j->special_mismatch++;
            continue;
        }
        if (!isfinite(truth[x]))
            continue;
        const double error = fabs(value - truth[x]);
        const double rounding = judge_rounding(state->dtype, truth[x]);
        j->max_abs = error > j->max_abs ? error : j->max_abs;
        state->rounding = rounding > state->rounding ? rounding : state->rounding;
        error_square += error * error;
        truth_square += truth[x] * truth[x];
        state->finite++;
    }
    state->squares += error_square;
    if (truth_square == 0 && error_square == 0)
        return;
    const double norm = sqrt(truth_square);
    const double relative = sqrt(error_square) / norm; /* inf where the truth is zero and O is not */
    const double naive = norm > 0 ? naive_row_err / norm : 0;
    const double row_floor = judge_row_floor(state->dtype);
    const double allowed = 2 * (naive > row_floor ? naive : row_floor);
    const double excess = relative / allowed;
    j->row_rel = relative > j->row_rel ? relative : j->row_rel;
    if (excess > j->row_excess) {
        j->row_excess = excess;
        j->row_rel_allowed = allowed;
    }
}

static void judge_lse(attn_judgement_t *j, double lse, double truth)
{
    j->elements++;
    if (!judge_same_kind(lse, truth)) {
        j->special_mismatch++;
        return;
    }
    if (!isfinite(truth))
        return;
    const double scale = fabs(truth) > 1 ? fabs(truth) : 1;
    const double error = fabs(lse - truth) / scale;
    j->lse_err = error > j->lse_err ? error : j->lse_err;
}

static void judge_problem(judge_state_t *state, const attn_problem_t *p, attn_truth_view_t *truth)
{
    for (uint32_t b = 0; b < p->batch; b++)
        for (uint32_t h = 0; h < p->h_q; h++)
            for (int64_t s = 0; s < p->s_q; s++) {
                const int64_t at = (int64_t)b * p->o.stride_b + s * p->o.stride_s + (int64_t)h * p->o.stride_h;
                judge_row(state, p->o.data, at, truth->o, *truth->lse, *truth->naive_row_err);
                if (p->lse)
                    judge_lse(state->j, (double)p->lse[(int64_t)b * p->lse_stride_b + (int64_t)h * p->lse_stride_h + s],
                              *truth->lse);
                truth->o += p->d;
                truth->lse++;
                truth->naive_row_err++;
            }
}

attn_status_t attn_truth_judge(const attn_spec_t *spec, const int32_t *cu_seqlens_q, const int32_t *cu_seqlens_k,
                               const attn_addresses_t *tensors, const void *truth, attn_judgement_t *ret,
                               attn_error_t *err)
{
    const bool empty = spec->s_q == 0 || spec->batch == 0;
    if (spec->return_lse && !tensors->lse && !empty)
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "the request returns LSE, but there is none to judge");
    const uint32_t count = attn_spec_problem_count(spec);
    attn_problem_t *problems = calloc(count ? count : 1, sizeof *problems);
    if (!problems)
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for the %u problems of this request", count);
    attn_spec_problems(spec, cu_seqlens_q, cu_seqlens_k, tensors, problems);

    attn_truth_view_t view;
    attn_truth_open(spec, (void *)(uintptr_t)truth, &view); /* read only from here on */
    attn_judgement_t judgement = {0};
    const attn_dtype_t dtype = (attn_dtype_t)spec->dtype;
    judge_state_t state = {.dtype = dtype, .d = spec->d, .j = &judgement};
    const double naive_max_abs = *view.naive_max_abs;
    for (uint32_t i = 0; i < count; i++)
        judge_problem(&state, &problems[i], &view);
    free(problems);

    judgement.max_abs_allowed = 2 * naive_max_abs + 2 * state.rounding;
    judgement.rmse = state.finite ? sqrt(state.squares / (double)state.finite) : 0;
    judgement.lse_allowed = 1e-5 + (double)spec->softcap * 0x1p-11;
    if (judgement.row_rel_allowed == 0)
        judgement.row_rel_allowed = 2 * judge_row_floor(dtype);
    judgement.pass = judgement.special_mismatch == 0 && judgement.max_abs <= judgement.max_abs_allowed &&
                     judgement.row_excess <= 1 && judgement.lse_err <= judgement.lse_allowed;
    *ret = judgement;
    return ATTN_OK;
}
