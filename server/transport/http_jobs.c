/* transport/http_jobs.c: comparisons over HTTP: POST /v1/compare and the jobs that it makes. On the door's threads
 * until a call is parked, then on the compare thread, which answers it. Owns what a parked call needs until its answer.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "codec/compare_json.h"
#include "codec/compare_proto.h"
#include "codec/query.h"
#include "sched/compare.h"
#include "transport/http.h"

#define EVENT_KEEPALIVE_NS (15 * ATTN_NS_PER_S) /* also finds out that the reader left */

/* ---- answers about a job ---- */

static void reply_no_memory(attn_http_call_t *call)
{
    attn_error_t error;
    attn_error_set(&error, ATTN_ERR_NO_MEMORY, "no memory for the answer");
    attn_http_reply_error(call, &error, NULL);
}

static void reply_job(attn_http_call_t *call, int http_status, const attn_compare_view_t *view, bool protobuf)
{
    if (protobuf) {
        void *data = NULL;
        size_t bytes = 0;
        if (attn_compare_proto_write(view, &data, &bytes)) {
            attn_http_reply_bytes(call, http_status, ATTN_HTTP_PROTOBUF, data, bytes);
        } else {
            reply_no_memory(call);
        }
        return;
    }
    char *text = attn_compare_json_write(view, true);
    if (text != NULL) {
        attn_http_reply_json(call, http_status, text);
    } else {
        reply_no_memory(call);
    }
}

/* Answers with the job as it stands now. */
static void reply_job_now(attn_http_call_t *call, const char *id, int http_status)
{
    attn_error_t error;
    attn_compare_view_t *view = malloc(sizeof(*view));
    if (view == NULL) {
        reply_no_memory(call);
    } else if (attn_compare_view(attn_http_front(call)->compare, id, view, &error) != ATTN_OK) {
        attn_http_reply_error(call, &error, NULL);
    } else {
        reply_job(call, http_status, view, attn_http_wants_protobuf(call));
    }
    free(view);
}

/* ---- waiting for a job: ?wait= ---- */

typedef struct waiter {
    attn_http_call_t *call;
    attn_compare_t *compare;
    char id[ATTN_COMPARE_ID_MAX];
    bool protobuf, posted;
} waiter_t;

/* The caller of POST /v1/compare?wait= left before it knew the job's name: nobody can ask for it. */
static void waiter_gone(attn_http_call_t *call, void *arg)
{
    waiter_t *waiter = arg;
    attn_error_t ignored; /* the job has ended and is no longer kept */
    (void)attn_compare_cancel(waiter->compare, waiter->id, &ignored);
}

static void waiter_tell(void *arg, const attn_compare_view_t *view)
{
    waiter_t *waiter = arg;
    int http_status = waiter->posted && !attn_compare_ended(view) ? 202 : 200;
    reply_job(waiter->call, http_status, view, waiter->protobuf);
    free(waiter);
}

/* Parks the call until the job changes (with `posted`: has ended), or for wait_ms. */
static void job_wait(attn_http_call_t *call, const char *id, uint64_t seen, bool posted, uint32_t wait_ms)
{
    attn_error_t error;
    waiter_t *waiter = malloc(sizeof(*waiter));
    if (waiter == NULL) {
        reply_no_memory(call);
        return;
    }
    *waiter = (waiter_t){call, attn_http_front(call)->compare, "", attn_http_wants_protobuf(call), posted};
    snprintf(waiter->id, sizeof(waiter->id), "%s", id);
    attn_http_park(call, posted ? waiter_gone : NULL, waiter);
    if (attn_compare_watch(waiter->compare, id, seen, posted, attn_clock_ns() + wait_ms * ATTN_NS_PER_MS, waiter_tell,
                           waiter, &error) != ATTN_OK) {
        attn_http_reply_error(call, &error, NULL);
        free(waiter);
    }
}

/* ---- POST /v1/compare ---- */

static void plan_options(attn_compare_plan_t *plan, const attn_compare_ask_t *compare)
{
    plan->has_seed = compare->has_seed;
    plan->seed = compare->seed;
    plan->variant_count = compare->variant_count;
    for (uint32_t i = 0; i < compare->variant_count; i++) {
        plan->variants[i] = compare->variants[i];
    }
    plan->reference = compare->reference;
    plan->has_warmup = compare->has_warmup;
    plan->has_rounds = compare->has_rounds;
    plan->warmup = compare->warmup;
    plan->rounds = compare->rounds;
}

