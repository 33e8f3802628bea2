/* test_unix.c: the Unix socket's door in the test's own process, with the scheduler and a real worker: the hot path of
 * the ring allocates nothing, neither in the daemon nor in the worker, as a count of every call of the allocator says,
 * and tensors are where the client put them. What clients can do to it is tests/e2e/test_socket*.py. */
#include <check.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "allocations.h"
#include "attn/v1/shm_ring.h"
#include "attn/v1/socket.pb-c.h"
#include "base/clock.h"
#include "sched/admit.h"
#include "transport/unix.h"

/* ---- the door ---- */

static attn_options_t options;
static attn_front_t front;
static attn_unix_t *door;
static char path[64];

static void setup(void)
{
    attn_error_t err;
    char *argv[] = {"attnd", "--socket", path, "--devices", "cpu", "--arena-bytes", "16M"};
    allocations_share();
    snprintf(path, sizeof path, "/tmp/test-unix-%d.sock", (int)getpid());
    ck_assert_int_eq(attn_options_parse(7, argv, NULL, &options, &err), ATTN_OK);
    const attn_admit_options_t admit = {.arena_bytes = options.arena_bytes};
    front = (attn_front_t){.options = &options};
    ck_assert_int_eq(attn_admit_create(&admit, &front.admit, &err), ATTN_OK);
    const attn_sched_options_t sched = {.worker_path = TEST_WORKER_PATH, .devices = "cpu", .admit = front.admit};
    ck_assert_msg(attn_sched_start(&sched, &front.sched, &err) == ATTN_OK, "%s", err.message);
    ck_assert_msg(attn_unix_start(&front, &door, &err) == ATTN_OK, "%s", err.message);
    ck_assert_ptr_nonnull(door);
}

static void teardown(void)
{
    attn_unix_stop(door);
    attn_sched_drain_finish(front.sched, 5000);
    attn_sched_stop(front.sched);
    attn_admit_destroy(front.admit);
    ck_assert_int_ne(access(path, F_OK), 0);
}

/* ---- a client ---- */

static int connect_here(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

static Attn__V1__SocketAnswer *ask(int fd, const Attn__V1__SocketRequest *request, int *ret_fds)
{
    unsigned char data[8192];
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(3 * sizeof(int))];
    } control;
    ck_assert_int_gt(send(fd, data, attn__v1__socket_request__pack(request, data), 0), 0);
    struct iovec part = {data, sizeof data};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    ssize_t got = recvmsg(fd, &message, 0);
    ck_assert_int_gt(got, 0);
    const struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    if (head != NULL) {
        memcpy(ret_fds, CMSG_DATA(head), head->cmsg_len - CMSG_LEN(0));
    }
    Attn__V1__SocketAnswer *answer = attn__v1__socket_answer__unpack(NULL, (size_t)got, data);
    ck_assert_msg(answer != NULL && answer->what_case != ATTN__V1__SOCKET_ANSWER__WHAT_ERROR, "%s",
                  answer != NULL ? answer->error->error : "no answer");
    return answer;
}

typedef struct client {
    int fd;
    uint32_t region;
    float *memory;
    attn_shm_header_t *ring;
    int bell;
    uint64_t count;
} client_t;

enum { S = 8, H = 2, D = 32, TENSOR = S * H * D, RING_ENTRIES = 16 };

static void *map_of(int fd, uint64_t bytes)
{
    void *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    ck_assert_ptr_ne(map, MAP_FAILED);
    return map;
}

static client_t client_open(void)
{
    client_t client = {.fd = connect_here()};
    int fds[3];
    Attn__V1__SocketRequest request = ATTN__V1__SOCKET_REQUEST__INIT;
    Attn__V1__Hello hello = ATTN__V1__HELLO__INIT;
    Attn__V1__RegisterRegion region = ATTN__V1__REGISTER_REGION__INIT;
    Attn__V1__HostAllocate allocate = ATTN__V1__HOST_ALLOCATE__INIT;
    Attn__V1__OpenRing ring = ATTN__V1__OPEN_RING__INIT;
    hello.version_min = hello.version_max = 1;
    request.what_case = ATTN__V1__SOCKET_REQUEST__WHAT_HELLO;
    request.hello = &hello;
    attn__v1__socket_answer__free_unpacked(ask(client.fd, &request, fds), NULL);
    region.name = "r";
    region.access = ATTN__V1__REGION_ACCESS__REGION_ACCESS_READ_WRITE;
    region.memory_case = ATTN__V1__REGISTER_REGION__MEMORY_ALLOCATE;
    region.allocate = &allocate;
    allocate.bytes = 4 * TENSOR * sizeof(float);
    request.what_case = ATTN__V1__SOCKET_REQUEST__WHAT_REGISTER_REGION;
    request.register_region = &region;
    Attn__V1__SocketAnswer *answer = ask(client.fd, &request, fds);
    client.region = answer->region_registered->id;
    client.memory = map_of(fds[0], answer->region_registered->bytes);
    attn__v1__socket_answer__free_unpacked(answer, NULL);
    ring.entries = RING_ENTRIES;
    request.what_case = ATTN__V1__SOCKET_REQUEST__WHAT_OPEN_RING;
    request.open_ring = &ring;
    answer = ask(client.fd, &request, fds);
    client.ring = map_of(fds[0], answer->ring_opened->bytes);
    client.bell = fds[1];
    attn__v1__socket_answer__free_unpacked(answer, NULL);
    return client;
}

