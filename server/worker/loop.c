/* worker/loop.c: see loop.h. */
#include "worker/loop.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"

/* The beat: often enough to tell a stopped process from a busy one, too rare to be seen in an idle one. A piece of
 * background work holds a job up for as long as it lasts, 3 ms for pinning 4 MiB on an H200: so it waits for QUIET_MS
 * without a job, and rests for REST times as long as each piece took, so that an arena of 8 GiB is pinned in about ten
 * seconds with a quarter of a core. A group that has met memory which is not pinned yet is the exception: copying 2.5
 * MiB of it holds everybody up for 0.3 ms each time, and a piece follows at once. */
enum { BEAT_MS = 500, QUIET_MS = 50, REST = 3 };

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

static bool job_cancelled(const attn_loop_group_t *held, uint32_t i)
{
    return attn_ring_job_cancelled(&held->loop->ring, held->job[i].slot, held->job[i].serial);
}

/* A group is given up when nobody wants any of its requests. */
static bool checkpoint(void *arg)
{
    const attn_loop_group_t *held = arg;
    atomic_fetch_add_explicit(&held->loop->ring.worker->progress, 1, memory_order_relaxed);
    for (uint32_t i = 0; i < held->group.count; i++)
        if (!job_cancelled(held, i))
            return true;
    return false;
}

/* The front checked all of this; a place that is too short would be written past its end. */
static attn_status_t job_check(const attn_wire_job_t *wire, attn_engine_request_t *job, attn_error_t *err)
{
    attn_status_t status = attn_spec_measure(&job->spec, &job->sizes, err);
    if (status != ATTN_OK)
        return status;
    bool judges = wire->op == ATTN_OP_JUDGE, truth = judges || wire->op == ATTN_OP_TRUTH;
    bool inputs = !judges, outputs = judges || wire->op == ATTN_OP_RUN;
    bool fits = (!inputs || (wire->q.bytes >= job->sizes.q && wire->k.bytes >= job->sizes.k &&
                             wire->v.bytes >= job->sizes.v && job->at.q && job->at.k && job->at.v)) &&
                (!outputs || (wire->o.bytes >= job->sizes.o && wire->lse.bytes >= job->sizes.lse && job->at.o &&
                              (job->at.lse || job->spec.return_lse == 0))) &&
                (!truth || (job->truth && wire->truth.bytes >= attn_truth_bytes(&job->spec)));
    if (!fits)
        return attn_error_set(err, ATTN_ERR_INTERNAL, "a tensor's place is smaller than the tensor");
    if (job->spec.return_lse == 0)
        job->at.lse = NULL;
    if (job->spec.layout == ATTN_LAYOUT_THD && wire->cu_entries != job->spec.batch + 1)
        return attn_error_set(err, ATTN_ERR_INTERNAL, "a packed job came without its sequence offsets");
    if (wire->repeat == 0 || wire->repeat > ATTN_WIRE_REPEAT_MAX || wire->warmup > ATTN_WIRE_REPEAT_MAX)
        return attn_error_set(err, ATTN_ERR_INTERNAL, "a job has 1 to %u rounds", ATTN_WIRE_REPEAT_MAX);
    return ATTN_OK;
}

static attn_status_t request_take(attn_loop_group_t *held, uint32_t i, const attn_wire_job_t *wire, attn_error_t *err)
{
    const int32_t *sequences = attn_ring_sequences(&held->loop->ring, wire->sequences);
    attn_engine_request_t *request = &held->request[i];
    *request = (attn_engine_request_t){
        .spec = wire->spec,
        .cu_seqlens_q = wire->cu_entries ? sequences : NULL,
        .cu_seqlens_k = wire->cu_entries ? sequences + wire->cu_entries : NULL,
        .truth_bytes = wire->truth.bytes,
        .seed = wire->seed,
        .id = held->job[i].id,
    };
    attn_status_t status = attn_memory_enter(held->loop->memory, wire, &request->at, &request->truth, request->client,
                                             &held->window[i], err);
    for (int t = 0; t < ATTN_MEMORY_TENSORS && status == ATTN_OK; t++)
        if (request->client[t] && request->client[t]->about.kind != ATTN_REGION_HOST)
            request->on_device |= 1u << t;
    if (status == ATTN_OK && wire->signal)
        status = attn_memory_event(held->loop->memory, wire->signal, &request->after, err);
    return status == ATTN_OK ? job_check(wire, request, err) : status;
}

