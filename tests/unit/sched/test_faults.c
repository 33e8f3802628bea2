/* test_faults.c: the scheduler with real workers that die, hang, lie or are killed. */
#include <check.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "harness.h"

/* Runs `variant` and expects it to fail as the variant's fault, with a sentence that has `text` in it. */
static void expect_fault(const char *variant, const char *text)
{
    job_t *job = job_make(&shared, variant, 8);
    ck_assert_int_eq(job_run(&shared, job), ATTN_ERR_WORKER_DIED);
    ck_assert_msg(strstr(JOB_SAYS(job), variant) && strstr(JOB_SAYS(job), text), "%s", JOB_SAYS(job));
    ck_assert_int_eq(job->completions, 1);
    job_free(job);
}

START_TEST(abort_names_variant_signal_and_stderr)
{
    int pid;
    WAIT_FOR((pid = harness_serve_pid(&shared)) != 0);
    job_t *job = job_make(&shared, "test_abort", 8);
    ck_assert_int_eq(job_run(&shared, job), ATTN_ERR_WORKER_DIED);
    ck_assert_str_eq(JOB_SAYS(job), "variant test_abort: worker killed by signal 6 (SIGABRT); stderr: test fault: "
                                    "aborting by design");
    job_free(job);
    ck_assert_int_eq(harness_serve_pid(&shared), pid); /* nobody else noticed */
    attn_sched_view_t view;
    attn_sched_view(shared.sched, &view);
    ck_assert_uint_eq(view.quarantine_count, 1);
    ck_assert_str_eq(view.quarantine[0].variant->name, "test_abort");
    ck_assert_uint_eq(view.quarantine[0].strikes, 1);
    ck_assert(!view.quarantine[0].active);
}
END_TEST

/* In the serve class: the worker dies, the job runs again alone in the lab, and only then is it blamed. */
START_TEST(abort_in_the_serve_class)
{
    job_t *job = job_make(&shared, "test_abort_serve", 8);
    ck_assert_int_eq(job_run(&shared, job), ATTN_ERR_WORKER_DIED);
    ck_assert_uint_eq(job->request.outcome.attempts, 2);
    ck_assert_msg(strstr(JOB_SAYS(job), "SIGABRT"), "%s", JOB_SAYS(job));
    job_free(job);
    expect_cpu_works();
    attn_sched_view_t view;
    attn_sched_view(shared.sched, &view);
    ck_assert_uint_eq(view.quarantine[0].strikes, 1);
    ck_assert_uint_eq(view.devices[0].restarts, 1);
}
END_TEST

START_TEST(abort_once_is_replayed_and_forgiven)
{
    job_t *job = job_make(&shared, "test_abort_once", 8);
    ck_assert_msg(job_run(&shared, job) == ATTN_OK, "%s", JOB_SAYS(job));
    ck_assert_uint_eq(job->request.outcome.attempts, 2);
    ck_assert(all_zero(job->o, job->sizes.o));
    job_free(job);
    attn_sched_view_t view;
    attn_sched_view(shared.sched, &view);
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
        neighbours[i] = job_make(&shared, "cpu", 8);
        memset(neighbours[i]->o, 0x77, neighbours[i]->sizes.o);
    }
    expect_fault("test_oob", "SIGSEGV");
    expect_fault("test_write_input", "SIGSEGV");
    for (int i = 0; i < 3; i++) {
        for (uint64_t j = 0; j < neighbours[i]->sizes.o; j++)
            ck_assert_uint_eq(((unsigned char *)neighbours[i]->o)[j], 0x77);
        ck_assert_int_eq(job_run(&shared, neighbours[i]), ATTN_OK);
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
    job_t *job = job_make(&shared, "test_error", 8);
    ck_assert_int_eq(job_run(&shared, job), ATTN_ERR_INTERNAL);
    ck_assert_msg(strstr(JOB_SAYS(job), "variant test_error: test_error fails by design") == JOB_SAYS(job), "%s",
                  JOB_SAYS(job));
    job_free(job);
}
END_TEST

START_TEST(sigkill_is_nobodys_fault)
{
    job_t *job = job_make(&shared, "test_kill_serve", 8);
    ck_assert_int_eq(job_run(&shared, job), ATTN_ERR_UNAVAILABLE);
    ck_assert_uint_eq(job->request.outcome.attempts, 3);
    ck_assert(attn_status_retryable(ATTN_ERR_UNAVAILABLE));
    job_free(job);
    attn_sched_view_t view;
    attn_sched_view(shared.sched, &view);
    ck_assert_uint_eq(view.quarantine_count, 0);
    expect_cpu_works();
}
END_TEST

START_TEST(quarantine_comes_and_goes)
{
    for (int i = 0; i < 3; i++)
        expect_fault("test_exit", "exited with status 7");
    job_t *job = job_make(&shared, "test_exit", 8);
    ck_assert_int_eq(job_run(&shared, job), ATTN_ERR_UNAVAILABLE);
    ck_assert_msg(strstr(JOB_SAYS(job), "quarantined"), "%s", JOB_SAYS(job));
    attn_sched_view_t view;
    attn_sched_view(shared.sched, &view);
    ck_assert_uint_eq(view.quarantine_count, 1);
    ck_assert(view.quarantine[0].active);
    ck_assert_int_gt(view.quarantine[0].expires_in_ms, 0);
    ck_assert_int_eq(attn_sched_quarantine_clear(shared.sched, job->request.variant), ATTN_OK);
    ck_assert_int_eq(attn_sched_quarantine_clear(shared.sched, job->request.variant), ATTN_ERR_NOT_FOUND);
    ck_assert_int_eq(job_run(&shared, job), ATTN_ERR_WORKER_DIED);
    job_free(job);
}
END_TEST

