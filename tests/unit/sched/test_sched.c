/* test_sched.c: the scheduler with real workers: jobs, faults, supervision, drain. */
#include <check.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "harness.h"

static harness_t harness;

static void setup_cpu(void)
{
    harness_start(&harness, "cpu", 0);
}

static void setup_spinning(void)
{
    harness_start(&harness, "cpu", 300);
}

static void setup_null(void)
{
    harness_start(&harness, "null", 0);
}

static void teardown(void)
{
    harness_stop(&harness);
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static bool all_zero(const void *data, uint64_t bytes)
{
    for (uint64_t i = 0; i < bytes; i++)
        if (((const unsigned char *)data)[i])
            return false;
    return true;
}

/* Runs `variant` and expects it to fail as the variant's fault, with a sentence that has `text` in it. */
static void expect_fault(const char *variant, const char *text)
{
    job_t *job = job_make(&harness, variant, 8);
    ck_assert_int_eq(job_run(&harness, job), ATTN_ERR_WORKER_DIED);
    ck_assert_msg(strstr(JOB_SAYS(job), variant) && strstr(JOB_SAYS(job), text), "%s", JOB_SAYS(job));
    ck_assert_int_eq(job->completions, 1);
    job_free(job);
}

static void expect_cpu_works(void)
{
    job_t *job = job_make(&harness, "cpu", 8);
    ck_assert_msg(job_run(&harness, job) == ATTN_OK, "%s", JOB_SAYS(job));
    job_free(job);
}

START_TEST(null_variant_runs)
{
    job_t *job = job_make(&harness, "null", 8);
    ck_assert_msg(job_run(&harness, job) == ATTN_OK, "%s", JOB_SAYS(job));
    ck_assert_str_eq(job->request.outcome.variant->name, "null");
    ck_assert_str_eq(job->request.outcome.device, "CPU");
    ck_assert_uint_eq(job->request.outcome.attempts, 1);
    ck_assert_uint_eq(job->request.outcome.batch_size, 1);
    ck_assert(all_zero(job->o, job->sizes.o));
    job_free(job);
}
END_TEST

START_TEST(ready_within_300_ms)
{
    double start = seconds();
    WAIT_FOR(attn_sched_ready(harness.sched));
    ck_assert_msg(seconds() - start < 0.3 * TEST_SLOWNESS, "took %.3f s", seconds() - start);
    ck_assert(attn_sched_live(harness.sched));
}
END_TEST

/* FILL, TRUTH, RUN by auto, JUDGE: the whole life of a comparison. */
START_TEST(operations_work_together)
{
    job_t *job = job_make(&harness, NULL, 40);
    attn_request_t *request = &job->request;
    request->op = ATTN_OP_FILL;
    request->seed = 7;
    char *before = malloc(job->sizes.k);
    memcpy(before, job->k, job->sizes.k);
    memset(job->k, 0, job->sizes.k);
    ck_assert_msg(job_run(&harness, job) == ATTN_OK, "%s", JOB_SAYS(job));
    ck_assert_mem_eq(before, job->k, job->sizes.k);
    free(before);
    request->op = ATTN_OP_TRUTH;
    ck_assert_msg(job_run(&harness, job) == ATTN_OK, "%s", JOB_SAYS(job));
    request->op = ATTN_OP_RUN;
    ck_assert_msg(job_run(&harness, job) == ATTN_OK, "%s", JOB_SAYS(job));
    ck_assert_str_eq(request->outcome.variant->name, "cpu");
    ck_assert(request->outcome.reason[0] != '\0');
    request->op = ATTN_OP_JUDGE;
    ck_assert_msg(job_run(&harness, job) == ATTN_OK, "%s", JOB_SAYS(job));
    ck_assert_uint_eq(request->outcome.judgement.pass, 1);
    ck_assert_uint_eq(request->outcome.judgement.elements > 0, 1);
    /* A judge that cannot say no is none. */
    ((float *)job->o)[0] += 1;
    ck_assert_int_eq(job_run(&harness, job), ATTN_OK);
    ck_assert_uint_eq(request->outcome.judgement.pass, 0);
    job_free(job);
}
END_TEST

/* The lab class sees only the job's own pages and gives the same bits. */
START_TEST(lab_gives_the_same_bits)
{
    job_t *serve = job_make(&harness, "cpu", 33), *lab = job_make(&harness, "cpu", 33);
    lab->request.force_lab = true;
    ck_assert_int_eq(job_run(&harness, serve), ATTN_OK);
    ck_assert_msg(job_run(&harness, lab) == ATTN_OK, "%s", JOB_SAYS(lab));
    ck_assert_mem_eq(serve->o, lab->o, serve->sizes.o);
    ck_assert_mem_eq(serve->lse, lab->lse, serve->sizes.lse);
    lab->request.op = ATTN_OP_FILL;
    ck_assert_msg(job_run(&harness, lab) == ATTN_OK, "%s", JOB_SAYS(lab));
    job_free(serve);
    job_free(lab);
}
END_TEST

START_TEST(packed_sequences_reach_the_worker)
{
    int32_t cu[4] = {0, 3, 3, 20};
    attn_spec_t spec = {.dtype = ATTN_DTYPE_F32,
                        .layout = ATTN_LAYOUT_THD,
                        .batch = 3,
                        .h_q = 2,
                        .h_kv = 1,
                        .d = 16,
                        .s_q = 20,
                        .s_kv = 20,
                        .return_lse = 1,
                        .causal = 1};
    job_t *packed = job_make_spec(&harness, "cpu", spec);
    packed->request.cu_seqlens_q = packed->request.cu_seqlens_k = cu;
    ck_assert_msg(job_run(&harness, packed) == ATTN_OK, "%s", JOB_SAYS(packed));
    job_t *other = job_make_spec(&harness, "reference", spec);
    other->request.cu_seqlens_q = other->request.cu_seqlens_k = cu;
    ck_assert_msg(job_run(&harness, other) == ATTN_OK, "%s", JOB_SAYS(other));
    for (uint64_t i = 0; i < packed->sizes.o / sizeof(float); i++)
        ck_assert_float_eq_tol(((float *)packed->o)[i], ((float *)other->o)[i], 1e-5f);
    job_free(packed);
    job_free(other);
}
END_TEST

START_TEST(named_variant_is_not_replaced)
{
    if (!attn_variant_find("unified"))
        return;
    job_t *job = job_make(&harness, "unified", 8);
    ck_assert_int_eq(job_run(&harness, job), ATTN_ERR_FAILED_PRECONDITION);
    ck_assert_uint_ge(job->request.outcome.missing.count, 1);
    job_free(job);
}
END_TEST

START_TEST(abort_names_variant_signal_and_stderr)
{
    int pid;
    WAIT_FOR((pid = harness_serve_pid(&harness)) != 0);
    job_t *job = job_make(&harness, "test_abort", 8);
    ck_assert_int_eq(job_run(&harness, job), ATTN_ERR_WORKER_DIED);
    ck_assert_str_eq(JOB_SAYS(job), "variant test_abort: worker killed by signal 6 (SIGABRT); stderr: test fault: "
                                    "aborting by design");
    job_free(job);
    ck_assert_int_eq(harness_serve_pid(&harness), pid); /* nobody else noticed */
    attn_sched_view_t view;
    attn_sched_view(harness.sched, &view);
    ck_assert_uint_eq(view.quarantine_count, 1);
    ck_assert_str_eq(view.quarantine[0].variant->name, "test_abort");
    ck_assert_uint_eq(view.quarantine[0].strikes, 1);
    ck_assert(!view.quarantine[0].active);
}
END_TEST

/* In the serve class: the worker dies, the job runs again alone in the lab, and only then is it blamed. */
START_TEST(abort_in_the_serve_class)
{
    job_t *job = job_make(&harness, "test_abort_serve", 8);
    ck_assert_int_eq(job_run(&harness, job), ATTN_ERR_WORKER_DIED);
    ck_assert_uint_eq(job->request.outcome.attempts, 2);
    ck_assert_msg(strstr(JOB_SAYS(job), "SIGABRT"), "%s", JOB_SAYS(job));
    job_free(job);
    expect_cpu_works();
    attn_sched_view_t view;
    attn_sched_view(harness.sched, &view);
    ck_assert_uint_eq(view.quarantine[0].strikes, 1);
    ck_assert_uint_eq(view.devices[0].restarts, 1);
}
END_TEST

START_TEST(abort_once_is_replayed_and_forgiven)
{
    job_t *job = job_make(&harness, "test_abort_once", 8);
    ck_assert_msg(job_run(&harness, job) == ATTN_OK, "%s", JOB_SAYS(job));
    ck_assert_uint_eq(job->request.outcome.attempts, 2);
    ck_assert(all_zero(job->o, job->sizes.o));
    job_free(job);
    attn_sched_view_t view;
    attn_sched_view(harness.sched, &view);
    ck_assert_uint_eq(view.quarantine_count, 0);
}
END_TEST

START_TEST(spin_is_stopped)
{
    double start = seconds();
    expect_fault("test_spin", "did not finish within 400" /* 4000 with a sanitizer */);
    ck_assert_double_lt(seconds() - start, 1.5 * TEST_SLOWNESS);
    expect_fault("test_spin_serve", "did not finish");
    expect_cpu_works();
}
END_TEST

START_TEST(out_of_bounds_harms_nobody)
{
    /* The page after O belongs to a neighbour. */
    job_t *neighbours[3];
    for (int i = 0; i < 3; i++) {
        neighbours[i] = job_make(&harness, "cpu", 8);
        memset(neighbours[i]->o, 0x77, neighbours[i]->sizes.o);
    }
    expect_fault("test_oob", "SIGSEGV");
    expect_fault("test_write_input", "SIGSEGV");
    for (int i = 0; i < 3; i++) {
        for (uint64_t j = 0; j < neighbours[i]->sizes.o; j++)
            ck_assert_uint_eq(((unsigned char *)neighbours[i]->o)[j], 0x77);
        ck_assert_int_eq(job_run(&harness, neighbours[i]), ATTN_OK);
        job_free(neighbours[i]);
    }
}
END_TEST

START_TEST(garbage_on_the_ring_is_seen)
{
    expect_fault("test_garbage", "wrote over memory");
    expect_fault("test_garbage_serve", "wrote over memory");
    expect_cpu_works();
}
END_TEST

START_TEST(exit_and_error_are_told_apart)
{
    expect_fault("test_exit", "exited with status 7");
    job_t *job = job_make(&harness, "test_error", 8);
    ck_assert_int_eq(job_run(&harness, job), ATTN_ERR_INTERNAL);
    ck_assert_msg(strstr(JOB_SAYS(job), "variant test_error: test_error fails by design") == JOB_SAYS(job), "%s",
                  JOB_SAYS(job));
    job_free(job);
}
END_TEST

START_TEST(sigkill_is_nobodys_fault)
{
    job_t *job = job_make(&harness, "test_kill_serve", 8);
    ck_assert_int_eq(job_run(&harness, job), ATTN_ERR_UNAVAILABLE);
    ck_assert_uint_eq(job->request.outcome.attempts, 3);
    ck_assert(attn_status_retryable(ATTN_ERR_UNAVAILABLE));
    job_free(job);
    attn_sched_view_t view;
    attn_sched_view(harness.sched, &view);
    ck_assert_uint_eq(view.quarantine_count, 0);
    expect_cpu_works();
}
END_TEST

START_TEST(quarantine_comes_and_goes)
{
    for (int i = 0; i < 3; i++)
        expect_fault("test_exit", "exited with status 7");
    job_t *job = job_make(&harness, "test_exit", 8);
    ck_assert_int_eq(job_run(&harness, job), ATTN_ERR_UNAVAILABLE);
    ck_assert_msg(strstr(JOB_SAYS(job), "quarantined"), "%s", JOB_SAYS(job));
    attn_sched_view_t view;
    attn_sched_view(harness.sched, &view);
    ck_assert_uint_eq(view.quarantine_count, 1);
    ck_assert(view.quarantine[0].active);
    ck_assert_int_gt(view.quarantine[0].expires_in_ms, 0);
    ck_assert_int_eq(attn_sched_quarantine_clear(harness.sched, job->request.variant), ATTN_OK);
    ck_assert_int_eq(attn_sched_quarantine_clear(harness.sched, job->request.variant), ATTN_ERR_NOT_FOUND);
    ck_assert_int_eq(job_run(&harness, job), ATTN_ERR_WORKER_DIED);
    job_free(job);
}
END_TEST

/* The worker is killed every 20 ms under load: every answer has the bits of an undisturbed run, or says try again. */
START_TEST(killed_workers_are_replaced_and_jobs_replayed)
{
    enum { JOBS = 64, ROUNDS = 12 };
    job_t *truth = job_make(&harness, "cpu", 200), *jobs[JOBS];
    ck_assert_int_eq(job_run(&harness, truth), ATTN_OK);
    for (int i = 0; i < JOBS; i++)
        jobs[i] = job_make(&harness, "cpu", 200);
    int kills = 0, answered = 0;
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < JOBS; i++) {
            memset(jobs[i]->o, 0x22, jobs[i]->sizes.o);
            job_submit(&harness, jobs[i]);
        }
        usleep(3000);
        int pid = harness_serve_pid(&harness);
        if (pid && kill(pid, SIGKILL) == 0)
            kills++;
        for (int i = 0; i < JOBS; i++) {
            job_wait(jobs[i]);
            attn_status_t status = jobs[i]->request.outcome.error.status;
            ck_assert_msg(status == ATTN_OK || attn_status_retryable(status), "%s", JOB_SAYS(jobs[i]));
            if (status != ATTN_OK)
                continue;
            answered++;
            ck_assert_mem_eq(jobs[i]->o, truth->o, truth->sizes.o);
            ck_assert_mem_eq(jobs[i]->lse, truth->lse, truth->sizes.lse);
            ck_assert_int_eq(jobs[i]->completions, round + 1);
        }
    }
    ck_assert_int_ge(kills, ROUNDS / 2);
    ck_assert_int_eq(answered, JOBS * ROUNDS);
    for (int i = 0; i < JOBS; i++)
        job_free(jobs[i]);
    job_free(truth);
}
END_TEST

