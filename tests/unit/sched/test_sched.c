/* test_sched.c: the scheduler with real workers: jobs, time, drain. Faults are in test_faults.c. */
#include <check.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "harness.h"

START_TEST(null_variant_runs)
{
    job_t *job = job_make(&shared, "null", 8);
    ck_assert_msg(job_run(&shared, job) == ATTN_OK, "%s", JOB_SAYS(job));
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
    WAIT_FOR(attn_sched_ready(shared.sched));
    ck_assert_msg(seconds() - start < 0.3 * TEST_SLOWNESS, "took %.3f s", seconds() - start);
    ck_assert(attn_sched_live(shared.sched));
}
END_TEST

/* FILL, TRUTH, RUN by auto, JUDGE: the whole life of a comparison. */
START_TEST(operations_work_together)
{
    job_t *job = job_make(&shared, NULL, 40);
    attn_request_t *request = &job->request;
    request->op = ATTN_OP_FILL;
    request->seed = 7;
    char *before = malloc(job->sizes.k);
    memcpy(before, job->k, job->sizes.k);
    memset(job->k, 0, job->sizes.k);
    ck_assert_msg(job_run(&shared, job) == ATTN_OK, "%s", JOB_SAYS(job));
    ck_assert_mem_eq(before, job->k, job->sizes.k);
    free(before);
    request->op = ATTN_OP_TRUTH;
    ck_assert_msg(job_run(&shared, job) == ATTN_OK, "%s", JOB_SAYS(job));
    request->op = ATTN_OP_RUN;
    ck_assert_msg(job_run(&shared, job) == ATTN_OK, "%s", JOB_SAYS(job));
    ck_assert_str_eq(request->outcome.variant->name, "cpu");
    ck_assert(request->outcome.reason[0] != '\0');
    request->op = ATTN_OP_JUDGE;
    ck_assert_msg(job_run(&shared, job) == ATTN_OK, "%s", JOB_SAYS(job));
    ck_assert_uint_eq(request->outcome.judgement.pass, 1);
    ck_assert_uint_eq(request->outcome.judgement.elements > 0, 1);
    /* A judge that cannot say no is none. */
    ((float *)job->o)[0] += 1;
    ck_assert_int_eq(job_run(&shared, job), ATTN_OK);
    ck_assert_uint_eq(request->outcome.judgement.pass, 0);
    job_free(job);
}
END_TEST

/* The lab class sees only the job's own pages and gives the same bits. */
START_TEST(lab_gives_the_same_bits)
{
    job_t *serve = job_make(&shared, "cpu", 33), *lab = job_make(&shared, "cpu", 33);
    lab->request.force_lab = true;
    ck_assert_int_eq(job_run(&shared, serve), ATTN_OK);
    ck_assert_msg(job_run(&shared, lab) == ATTN_OK, "%s", JOB_SAYS(lab));
    ck_assert_mem_eq(serve->o, lab->o, serve->sizes.o);
    ck_assert_mem_eq(serve->lse, lab->lse, serve->sizes.lse);
    lab->request.op = ATTN_OP_FILL;
    ck_assert_msg(job_run(&shared, lab) == ATTN_OK, "%s", JOB_SAYS(lab));
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
    job_t *packed = job_make_spec(&shared, "cpu", spec);
    packed->request.cu_seqlens_q = packed->request.cu_seqlens_k = cu;
    ck_assert_msg(job_run(&shared, packed) == ATTN_OK, "%s", JOB_SAYS(packed));
    job_t *other = job_make_spec(&shared, "reference", spec);
    other->request.cu_seqlens_q = other->request.cu_seqlens_k = cu;
    ck_assert_msg(job_run(&shared, other) == ATTN_OK, "%s", JOB_SAYS(other));
    for (uint64_t i = 0; i < packed->sizes.o / sizeof(float); i++)
        ck_assert_float_eq_tol(((float *)packed->o)[i], ((float *)other->o)[i], 1e-5f);
    job_free(packed);
    job_free(other);
}
END_TEST

/* Refused before anything is written. */
START_TEST(an_output_over_an_input_is_refused)
{
    job_t *job = job_make(&shared, "cpu", 33);
    job->request.o = job->request.q;
    ck_assert_int_eq(job_run(&shared, job), ATTN_ERR_FAILED_PRECONDITION);
    ck_assert_ptr_nonnull(strstr(job->request.outcome.error.message, "an output lies over an input"));
    job_free(job);
}
END_TEST

