/* ring_latency: a no-op through the ring of the Unix socket's door, between two processes, beside a bare ping-pong of
 * two eventfds between two processes on the same cores, in the same run. CPU only.
 *
 *   ring_latency BIN [ROUNDS]      BIN: the folder with attnd and attn-worker
 *
 * Columns: both sides spinning; the daemon asleep in epoll and the client in a futex, or in poll on the pipe. Each with
 * the two processes on one core and on two. What sleeps is measured in turns, a block of rounds of each: how long a
 * core takes to wake changes from second to second. Prints medians and what issue and README promise: at most 5 us
 * spinning on two cores, at most 1.2 times the ping-pong asleep. Exit status 1 when that does not hold. */
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "attn/v1/shm_ring.h"
#include "attn/v1/socket.pb-c.h"

enum { BLOCKS = 20, WARM_UP = 100 /* rounds of each block */ };

typedef enum sleep_mode { SPIN, FUTEX, PIPE } sleep_mode_t;

typedef struct ring {
    attn_shm_header_t *header;
    attn_shm_submission_t *submissions;
    int bell, pipe;
    uint64_t count;
} ring_t;

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static void fail(const char *what)
{
    fprintf(stderr, "ring_latency: %s: %s\n", what, strerror(errno));
    exit(2);
}

static void pin(int core)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(core, &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0) {
        fail("a core cannot be chosen");
    }
}

static int compare(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static double median_us(int64_t *times, int count)
{
    qsort(times, (size_t)count, sizeof *times, compare);
    return (double)times[count / 2] / 1000;
}

/* ---- the floor ---- */

typedef struct ping_pong {
    int there, back;
    pid_t child;
} ping_pong_t;

static ping_pong_t ping_pong_open(int server_core)
{
    ping_pong_t pair = {.there = eventfd(0, 0), .back = eventfd(0, 0)};
    uint64_t word = 1;
    pair.child = fork();
    if (pair.child == 0) {
        pin(server_core);
        while (read(pair.there, &word, sizeof word) == sizeof word &&
               write(pair.back, &word, sizeof word) == sizeof word) {
        }
        _exit(0);
    }
    return pair;
}

static void ping_pong_round(const ping_pong_t *pair)
{
    uint64_t word = 1;
    if (write(pair->there, &word, sizeof word) < 0 || read(pair->back, &word, sizeof word) < 0) {
        fail("the ping-pong");
    }
}

static void ping_pong_close(const ping_pong_t *pair)
{
    kill(pair->child, SIGKILL);
    waitpid(pair->child, NULL, 0);
    close(pair->there);
    close(pair->back);
}

/* ---- the daemon ---- */

static pid_t daemon_start(const char *bin, const char *path, int core, bool spins)
{
    char program[4096];
    snprintf(program, sizeof program, "%s/attnd", bin);
    pid_t child = fork();
    if (child == 0) {
        pin(core);
        execl(program, program, "--devices", "null", "--http-port", "0", "--metrics-port", "0", "--socket", path,
              "--socket-spin-us", spins ? "1000000" : "0", "--arena-bytes", "1M", "--log-level", "error", NULL);
        _exit(127);
    }
    return child;
}

static int connect_to(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    for (int tries = 0; tries < 500; tries++) {
        int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);
        if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0) {
            return fd;
        }
        close(fd);
        usleep(10000);
    }
    fail("attnd does not listen");
    return -1;
}

static Attn__V1__SocketAnswer *ask(int fd, const Attn__V1__SocketRequest *request, int fds[3])
{
    static unsigned char data[65536];
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(3 * sizeof(int))];
    } control;
    size_t bytes = attn__v1__socket_request__pack(request, data);
    if (send(fd, data, bytes, 0) < 0) {
        fail("a packet cannot be sent");
    }
    struct iovec part = {data, sizeof data};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    ssize_t got = recvmsg(fd, &message, 0);
    if (got <= 0) {
        fail("no answer");
    }
    const struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    if (head != NULL) {
        memcpy(fds, CMSG_DATA(head), 3 * sizeof(int));
    }
    return attn__v1__socket_answer__unpack(NULL, (size_t)got, data);
}

static ring_t ring_open(int fd)
{
    int fds[3] = {-1, -1, -1};
    Attn__V1__SocketRequest request = ATTN__V1__SOCKET_REQUEST__INIT;
    Attn__V1__Hello hello = ATTN__V1__HELLO__INIT;
    Attn__V1__OpenRing open_ring = ATTN__V1__OPEN_RING__INIT;
    hello.version_min = hello.version_max = 1;
    request.what_case = ATTN__V1__SOCKET_REQUEST__WHAT_HELLO;
    request.hello = &hello;
    attn__v1__socket_answer__free_unpacked(ask(fd, &request, fds), NULL);
    open_ring.entries = 64;
    request.what_case = ATTN__V1__SOCKET_REQUEST__WHAT_OPEN_RING;
    request.open_ring = &open_ring;
    Attn__V1__SocketAnswer *answer = ask(fd, &request, fds);
    if (answer == NULL || answer->what_case != ATTN__V1__SOCKET_ANSWER__WHAT_RING_OPENED) {
        fail("no ring");
    }
    char *map = mmap(NULL, answer->ring_opened->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fds[0], 0);
    if (map == MAP_FAILED) {
        fail("the ring cannot be mapped");
    }
    attn__v1__socket_answer__free_unpacked(answer, NULL);
    attn_shm_header_t *header = (attn_shm_header_t *)map;
    return (ring_t){header, (attn_shm_submission_t *)(map + header->submissions), fds[1], fds[2], 0};
}

