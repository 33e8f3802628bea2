/* transport/unix_run.c: submissions of colocated clients, from the ask to the answer. The door's thread; completion on
 * the scheduler's. A run is kept for the next submission: nothing is allocated for one by the ring, unless it brings
 * more sequence offsets than any before it. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "codec/answer.h"
#include "codec/ask_proto.h"
#include "codec/ask_shm.h"
#include "transport/unix_internal.h"

static const char *const tensor_names[ATTN_ASK_PLACES] = {"q", "k", "v", "o", "lse"};

/* ---- runs ---- */

attn_status_t unix_run_reserve(unix_conn_t *conn, bool by_ring, uint32_t count, attn_error_t *err)
{
    unix_run_t **grown = realloc(conn->runs, (conn->run_count + count) * sizeof *grown);
    if (grown == NULL) {
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for %u requests", count);
    }
    conn->runs = grown;
    for (uint32_t i = 0; i < count; i++) {
        unix_run_t *run = calloc(1, sizeof *run);
        if (run == NULL) {
            return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for %u requests", count);
        }
        run->conn = conn;
        run->by_ring = by_ring;
        pthread_mutex_lock(&conn->lock);
        run->next = conn->runs_free[by_ring];
        conn->runs_free[by_ring] = run;
        pthread_mutex_unlock(&conn->lock);
        conn->runs[conn->run_count++] = run;
    }
    return ATTN_OK;
}

void unix_run_free_all(unix_conn_t *conn)
{
    for (uint32_t i = 0; i < conn->run_count; i++) {
        free(conn->runs[i]->seqlens);
        free(conn->runs[i]);
    }
    free(conn->runs);
}

bool unix_run_put(unix_run_t *run)
{
    unix_conn_t *conn = run->conn;
    bool waited = false;
    for (uint32_t i = 0; i < UNIX_USES; i++) {
        unix_region_t *region = run->region[i];
        run->region[i] = NULL;
        /* A region is freed only after gone(), which comes on the scheduler's thread, or on the door's own. */
        if (region != NULL && atomic_fetch_sub(&region->uses, 1) == 1 && atomic_load(&region->released)) {
            waited = true;
        }
    }
    run->state = UNIX_RUN_FREE;
    run->next = conn->runs_free[run->by_ring];
    conn->runs_free[run->by_ring] = run;
    if (!run->by_ring) {
        conn->flying_messages--;
    }
    return waited;
}

static unix_run_t *run_take(unix_conn_t *conn, bool by_ring, uint64_t tag)
{
    pthread_mutex_lock(&conn->lock);
    unix_run_t *run = conn->runs_free[by_ring];
    if (run != NULL) {
        conn->runs_free[by_ring] = run->next;
        run->tag = tag;
        run->state = UNIX_RUN_FREE;
        conn->flying_messages += !by_ring;
    }
    pthread_mutex_unlock(&conn->lock);
    if (run != NULL) {
        memset(&run->request, 0, sizeof run->request);
    }
    return run;
}

/* ---- checks ---- */

static attn_status_t take_region(unix_run_t *run, uint32_t tensor, const attn_ask_place_t *place, attn_place_t *ret,
                                 attn_error_t *err)
{
    unix_conn_t *conn = run->conn;
    const char *name = tensor_names[tensor];
    unix_region_t *region =
        place->region[0] != '\0' ? unix_region_by_name(conn, place->region) : unix_region_by_id(conn, place->number);
    if (region == NULL) {
        return place->region[0] != '\0'
                   ? attn_error_set(err, ATTN_ERR_NOT_FOUND, "%s: region \"%s\" is not known on this connection", name,
                                    place->region)
                   : attn_error_set(err, ATTN_ERR_NOT_FOUND, "%s: region %u is not known on this connection", name,
                                    place->number);
    }
    attn_status_t status = unix_region_usable(region, err);
    if (status != ATTN_OK) {
        return status;
    }
    if (place->bytes > region->about.bytes || place->offset > region->about.bytes - place->bytes) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "%s: %llu bytes from offset %llu do not lie inside region \"%s\", which has %llu", name,
                              (unsigned long long)place->bytes, (unsigned long long)place->offset, region->name,
                              (unsigned long long)region->about.bytes);
    }
    if (place->offset % UNIX_ALIGNMENT != 0) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "%s: offset %llu is not a multiple of %u", name,
                              (unsigned long long)place->offset, UNIX_ALIGNMENT);
    }
    if (tensor >= ATTN_ASK_O && !region->about.writable) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "%s: region \"%s\" is registered for reading; register it READ_WRITE", name,
                              region->name);
    }
    run->region[tensor] = region;
    *ret = (attn_place_t){.region = region->number, .offset = place->offset, .bytes = place->bytes};
    return ATTN_OK;
}

