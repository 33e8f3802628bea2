/* test_ring.c: the two rings: order and wake-ups between threads; hostile contents; a job's memory in either class. */
#include <check.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/fd.h"
#include "worker/memory.h"
#include "worker/ring.h"

typedef struct pair {
    attn_ring_t front, worker;
    int fd, job_bell, done_bell;
} pair_t;

static pair_t pair;

/* A group of one. */
static bool job_push(attn_ring_t *ring, const attn_wire_job_t *job)
{
    *attn_ring_job_next(ring) = *job;
    return attn_ring_job_publish(ring);
}

static bool done_push(attn_ring_t *ring, const attn_wire_done_t *done)
{
    attn_ring_done_put(ring, done);
    return attn_ring_done_publish(ring);
}

static void pair_open(void)
{
    attn_error_t err;
    ck_assert_msg(attn_ring_create(0, &pair.front, &pair.fd, &err) == ATTN_OK, "%s", err.message);
    ck_assert_msg(attn_ring_attach(pair.fd, &pair.worker, &err) == ATTN_OK, "%s", err.message);
    ck_assert_int_eq(attn_fd_event(true, &pair.job_bell, &err), ATTN_OK);
    ck_assert_int_eq(attn_fd_event(true, &pair.done_bell, &err), ATTN_OK);
}

static void pair_close(void)
{
    attn_ring_close(&pair.front);
    attn_ring_close(&pair.worker);
    attn_fd_close(&pair.fd);
    attn_fd_close(&pair.job_bell);
    attn_fd_close(&pair.done_bell);
}

enum { JOBS = 20000 };

/* Sleeps whenever there is nothing, so every lost wake-up would hang the test. */
static void *worker_main(void *arg)
{
    (void)arg;
    for (uint64_t n = 0; n < JOBS; n++) {
        while (!attn_ring_job_waiting(&pair.worker)) {
            attn_ring_job_arm(&pair.worker, true);
            if (!attn_ring_job_waiting(&pair.worker))
                attn_fd_bell_wait(pair.job_bell);
            attn_ring_job_arm(&pair.worker, false);
        }
        const attn_wire_job_t *job = attn_ring_job_take(&pair.worker);
        attn_wire_done_t done = {.serial = job->serial, .kernel_us = (double)job->seed};
        if (job->seed % 7 == 0) {
            done.status = ATTN_ERR_INTERNAL;
            memcpy(done.message, "seven", 6);
        }
        if (done_push(&pair.worker, &done))
            attn_fd_bell_ring(pair.done_bell);
    }
    return NULL;
}

START_TEST(jobs_and_completions_keep_order)
{
    pthread_t thread;
    uint64_t given = 0, taken = 0;
    ck_assert_int_eq(pthread_create(&thread, NULL, worker_main, NULL), 0);
    while (taken < JOBS) {
        while (given < JOBS && given - taken < ATTN_WIRE_SLOTS) {
            attn_wire_job_t job = {.serial = ++given, .seed = given * 3};
            if (job_push(&pair.front, &job))
                attn_fd_bell_ring(pair.job_bell);
        }
        attn_wire_done_t done;
        attn_ring_pop_t popped = attn_ring_done_pop(&pair.front, &done);
        if (popped == ATTN_RING_POPPED) {
            ck_assert_uint_eq(done.serial, ++taken);
            ck_assert_double_eq(done.kernel_us, (double)taken * 3);
            ck_assert_str_eq(done.message, taken * 3 % 7 ? "" : "seven");
            continue;
        }
        ck_assert_int_eq(popped, ATTN_RING_EMPTY);
        attn_ring_done_arm(&pair.front, true);
        if (!attn_ring_done_waiting(&pair.front))
            attn_fd_bell_wait(pair.done_bell);
        attn_ring_done_arm(&pair.front, false);
    }
    pthread_join(thread, NULL);
}
END_TEST

START_TEST(cancellation_is_by_serial)
{
    attn_wire_job_t job = {.serial = 5, .slot = 3};
    job_push(&pair.front, &job);
    ck_assert(!attn_ring_job_cancelled(&pair.worker, 3, 5));
    attn_ring_job_cancel(&pair.front, 3, 4);
    ck_assert(!attn_ring_job_cancelled(&pair.worker, 3, 5));
    attn_ring_job_cancel(&pair.front, 3, 5);
    ck_assert(attn_ring_job_cancelled(&pair.worker, 3, 5));
}
END_TEST

