/* test_local.c: libattn over the Unix socket against a daemon made for the purpose: both modes, many threads, jobs that
 * end in any order, cancelling, polling, regions. What goes wrong is in test_local_faults.c. */
#include <check.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "local_kit.h"

/* Heap allocations of this thread, where the sanitizers do not count them themselves. */
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define COUNTS_ALLOCATIONS 1
extern void *__libc_malloc(size_t bytes);
extern void *__libc_calloc(size_t count, size_t bytes);
extern void *__libc_realloc(void *at, size_t bytes);
static _Thread_local uint64_t allocations;
void *malloc(size_t bytes)
{
    allocations++;
    return __libc_malloc(bytes);
}
void *calloc(size_t count, size_t bytes)
{
    allocations++;
    return __libc_calloc(count, bytes);
}
void *realloc(void *at, size_t bytes)
{
    allocations++;
    return __libc_realloc(at, bytes);
}
#else
#define COUNTS_ALLOCATIONS 0
static uint64_t allocations;
#endif

START_TEST(test_run_from_anywhere)
{
    static uint8_t q[BYTES], o[BYTES];
    float lse[S * 2] = {-1};
    attn_client_answer_t answer;
    client_open(ATTN_CLIENT_RING, 0);
    bytes_fill(q, 1);
    attn_client_request_t request = request_of(q, q, o);
    request.spec.return_lse = 1;
    request.lse = lse;
    for (int i = 0; i < 3; i++) {
        memset(o, 0, sizeof o);
        ck_assert_msg(attn_client_run(client, &request, NULL, &answer, &error) == ATTN_OK, "%s", error.error.message);
        ck_assert(flipped(q, o));
        ck_assert_float_eq(lse[15], 15);
    }
    ck_assert_str_eq(answer.variant, "flip");
    ck_assert_str_eq(answer.reason, "because");
    ck_assert_str_eq(answer.device, "fake");
    ck_assert_uint_eq(seen.registrations, 1); /* one stage, used again */
    ck_assert_uint_eq(seen.by_message, 0);
    request.id = "has-a-name"; /* which a record cannot say */
    request.spec.return_lse = 0;
    ck_assert_int_eq(attn_client_run(client, &request, NULL, &answer, &error), ATTN_OK);
    ck_assert_uint_eq(seen.by_message, 1);
    ck_assert_str_eq(answer.id, "by-message");
}
END_TEST

START_TEST(test_run_in_place)
{
    attn_region_t *region, *handed_out;
    client_open(modes[_i], 0);
    ck_assert_int_eq(attn_region_allocate(client, 2 * BYTES, false, &region, &error), ATTN_OK);
    ck_assert_msg(attn_region_allocate(client, BYTES, true, &handed_out, &error) == ATTN_OK, "%s", error.error.message);
    ck_assert_uint_ge(attn_region_bytes(region), 2 * BYTES);
    uint8_t *q = attn_region_data(region), *o = attn_region_data(handed_out);
    bytes_fill(q, 2);
    attn_client_request_t request = request_of(q, q + BYTES, o);
    for (int i = 0; i < 100; i++) {
        memset(o, 0, BYTES);
        ck_assert_int_eq(attn_client_run(client, &request, NULL, NULL, &error), ATTN_OK);
        ck_assert(flipped(q, o));
    }
    ck_assert_uint_eq(seen.registrations, 2);
    ck_assert_uint_eq(seen.by_message, modes[_i] == ATTN_CLIENT_MESSAGES ? 100 : 0);
    attn_region_release(region);
    attn_region_release(handed_out);
    ck_assert_uint_eq(seen.releases, 2);
    ck_assert_int_eq(attn_client_ping(client, &error), ATTN_OK);
}
END_TEST