static bool same_memory(const unix_region_t *a, const unix_region_t *b)
{
    return a == b || (a->inode != 0 && a->inode == b->inode && a->device_id == b->device_id);
}

/* Outputs overlap nothing: a replay after a fault needs its inputs as they were. */
static attn_status_t check_overlap(const unix_run_t *run, const attn_place_t *places[ATTN_ASK_PLACES],
                                   attn_error_t *err)
{
    for (uint32_t out = ATTN_ASK_O; out <= ATTN_ASK_LSE; out++) {
        for (uint32_t other = 0; other < out && run->region[out] != NULL; other++) {
            const attn_place_t *a = places[out], *b = places[other];
            if (same_memory(run->region[out], run->region[other]) && a->bytes > 0 && b->bytes > 0 &&
                a->offset < b->offset + b->bytes && b->offset < a->offset + a->bytes) {
                return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                                      "%s overlaps %s; outputs need memory of their own", tensor_names[out],
                                      tensor_names[other]);
            }
        }
    }
    return ATTN_OK;
}

static attn_status_t check_device(const unix_run_t *run, attn_error_t *err)
{
    const char *device = "";
    for (uint32_t i = 0; i < UNIX_USES; i++) {
        const char *here = run->region[i] != NULL ? run->region[i]->about.device : "";
        if (here[0] != '\0' && device[0] != '\0' && strcmp(here, device) != 0) {
            return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                                  "the request has memory of two devices, %s and %s; all of it must be on one", device,
                                  here);
        }
        device = here[0] != '\0' ? here : device;
    }
    return ATTN_OK;
}

static attn_status_t take_places(unix_run_t *run, const attn_ask_place_t asked[ATTN_ASK_PLACES], attn_error_t *err)
{
    attn_request_t *request = &run->request;
    attn_place_t *places[ATTN_ASK_PLACES] = {&request->q, &request->k, &request->v, &request->o, &request->lse};
    attn_status_t status = ATTN_OK;
    for (uint32_t i = 0; i < ATTN_ASK_PLACES && status == ATTN_OK; i++) {
        if (asked[i].given) {
            status = take_region(run, i, &asked[i], places[i], err);
        }
    }
    if (status == ATTN_OK) {
        status = check_overlap(run, (const attn_place_t **)places, err);
    }
    return status == ATTN_OK ? check_device(run, err) : status;
}

static attn_status_t take_event(unix_run_t *run, uint32_t use, uint32_t id, attn_error_t *err)
{
    if (id == 0) {
        return ATTN_OK;
    }
    unix_region_t *event = unix_event_by_id(run->conn, id);
    if (event == NULL) {
        return attn_error_set(err, ATTN_ERR_NOT_FOUND, "event %u is not known on this connection", id);
    }
    for (uint32_t i = 0; i < ATTN_ASK_PLACES; i++) {
        if (run->region[i] != NULL && run->region[i]->about.device[0] == '\0') {
            return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                                  "events order requests whose tensors are all in device memory; region \"%s\" is host "
                                  "memory",
                                  run->region[i]->name);
        }
    }
    run->region[use] = event;
    return unix_region_usable(event, err);
}

/* ---- completion ---- */

