/* sched/sched.h: the stage between doors and devices: batcher, dispatch, supervision.
 *
 * One thread (an epoll loop) owns the batchers, the workers and every timer. Doors call submit and cancel from any
 * thread; answers come back through request->complete on the scheduler's thread. */
#ifndef ATTND_SCHED_SCHED_H
#define ATTND_SCHED_SCHED_H

#include "attn/status.h"
#include "sched/admit.h"
#include "sched/regions.h"
#include "sched/request.h"

typedef struct attn_sched attn_sched_t;

typedef struct attn_sched_options {
    const char *worker_path; /* attn-worker; NULL = beside this executable */
    const char *devices;     /* "auto", "cpu", "all", "0,2", "null" (the null engine, for tests); see sched/devices.h */
    attn_admit_t *admit;     /* arenas whose fds go to workers; outlives the scheduler */
    uint32_t queue_limit;    /* requests waiting; one more is refused with UNAVAILABLE */
    /* Limits of a group; 0 = the defaults of attn_sched_start(). */
    uint32_t max_group_requests, max_group_tokens, max_group_cost_us;
    uint64_t max_group_bytes;
    uint32_t max_queue_delay_us; /* how long a request may wait for others to be merged with; 0 = not at all */
    uint32_t pipeline_depth; /* groups in flight on a device; 0 = what suits it: on a GPU 4 and 8 large requests beside
                                them, 1 on the CPU */
    bool test_variants;
    uint32_t quarantine_strikes; /* strikes within quarantine_window_s that quarantine a variant */
    uint32_t quarantine_window_s, quarantine_s;
    uint32_t watchdog_floor_ms;
    double watchdog_factor;
    uint32_t spin_us; /* how long scheduler and workers spin before they sleep; 0 = decided from the cores there are */
} attn_sched_options_t;

/* Starts the thread and the serve workers; returns before they are ready. */
attn_status_t attn_sched_start(const attn_sched_options_t *options, attn_sched_t **ret, attn_error_t *err);

/* Takes the request; `complete` is called exactly once, perhaps before this returns to the caller's thread.
 * Never blocks. */
void attn_sched_submit(attn_sched_t *sched, attn_request_t *request);

/* Marks it cancelled: if it still waits it completes at once with CANCELLED, if it runs its answer is discarded and
 * it completes when the device has finished with its memory. The request must not have completed yet from the
 * caller's point of view (the door serialises this with its own complete). */
void attn_sched_cancel(attn_sched_t *sched, attn_request_t *request);

/* The table of memory that clients share, for the doors; lives as long as the scheduler. */
attn_regions_t *attn_sched_regions(attn_sched_t *sched);

/* Health. Live: the loop has turned within the last seconds. Ready: a serve worker is up (5 s of grace while one
 * restarts) and no drain has begun. */
bool attn_sched_live(attn_sched_t *sched);
bool attn_sched_ready(attn_sched_t *sched);

/* Phase 1 of a drain: not ready, still serving. Phase 2: new submissions get UNAVAILABLE; returns when none is
 * queued or running or `timeout_ms` has passed (remaining ones are then cancelled). */
void attn_sched_drain_begin(attn_sched_t *sched);
void attn_sched_drain_finish(attn_sched_t *sched, int timeout_ms);

/* Ends workers, reaps them, joins the thread. After drain_finish. NULL is fine. */
void attn_sched_stop(attn_sched_t *sched);

/* What a listing shows; a copy, any thread. */
typedef enum attn_device_state {
    ATTN_DEVICE_STARTING,
    ATTN_DEVICE_READY,
    ATTN_DEVICE_RESTARTING,
    ATTN_DEVICE_LOST
} attn_device_state_t;
typedef struct attn_device_view {
    attn_device_t device;
    attn_device_state_t state;
    int serve_pid; /* for tests and operators; 0 when none */
    uint32_t restarts;
    char driver[32];                      /* driver version, or "" */
    uint32_t sm_clock_mhz, mem_clock_mhz; /* as last read; 0 = unknown */
    char why[256];                        /* the last failure of a worker of this device, or "" */
} attn_device_view_t;
typedef struct attn_quarantine_view {
    const attn_variant_info_t *variant;
    uint32_t strikes;
    bool active;
    int64_t expires_in_ms;
    char why[256]; /* signal or CUDA error of the last strike */
} attn_quarantine_view_t;
#define ATTN_SCHED_DEVICES_MAX 16
#define ATTN_SCHED_QUARANTINE_MAX 32
typedef struct attn_sched_view {
    uint32_t device_count, quarantine_count;
    attn_device_view_t devices[ATTN_SCHED_DEVICES_MAX];
    attn_quarantine_view_t quarantine[ATTN_SCHED_QUARANTINE_MAX];
    uint32_t queued, running;
    uint32_t groups[ATTN_SCHED_DEVICES_MAX];  /* in flight, by device */
    uint64_t load_us[ATTN_SCHED_DEVICES_MAX]; /* expected time of these */
} attn_sched_view_t;
void attn_sched_view(attn_sched_t *sched, attn_sched_view_t *ret);

/* Forgets strikes and quarantine of one variant. NOT_FOUND when it has none. */
attn_status_t attn_sched_quarantine_clear(attn_sched_t *sched, const attn_variant_info_t *variant);

#endif