/* A worker never sees a part of a group, nor the front a part of its completions. */
START_TEST(groups_appear_at_once)
{
    for (uint64_t n = 1; n <= 3; n++) {
        *attn_ring_job_next(&pair.front) = (attn_wire_job_t){.serial = n, .group = 9, .group_count = 3};
        ck_assert(!attn_ring_job_waiting(&pair.worker));
    }
    attn_ring_job_publish(&pair.front);
    for (uint64_t n = 1; n <= 3; n++) {
        ck_assert(attn_ring_job_waiting(&pair.worker));
        ck_assert_uint_eq(attn_ring_job_take(&pair.worker)->serial, n);
    }
    ck_assert(!attn_ring_job_waiting(&pair.worker));
    attn_wire_done_t done = {.serial = 3, .slot = 7}, got;
    attn_ring_done_put(&pair.worker, &done);
    ck_assert(!attn_ring_done_waiting(&pair.front));
    attn_ring_done_publish(&pair.worker);
    ck_assert_int_eq(attn_ring_done_pop(&pair.front, &got), ATTN_RING_POPPED);
    ck_assert_uint_eq(got.slot, 7);
}
END_TEST

/* Areas of sequence offsets do not overlap, and the last one ends inside the mapping. */
START_TEST(sequence_areas_are_apart)
{
    const char *begin = (const char *)attn_ring_sequences(&pair.front, 0);
    for (uint32_t area = 1; area < ATTN_WIRE_SLOTS + ATTN_WIRE_LARGE_AREAS; area++) {
        const char *before = (const char *)attn_ring_sequences(&pair.front, area - 1);
        const char *at = (const char *)attn_ring_sequences(&pair.front, area);
        uint64_t size = area - 1 < ATTN_WIRE_SLOTS ? ATTN_WIRE_AREA_BYTES : ATTN_WIRE_LARGE_AREA_BYTES;
        ck_assert_ptr_eq(at, before + size);
    }
    const char *last = (const char *)attn_ring_sequences(&pair.front, ATTN_WIRE_SLOTS + ATTN_WIRE_LARGE_AREAS - 1);
    ck_assert_ptr_eq(last + ATTN_WIRE_LARGE_AREA_BYTES, (const char *)pair.front.map + ATTN_WIRE_BYTES);
    ck_assert_ptr_eq(begin, pair.front.sequences);
}
END_TEST

/* One job in flight and one completion that `spoil` has been at. */
static attn_ring_pop_t pop_spoilt(void (*spoil)(attn_wire_worker_t *shared, attn_wire_done_t *done))
{
    attn_wire_job_t job = {.serial = 1};
    attn_wire_done_t done = {.serial = 1, .status = ATTN_ERR_INTERNAL}, got;
    job_push(&pair.front, &job);
    done_push(&pair.worker, &done);
    spoil(pair.worker.worker, &pair.worker.worker->done[0]);
    attn_ring_pop_t popped = attn_ring_done_pop(&pair.front, &got);
    if (popped == ATTN_RING_POPPED)
        ck_assert_ptr_nonnull(memchr(got.message, '\0', sizeof got.message));
    return popped;
}

static void spoil_nothing(attn_wire_worker_t *shared, attn_wire_done_t *done) {}
static void spoil_status(attn_wire_worker_t *shared, attn_wire_done_t *done)
{
    done->status = -17;
}
static void spoil_status_positive(attn_wire_worker_t *shared, attn_wire_done_t *done)
{
    done->status = 1;
}
static void spoil_text(attn_wire_worker_t *shared, attn_wire_done_t *done)
{
    memset(done->message, 'x', sizeof done->message);
}
static void spoil_time_nan(attn_wire_worker_t *shared, attn_wire_done_t *done)
{
    done->kernel_us = NAN;
}
static void spoil_time_negative(attn_wire_worker_t *shared, attn_wire_done_t *done)
{
    done->kernel_min_us = -1;
}
static void spoil_time_huge(attn_wire_worker_t *shared, attn_wire_done_t *done)
{
    done->copy_in_us = UINT64_MAX;
}
static void spoil_tail_ahead(attn_wire_worker_t *shared, attn_wire_done_t *done)
{
    atomic_store(&shared->done_tail, 2); /* more completions than jobs */
}
static void spoil_tail_far(attn_wire_worker_t *shared, attn_wire_done_t *done)
{
    atomic_store(&shared->done_tail, UINT64_MAX);
}
static void spoil_guard(attn_wire_worker_t *shared, attn_wire_done_t *done)
{
    atomic_store(&shared->guard_last, 0);
}
static void spoil_flag(attn_wire_worker_t *shared, attn_wire_done_t *done)
{
    done->unusable = 2;
}
static void spoil_slot(attn_wire_worker_t *shared, attn_wire_done_t *done)
{
    done->slot = ATTN_WIRE_SLOTS;
}
static void spoil_pass(attn_wire_worker_t *shared, attn_wire_done_t *done)
{
    done->judgement.pass = 7;
}
static void spoil_pass_with_nan(attn_wire_worker_t *shared, attn_wire_done_t *done)
{
    done->judgement.pass = 1;
    done->judgement.rmse = NAN;
}
static void spoil_judgement_nan(attn_wire_worker_t *shared, attn_wire_done_t *done)
{
    done->judgement.max_abs = NAN; /* a kernel wrote NaN: legitimate, and a failure */
}

