/* sched/watch.h: what the scheduler's loop sleeps on. The scheduler's thread. */
#ifndef ATTND_SCHED_WATCH_H
#define ATTND_SCHED_WATCH_H

#include "sched/internal.h"

/* Puts the inbox's bell under the loop's epoll. */
attn_status_t attn_watch_inbox(attn_sched_t *sched, attn_error_t *err);

/* Puts a new incarnation's process, control socket, standard error and bell under it. They leave it when closed. */
attn_status_t attn_watch_worker(attn_sched_t *sched, attn_sched_device_t *device, attn_lane_t lane, attn_error_t *err);

/* Sleeps for at most `timeout_ns` (0 or less = looks only) and handles what happened. */
void attn_watch_wait(attn_sched_t *sched, int64_t timeout_ns);

#endif
