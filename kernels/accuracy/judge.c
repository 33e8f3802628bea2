/* accuracy/judge.c: compares an answer with a truth blob by the rules of attn/accuracy.h. On the caller's thread and
 * the pool. Rows are judged in blocks whose results are put together in order, so that they do not depend on the
 * threads. */
#include <math.h>
#include <stdlib.h>

#include "attn/accuracy.h"
#include "cpu/convert.h"
#include "cpu/pool.h"

enum { BLOCK_ROWS = 256 }; /* of 256 elements: about 1 ms */

/* "Floored at the dtype's rounding", relative to a row: unit roundoff, because O is rounded to the dtype once. */
static double judge_row_floor(attn_dtype_t dtype)
{
    return dtype == ATTN_DTYPE_BF16 ? 0x1p-8 : dtype == ATTN_DTYPE_F16 ? 0x1p-11 : 0x1p-24;
}

/* A block: some rows of a problem. */
typedef struct judge_state {
    const attn_problem_t *problem;
    attn_dtype_t dtype;
    uint32_t d;
    uint64_t first, rows; /* of the problem, in the truth's order: batch, head, query */
    uint64_t truth_row;   /* of the first */
    double rounding;      /* max |(O64 + 0.3 - 0.3) - O64| in the dtype */
    double squares;
    uint64_t finite; /* elements in squares */
    attn_judgement_t j;
} judge_state_t;

typedef struct judge_job {
    attn_truth_view_t truth;
    judge_state_t *block;
    uint64_t blocks;
} judge_job_t;

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
    attn_judgement_t *j = &state->j;
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

static void judge_block(void *arg, uint64_t item, attn_pool_thread_t *thread)
{
    const judge_job_t *job = arg;
    judge_state_t *state = &job->block[item];
    const attn_problem_t *p = state->problem;
    if (!attn_pool_continue(thread))
        return;
    for (uint64_t i = 0; i < state->rows; i++) {
        const uint64_t row = state->first + i, truth = state->truth_row + i;
        const int64_t s = (int64_t)(row % (uint64_t)p->s_q), head = (int64_t)(row / (uint64_t)p->s_q);
        const int64_t b = head / p->h_q, h = head % p->h_q;
        const int64_t at = b * p->o.stride_b + s * p->o.stride_s + h * p->o.stride_h;
        judge_row(state, p->o.data, at, job->truth.o + truth * p->d, job->truth.lse[truth],
                  job->truth.naive_row_err[truth]);
        if (p->lse)
            judge_lse(&state->j, (double)p->lse[b * p->lse_stride_b + h * p->lse_stride_h + s], job->truth.lse[truth]);
    }
}

static uint64_t problem_rows(const attn_problem_t *p)
{
    return (uint64_t)p->batch * p->h_q * (uint64_t)p->s_q;
}

static bool blocks_make(const attn_problem_t *problems, uint32_t count, attn_dtype_t dtype, judge_job_t *job)
{
    for (uint32_t i = 0; i < count; i++)
        job->blocks += (problem_rows(&problems[i]) + BLOCK_ROWS - 1) / BLOCK_ROWS;
    job->block = calloc(job->blocks ? job->blocks : 1, sizeof *job->block);
    if (!job->block)
        return false;
    judge_state_t *next = job->block;
    uint64_t truth_row = 0;
    for (uint32_t i = 0; i < count; i++) {
        const uint64_t rows = problem_rows(&problems[i]);
        for (uint64_t first = 0; first < rows; first += BLOCK_ROWS)
            *next++ = (judge_state_t){.problem = &problems[i],
                                      .dtype = dtype,
                                      .d = problems[i].d,
                                      .first = first,
                                      .rows = rows - first < BLOCK_ROWS ? rows - first : BLOCK_ROWS,
                                      .truth_row = truth_row + first};
        truth_row += rows;
    }
    return true;
}

static double larger(double a, double b)
{
    return a > b ? a : b;
}

/* Everything about one block goes into the whole. */
static void block_add(judge_state_t *whole, const judge_state_t *block)
{
    attn_judgement_t *to = &whole->j;
    const attn_judgement_t *from = &block->j;
    whole->rounding = larger(block->rounding, whole->rounding);
    whole->squares += block->squares;
    whole->finite += block->finite;
    to->max_abs = larger(from->max_abs, to->max_abs);
    to->row_rel = larger(from->row_rel, to->row_rel);
    if (from->row_excess > to->row_excess) {
        to->row_excess = from->row_excess;
        to->row_rel_allowed = from->row_rel_allowed;
    }
    to->lse_err = larger(from->lse_err, to->lse_err);
    to->special_mismatch += from->special_mismatch;
    to->elements += from->elements;
}

static void verdict(const attn_spec_t *spec, const judge_job_t *job, attn_judgement_t *ret)
{
    judge_state_t whole = {0};
    for (uint64_t i = 0; i < job->blocks; i++)
        block_add(&whole, &job->block[i]);
    attn_judgement_t *j = &whole.j;
    j->max_abs_allowed = 2 * *job->truth.naive_max_abs + 2 * whole.rounding;
    j->rmse = whole.finite ? sqrt(whole.squares / (double)whole.finite) : 0;
    j->lse_allowed = 1e-5 + (double)spec->softcap * 0x1p-11;
    if (j->row_rel_allowed == 0)
        j->row_rel_allowed = 2 * judge_row_floor((attn_dtype_t)spec->dtype);
    j->pass = j->special_mismatch == 0 && j->max_abs <= j->max_abs_allowed && j->row_excess <= 1 &&
              j->lse_err <= j->lse_allowed;
    *ret = *j;
}

attn_status_t attn_truth_judge(const attn_spec_t *spec, const int32_t *cu_seqlens_q, const int32_t *cu_seqlens_k,
                               const attn_addresses_t *tensors, const void *truth, unsigned threads,
                               const attn_exec_t *exec, attn_judgement_t *ret, attn_error_t *err)
{
    const bool empty = spec->s_q == 0 || spec->batch == 0;
    if (spec->return_lse && !tensors->lse && !empty)
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "the request returns LSE, but there is none to judge");
    const uint32_t count = attn_spec_problem_count(spec);
    attn_problem_t *problems = calloc(count ? count : 1, sizeof *problems);
    if (!problems)
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for the %u problems of this request", count);
    attn_spec_problems(spec, cu_seqlens_q, cu_seqlens_k, tensors, problems);
    judge_job_t job = {0};
    attn_truth_open(spec, (void *)(uintptr_t)truth, &job.truth); /* read only from here on */
    attn_status_t status = ATTN_OK;
    if (!blocks_make(problems, count, (attn_dtype_t)spec->dtype, &job))
        status = attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory to judge an answer");
    else if (job.blocks > 0)
        status = attn_pool_run(threads, job.blocks, judge_block, &job, exec, err);
    if (status == ATTN_OK)
        verdict(spec, &job, ret);
    free(job.block);
    free(problems);
    return status;
}
