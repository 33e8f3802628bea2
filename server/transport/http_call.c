/* transport/http_call.c: one exchange, from the request line to its end: the callbacks of libmicrohttpd, and what they
 * have in common with connections that need none (http_direct.c). The loop's thread of the connection. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "codec/query.h"
#include "transport/http_internal.h"

attn_http_call_t *http_call_begin(http_conn_t *conn, const char *uri)
{
    attn_http_call_t *call = calloc(1, sizeof *call);
    if (call == NULL) {
        return NULL;
    }
    call->conn = conn;
    call->door = conn->door;
    call->phase = HTTP_HEAD;
    atomic_init(&call->holds, 1);
    call->arrived_ns = attn_clock_ns();
    call->uri = strdup(uri);
    atomic_fetch_add(&conn->holds, 1);
    atomic_fetch_add(&conn->door->http->open_calls, 1);
    pthread_mutex_lock(&conn->lock);
    conn->call = call;
    conn->calls++;
    conn->window_ns = call->arrived_ns;
    conn->window_progress = 0;
    pthread_mutex_unlock(&conn->lock);
    return call;
}

void *http_on_uri(void *cls, const char *uri, struct MHD_Connection *mhd)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    http_conn_t *conn = info != NULL ? info->socket_context : NULL;
    return conn != NULL ? http_call_begin(conn, uri) : NULL; /* NULL: http_on_access() closes the connection */
}

void http_call_release(attn_http_call_t *call)
{
    if (atomic_fetch_sub(&call->holds, 1) != 1) {
        return;
    }
    if (call->has_intake) {
        attn_intake_close(&call->intake);
    }
    http_reply_drop(&call->reply);
    http_stream_drop(call);
    free(call->json);
    free(call->query_value);
    free(call->uri);
    http_conn_release(call->conn);
    free(call);
}

void http_call_end(attn_http_call_t *call, bool sent)
{
    http_conn_t *conn = call->conn;
    attn_http_t *http = call->door->http;
    pthread_mutex_lock(&conn->lock);
    /* A stream whose client is gone: its owner still holds the call and has to hear of it. */
    void (*gone)(attn_http_call_t *, void *) = call->stream.open && !call->gone_called ? call->gone : NULL;
    call->gone_called = true;
    call->phase = HTTP_CUT;
    conn->call = NULL;
    conn->free_since_ns = attn_clock_ns();
    if (gone != NULL) {
        gone(call, call->gone_arg);
    }
    pthread_mutex_unlock(&conn->lock);
    http_turn_end(&conn->loop->turns, call, conn->free_since_ns);
    http_call_record(call, sent); /* no other thread finds the call any more */
    http_call_release(call);
    atomic_fetch_sub(&http->open_calls, 1);
}

void http_on_completed(void *cls, struct MHD_Connection *mhd, void **con_cls, enum MHD_RequestTerminationCode code)
{
    http_loop_t *loop = cls;
    attn_http_call_t *call = *con_cls;
    loop->events++;
    *con_cls = NULL;
    if (call != NULL) {
        http_call_end(call, code == MHD_REQUEST_TERMINATED_COMPLETED_OK);
    }
}

static bool has_expect(attn_http_call_t *call)
{
    return attn_http_header(call, "Expect") != NULL;
}

/* The answer is known before the body is in. Either it can be sent at once, or the body is read and thrown away. */
static enum MHD_Result refuse(attn_http_call_t *call, const attn_error_t *err, bool at_once)
{
    pthread_mutex_lock(&call->conn->lock);
    if (call->phase == HTTP_CUT) {
        pthread_mutex_unlock(&call->conn->lock);
        return MHD_NO;
    }
    http_reply_fill_error(call, err, NULL);
    call->refused = true;
    call->refused_ns = attn_clock_ns();
    uint64_t left = call->body_bytes - atomic_load(&call->received);
    if (!at_once && left > HTTP_DISCARD_BYTES) {
        /* Too much to swallow before answering: the answer goes out now, and a client that reads while it sends stops
         * here. */
        http_reply_raw(call);
    }
    call->phase = at_once ? HTTP_REPLIED : HTTP_BODY;
    pthread_mutex_unlock(&call->conn->lock);
    http_turn_end(&call->conn->loop->turns, call, call->refused_ns);
    if (call->has_intake) {
        attn_intake_close(&call->intake); /* credit goes back while the rest of the body still comes */
        call->has_intake = false;
    }
    return at_once ? http_reply_queue(call) : MHD_YES;
}

