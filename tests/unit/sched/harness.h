/* harness.h: a scheduler with real workers, and requests on its arenas, for the scheduler's tests. */
#ifndef TEST_SCHED_HARNESS_H
#define TEST_SCHED_HARNESS_H

#include <pthread.h>

#include "sched/admit.h"
#include "sched/sched.h"

typedef struct harness {
    attn_admit_t *admit;
    attn_sched_t *sched;
} harness_t;

/* `devices` as in the option. Quick limits: a watchdog's floor of 400 ms, three strikes in 60 s for 2 s.
 * `spin_us` 0 = as the machine has it. */
void harness_start(harness_t *harness, const char *devices, uint32_t spin_us);
/* The same with other limits: harness_options() changed to taste. */
attn_sched_options_t harness_options(const char *devices);
void harness_start_with(harness_t *harness, attn_sched_options_t options);
void harness_stop(harness_t *harness);

/* One request with its places; submitted, waited for, freed. */
typedef struct job {
    attn_request_t request;
    attn_ticket_t *ticket;
    void *q, *k, *v, *o, *truth;
    float *lse;
    attn_sizes_t sizes;
    pthread_mutex_t lock;
    pthread_cond_t done_cond;
    bool done;
    int completions;
    int order; /* number of its last completion among all */
} job_t;

/* fp32 bshd [1, s, 2, 32] with s_kv = s, LSE asked for. `variant` NULL = auto. */
job_t *job_make(harness_t *harness, const char *variant, int64_t s);
job_t *job_make_spec(harness_t *harness, const char *variant, attn_spec_t spec);
void job_submit(harness_t *harness, job_t *job);
void job_wait(job_t *job);                             /* fails the test after 60 s */
attn_status_t job_run(harness_t *harness, job_t *job); /* submit and wait */
void job_free(job_t *job);
#define JOB_SAYS(job) ((job)->request.outcome.error.message)

/* Polls until the condition holds, for at most 20 s; fails the test otherwise. */
#define WAIT_FOR(condition)                                                                                            \
    do {                                                                                                               \
        int turns_ = 0;                                                                                                \
        while (!(condition) && turns_++ < 20000)                                                                       \
            usleep(1000);                                                                                              \
        ck_assert_msg(condition, "never came true: %s", #condition);                                                   \
    } while (0)

/* The harness of a test's fixture. */
extern harness_t shared;
void shared_start_cpu(void);
void shared_start_spinning(void);
void shared_start_null(void);
void shared_stop(void);
void expect_cpu_works(void); /* one job on it */

double seconds(void); /* monotonic */
bool all_zero(const void *data, uint64_t bytes);
int harness_serve_pid(harness_t *harness); /* of device 0; 0 when none is ready */
int harness_fd_count(void);

#endif
