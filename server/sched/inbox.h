/* sched/inbox.h: requests on their way from any thread to the scheduler's: a lock-free list and a bell.
 *
 * push() is one exchange and, only when the scheduler sleeps, one write to an eventfd. */
#ifndef ATTND_SCHED_INBOX_H
#define ATTND_SCHED_INBOX_H

#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "sched/request.h"

typedef struct attn_inbox {
    alignas(64) _Atomic(attn_request_t *) newest;
    alignas(64) atomic_bool armed; /* the scheduler sleeps */
    int bell;
} attn_inbox_t;

attn_status_t attn_inbox_open(attn_inbox_t *inbox, attn_error_t *err);
void attn_inbox_close(attn_inbox_t *inbox);

void attn_inbox_push(attn_inbox_t *inbox, attn_request_t *request); /* any thread */
void attn_inbox_wake(attn_inbox_t *inbox);                          /* any thread: something else to look at */

/* The scheduler's. take() returns all requests, oldest first, linked by sched.next. After arming look again. */
bool attn_inbox_waiting(const attn_inbox_t *inbox);
attn_request_t *attn_inbox_take(attn_inbox_t *inbox);
void attn_inbox_arm(attn_inbox_t *inbox, bool armed);

#endif
