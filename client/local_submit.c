/* local_submit.c: a request becomes a record of the ring, or a message where it says what a record cannot. Any thread;
 * owns nothing. */
#include <string.h>

#include "http_jobs.h"

enum { PLACE_Q, PLACE_K, PLACE_V, PLACE_O, PLACE_LSE, PLACE_COUNT };

/* Where a tensor lies; region NULL: it has no bytes and no place. */
typedef struct place {
    attn_region_t *region;
    uint64_t offset, bytes;
} place_t;

static attn_status_t place_find(attn_local_t *local, const char *name, const void *address, uint64_t bytes,
                                bool written, place_t *ret, attn_client_error_t *err)
{
    attn_region_t *region = attn_region_find(local, address);
    *ret = (place_t){.bytes = bytes};
    if (bytes == 0) {
        return ATTN_OK;
    }
    if (region == NULL) {
        return attn_client_fail(
            err, ATTN_ERR_INVALID_ARGUMENT,
            "%s does not lie in a region of this client; attn_region_allocate() makes memory for it", name);
    }
    uint64_t offset = (uint64_t)((uintptr_t)address - (uintptr_t)region->base);
    if (bytes > region->bytes - offset) {
        return attn_client_fail(err, ATTN_ERR_INVALID_ARGUMENT, "%s needs %llu bytes and its region ends after %llu",
                                name, (unsigned long long)bytes, (unsigned long long)(region->bytes - offset));
    }
    if (offset % local->link.alignment != 0) {
        return attn_client_fail(err, ATTN_ERR_INVALID_ARGUMENT,
                                "%s lies %llu bytes behind the start of its region; it must be a multiple of %u", name,
                                (unsigned long long)offset, local->link.alignment);
    }
    if (written && region->access != ATTN__V1__REGION_ACCESS__REGION_ACCESS_READ_WRITE) {
        return attn_client_fail(err, ATTN_ERR_INVALID_ARGUMENT,
                                "%s is written and lies in a region that was imported for reading", name);
    }
    if (region->id == 0) { /* the daemon did not take it on this connection */
        if (err != NULL) {
            *err = region->error;
        }
        return region->error.error.status != ATTN_OK
                   ? region->error.error.status
                   : attn_client_fail(err, ATTN_ERR_NOT_FOUND, "the region of %s is lost", name);
    }
    ret->region = region;
    ret->offset = offset;
    return ATTN_OK;
}

static attn_status_t places_find(attn_local_t *local, const attn_client_request_t *request, const attn_sizes_t *sizes,
                                 place_t places[PLACE_COUNT], attn_client_error_t *err)
{
    static const char *const names[PLACE_COUNT] = {"q", "k", "v", "o", "lse"};
    const void *addresses[PLACE_COUNT] = {request->q, request->k, request->v, request->o, request->lse};
    const uint64_t bytes[PLACE_COUNT] = {sizes->q, sizes->k, sizes->v, sizes->o, sizes->lse};
    attn_region_t *any = NULL;
    for (int i = 0; i < PLACE_COUNT; i++) {
        attn_status_t status =
            place_find(local, names[i], addresses[i], bytes[i], i == PLACE_O || i == PLACE_LSE, &places[i], err);
        if (status != ATTN_OK) {
            return status;
        }
        if (places[i].region != NULL && places[i].region->access == ATTN__V1__REGION_ACCESS__REGION_ACCESS_READ_WRITE) {
            any = places[i].region;
        }
    }
    for (int i = 0; i < PLACE_COUNT; i++) { /* a tensor without bytes is nowhere: any place will do */
        if (places[i].region == NULL && (i != PLACE_LSE || request->spec.return_lse)) {
            places[i].region = any;
        }
    }
    return ATTN_OK;
}

static attn_shm_place_t shm_place(const place_t *place)
{
    return (attn_shm_place_t){.region = place->region != NULL ? place->region->id : 0, .offset = place->offset};
}

/* cu_seqlens where the daemon can read them; false: they must travel in a message. */
static bool seqlens_place(attn_local_t *local, const int32_t *seqlens, uint64_t count, attn_shm_place_t *ret)
{
    attn_region_t *region = attn_region_find(local, seqlens);
    if (region == NULL || !region->mapped || region->id == 0) {
        return false;
    }
    uint64_t offset = (uint64_t)((uintptr_t)seqlens - (uintptr_t)region->base);
    *ret = (attn_shm_place_t){.region = region->id, .offset = offset};
    return offset % local->link.alignment == 0 && count * sizeof(*seqlens) <= region->bytes - offset;
}