static void submit(client_t *client)
{
    attn_shm_header_t *ring = client->ring;
    attn_shm_submission_t *record =
        (attn_shm_submission_t *)((char *)ring + ring->submissions) + client->count % ring->entries;
    const uint64_t bytes = TENSOR * sizeof(float);
    *record = (attn_shm_submission_t){
        .tag = client->count,
        .op = ATTN_SHM_RUN,
        .dtype = 3,
        .batch = 1,
        .h_q = H,
        .h_kv = H,
        .d = D,
        .s_q = S,
        .s_kv = S,
        .q = {.region = client->region},
        .k = {.region = client->region, .offset = bytes},
        .v = {.region = client->region, .offset = 2 * bytes},
        .o = {.region = client->region, .offset = 3 * bytes},
    };
    atomic_store(&ring->submit_tail, ++client->count);
    if (atomic_load(&ring->submit_armed) != 0) {
        uint64_t one = 1;
        ck_assert_int_eq(write(client->bell, &one, sizeof one), sizeof one);
    }
}

static void reap(client_t *client)
{
    attn_shm_header_t *ring = client->ring;
    int64_t until = attn_clock_ns() + 60 * ATTN_NS_PER_S;
    while (atomic_load_explicit(&ring->complete_tail, memory_order_acquire) != client->count) {
        ck_assert_int_lt(attn_clock_ns(), until);
        usleep(10);
    }
    const attn_shm_completion_t *record =
        (const attn_shm_completion_t *)((char *)ring + ring->completions) + (client->count - 1) % ring->entries;
    ck_assert_msg(record->status == ATTN_OK, "%s", record->text);
    atomic_store_explicit(&ring->complete_head, client->count, memory_order_release);
}

/* Submits 2000 requests one by one, then as many with up to `most` in flight. */
static void run_many(client_t *client, int most)
{
    for (int i = 0; i < 2000; i++) {
        submit(client);
        reap(client);
    }
    for (int i = 0; i < 2000; i++) {
        submit(client);
        if (i % most == most - 1) {
            reap(client);
        }
    }
}

START_TEST(the_hot_path_allocates_nothing)
{
    client_t client = client_open();
    allocations_leave_out();
    for (int i = 0; i < TENSOR; i++) {
        client.memory[i] = 0;                           /* q: all keys weigh alike */
        client.memory[TENSOR + i] = 1;                  /* k */
        client.memory[2 * TENSOR + i] = (float)(i % D); /* v: every row the same */
        client.memory[3 * TENSOR + i] = -1;
    }
    /* Series of metrics, room for groups and the like are made on first use: larger groups first than later. */
    run_many(&client, RING_ENTRIES);
    allocations_count(true);
    run_many(&client, RING_ENTRIES / 2);
    allocations_count(false);
    ck_assert_uint_eq(allocations_here(), 0);
    ck_assert_uint_eq(allocations_there(), 0);
    for (int i = 0; i < TENSOR; i++) {
        ck_assert_float_eq_tol(client.memory[3 * TENSOR + i], (float)(i % D), 1e-4f);
    }
    /* The counters count: a connection costs the daemon some, and a region the worker, which has it before a request
     * in it is done. */
    allocations_count(true);
    client_t other = client_open();
    submit(&other);
    reap(&other);
    allocations_count(false);
    close(other.fd);
    ck_assert_uint_gt(allocations_here(), 0);
    ck_assert_uint_gt(allocations_there(), 0);
    /* Nothing went through the daemon's own memory. */
    ck_assert_uint_eq(attn_front_copied(ATTN_DOOR_RING) + attn_front_copied(ATTN_DOOR_SOCKET), 0);
    attn_admit_view_t view;
    attn_admit_view(front.admit, &view);
    ck_assert_uint_eq(view.tickets + view.input_used + view.output_used, 0);
    close(client.fd);
}
END_TEST

START_TEST(stops_while_requests_are_under_way)
{
    client_t clients[4];
    for (int c = 0; c < 4; c++) {
        clients[c] = client_open();
        for (int i = 0; i < 16; i++) {
            submit(&clients[c]);
        }
    }
    close(clients[0].fd);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("unix");
    TCase *tests = tcase_create("door");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 100);
    tcase_add_test(tests, the_hot_path_allocates_nothing);
    tcase_add_test(tests, stops_while_requests_are_under_way);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