/* The worker is killed every 20 ms under load: every answer has the bits of an undisturbed run, or says try again. */
START_TEST(killed_workers_are_replaced_and_jobs_replayed)
{
    enum { JOBS = 64, ROUNDS = 12 };
    job_t *truth = job_make(&shared, "cpu", 200), *jobs[JOBS];
    ck_assert_int_eq(job_run(&shared, truth), ATTN_OK);
    for (int i = 0; i < JOBS; i++)
        jobs[i] = job_make(&shared, "cpu", 200);
    int kills = 0, answered = 0;
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < JOBS; i++) {
            memset(jobs[i]->o, 0x22, jobs[i]->sizes.o);
            job_submit(&shared, jobs[i]);
        }
        usleep(3000);
        int pid = harness_serve_pid(&shared);
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
    WAIT_FOR((pid = harness_serve_pid(&shared)) != 0);
    kill(pid, SIGSTOP);
    job_t *job = job_make(&shared, "cpu", 8);
    ck_assert_msg(job_run(&shared, job) == ATTN_OK, "%s", JOB_SAYS(job));
    ck_assert_uint_eq(job->request.outcome.attempts, 2);
    job_free(job);
    attn_sched_view_t view;
    attn_sched_view(shared.sched, &view);
    ck_assert_uint_eq(view.quarantine_count, 0);
}
END_TEST

/* A cancelled job that never looks is ended with its lab worker, long before its budget. */
START_TEST(abandoned_lab_job_ends_early)
{
    job_t *job = job_make(&shared, "test_spin", 8);
    job_submit(&shared, job);
    attn_sched_view_t view;
    WAIT_FOR((attn_sched_view(shared.sched, &view), view.running == 1));
    attn_sched_cancel(shared.sched, &job->request);
    job_wait(job);
    ck_assert_int_eq(job->request.outcome.error.status, ATTN_ERR_CANCELLED);
    attn_sched_view(shared.sched, &view);
    ck_assert_uint_eq(view.quarantine_count, 0);
    job_free(job);
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
        attn_sched_quarantine_clear(shared.sched, attn_variant_find("test_exit"));
    }
    WAIT_FOR(harness_fd_count() <= fds);
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

/* Three starts that come to nothing cost a moment, not the device; the request waits. */
START_TEST(worker_that_starts_at_the_fourth_try)
{
    char folder[] = "/tmp/test-sched-XXXXXX", path[64], count[64];
    ck_assert_ptr_nonnull(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/worker", folder);
    snprintf(count, sizeof count, "%s/count", folder);
    FILE *script = fopen(path, "w");
    ck_assert_ptr_nonnull(script);
    fprintf(script, "#!/bin/sh\necho x >>%s\n[ $(wc -l <%s) -gt 3 ] || exit 1\nexec %s \"$@\"\n", count, count,
            TEST_WORKER_PATH);
    fclose(script);
    ck_assert_int_eq(chmod(path, 0700), 0);
    attn_admit_options_t admit_options = {.arena_bytes = 8 << 20};
    harness_t slow;
    attn_error_t err;
    ck_assert_int_eq(attn_admit_create(&admit_options, &slow.admit, &err), ATTN_OK);
    attn_sched_options_t options = {.worker_path = path, .devices = "cpu", .admit = slow.admit};
    ck_assert_int_eq(attn_sched_start(&options, &slow.sched, &err), ATTN_OK);
    job_t *job = job_make(&slow, "cpu", 8);
    ck_assert_msg(job_run(&slow, job) == ATTN_OK, "%s", JOB_SAYS(job));
    job_free(job);
    attn_sched_view_t view;
    attn_sched_view(slow.sched, &view);
    ck_assert_uint_eq(view.devices[0].restarts, 3);
    ck_assert_int_eq(view.devices[0].state, ATTN_DEVICE_READY);
    harness_stop(&slow);
    unlink(path);
    unlink(count);
    rmdir(folder);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("sched_faults");
    TCase *cpu = tcase_create("cpu");
    tcase_set_timeout(cpu, 60 * TEST_SLOWNESS);
    tcase_add_checked_fixture(cpu, shared_start_cpu, shared_stop);
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
    tcase_add_test(cpu, abandoned_lab_job_ends_early);
    tcase_add_test(cpu, faults_leak_nothing);
    suite_add_tcase(suite, cpu);
    /* Whether a machine spins depends on its cores: the main paths must hold in both ways on any. */
    TCase *spinning = tcase_create("spinning");
    tcase_set_timeout(spinning, 60 * TEST_SLOWNESS);
    tcase_add_checked_fixture(spinning, shared_start_spinning, shared_stop);
    tcase_add_test(spinning, abort_in_the_serve_class);
    tcase_add_test(spinning, garbage_on_the_ring_is_seen);
    tcase_add_test(spinning, killed_workers_are_replaced_and_jobs_replayed);
    suite_add_tcase(suite, spinning);
    TCase *bare = tcase_create("bare");
    tcase_set_timeout(bare, 30);
    tcase_add_test(bare, worker_that_never_starts);
    tcase_add_test(bare, worker_that_starts_at_the_fourth_try);
    suite_add_tcase(suite, bare);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