static void plan_request(attn_compare_plan_t *plan, const attn_ask_t *ask, uint64_t peer)
{
    plan->spec = ask->spec;
    plan->sizes = ask->sizes;
    plan->cu_seqlens_q = ask->cu_seqlens_q;
    plan->cu_seqlens_k = ask->cu_seqlens_k;
    plan->peer = peer;
}

/* Starts the job; the ask's sequence offsets are the job's on success. */
static attn_status_t plan_submit(attn_http_call_t *call, const attn_compare_plan_t *plan, attn_ask_t *ask,
                                 char ret_id[ATTN_COMPARE_ID_MAX], attn_error_t *err)
{
    attn_status_t status = attn_compare_submit(attn_http_front(call)->compare, plan, ret_id, err);
    if (status == ATTN_OK) {
        ask->cu_seqlens_q = ask->cu_seqlens_k = NULL;
    }
    return status;
}

static attn_status_t submit_tensors(attn_http_call_t *call, attn_intake_t *intake, char ret_id[ATTN_COMPARE_ID_MAX],
                                    attn_error_t *err)
{
    attn_compare_plan_t plan = {.ticket = intake->ticket, .q = intake->q, .k = intake->k, .v = intake->v};
    plan_options(&plan, &intake->compare);
    plan_request(&plan, &intake->ask, attn_http_peer(call));
    attn_status_t status = plan_submit(call, &plan, &intake->ask, ret_id, err);
    if (status == ATTN_OK && !plan.has_seed) {
        (void)attn_intake_take_ticket(intake); /* the job has it */
    }
    return status;
}

static attn_status_t submit_json(attn_http_call_t *call, char ret_id[ATTN_COMPARE_ID_MAX], uint32_t *ret_wait_ms,
                                 attn_error_t *err)
{
    size_t bytes = 0;
    const attn_compare_ask_t *options = NULL;
    const char *text = attn_http_json(call, &bytes, &options);
    if (text == NULL) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "a comparison needs a body: JSON with a shape, or tensors as application/x-attn or "
                              "application/safetensors");
    }
    attn_ask_t ask = {0};
    attn_compare_ask_t compare = {0};
    attn_status_t status = attn_compare_json_read(text, bytes, &ask, &compare, err);
    if (status == ATTN_OK) {
        attn_compare_plan_t plan = {0};
        plan_options(&plan, &compare);
        plan_request(&plan, &ask, attn_http_peer(call));
        status = plan_submit(call, &plan, &ask, ret_id, err);
        *ret_wait_ms = options != NULL ? options->wait_ms : 0;
    }
    attn_ask_clear(&ask);
    return status;
}

static void compare_post(attn_http_call_t *call)
{
    attn_error_t error;
    char id[ATTN_COMPARE_ID_MAX], location[ATTN_COMPARE_ID_MAX + 16];
    uint32_t wait_ms = 0;
    attn_intake_t *intake = attn_http_intake(call);
    attn_status_t status;
    if (intake != NULL) {
        wait_ms = intake->compare.wait_ms;
        status = submit_tensors(call, intake, id, &error);
    } else {
        status = submit_json(call, id, &wait_ms, &error);
    }
    if (status != ATTN_OK) {
        attn_http_reply_error(call, &error, NULL);
        return;
    }
    snprintf(location, sizeof(location), "/v1/jobs/%s", id);
    attn_http_reply_header(call, "Location", location);
    if (wait_ms > 0) {
        job_wait(call, id, 0, true, wait_ms);
    } else {
        reply_job_now(call, id, 202);
    }
}

/* ---- /v1/jobs/{id} ---- */