START_TEST(frozen_worker_is_replaced)
{
    int pid;
    WAIT_FOR((pid = harness_serve_pid(&harness)) != 0);
    kill(pid, SIGSTOP);
    job_t *job = job_make(&harness, "cpu", 8);
    ck_assert_msg(job_run(&harness, job) == ATTN_OK, "%s", JOB_SAYS(job));
    ck_assert_uint_eq(job->request.outcome.attempts, 2);
    job_free(job);
    attn_sched_view_t view;
    attn_sched_view(harness.sched, &view);
    ck_assert_uint_eq(view.quarantine_count, 0);
}
END_TEST

START_TEST(cancel_waiting_and_running)
{
    job_t *running = job_make(&harness, "test_sleep", 8), *waiting = job_make(&harness, "test_sleep", 8);
    running->request.spec.sm_scale = waiting->request.spec.sm_scale = 5; /* seconds */
    double start = seconds();
    job_submit(&harness, running);
    job_submit(&harness, waiting);
    attn_sched_view_t view;
    WAIT_FOR((attn_sched_view(harness.sched, &view), view.running == 1));
    ck_assert_uint_eq(view.queued, 1);
    attn_sched_cancel(harness.sched, &waiting->request);
    job_wait(waiting);
    ck_assert_int_eq(waiting->request.outcome.error.status, ATTN_ERR_CANCELLED);
    ck_assert(!running->done);
    attn_sched_cancel(harness.sched, &running->request);
    job_wait(running);
    ck_assert_int_eq(running->request.outcome.error.status, ATTN_ERR_CANCELLED);
    ck_assert_double_lt(seconds() - start, 2.0 * TEST_SLOWNESS);
    job_free(running);
    job_free(waiting);
    expect_cpu_works();
}
END_TEST

