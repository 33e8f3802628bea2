/* sched/worker.c: see worker.h. */
#include "sched/worker.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"

/* A worker beats twice a second. A process that has not beaten for 2 s is not judged for its job; one that has not for
 * 5 s is given up. */
#define BEAT_MISSED_NS (2 * ATTN_NS_PER_S)
#define BEAT_LOST_NS (5 * ATTN_NS_PER_S)
/* A job that still gets on is left to run beyond its budget, but not for ever. */
enum { BUDGET_STRETCH = 20 };
#define PROGRESS_NS (1 * ATTN_NS_PER_S)

typedef struct ends {
    int control[2], regions[2], job_bell, done_bell, ring;
} ends_t;

static void ends_close(ends_t *ends)
{
    attn_fd_close(&ends->control[0]);
    attn_fd_close(&ends->control[1]);
    attn_fd_close(&ends->regions[0]);
    attn_fd_close(&ends->regions[1]);
    attn_fd_close(&ends->job_bell);
    attn_fd_close(&ends->done_bell);
    attn_fd_close(&ends->ring);
}

static attn_status_t spawn(const attn_worker_start_t *start, const ends_t *ends, attn_process_t *ret, attn_error_t *err)
{
    char parent[24];
    snprintf(parent, sizeof parent, "%ld", (long)getpid());
    const char *argv[] = {"attn-worker", "--class",     start->run_class == ATTN_CLASS_LAB ? "lab" : "serve",
                          "--device",    start->device, "--parent",
                          parent,        NULL};
    const attn_process_fd_t fds[] = {
        {ends->control[1], ATTN_WORKER_FD_CONTROL}, {ends->ring, ATTN_WORKER_FD_RING},
        {ends->job_bell, ATTN_WORKER_FD_JOB_BELL},  {ends->done_bell, ATTN_WORKER_FD_DONE_BELL},
        {start->input_fd, ATTN_WORKER_FD_INPUT},    {start->output_fd, ATTN_WORKER_FD_OUTPUT},
        {ends->regions[1], ATTN_WORKER_FD_REGIONS},
    };
    return attn_process_spawn(start->path, (char *const *)argv, fds, sizeof fds / sizeof fds[0], -1, ret, err);
}

attn_status_t attn_worker_start(attn_worker_t *worker, const attn_worker_start_t *start, attn_error_t *err)
{
    ends_t ends = {{-1, -1}, {-1, -1}, -1, -1, -1};
    attn_ring_t ring = {0};
    attn_process_t process;
    attn_status_t status = attn_fd_seqpacket_pair(ends.control, err);
    if (status == ATTN_OK)
        status = attn_fd_seqpacket_pair(ends.regions, err);
    if (status == ATTN_OK)
        status = attn_fd_event(true, &ends.job_bell, err);
    if (status == ATTN_OK)
        status = attn_fd_event(false, &ends.done_bell, err);
    if (status == ATTN_OK)
        status = attn_ring_create(start->spin_us, &ring, &ends.ring, err);
    if (status == ATTN_OK)
        status = spawn(start, &ends, &process, err);
    if (status != ATTN_OK) {
        attn_ring_close(&ring);
        ends_close(&ends);
        return status;
    }
    uint32_t incarnation = worker->incarnation + 1;
    *worker = (attn_worker_t){
        .state = ATTN_WORKER_STARTING,
        .incarnation = incarnation,
        .process = process,
        .ring = ring,
        .control = ends.control[0],
        .job_bell = ends.job_bell,
        .done_bell = ends.done_bell,
        .regions = {.fd = ends.regions[0], .serve = start->run_class == ATTN_CLASS_SERVE},
        .started_ns = attn_clock_ns(),
    };
    ends.control[0] = ends.regions[0] = ends.job_bell = ends.done_bell = -1;
    ends_close(&ends);
    return ATTN_OK;
}

static bool ended(const char *text, size_t size)
{
    return memchr(text, '\0', size) != NULL;
}

