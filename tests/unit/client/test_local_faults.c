/* test_local_faults.c: libattn over the Unix socket when things go wrong: a daemon that goes away, what this side
 * refuses, what the daemon refuses, and a daemon that lies. */
#include <check.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "local_kit.h"

/* ---- a daemon that goes away ---- */

START_TEST(test_run_survives_a_restart)
{
    attn_region_t *region;
    client_open(modes[_i], 0);
    ck_assert_int_eq(attn_region_allocate(client, 2 * BYTES, false, &region, &error), ATTN_OK);
    uint8_t *q = attn_region_data(region);
    bytes_fill(q, 3);
    attn_client_request_t request = request_of(q, q, q + BYTES);
    ck_assert_int_eq(attn_client_run(client, &request, NULL, NULL, &error), ATTN_OK);
    fake_door_stop(door);
    ck_assert_int_ne(attn_client_ping(client, &error), ATTN_OK);
    ck_assert_int_eq(error.error.status, ATTN_ERR_CONNECTION);
    ck_assert(error.retryable);
    door = fake_door_start(local_path, &manner, &seen);
    ck_assert_int_eq(attn_client_run(client, &request, NULL, NULL, &error), ATTN_OK);
    ck_assert(flipped(q, q + BYTES));
    ck_assert_uint_eq(seen.registrations, 2); /* again on the new connection */
    manner.hang_up = seen.runs + 1;           /* in the middle of the next */
    ck_assert_msg(attn_client_run(client, &request, NULL, NULL, &error) == ATTN_OK, "%s", error.error.message);
    ck_assert_uint_eq(seen.connections, 3);
}
END_TEST

START_TEST(test_jobs_in_flight_fail_with_the_connection)
{
    attn_region_t *region;
    attn_job_t *jobs[4], *job;
    client_open(modes[_i], 0);
    manner.keep = true;
    manner.hang_up = 4;
    manner.say_goodbye = true;
    ck_assert_int_eq(attn_region_allocate(client, 2 * BYTES, false, &region, &error), ATTN_OK);
    uint8_t *q = attn_region_data(region);
    attn_client_request_t request = request_of(q, q, q + BYTES);
    struct pollfd ready = {.fd = attn_client_poll_fd(client, &error), .events = POLLIN};
    for (int i = 0; i < 4; i++) {
        ck_assert_int_eq(attn_client_submit(client, &request, NULL, &jobs[i], &error), ATTN_OK);
    }
    int ended = 0;
    while (ended < 4) {
        ck_assert_int_eq(poll(&ready, 1, 5000), 1);
        while ((job = attn_client_poll(client)) != NULL) {
            ck_assert_int_eq(attn_job_wait(job, 0, NULL, &error), ATTN_ERR_UNAVAILABLE);
            ck_assert_str_eq(error.error.message, "I am going home");
            attn_job_free(job);
            ended++;
        }
    }
    manner.keep = false;
    ck_assert_int_eq(attn_client_run(client, &request, NULL, NULL, &error), ATTN_OK);
}
END_TEST

START_TEST(test_no_daemon)
{
    client_open(ATTN_CLIENT_AUTO, 0);
    fake_door_stop(door);
    door = NULL;
    attn_client_health_t health;
    ck_assert_int_eq(attn_client_ping(client, &error), ATTN_ERR_CONNECTION);
    ck_assert_ptr_nonnull(strstr(error.error.message, local_path));
    ck_assert_int_eq(attn_client_health(client, &health, &error), ATTN_ERR_CONNECTION);
}
END_TEST

/* ---- what this side refuses, and what the daemon does ---- */

