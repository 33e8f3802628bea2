/* test_groups.c: groups through the scheduler and real workers with the CPU engine: merging, order, fairness, refusal,
 * cancellation, several devices, and what a fault in a group costs whom. The batcher's own rules: test_batcher.c. */
#include <check.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harness.h"

enum { MANY = 64 };

static attn_sched_view_t view;

/* Keeps the device busy for so many seconds; what is submitted meanwhile waits. */
static job_t *block(double s)
{
    job_t *job = job_make(&shared, "test_sleep", 8);
    job->request.spec.sm_scale = (float)s;
    job_submit(&shared, job);
    WAIT_FOR((attn_sched_view(shared.sched, &view), view.running >= 1));
    return job;
}

static void unblock(job_t *job)
{
    job_wait(job);
    ck_assert_msg(job->request.outcome.error.status == ATTN_OK, "%s", JOB_SAYS(job));
    job_free(job);
}

static job_t *make(const char *variant, float scale)
{
    job_t *job = job_make(&shared, variant, 8);
    job->request.spec.sm_scale = scale;
    return job;
}

static attn_status_t status_of(job_t *job)
{
    job_wait(job);
    return job->request.outcome.error.status;
}

static void start(uint32_t depth, uint32_t group, uint32_t queue, const char *devices)
{
    attn_sched_options_t options = harness_options(devices);
    options.pipeline_depth = depth;
    options.max_group_requests = group;
    options.queue_limit = queue;
    harness_start_with(&shared, options);
    WAIT_FOR(attn_sched_ready(shared.sched));
}

START_TEST(what_waits_is_merged_and_right)
{
    enum { JOBS = 6 };
    start(0, 0, 0, "cpu");
    job_t *alone[JOBS], *merged[JOBS], *other[3];
    for (int i = 0; i < JOBS; i++) {
        alone[i] = job_make(&shared, "cpu", 3 + 5 * i);
        ck_assert_int_eq(job_run(&shared, alone[i]), ATTN_OK);
        ck_assert_uint_eq(alone[i]->request.outcome.batch_size, 1);
    }
    job_t *busy = block(0.2);
    for (int i = 0; i < JOBS; i++) {
        merged[i] = job_make(&shared, "cpu", 3 + 5 * i);
        job_submit(&shared, merged[i]);
        if (i < 3) {
            other[i] = make("null", 1);
            job_submit(&shared, other[i]);
        }
    }
    unblock(busy);
    job_wait(merged[0]);
    double kernel_us = merged[0]->request.outcome.timing.kernel_us; /* the group's */
    for (int i = 0; i < JOBS; i++) {
        const attn_outcome_t *outcome = &merged[i]->request.outcome;
        ck_assert_msg(status_of(merged[i]) == ATTN_OK, "%s", JOB_SAYS(merged[i]));
        ck_assert_uint_eq(outcome->batch_size, JOBS);
        ck_assert_uint_eq(outcome->attempts, 1);
        ck_assert_uint_ge(outcome->timing.queue_us, 50000);
        ck_assert_double_eq(outcome->timing.kernel_us, kernel_us);
        ck_assert_mem_eq(merged[i]->o, alone[i]->o, alone[i]->sizes.o);
        ck_assert_mem_eq(merged[i]->lse, alone[i]->lse, alone[i]->sizes.lse);
        job_free(merged[i]);
        job_free(alone[i]);
    }
    for (int i = 0; i < 3; i++) {
        ck_assert_int_eq(status_of(other[i]), ATTN_OK);
        ck_assert_uint_eq(other[i]->request.outcome.batch_size, 3);
        job_free(other[i]);
    }
}
END_TEST

