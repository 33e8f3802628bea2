/* sched/places.h: where a request's tensors lie, as far as it matters for what may run. Pure, any thread. */
#ifndef ATTND_SCHED_PLACES_H
#define ATTND_SCHED_PLACES_H

#include <stdbool.h>

#include "sched/regions.h"
#include "sched/request.h"

/* Whether O or LSE shares bytes with Q, K, V or the other. Inputs of a request that overlap each other are fine. */
bool attn_places_overlap(const attn_request_t *request);

/* The largest power of two, at most a page, that divides every tensor's address. */
uint32_t attn_places_alignment(const attn_regions_t *regions, const attn_request_t *request);

/* The device that a tensor or an event of the request lies on: its UUID, or "" when everything is host memory. */
const char *attn_places_device(const attn_regions_t *regions, const attn_request_t *request);

/* Bytes of its tensors that lie in host memory. */
uint64_t attn_places_host_bytes(const attn_regions_t *regions, const attn_request_t *request);

/* Tells a worker of the clients' regions that the request uses, before it is given. */
void attn_places_announce(attn_regions_t *regions, attn_region_link_t *link, const attn_request_t *request);

#endif