START_TEST(test_the_ring_allocates_nothing)
{
    attn_region_t *region;
    attn_job_t *job;
    client_open(ATTN_CLIENT_RING, 0);
    ck_assert_int_eq(attn_region_allocate(client, 2 * BYTES, false, &region, &error), ATTN_OK);
    uint8_t *q = attn_region_data(region);
    attn_client_request_t request = request_of(q, q, q + BYTES);
    uint64_t before = allocations;
    for (int i = 0; i < 1000; i++) {
        attn_status_t status = attn_client_run(client, &request, NULL, NULL, &error);
        if (status == ATTN_OK) {
            status = attn_client_submit(client, &request, NULL, &job, &error);
        }
        if (status == ATTN_OK) {
            attn_job_free(attn_client_next(client, -1));
        }
        if (status != ATTN_OK) {
            ck_abort_msg("%s", error.error.message);
        }
    }
    ck_assert_uint_eq(allocations - before, 0);
    if (COUNTS_ALLOCATIONS) { /* and the counter counts */
        void *volatile one = malloc(1);
        free(one);
        ck_assert_uint_gt(allocations, before);
    }
    ck_assert_uint_eq(seen.registrations, 1); /* and nothing was staged */
}
END_TEST

START_TEST(test_auto_falls_back_to_messages)
{
    static uint8_t q[BYTES], o[BYTES];
    manner.no_ring = true;
    client_open(ATTN_CLIENT_AUTO, 0);
    attn_client_request_t request = request_of(q, q, o);
    ck_assert_int_eq(attn_client_run(client, &request, NULL, NULL, &error), ATTN_OK);
    ck_assert(flipped(q, o));
    attn_client_close(client);
    client_open(ATTN_CLIENT_RING, 0);
    ck_assert_int_eq(attn_client_run(client, &request, NULL, NULL, &error), ATTN_ERR_UNIMPLEMENTED);
    ck_assert_str_eq(error.error.message, "no ring here");
}
END_TEST

/* ---- jobs ---- */

#define JOBS 16

START_TEST(test_jobs_end_in_any_order)
{
    attn_region_t *region;
    attn_job_t *jobs[JOBS];
    attn_client_answer_t answer;
    client_open(modes[_i], 0);
    manner.hold = JOBS;
    ck_assert_int_eq(attn_region_allocate(client, 3 * JOBS * BYTES, false, &region, &error), ATTN_OK);
    uint8_t *base = attn_region_data(region);
    for (int i = 0; i < JOBS; i++) {
        uint8_t *q = base + i * BYTES, *o = base + (JOBS + i) * BYTES;
        bytes_fill(q, i);
        attn_client_request_t request = request_of(q, q, o);
        ck_assert_int_eq(attn_client_submit(client, &request, q, &jobs[i], &error), ATTN_OK);
        if (i < JOBS - 1) {
            ck_assert_int_eq(attn_job_wait(jobs[i], 0, NULL, &error), ATTN_ERR_TIMEOUT);
        }
    }
    for (int i = 0; i < JOBS; i++) {
        ck_assert_int_eq(attn_job_wait(jobs[i], -1, &answer, &error), ATTN_OK);
        ck_assert_ptr_eq(attn_job_user(jobs[i]), base + i * BYTES);
        ck_assert(flipped(base + i * BYTES, base + (JOBS + i) * BYTES));
        attn_job_free(jobs[i]);
    }
    ck_assert_ptr_null(attn_client_poll(client));
}
END_TEST