/* Packed requests with many and with few sequences, together and beside dense ones. */
START_TEST(packed_requests_are_merged)
{
    enum { LARGE = 2000 };
    start(4, 0, 0, "cpu");
    static int32_t many[LARGE + 1], few[4] = {0, 3, 3, 20};
    for (int i = 0; i <= LARGE; i++)
        many[i] = i / 100;
    attn_spec_t spec = {.dtype = ATTN_DTYPE_F32,
                        .layout = ATTN_LAYOUT_THD,
                        .batch = 3,
                        .h_q = 2,
                        .h_kv = 2,
                        .d = 32,
                        .s_q = 20,
                        .s_kv = 20,
                        .return_lse = 1};
    job_t *truth = job_make_spec(&shared, "cpu", spec), *job[12];
    truth->request.cu_seqlens_q = truth->request.cu_seqlens_k = few;
    ck_assert_msg(job_run(&shared, truth) == ATTN_OK, "%s", JOB_SAYS(truth));
    job_t *busy = block(0.1);
    for (int i = 0; i < 12; i++) {
        spec.batch = i % 3 == 2 ? LARGE : 3;
        job[i] = i % 3 == 1 ? job_make(&shared, "cpu", 8) : job_make_spec(&shared, "cpu", spec);
        if (i % 3 != 1)
            job[i]->request.cu_seqlens_q = job[i]->request.cu_seqlens_k = i % 3 == 2 ? many : few;
        job_submit(&shared, job[i]);
    }
    unblock(busy);
    for (int i = 0; i < 12; i++) {
        ck_assert_msg(status_of(job[i]) == ATTN_OK, "%s", JOB_SAYS(job[i]));
        if (i % 3 == 2)
            ck_assert_uint_eq(job[i]->request.outcome.batch_size, 1); /* its offsets need an area of their own */
        else
            ck_assert_uint_gt(job[i]->request.outcome.batch_size, 1);
        if (i % 3 == 0)
            ck_assert_mem_eq(job[i]->o, truth->o, truth->sizes.o);
        job_free(job[i]);
    }
    job_free(truth);
}
END_TEST

/* Priority, then deadline; each its own group. */
START_TEST(order_is_kept_on_the_device)
{
    start(0, 1, 0, "cpu");
    job_t *busy = block(0.2), *job[5];
    for (int i = 0; i < 5; i++)
        job[i] = make("null", 1);
    job[1]->request.deadline_ns = job[2]->request.deadline_ns = INT64_MAX / 2;
    job[2]->request.deadline_ns -= 1000;
    job[3]->request.priority = 7;
    job[4]->request.priority = -7;
    for (int i = 4; i >= 0; i--)
        job_submit(&shared, job[i]);
    unblock(busy);
    for (int i = 0; i < 5; i++)
        ck_assert_int_eq(status_of(job[i]), ATTN_OK);
    ck_assert_int_lt(job[3]->order, job[2]->order);
    ck_assert_int_lt(job[2]->order, job[1]->order);
    ck_assert_int_lt(job[1]->order, job[0]->order);
    ck_assert_int_lt(job[0]->order, job[4]->order);
    for (int i = 0; i < 5; i++)
        job_free(job[i]);
}
END_TEST

/* A peer with one request does not stand in another's line. */
START_TEST(peers_take_turns)
{
    start(0, 1, 0, "cpu");
    job_t *flood[MANY], *victim = job_make(&shared, "cpu", 100);
    for (int i = 0; i < MANY; i++)
        flood[i] = job_make(&shared, "cpu", 100);
    job_t *busy = block(0.5);
    for (int i = 0; i < MANY; i++) {
        flood[i]->request.peer = 1;
        flood[i]->request.connection = (uint64_t)i;
        job_submit(&shared, flood[i]);
    }
    victim->request.peer = 2;
    job_submit(&shared, victim);
    unblock(busy);
    ck_assert_int_eq(status_of(victim), ATTN_OK);
    int ahead = 0;
    for (int i = 0; i < MANY; i++) {
        ck_assert_int_eq(status_of(flood[i]), ATTN_OK);
        ahead += flood[i]->order < victim->order;
        job_free(flood[i]);
    }
    ck_assert_int_le(ahead, 3);
    job_free(victim);
}
END_TEST

/* At its limit the queue refuses at once, makes room for a peer with less, and recovers. */
START_TEST(a_full_queue_refuses_and_recovers)
{
    start(0, 0, 8, "cpu");
    job_t *busy = block(0.5), *job[9], *modest = make("null", 1);
    for (int i = 0; i < 9; i++) {
        job[i] = make("null", 1);
        job[i]->request.peer = 1;
        job_submit(&shared, job[i]);
    }
    ck_assert_int_eq(status_of(job[8]), ATTN_ERR_UNAVAILABLE);
    ck_assert_msg(strstr(JOB_SAYS(job[8]), "waiting already"), "%s", JOB_SAYS(job[8]));
    modest->request.peer = 2;
    job_submit(&shared, modest);
    ck_assert_int_eq(status_of(job[7]), ATTN_ERR_UNAVAILABLE);
    ck_assert(!busy->done);
    unblock(busy);
    ck_assert_int_eq(status_of(modest), ATTN_OK);
    for (int i = 0; i < 7; i++)
        ck_assert_int_eq(status_of(job[i]), ATTN_OK);
    ck_assert_int_eq(job_run(&shared, job[8]), ATTN_OK);
    for (int i = 0; i < 9; i++)
        job_free(job[i]);
    job_free(modest);
}
END_TEST