static void fill_response(const unix_run_t *run, Attn__V1__Tensor *tensor, Attn__V1__RegionSlice *slice, uint32_t which,
                          const attn_place_t *place)
{
    slice->region = (char *)(uintptr_t)run->region[which]->name;
    slice->offset = place->offset;
    slice->length = place->bytes;
    tensor->where_case = ATTN__V1__TENSOR__WHERE_REGION;
    tensor->region = slice;
}

static bool send_result(unix_run_t *run)
{
    const attn_request_t *request = &run->request;
    Attn__V1__SocketAnswer answer = ATTN__V1__SOCKET_ANSWER__INIT;
    Attn__V1__Submitted submitted = ATTN__V1__SUBMITTED__INIT;
    Attn__V1__RegionSlice o_slice = ATTN__V1__REGION_SLICE__INIT, lse_slice = ATTN__V1__REGION_SLICE__INIT;
    attn_answer_t parts;
    attn_answer_fill(request, &parts);
    fill_response(run, &parts.o, &o_slice, ATTN_ASK_O, &request->o);
    if (request->spec.return_lse) {
        fill_response(run, &parts.lse, &lse_slice, ATTN_ASK_LSE, &request->lse);
    }
    submitted.response = &parts.response;
    answer.tag = run->tag;
    answer.what_case = ATTN__V1__SOCKET_ANSWER__WHAT_SUBMITTED;
    answer.submitted = &submitted;
    return unix_conn_send(run->conn, &answer, NULL, 0);
}

static bool send_error(unix_run_t *run)
{
    const attn_outcome_t *outcome = &run->request.outcome;
    Attn__V1__SocketAnswer answer = ATTN__V1__SOCKET_ANSWER__INIT;
    Attn__V1__Error error = ATTN__V1__ERROR__INIT;
    char *missing[ATTN_MISSING_MAX];
    error.error = (char *)(uintptr_t)outcome->error.message;
    error.code = (char *)(uintptr_t)attn_status_name(outcome->error.status);
    error.request_id = run->request.id;
    error.retryable = attn_status_retryable(outcome->error.status);
    for (uint32_t i = 0; i < outcome->missing.count && i < ATTN_MISSING_MAX; i++) {
        missing[error.n_missing++] = (char *)(uintptr_t)outcome->missing.item[i];
    }
    error.missing = missing;
    answer.tag = run->tag;
    answer.what_case = ATTN__V1__SOCKET_ANSWER__WHAT_ERROR;
    answer.error = &error;
    return unix_conn_send(run->conn, &answer, NULL, 0);
}

bool unix_run_send(unix_run_t *run)
{
    return run->request.outcome.error.status == ATTN_OK ? send_result(run) : send_error(run);
}

/* Answers, and lets go of the run unless the socket is full. Under conn->lock; whether there is mail. */
static bool run_answer(unix_run_t *run)
{
    unix_conn_t *conn = run->conn;
    bool full = false;
    if (run->by_ring) {
        if (!conn->shut) {
            unix_ring_complete(conn, run->tag, &run->request.outcome);
        }
    } else if (!conn->shut) {
        full = conn->pending != NULL || conn->unsent_first != NULL || !unix_run_send(run);
    }
    if (!full) {
        return unix_run_put(run);
    }
    run->state = UNIX_RUN_UNSENT;
    run->next = NULL;
    if (conn->unsent_first == NULL) {
        conn->unsent_first = run;
    } else {
        conn->unsent_last->next = run;
    }
    conn->unsent_last = run;
    return true;
}

static void run_complete(attn_request_t *request, void *arg)
{
    unix_run_t *run = arg;
    unix_conn_t *conn = run->conn;
    attn_front_tally(run->by_ring ? ATTN_DOOR_RING : ATTN_DOOR_SOCKET, request);
    atomic_fetch_sub(&conn->door->calls, 1);
    pthread_mutex_lock(&conn->lock);
    bool mail = run_answer(run);
    conn->flying--;
    if (mail || conn->shut) {
        unix_conn_mail(conn);
    }
    pthread_mutex_unlock(&conn->lock);
}

/* ---- submitting ---- */