START_TEST(deadlines_pass)
{
    job_t *running = job_make(&harness, "test_sleep", 8), *waiting = job_make(&harness, "cpu", 8);
    running->request.spec.sm_scale = 5;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    int64_t deadline = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec + 200 * 1000000;
    running->request.deadline_ns = waiting->request.deadline_ns = deadline;
    job_submit(&harness, running);
    job_submit(&harness, waiting);
    job_wait(running);
    job_wait(waiting);
    ck_assert_int_eq(running->request.outcome.error.status, ATTN_ERR_DEADLINE_EXCEEDED);
    ck_assert_int_eq(waiting->request.outcome.error.status, ATTN_ERR_DEADLINE_EXCEEDED);
    job_submit(&harness, waiting);
    job_wait(waiting);
    ck_assert_int_eq(waiting->request.outcome.error.status, ATTN_ERR_DEADLINE_EXCEEDED);
    job_free(running);
    job_free(waiting);
}
END_TEST

/* A cancelled job that never looks is ended with its lab worker, long before its budget. */
START_TEST(abandoned_lab_job_ends_early)
{
    job_t *job = job_make(&harness, "test_spin", 8);
    job_submit(&harness, job);
    attn_sched_view_t view;
    WAIT_FOR((attn_sched_view(harness.sched, &view), view.running == 1));
    attn_sched_cancel(harness.sched, &job->request);
    job_wait(job);
    ck_assert_int_eq(job->request.outcome.error.status, ATTN_ERR_CANCELLED);
    attn_sched_view(harness.sched, &view);
    ck_assert_uint_eq(view.quarantine_count, 0);
    job_free(job);
}
END_TEST