/* Who leaves while waiting costs no device time; who leaves a running group costs the others nothing. */
START_TEST(cancelled_requests_leave)
{
    start(0, 0, 0, "cpu");
    job_t *busy = block(0.3), *job[6];
    for (int i = 0; i < 6; i++) {
        job[i] = make("test_sleep", 0.05f);
        job_submit(&shared, job[i]);
    }
    WAIT_FOR((attn_sched_view(shared.sched, &view), view.queued == 6));
    attn_sched_cancel(shared.sched, &job[1]->request);
    attn_sched_cancel(shared.sched, &job[4]->request);
    ck_assert_int_eq(status_of(job[1]), ATTN_ERR_CANCELLED);
    ck_assert_int_eq(status_of(job[4]), ATTN_ERR_CANCELLED);
    ck_assert(!busy->done);
    unblock(busy);
    WAIT_FOR((attn_sched_view(shared.sched, &view), view.running == 4));
    attn_sched_cancel(shared.sched, &job[0]->request);
    for (int i = 0; i < 6; i++) {
        attn_status_t expected = i == 0 || i == 1 || i == 4 ? ATTN_ERR_CANCELLED : ATTN_OK;
        ck_assert_msg(status_of(job[i]) == expected, "%d: %s", i, JOB_SAYS(job[i]));
        if (expected == ATTN_OK)
            ck_assert_uint_eq(job[i]->request.outcome.batch_size, 4);
        ck_assert_int_eq(job[i]->completions, 1);
        job_free(job[i]);
    }
    /* When nobody is left the whole group ends early. */
    job_t *long_one[3];
    for (int i = 0; i < 3; i++)
        long_one[i] = make("test_sleep", 3);
    busy = block(0.1);
    for (int i = 0; i < 3; i++)
        job_submit(&shared, long_one[i]);
    unblock(busy);
    WAIT_FOR((attn_sched_view(shared.sched, &view), view.running == 3));
    double begin = seconds();
    for (int i = 0; i < 3; i++)
        attn_sched_cancel(shared.sched, &long_one[i]->request);
    for (int i = 0; i < 3; i++) {
        ck_assert_int_eq(status_of(long_one[i]), ATTN_ERR_CANCELLED);
        job_free(long_one[i]);
    }
    ck_assert_double_lt(seconds() - begin, 1.0 * TEST_SLOWNESS);
}
END_TEST

/* A delay is waited only where company may come, and not by one caller alone. */
START_TEST(a_delay_gathers_company)
{
    attn_sched_options_t options = harness_options("cpu");
    options.max_queue_delay_us = 100000;
    harness_start_with(&shared, options);
    WAIT_FOR(attn_sched_ready(shared.sched));
    job_t *job[4] = {make("null", 1)};
    for (int i = 0; i < 3; i++) {
        double begin = seconds();
        ck_assert_int_eq(job_run(&shared, job[0]), ATTN_OK);
        ck_assert_double_lt(seconds() - begin, 0.09 * TEST_SLOWNESS);
    }
    /* Four at once; then one after the other within the delay. */
    for (int i = 1; i < 4; i++)
        job[i] = make("null", 1);
    job_t *busy = block(0.05);
    for (int i = 0; i < 4; i++)
        job_submit(&shared, job[i]);
    unblock(busy);
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(status_of(job[i]), ATTN_OK);
    for (int i = 0; i < 4; i++)
        job_submit(&shared, job[i]);
    for (int i = 0; i < 4; i++) {
        ck_assert_int_eq(status_of(job[i]), ATTN_OK);
        ck_assert_uint_ge(job[i]->request.outcome.batch_size, 2);
        job_free(job[i]);
    }
}
END_TEST