START_TEST(named_variant_is_not_replaced)
{
    if (!attn_variant_find("unified"))
        return;
    job_t *job = job_make(&shared, "unified", 8);
    ck_assert_int_eq(job_run(&shared, job), ATTN_ERR_FAILED_PRECONDITION);
    ck_assert_uint_ge(job->request.outcome.missing.count, 1);
    job_free(job);
}
END_TEST

START_TEST(cancel_waiting_and_running)
{
    job_t *running = job_make(&shared, "test_sleep", 8), *waiting = job_make(&shared, "test_sleep", 8);
    running->request.spec.sm_scale = waiting->request.spec.sm_scale = 5; /* seconds */
    double start = seconds();
    job_submit(&shared, running);
    attn_sched_view_t view;
    WAIT_FOR((attn_sched_view(shared.sched, &view), view.running == 1));
    job_submit(&shared, waiting);
    WAIT_FOR((attn_sched_view(shared.sched, &view), view.queued == 1));
    attn_sched_cancel(shared.sched, &waiting->request);
    job_wait(waiting);
    ck_assert_int_eq(waiting->request.outcome.error.status, ATTN_ERR_CANCELLED);
    ck_assert(!running->done);
    attn_sched_cancel(shared.sched, &running->request);
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
    job_t *running = job_make(&shared, "test_sleep", 8), *waiting = job_make(&shared, "cpu", 8);
    running->request.spec.sm_scale = 5;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    int64_t deadline = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec + 200 * 1000000;
    running->request.deadline_ns = waiting->request.deadline_ns = deadline;
    job_submit(&shared, running);
    job_submit(&shared, waiting);
    job_wait(running);
    job_wait(waiting);
    ck_assert_int_eq(running->request.outcome.error.status, ATTN_ERR_DEADLINE_EXCEEDED);
    ck_assert_int_eq(waiting->request.outcome.error.status, ATTN_ERR_DEADLINE_EXCEEDED);
    job_submit(&shared, waiting);
    job_wait(waiting);
    ck_assert_int_eq(waiting->request.outcome.error.status, ATTN_ERR_DEADLINE_EXCEEDED);
    job_free(running);
    job_free(waiting);
}
END_TEST

START_TEST(full_queue_refuses_at_once)
{
    enum { JOBS = 520 };
    static job_t *jobs[JOBS];
    int refused = 0;
    for (int i = 0; i < JOBS; i++) {
        jobs[i] = job_make(&shared, i == 0 ? "test_sleep" : "null", 1);
        jobs[i]->request.spec.sm_scale = 0.5f;
    }
    attn_sched_view_t view;
    job_submit(&shared, jobs[0]);
    WAIT_FOR((attn_sched_view(shared.sched, &view), view.running == 1));
    for (int i = 1; i < JOBS; i++)
        job_submit(&shared, jobs[i]);
    for (int i = 0; i < JOBS; i++) {
        job_wait(jobs[i]);
        attn_status_t status = jobs[i]->request.outcome.error.status;
        ck_assert_msg(status == ATTN_OK || status == ATTN_ERR_UNAVAILABLE, "%s", JOB_SAYS(jobs[i]));
        refused += status == ATTN_ERR_UNAVAILABLE;
        job_free(jobs[i]);
    }
    ck_assert_int_eq(refused, JOBS - 1 - 512);
}
END_TEST

/* Rounds that are timed in the lab class have the device to themselves, for a second at most. */
START_TEST(timed_rounds_hold_a_lease)
{
    job_t *timed = job_make(&shared, "test_sleep", 8), *other = job_make(&shared, "null", 8);
    timed->request.force_lab = true;
    timed->request.repeat = 8;
    timed->request.spec.sm_scale = 0.05f; /* 8 x 50 ms */
    job_submit(&shared, timed);
    attn_sched_view_t view;
    WAIT_FOR((attn_sched_view(shared.sched, &view), view.running == 1));
    double start = seconds();
    ck_assert_int_eq(job_run(&shared, other), ATTN_OK);
    ck_assert_double_gt(seconds() - start, 0.3);
    job_wait(timed);
    ck_assert_msg(timed->request.outcome.error.status == ATTN_OK, "%s", JOB_SAYS(timed));
    ck_assert_double_ge(timed->request.outcome.timing.kernel_min_us, 50e3);
    /* Not longer: the other goes first although the timed one has 2.4 s to run. */
    timed->request.repeat = 48;
    job_submit(&shared, timed);
    WAIT_FOR((attn_sched_view(shared.sched, &view), view.running == 1));
    start = seconds();
    ck_assert_int_eq(job_run(&shared, other), ATTN_OK);
    ck_assert_double_gt(seconds() - start, 0.8);
    ck_assert(!timed->done);
    job_wait(timed);
    /* One that goes away while it waits for its lease holds nobody up. */
    job_t *slow = job_make(&shared, "test_sleep", 8);
    slow->request.spec.sm_scale = 0.6f;
    job_submit(&shared, slow);
    WAIT_FOR((attn_sched_view(shared.sched, &view), view.running == 1));
    job_submit(&shared, timed);
    job_submit(&shared, other);
    usleep(300000);
    attn_sched_cancel(shared.sched, &timed->request);
    job_wait(timed);
    job_wait(slow);
    job_wait(other);
    ck_assert_int_eq(other->request.outcome.error.status, ATTN_OK);
    job_free(slow);
    job_free(timed);
    job_free(other);
}
END_TEST