START_TEST(test_polling_a_descriptor)
{
    attn_region_t *region;
    attn_job_t *job;
    client_open(modes[_i], 0);
    ck_assert_int_eq(attn_region_allocate(client, 2 * JOBS * BYTES, false, &region, &error), ATTN_OK);
    uint8_t *base = attn_region_data(region);
    struct pollfd ready = {.fd = attn_client_poll_fd(client, &error), .events = POLLIN};
    ck_assert_int_ge(ready.fd, 0);
    for (int round = 0; round < 50; round++) {
        int done = 0;
        for (int i = 0; i < JOBS; i++) {
            attn_client_request_t request = request_of(base + i * BYTES, base, base + (JOBS + i) * BYTES);
            ck_assert_int_eq(attn_client_submit(client, &request, (void *)(uintptr_t)(i + 1), &job, &error), ATTN_OK);
        }
        while (done < JOBS) {
            while ((job = attn_client_poll(client)) != NULL) {
                ck_assert_int_eq(attn_job_wait(job, 0, NULL, &error), ATTN_OK);
                attn_job_free(job);
                done++;
            }
            if (done < JOBS) {
                ck_assert_msg(poll(&ready, 1, 5000) == 1, "asleep in round %d with %d done", round, done);
            }
        }
        ck_assert_ptr_null(attn_client_poll(client));
        /* Another way of waiting beside it takes nothing away. */
        attn_client_request_t request = request_of(base, base, base + JOBS * BYTES);
        ck_assert_int_eq(attn_client_run(client, &request, NULL, NULL, &error), ATTN_OK);
    }
}
END_TEST

START_TEST(test_next)
{
    attn_region_t *region;
    attn_job_t *job;
    bool seen_of[JOBS] = {false};
    client_open(modes[_i], 0);
    ck_assert_ptr_null(attn_client_next(client, -1)); /* nothing is in flight */
    manner.hold = JOBS;
    ck_assert_int_eq(attn_region_allocate(client, 2 * JOBS * BYTES, false, &region, &error), ATTN_OK);
    uint8_t *base = attn_region_data(region);
    for (int i = 0; i < JOBS; i++) {
        ck_assert_ptr_null(attn_client_next(client, 1000));
        attn_client_request_t request = request_of(base, base, base + (JOBS + i) * BYTES);
        ck_assert_int_eq(attn_client_submit(client, &request, (void *)(uintptr_t)i, &job, &error), ATTN_OK);
    }
    for (int i = 0; i < JOBS; i++) {
        job = attn_client_next(client, -1);
        ck_assert_ptr_nonnull(job);
        int which = (int)(uintptr_t)attn_job_user(job);
        ck_assert(!seen_of[which]);
        seen_of[which] = true;
        attn_job_free(job);
    }
    ck_assert_ptr_null(attn_client_next(client, -1));
}
END_TEST

START_TEST(test_cancelling)
{
    attn_region_t *region;
    attn_job_t *jobs[3];
    client_open(modes[_i], 0);
    manner.keep = true;
    ck_assert_int_eq(attn_region_allocate(client, 2 * BYTES, false, &region, &error), ATTN_OK);
    uint8_t *q = attn_region_data(region);
    attn_client_request_t request = request_of(q, q, q + BYTES);
    for (int i = 0; i < 3; i++) {
        ck_assert_int_eq(attn_client_submit(client, &request, NULL, &jobs[i], &error), ATTN_OK);
    }
    attn_job_cancel(jobs[1]);
    ck_assert_int_eq(attn_job_wait(jobs[1], -1, NULL, &error), ATTN_ERR_CANCELLED);
    ck_assert_str_eq(error.error.message, "given up");
    ck_assert_int_eq(attn_job_wait(jobs[0], 20, NULL, &error), ATTN_ERR_TIMEOUT);
    for (int i = 0; i < 3; i++) {
        attn_job_free(jobs[i]); /* cancels the two that are left */
    }
    ck_assert_uint_eq(seen.cancels, 3);
}
END_TEST

static bool tell_no(void *arg, attn_client_phase_t phase, uint64_t done, uint64_t total)
{
    ck_assert_int_eq(phase, ATTN_CLIENT_WAITING);
    return false;
}

START_TEST(test_run_is_cancelled_by_its_progress)
{
    static uint8_t q[BYTES], o[BYTES];
    attn_client_progress_t progress = {tell_no, NULL};
    client_open(modes[_i], 0);
    manner.keep = true;
    attn_client_request_t request = request_of(q, q, o);
    ck_assert_int_eq(attn_client_run(client, &request, &progress, NULL, &error), ATTN_ERR_CANCELLED);
    attn_client_close(client);
    attn_client_options_t options = {.mode = modes[_i], .answer_timeout_ms = 300};
    ck_assert_int_eq(attn_client_open(local_address, &options, &client, &error), ATTN_OK);
    ck_assert_int_eq(attn_client_run(client, &request, NULL, NULL, &error), ATTN_ERR_TIMEOUT);
    ck_assert_uint_eq(seen.cancels, 2);
}
END_TEST