START_TEST(full_queue_refuses_at_once)
{
    enum { JOBS = 520 };
    static job_t *jobs[JOBS];
    int refused = 0;
    for (int i = 0; i < JOBS; i++) {
        jobs[i] = job_make(&harness, i == 0 ? "test_sleep" : "null", 1);
        jobs[i]->request.spec.sm_scale = 0.3f;
        job_submit(&harness, jobs[i]);
    }
    for (int i = 0; i < JOBS; i++) {
        job_wait(jobs[i]);
        attn_status_t status = jobs[i]->request.outcome.error.status;
        ck_assert_msg(status == ATTN_OK || status == ATTN_ERR_UNAVAILABLE, "%s", JOB_SAYS(jobs[i]));
        refused += status == ATTN_ERR_UNAVAILABLE;
        job_free(jobs[i]);
    }
    ck_assert_int_ge(refused, 1);
    ck_assert_int_le(refused, 10);
}
END_TEST

/* Rounds that are timed in the lab class have the device to themselves, for a second at most. */
START_TEST(timed_rounds_hold_a_lease)
{
    job_t *timed = job_make(&harness, "test_sleep", 8), *other = job_make(&harness, "null", 8);
    timed->request.force_lab = true;
    timed->request.repeat = 8;
    timed->request.spec.sm_scale = 0.05f; /* 8 x 50 ms */
    job_submit(&harness, timed);
    attn_sched_view_t view;
    WAIT_FOR((attn_sched_view(harness.sched, &view), view.running == 1));
    double start = seconds();
    ck_assert_int_eq(job_run(&harness, other), ATTN_OK);
    ck_assert_double_gt(seconds() - start, 0.3);
    job_wait(timed);
    ck_assert_msg(timed->request.outcome.error.status == ATTN_OK, "%s", JOB_SAYS(timed));
    ck_assert_double_ge(timed->request.outcome.timing.kernel_min_us, 50e3);
    /* Not longer: the other goes first although the timed one has 2.4 s to run. */
    timed->request.repeat = 48;
    job_submit(&harness, timed);
    WAIT_FOR((attn_sched_view(harness.sched, &view), view.running == 1));
    start = seconds();
    ck_assert_int_eq(job_run(&harness, other), ATTN_OK);
    ck_assert_double_gt(seconds() - start, 0.8);
    ck_assert(!timed->done);
    job_wait(timed);
    job_free(timed);
    job_free(other);
}
END_TEST

