/* sched/batcher.h: which waiting requests become the next job of a device: the place where batching belongs. Today a
 * job is one request: the first in the queue that may run there. The scheduler's thread. */
#ifndef ATTND_SCHED_BATCHER_H
#define ATTND_SCHED_BATCHER_H

#include "sched/queue.h"

/* Takes the job's request from the queue; NULL when none may run on the device. */
attn_request_t *attn_batcher_take(attn_queue_t *queue, uint32_t device_index);

/* The request that take() would return, still in its queue. */
attn_request_t *attn_batcher_peek(const attn_queue_t *queue, uint32_t device_index);

#endif
