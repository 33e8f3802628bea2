/* worker/slab.h: where a group's tensors lie in device memory. Pure; owns nothing.
 *
 * Requests that are alike lie at even distances, each tensor with a pitch of its own: kernels then take them for one
 * problem with a batch dimension (kernels/sm90/merge.h). */
#ifndef ATTND_WORKER_SLAB_H
#define ATTND_WORKER_SLAB_H

#include "worker/engine.h"

/* A group's requests in the order of their inputs, and of their answers, in host memory. What lies together there then
 * lies together in the slab, and is one copy. */
typedef struct attn_slab_order {
    uint8_t in[ATTN_WIRE_GROUP_MAX], out[ATTN_WIRE_GROUP_MAX];
} attn_slab_order_t;
void attn_slab_sort(const attn_engine_request_t *requests, uint32_t count, attn_slab_order_t *ret);

/* Places of all inputs of a group in a slab, in this order, and behind them of all answers if `outputs`; as below.
 * Returns how much is needed. */
uint64_t attn_slab_place_group(const attn_engine_request_t *requests, uint32_t count, const attn_slab_order_t *order,
                               char *slab, bool outputs, attn_addresses_t *ret);

/* Places of a request's tensors in a slab from `offset` on, each on a page of its own. Tensors on the device stay where
 * they are, and so do answers unless `outputs`. Returns the end; with a slab of NULL, how much is needed. */
uint64_t attn_slab_place(const attn_engine_request_t *request, char *slab, uint64_t offset, bool outputs,
                         attn_addresses_t *ret);

#endif
