/* test_local_device.c: device memory and events as libattn names them to the daemon. What stands for device memory is
 * memory of this process (fake_door.h), so that the fake kernel finds it; on a GPU: tests/gpu/local_client.py. */
#include <check.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "local_kit.h"

#define PAGE 4096

/* The same memory for the client and for the daemon, at two addresses as in two processes. */
static uint8_t *allocation, *theirs;

static void handle_make(uint8_t handle[64])
{
    memset(handle, 0, 64);
    memcpy(handle, &theirs, sizeof theirs);
}

static void setup(void)
{
    door_open();
    int fd = memfd_create("device", MFD_CLOEXEC);
    ck_assert_int_eq(ftruncate(fd, 2 * PAGE), 0);
    allocation = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    theirs = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    ck_assert(allocation != MAP_FAILED && theirs != MAP_FAILED);
    close(fd);
}

static void teardown(void)
{
    all_close();
    munmap(allocation, 2 * PAGE);
    munmap(theirs, 2 * PAGE);
}

START_TEST(test_handles)
{
    attn_region_t *region;
    attn_job_t *job;
    uint8_t handle[64];
    handle_make(handle);
    client_open(modes[_i], 0);
    uint8_t *base = allocation + 32, *o = base + 2 * BYTES;
    ck_assert_int_eq(attn_region_import_cuda_ipc(client, handle, FAKE_DEVICE, base, 32, PAGE, ATTN_REGION_READ_WRITE,
                                                 &region, &error),
                     ATTN_OK);
    ck_assert_ptr_eq(attn_region_data(region), base);
    bytes_fill(base, 5);
    attn_client_request_t request = request_of(base, base + BYTES, o);
    ck_assert_int_eq(attn_client_submit(client, &request, NULL, &job, &error), ATTN_OK);
    ck_assert_int_eq(attn_job_wait(job, -1, NULL, &error), ATTN_OK);
    attn_job_free(job);
    ck_assert(flipped(base, o));
    ck_assert_int_eq(attn_client_run(client, &request, NULL, NULL, &error), ATTN_OK);
    ck_assert_uint_eq(seen.registrations, 1); /* device memory is never staged */
    request.o = base + 8;                     /* not even where it lies badly */
    ck_assert_int_eq(attn_client_run(client, &request, NULL, NULL, &error), ATTN_ERR_INVALID_ARGUMENT);
    manner.hang_up = seen.runs + 1;
    request.o = o;
    memset(o, 0, BYTES);
    ck_assert_int_eq(attn_client_run(client, &request, NULL, NULL, &error), ATTN_OK);
    ck_assert(flipped(base, o));
    ck_assert_uint_eq(seen.registrations, 2);
    attn_region_release(region);
    ck_assert_uint_eq(seen.releases, 1);
    ck_assert_int_eq(attn_client_submit(client, &request, NULL, &job, &error), ATTN_ERR_INVALID_ARGUMENT);
}
END_TEST

START_TEST(test_descriptors)
{
    attn_region_t *region;
    client_open(modes[_i], 0);
    int fd = memfd_create("device", MFD_CLOEXEC);
    ck_assert_int_eq(ftruncate(fd, 2 * PAGE), 0);
    uint8_t *base = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    ck_assert_int_eq(
        attn_region_import_cuda_fd(client, fd, FAKE_DEVICE, base, 2 * PAGE, ATTN_REGION_READ_WRITE, &region, &error),
        ATTN_OK);
    close(fd); /* the library has its own */
    bytes_fill(base, 6);
    attn_client_request_t request = request_of(base, base, base + PAGE);
    manner.hang_up = 2;
    for (int i = 0; i < 3; i++) { /* the second is sent twice, over two connections */
        memset(base + PAGE, 0, BYTES);
        ck_assert_msg(attn_client_run(client, &request, NULL, NULL, &error) == ATTN_OK, "%s", error.error.message);
        ck_assert(flipped(base, base + PAGE));
    }
    ck_assert_uint_eq(seen.connections, 2);
    attn_region_release(region);
    munmap(base, 2 * PAGE);
}
END_TEST

START_TEST(test_wrong_imports)
{
    attn_region_t *region;
    uint8_t handle[64];
    handle_make(handle);
    client_open(ATTN_CLIENT_RING, 0);
    ck_assert_int_eq(
        attn_region_import_cuda_ipc(client, handle, NULL, allocation, 0, PAGE, ATTN_REGION_READ, &region, &error),
        ATTN_ERR_INVALID_ARGUMENT);
    ck_assert_int_eq(
        attn_region_import_cuda_ipc(client, handle, FAKE_DEVICE, NULL, 0, PAGE, ATTN_REGION_READ, &region, &error),
        ATTN_ERR_INVALID_ARGUMENT);
    ck_assert_int_eq(attn_region_import_cuda_ipc(client, handle, FAKE_DEVICE, allocation, 0, PAGE,
                                                 (attn_region_access_t)9, &region, &error),
                     ATTN_ERR_INVALID_ARGUMENT);
    ck_assert_int_eq(
        attn_region_import_cuda_fd(client, -1, FAKE_DEVICE, allocation, PAGE, ATTN_REGION_READ, &region, &error),
        ATTN_ERR_INVALID_ARGUMENT);
    ck_assert_uint_eq(seen.registrations, 0);
}
END_TEST

START_TEST(test_events)
{
    attn_region_t *region;
    attn_event_t *ready, *done;
    uint8_t handle[64], event[64];
    handle_make(handle);
    memset(event, FAKE_FLIP, sizeof event);
    client_open(modes[_i], 0);
    ck_assert_int_eq(attn_region_import_cuda_ipc(client, handle, FAKE_DEVICE, allocation, 0, 2 * PAGE,
                                                 ATTN_REGION_READ_WRITE, &region, &error),
                     ATTN_OK);
    ck_assert_int_eq(attn_event_import(client, event, FAKE_DEVICE, &ready, &error), ATTN_OK);
    ck_assert_int_eq(attn_event_import(client, event, FAKE_DEVICE, &done, &error), ATTN_OK);
    attn_client_request_t request = request_of(allocation, allocation, allocation + PAGE);
    ck_assert_int_eq(attn_client_run(client, &request, NULL, NULL, &error), ATTN_OK);
    ck_assert_uint_eq(seen.wait_event + seen.signal_event, 0);
    request.wait_event = ready;
    request.signal_event = done;
    ck_assert_int_eq(attn_client_run(client, &request, NULL, NULL, &error), ATTN_OK);
    ck_assert_uint_eq(seen.wait_event, 70);
    ck_assert_uint_eq(seen.signal_event, 71);
    manner.hang_up = seen.runs + 1;
    ck_assert_int_eq(attn_client_run(client, &request, NULL, NULL, &error), ATTN_OK);
    ck_assert_uint_eq(seen.events, 4); /* registered again, under new numbers */
    ck_assert_uint_ge(seen.wait_event, 72);
    ck_assert_uint_ge(seen.signal_event, 72);
    ck_assert_uint_ne(seen.wait_event, seen.signal_event);
    attn_event_release(ready);
    attn_event_release(done);
    ck_assert_uint_eq(seen.event_releases, 2);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("local_device");
    TCase *tests = tcase_create("all");
    tcase_set_timeout(tests, 60);
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_loop_test(tests, test_handles, 0, 2);
    tcase_add_loop_test(tests, test_descriptors, 0, 2);
    tcase_add_test(tests, test_wrong_imports);
    tcase_add_loop_test(tests, test_events, 0, 2);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