START_TEST(drain_serves_then_refuses)
{
    job_t *slow = job_make(&shared, "test_sleep", 8), *late = job_make(&shared, "null", 8);
    slow->request.spec.sm_scale = 0.3f;
    WAIT_FOR(attn_sched_ready(shared.sched));
    attn_sched_drain_begin(shared.sched);
    ck_assert(!attn_sched_ready(shared.sched));
    job_submit(&shared, slow);
    kill(harness_serve_pid(&shared), SIGTERM); /* as a service manager that stops the whole group does */
    attn_sched_drain_finish(shared.sched, 5000);
    ck_assert(slow->done);
    ck_assert_int_eq(slow->request.outcome.error.status, ATTN_OK);
    ck_assert_uint_eq(slow->request.outcome.attempts, 1);
    ck_assert_int_eq(job_run(&shared, late), ATTN_ERR_UNAVAILABLE);
    job_free(slow);
    job_free(late);
}
END_TEST

START_TEST(drain_gives_up_in_time)
{
    job_t *jobs[3];
    double start = seconds();
    for (int i = 0; i < 3; i++) {
        jobs[i] = job_make(&shared, "test_spin_serve", 8);
        job_submit(&shared, jobs[i]);
    }
    attn_sched_view_t view;
    WAIT_FOR((attn_sched_view(shared.sched, &view), view.running == 1));
    attn_sched_drain_finish(shared.sched, 50);
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

/* The worker touches its arenas ahead while it has nothing to do: waits for the end of that. */
static long worker_kib_at_rest(int pid)
{
    long before = -1, now;
    for (int i = 0; i < 100 && (now = worker_kib(pid, "Pss:")) != before; i++) {
        before = now;
        usleep(250000 * TEST_SLOWNESS);
    }
    return now;
}

/* 300,000 sequences, nearly all empty: 57 MB of problems in the worker, which small requests do not pay for later. */
START_TEST(a_huge_batch_is_not_kept)
{
    enum { SEQUENCES = 300000 };
    int32_t *cu = calloc(SEQUENCES + 1, sizeof *cu);
    ck_assert_ptr_nonnull(cu);
    cu[SEQUENCES] = 4;
    attn_spec_t spec = {.dtype = ATTN_DTYPE_F32,
                        .layout = ATTN_LAYOUT_THD,
                        .batch = SEQUENCES,
                        .h_q = 1,
                        .h_kv = 1,
                        .d = 16,
                        .s_q = 4,
                        .s_kv = 4,
                        .return_lse = 1};
    expect_cpu_works();
    long before = worker_kib_at_rest(harness_serve_pid(&shared));
    job_t *job = job_make_spec(&shared, "cpu", spec);
    job->request.cu_seqlens_q = job->request.cu_seqlens_k = cu;
    ck_assert_msg(job_run(&shared, job) == ATTN_OK, "%s", JOB_SAYS(job));
    job_free(job);
    free(cu);
    expect_cpu_works();
    if (TEST_SLOWNESS == 1) /* sanitizers keep freed memory */
        ck_assert_int_lt(worker_kib(harness_serve_pid(&shared), "Pss:") - before, 8192);
}
END_TEST

START_TEST(thousands_of_jobs_leak_nothing)
{
    for (int i = 0; i < 200; i++)
        expect_cpu_works();
    int pid = harness_serve_pid(&shared), fds = harness_fd_count();
    long worker = worker_kib_at_rest(pid), front = worker_kib(getpid(), "Pss:");
    for (int i = 0; i < 2000; i++)
        expect_cpu_works();
    ck_assert_int_eq(harness_serve_pid(&shared), pid);
    ck_assert_int_eq(harness_fd_count(), fds);
    ck_assert_int_lt(worker_kib(pid, "Pss:") - worker, 512);
    ck_assert_int_lt(worker_kib(getpid(), "Pss:") - front, TEST_SLOWNESS > 1 ? 16384 : 512);
}
END_TEST

START_TEST(null_engine_runs_anything)
{
    job_t *job = job_make(&shared, "cpu", 8);
    ck_assert_msg(job_run(&shared, job) == ATTN_OK, "%s", JOB_SAYS(job));
    ck_assert_str_eq(job->request.outcome.device, "NULL");
    job_free(job);
}
END_TEST

/* Two devices: while one is busy the other takes what it can run. */
START_TEST(devices_share_the_work)
{
    harness_t two;
    harness_start(&two, "cpu,cpu", 0);
    attn_sched_view_t view;
    WAIT_FOR((attn_sched_view(two.sched, &view),
              view.devices[0].state == ATTN_DEVICE_READY && view.devices[1].state == ATTN_DEVICE_READY));
    ck_assert_uint_eq(view.device_count, 2);
    ck_assert_int_ne(view.devices[0].serve_pid, view.devices[1].serve_pid);
    job_t *slow = job_make(&two, "test_sleep", 8), *quick = job_make(&two, "null", 8);
    slow->request.spec.sm_scale = 0.5f;
    job_submit(&two, slow);
    WAIT_FOR((attn_sched_view(two.sched, &view), view.running == 1));
    for (int i = 0; i < 5; i++)
        ck_assert_msg(job_run(&two, quick) == ATTN_OK, "%s", JOB_SAYS(quick));
    ck_assert(!slow->done);
    job_wait(slow);
    job_free(slow);
    job_free(quick);
    harness_stop(&two);
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

int main(void)
{
    Suite *suite = suite_create("sched");
    TCase *cpu = tcase_create("cpu");
    tcase_set_timeout(cpu, 60 * TEST_SLOWNESS);
    tcase_add_checked_fixture(cpu, shared_start_cpu, shared_stop);
    tcase_add_test(cpu, null_variant_runs);
    tcase_add_test(cpu, ready_within_300_ms);
    tcase_add_test(cpu, operations_work_together);
    tcase_add_test(cpu, lab_gives_the_same_bits);
    tcase_add_test(cpu, packed_sequences_reach_the_worker);
    tcase_add_test(cpu, an_output_over_an_input_is_refused);
    tcase_add_test(cpu, named_variant_is_not_replaced);
    tcase_add_test(cpu, cancel_waiting_and_running);
    tcase_add_test(cpu, deadlines_pass);
    tcase_add_test(cpu, full_queue_refuses_at_once);
    tcase_add_test(cpu, timed_rounds_hold_a_lease);
    tcase_add_test(cpu, drain_serves_then_refuses);
    tcase_add_test(cpu, drain_gives_up_in_time);
    tcase_add_test(cpu, a_huge_batch_is_not_kept);
    tcase_add_test(cpu, thousands_of_jobs_leak_nothing);
    suite_add_tcase(suite, cpu);
    /* Whether a machine spins depends on its cores: the main paths must hold in both ways on any. */
    TCase *spinning = tcase_create("spinning");
    tcase_set_timeout(spinning, 60 * TEST_SLOWNESS);
    tcase_add_checked_fixture(spinning, shared_start_spinning, shared_stop);
    tcase_add_test(spinning, null_variant_runs);
    tcase_add_test(spinning, deadlines_pass);
    tcase_add_test(spinning, cancel_waiting_and_running);
    tcase_add_test(spinning, drain_gives_up_in_time);
    suite_add_tcase(suite, spinning);
    TCase *null = tcase_create("null");
    tcase_set_timeout(null, 60);
    tcase_add_checked_fixture(null, shared_start_null, shared_stop);
    tcase_add_test(null, null_engine_runs_anything);
    suite_add_tcase(suite, null);
    TCase *bare = tcase_create("bare");
    tcase_set_timeout(bare, 30);
    tcase_add_test(bare, devices_share_the_work);
    tcase_add_test(bare, wrong_devices_are_refused);
    suite_add_tcase(suite, bare);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
