/* sched/compare_job.c: one comparison as a state machine. Owns nothing itself; a job owns its ticket, its sequence
 * offsets and the one request that it has out at a time. On the compare thread, under its lock unless compare_job.h
 * says otherwise. */
#include "sched/compare_job.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/arena.h"
#include "base/clock.h"

/* A full queue or a worker that restarts passes; 25 tries at 200 ms are the 5 s of grace that readiness has too. */
#define RETRY_MAX 25u
#define RETRY_AFTER_NS (200 * ATTN_NS_PER_MS)

/* Rounds when the caller does not say: a median of many for what is short, one for what takes seconds. */
static void rounds_choose(double cost_us, uint32_t *ret_warmup, uint32_t *ret_rounds)
{
    *ret_warmup = cost_us <= 1e5 ? 3 : cost_us <= 1e6 ? 1 : 0;
    *ret_rounds = cost_us <= 1e5 ? 20 : cost_us <= 1e6 ? 3 : 1;
}

static uint32_t passes_choose(uint32_t rounds, uint32_t row_count)
{
    const uint32_t passes = row_count > 1 ? rounds / 4 : 1;
    return passes < 1 ? 1 : passes > ATTN_COMPARE_PASSES_MAX ? ATTN_COMPARE_PASSES_MAX : passes;
}

static attn_status_t too_large(const attn_spec_t *spec, const attn_error_t *why, attn_error_t *err)
{
    return attn_error_set(err, ATTN_ERR_TOO_LARGE,
                          "a comparison keeps its answers and their fp64 truth (8 bytes per element of O) beside the "
                          "tensors: %.250s; compare a smaller shape than %u sequences of %lld rows, %u heads of %u",
                          why->message, spec->batch, (long long)spec->s_q, spec->h_q, spec->d);
}

/* Places of the outputs, and of the inputs when the daemon makes them. */
static attn_status_t places_take(attn_admit_t *admit, const attn_compare_plan_t *plan, attn_compare_job_t *job,
                                 attn_error_t *err)
{
    const attn_sizes_t *sizes = &plan->sizes;
    uint64_t truth = attn_truth_bytes(&plan->spec), outputs = 0;
    attn_error_t why = {.message = "their size overflows"};
    if (truth == 0 || __builtin_add_overflow(sizes->o + sizes->lse, truth, &outputs) || outputs > INT64_MAX) {
        return too_large(&plan->spec, &why, err);
    }
    attn_status_t status = ATTN_OK;
    job->ticket = plan->has_seed ? NULL : plan->ticket;
    if (plan->has_seed) {
        status = attn_admit_open(admit, plan->peer, sizes->q + sizes->k + sizes->v, outputs, &job->ticket, &why);
    }
    struct {
        bool output;
        uint64_t bytes;
        attn_place_t *place;
    } wanted[] = {{false, sizes->q, &job->q}, {false, sizes->k, &job->k},    {false, sizes->v, &job->v},
                  {true, sizes->o, &job->o},  {true, sizes->lse, &job->lse}, {true, truth, &job->truth}};
    for (size_t i = plan->has_seed ? 0 : 3; i < sizeof(wanted) / sizeof(wanted[0]) && status == ATTN_OK; i++) {
        void *address;
        status = attn_admit_place(job->ticket, wanted[i].output, wanted[i].bytes, wanted[i].place, &address, &why);
    }
    if (status == ATTN_OK && plan->has_seed) {
        attn_admit_arrived(job->ticket);
    }
    if (status == ATTN_ERR_TOO_LARGE) {
        return too_large(&plan->spec, &why, err);
    }
    return status == ATTN_OK ? ATTN_OK : attn_error_set(err, status, "%s", why.message);
}