static void job_get(attn_http_call_t *call)
{
    attn_error_t error;
    const char *id = attn_http_capture(call), *wait = attn_http_query(call, "wait");
    uint32_t wait_ms = 0;
    if (wait != NULL && !attn_duration_parse(wait, &wait_ms)) {
        attn_error_set(&error, ATTN_ERR_INVALID_ARGUMENT,
                       "the query's \"wait\" is not a time; give seconds or milliseconds like 30s or 500ms");
        attn_http_reply_error(call, &error, NULL);
        return;
    }
    if (wait_ms == 0) {
        reply_job_now(call, id, 200);
        return;
    }
    attn_compare_view_t *view = malloc(sizeof(*view));
    attn_compare_t *compare = attn_http_front(call)->compare;
    if (view == NULL) {
        reply_no_memory(call);
    } else if (attn_compare_view(compare, id, view, &error) != ATTN_OK) {
        attn_http_reply_error(call, &error, NULL);
    } else {
        job_wait(call, id, view->version, false, wait_ms);
    }
    free(view);
}

static void job_delete(attn_http_call_t *call)
{
    attn_error_t error;
    const char *id = attn_http_capture(call);
    if (attn_compare_cancel(attn_http_front(call)->compare, id, &error) != ATTN_OK) {
        attn_http_reply_error(call, &error, NULL);
    } else {
        reply_job_now(call, id, 200);
    }
}

/* ---- /v1/jobs/{id}/events: server-sent events ---- */

typedef struct listener {
    attn_http_call_t *call;
    attn_compare_t *compare;
    char id[ATTN_COMPARE_ID_MAX];
    uint64_t seen;
    atomic_bool gone;
} listener_t;

static void listener_gone(attn_http_call_t *call, void *arg)
{
    listener_t *listener = arg;
    atomic_store(&listener->gone, true);
}

static bool event_write(listener_t *listener, const attn_compare_view_t *view)
{
    if (view->version == listener->seen) {
        return attn_http_stream_write(listener->call, ":\n\n", 3);
    }
    char *data = attn_compare_json_write(view, attn_compare_ended(view)), *text = NULL;
    int size = data == NULL
                   ? -1
                   : asprintf(&text, "event: %s\ndata: %s\n\n", attn_compare_ended(view) ? "end" : "progress", data);
    free(data);
    bool written = size > 0 && attn_http_stream_write(listener->call, text, (size_t)size);
    if (size > 0) {
        free(text);
    }
    listener->seen = view->version;
    return written;
}

/* Writes what is new, and listens on until the job has ended or the reader has left. */
static void listener_tell(void *arg, const attn_compare_view_t *view)
{
    listener_t *listener = arg;
    attn_error_t ignored;
    if (!atomic_load(&listener->gone) && event_write(listener, view) && !attn_compare_ended(view) &&
        attn_compare_watch(listener->compare, listener->id, listener->seen, false, attn_clock_ns() + EVENT_KEEPALIVE_NS,
                           listener_tell, listener, &ignored) == ATTN_OK) {
        return;
    }
    attn_http_stream_end(listener->call);
    free(listener);
}

static void job_events(attn_http_call_t *call)
{
    attn_error_t error;
    const char *id = attn_http_capture(call);
    attn_compare_t *compare = attn_http_front(call)->compare;
    attn_compare_view_t *view = malloc(sizeof(*view));
    listener_t *listener = calloc(1, sizeof(*listener));
    if (view == NULL || listener == NULL) {
        reply_no_memory(call);
    } else if (attn_compare_view(compare, id, view, &error) != ATTN_OK) {
        attn_http_reply_error(call, &error, NULL);
    } else {
        listener->call = call;
        listener->compare = compare;
        memcpy(listener->id, view->id, sizeof(listener->id));
        listener->seen = UINT64_MAX;
        attn_http_stream_begin(call, "text/event-stream", listener_gone, listener);
        listener_tell(listener, view);
        listener = NULL;
    }
    free(listener);
    free(view);
}

const attn_http_route_t attn_http_job_routes[] = {
    {"POST", "/v1/compare", ATTN_HTTP_BODY_COMPARE, false, compare_post, NULL},
    {"GET", "/v1/jobs/{id}", ATTN_HTTP_BODY_NONE, false, job_get, "wait"},
    {"GET", "/v1/jobs/{id}/events", ATTN_HTTP_BODY_NONE, false, job_events, NULL},
    {"DELETE", "/v1/jobs/{id}", ATTN_HTTP_BODY_NONE, false, job_delete, NULL},
};
const size_t attn_http_job_route_count = sizeof(attn_http_job_routes) / sizeof(attn_http_job_routes[0]);
