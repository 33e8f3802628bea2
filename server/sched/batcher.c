/* sched/batcher.c: see batcher.h. */
#include "sched/batcher.h"

attn_request_t *attn_batcher_peek(const attn_queue_t *queue, uint32_t device_index)
{
    for (attn_request_t *request = attn_queue_first(queue); request; request = attn_queue_next(queue, request))
        if (request->sched.devices & (1u << device_index))
            return request;
    return NULL;
}

attn_request_t *attn_batcher_take(attn_queue_t *queue, uint32_t device_index)
{
    attn_request_t *request = attn_batcher_peek(queue, device_index);
    if (request)
        attn_queue_remove(queue, request);
    return request;
}