static const struct {
    void (*spoil)(attn_wire_worker_t *, attn_wire_done_t *);
    attn_ring_pop_t expected;
} spoilers[] = {
    {spoil_nothing, ATTN_RING_POPPED},
    {spoil_status, ATTN_RING_GARBAGE},
    {spoil_status_positive, ATTN_RING_GARBAGE},
    {spoil_text, ATTN_RING_GARBAGE},
    {spoil_time_nan, ATTN_RING_GARBAGE},
    {spoil_time_negative, ATTN_RING_GARBAGE},
    {spoil_time_huge, ATTN_RING_GARBAGE},
    {spoil_tail_ahead, ATTN_RING_GARBAGE},
    {spoil_tail_far, ATTN_RING_GARBAGE},
    {spoil_guard, ATTN_RING_GARBAGE},
    {spoil_flag, ATTN_RING_GARBAGE},
    {spoil_slot, ATTN_RING_GARBAGE},
    {spoil_pass, ATTN_RING_GARBAGE},
    {spoil_pass_with_nan, ATTN_RING_GARBAGE},
    {spoil_judgement_nan, ATTN_RING_POPPED},
};

START_TEST(hostile_contents)
{
    ck_assert_int_eq(pop_spoilt(spoilers[_i].spoil), spoilers[_i].expected);
}
END_TEST

/* Noise over all of the worker's part, a thousand times: never a crash, never an answer. */
START_TEST(noise_is_never_an_answer)
{
    uint64_t noise = (uint64_t)_i * 7919 + 1;
    attn_wire_job_t job = {.serial = 1};
    attn_wire_done_t got;
    job_push(&pair.front, &job);
    for (int turn = 0; turn < 250; turn++) {
        uint64_t *words = (uint64_t *)(void *)pair.worker.worker;
        for (size_t i = 0; i < sizeof *pair.worker.worker / 8; i++) {
            noise = noise * 6364136223846793005u + 1442695040888963407u;
            words[i] = noise;
        }
        ck_assert_int_eq(attn_ring_done_pop(&pair.front, &got), ATTN_RING_GARBAGE);
    }
}
END_TEST

START_TEST(another_version_is_refused)
{
    attn_ring_t ring = {0};
    attn_error_t err;
    pair.front.front->version++;
    ck_assert_int_eq(attn_ring_attach(pair.fd, &ring, &err), ATTN_ERR_INVALID_ARGUMENT);
    ck_assert_ptr_null(ring.map);
}
END_TEST