static attn_loop_group_t *group_free(attn_loop_t *loop)
{
    for (uint32_t i = 0; i < ATTN_WIRE_GROUPS; i++)
        if (!loop->group[i].used)
            return &loop->group[i];
    return NULL;
}

/* Copies the next group from the ring. Its error is set when it cannot be run. */
static attn_loop_group_t *group_take(attn_loop_t *loop)
{
    attn_loop_group_t *held = group_free(loop);
    attn_engine_group_t *group = &held->group;
    uint32_t count = 1;
    held->used = true;
    held->loop = loop;
    for (uint32_t i = 0; i < count; i++) {
        const attn_wire_job_t *wire = attn_ring_job_take(&loop->ring);
        if (i == 0) {
            count = wire->group_count < ATTN_WIRE_GROUP_MAX ? wire->group_count : ATTN_WIRE_GROUP_MAX;
            *group = (attn_engine_group_t){.number = wire->group,
                                           .op = wire->op,
                                           .variant = held->variant,
                                           .warmup = wire->warmup,
                                           .repeat = wire->repeat,
                                           .count = count,
                                           .large = wire->large != 0,
                                           .cost_us = wire->cost_us,
                                           .requests = held->request,
                                           .checkpoint = checkpoint,
                                           .checkpoint_arg = held};
            memcpy(held->variant, wire->variant, sizeof held->variant);
        }
        held->job[i].serial = wire->serial;
        held->job[i].slot = wire->slot;
        memcpy(held->job[i].id, wire->id, sizeof held->job[i].id);
        held->window[i] = (attn_memory_window_t){NULL, 0};
        if (group->error.status == ATTN_OK)
            group->error.status = request_take(held, i, wire, &group->error);
    }
    if (group->error.status == ATTN_OK && !checkpoint(held))
        attn_error_set(&group->error, ATTN_ERR_CANCELLED, "cancelled before it began");
    return held;
}

/* Publishes the completions of a group. Returns whether the device can take another. */
static bool group_done(attn_loop_t *loop, attn_loop_group_t *held)
{
    const attn_engine_group_t *group = &held->group;
    const attn_engine_result_t *result = &group->result;
    attn_wire_done_t done = {
        .status = group->error.status,
        .unusable = result->unusable,
        .launches = result->launches,
        .helpers = result->helpers,
        .link_in_bytes = result->link_in_bytes,
        .link_out_bytes = result->link_out_bytes,
        .unpinned_bytes = result->unpinned_bytes,
        .copy_in_us = result->copy_in_us,
        .copy_out_us = result->copy_out_us,
        .kernel_us = result->kernel_us,
        .kernel_min_us = result->kernel_min_us,
        .sm_clock_mhz = result->sm_clock_mhz,
        .mem_clock_mhz = result->mem_clock_mhz,
        .judgement = result->judgement,
    };
    if (done.status != ATTN_OK)
        snprintf(done.message, sizeof done.message, "%s", group->error.message);
    for (uint32_t i = 0; i < group->count; i++) {
        attn_memory_leave(&held->window[i]);
        done.serial = held->job[i].serial;
        done.slot = held->job[i].slot;
        attn_ring_done_put(&loop->ring, &done);
    }
    held->used = false;
    if (attn_ring_done_publish(&loop->ring))
        attn_fd_bell_ring(ATTN_WORKER_FD_DONE_BELL);
    return !result->unusable;
}

static void begun(attn_loop_t *loop, uint64_t number)
{
    atomic_store_explicit(&loop->ring.worker->begun, number, memory_order_relaxed);
}