attn_status_t attn_compare_job_create(attn_admit_t *admit, const attn_compare_plan_t *plan,
                                      const attn_variant_info_t *const *rows, uint32_t row_count,
                                      const attn_device_t *device, attn_compare_job_t **ret, attn_error_t *err)
{
    attn_compare_job_t *job = calloc(1, sizeof(*job));
    if (job == NULL) {
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for a comparison");
    }
    job->q = plan->q;
    job->k = plan->k;
    job->v = plan->v;
    attn_status_t status = places_take(admit, plan, job, err);
    if (status != ATTN_OK) {
        if (plan->has_seed) {
            attn_admit_close(job->ticket);
        }
        free(job);
        return status;
    }
    attn_spec_need(&plan->spec, plan->cu_seqlens_q, plan->cu_seqlens_k, ATTN_ARENA_PAGE, &job->need);
    attn_compare_view_t *view = &job->view;
    view->state = ATTN_COMPARE_QUEUED;
    view->spec = plan->spec;
    if (plan->cu_seqlens_q != NULL && plan->spec.batch < ATTN_COMPARE_SEQLENS_SHOWN) {
        view->seqlens_count = plan->spec.batch + 1;
        memcpy(view->cu_seqlens_q, plan->cu_seqlens_q, view->seqlens_count * sizeof(view->cu_seqlens_q[0]));
        memcpy(view->cu_seqlens_k, plan->cu_seqlens_k, view->seqlens_count * sizeof(view->cu_seqlens_k[0]));
    }
    view->has_seed = plan->has_seed;
    view->seed = plan->seed;
    view->flops = job->need.flops;
    view->submitted_s = (int64_t)time(NULL);
    view->row_count = row_count;
    view->steps_total = plan->has_seed ? 2 : 1;
    for (uint32_t i = 0; i < row_count; i++) {
        attn_compare_row_t *row = &view->rows[i];
        row->variant = rows[i];
        rounds_choose(rows[i]->cost_us(&job->need, device), &row->warmup, &row->rounds);
        if (plan->has_rounds) {
            row->rounds = plan->rounds;
        }
        if (plan->has_warmup) {
            row->warmup = plan->warmup;
        }
        job->passes[i].count = passes_choose(row->rounds, row_count);
        view->steps_total += 1 + job->passes[i].count;
    }
    job->cu_seqlens_q = plan->cu_seqlens_q;
    job->cu_seqlens_k = plan->cu_seqlens_k;
    job->peer = plan->peer;
    *ret = job;
    return ATTN_OK;
}

void attn_compare_job_free(attn_compare_job_t *job)
{
    if (job == NULL) {
        return;
    }
    attn_admit_close(job->ticket);
    free(job->cu_seqlens_q);
    free(job->cu_seqlens_k);
    free(job);
}

void attn_compare_job_disown(attn_compare_job_t *job, const attn_compare_plan_t *plan)
{
    if (!plan->has_seed) {
        job->ticket = NULL;
    }
    job->cu_seqlens_q = job->cu_seqlens_k = NULL;
}

static void changed(attn_compare_job_t *job)
{
    job->view.version++;
}

