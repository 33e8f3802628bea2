/* sched/places.c: see places.h. */
#include "sched/places.h"

static attn_span_t span_of(const attn_place_t *place)
{
    return (attn_span_t){place->region, place->offset, place->region == ATTN_REGION_NONE ? 0 : place->bytes};
}

bool attn_places_overlap(const attn_request_t *request)
{
    const attn_span_t inputs[] = {span_of(&request->q), span_of(&request->k), span_of(&request->v)};
    const attn_span_t outputs[] = {span_of(&request->o), span_of(&request->lse)};
    return attn_outputs_overlap(inputs, 3, outputs, 2);
}

enum { TENSORS = 5 };

static void tensors_of(const attn_request_t *request, const attn_place_t *ret[TENSORS])
{
    const attn_place_t *places[TENSORS] = {&request->q, &request->k, &request->v, &request->o, &request->lse};
    for (int i = 0; i < TENSORS; i++)
        ret[i] = places[i];
}

uint32_t attn_places_alignment(const attn_regions_t *regions, const attn_request_t *request)
{
    const attn_place_t *places[TENSORS];
    uint64_t bits = ATTN_WIRE_PAGE;
    tensors_of(request, places);
    for (int i = 0; i < TENSORS; i++) {
        bits |= places[i]->region == ATTN_REGION_NONE ? 0 : places[i]->offset;
        if (places[i]->region >= ATTN_REGION_CLIENT_FIRST)
            bits |= attn_regions_base(regions, places[i]->region);
    }
    return (uint32_t)(bits & -bits);
}

const char *attn_places_device(const attn_regions_t *regions, const attn_request_t *request)
{
    const attn_place_t *places[TENSORS];
    const char *device = "";
    tensors_of(request, places);
    for (int i = 0; i < TENSORS && device[0] == '\0'; i++)
        if (places[i]->region >= ATTN_REGION_CLIENT_FIRST)
            device = attn_regions_device(regions, places[i]->region);
    return device;
}

uint64_t attn_places_host_bytes(const attn_regions_t *regions, const attn_request_t *request)
{
    const attn_place_t *places[TENSORS];
    uint64_t bytes = 0;
    tensors_of(request, places);
    for (int i = 0; i < TENSORS; i++)
        if (places[i]->region != ATTN_REGION_NONE && (places[i]->region < ATTN_REGION_CLIENT_FIRST ||
                                                      attn_regions_device(regions, places[i]->region)[0] == '\0'))
            bytes += places[i]->bytes;
    return bytes;
}

void attn_places_announce(attn_regions_t *regions, attn_region_link_t *link, const attn_request_t *request)
{
    const attn_place_t *places[TENSORS];
    tensors_of(request, places);
    /* A full socket is no reason to wait here: the worker waits for a region that is still on its way. */
    for (int i = 0; i < TENSORS; i++)
        if (places[i]->region >= ATTN_REGION_CLIENT_FIRST)
            attn_regions_ensure(regions, link, places[i]->region);
    if (request->signal_event)
        attn_regions_ensure(regions, link, request->signal_event);
}