attn_ring_pop_t attn_worker_hello(attn_worker_t *worker, attn_wire_hello_t *ret)
{
    ssize_t got = recv(worker->control, ret, sizeof *ret, MSG_DONTWAIT | MSG_TRUNC);
    if (got <= 0)
        return ATTN_RING_EMPTY; /* nothing yet, or the end, which the pidfd tells too */
    if (got != (ssize_t)sizeof *ret || ret->magic != ATTN_WIRE_MAGIC || ret->version != ATTN_WIRE_VERSION ||
        ret->status > 0 || ret->variant_count > ATTN_WIRE_VARIANTS_MAX || !ended(ret->message, sizeof ret->message) ||
        !ended(ret->build, sizeof ret->build) || !ended(ret->driver, sizeof ret->driver) ||
        !ended(ret->device.name, sizeof ret->device.name) || !ended(ret->device.uuid, sizeof ret->device.uuid))
        return ATTN_RING_GARBAGE;
    if (ret->status == ATTN_OK && ret->device.kind != ATTN_DEVICE_CPU && ret->device.kind != ATTN_DEVICE_CUDA)
        return ATTN_RING_GARBAGE;
    for (uint32_t i = 0; i < ret->variant_count; i++)
        if (!ended(ret->variants[i], ATTN_WIRE_NAME_MAX))
            return ATTN_RING_GARBAGE;
    return ATTN_RING_POPPED;
}

/* Slots are used round and round, so the next one is nearly always free. */
static uint32_t slot_take(attn_worker_t *worker)
{
    while (worker->job[worker->next_slot].request)
        worker->next_slot = (worker->next_slot + 1) % ATTN_WIRE_SLOTS;
    return worker->next_slot;
}

/* The number of the area that holds the request's sequences. */
static uint32_t sequences_put(attn_worker_t *worker, const attn_request_t *request, uint32_t slot)
{
    uint32_t entries = request->spec.batch + 1, area = slot;
    if (entries > ATTN_WIRE_AREA_ENTRIES) {
        uint32_t large = (uint32_t)__builtin_ctz(~worker->areas) % ATTN_WIRE_LARGE_AREAS;
        worker->areas |= 1u << large;
        area = ATTN_WIRE_SLOTS + large;
    }
    int32_t *sequences = attn_ring_sequences(&worker->ring, area);
    memcpy(sequences, request->cu_seqlens_q, entries * sizeof *sequences);
    memcpy(sequences + entries, request->cu_seqlens_k, entries * sizeof *sequences);
    return area;
}

static void job_put(attn_worker_t *worker, attn_request_t *request, uint32_t count, uint64_t group, uint64_t serial)
{
    uint32_t slot = slot_take(worker);
    attn_wire_job_t *job = attn_ring_job_next(&worker->ring);
    *job = (attn_wire_job_t){
        .serial = serial,
        .group = group,
        .group_count = count,
        .op = request->op,
        .slot = slot,
        .sequences = slot,
        .warmup = request->warmup,
        .repeat = request->repeat ? request->repeat : 1,
        .signal = request->signal_event,
        .large = request->sched.large,
        .cost_us = request->sched.cost_us < 1e9 ? (uint32_t)request->sched.cost_us : UINT32_C(1000000000),
        .seed = request->seed,
        .spec = request->spec,
        .q = request->q,
        .k = request->k,
        .v = request->v,
        .o = request->o,
        .lse = request->lse,
        .truth = request->truth,
    };
    memcpy(job->id, request->id, sizeof job->id);
    if (request->outcome.variant)
        snprintf(job->variant, sizeof job->variant, "%s", request->outcome.variant->name);
    if (request->spec.layout == ATTN_LAYOUT_THD) {
        job->cu_entries = request->spec.batch + 1;
        job->sequences = sequences_put(worker, request, slot);
    }
    worker->job[slot] =
        (attn_worker_job_t){.request = request, .serial = serial, .group = group, .area = job->sequences};
}

void attn_worker_give(attn_worker_t *worker, const attn_worker_order_t *order, uint64_t *serial, int64_t now_ns)
{
    uint64_t number = ++*serial;
    for (uint32_t i = 0; i < order->count; i++)
        job_put(worker, order->requests[i], order->count, number, ++*serial);
    if (worker->groups == 0) {
        worker->turn_ns = worker->beat_ns = now_ns;
        worker->progress_ns = worker->cancel_ns = 0;
        worker->progress = atomic_load_explicit(&worker->ring.worker->progress, memory_order_relaxed);
    }
    worker->group[worker->groups++] = (attn_worker_group_t){.number = number,
                                                            .count = order->count,
                                                            .left = order->count,
                                                            .timed = order->timed,
                                                            .large = order->large,
                                                            .work_us = order->work_us,
                                                            .given_ns = now_ns,
                                                            .budget_ns = order->budget_ns};
    worker->jobs += order->count;
    if (attn_ring_job_publish(&worker->ring))
        attn_fd_bell_ring(worker->job_bell);
}