static void run_fail(unix_run_t *run, const attn_error_t *err)
{
    unix_conn_t *conn = run->conn;
    attn_front_tally_refused(run->by_ring ? ATTN_DOOR_RING : ATTN_DOOR_SOCKET, err->status);
    run->request.outcome.error = *err;
    /* Its regions were not counted as used. */
    memset(run->region, 0, sizeof run->region);
    pthread_mutex_lock(&conn->lock);
    if (run_answer(run)) {
        unix_conn_mail(conn);
    }
    pthread_mutex_unlock(&conn->lock);
}

static void id_make(unix_conn_t *conn, char ret[64])
{
    snprintf(ret, 64, "s%llu-%llu", (unsigned long long)conn->number, (unsigned long long)conn->submissions);
}

static void run_submit(unix_run_t *run, const attn_ask_t *ask, const attn_variant_info_t *variant, int64_t deadline_ns)
{
    unix_conn_t *conn = run->conn;
    attn_request_t *request = &run->request;
    request->op = ATTN_OP_RUN;
    if (ask->id[0] != '\0') {
        memcpy(request->id, ask->id, sizeof request->id);
    } else {
        id_make(conn, request->id);
    }
    request->spec = ask->spec;
    if (ask->spec.layout == ATTN_LAYOUT_THD) {
        request->cu_seqlens_q = run->seqlens;
        request->cu_seqlens_k = run->seqlens + ask->spec.batch + 1;
    }
    request->variant = variant;
    request->repeat = 1;
    request->priority = ask->priority;
    request->deadline_ns = deadline_ns;
    request->peer =
        UINT64_C(0x9e3779b97f4a7c15) * (conn->uid + UINT64_C(1)); /* a user, as an address is one over TCP */
    request->connection = conn->number;
    request->signal_event = run->region[UNIX_USE_SIGNAL] != NULL ? run->region[UNIX_USE_SIGNAL]->number : 0;
    request->complete = run_complete;
    request->complete_arg = run;
    for (uint32_t i = 0; i < UNIX_USES; i++) {
        if (run->region[i] != NULL) {
            atomic_fetch_add(&run->region[i]->uses, 1);
        }
    }
    atomic_fetch_add(&conn->door->calls, 1);
    pthread_mutex_lock(&conn->lock);
    run->state = UNIX_RUN_WAITING;
    conn->flying++;
    pthread_mutex_unlock(&conn->lock);
    if (run->region[UNIX_USE_WAIT] != NULL) {
        unix_wait_add(run);
    } else {
        unix_run_go(run);
    }
}

void unix_run_go(unix_run_t *run)
{
    unix_conn_t *conn = run->conn;
    pthread_mutex_lock(&conn->lock);
    run->state = UNIX_RUN_FLYING;
    pthread_mutex_unlock(&conn->lock);
    attn_sched_submit(conn->door->front->sched, &run->request);
}

void unix_run_end(unix_run_t *run, const attn_error_t *err)
{
    run->request.outcome.error = *err;
    run_complete(&run->request, run);
}

/* Room for both arrays of a packed request. */
static attn_status_t seqlens_room(unix_run_t *run, size_t entries, attn_error_t *err)
{
    if (entries <= run->seqlens_room) {
        return ATTN_OK;
    }
    int32_t *grown = realloc(run->seqlens, entries * sizeof *grown);
    if (grown == NULL) {
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for %zu sequence offsets", entries);
    }
    run->seqlens = grown;
    run->seqlens_room = entries;
    return ATTN_OK;
}

static attn_status_t check_refusing(const unix_conn_t *conn, attn_error_t *err)
{
    if (atomic_load(&conn->door->refusing)) {
        return attn_error_set(err, ATTN_ERR_UNAVAILABLE, "the daemon is shutting down; try again elsewhere or later");
    }
    return ATTN_OK;
}

/* A deadline of more than 100 years is none. */
static int64_t deadline_of(uint64_t us)
{
    return us == 0 || us > UINT64_C(3155760000000000) ? 0 : attn_clock_ns() + (int64_t)us * ATTN_NS_PER_US;
}

