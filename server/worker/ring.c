/* worker/ring.c: see ring.h.
 *
 * Sleeping: a consumer stores `armed`, then looks at the tail; a producer stores the tail, then looks at `armed`. Both
 * pairs are sequentially consistent, so at least one side sees the other and no wake-up is lost. */
#include "worker/ring.h"

#include <errno.h>
#include <math.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/fd.h"

static attn_status_t ring_map(int fd, bool is_front, attn_ring_t *ret, attn_error_t *err)
{
    char *map = mmap(NULL, ATTN_WIRE_BYTES, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "cannot map a worker's ring: %s", strerror(errno));
    char *worker = map + ATTN_WIRE_FRONT_BYTES, *sequences = worker + ATTN_WIRE_WORKER_BYTES;
    int failed = is_front ? mprotect(map, ATTN_WIRE_FRONT_BYTES, PROT_READ | PROT_WRITE) ||
                                mprotect(sequences, (size_t)(map + ATTN_WIRE_BYTES - sequences), PROT_READ | PROT_WRITE)
                          : mprotect(worker, ATTN_WIRE_WORKER_BYTES, PROT_READ | PROT_WRITE);
    if (failed) {
        munmap(map, ATTN_WIRE_BYTES);
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "cannot map a worker's ring: %s", strerror(errno));
    }
    *ret = (attn_ring_t){
        .front = (attn_wire_front_t *)map, .worker = (attn_wire_worker_t *)worker, .sequences = sequences, .map = map};
    return ATTN_OK;
}

attn_status_t attn_ring_create(uint32_t spin_us, attn_ring_t *ret, int *ret_fd, attn_error_t *err)
{
    int fd = -1;
    attn_status_t status = attn_fd_memory("attn-ring", ATTN_WIRE_BYTES, &fd, err);
    if (status == ATTN_OK)
        status = ring_map(fd, true, ret, err);
    if (status != ATTN_OK) {
        attn_fd_close(&fd);
        return status;
    }
    ret->front->magic = ATTN_WIRE_MAGIC;
    ret->front->version = ATTN_WIRE_VERSION;
    ret->front->spin_us = spin_us;
    *ret_fd = fd;
    return ATTN_OK;
}

attn_status_t attn_ring_attach(int fd, attn_ring_t *ret, attn_error_t *err)
{
    attn_ring_t ring;
    attn_status_t status = ring_map(fd, false, &ring, err);
    if (status != ATTN_OK)
        return status;
    if (ring.front->magic != ATTN_WIRE_MAGIC || ring.front->version != ATTN_WIRE_VERSION) {
        attn_ring_close(&ring);
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "attnd and attn-worker are of different versions; install both from one build");
    }
    atomic_store(&ring.worker->guard_first, ATTN_WIRE_GUARD);
    atomic_store(&ring.worker->guard_last, ATTN_WIRE_GUARD);
    *ret = ring;
    return ATTN_OK;
}

void attn_ring_close(attn_ring_t *ring)
{
    if (ring->map)
        munmap(ring->map, ATTN_WIRE_BYTES);
    *ring = (attn_ring_t){0};
}

attn_wire_job_t *attn_ring_job_next(attn_ring_t *ring)
{
    return &ring->front->jobs[ring->job_count++ % ATTN_WIRE_SLOTS];
}

bool attn_ring_job_publish(attn_ring_t *ring)
{
    atomic_store(&ring->front->job_tail, ring->job_count);
    return atomic_load(&ring->worker->job_armed) != 0;
}

void attn_ring_job_cancel(attn_ring_t *ring, uint32_t slot, uint64_t serial)
{
    atomic_store_explicit(&ring->front->cancel[slot % ATTN_WIRE_SLOTS], serial, memory_order_relaxed);
}

int32_t *attn_ring_sequences(const attn_ring_t *ring, uint32_t area)
{
    if (area < ATTN_WIRE_SLOTS)
        return (int32_t *)(ring->sequences + area * ATTN_WIRE_AREA_BYTES);
    area = (area - ATTN_WIRE_SLOTS) % ATTN_WIRE_LARGE_AREAS;
    return (int32_t *)(ring->sequences + ATTN_WIRE_SLOTS * ATTN_WIRE_AREA_BYTES + area * ATTN_WIRE_LARGE_AREA_BYTES);
}

