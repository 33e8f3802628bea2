/* sched/places.h: where a request's tensors lie, as far as it matters for what may run. Pure, any thread. */
#ifndef ATTND_SCHED_PLACES_H
#define ATTND_SCHED_PLACES_H

#include <stdbool.h>

#include "sched/request.h"

/* Whether O or LSE shares bytes with Q, K, V or the other. Inputs of a request that overlap each other are fine. */
bool attn_places_overlap(const attn_request_t *request);

#endif
