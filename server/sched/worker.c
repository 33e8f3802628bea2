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
/* One job at a time, so always the same pages of the sequence area. */
enum { JOB_SLOT = 0 };

typedef struct ends {
    int control[2], job_bell, done_bell, ring;
} ends_t;

static void ends_close(ends_t *ends)
{
    attn_fd_close(&ends->control[0]);
    attn_fd_close(&ends->control[1]);
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
    };
    return attn_process_spawn(start->path, (char *const *)argv, fds, sizeof fds / sizeof fds[0], -1, ret, err);
}

attn_status_t attn_worker_start(attn_worker_t *worker, const attn_worker_start_t *start, attn_error_t *err)
{
    ends_t ends = {{-1, -1}, -1, -1, -1};
    attn_ring_t ring = {0};
    attn_process_t process;
    attn_status_t status = attn_fd_seqpacket_pair(ends.control, err);
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
        .started_ns = attn_clock_ns(),
    };
    ends.control[0] = ends.job_bell = ends.done_bell = -1;
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

void attn_worker_give(attn_worker_t *worker, attn_request_t *request, uint64_t serial, int64_t now_ns,
                      int64_t budget_ns)
{
    attn_wire_job_t job = {
        .serial = serial,
        .op = request->op,
        .slot = JOB_SLOT,
        .warmup = request->warmup,
        .repeat = request->repeat ? request->repeat : 1,
        .seed = request->seed,
        .spec = request->spec,
        .q = request->q,
        .k = request->k,
        .v = request->v,
        .o = request->o,
        .lse = request->lse,
        .truth = request->truth,
    };
    if (request->outcome.variant)
        snprintf(job.variant, sizeof job.variant, "%s", request->outcome.variant->name);
    if (request->spec.layout == ATTN_LAYOUT_THD) {
        job.cu_entries = request->spec.batch + 1;
        int32_t *sequences = attn_ring_sequences(&worker->ring, job.slot);
        memcpy(sequences, request->cu_seqlens_q, job.cu_entries * sizeof *sequences);
        memcpy(sequences + job.cu_entries, request->cu_seqlens_k, job.cu_entries * sizeof *sequences);
    }
    worker->job = request;
    worker->serial = serial;
    worker->job_ns = worker->beat_ns = now_ns;
    worker->progress_ns = 0;
    worker->progress = atomic_load_explicit(&worker->ring.worker->progress, memory_order_relaxed);
    worker->budget_ns = budget_ns;
    worker->cancel_ns = 0;
    if (attn_ring_job_push(&worker->ring, &job))
        attn_fd_bell_ring(worker->job_bell);
}

attn_ring_pop_t attn_worker_collect(attn_worker_t *worker, attn_wire_done_t *ret)
{
    attn_ring_pop_t popped = attn_ring_done_pop(&worker->ring, ret);
    if (popped == ATTN_RING_POPPED && (!worker->job || ret->serial != worker->serial))
        return ATTN_RING_GARBAGE;
    return popped;
}

void attn_worker_cancel(attn_worker_t *worker, int64_t now_ns)
{
    if (worker->cancel_ns)
        return;
    worker->cancel_ns = now_ns;
    attn_ring_job_cancel(&worker->ring, JOB_SLOT, worker->serial);
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
    worker->job = NULL;
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
    if (now_ns - worker->beat_ns > BEAT_MISSED_NS || now_ns - worker->job_ns <= worker->budget_ns)
        return ATTN_END_NONE;
    bool gets_on = worker->progress_ns && now_ns - worker->progress_ns <= PROGRESS_NS;
    return gets_on && (now_ns - worker->job_ns) / BUDGET_STRETCH <= worker->budget_ns ? ATTN_END_NONE : ATTN_END_HUNG;
}