/* What an engine may answer. */
static bool status_expected(int32_t status)
{
    switch (status) {
    case ATTN_OK:
    case ATTN_ERR_INVALID_ARGUMENT:
    case ATTN_ERR_FAILED_PRECONDITION:
    case ATTN_ERR_TOO_LARGE:
    case ATTN_ERR_UNIMPLEMENTED:
    case ATTN_ERR_CANCELLED:
    case ATTN_ERR_INTERNAL:
    case ATTN_ERR_NO_MEMORY:
    case ATTN_ERR_DEVICE:
    case ATTN_ERR_SYSTEM:
        return true;
    default:
        return false;
    }
}

static bool time_sane(double us)
{
    return isfinite(us) && us >= 0 && us < 1e13; /* four months */
}

/* Errors of a judgement are what a kernel made them; infinite is possible and NaN counts as infinite. */
static bool judgement_fix(attn_judgement_t *j)
{
    double *values[] = {&j->max_abs,         &j->max_abs_allowed, &j->rmse,    &j->row_rel,
                        &j->row_rel_allowed, &j->row_excess,      &j->lse_err, &j->lse_allowed};
    bool finite = true;
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        if (isnan(*values[i]))
            *values[i] = INFINITY;
        if (*values[i] < 0)
            return false;
        finite = finite && isfinite(*values[i]);
    }
    return j->pass <= 1 && (finite || j->pass == 0);
}

attn_ring_pop_t attn_ring_done_pop(attn_ring_t *ring, attn_wire_done_t *ret)
{
    uint64_t tail = atomic_load(&ring->worker->done_tail);
    if (tail == ring->done_count)
        return ATTN_RING_EMPTY;
    if (tail - ring->done_count > ATTN_WIRE_SLOTS || tail > ring->job_count ||
        atomic_load(&ring->worker->guard_first) != ATTN_WIRE_GUARD ||
        atomic_load(&ring->worker->guard_last) != ATTN_WIRE_GUARD)
        return ATTN_RING_GARBAGE;
    const attn_wire_done_t *shared = &ring->worker->done[ring->done_count % ATTN_WIRE_SLOTS];
    memcpy(ret, shared, offsetof(attn_wire_done_t, message));
    ret->message[0] = '\0';
    if (!status_expected(ret->status) || ret->unusable > 1 || ret->slot >= ATTN_WIRE_SLOTS ||
        !time_sane((double)ret->copy_in_us) || !time_sane((double)ret->copy_out_us) || !time_sane(ret->kernel_us) ||
        !time_sane(ret->kernel_min_us) || !judgement_fix(&ret->judgement))
        return ATTN_RING_GARBAGE;
    if (ret->status != ATTN_OK) {
        memcpy(ret->message, shared->message, sizeof ret->message);
        if (!memchr(ret->message, '\0', sizeof ret->message))
            return ATTN_RING_GARBAGE;
    }
    ring->done_count++;
    return ATTN_RING_POPPED;
}

bool attn_ring_done_waiting(const attn_ring_t *ring)
{
    return atomic_load(&ring->worker->done_tail) != ring->done_count;
}

void attn_ring_done_arm(attn_ring_t *ring, bool armed)
{
    atomic_store(&ring->front->done_armed, armed);
}

bool attn_ring_job_waiting(const attn_ring_t *ring)
{
    return atomic_load(&ring->front->job_tail) != ring->job_count;
}

const attn_wire_job_t *attn_ring_job_take(attn_ring_t *ring)
{
    return &ring->front->jobs[ring->job_count++ % ATTN_WIRE_SLOTS];
}

void attn_ring_job_arm(attn_ring_t *ring, bool armed)
{
    atomic_store(&ring->worker->job_armed, armed);
}

bool attn_ring_job_cancelled(const attn_ring_t *ring, uint32_t slot, uint64_t serial)
{
    return atomic_load_explicit(&ring->front->cancel[slot % ATTN_WIRE_SLOTS], memory_order_relaxed) == serial;
}

void attn_ring_done_put(attn_ring_t *ring, const attn_wire_done_t *done)
{
    attn_wire_done_t *shared = &ring->worker->done[ring->done_count % ATTN_WIRE_SLOTS];
    memcpy(shared, done, done->status == ATTN_OK ? offsetof(attn_wire_done_t, message) : sizeof *done);
    ring->done_count++;
}

bool attn_ring_done_publish(attn_ring_t *ring)
{
    atomic_store(&ring->worker->done_tail, ring->done_count);
    return atomic_load(&ring->front->done_armed) != 0;
}
