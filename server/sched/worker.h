/* sched/worker.h: one incarnation of a worker, as the front sees it: started, greeted, given groups, collected from,
 * ended, reaped. The scheduler's thread; owns the process, the ring and the descriptors. Decides nothing about
 * requests: that is faults.c. */
#ifndef ATTND_SCHED_WORKER_H
#define ATTND_SCHED_WORKER_H

#include "sched/devices.h"
#include "sched/process.h"
#include "sched/regions.h"
#include "sched/request.h"
#include "worker/ring.h"

typedef enum attn_worker_state {
    ATTN_WORKER_NONE,     /* no process */
    ATTN_WORKER_STARTING, /* no hello yet */
    ATTN_WORKER_READY,
    ATTN_WORKER_ENDING /* asked to end, killed, or found dead; not reaped yet */
} attn_worker_state_t;

/* Why the front ended it. */
typedef enum attn_worker_end {
    ATTN_END_NONE = 0,  /* the front did not */
    ATTN_END_ASKED,     /* not needed any longer */
    ATTN_END_ABANDONED, /* nobody waits for its job any longer */
    ATTN_END_STUCK,     /* no hello in time */
    ATTN_END_HUNG,      /* over its budget */
    ATTN_END_FROZEN,    /* does not get to run at all */
    ATTN_END_GARBAGE,   /* wrote nonsense */
    ATTN_END_UNUSABLE   /* said that its device is broken */
} attn_worker_end_t;

/* A group in hand, oldest first. */
typedef struct attn_worker_group {
    uint64_t number;
    uint32_t count, left; /* jobs; those that have not completed */
    bool timed;           /* its rounds want the device to themselves */
    bool large;           /* one request, of those of which only so many are in hand at once */
    double work_us;
    int64_t given_ns, budget_ns;
} attn_worker_group_t;

/* A job in hand, by slot. */
typedef struct attn_worker_job {
    attn_request_t *request; /* NULL: a free slot */
    uint64_t serial, group;
    uint32_t area;
    bool cancelled; /* it was told that nobody waits any longer */
} attn_worker_job_t;

typedef struct attn_worker {
    attn_worker_state_t state;
    attn_worker_end_t end;
    uint32_t incarnation; /* counts starts, so that a late event of an earlier one is known as such */
    attn_process_t process;
    attn_ring_t ring;
    int control, job_bell, done_bell;
    attn_region_link_t regions;
    int64_t started_ns, ready_ns, ended_ns;
    int64_t idle_since_ns;
    char complaint[256]; /* what it said before it became unusable */

    attn_worker_group_t group[ATTN_WIRE_GROUPS];
    uint32_t groups, jobs; /* in hand */
    uint32_t areas;        /* bit per large sequence area in use */
    uint32_t next_slot;    /* where the search for a free slot begins */
    attn_worker_job_t job[ATTN_WIRE_SLOTS];
    /* Of the oldest group: since when it is its turn, and when nobody waited for any of it any longer (0 = not yet). */
    int64_t turn_ns, cancel_ns;
    uint64_t progress, beat;
    int64_t progress_ns, beat_ns; /* when these were last seen to move; progress: 0 = not yet */
} attn_worker_t;

typedef struct attn_worker_start {
    const char *path, *device;
    attn_variant_class_t run_class;
    int input_fd, output_fd;
    uint32_t spin_us;
} attn_worker_start_t;

attn_status_t attn_worker_start(attn_worker_t *worker, const attn_worker_start_t *start, attn_error_t *err);

/* Takes the hello if it is there: EMPTY, POPPED, or GARBAGE. The copy's text ends and its numbers are sane. */
attn_ring_pop_t attn_worker_hello(attn_worker_t *worker, attn_wire_hello_t *ret);

/* What a group is given with. */
typedef struct attn_worker_order {
    attn_request_t *const *requests; /* `count` of one configuration, at most ATTN_WIRE_GROUP_MAX */
    uint32_t count;
    bool timed, large;
    double work_us;
    int64_t budget_ns;
} attn_worker_order_t;

/* Only when READY with fewer than ATTN_WIRE_GROUPS groups. *serial counts on: numbers are never used twice. A request
 * whose sequences need a large area comes alone. */
void attn_worker_give(attn_worker_t *worker, const attn_worker_order_t *order, uint64_t *serial, int64_t now_ns);

/* Takes a completion, whose slot is then that of a job in hand; one of anything else is GARBAGE. The job stays in
 * hand until release(). */
attn_ring_pop_t attn_worker_collect(attn_worker_t *worker, attn_wire_done_t *ret);
attn_worker_group_t *attn_worker_group_of(attn_worker_t *worker, uint32_t slot);
void attn_worker_release(attn_worker_t *worker, uint32_t slot, int64_t now_ns);

uint32_t attn_worker_large(const attn_worker_t *worker); /* groups in hand that are large */
double attn_worker_load_us(const attn_worker_t *worker); /* expected, of all groups in hand */

void attn_worker_cancel(attn_worker_t *worker, uint32_t slot);

/* ASKED closes the control socket, so a busy worker ends too; the rest is SIGKILL. Then ENDING. */
void attn_worker_end(attn_worker_t *worker, attn_worker_end_t why, int64_t now_ns);

/* When the process can be reaped: reaps it and returns true. close() then makes the worker NONE; between the two its
 * ring may still be read. */
bool attn_worker_reap(attn_worker_t *worker, attn_death_t *ret);
void attn_worker_close(attn_worker_t *worker);

/* Whether the oldest group has run out: HUNG, FROZEN, or NONE. */
attn_worker_end_t attn_worker_watch(attn_worker_t *worker, int64_t now_ns);

#endif
