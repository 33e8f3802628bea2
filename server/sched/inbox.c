/* sched/inbox.c: see inbox.h. */
#include "sched/inbox.h"

#include <stddef.h>

#include "base/fd.h"

attn_status_t attn_inbox_open(attn_inbox_t *inbox, attn_error_t *err)
{
    atomic_init(&inbox->newest, NULL);
    atomic_init(&inbox->armed, false);
    return attn_fd_event(false, &inbox->bell, err);
}

void attn_inbox_close(attn_inbox_t *inbox)
{
    attn_fd_close(&inbox->bell);
}

void attn_inbox_push(attn_inbox_t *inbox, attn_request_t *request)
{
    attn_request_t *newest = atomic_load_explicit(&inbox->newest, memory_order_relaxed);
    do {
        request->sched.next = newest;
    } while (!atomic_compare_exchange_weak(&inbox->newest, &newest, request));
    attn_inbox_wake(inbox);
}

void attn_inbox_wake(attn_inbox_t *inbox)
{
    /* The exchange lets one of many pushers ring. */
    if (atomic_load(&inbox->armed) && atomic_exchange(&inbox->armed, false))
        attn_fd_bell_ring(inbox->bell);
}

bool attn_inbox_waiting(const attn_inbox_t *inbox)
{
    return atomic_load(&inbox->newest) != NULL;
}

attn_request_t *attn_inbox_take(attn_inbox_t *inbox)
{
    if (!attn_inbox_waiting(inbox))
        return NULL;
    attn_request_t *newest = atomic_exchange(&inbox->newest, NULL), *oldest = NULL;
    while (newest) {
        attn_request_t *older = newest->sched.next;
        newest->sched.next = oldest;
        oldest = newest;
        newest = older;
    }
    return oldest;
}

void attn_inbox_arm(attn_inbox_t *inbox, bool armed)
{
    atomic_store(&inbox->armed, armed);
}