static uint64_t oldest(const attn_loop_t *loop)
{
    uint64_t number = UINT64_MAX;
    for (uint32_t i = 0; i < ATTN_WIRE_GROUPS; i++)
        if (loop->group[i].used && loop->group[i].group.number < number)
            number = loop->group[i].group.number;
    return number;
}

/* A device that works by itself may begin a group once it is submitted; others begin the oldest when they are polled.
 */
static attn_engine_group_t *engine_poll(attn_loop_t *loop)
{
    if (!loop->ops->runs_alone)
        begun(loop, oldest(loop));
    return loop->ops->poll(loop->engine);
}

static void groups_submit(attn_loop_t *loop)
{
    while (loop->under_way < ATTN_WIRE_GROUPS && attn_ring_job_waiting(&loop->ring)) {
        attn_loop_group_t *held = group_take(loop);
        if (held->group.error.status != ATTN_OK) {
            group_done(loop, held);
            continue;
        }
        if (loop->ops->runs_alone)
            begun(loop, held->group.number);
        loop->under_way++;
        loop->ops->submit(loop->engine, &held->group);
    }
}

/* Whether the engine is better polled on than slept on, where there is a core to spin on. */
static bool urgent(const attn_loop_t *loop)
{
    return loop->ring.front->spin_us > 0 && loop->ops->urgent && loop->ops->urgent(loop->engine);
}

/* Sleeps for at most that long; returns whether a job waits. A bell may be late, from a job that was seen without it.
 */
static bool job_comes(attn_ring_t *ring, int64_t ns)
{
    struct pollfd bell = {.fd = ATTN_WORKER_FD_JOB_BELL, .events = POLLIN};
    const int64_t until = attn_clock_ns() + ns;
    for (int64_t left = ns; left > 0 && !attn_ring_job_waiting(ring); left = until - attn_clock_ns()) {
        const struct timespec limit = {left / ATTN_NS_PER_S, left % ATTN_NS_PER_S};
        attn_ring_job_arm(ring, true);
        if (!attn_ring_job_waiting(ring) && ppoll(&bell, 1, &limit, NULL) > 0)
            attn_fd_bell_wait(ATTN_WORKER_FD_JOB_BELL);
        attn_ring_job_arm(ring, false);
    }
    return attn_ring_job_waiting(ring);
}

/* Waits for a group to end or a job to come: spins for twice as long as an idle worker, then looks again after naps. A
 * device that rang instead would do it for every group, slept for or not: its interrupts cost the thread on whose core
 * they fall 30 us per request (H100, ring, 33 us without). */
static attn_engine_group_t *group_wait(attn_loop_t *loop)
{
    attn_ring_t *ring = &loop->ring;
    attn_engine_group_t *group;
    const int64_t began = attn_clock_ns(), until = began + 2 * ring->front->spin_us * ATTN_NS_PER_US;
    do {
        for (int i = 0; i < 8; i++) {
            if ((group = engine_poll(loop)) != NULL || attn_ring_job_waiting(ring))
                return group;
            attn_cpu_relax();
        }
    } while (attn_clock_ns() < until || urgent(loop));
    while ((group = engine_poll(loop)) == NULL && !job_comes(ring, attn_clock_nap_ns(attn_clock_ns() - began)))
        ;
    return group;
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
    if (*idle_more && job_comes(ring, QUIET_MS * ATTN_NS_PER_MS))
        return;
    while (*idle_more) {
        const int64_t began = attn_clock_ns();
        *idle_more = loop->ops->idle(loop->engine);
        if (attn_ring_job_waiting(ring) || (*idle_more && job_comes(ring, REST * (attn_clock_ns() - began))))
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
    for (;;) {
        groups_submit(loop);
        if (loop->under_way == 0) {
            if (!attn_ring_job_waiting(&loop->ring))
                job_wait(loop, &idle_more);
            continue;
        }
        attn_engine_group_t *group = group_wait(loop);
        if (!group)
            continue;
        loop->under_way--;
        if (!group_done(loop, group->checkpoint_arg))
            return;
        if (group->result.idle_wanted && loop->ops->idle)
            idle_more = loop->ops->idle(loop->engine);
    }
}
