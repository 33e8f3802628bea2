/* test_regions.c: the table of clients' regions, with the workers' ends of the sockets in the test's own hands. */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "sched/regions.h"

enum { WORKERS = 3 };

static attn_regions_t *regions;
static attn_region_link_t links[WORKERS]; /* two serve workers, "A" and "B", and a lab worker of A */
static attn_region_link_t *const link_list[WORKERS] = {&links[0], &links[1], &links[2]};
static int ends[WORKERS];
static uint32_t woken, told_count, gone_count;
static attn_status_t told_status;
static attn_region_op_t told_op;

static void wake(void *arg)
{
    woken++;
}

static void told(void *arg, attn_region_op_t op, attn_status_t status, const char *message)
{
    told_count++;
    told_op = op;
    told_status = status;
}

static void gone(void *arg)
{
    gone_count++;
}

static void link_open(uint32_t n)
{
    static const char *const devices[WORKERS] = {"A", "B", "A"};
    attn_error_t err;
    int pair[2];
    ck_assert_int_eq(attn_fd_seqpacket_pair(pair, &err), ATTN_OK);
    links[n] = (attn_region_link_t){.fd = pair[0], .serve = n != 2, .device = devices[n]};
    ends[n] = pair[1];
    attn_regions_link_begin(regions, &links[n]);
}

static void link_lose(uint32_t n)
{
    attn_fd_close(&ends[n]);
    attn_regions_link_end(regions, &links[n]);
}

static void setup(void)
{
    attn_error_t err;
    woken = told_count = gone_count = 0;
    ck_assert_int_eq(attn_regions_create(wake, NULL, &regions, &err), ATTN_OK);
    for (uint32_t n = 0; n < WORKERS; n++)
        link_open(n);
}

static void teardown(void)
{
    for (uint32_t n = 0; n < WORKERS; n++)
        link_lose(n);
    attn_regions_destroy(regions);
}

static uint32_t add(attn_region_kind_t kind, const char *device)
{
    attn_error_t err;
    uint32_t number = 0;
    attn_region_about_t about = {.kind = kind, .writable = true, .fd = -1, .bytes = 4096};
    strcpy(about.device, device);
    if (kind == ATTN_REGION_HOST)
        ck_assert_int_eq(attn_fd_memory("test", 4096, &about.fd, &err), ATTN_OK);
    ck_assert_int_eq(attn_regions_add(regions, &about, told, NULL, &number, &err), ATTN_OK);
    ck_assert_uint_ge(number, ATTN_REGION_CLIENT_FIRST);
    return number;
}

static bool tell(void)
{
    return attn_regions_sync(regions, link_list, WORKERS);
}

/* What a worker reads: 0 when nothing is there. */
static uint32_t order_read(uint32_t n, attn_region_order_t *ret, bool *ret_fd)
{
    char control[CMSG_SPACE(sizeof(int))];
    struct iovec part = {ret, sizeof *ret};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    if (recvmsg(ends[n], &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) != (ssize_t)sizeof *ret)
        return 0;
    const struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    *ret_fd = head != NULL;
    if (head) {
        int fd;
        memcpy(&fd, CMSG_DATA(head), sizeof fd);
        close(fd);
    }
    return ret->op;
}

static void expect(uint32_t n, uint32_t op, uint32_t number)
{
    attn_region_order_t order;
    bool fd = false;
    ck_assert_uint_eq(order_read(n, &order, &fd), op);
    if (op != 0)
        ck_assert_uint_eq(order.number, number);
}

static bool report(uint32_t n, uint32_t op, uint32_t number, attn_status_t status)
{
    attn_region_report_t report = {.op = op, .number = number, .status = status};
    bool garbage;
    ck_assert_int_eq(send(ends[n], &report, sizeof report, 0), sizeof report);
    ck_assert(attn_regions_collect(regions, &links[n], &garbage));
    return !garbage;
}

START_TEST(host_memory_goes_to_every_serve_worker_with_its_descriptor)
{
    uint32_t number = add(ATTN_REGION_HOST, "");
    attn_region_order_t order;
    bool fd;
    ck_assert_uint_ge(woken, 1);
    ck_assert(attn_regions_changed(regions));
    ck_assert(!tell());
    ck_assert(!attn_regions_changed(regions));
    for (uint32_t n = 0; n < 2; n++) {
        ck_assert_uint_eq(order_read(n, &order, &fd), ATTN_REGION_ADD);
        ck_assert(fd && order.number == number && order.bytes == 4096 && order.writable);
    }
    expect(2, 0, 0); /* the lab's is told of what its job needs */
    ck_assert(attn_regions_ensure(regions, &links[2], number));
    expect(2, ATTN_REGION_ADD, number);
    ck_assert(attn_regions_ensure(regions, &links[2], number));
    expect(2, 0, 0);
    ck_assert_uint_eq(attn_regions_host_bytes(regions), 4096);
}
END_TEST

START_TEST(device_memory_goes_to_the_worker_of_its_device)
{
    uint32_t number = add(ATTN_REGION_IPC, "B");
    tell();
    expect(0, 0, 0);
    expect(1, ATTN_REGION_ADD, number);
    ck_assert_str_eq(attn_regions_device(regions, number), "B");
    ck_assert_uint_eq(told_count, 0);
    ck_assert(report(1, ATTN_REGION_ADD, number, ATTN_OK));
    ck_assert(told_count == 1 && told_status == ATTN_OK);
    /* A worker that is started anew is told again, and what it cannot open is lost. */
    link_lose(1);
    link_open(1);
    tell();
    expect(1, ATTN_REGION_ADD, number);
    ck_assert(report(1, ATTN_REGION_ADD, number, ATTN_ERR_INVALID_ARGUMENT));
    ck_assert(told_count == 2 && told_status == ATTN_ERR_INVALID_ARGUMENT);
}
END_TEST

