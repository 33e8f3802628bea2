/* sched/queue.c: see queue.h. */
#include "sched/queue.h"

static uint32_t level_of(const attn_request_t *request)
{
    int32_t priority = request->priority;
    if (priority > ATTN_PRIORITY_MAX)
        priority = ATTN_PRIORITY_MAX;
    if (priority < -ATTN_PRIORITY_MAX)
        priority = -ATTN_PRIORITY_MAX;
    return (uint32_t)(ATTN_PRIORITY_MAX - priority);
}

void attn_queue_push(attn_queue_t *queue, attn_request_t *request, bool ahead)
{
    uint32_t level = level_of(request);
    attn_request_t **first = &queue->first[level], **last = &queue->last[level];
    request->sched.prev = ahead ? NULL : *last;
    request->sched.next = ahead ? *first : NULL;
    if (request->sched.prev)
        request->sched.prev->sched.next = request;
    else
        *first = request;
    if (request->sched.next)
        request->sched.next->sched.prev = request;
    else
        *last = request;
    queue->used[level / 64] |= UINT64_C(1) << level % 64;
    queue->count++;
}

void attn_queue_remove(attn_queue_t *queue, attn_request_t *request)
{
    uint32_t level = level_of(request);
    attn_request_t *prev = request->sched.prev, *next = request->sched.next;
    if (prev)
        prev->sched.next = next;
    else
        queue->first[level] = next;
    if (next)
        next->sched.prev = prev;
    else
        queue->last[level] = prev;
    if (!queue->first[level])
        queue->used[level / 64] &= ~(UINT64_C(1) << level % 64);
    request->sched.prev = request->sched.next = NULL;
    queue->count--;
}

static attn_request_t *first_from(const attn_queue_t *queue, uint32_t level)
{
    for (uint32_t word = level / 64; word < ATTN_QUEUE_WORDS; word++) {
        uint64_t used = queue->used[word];
        if (word == level / 64)
            used &= ~UINT64_C(0) << level % 64;
        if (used)
            return queue->first[word * 64 + (uint32_t)__builtin_ctzll(used)];
    }
    return NULL;
}

attn_request_t *attn_queue_first(const attn_queue_t *queue)
{
    return queue->count ? first_from(queue, 0) : NULL;
}

attn_request_t *attn_queue_next(const attn_queue_t *queue, const attn_request_t *request)
{
    return request->sched.next ? request->sched.next : first_from(queue, level_of(request) + 1);
}
