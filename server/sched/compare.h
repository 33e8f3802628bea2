/* sched/compare.h: comparisons: jobs that run a list of variants on the same tensors and judge each against fp64.
 *
 * Every step of a job is an ordinary request to the scheduler: FILL (when the daemon makes the inputs), TRUTH, then per
 * variant RUN in the lab class and JUDGE, then further RUNs of all variants in turn, for their times. A variant that
 * crashes, hangs or refuses costs its own row only.
 *
 * One thread, the *compare thread*, moves all jobs: the scheduler's completions only set a flag and wake it, because
 * the outputs are overwritten with NaN before each RUN (a variant that writes nothing must not be judged by what the
 * one before it left), and that may take long. Functions here may be called from any thread; they lock one mutex, never
 * held over a system call that may block. A job's memory is one ticket of credit from its submission to its end; its
 * result is small and is kept for a while. */
#ifndef ATTND_SCHED_COMPARE_H
#define ATTND_SCHED_COMPARE_H

#include "sched/admit.h"
#include "sched/sched.h"

#define ATTN_COMPARE_ROWS_MAX 16
#define ATTN_COMPARE_ROUNDS_MAX 1000 /* of warmup and of rounds */
#define ATTN_COMPARE_ID_MAX 40
#define ATTN_COMPARE_SEQLENS_SHOWN 257 /* entries of cu_seqlens that a result repeats; longer ones are left out */

typedef struct attn_compare attn_compare_t;

typedef struct attn_compare_options {
    attn_sched_t *sched; /* outlive the comparisons */
    attn_admit_t *admit;
    uint32_t jobs_max; /* kept, with the ended ones; when all of them are under way the next one gets UNAVAILABLE */
    uint32_t keep_s;   /* that an ended job can be asked for */
    bool test_variants;
} attn_compare_options_t;

attn_status_t attn_compare_start(const attn_compare_options_t *options, attn_compare_t **ret, attn_error_t *err);

/* Refuses new jobs, waits until none is under way or timeout_ms has passed, then ends the rest as FAILED (UNAVAILABLE)
 * and waits for them. Before attn_sched_drain_finish(). */
void attn_compare_drain(attn_compare_t *compare, int timeout_ms);

/* Ends what is under way, tells every watcher, ends the thread. Before attn_sched_stop(). NULL is fine. */
void attn_compare_stop(attn_compare_t *compare);

/* What to compare. */
typedef struct attn_compare_plan {
    attn_spec_t spec; /* measured */
    attn_sizes_t sizes;
    int32_t *cu_seqlens_q, *cu_seqlens_k; /* malloc; NULL unless thd. The job's once it is accepted */
    bool has_seed;                        /* the daemon makes q, k and v; else they lie in q, k, v of `ticket` */
    uint64_t seed;
    attn_ticket_t *ticket; /* whose credit covers o, lse and the truth; NULL with has_seed. The job's once accepted */
    attn_place_t q, k, v;
    uint64_t peer;
    uint32_t variant_count; /* 0: all that support the request, without aliases and test variants */
    const char *variants[ATTN_COMPARE_ROWS_MAX];
    const char *reference;       /* NULL, "" or "reference" */
    bool has_warmup, has_rounds; /* else chosen by the expected time, per variant */
    uint32_t warmup, rounds;
} attn_compare_plan_t;

/* Starts a job. Errors: NOT_FOUND (a variant's name), INVALID_ARGUMENT, TOO_LARGE (tensors, answer and truth can never
 * fit), UNAVAILABLE (no credit, too many jobs, no device yet, draining); with FAILED_PRECONDITION no variant supports
 * the request. On failure the plan keeps what it owns. */
attn_status_t attn_compare_submit(attn_compare_t *compare, const attn_compare_plan_t *plan,
                                  char ret_id[ATTN_COMPARE_ID_MAX], attn_error_t *err);

typedef enum attn_compare_state {
    ATTN_COMPARE_QUEUED = 1, /* no step has begun */
    ATTN_COMPARE_RUNNING = 2,
    ATTN_COMPARE_DONE = 3,
    ATTN_COMPARE_FAILED = 4,
    ATTN_COMPARE_CANCELLED = 5
} attn_compare_state_t;

const char *attn_compare_state_name(attn_compare_state_t state); /* "queued", …; static storage */

typedef struct attn_compare_row {
    const attn_variant_info_t *variant;
    attn_error_t error; /* status != ATTN_OK: it did not run, or could not be judged */
    attn_missing_t missing;
    bool done;
    uint32_t warmup, rounds;
    uint32_t attempts;
    char device[48];
    attn_timing_t timing; /* of the first pass; kernel_us: the median of the passes' medians */
    double tflops;        /* 0 when no time was measured */
    attn_judgement_t judgement;
} attn_compare_row_t;

/* Everything that can be told about a job; a copy, the reader's. About 40 KiB: on the heap. */
typedef struct attn_compare_view {
    char id[ATTN_COMPARE_ID_MAX];
    attn_compare_state_t state;
    uint64_t version; /* grows with every change */
    uint32_t steps_done, steps_total;
    char step[80];      /* what runs now */
    attn_error_t error; /* FAILED */
    attn_spec_t spec;
    uint32_t seqlens_count; /* thd, when it is not more than are shown; else 0 */
    int32_t cu_seqlens_q[ATTN_COMPARE_SEQLENS_SHOWN], cu_seqlens_k[ATTN_COMPARE_SEQLENS_SHOWN];
    bool has_seed;
    uint64_t seed;
    double flops;
    uint32_t row_count;
    attn_compare_row_t rows[ATTN_COMPARE_ROWS_MAX];
    attn_device_view_t device; /* that ran the rows; uuid "" before the first */
    int64_t submitted_s;       /* Unix time */
} attn_compare_view_t;

static inline bool attn_compare_ended(const attn_compare_view_t *view)
{
    return view->state >= ATTN_COMPARE_DONE;
}

/* NOT_FOUND when there is no such job, or not any more. */
attn_status_t attn_compare_view(attn_compare_t *compare, const char *id, attn_compare_view_t *ret, attn_error_t *err);

/* Ends a job early: what runs is cancelled, rows so far are kept. Ended jobs stay as they are. */
attn_status_t attn_compare_cancel(attn_compare_t *compare, const char *id, attn_error_t *err);

/* Called once, on the compare thread without its lock: may call every function here except drain and stop, must not
 * block. `view` is valid during the call. */
typedef void (*attn_compare_watch_fn)(void *arg, const attn_compare_view_t *view);

/* Calls `tell` when the job's version is above `seen` (with until_done: when it has ended), or when deadline_ns
 * (CLOCK_MONOTONIC) passes, whichever comes first; always, and never before this returns on failure. NOT_FOUND,
 * NO_MEMORY: it is not called. */
attn_status_t attn_compare_watch(attn_compare_t *compare, const char *id, uint64_t seen, bool until_done,
                                 int64_t deadline_ns, attn_compare_watch_fn tell, void *arg, attn_error_t *err);

typedef struct attn_compare_counts {
    uint32_t active, kept;
    uint64_t done, failed, cancelled; /* since the start */
} attn_compare_counts_t;
void attn_compare_count(attn_compare_t *compare, attn_compare_counts_t *ret);

#endif