/* Makes job->request the request of job->phase and job->row; `complete` and its argument stay. */
static void request_prepare(attn_compare_job_t *job)
{
    static const attn_op_t ops[] = {[ATTN_COMPARE_FILL] = ATTN_OP_FILL,
                                    [ATTN_COMPARE_TRUTH] = ATTN_OP_TRUTH,
                                    [ATTN_COMPARE_RUN] = ATTN_OP_RUN,
                                    [ATTN_COMPARE_JUDGE] = ATTN_OP_JUDGE};
    attn_request_t *request = &job->request;
    attn_request_complete_fn complete = request->complete;
    void *arg = request->complete_arg;
    const attn_compare_row_t *row = &job->view.rows[job->row];

    memset(request, 0, sizeof(*request));
    request->op = ops[job->phase];
    request->complete = complete;
    request->complete_arg = arg;
    memcpy(request->id, job->view.id, sizeof(job->view.id));
    request->spec = job->view.spec;
    request->cu_seqlens_q = job->cu_seqlens_q;
    request->cu_seqlens_k = job->cu_seqlens_k;
    request->q = job->q;
    request->k = job->k;
    request->v = job->v;
    request->seed = job->view.seed;
    request->repeat = 1;
    request->peer = job->peer;
    request->ticket = job->ticket;
    if (job->phase == ATTN_COMPARE_RUN || job->phase == ATTN_COMPARE_JUDGE) {
        request->o = job->o;
        request->lse = job->lse;
    }
    if (job->phase == ATTN_COMPARE_TRUTH || job->phase == ATTN_COMPARE_JUDGE) {
        request->truth = job->truth;
    }
    if (job->phase == ATTN_COMPARE_RUN) {
        request->variant = row->variant;
        request->force_lab = true;
        const uint32_t passes = job->passes[job->row].count;
        /* Another variant ran in between: one round to be warm again is enough, the rest was done in the first pass. */
        request->warmup = job->pass > 0 && row->warmup > 1 ? 1 : row->warmup;
        request->repeat = row->rounds / passes + (job->pass < row->rounds % passes);
    }
    char *step = job->view.step;
    size_t size = sizeof(job->view.step);
    switch (job->phase) {
    case ATTN_COMPARE_FILL:
        snprintf(step, size, "making q, k and v");
        break;
    case ATTN_COMPARE_TRUTH:
        snprintf(step, size, "computing the truth in fp64");
        break;
    case ATTN_COMPARE_RUN:
        snprintf(step, size, "running %s", row->variant->name);
        break;
    case ATTN_COMPARE_JUDGE:
        snprintf(step, size, "judging %s", row->variant->name);
        break;
    }
    changed(job);
}

static void phase_enter(attn_compare_job_t *job, attn_compare_phase_t phase)
{
    job->phase = phase;
    job->tries = 0;
    request_prepare(job);
}

void attn_compare_job_begin(attn_compare_job_t *job)
{
    job->view.state = ATTN_COMPARE_RUNNING;
    phase_enter(job, job->view.has_seed ? ATTN_COMPARE_FILL : ATTN_COMPARE_TRUTH);
}

void attn_compare_job_end(attn_compare_job_t *job, attn_compare_state_t state, const attn_error_t *error)
{
    attn_admit_close(job->ticket);
    job->ticket = NULL;
    job->view.state = state;
    job->view.step[0] = '\0';
    if (error != NULL) {
        job->view.error = *error;
    }
    changed(job);
}

/* Steps that the rows still have before them. */
static uint32_t steps_left(const attn_compare_job_t *job)
{
    uint32_t left = 0;
    for (uint32_t i = 0; i < job->view.row_count; i++) {
        if (!job->view.rows[i].done) {
            left += job->passes[i].count - job->passes[i].ended + !job->passes[i].judged;
        }
    }
    return left;
}

/* The row in hand has had its turn in this pass: the next row that has one, in this pass or the next. */
static void row_next(attn_compare_job_t *job)
{
    attn_compare_row_t *row = &job->view.rows[job->row];
    row->done = row->error.status != ATTN_OK || job->passes[job->row].ended == job->passes[job->row].count;
    job->view.steps_done = job->view.steps_total - steps_left(job);
    do {
        if (++job->row == job->view.row_count) {
            job->row = 0;
            job->pass++;
        }
    } while (job->pass < ATTN_COMPARE_PASSES_MAX && job->view.rows[job->row].done);
    if (job->pass < ATTN_COMPARE_PASSES_MAX) {
        phase_enter(job, ATTN_COMPARE_RUN);
    } else {
        attn_compare_job_end(job, ATTN_COMPARE_DONE, NULL);
    }
}

static void row_fail(attn_compare_job_t *job, const attn_outcome_t *outcome)
{
    attn_compare_row_t *row = &job->view.rows[job->row];
    row->error = outcome->error;
    row->missing = outcome->missing;
    row_next(job);
}