/* ---- faults ---- */

/* One of nine is poisonous: it aborts the worker, fails the launch, or never returns. Only it fails, by its name. */
START_TEST(only_the_poisonous_request_fails)
{
    enum { JOBS = 9 };
    static const struct {
        float scale;
        attn_status_t status;
        const char *text;
        uint32_t restarts;
    } kinds[] = {{101, ATTN_ERR_WORKER_DIED, "SIGABRT", 1},
                 {102, ATTN_ERR_INTERNAL, "met its poison", 0},
                 {103, ATTN_ERR_WORKER_DIED, "did not finish", 1}};
    start(_i / 3 ? 4 : 1, _i / 3 ? 3 : 0, 0, "cpu");
    job_t *busy = block(0.2), *job[JOBS];
    for (int i = 0; i < JOBS; i++) {
        job[i] = make("test_poison_serve", i == 4 ? kinds[_i % 3].scale : 1);
        memset(job[i]->o, 0x55, job[i]->sizes.o);
        job_submit(&shared, job[i]);
    }
    unblock(busy);
    for (int i = 0; i < JOBS; i++) {
        attn_status_t status = status_of(job[i]);
        ck_assert_int_eq(job[i]->completions, 1);
        if (i == 4) {
            ck_assert_int_eq(status, kinds[_i % 3].status);
            ck_assert_msg(strstr(JOB_SAYS(job[i]), "test_poison_serve") && strstr(JOB_SAYS(job[i]), kinds[_i % 3].text),
                          "%s", JOB_SAYS(job[i]));
            ck_assert_uint_eq(job[i]->request.outcome.batch_size, 1); /* it was alone when it was blamed */
        } else {
            ck_assert_msg(status == ATTN_OK, "%d: %s", i, JOB_SAYS(job[i]));
            ck_assert(all_zero(job[i]->o, job[i]->sizes.o));
        }
        job_free(job[i]);
    }
    attn_sched_view(shared.sched, &view);
    ck_assert_uint_eq(view.devices[0].restarts, kinds[_i % 3].restarts);
    ck_assert_uint_eq(view.quarantine_count, kinds[_i % 3].restarts); /* one strike, for what died alone */
    if (view.quarantine_count)
        ck_assert_uint_eq(view.quarantine[0].strikes, 1);
}
END_TEST

/* SIGKILL with four groups in flight, again and again: every answer has the bits of an undisturbed run. */
START_TEST(four_groups_in_flight_survive_a_kill)
{
    enum { JOBS = 24, ROUNDS = 8 };
    start(4, 2, 0, "cpu");
    job_t *truth = job_make(&shared, "cpu", 220), *job[JOBS];
    ck_assert_int_eq(job_run(&shared, truth), ATTN_OK);
    for (int i = 0; i < JOBS; i++)
        job[i] = job_make(&shared, "cpu", 220);
    int kills = 0;
    for (int round = 0; round < ROUNDS; round++) {
        job_t *busy = block(0.05);
        for (int i = 0; i < JOBS; i++) {
            memset(job[i]->o, 0x22, job[i]->sizes.o);
            job_submit(&shared, job[i]);
        }
        int pid = harness_serve_pid(&shared);
        WAIT_FOR((attn_sched_view(shared.sched, &view), view.groups[0] == 4));
        if (pid && kill(pid, SIGKILL) == 0)
            kills++;
        job_wait(busy);
        ck_assert_int_eq(busy->request.outcome.error.status, ATTN_OK);
        job_free(busy);
        for (int i = 0; i < JOBS; i++) {
            ck_assert_msg(status_of(job[i]) == ATTN_OK, "%s", JOB_SAYS(job[i]));
            ck_assert_mem_eq(job[i]->o, truth->o, truth->sizes.o);
            ck_assert_mem_eq(job[i]->lse, truth->lse, truth->sizes.lse);
            ck_assert_int_eq(job[i]->completions, round + 1);
        }
    }
    ck_assert_int_eq(kills, ROUNDS);
    attn_sched_view(shared.sched, &view);
    ck_assert_uint_eq(view.quarantine_count, 0);
    ck_assert_uint_eq(view.groups[0], 0);
    ck_assert_uint_eq(view.load_us[0], 0);
    for (int i = 0; i < JOBS; i++)
        job_free(job[i]);
    job_free(truth);
}
END_TEST