static attn_status_t message_take(unix_run_t *run, const Attn__V1__Submit *message, attn_ask_t *ask,
                                  const attn_variant_info_t **ret_variant, attn_error_t *err)
{
    unix_conn_t *conn = run->conn;
    attn_ask_place_t places[ATTN_ASK_PLACES];
    attn_status_t status = check_refusing(conn, err);
    if (status == ATTN_OK && message->request == NULL) {
        status = attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "request is missing: say what to run");
    }
    if (status == ATTN_OK) {
        status = attn_ask_from_placed(message->request, ask, places, err);
    }
    if (status == ATTN_OK) {
        status = take_places(run, places, err);
    }
    if (status == ATTN_OK) {
        status = take_event(run, UNIX_USE_WAIT, message->wait_event, err);
    }
    if (status == ATTN_OK) {
        status = take_event(run, UNIX_USE_SIGNAL, message->signal_event, err);
    }
    if (status == ATTN_OK) {
        status = check_device(run, err);
    }
    if (status == ATTN_OK) {
        status = attn_front_variant(conn->door->front, ask->variant, ret_variant, err);
    }
    if (status == ATTN_OK && ask->spec.layout == ATTN_LAYOUT_THD) {
        size_t entries = (size_t)ask->spec.batch + 1;
        status = seqlens_room(run, 2 * entries, err);
        if (status == ATTN_OK) {
            memcpy(run->seqlens, ask->cu_seqlens_q, entries * sizeof *run->seqlens);
            memcpy(run->seqlens + entries, ask->cu_seqlens_k, entries * sizeof *run->seqlens);
        }
    }
    return status;
}

void unix_run_message(unix_conn_t *conn, uint64_t tag, const Attn__V1__Submit *message)
{
    attn_error_t err;
    attn_ask_t ask = {0};
    const attn_variant_info_t *variant = NULL;
    conn->submissions++;
    pthread_mutex_lock(&conn->lock);
    bool full = conn->flying_messages >= UNIX_IN_FLIGHT_MAX, none = conn->runs_free[false] == NULL;
    pthread_mutex_unlock(&conn->lock);
    attn_status_t status = ATTN_OK;
    if (full) {
        status = attn_error_set(&err, ATTN_ERR_UNAVAILABLE, "%u submissions wait for their answers already",
                                UNIX_IN_FLIGHT_MAX);
    } else if (none) {
        status = unix_run_reserve(conn, false, 4, &err);
    }
    if (status != ATTN_OK) {
        attn_front_tally_refused(ATTN_DOOR_SOCKET, status);
        unix_conn_refuse(conn, tag, &err);
        return;
    }
    unix_run_t *run = run_take(conn, false, tag);
    status = message_take(run, message, &ask, &variant, &err);
    if (status == ATTN_OK) {
        uint64_t ms = ask.has_deadline ? ask.deadline_ms : 0;
        run_submit(run, &ask, variant, deadline_of(ms > UINT64_MAX / 1000 ? 0 : ms * 1000));
    } else {
        run_fail(run, &err);
    }
    attn_ask_clear(&ask);
}

/* Copies one array of offsets out of the client's memory, once; what is checked is the copy. */
static attn_status_t seqlens_read(unix_conn_t *conn, const char *name, const attn_ask_place_t *place, int32_t *ret,
                                  attn_error_t *err)
{
    const unix_region_t *region = unix_region_by_id(conn, place->number);
    if (region == NULL || region->about.kind != ATTN_REGION_HOST || place->bytes > region->about.bytes ||
        place->offset > region->about.bytes - place->bytes || place->offset % sizeof *ret != 0) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "%s: %llu bytes from offset %llu of region %u are not inside one of host memory", name,
                              (unsigned long long)place->bytes, (unsigned long long)place->offset, place->number);
    }
    /* pread: whatever the client does to the memory meanwhile, it cannot raise a signal here. */
    ssize_t got = pread(region->about.fd, ret, place->bytes, (off_t)place->offset);
    if (got != (ssize_t)place->bytes) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "%s cannot be read: %s", name,
                              got < 0 ? strerror(errno) : "the memory ends");
    }
    return ATTN_OK;
}

