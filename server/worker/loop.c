/* worker/loop.c: see loop.h. */
#include "worker/loop.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"

/* The beat: often enough to tell a stopped process from a busy one, too rare to be seen in an idle one. A piece of
 * background work holds a job up for as long as it lasts, 3 ms for pinning 4 MiB on an H200: so it waits for QUIET_MS
 * without a job, or for so many jobs that only one in a thousand meets it. */
enum { BEAT_MS = 500, QUIET_MS = 50, JOBS_PER_IDLE = 1024 };

static void *heartbeat_main(void *arg)
{
    attn_loop_t *loop = arg;
    prctl(PR_SET_NAME, "heartbeat");
    for (;;) {
        struct pollfd control = {.fd = ATTN_WORKER_FD_CONTROL, .events = POLLIN};
        int ready = poll(&control, 1, BEAT_MS);
        if (ready > 0) {
            char byte;
            ssize_t got = recv(ATTN_WORKER_FD_CONTROL, &byte, 1, MSG_DONTWAIT);
            /* Nothing is ever sent to a worker: the front is gone, or wants this process to end. */
            if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
                _exit(0);
        }
        atomic_fetch_add_explicit(&loop->ring.worker->beat, 1, memory_order_relaxed);
    }
    return NULL;
}

attn_status_t attn_loop_heartbeat(attn_loop_t *loop, attn_error_t *err)
{
    pthread_t thread;
    int failed = pthread_create(&thread, NULL, heartbeat_main, loop);
    if (failed)
        return attn_error_set(err, ATTN_ERR_SYSTEM, "cannot start the worker's heartbeat: %s", strerror(failed));
    pthread_detach(thread);
    return ATTN_OK;
}

typedef struct checkpoint {
    const attn_ring_t *ring;
    const attn_wire_job_t *job;
} checkpoint_t;

static bool checkpoint(void *arg)
{
    const checkpoint_t *at = arg;
    atomic_fetch_add_explicit(&at->ring->worker->progress, 1, memory_order_relaxed);
    return !attn_ring_job_cancelled(at->ring, at->job);
}

/* The front checked all of this; a place that is too short would be written past its end. */
static attn_status_t job_check(const attn_wire_job_t *wire, attn_engine_job_t *job, attn_error_t *err)
{
    attn_status_t status = attn_spec_measure(&job->spec, &job->sizes, err);
    if (status != ATTN_OK)
        return status;
    bool judges = job->op == ATTN_OP_JUDGE, truth = judges || job->op == ATTN_OP_TRUTH;
    bool inputs = !judges, outputs = judges || job->op == ATTN_OP_RUN;
    bool fits = (!inputs || (wire->q.bytes >= job->sizes.q && wire->k.bytes >= job->sizes.k &&
                             wire->v.bytes >= job->sizes.v && job->host.q && job->host.k && job->host.v)) &&
                (!outputs || (wire->o.bytes >= job->sizes.o && wire->lse.bytes >= job->sizes.lse && job->host.o &&
                              (job->host.lse || job->spec.return_lse == 0))) &&
                (!truth || (job->truth && wire->truth.bytes >= attn_truth_bytes(&job->spec)));
    if (!fits)
        return attn_error_set(err, ATTN_ERR_INTERNAL, "a tensor's place is smaller than the tensor");
    if (job->spec.return_lse == 0)
        job->host.lse = NULL;
    if (job->spec.layout == ATTN_LAYOUT_THD && wire->cu_entries != job->spec.batch + 1)
        return attn_error_set(err, ATTN_ERR_INTERNAL, "a packed job came without its sequence offsets");
    if (job->repeat == 0 || job->repeat > ATTN_WIRE_REPEAT_MAX || job->warmup > ATTN_WIRE_REPEAT_MAX)
        return attn_error_set(err, ATTN_ERR_INTERNAL, "a job has 1 to %u rounds", ATTN_WIRE_REPEAT_MAX);
    return ATTN_OK;
}

