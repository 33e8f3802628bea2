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