static enum MHD_Result discard(attn_http_call_t *call, size_t bytes)
{
    call->discarded += bytes;
    if (call->discarded > HTTP_DISCARD_BYTES && attn_clock_ns() - call->refused_ns > HTTP_DISCARD_NS) {
        pthread_mutex_lock(&call->conn->lock);
        if (call->phase != HTTP_CUT) {
            http_reply_raw(call);
            call->phase = HTTP_CUT;
        }
        pthread_mutex_unlock(&call->conn->lock);
        return MHD_NO;
    }
    return MHD_YES;
}

enum MHD_Result http_call_feed(attn_http_call_t *call, const char *data, size_t bytes)
{
    attn_error_t err;
    pthread_mutex_lock(&call->conn->lock);
    bool cut = call->phase == HTTP_CUT, refused = call->refused;
    pthread_mutex_unlock(&call->conn->lock);
    if (cut) {
        return MHD_NO;
    }
    uint64_t received = atomic_fetch_add_explicit(&call->received, bytes, memory_order_relaxed);
    if (refused) {
        return discard(call, bytes);
    }
    if (call->json != NULL) {
        memcpy(call->json + received, data, bytes); /* libmicrohttpd keeps to Content-Length, which was allocated */
        return MHD_YES;
    }
    if (!call->has_intake) {
        return MHD_YES; /* a body of 0 bytes was promised and checked */
    }
    uint64_t copied = call->intake.copied;
    attn_status_t status = attn_intake_feed(&call->intake, data, bytes, &err);
    attn_front_tally_copied(ATTN_DOOR_HTTP, call->intake.copied - copied);
    if (status != ATTN_OK) {
        return refuse(call, &err, false);
    }
    return MHD_YES;
}

enum MHD_Result http_call_filled(attn_http_call_t *call, size_t bytes)
{
    attn_error_t err;
    atomic_fetch_add_explicit(&call->received, bytes, memory_order_relaxed);
    return attn_intake_filled(&call->intake, bytes, &err) == ATTN_OK ? MHD_YES : refuse(call, &err, false);
}

static enum MHD_Result handle(attn_http_call_t *call)
{
    attn_error_t err;
    http_turn_end(&call->conn->loop->turns, call, attn_clock_ns());
    if (call->has_intake && attn_intake_end(&call->intake, &err) != ATTN_OK) {
        return refuse(call, &err, true);
    }
    http_conn_t *conn = call->conn;
    pthread_mutex_lock(&conn->lock);
    bool cut = call->phase == HTTP_CUT;
    call->phase = cut ? HTTP_CUT : HTTP_HANDLING;
    pthread_mutex_unlock(&conn->lock);
    if (cut) {
        return MHD_NO;
    }
    call->route->handle(call);
    pthread_mutex_lock(&conn->lock);
    call->armed = true;
    http_phase_t phase = call->phase;
    bool answers_later = phase == HTTP_PARKED || call->stream.open;
    if (answers_later && conn->gone && !call->gone_called) {
        call->gone_called = true;
        if (call->gone != NULL) {
            call->gone(call, call->gone_arg);
        }
    }
    bool resumes = call->suspended;
    pthread_mutex_unlock(&conn->lock);
    if (call->stream.data != NULL) {
        return http_stream_queue(call);
    }
    if (resumes) {
        return MHD_YES; /* libmicrohttpd calls again after the resume */
    }
    if (phase != HTTP_REPLIED) {
        attn_error_set(&err, ATTN_ERR_INTERNAL, "the request was not answered");
        attn_http_reply_error(call, &err, NULL);
    }
    return http_reply_queue(call);
}

enum MHD_Result http_call_head(attn_http_call_t *call, const char *method, const char *version)
{
    attn_error_t err;
    bool fatal = false;
    call->seen_head = true;
    attn_status_t status = http_head_check(call, method, version, &fatal, &err);
    if (status != ATTN_OK) {
        return refuse(call, &err, fatal || has_expect(call));
    }
    pthread_mutex_lock(&call->conn->lock);
    call->phase = call->phase == HTTP_CUT ? HTTP_CUT : HTTP_BODY;
    pthread_mutex_unlock(&call->conn->lock);
    return MHD_YES;
}