/* Fills a record; false when this request does not fit into one. */
static bool record_fill(attn_local_t *local, const attn_client_request_t *request, const attn_spec_t *spec,
                        const place_t places[PLACE_COUNT], attn_shm_submission_t *record)
{
    const char *variant = request->variant != NULL && strcmp(request->variant, "auto") != 0 ? request->variant : "";
    if (local->link.ring == NULL || request->id != NULL || strlen(variant) >= sizeof(record->variant)) {
        return false;
    }
    *record = (attn_shm_submission_t){
        .op = ATTN_SHM_RUN,
        .dtype = (uint8_t)spec->dtype,
        .layout = (uint8_t)spec->layout,
        .flags = (uint8_t)((spec->causal ? ATTN_SHM_CAUSAL : 0) | (spec->return_lse ? ATTN_SHM_RETURN_LSE : 0)),
        .priority = request->priority,
        .batch = spec->batch,
        .h_q = spec->h_q,
        .h_kv = spec->h_kv,
        .d = spec->d,
        .s_q = (uint64_t)spec->s_q,
        .s_kv = (uint64_t)spec->s_kv,
        .sm_scale = request->spec.sm_scale,
        .softcap = spec->softcap,
        .deadline_us = request->deadline_ms < UINT64_MAX / 1000 ? request->deadline_ms * 1000 : UINT64_MAX,
        .wait_event = request->wait_event != NULL ? request->wait_event->id : 0,
        .signal_event = request->signal_event != NULL ? request->signal_event->id : 0,
        .q = shm_place(&places[PLACE_Q]),
        .k = shm_place(&places[PLACE_K]),
        .v = shm_place(&places[PLACE_V]),
        .o = shm_place(&places[PLACE_O]),
        .lse = shm_place(&places[PLACE_LSE]),
    };
    strcpy(record->variant, variant);
    uint64_t entries = (uint64_t)spec->batch + 1;
    return spec->layout != ATTN_LAYOUT_THD ||
           (seqlens_place(local, request->cu_seqlens_q, entries, &record->cu_seqlens_q) &&
            seqlens_place(local, request->cu_seqlens_k, entries, &record->cu_seqlens_k));
}

static attn_status_t message_send(attn_local_t *local, const attn_client_request_t *request, const attn_spec_t *spec,
                                  const attn_sizes_t *sizes, const place_t places[PLACE_COUNT], attn_job_t **ret,
                                  attn_client_error_t *err)
{
    attn_wire_message_t message;
    Attn__V1__RegionSlice slices[PLACE_COUNT];
    Attn__V1__Output outputs[2];
    Attn__V1__Submit submit = ATTN__V1__SUBMIT__INIT;
    Attn__V1__SocketRequest packet = ATTN__V1__SOCKET_REQUEST__INIT;
    attn_wire_message_build(request, spec, sizes, false, &message);
    attn_wire_message_options(request, &message);
    for (int i = 0; i < PLACE_COUNT; i++) {
        attn__v1__region_slice__init(&slices[i]);
        if (places[i].region == NULL) {
            continue;
        }
        slices[i].region = places[i].region->name;
        slices[i].offset = places[i].offset;
        slices[i].length = places[i].bytes;
        if (i < PLACE_O) {
            message.tensors[i].where_case = ATTN__V1__TENSOR__WHERE_REGION;
            message.tensors[i].region = &slices[i];
        } else {
            attn__v1__output__init(&outputs[i - PLACE_O]);
            outputs[i - PLACE_O].region = &slices[i];
            *(i == PLACE_O ? &message.request.o : &message.request.lse) = &outputs[i - PLACE_O];
        }
    }
    submit.request = &message.request;
    submit.wait_event = request->wait_event != NULL ? request->wait_event->id : 0;
    submit.signal_event = request->signal_event != NULL ? request->signal_event->id : 0;
    packet.what_case = ATTN__V1__SOCKET_REQUEST__WHAT_SUBMIT;
    packet.submit = &submit;
    return attn_job_send(local, ATTN_JOB_RUN, &packet, -1, ret, err);
}

/* An event that a new connection's daemon refused has no number there. */
static bool event_good(const attn_event_t *event)
{
    return event == NULL || event->id != 0;
}

attn_status_t attn_local_submit(attn_local_t *local, const attn_client_request_t *request, bool waited, void *user,
                                attn_job_t **ret, attn_client_error_t *err)
{
    attn_spec_t spec;
    attn_sizes_t sizes;
    place_t places[PLACE_COUNT];
    attn_shm_submission_t record;
    attn_job_t *job = NULL;
    attn_status_t status = attn_wire_check(request, true, true, &spec, &sizes, err);
    if (status == ATTN_OK) {
        status = attn_local_connect(local, err);
    }
    if (status == ATTN_OK) {
        status = places_find(local, request, &sizes, places, err);
    }
    if (status == ATTN_OK && (!event_good(request->wait_event) || !event_good(request->signal_event))) {
        status = attn_client_fail(err, ATTN_ERR_NOT_FOUND, "the event is lost: the daemon would not take it again");
    }
    if (status != ATTN_OK) {
        return status;
    }
    status = record_fill(local, request, &spec, places, &record)
                 ? attn_job_publish(local, ATTN_JOB_RUN, &record, &job, err)
                 : message_send(local, request, &spec, &sizes, places, &job, err);
    if (status == ATTN_OK) {
        job->waited = waited;
        job->user = user;
        *ret = job;
    }
    return status;
}

attn_status_t attn_client_submit(attn_client_t *client, const attn_client_request_t *request, void *user,
                                 attn_job_t **ret, attn_client_error_t *err)
{
    attn_local_t *local = attn_client_local(client);
    if (local == NULL) {
        return attn_http_submit(client, request, user, ret, err);
    }
    pthread_mutex_lock(&local->lock);
    attn_status_t status = attn_local_submit(local, request, false, user, ret, err);
    pthread_mutex_unlock(&local->lock);
    return status;
}