START_TEST(drain_serves_then_refuses)
{
    job_t *slow = job_make(&harness, "test_sleep", 8), *late = job_make(&harness, "null", 8);
    slow->request.spec.sm_scale = 0.3f;
    WAIT_FOR(attn_sched_ready(harness.sched));
    attn_sched_drain_begin(harness.sched);
    ck_assert(!attn_sched_ready(harness.sched));
    job_submit(&harness, slow);
    attn_sched_drain_finish(harness.sched, 5000);
    ck_assert(slow->done);
    ck_assert_int_eq(slow->request.outcome.error.status, ATTN_OK);
    ck_assert_int_eq(job_run(&harness, late), ATTN_ERR_UNAVAILABLE);
    job_free(slow);
    job_free(late);
}
END_TEST

START_TEST(drain_gives_up_in_time)
{
    job_t *jobs[3];
    double start = seconds();
    for (int i = 0; i < 3; i++) {
        jobs[i] = job_make(&harness, "test_spin_serve", 8);
        job_submit(&harness, jobs[i]);
    }
    attn_sched_view_t view;
    WAIT_FOR((attn_sched_view(harness.sched, &view), view.running == 1));
    attn_sched_drain_finish(harness.sched, 50);
    ck_assert_double_lt(seconds() - start, 3.0 * TEST_SLOWNESS);
    for (int i = 0; i < 3; i++) {
        ck_assert(jobs[i]->done);
        ck_assert_int_ne(jobs[i]->request.outcome.error.status, ATTN_OK);
        job_free(jobs[i]);
    }
}
END_TEST