/* ---- threads ---- */

#define THREADS 12
#define CALLS 200

static void *caller_run(void *arg)
{
    uint8_t q[BYTES], o[BYTES];
    attn_client_error_t why;
    for (int i = 0; i < CALLS; i++) {
        bytes_fill(q, (int)(uintptr_t)arg + i);
        memset(o, 0, sizeof o);
        attn_client_request_t request = request_of(q, q, o);
        request.id = i % 10 == 9 ? "by-message" : NULL; /* both ways mixed */
        if (attn_client_run(client, &request, NULL, NULL, &why) != ATTN_OK || !flipped(q, o)) {
            return (void *)(uintptr_t)(i + 1);
        }
    }
    return NULL;
}

START_TEST(test_threads_share_a_connection)
{
    /* More callers at a time than the small ring holds, or than the daemon takes messages from, are fine. */
    static const uint32_t entries[] = {8, 128, 8};
    pthread_t threads[2 * THREADS];
    client_open(_i < 2 ? ATTN_CLIENT_RING : ATTN_CLIENT_MESSAGES, entries[_i]);
    for (int i = 0; i < 2 * THREADS; i++) {
        ck_assert_int_eq(pthread_create(&threads[i], NULL, caller_run, (void *)(uintptr_t)(i * 1000)), 0);
    }
    for (int i = 0; i < 2 * THREADS; i++) {
        void *failed;
        pthread_join(threads[i], &failed);
        ck_assert_msg(failed == NULL, "call %d of thread %d", (int)(uintptr_t)failed, i);
    }
    ck_assert_uint_eq(seen.connections, 1);
    ck_assert_uint_eq(seen.runs, 2 * THREADS * CALLS);
}
END_TEST

START_TEST(test_a_full_ring_says_so)
{
    attn_region_t *region;
    attn_job_t *jobs[9];
    client_open(ATTN_CLIENT_RING, 8);
    manner.keep = true;
    ck_assert_int_eq(attn_region_allocate(client, 2 * BYTES, false, &region, &error), ATTN_OK);
    uint8_t *q = attn_region_data(region);
    attn_client_request_t request = request_of(q, q, q + BYTES);
    for (int i = 0; i < 8; i++) {
        ck_assert_int_eq(attn_client_submit(client, &request, NULL, &jobs[i], &error), ATTN_OK);
    }
    ck_assert_int_eq(attn_client_submit(client, &request, NULL, &jobs[8], &error), ATTN_ERR_UNAVAILABLE);
    ck_assert(error.retryable);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("local");
    TCase *tests = tcase_create("all");
    tcase_set_timeout(tests, 60);
    tcase_add_checked_fixture(tests, door_open, all_close);
    tcase_add_test(tests, test_run_from_anywhere);
    tcase_add_loop_test(tests, test_run_in_place, 0, 2);
    tcase_add_test(tests, test_the_ring_allocates_nothing);
    tcase_add_test(tests, test_auto_falls_back_to_messages);
    tcase_add_loop_test(tests, test_jobs_end_in_any_order, 0, 2);
    tcase_add_loop_test(tests, test_polling_a_descriptor, 0, 2);
    tcase_add_loop_test(tests, test_next, 0, 2);
    tcase_add_loop_test(tests, test_cancelling, 0, 2);
    tcase_add_loop_test(tests, test_run_is_cancelled_by_its_progress, 0, 2);
    tcase_add_loop_test(tests, test_threads_share_a_connection, 0, 3);
    tcase_add_test(tests, test_a_full_ring_says_so);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