enum MHD_Result http_call_go_on(attn_http_call_t *call)
{
    pthread_mutex_lock(&call->conn->lock);
    http_phase_t phase = call->phase;
    if (call->refused && phase == HTTP_BODY && !call->answered_raw) {
        phase = call->phase = HTTP_REPLIED;
    }
    pthread_mutex_unlock(&call->conn->lock);
    switch (phase) {
    case HTTP_BODY:
        return call->refused ? MHD_NO : handle(call); /* a refused one was answered past the loop */
    case HTTP_REPLIED:
        return http_reply_queue(call);
    case HTTP_CUT:
        return MHD_NO;
    default:
        return MHD_YES;
    }
}

enum MHD_Result http_on_access(void *cls, struct MHD_Connection *mhd, const char *url, const char *method,
                               const char *version, const char *data, size_t *data_bytes, void **con_cls)
{
    http_loop_t *loop = cls;
    attn_http_call_t *call = *con_cls;
    loop->events++;
    if (call == NULL || call->uri == NULL) {
        return MHD_NO; /* no memory */
    }
    if (!call->seen_head && atomic_load(&call->door->http->closed)) {
        return MHD_NO; /* what the handlers use is about to end */
    }
    if (!call->seen_head) {
        return http_call_head(call, method, version);
    }
    if (*data_bytes > 0) {
        size_t bytes = *data_bytes;
        pthread_mutex_lock(&call->conn->lock);
        bool reads = call->phase != HTTP_CUT && !call->refused;
        pthread_mutex_unlock(&call->conn->lock);
        if (reads && !http_turn_take(&loop->turns, call, attn_clock_ns())) {
            return MHD_YES;
        }
        *data_bytes = 0;
        return http_call_feed(call, data, bytes);
    }
    return http_call_go_on(call);
}

attn_front_t *attn_http_front(attn_http_call_t *call)
{
    return call->door->front;
}

const char *attn_http_capture(attn_http_call_t *call)
{
    return call->capture;
}

const char *attn_http_header(attn_http_call_t *call, const char *name)
{
    const http_conn_t *conn = call->conn;
    return conn->direct != NULL ? http_direct_header(conn->direct, name)
                                : MHD_lookup_connection_value(conn->mhd, MHD_HEADER_KIND, name);
}

const char *attn_http_query(attn_http_call_t *call, const char *name)
{
    size_t name_length = strlen(name);
    for (const char *at = call->query; *at != '\0';) {
        size_t length = strcspn(at, "&");
        if (length > name_length && at[name_length] == '=' && memcmp(at, name, name_length) == 0) {
            size_t value_length = length - name_length - 1;
            free(call->query_value);
            call->query_value = malloc(value_length + 1);
            bool good =
                call->query_value != NULL && attn_percent_decode(at + name_length + 1, value_length, call->query_value);
            return good ? call->query_value : NULL;
        }
        at += length + (at[length] == '&');
    }
    return NULL;
}

const char *attn_http_id(attn_http_call_t *call)
{
    return call->id;
}

uint64_t attn_http_connection(attn_http_call_t *call)
{
    return (uint64_t)(uintptr_t)call->conn;
}

uint64_t attn_http_peer(attn_http_call_t *call)
{
    return call->conn->peer;
}

int64_t attn_http_arrived_ns(attn_http_call_t *call)
{
    return call->arrived_ns;
}

attn_intake_t *attn_http_intake(attn_http_call_t *call)
{
    return call->has_intake ? &call->intake : NULL;
}

const char *attn_http_json(attn_http_call_t *call, size_t *ret_bytes, const attn_compare_ask_t **ret_compare)
{
    if (ret_compare != NULL) {
        *ret_compare = &call->compare;
    }
    if (call->json != NULL) {
        *ret_bytes = (size_t)call->body_bytes;
    }
    return call->json;
}

void attn_http_park(attn_http_call_t *call, void (*gone)(attn_http_call_t *call, void *arg), void *arg)
{
    pthread_mutex_lock(&call->conn->lock);
    call->gone = gone;
    call->gone_arg = arg;
    call->suspended = true;
    call->phase = HTTP_PARKED;
    if (call->conn->direct == NULL) {
        MHD_suspend_connection(call->conn->mhd);
    }
    pthread_mutex_unlock(&call->conn->lock);
}