static long worker_kib(int pid, const char *field)
{
    char path[64], line[256];
    long kib = -1;
    snprintf(path, sizeof path, "/proc/%d/smaps_rollup", pid);
    FILE *file = fopen(path, "r");
    ck_assert_ptr_nonnull(file);
    while (fgets(line, sizeof line, file))
        if (strncmp(line, field, strlen(field)) == 0)
            kib = atol(line + strlen(field));
    fclose(file);
    return kib;
}

START_TEST(thousands_of_jobs_leak_nothing)
{
    for (int i = 0; i < 200; i++)
        expect_cpu_works();
    usleep(300000 * TEST_SLOWNESS); /* the worker touches its arenas ahead while it has nothing to do */
    int pid = harness_serve_pid(&harness), fds = harness_fd_count();
    long worker = worker_kib(pid, "Pss:"), front = worker_kib(getpid(), "Pss:");
    for (int i = 0; i < 2000; i++)
        expect_cpu_works();
    ck_assert_int_eq(harness_serve_pid(&harness), pid);
    ck_assert_int_eq(harness_fd_count(), fds);
    ck_assert_int_lt(worker_kib(pid, "Pss:") - worker, 512);
    ck_assert_int_lt(worker_kib(getpid(), "Pss:") - front, TEST_SLOWNESS > 1 ? 16384 : 512);
}
END_TEST

/* Dead workers leave no descriptor behind. */
START_TEST(faults_leak_nothing)
{
    expect_cpu_works();
    expect_fault("test_exit", "exited");
    int fds = harness_fd_count();
    for (int i = 0; i < 10; i++) {
        expect_fault("test_exit", "exited");
        attn_sched_quarantine_clear(harness.sched, attn_variant_find("test_exit"));
    }
    WAIT_FOR(harness_fd_count() <= fds);
}
END_TEST

START_TEST(null_engine_runs_anything)
{
    job_t *job = job_make(&harness, "cpu", 8);
    ck_assert_msg(job_run(&harness, job) == ATTN_OK, "%s", JOB_SAYS(job));
    ck_assert_str_eq(job->request.outcome.device, "NULL");
    job_free(job);
}
END_TEST

START_TEST(wrong_devices_are_refused)
{
    attn_admit_options_t admit_options = {.arena_bytes = 8 << 20};
    attn_admit_t *admit;
    attn_error_t err;
    ck_assert_int_eq(attn_admit_create(&admit_options, &admit, &err), ATTN_OK);
    attn_sched_options_t options = {.worker_path = TEST_WORKER_PATH, .devices = "99", .admit = admit};
    attn_sched_t *sched = NULL;
    ck_assert_int_eq(attn_sched_start(&options, &sched, &err), ATTN_ERR_INVALID_ARGUMENT);
    ck_assert_msg(strstr(err.message, "'99'"), "%s", err.message);
    options.devices = "cpu";
    options.worker_path = "/nonexistent/attn-worker";
    ck_assert_int_eq(attn_sched_start(&options, &sched, &err), ATTN_ERR_INVALID_ARGUMENT);
    ck_assert_ptr_null(sched);
    attn_admit_destroy(admit);
}
END_TEST

