/* worker/slab.h: where a group's tensors lie in device memory. Pure; owns nothing.
 *
 * Requests that are alike lie at even distances, each tensor with a pitch of its own: kernels then take them for one
 * problem with a batch dimension (kernels/sm90/merge.h). */
#ifndef ATTND_WORKER_SLAB_H
#define ATTND_WORKER_SLAB_H

#include "worker/engine.h"

/* Places of a request's tensors in a slab from `offset` on, each on a page of its own. Tensors on the device stay where
 * they are, and so do answers unless `outputs`. Returns the end; with a slab of NULL, how much is needed. */
uint64_t attn_slab_place(const attn_engine_request_t *request, char *slab, uint64_t offset, bool outputs,
                         attn_addresses_t *ret);

#endif