/* ---- a no-op ---- */

static void submit(ring_t *ring)
{
    attn_shm_header_t *header = ring->header;
    attn_shm_submission_t *record = &ring->submissions[ring->count % header->entries];
    *record = (attn_shm_submission_t){.tag = ring->count, .op = ATTN_SHM_NOP};
    ring->count++;
    atomic_store(&header->submit_tail, ring->count);
    if (atomic_load(&header->submit_armed) != 0) {
        uint64_t one = 1;
        if (write(ring->bell, &one, sizeof one) < 0) {
            fail("the doorbell");
        }
    }
}

static bool done(const ring_t *ring)
{
    return atomic_load_explicit(&ring->header->complete_tail, memory_order_acquire) == ring->count;
}

static void sleep_once(ring_t *ring, sleep_mode_t mode)
{
    attn_shm_header_t *header = ring->header;
    uint32_t seen = atomic_load(&header->complete_futex);
    atomic_store(&header->complete_armed, mode == FUTEX ? ATTN_SHM_SLEEP_FUTEX : ATTN_SHM_SLEEP_PIPE);
    if (done(ring)) {
        return;
    }
    if (mode == FUTEX) {
        syscall(SYS_futex, &header->complete_futex, FUTEX_WAIT, seen, NULL, NULL, 0);
    } else {
        struct pollfd wake = {.fd = ring->pipe, .events = POLLIN};
        char bytes[64];
        if (poll(&wake, 1, 1000) > 0 && read(ring->pipe, bytes, sizeof bytes) < 0) {
            fail("the pipe");
        }
    }
}

static void ring_round(ring_t *ring, sleep_mode_t mode)
{
    submit(ring);
    while (!done(ring)) {
        if (mode != SPIN) {
            sleep_once(ring, mode);
        }
    }
    atomic_store_explicit(&ring->header->complete_head, ring->count, memory_order_release);
}

typedef struct door {
    pid_t daemon;
    int fd;
    ring_t ring;
} door_t;

static door_t door_open(const char *bin, int server_core, bool spins)
{
    char path[64];
    snprintf(path, sizeof path, "/tmp/ring-latency-%d.sock", (int)getpid());
    door_t door = {.daemon = daemon_start(bin, path, server_core, spins)};
    door.fd = connect_to(path);
    door.ring = ring_open(door.fd);
    return door;
}

static void door_close(const door_t *door)
{
    kill(door->daemon, SIGTERM);
    waitpid(door->daemon, NULL, 0);
    close(door->fd);
    close(door->ring.bell);
    close(door->ring.pipe);
}

/* ---- what is measured ---- */

typedef struct row {
    double ping_pong, spin, futex, pipe;
} row_t;

static row_t measure(const char *bin, int client_core, int server_core, int rounds, int64_t *times)
{
    row_t row = {0};
    pin(client_core);
    if (server_core != client_core) {
        door_t door = door_open(bin, server_core, true);
        for (int i = -WARM_UP; i < rounds; i++) {
            int64_t began = now_ns();
            ring_round(&door.ring, SPIN);
            times[i < 0 ? 0 : i] = now_ns() - began;
        }
        row.spin = median_us(times, rounds);
        door_close(&door);
    }
    ping_pong_t pair = ping_pong_open(server_core);
    door_t door = door_open(bin, server_core, false);
    double *const medians[] = {&row.ping_pong, &row.futex, &row.pipe};
    const int in_block = rounds / BLOCKS;
    for (int block = 0; block < BLOCKS; block++) {
        for (int kind = 0; kind < 3; kind++) {
            int64_t *const at = times + kind * rounds + block * in_block;
            for (int i = -WARM_UP; i < in_block; i++) {
                int64_t began = now_ns();
                if (kind == 0) {
                    ping_pong_round(&pair);
                } else {
                    ring_round(&door.ring, kind == 1 ? FUTEX : PIPE);
                }
                at[i < 0 ? 0 : i] = now_ns() - began;
            }
        }
    }
    for (int kind = 0; kind < 3; kind++) {
        *medians[kind] = median_us(times + kind * rounds, BLOCKS * in_block);
    }
    door_close(&door);
    ping_pong_close(&pair);
    return row;
}

int main(int argc, char **argv)
{
    int rounds = argc > 2 ? atoi(argv[2]) : 20000;
    if (argc < 2 || rounds < BLOCKS) {
        fprintf(stderr, "usage: ring_latency BIN [ROUNDS]    rounds: %d or more\n", BLOCKS);
        return 2;
    }
    int64_t *times = calloc(3 * (size_t)rounds, sizeof *times);
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    bool good = true;
    if (times == NULL) {
        return 2;
    }
    printf("%-10s %14s %14s %14s %14s   median us of %d rounds\n", "cores", "ping-pong", "ring, spinning",
           "ring, futex", "ring, pipe", rounds);
    for (int other = 0; other < (cores > 1 ? 2 : 1); other++) {
        row_t row = measure(argv[1], 0, other, rounds, times);
        printf("%-10s %14.2f %14.2f %14.2f %14.2f\n", other ? "two" : "one", row.ping_pong, row.spin, row.futex,
               row.pipe);
        good = good && row.spin <= 5 && row.futex <= 1.2 * row.ping_pong;
    }
    printf("%s: at most 5 us spinning on two cores; asleep in a futex at most 1.2 x the ping-pong\n",
           good ? "holds" : "DOES NOT HOLD");
    free(times);
    return good ? 0 : 1;
}
