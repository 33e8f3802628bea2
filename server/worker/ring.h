/* worker/ring.h: the two rings of worker/wire.h, seen from either side. One thread per side; owns the mappings.
 *
 * Hot path: no system call, no lock, no allocation. Where a function says that a bell must be rung, the other side
 * sleeps, or is about to. */
#ifndef ATTND_WORKER_RING_H
#define ATTND_WORKER_RING_H

#include <stdbool.h>
#include <stdint.h>

#include "worker/wire.h"

typedef struct attn_ring {
    attn_wire_front_t *front;
    attn_wire_worker_t *worker;
    char *sequences;
    uint64_t job_count, done_count; /* published or taken by this side */
    void *map;
} attn_ring_t;

/* Front: makes the memfd of a new incarnation and maps it; the worker's part read-only. *ret_fd is the caller's. */
attn_status_t attn_ring_create(uint32_t spin_us, attn_ring_t *ret, int *ret_fd, attn_error_t *err);
/* Worker: maps the memfd; the front's part read-only. INVALID_ARGUMENT when it is of another version. */
attn_status_t attn_ring_attach(int fd, attn_ring_t *ret, attn_error_t *err);
void attn_ring_close(attn_ring_t *ring); /* a zeroed ring is fine */

/* Front. At most ATTN_WIRE_SLOTS jobs may be in flight. next() is where the next job is to be written; publish() shows
 * all that were, a whole group at once, and returns whether the job bell must be rung. */
attn_wire_job_t *attn_ring_job_next(attn_ring_t *ring);
bool attn_ring_job_publish(attn_ring_t *ring);
void attn_ring_job_cancel(attn_ring_t *ring, uint32_t slot, uint64_t serial);
/* Where a job's sequence offsets go, until it is done: area `slot`, or ATTN_WIRE_SLOTS and up for the large ones. */
int32_t *attn_ring_sequences(const attn_ring_t *ring, uint32_t area);

typedef enum attn_ring_pop { ATTN_RING_EMPTY, ATTN_RING_POPPED, ATTN_RING_GARBAGE } attn_ring_pop_t;
/* Copies the next completion once and checks the copy: known status, text that ends, finite times, a sane judgement.
 * GARBAGE: no worker of ours wrote this. That the serial is one in flight is for the caller to check. */
attn_ring_pop_t attn_ring_done_pop(attn_ring_t *ring, attn_wire_done_t *ret);
bool attn_ring_done_waiting(const attn_ring_t *ring);
/* Announces that the front is about to sleep (or no longer is). Look for completions again after arming. */
void attn_ring_done_arm(attn_ring_t *ring, bool armed);

/* Worker. */
bool attn_ring_job_waiting(const attn_ring_t *ring);
/* The next job, only when one waits; it may be overwritten once a completion of it has been published. */
const attn_wire_job_t *attn_ring_job_take(attn_ring_t *ring);
void attn_ring_job_arm(attn_ring_t *ring, bool armed);
bool attn_ring_job_cancelled(const attn_ring_t *ring, uint32_t slot, uint64_t serial);
/* Completions are put one by one and published together; publish() returns whether to ring the done bell. */
void attn_ring_done_put(attn_ring_t *ring, const attn_wire_done_t *done);
bool attn_ring_done_publish(attn_ring_t *ring);

#endif