START_TEST(test_refusals_of_this_side)
{
    attn_region_t *region, *read_only;
    attn_job_t *job;
    uint8_t elsewhere[BYTES];
    client_open(ATTN_CLIENT_RING, 0);
    ck_assert_int_eq(attn_region_allocate(client, 2 * BYTES, false, &region, &error), ATTN_OK);
    uint8_t *q = attn_region_data(region);
    int fd = memfd_create("mine", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    ck_assert_int_eq(ftruncate(fd, BYTES), 0);
    ck_assert_int_eq(attn_region_import_memfd(client, fd, ATTN_REGION_READ, &read_only, &error), ATTN_OK);
    static const char *const sentences[] = {"o does not lie in a region", "o needs 1024 bytes and its region ends",
                                            "must be a multiple of 16", "imported for reading", "one is NULL"};
    void *outputs[] = {elsewhere, q + attn_region_bytes(region) - 16, q + 8, attn_region_data(read_only), NULL};
    for (int i = 0; i < 5; i++) {
        attn_client_request_t request = request_of(q, q, outputs[i]);
        ck_assert_int_eq(attn_client_submit(client, &request, NULL, &job, &error), ATTN_ERR_INVALID_ARGUMENT);
        ck_assert_msg(strstr(error.error.message, sentences[i]) != NULL, "%s", error.error.message);
    }
    ck_assert_uint_eq(seen.runs, 0);
    int nothing[2];
    ck_assert_int_eq(pipe(nothing), 0);
    ck_assert_int_eq(attn_region_import_memfd(client, nothing[0], ATTN_REGION_READ, &region, &error),
                     ATTN_ERR_INVALID_ARGUMENT);
    ck_assert_int_eq(attn_region_import_memfd(client, 9999, ATTN_REGION_READ, &region, &error),
                     ATTN_ERR_INVALID_ARGUMENT);
    ck_assert_int_eq(attn_region_allocate(client, 0, false, &region, &error), ATTN_ERR_INVALID_ARGUMENT);
    manner.refuse_regions = true;
    ck_assert_int_eq(attn_region_allocate(client, 10, false, &region, &error), ATTN_ERR_TOO_LARGE);
    ck_assert_str_eq(error.error.message, "no region fits here");
    char *text;
    ck_assert_int_eq(attn_client_stats(client, &text, &error), ATTN_ERR_UNIMPLEMENTED);
}
END_TEST

START_TEST(test_refusals_are_passed_on)
{
    static uint8_t q[BYTES], o[BYTES];
    client_open(modes[_i], 0);
    manner.refuse_runs = true;
    attn_client_request_t request = request_of(q, q, o);
    ck_assert_int_eq(attn_client_run(client, &request, NULL, NULL, &error), ATTN_ERR_FAILED_PRECONDITION);
    ck_assert_str_eq(error.error.message, "variant 'flip' cannot do this");
    ck_assert_uint_eq(error.missing.count, 2);
    ck_assert_str_eq(error.missing.item[0], "dtype: of another kind");
    ck_assert_str_eq(error.missing.item[1], "device: it is asleep");
}
END_TEST

START_TEST(test_addresses)
{
    static const char *const wrong[] = {"unix:", "unix:relative",
                                        "unix:/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
                                        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
                                        "aaaaaaaaaaaaaaaaaaaa"};
    for (int i = 0; i < 3; i++) {
        ck_assert_int_eq(attn_client_open(wrong[i], NULL, &client, &error), ATTN_ERR_INVALID_ARGUMENT);
    }
    attn_client_options_t options = {.ring_entries = 100};
    ck_assert_int_eq(attn_client_open(local_address, &options, &client, &error), ATTN_ERR_INVALID_ARGUMENT);
    ck_assert_int_eq(attn_client_open("http://127.0.0.1:1", NULL, &client, &error), ATTN_OK);
    attn_region_t *region;
    uint8_t handle[64] = {0};
    ck_assert_int_eq(
        attn_region_import_cuda_ipc(client, handle, "GPU-x", handle, 0, 64, ATTN_REGION_READ, &region, &error),
        ATTN_ERR_UNIMPLEMENTED);
    ck_assert_ptr_nonnull(strstr(error.error.message, "unix:/PATH"));
}
END_TEST

/* ---- a daemon that lies ---- */

static void lie(int which, bool on)
{
    manner.version = which == 0 && on ? 2 : 0;
    manner.wrong_magic = which == 1 && on;
    manner.far_array = which == 2 && on;
    manner.garbage = which == 3 && on;
    manner.torn = which == 4 && on;
}

START_TEST(test_lies)
{
    static uint8_t q[BYTES], o[BYTES];
    attn_client_request_t request = request_of(q, q, o);
    lie(_i, true);
    client_open(ATTN_CLIENT_RING, 0);
    attn_status_t status = attn_client_run(client, &request, NULL, NULL, &error);
    ck_assert_msg(status == ATTN_ERR_INTERNAL || status == ATTN_ERR_CONNECTION, "%d", status);
    ck_assert_str_ne(error.error.message, "");
    lie(_i, false); /* and when it has learnt its lesson, all is well */
    ck_assert_msg(attn_client_run(client, &request, NULL, NULL, &error) == ATTN_OK, "%s", error.error.message);
}
END_TEST

START_TEST(test_lies_that_harm_nobody)
{
    static uint8_t q[BYTES], o[BYTES];
    attn_client_answer_t answer;
    attn_client_request_t request = request_of(q, q, o);
    manner.wrong_tags = manner.unended_text = true;
    client_open(modes[_i], 0);
    ck_assert_int_eq(attn_client_run(client, &request, NULL, &answer, &error), ATTN_OK);
    ck_assert(flipped(q, o));
    ck_assert_uint_lt(strlen(answer.variant), sizeof answer.variant);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("local_faults");
    TCase *tests = tcase_create("all");
    tcase_set_timeout(tests, 60);
    tcase_add_checked_fixture(tests, door_open, all_close);
    tcase_add_loop_test(tests, test_run_survives_a_restart, 0, 2);
    tcase_add_loop_test(tests, test_jobs_in_flight_fail_with_the_connection, 0, 2);
    tcase_add_test(tests, test_no_daemon);
    tcase_add_test(tests, test_refusals_of_this_side);
    tcase_add_loop_test(tests, test_refusals_are_passed_on, 0, 2);
    tcase_add_test(tests, test_addresses);
    tcase_add_loop_test(tests, test_lies, 0, 5);
    tcase_add_loop_test(tests, test_lies_that_harm_nobody, 0, 2);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