START_TEST(a_number_is_free_when_no_worker_has_it)
{
    uint32_t number = add(ATTN_REGION_HOST, "");
    tell();
    expect(0, ATTN_REGION_ADD, number);
    expect(1, ATTN_REGION_ADD, number);
    ck_assert(report(0, ATTN_REGION_ADD, number, ATTN_OK));
    attn_regions_drop(regions, number, gone, NULL);
    tell();
    expect(0, ATTN_REGION_DROP, number);
    expect(1, ATTN_REGION_DROP, number);
    ck_assert(report(0, ATTN_REGION_DROP, number, ATTN_OK));
    tell();
    ck_assert_uint_eq(gone_count, 0);
    ck_assert_uint_ne(add(ATTN_REGION_HOST, ""), number);
    link_lose(1); /* reaped: what it had is nobody's */
    tell();
    ck_assert_uint_eq(gone_count, 1);
    ck_assert_uint_eq(add(ATTN_REGION_HOST, ""), number);
    link_open(1);
}
END_TEST

START_TEST(one_that_no_worker_was_told_of_goes_at_once)
{
    attn_regions_drop(regions, add(ATTN_REGION_VMM, "C"), gone, NULL);
    tell();
    ck_assert_uint_eq(gone_count, 1);
    ck_assert_uint_eq(attn_regions_count(regions), 0);
}
END_TEST

START_TEST(an_event_is_waited_for_once_per_asking_and_again_after_a_restart)
{
    uint32_t number = add(ATTN_REGION_EVENT, "A");
    tell();
    expect(0, ATTN_REGION_ADD, number);
    ck_assert(report(0, ATTN_REGION_ADD, number, ATTN_OK));
    attn_regions_await(regions, number);
    tell();
    expect(0, ATTN_REGION_AWAIT, number);
    link_lose(0);
    link_open(0);
    tell();
    expect(0, ATTN_REGION_ADD, number);
    expect(0, ATTN_REGION_AWAIT, number);
    ck_assert(report(0, ATTN_REGION_AWAIT, number, ATTN_OK));
    ck_assert(told_op == ATTN_REGION_AWAIT && told_status == ATTN_OK && told_count == 2);
    ck_assert(report(0, ATTN_REGION_AWAIT, number, ATTN_OK)); /* nobody has asked for it */
    ck_assert_uint_eq(told_count, 2);
}
END_TEST

START_TEST(what_no_worker_of_ours_would_say_is_garbage)
{
    uint32_t number = add(ATTN_REGION_HOST, "");
    tell();
    ck_assert(!report(0, ATTN_REGION_DROP, number, ATTN_OK)); /* not asked for */
    ck_assert(!report(0, ATTN_REGION_ADD, number + 1, ATTN_OK));
    ck_assert(!report(0, ATTN_REGION_ADD, 0, ATTN_OK));
    ck_assert(!report(0, ATTN_REGION_ADD, UINT32_MAX, ATTN_OK));
    ck_assert(!report(0, 9, number, ATTN_OK));
    ck_assert(!report(0, ATTN_REGION_ADD, number, 1));
    attn_region_report_t endless = {.op = ATTN_REGION_ADD, .number = number};
    memset(endless.message, 'x', sizeof endless.message);
    bool garbage = false;
    ck_assert_int_eq(send(ends[0], &endless, sizeof endless, 0), sizeof endless);
    ck_assert(attn_regions_collect(regions, &links[0], &garbage) && garbage);
    ck_assert_int_eq(send(ends[0], &endless, 7, 0), 7);
    ck_assert(attn_regions_collect(regions, &links[0], &garbage) && garbage);
}
END_TEST

START_TEST(a_full_socket_is_gone_on_with_later)
{
    static uint32_t numbers[4000];
    attn_region_order_t order;
    bool fd, left;
    for (int i = 0; i < 4000; i++)
        numbers[i] = add(ATTN_REGION_IPC, "A");
    left = tell();
    ck_assert_msg(left, "4000 orders fit a socket's buffer at once");
    int next = 0;
    for (int turns = 0; turns < 4000 && next < 4000; turns++) {
        while (order_read(0, &order, &fd) == ATTN_REGION_ADD)
            ck_assert_uint_eq(order.number, numbers[next++]);
        left = tell();
    }
    ck_assert_int_eq(next, 4000);
    ck_assert(!left);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("regions");
    TCase *tests = tcase_create("table");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, host_memory_goes_to_every_serve_worker_with_its_descriptor);
    tcase_add_test(tests, device_memory_goes_to_the_worker_of_its_device);
    tcase_add_test(tests, a_number_is_free_when_no_worker_has_it);
    tcase_add_test(tests, one_that_no_worker_was_told_of_goes_at_once);
    tcase_add_test(tests, an_event_is_waited_for_once_per_asking_and_again_after_a_restart);
    tcase_add_test(tests, what_no_worker_of_ours_would_say_is_garbage);
    tcase_add_test(tests, a_full_socket_is_gone_on_with_later);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