/* A worker that cannot start at all: requests are refused after the grace, and the daemon stops cleanly. */
START_TEST(worker_that_never_starts)
{
    attn_admit_options_t admit_options = {.arena_bytes = 8 << 20};
    harness_t broken;
    attn_error_t err;
    ck_assert_int_eq(attn_admit_create(&admit_options, &broken.admit, &err), ATTN_OK);
    attn_sched_options_t options = {.worker_path = "/bin/false", .devices = "cpu", .admit = broken.admit};
    ck_assert_int_eq(attn_sched_start(&options, &broken.sched, &err), ATTN_OK);
    job_t *job = job_make(&broken, "cpu", 8);
    ck_assert_int_eq(job_run(&broken, job), ATTN_ERR_UNAVAILABLE);
    ck_assert_msg(strstr(JOB_SAYS(job), "exited with status 1"), "%s", JOB_SAYS(job));
    ck_assert(!attn_sched_ready(broken.sched));
    job_free(job);
    harness_stop(&broken);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("sched");
    TCase *cpu = tcase_create("cpu");
    tcase_set_timeout(cpu, 60 * TEST_SLOWNESS);
    tcase_add_checked_fixture(cpu, setup_cpu, teardown);
    tcase_add_test(cpu, ready_within_300_ms);
    tcase_add_test(cpu, null_variant_runs);
    tcase_add_test(cpu, operations_work_together);
    tcase_add_test(cpu, lab_gives_the_same_bits);
    tcase_add_test(cpu, packed_sequences_reach_the_worker);
    tcase_add_test(cpu, named_variant_is_not_replaced);
    tcase_add_test(cpu, abort_names_variant_signal_and_stderr);
    tcase_add_test(cpu, abort_in_the_serve_class);
    tcase_add_test(cpu, abort_once_is_replayed_and_forgiven);
    tcase_add_test(cpu, spin_is_stopped);
    tcase_add_test(cpu, out_of_bounds_harms_nobody);
    tcase_add_test(cpu, garbage_on_the_ring_is_seen);
    tcase_add_test(cpu, exit_and_error_are_told_apart);
    tcase_add_test(cpu, sigkill_is_nobodys_fault);
    tcase_add_test(cpu, quarantine_comes_and_goes);
    tcase_add_test(cpu, killed_workers_are_replaced_and_jobs_replayed);
    tcase_add_test(cpu, frozen_worker_is_replaced);
    tcase_add_test(cpu, cancel_waiting_and_running);
    tcase_add_test(cpu, deadlines_pass);
    tcase_add_test(cpu, abandoned_lab_job_ends_early);
    tcase_add_test(cpu, full_queue_refuses_at_once);
    tcase_add_test(cpu, timed_rounds_hold_a_lease);
    tcase_add_test(cpu, drain_serves_then_refuses);
    tcase_add_test(cpu, drain_gives_up_in_time);
    tcase_add_test(cpu, thousands_of_jobs_leak_nothing);
    tcase_add_test(cpu, faults_leak_nothing);
    /* Whether a machine spins depends on its cores: the main paths must hold in both ways on any. */
    TCase *spinning = tcase_create("spinning");
    tcase_set_timeout(spinning, 60 * TEST_SLOWNESS);
    tcase_add_checked_fixture(spinning, setup_spinning, teardown);
    tcase_add_test(spinning, null_variant_runs);
    tcase_add_test(spinning, abort_in_the_serve_class);
    tcase_add_test(spinning, garbage_on_the_ring_is_seen);
    tcase_add_test(spinning, killed_workers_are_replaced_and_jobs_replayed);
    tcase_add_test(spinning, deadlines_pass);
    tcase_add_test(spinning, cancel_waiting_and_running);
    tcase_add_test(spinning, drain_gives_up_in_time);
    TCase *null = tcase_create("null");
    tcase_add_checked_fixture(null, setup_null, teardown);
    tcase_add_test(null, null_engine_runs_anything);
    TCase *bare = tcase_create("bare");
    tcase_set_timeout(bare, 30);
    tcase_add_test(bare, wrong_devices_are_refused);
    tcase_add_test(bare, worker_that_never_starts);
    suite_add_tcase(suite, cpu);
    suite_add_tcase(suite, spinning);
    suite_add_tcase(suite, null);
    suite_add_tcase(suite, bare);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