/* ---- devices ---- */

/* Work goes to both; what one of them loses is done by the other or again. */
START_TEST(devices_share_groups_and_deaths)
{
    enum { JOBS = 40 };
    start(0, 4, 0, "cpu,cpu");
    WAIT_FOR((attn_sched_view(shared.sched, &view),
              view.devices[0].state == ATTN_DEVICE_READY && view.devices[1].state == ATTN_DEVICE_READY));
    job_t *job[JOBS];
    double begin = seconds();
    for (int i = 0; i < JOBS; i++) {
        job[i] = make("test_sleep", 0.02f);
        job_submit(&shared, job[i]);
    }
    WAIT_FOR((attn_sched_view(shared.sched, &view), view.groups[0] > 0 && view.groups[1] > 0));
    for (int i = 0; i < JOBS; i++)
        ck_assert_int_eq(status_of(job[i]), ATTN_OK);
    ck_assert_double_lt(seconds() - begin, 0.75 * JOBS * 0.02 * TEST_SLOWNESS); /* one device alone needs all of it */
    for (int i = 0; i < JOBS; i++)
        job_submit(&shared, job[i]);
    WAIT_FOR((attn_sched_view(shared.sched, &view), view.groups[0] > 0 && view.groups[1] > 0));
    kill(view.devices[1].serve_pid, SIGKILL);
    for (int i = 0; i < JOBS; i++) {
        ck_assert_msg(status_of(job[i]) == ATTN_OK, "%s", JOB_SAYS(job[i]));
        ck_assert(all_zero(job[i]->o, job[i]->sizes.o));
        job_free(job[i]);
    }
    attn_sched_view(shared.sched, &view);
    ck_assert_uint_eq(view.devices[0].restarts, 0);
    ck_assert_uint_ge(view.devices[1].restarts, 1);
}
END_TEST

/* One device's worker never starts: the device is lost, and the other serves all the time. */
START_TEST(a_lost_device_takes_only_itself_out)
{
    char folder[] = "/tmp/test-groups-XXXXXX", path[64], taken[64];
    ck_assert_ptr_nonnull(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/worker", folder);
    snprintf(taken, sizeof taken, "%s/taken", folder);
    FILE *script = fopen(path, "w");
    ck_assert_ptr_nonnull(script);
    fprintf(script, "#!/bin/sh\nmkdir %s 2>/dev/null || exit 1\nexec %s \"$@\"\n", taken, TEST_WORKER_PATH);
    fclose(script);
    ck_assert_int_eq(chmod(path, 0700), 0);
    attn_sched_options_t options = harness_options("cpu,cpu");
    options.worker_path = path;
    harness_start_with(&shared, options);
    WAIT_FOR(attn_sched_ready(shared.sched));
    attn_sched_view(shared.sched, &view);
    int lost = 0;
    for (int turn = 0; turn < 400 && !lost; turn++) {
        expect_cpu_works();
        usleep(50000);
        attn_sched_view(shared.sched, &view);
        lost = view.devices[0].state == ATTN_DEVICE_LOST || view.devices[1].state == ATTN_DEVICE_LOST;
        ck_assert(attn_sched_ready(shared.sched));
    }
    ck_assert(lost);
    expect_cpu_works();
    unlink(path);
    rmdir(taken);
    rmdir(folder);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("sched_groups");
    TCase *all = tcase_create("all");
    tcase_set_timeout(all, 60 * TEST_SLOWNESS);
    tcase_add_checked_fixture(all, NULL, shared_stop);
    tcase_add_test(all, what_waits_is_merged_and_right);
    tcase_add_test(all, packed_requests_are_merged);
    tcase_add_test(all, order_is_kept_on_the_device);
    tcase_add_test(all, peers_take_turns);
    tcase_add_test(all, a_full_queue_refuses_and_recovers);
    tcase_add_test(all, cancelled_requests_leave);
    tcase_add_test(all, a_delay_gathers_company);
    tcase_add_loop_test(all, only_the_poisonous_request_fails, 0, 6);
    tcase_add_test(all, four_groups_in_flight_survive_a_kill);
    tcase_add_test(all, devices_share_groups_and_deaths);
    tcase_add_test(all, a_lost_device_takes_only_itself_out);
    suite_add_tcase(suite, all);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