static attn_status_t seqlens_take(unix_run_t *run, const attn_ask_t *ask, const attn_ask_place_t places[2],
                                  attn_error_t *err)
{
    if (ask->spec.layout != ATTN_LAYOUT_THD) {
        return ATTN_OK;
    }
    size_t entries = (size_t)ask->spec.batch + 1;
    attn_status_t status = seqlens_room(run, 2 * entries, err);
    if (status == ATTN_OK) {
        status = seqlens_read(run->conn, "cu_seqlens_q", &places[0], run->seqlens, err);
    }
    if (status == ATTN_OK) {
        status = seqlens_read(run->conn, "cu_seqlens_k", &places[1], run->seqlens + entries, err);
    }
    if (status == ATTN_OK) {
        attn_ask_t copy = *ask; /* lends the arrays to the check */
        copy.cu_seqlens_q = run->seqlens;
        copy.cu_seqlens_k = run->seqlens + entries;
        status = attn_ask_check_seqlens(&copy, entries, entries, err);
    }
    return status;
}

static attn_status_t submission_take(unix_run_t *run, const attn_shm_submission_t *submission, attn_ask_t *ask,
                                     const attn_variant_info_t **ret_variant, attn_error_t *err)
{
    unix_conn_t *conn = run->conn;
    attn_ask_place_t places[ATTN_ASK_PLACES], seqlens[2];
    attn_status_t status = check_refusing(conn, err);
    if (status == ATTN_OK) {
        status = attn_ask_from_submission(submission, ask, places, seqlens, err);
    }
    if (status == ATTN_OK) {
        status = take_places(run, places, err);
    }
    if (status == ATTN_OK) {
        status = take_event(run, UNIX_USE_WAIT, submission->wait_event, err);
    }
    if (status == ATTN_OK) {
        status = take_event(run, UNIX_USE_SIGNAL, submission->signal_event, err);
    }
    if (status == ATTN_OK) {
        status = check_device(run, err);
    }
    if (status == ATTN_OK) {
        status = attn_front_variant(conn->door->front, ask->variant, ret_variant, err);
    }
    return status == ATTN_OK ? seqlens_take(run, ask, seqlens, err) : status;
}

void unix_run_submission(unix_conn_t *conn, const attn_shm_submission_t *submission)
{
    attn_error_t err;
    attn_ask_t ask = {0};
    const attn_variant_info_t *variant = NULL;
    unix_run_t *run = run_take(conn, true, submission->tag);
    attn_status_t status = submission_take(run, submission, &ask, &variant, &err);
    if (status == ATTN_OK) {
        run_submit(run, &ask, variant, deadline_of(submission->deadline_us));
    } else {
        run_fail(run, &err);
    }
}

/* ---- cancelling ---- */

bool unix_run_cancel(unix_conn_t *conn, uint64_t tag)
{
    bool found = false;
    pthread_mutex_lock(&conn->lock);
    for (uint32_t i = 0; i < conn->run_count && !found; i++) {
        unix_run_t *run = conn->runs[i];
        if (run->tag == tag && (run->state == UNIX_RUN_FLYING || run->state == UNIX_RUN_WAITING)) {
            attn_sched_cancel(conn->door->front->sched, &run->request);
            found = true;
        }
    }
    pthread_mutex_unlock(&conn->lock);
    unix_wait_look(conn, attn_clock_ns());
    return found;
}

void unix_run_cancel_all(unix_conn_t *conn)
{
    pthread_mutex_lock(&conn->lock);
    for (uint32_t i = 0; i < conn->run_count; i++) {
        if (conn->runs[i]->state == UNIX_RUN_FLYING || conn->runs[i]->state == UNIX_RUN_WAITING) {
            attn_sched_cancel(conn->door->front->sched, &conn->runs[i]->request);
        }
    }
    pthread_mutex_unlock(&conn->lock);
    unix_wait_look(conn, attn_clock_ns());
}