attn_ring_pop_t attn_worker_collect(attn_worker_t *worker, attn_wire_done_t *ret)
{
    attn_ring_pop_t popped = attn_ring_done_pop(&worker->ring, ret);
    if (popped == ATTN_RING_POPPED && (!worker->job[ret->slot].request || ret->serial != worker->job[ret->slot].serial))
        return ATTN_RING_GARBAGE;
    return popped;
}

attn_worker_group_t *attn_worker_group_of(attn_worker_t *worker, uint32_t slot)
{
    attn_worker_group_t *group = worker->group;
    while (group->number != worker->job[slot].group)
        group++;
    return group;
}

void attn_worker_release(attn_worker_t *worker, uint32_t slot, int64_t now_ns)
{
    attn_worker_group_t *group = attn_worker_group_of(worker, slot);
    if (worker->job[slot].area >= ATTN_WIRE_SLOTS)
        worker->areas &= ~(1u << (worker->job[slot].area - ATTN_WIRE_SLOTS));
    worker->job[slot].request = NULL;
    worker->jobs--;
    if (--group->left > 0)
        return;
    if (group == worker->group) {
        worker->turn_ns = now_ns;
        worker->progress_ns = worker->cancel_ns = 0;
    }
    worker->groups--;
    memmove(group, group + 1, (size_t)(worker->group + worker->groups - group) * sizeof *group);
    if (worker->groups == 0)
        worker->idle_since_ns = now_ns;
}

double attn_worker_load_us(const attn_worker_t *worker)
{
    double load = 0;
    for (uint32_t i = 0; i < worker->groups; i++)
        load += worker->group[i].work_us;
    return load;
}

uint32_t attn_worker_large(const attn_worker_t *worker)
{
    uint32_t large = 0;
    for (uint32_t i = 0; i < worker->groups; i++)
        large += worker->group[i].large;
    return large;
}

void attn_worker_cancel(attn_worker_t *worker, uint32_t slot)
{
    if (worker->job[slot].cancelled)
        return;
    worker->job[slot].cancelled = true;
    attn_ring_job_cancel(&worker->ring, slot, worker->job[slot].serial);
}

void attn_worker_end(attn_worker_t *worker, attn_worker_end_t why, int64_t now_ns)
{
    if (worker->state == ATTN_WORKER_NONE)
        return;
    if (worker->state != ATTN_WORKER_ENDING)
        worker->ended_ns = now_ns;
    worker->state = ATTN_WORKER_ENDING;
    if (worker->end == ATTN_END_NONE)
        worker->end = why;
    attn_fd_close(&worker->control);
    if (why != ATTN_END_ASKED && why != ATTN_END_UNUSABLE)
        attn_process_kill(&worker->process);
}

bool attn_worker_reap(attn_worker_t *worker, attn_death_t *ret)
{
    return attn_process_reap(&worker->process, ret);
}

void attn_worker_close(attn_worker_t *worker)
{
    attn_ring_close(&worker->ring);
    attn_fd_close(&worker->control);
    attn_fd_close(&worker->job_bell);
    attn_fd_close(&worker->done_bell);
    worker->state = ATTN_WORKER_NONE;
    worker->end = ATTN_END_NONE;
}

attn_worker_end_t attn_worker_watch(attn_worker_t *worker, int64_t now_ns)
{
    uint64_t beat = atomic_load_explicit(&worker->ring.worker->beat, memory_order_relaxed);
    uint64_t progress = atomic_load_explicit(&worker->ring.worker->progress, memory_order_relaxed);
    if (beat != worker->beat) {
        worker->beat = beat;
        worker->beat_ns = now_ns;
    }
    if (progress != worker->progress) {
        worker->progress = progress;
        worker->progress_ns = now_ns;
    }
    if (now_ns - worker->beat_ns > BEAT_LOST_NS)
        return ATTN_END_FROZEN;
    int64_t ran_ns = now_ns - worker->turn_ns, budget_ns = worker->group[0].budget_ns;
    if (worker->groups == 0 || now_ns - worker->beat_ns > BEAT_MISSED_NS || ran_ns <= budget_ns)
        return ATTN_END_NONE;
    bool gets_on = worker->progress_ns && now_ns - worker->progress_ns <= PROGRESS_NS;
    return gets_on && ran_ns / BUDGET_STRETCH <= budget_ns ? ATTN_END_NONE : ATTN_END_HUNG;
}