static attn_status_t job_run(attn_loop_t *loop, const attn_wire_job_t *wire, attn_engine_result_t *ret,
                             attn_error_t *err)
{
    checkpoint_t at = {&loop->ring, wire};
    const int32_t *sequences = attn_ring_sequences(&loop->ring, wire->slot);
    attn_engine_job_t job = {
        .op = wire->op,
        .variant = wire->variant,
        .spec = wire->spec,
        .cu_seqlens_q = wire->cu_entries ? sequences : NULL,
        .cu_seqlens_k = wire->cu_entries ? sequences + wire->cu_entries : NULL,
        .truth_bytes = wire->truth.bytes,
        .seed = wire->seed,
        .warmup = wire->warmup,
        .repeat = wire->repeat,
        .checkpoint = checkpoint,
        .checkpoint_arg = &at,
    };
    attn_status_t status = attn_memory_enter(loop->memory, wire, &job.host, &job.truth, err);
    if (status != ATTN_OK)
        return status;
    status = job_check(wire, &job, err);
    if (status == ATTN_OK && attn_ring_job_cancelled(&loop->ring, wire))
        status = attn_error_set(err, ATTN_ERR_CANCELLED, "cancelled before it began");
    if (status == ATTN_OK)
        status = loop->ops->run(loop->engine, &job, ret, err);
    attn_memory_leave(loop->memory);
    return status;
}

/* Returns whether the device can take another job. */
static bool job_next(attn_loop_t *loop)
{
    const attn_wire_job_t *wire = attn_ring_job_peek(&loop->ring);
    attn_engine_result_t result = {0};
    attn_wire_done_t done = {.serial = wire->serial};
    attn_error_t err = {0};
    done.status = job_run(loop, wire, &result, &err);
    done.unusable = result.unusable;
    done.copy_in_us = result.copy_in_us;
    done.copy_out_us = result.copy_out_us;
    done.kernel_us = result.kernel_us;
    done.kernel_min_us = result.kernel_min_us;
    done.sm_clock_mhz = result.sm_clock_mhz;
    done.mem_clock_mhz = result.mem_clock_mhz;
    done.judgement = result.judgement;
    if (done.status != ATTN_OK)
        snprintf(done.message, sizeof done.message, "%s", err.message);
    attn_ring_job_take(&loop->ring);
    if (attn_ring_done_push(&loop->ring, &done))
        attn_fd_bell_ring(ATTN_WORKER_FD_DONE_BELL);
    return !result.unusable;
}

/* Sleeps for at most QUIET_MS; returns whether a job waits. A bell may be late, from a job that was seen without it. */
static bool job_comes(attn_ring_t *ring)
{
    struct pollfd bell = {.fd = ATTN_WORKER_FD_JOB_BELL, .events = POLLIN};
    const int64_t until = attn_clock_ns() + QUIET_MS * ATTN_NS_PER_MS;
    for (int64_t left = 1; left > 0 && !attn_ring_job_waiting(ring); left = until - attn_clock_ns()) {
        attn_ring_job_arm(ring, true);
        if (!attn_ring_job_waiting(ring) && poll(&bell, 1, QUIET_MS) > 0)
            attn_fd_bell_wait(ATTN_WORKER_FD_JOB_BELL);
        attn_ring_job_arm(ring, false);
    }
    return attn_ring_job_waiting(ring);
}

/* Spins for as long as the front allows after the last job, then sleeps, with background work when it stays quiet. */
static void job_wait(attn_loop_t *loop, bool *idle_more)
{
    attn_ring_t *ring = &loop->ring;
    int64_t until = attn_clock_ns() + ring->front->spin_us * ATTN_NS_PER_US;
    do {
        for (int i = 0; i < 32; i++) {
            if (attn_ring_job_waiting(ring))
                return;
            attn_cpu_relax();
        }
    } while (attn_clock_ns() < until);
    if (*idle_more && job_comes(ring))
        return;
    while (*idle_more) {
        *idle_more = loop->ops->idle(loop->engine);
        if (attn_ring_job_waiting(ring))
            return;
    }
    while (!attn_ring_job_waiting(ring)) {
        attn_ring_job_arm(ring, true);
        if (!attn_ring_job_waiting(ring))
            attn_fd_bell_wait(ATTN_WORKER_FD_JOB_BELL);
        attn_ring_job_arm(ring, false);
    }
}

void attn_loop_run(attn_loop_t *loop)
{
    bool idle_more = loop->ops->idle != NULL;
    for (uint64_t jobs = 1;; jobs++) {
        if (!attn_ring_job_waiting(&loop->ring))
            job_wait(loop, &idle_more);
        if (!job_next(loop))
            return;
        if (idle_more && jobs % JOBS_PER_IDLE == 0)
            idle_more = loop->ops->idle(loop->engine);
    }
}
