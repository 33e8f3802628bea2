/* sched/compare_job.h: one comparison as a state machine: what a completed step means and what the next one is.
 * Private to sched/compare.c, which owns jobs and calls everything here with its lock held, except where said. */
#ifndef ATTND_SCHED_COMPARE_JOB_H
#define ATTND_SCHED_COMPARE_JOB_H

#include "sched/compare.h"

typedef enum attn_compare_phase {
    ATTN_COMPARE_FILL = 1,
    ATTN_COMPARE_TRUTH,
    ATTN_COMPARE_RUN,
    ATTN_COMPARE_JUDGE
} attn_compare_phase_t;

/* The rounds of a row come in passes, and the passes of all rows in turn: what the machine does meanwhile (clocks that
 * fall, neighbours) then falls on all of them alike. A pass has at least four rounds. */
#define ATTN_COMPARE_PASSES_MAX 5

typedef struct attn_compare_passes {
    uint32_t count, ended;
    bool judged;
    double median_us[ATTN_COMPARE_PASSES_MAX];
} attn_compare_passes_t;

typedef struct attn_compare_job {
    attn_compare_view_t view;
    attn_ticket_t *ticket;                /* owned until the job ends */
    int32_t *cu_seqlens_q, *cu_seqlens_k; /* owned until the job is freed */
    attn_place_t q, k, v, o, lse, truth;
    attn_need_t need;
    attn_compare_phase_t phase; /* of the request in hand */
    uint32_t row, pass;
    attn_compare_passes_t passes[ATTN_COMPARE_ROWS_MAX];
    uint32_t tries;      /* of the step in hand */
    int64_t retry_at_ns; /* 0 = not waiting */
    attn_request_t request;
    uint64_t peer;
} attn_compare_job_t;

/* Checks a plan and finds its variants, and the device whose costs the numbers of rounds come from. Without the lock.
 */
attn_status_t attn_compare_plan_resolve(const attn_compare_options_t *options, const attn_compare_plan_t *plan,
                                        const attn_variant_info_t *ret_rows[ATTN_COMPARE_ROWS_MAX], uint32_t *ret_count,
                                        attn_device_t *ret_device, attn_error_t *err);

/* A job for a plan that has been checked: `rows` variants. Takes the plan's ticket and sequence offsets on success.
 * Places what the steps write. Without the lock. Errors: TOO_LARGE, UNAVAILABLE, NO_MEMORY. */
attn_status_t attn_compare_job_create(attn_admit_t *admit, const attn_compare_plan_t *plan,
                                      const attn_variant_info_t *const *rows, uint32_t row_count,
                                      const attn_device_t *device, attn_compare_job_t **ret, attn_error_t *err);
void attn_compare_job_free(attn_compare_job_t *job); /* NULL is fine; no request may be out */

/* Hands back to the plan's owner what create() took, before a free that is not the end of a job. */
void attn_compare_job_disown(attn_compare_job_t *job, const attn_compare_plan_t *plan);

/* The first request. */
void attn_compare_job_begin(attn_compare_job_t *job);

/* Reads what job->request came back with and prepares the next one, or the same one again after job->retry_at_ns.
 * Ends the job (view.state) when there is none. */
void attn_compare_job_take(attn_compare_job_t *job, const attn_sched_view_t *devices, int64_t now_ns);

/* Ends it; closes the ticket. The request must be back. */
void attn_compare_job_end(attn_compare_job_t *job, attn_compare_state_t state, const attn_error_t *error);

/* Before submitting a RUN: fills the outputs with NaN. Without the lock. */
void attn_compare_job_poison(attn_admit_t *admit, const attn_compare_job_t *job);

#endif
