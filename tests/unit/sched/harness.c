/* harness.c: see harness.h. */
#include "harness.h"

#include <check.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

attn_sched_options_t harness_options(const char *devices)
{
    return (attn_sched_options_t){
        .worker_path = TEST_WORKER_PATH,
        .devices = devices,
        .queue_limit = 512,
        .test_variants = true,
        .quarantine_strikes = 3,
        .quarantine_window_s = 60,
        .quarantine_s = 2,
        .watchdog_floor_ms = 400 * TEST_SLOWNESS,
        .watchdog_factor = 10,
    };
}

void harness_start_with(harness_t *harness, attn_sched_options_t options)
{
    attn_error_t err = {0};
    /* What signals do to a worker is what is tested, not what a sanitizer makes of them. */
    setenv("ASAN_OPTIONS", "handle_segv=0:handle_abort=0:handle_sigbus=0", 1);
    setenv("TSAN_OPTIONS", "handle_segv=0:handle_abort=0:handle_sigbus=0", 1);
    attn_admit_options_t admit = {.arena_bytes = 64 << 20};
    ck_assert_msg(attn_admit_create(&admit, &harness->admit, &err) == ATTN_OK, "%s", err.message);
    options.admit = harness->admit;
    ck_assert_msg(attn_sched_start(&options, &harness->sched, &err) == ATTN_OK, "%s", err.message);
}

void harness_start(harness_t *harness, const char *devices, uint32_t spin_us)
{
    attn_sched_options_t options = harness_options(devices);
    options.spin_us = spin_us;
    harness_start_with(harness, options);
}

void harness_stop(harness_t *harness)
{
    attn_sched_drain_begin(harness->sched);
    attn_sched_drain_finish(harness->sched, 5000);
    attn_sched_stop(harness->sched);
    attn_admit_view_t view;
    attn_admit_view(harness->admit, &view);
    ck_assert_uint_eq(view.tickets, 0);
    ck_assert_uint_eq(view.input_used, 0);
    ck_assert_uint_eq(view.output_used, 0);
    attn_admit_destroy(harness->admit);
}

static void completed(attn_request_t *request, void *arg)
{
    job_t *job = arg;
    ck_assert_ptr_eq(request, &job->request);
    pthread_mutex_lock(&job->lock);
    static atomic_int order;
    job->done = true;
    job->completions++;
    job->order = atomic_fetch_add(&order, 1);
    pthread_cond_signal(&job->done_cond);
    pthread_mutex_unlock(&job->lock);
}

static void place(job_t *job, bool output, uint64_t bytes, attn_place_t *ret, void **ret_address)
{
    attn_error_t err;
    ck_assert_msg(attn_admit_place(job->ticket, output, bytes, ret, ret_address, &err) == ATTN_OK, "%s", err.message);
}

job_t *job_make_spec(harness_t *harness, const char *variant, attn_spec_t spec)
{
    attn_error_t err;
    job_t *job = calloc(1, sizeof *job);
    ck_assert_ptr_nonnull(job);
    pthread_mutex_init(&job->lock, NULL);
    pthread_cond_init(&job->done_cond, NULL);
    ck_assert_msg(attn_spec_measure(&spec, &job->sizes, &err) == ATTN_OK, "%s", err.message);
    uint64_t input = job->sizes.q + job->sizes.k + job->sizes.v, truth = attn_truth_bytes(&spec);
    static uint64_t peer;
    peer++; /* no peer has more than a quarter */
    ck_assert_msg(attn_admit_open(harness->admit, peer, input, job->sizes.o + job->sizes.lse + truth, &job->ticket,
                                  &err) == ATTN_OK,
                  "%s", err.message);
    attn_admit_arrived(job->ticket);
    attn_request_t *request = &job->request;
    request->op = ATTN_OP_RUN;
    request->spec = spec;
    request->ticket = job->ticket;
    request->repeat = 1;
    if (variant) {
        request->variant = attn_variant_find(variant);
        ck_assert_msg(request->variant != NULL, "no variant %s", variant);
    }
    request->complete = completed;
    request->complete_arg = job;
    snprintf(request->id, sizeof request->id, "test");
    place(job, false, job->sizes.q, &request->q, &job->q);
    place(job, false, job->sizes.k, &request->k, &job->k);
    place(job, false, job->sizes.v, &request->v, &job->v);
    place(job, true, job->sizes.o, &request->o, &job->o);
    place(job, true, job->sizes.lse, &request->lse, (void **)&job->lse);
    place(job, true, truth, &request->truth, &job->truth);
    attn_fill_normal((attn_dtype_t)spec.dtype, 7, 0, job->q, job->sizes.q / attn_dtype_size((attn_dtype_t)spec.dtype));
    attn_fill_normal((attn_dtype_t)spec.dtype, 7, 1, job->k, job->sizes.k / attn_dtype_size((attn_dtype_t)spec.dtype));
    attn_fill_normal((attn_dtype_t)spec.dtype, 7, 2, job->v, job->sizes.v / attn_dtype_size((attn_dtype_t)spec.dtype));
    memset(job->o, 0x11, job->sizes.o);
    return job;
}

job_t *job_make(harness_t *harness, const char *variant, int64_t s)
{
    attn_spec_t spec = {.dtype = ATTN_DTYPE_F32,
                        .layout = ATTN_LAYOUT_BSHD,
                        .batch = 1,
                        .h_q = 2,
                        .h_kv = 2,
                        .d = 32,
                        .s_q = s,
                        .s_kv = s,
                        .return_lse = 1};
    return job_make_spec(harness, variant, spec);
}

void job_submit(harness_t *harness, job_t *job)
{
    job->done = false;
    attn_sched_submit(harness->sched, &job->request);
}

void job_wait(job_t *job)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 60;
    int late = 0;
    pthread_mutex_lock(&job->lock);
    while (!job->done && late == 0)
        late = pthread_cond_timedwait(&job->done_cond, &job->lock, &until);
    pthread_mutex_unlock(&job->lock);
    ck_assert_msg(late == 0, "a request did not complete in 60 s");
}

attn_status_t job_run(harness_t *harness, job_t *job)
{
    job_submit(harness, job);
    job_wait(job);
    return job->request.outcome.error.status;
}

void job_free(job_t *job)
{
    ck_assert(job->done);
    attn_admit_close(job->ticket);
    pthread_cond_destroy(&job->done_cond);
    pthread_mutex_destroy(&job->lock);
    free(job);
}

int harness_serve_pid(harness_t *harness)
{
    attn_sched_view_t view;
    attn_sched_view(harness->sched, &view);
    return view.device_count ? view.devices[0].serve_pid : 0;
}

int harness_fd_count(void)
{
    int count = 0;
    DIR *folder = opendir("/proc/self/fd");
    while (readdir(folder))
        count++;
    closedir(folder);
    return count;
}

harness_t shared;

void shared_start_cpu(void)
{
    harness_start(&shared, "cpu", 0);
}

void shared_start_spinning(void)
{
    harness_start(&shared, "cpu", 300);
}

void shared_start_null(void)
{
    harness_start(&shared, "null", 0);
}

void shared_stop(void)
{
    harness_stop(&shared);
}

void expect_cpu_works(void)
{
    job_t *job = job_make(&shared, "cpu", 8);
    ck_assert_msg(job_run(&shared, job) == ATTN_OK, "%s", JOB_SAYS(job));
    job_free(job);
}

double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

bool all_zero(const void *data, uint64_t bytes)
{
    for (uint64_t i = 0; i < bytes; i++)
        if (((const unsigned char *)data)[i])
            return false;
    return true;
}