/* Whether touching an address kills a process. */
static bool faults(volatile char *at, bool write)
{
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        signal(SIGSEGV, SIG_DFL);
        signal(SIGBUS, SIG_DFL);
        if (write)
            *at = 1;
        else
            (void)*at;
        _exit(0);
    }
    int status;
    waitpid(pid, &status, 0);
    return !(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static attn_wire_job_t memory_job(uint32_t op)
{
    return (attn_wire_job_t){.op = op,
                             .q = {ATTN_REGION_INPUT, 0, 0, 4096},
                             .k = {ATTN_REGION_INPUT, 0, 8192, 100},
                             .v = {ATTN_REGION_INPUT, 0, 16384, 0},
                             .o = {ATTN_REGION_OUTPUT, 0, 4096, 5000}};
}

START_TEST(a_lab_job_sees_its_own_pages_only)
{
    attn_arena_t *input, *output;
    attn_memory_t *memory;
    attn_error_t err;
    attn_addresses_t at;
    void *truth;
    attn_client_region_t *clients[ATTN_MEMORY_TENSORS];
    attn_memory_window_t window;
    ck_assert_int_eq(attn_arena_create("in", 1 << 20, &input, &err), ATTN_OK);
    ck_assert_int_eq(attn_arena_create("out", 1 << 20, &output, &err), ATTN_OK);
    ck_assert_int_eq(attn_memory_open(ATTN_CLASS_LAB, attn_arena_fd(input), attn_arena_fd(output), &memory, &err),
                     ATTN_OK);
    attn_wire_job_t job = memory_job(ATTN_OP_RUN);
    attn_arena_base(input)[8192] = 42;
    ck_assert_int_eq(attn_memory_enter(memory, &job, &at, &truth, clients, &window, &err), ATTN_OK);
    ck_assert_int_eq(((char *)at.k)[0], 42);
    ck_assert_ptr_null(at.lse);
    ck_assert_ptr_null(truth);
    ck_assert_ptr_nonnull(at.v);
    ((char *)at.o)[4999] = 9;
    ck_assert_int_eq(attn_arena_base(output)[4096 + 4999], 9);
    ck_assert(!faults((char *)at.o + 8191, true));
    ck_assert(faults((char *)at.o + 8192, true));
    ck_assert(faults((char *)at.o - 1, false));
    ck_assert(faults(at.q, true));
    ck_assert(faults((char *)at.q + 4096, false));
    attn_memory_leave(&window);
    job.op = ATTN_OP_FILL;
    ck_assert_int_eq(attn_memory_enter(memory, &job, &at, &truth, clients, &window, &err), ATTN_OK);
    ck_assert(!faults(at.q, true));
    attn_memory_leave(&window);
    job.o.offset = 1 << 20;
    ck_assert_int_eq(attn_memory_enter(memory, &job, &at, &truth, clients, &window, &err), ATTN_ERR_INTERNAL);
    job = memory_job(ATTN_OP_RUN);
    job.q.bytes = UINT64_MAX;
    ck_assert_int_eq(attn_memory_enter(memory, &job, &at, &truth, clients, &window, &err), ATTN_ERR_INTERNAL);
    job = memory_job(ATTN_OP_RUN);
    job.q.region = 99;
    ck_assert_int_eq(attn_memory_enter(memory, &job, &at, &truth, clients, &window, &err), ATTN_ERR_INTERNAL);
    attn_memory_close(memory);
    attn_memory_close(NULL);
    attn_arena_destroy(input);
    attn_arena_destroy(output);
}
END_TEST

START_TEST(a_serve_worker_cannot_write_inputs)
{
    attn_arena_t *input, *output;
    attn_memory_t *memory;
    attn_error_t err;
    attn_addresses_t at;
    void *truth;
    attn_client_region_t *clients[ATTN_MEMORY_TENSORS];
    attn_memory_window_t window;
    uint64_t bytes;
    ck_assert_int_eq(attn_arena_create("in", 1 << 20, &input, &err), ATTN_OK);
    ck_assert_int_eq(attn_arena_create("out", 1 << 20, &output, &err), ATTN_OK);
    ck_assert_int_eq(attn_memory_open(ATTN_CLASS_SERVE, attn_arena_fd(input), attn_arena_fd(output), &memory, &err),
                     ATTN_OK);
    attn_wire_job_t job = memory_job(ATTN_OP_RUN);
    ck_assert_int_eq(attn_memory_enter(memory, &job, &at, &truth, clients, &window, &err), ATTN_OK);
    ck_assert_ptr_eq(at.k, (char *)attn_memory_arena(memory, ATTN_REGION_INPUT, &bytes) + 8192);
    ck_assert_uint_eq(bytes, 1 << 20);
    ck_assert(faults(at.q, true));
    ck_assert(!faults(at.o, true));
    attn_memory_leave(&window);
    job.op = ATTN_OP_FILL;
    ck_assert_int_eq(attn_memory_enter(memory, &job, &at, &truth, clients, &window, &err), ATTN_OK);
    memset(at.q, 3, 4096);
    ck_assert_int_eq(attn_arena_base(input)[4095], 3);
    attn_memory_leave(&window);
    attn_memory_close(memory);
    attn_arena_destroy(input);
    attn_arena_destroy(output);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("worker");
    TCase *ring = tcase_create("ring");
    tcase_set_timeout(ring, 60);
    tcase_add_checked_fixture(ring, pair_open, pair_close);
    tcase_add_test(ring, jobs_and_completions_keep_order);
    tcase_add_test(ring, cancellation_is_by_serial);
    tcase_add_test(ring, groups_appear_at_once);
    tcase_add_test(ring, sequence_areas_are_apart);
    tcase_add_loop_test(ring, hostile_contents, 0, (int)(sizeof spoilers / sizeof spoilers[0]));
    tcase_add_loop_test(ring, noise_is_never_an_answer, 0, 4);
    tcase_add_test(ring, another_version_is_refused);
    TCase *memory = tcase_create("memory");
    tcase_set_timeout(memory, 60);
    tcase_add_test(memory, a_lab_job_sees_its_own_pages_only);
    tcase_add_test(memory, a_serve_worker_cannot_write_inputs);
    suite_add_tcase(suite, ring);
    suite_add_tcase(suite, memory);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