/* Where the first row ran is where the comparison ran. */
static void device_note(attn_compare_view_t *view, const attn_sched_view_t *devices, const char *uuid)
{
    for (uint32_t i = 0; i < devices->device_count && view->device.device.uuid[0] == '\0'; i++) {
        if (strcmp(devices->devices[i].device.uuid, uuid) == 0) {
            view->device = devices->devices[i];
        }
    }
}

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The row's times from those of its passes so far. */
static void times_merge(attn_compare_job_t *job, attn_compare_row_t *row, const attn_timing_t *timing)
{
    attn_compare_passes_t *passes = &job->passes[job->row];
    double sorted[ATTN_COMPARE_PASSES_MAX];
    if (passes->ended == 0) {
        row->timing = *timing;
    }
    passes->median_us[passes->ended++] = timing->kernel_us;
    memcpy(sorted, passes->median_us, passes->ended * sizeof(sorted[0]));
    qsort(sorted, passes->ended, sizeof(sorted[0]), compare_doubles);
    row->timing.kernel_us = (sorted[(passes->ended - 1) / 2] + sorted[passes->ended / 2]) / 2;
    if (timing->kernel_min_us < row->timing.kernel_min_us) {
        row->timing.kernel_min_us = timing->kernel_min_us;
    }
    row->tflops = row->timing.kernel_us > 0 ? job->need.flops / row->timing.kernel_us / 1e6 : 0;
}

static void run_take(attn_compare_job_t *job, const attn_sched_view_t *devices)
{
    const attn_outcome_t *outcome = &job->request.outcome;
    attn_compare_row_t *row = &job->view.rows[job->row];
    memcpy(row->device, outcome->device, sizeof(row->device));
    row->attempts = outcome->attempts > row->attempts ? outcome->attempts : row->attempts;
    times_merge(job, row, &outcome->timing);
    device_note(&job->view, devices, outcome->device);
    if (job->passes[job->row].judged) {
        row_next(job);
    } else {
        job->view.steps_done = job->view.steps_total - steps_left(job);
        phase_enter(job, ATTN_COMPARE_JUDGE);
    }
}

void attn_compare_job_take(attn_compare_job_t *job, const attn_sched_view_t *devices, int64_t now_ns)
{
    const attn_outcome_t *outcome = &job->request.outcome;
    attn_status_t status = outcome->error.status;
    if (status == ATTN_ERR_UNAVAILABLE && ++job->tries < RETRY_MAX) {
        job->retry_at_ns = now_ns + RETRY_AFTER_NS;
        request_prepare(job);
        return;
    }
    switch (job->phase) {
    case ATTN_COMPARE_FILL:
    case ATTN_COMPARE_TRUTH:
        if (status != ATTN_OK) {
            attn_compare_job_end(job, ATTN_COMPARE_FAILED, &outcome->error);
        } else {
            job->view.steps_done++;
            phase_enter(job, job->phase == ATTN_COMPARE_FILL ? ATTN_COMPARE_TRUTH : ATTN_COMPARE_RUN);
        }
        break;
    case ATTN_COMPARE_RUN:
        if (status != ATTN_OK) {
            row_fail(job, outcome);
        } else {
            run_take(job, devices);
        }
        break;
    case ATTN_COMPARE_JUDGE:
        if (status != ATTN_OK) {
            row_fail(job, outcome);
        } else {
            job->view.rows[job->row].judgement = outcome->judgement;
            job->passes[job->row].judged = true;
            row_next(job);
        }
        break;
    }
}

void attn_compare_job_poison(attn_admit_t *admit, const attn_compare_job_t *job)
{
    /* All bits set is a NaN in fp16, bf16 and fp32. */
    const attn_place_t *places[] = {&job->o, &job->lse};
    for (int i = 0; i < 2; i++) {
        if (places[i]->bytes > 0) {
            memset(attn_admit_address(admit, places[i]), 0xFF, places[i]->bytes);
        }
    }
}
