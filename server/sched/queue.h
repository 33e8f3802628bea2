/* sched/queue.h: waiting requests by priority, first come first served within one. Owned by the scheduler's thread;
 * constant time but for iteration. Linked through request->sched, so a request is in at most one queue. */
#ifndef ATTND_SCHED_QUEUE_H
#define ATTND_SCHED_QUEUE_H

#include <stdbool.h>

#include "sched/request.h"

enum { ATTN_PRIORITY_MAX = 100, ATTN_QUEUE_LEVELS = 2 * ATTN_PRIORITY_MAX + 1, ATTN_QUEUE_WORDS = 4 };

typedef struct attn_queue {
    uint32_t count;
    uint64_t used[ATTN_QUEUE_WORDS]; /* level n has requests: bit n; level 0 is the highest priority */
    attn_request_t *first[ATTN_QUEUE_LEVELS], *last[ATTN_QUEUE_LEVELS];
} attn_queue_t; /* all zero is an empty one */

/* `ahead`: before all others of its priority (a replay has waited already). */
void attn_queue_push(attn_queue_t *queue, attn_request_t *request, bool ahead);
void attn_queue_remove(attn_queue_t *queue, attn_request_t *request);

/* In the order in which they should run; NULL at the end. Take next before removing. */
attn_request_t *attn_queue_first(const attn_queue_t *queue);
attn_request_t *attn_queue_next(const attn_queue_t *queue, const attn_request_t *request);

#endif
