/* sched/internal.h: the scheduler's state, shared by its files only. Unless a field says otherwise it belongs to the
 * scheduler's thread, and so do the functions below. */
#ifndef ATTND_SCHED_INTERNAL_H
#define ATTND_SCHED_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "sched/batcher.h"
#include "sched/devices.h"
#include "sched/inbox.h"
#include "sched/quarantine.h"
#include "sched/regions.h"
#include "sched/sched.h"
#include "sched/worker.h"

/* A device has at most one worker of each class; requests wait in one batcher per class. */
typedef enum attn_lane { ATTN_LANE_SERVE, ATTN_LANE_LAB, ATTN_LANES } attn_lane_t;

typedef struct attn_sched_device {
    uint32_t index;
    attn_device_argument_t argument;
    attn_device_state_t state;
    bool gone;  /* lost with a worker that cannot be reaped: for good */
    bool known; /* a worker has said hello once; `about` stays valid while one restarts */
    attn_device_t about;
    char driver[32];
    uint32_t sm_clock_mhz, mem_clock_mhz;
    uint64_t variants; /* bit per row of the table of variants that its workers can run */
    attn_worker_t worker[ATTN_LANES];
    struct attn_device_stats *stats; /* made with its first hello */
    uint32_t restarts;
    uint32_t failures[ATTN_LANES]; /* starts in a row that came to nothing */
    int64_t start_ns[ATTN_LANES];  /* not before: back-off */
    int64_t down_ns;               /* since when no serve worker is ready */
    /* A timed job has the device to itself: from its start for at most LEASE_NS. */
    int64_t lease_until_ns;
    attn_lane_t lease_lane;
    int64_t lease_wanted_ns; /* since when a timed job waits for the other class to stop; 0 */
    char why[256];           /* of the last failure */
    atomic_uint groups_seen; /* in flight on its serve worker, and their expected time: for who looks on */
    atomic_uint_fast64_t load_seen_us;
} attn_sched_device_t;

struct attn_sched {
    char worker_path[4096];
    attn_admit_t *admit;
    uint32_t queue_limit;
    bool test_variants;
    int64_t watchdog_floor_ns;
    double watchdog_factor;
    uint32_t spin_us;
    uint32_t pipeline_depth; /* groups in flight on a device; 0 = what suits its kind */

    int epoll;
    pthread_t thread;
    attn_inbox_t inbox; /* any thread */
    attn_batcher_t batcher[ATTN_LANES];
    attn_sched_device_t device[ATTN_SCHED_DEVICES_MAX];
    uint32_t device_count;
    attn_regions_t *regions;
    bool regions_left; /* a worker's socket was full: tell it of the rest at the next tick */
    const attn_variant_info_t *const *table;
    size_t table_count;
    uint64_t serial;
    int64_t tick_ns; /* when time has to be looked at next */
    int64_t due_ns;  /* when a group that waits for company goes; INT64_MAX = none does */
    /* How many requests were in the daemon at once lately: whether waiting for company makes sense. */
    uint32_t crowd, crowd_before;
    int64_t crowd_ns;

    attn_quarantine_t quarantine; /* any thread */
    atomic_bool sweep;            /* somebody cancelled: look for marked requests */
    atomic_int drain;             /* 0, 1 = not ready but serving, 2 = refuse, 3 = give up what is left */
    atomic_bool stop;
    atomic_uint outstanding; /* submitted and not completed */
    atomic_uint running;
    _Atomic int64_t turned_ns;      /* when the loop turned last */
    _Atomic int64_t ready_until_ns; /* ready before this time; INT64_MAX while a serve worker is up */

    pthread_mutex_t lock;   /* of the two below */
    pthread_cond_t drained; /* outstanding became zero */
    attn_sched_view_t published;
};

/* accept.c: requests come in, get a variant and devices, and complete. */
void attn_sched_accept(attn_sched_t *sched, attn_request_t *request, int64_t now_ns);
void attn_sched_finish(attn_sched_t *sched, attn_request_t *request); /* outcome.error is set */
void attn_sched_fail(attn_sched_t *sched, attn_request_t *request, attn_status_t status, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* Completes a request that nobody waits for any longer; returns whether it was one. */
bool attn_sched_expire(attn_sched_t *sched, attn_request_t *request, int64_t now_ns);
void attn_sched_requeue(attn_sched_t *sched, attn_request_t *request);
void attn_sched_reconsider(attn_sched_t *sched);      /* devices changed: choose again for who waits */
bool attn_sched_timed(const attn_request_t *request); /* its rounds want the device to themselves */

/* dispatch.c: groups. */
bool attn_sched_dispatch(attn_sched_t *sched, int64_t now_ns); /* gives groups to workers; whether any */
bool attn_sched_collect(attn_sched_t *sched, int64_t now_ns);  /* takes completions; whether any */
void attn_sched_collect_from(attn_sched_t *sched, attn_sched_device_t *device, attn_lane_t lane, int64_t now_ns);

void attn_sched_load_note(attn_sched_device_t *device); /* what is in flight has changed */

/* waiting.c: what time and cancellation do to requests that wait. */
void attn_sched_sweep(attn_sched_t *sched, int64_t now_ns);
int64_t attn_sched_wait_tick(attn_sched_t *sched, int64_t now_ns); /* returns when to look again */

/* device.c: devices and their workers. */
void attn_sched_worker_start(attn_sched_t *sched, attn_sched_device_t *device, attn_lane_t lane, int64_t now_ns);
void attn_sched_worker_hello(attn_sched_t *sched, attn_sched_device_t *device, attn_lane_t lane, int64_t now_ns);
void attn_sched_worker_reaped(attn_sched_t *sched, attn_sched_device_t *device, attn_lane_t lane, int64_t now_ns);
int64_t attn_sched_device_tick(attn_sched_t *sched, attn_sched_device_t *device, int64_t now_ns);
bool attn_sched_workers_gone(const attn_sched_t *sched);

/* faults.c: what the death of a worker means for the requests that it had. */
void attn_sched_judge_death(attn_sched_t *sched, attn_sched_device_t *device, attn_lane_t lane,
                            const attn_death_t *death, int64_t now_ns);
void attn_sched_judge_lost(attn_sched_t *sched, attn_sched_device_t *device, attn_lane_t lane);

/* view.c */
void attn_sched_publish(attn_sched_t *sched, int64_t now_ns);

#endif
