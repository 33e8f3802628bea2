/* transport/http.h: the HTTP door as its routes see it. A route is a row {method, pattern, body, handler}; a *call* is
 * one exchange of request and answer.
 *
 * A handler runs on a thread of the door after the whole body is in. It must not block: it answers at once with one
 * attn_http_reply_*, or parks the call and answers later from any thread. A call must not be touched after its reply
 * (or after attn_http_stream_end): the door may already have freed it. */
#ifndef ATTND_TRANSPORT_HTTP_H
#define ATTND_TRANSPORT_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "codec/intake.h"
#include "transport/front.h"

typedef struct attn_http_call attn_http_call_t;
typedef enum attn_http_body {
    ATTN_HTTP_BODY_NONE = 0, /* a body is refused with 400 */
    ATTN_HTTP_BODY_TENSORS,  /* x-attn or safetensors: attn_http_intake() */
    ATTN_HTTP_BODY_COMPARE   /* the same with compare metadata, or application/json: attn_http_json() */
} attn_http_body_t;

typedef struct attn_http_route {
    const char *method;  /* "GET" also serves HEAD */
    const char *pattern; /* "/v1/jobs/{id}": one segment in braces is captured */
    attn_http_body_t body;
    bool probe; /* served on the metrics port too */
    void (*handle)(attn_http_call_t *call);
    const char *parameter; /* without a body: the one parameter that the query may have, or NULL */
} attn_http_route_t;

/* Rows of http_jobs.c. */
extern const attn_http_route_t attn_http_job_routes[];
extern const size_t attn_http_job_route_count;

/* ---- what a handler reads ------------------------------------------------------------------------- */

attn_front_t *attn_http_front(attn_http_call_t *call);
const char *attn_http_capture(attn_http_call_t *call);                  /* the segment in braces, decoded; "" */
const char *attn_http_header(attn_http_call_t *call, const char *name); /* NULL when absent */
const char *attn_http_query(attn_http_call_t *call, const char *name);  /* decoded; NULL when absent. Routes with
                                                                            tensors have theirs parsed already */
const char *attn_http_id(attn_http_call_t *call);                       /* the request id: the caller's, or made here */
uint64_t attn_http_peer(attn_http_call_t *call);
uint64_t attn_http_connection(attn_http_call_t *call);   /* tells open connections apart */
int64_t attn_http_arrived_ns(attn_http_call_t *call);    /* CLOCK_MONOTONIC of the head */
attn_intake_t *attn_http_intake(attn_http_call_t *call); /* NULL when there were no tensors */
/* The JSON body of ATTN_HTTP_BODY_COMPARE (NUL-terminated) or NULL. `compare` options of the query (wait) are in
 * *ret_compare (may be NULL). */
const char *attn_http_json(attn_http_call_t *call, size_t *ret_bytes, const attn_compare_ask_t **ret_compare);

/* Whether the caller wants protobuf rather than JSON (Accept). */
#define ATTN_HTTP_PROTOBUF "application/x-protobuf"
bool attn_http_wants_protobuf(attn_http_call_t *call);

/* ---- how a handler answers ------------------------------------------------------------------------ */

/* Before the reply: a header of the answer. Copied; at most 8, values up to 200 bytes. */
void attn_http_reply_header(attn_http_call_t *call, const char *name, const char *value);

/* Exactly one of these per call. `text` and `data` are malloc'ed and become the door's. */
void attn_http_reply_json(attn_http_call_t *call, int http_status, char *text);
void attn_http_reply_bytes(attn_http_call_t *call, int http_status, const char *content_type, void *data, size_t bytes);
void attn_http_reply_error(attn_http_call_t *call, const attn_error_t *err, const attn_missing_t *missing);

/* Head from malloc (or NULL), then bytes of the arena without a copy; the ticket is closed when they are sent. One part
 * without a head goes out in one piece with the HTTP head. */
typedef struct attn_http_part {
    const void *data;
    uint64_t bytes;
} attn_http_part_t;
void attn_http_reply_parts(attn_http_call_t *call, const char *content_type, void *head, size_t head_bytes,
                           const attn_http_part_t *parts, uint32_t part_count, attn_ticket_t *ticket);

/* Only in the handler, before anything that may answer from another thread. `gone` (may be NULL) is called at most
 * once when the client leaves, on the watching thread and never after the reply has begun; it must not block and
 * must not answer: the reply is still owed, and is thrown away. */
void attn_http_park(attn_http_call_t *call, void (*gone)(attn_http_call_t *call, void *arg), void *arg);

/* Instead of a reply, in the handler: an answer of unknown length (server-sent events). From then on the call may be
 * written from any thread, one at a time, until attn_http_stream_end(). `gone` as in attn_http_park(). */
void attn_http_stream_begin(attn_http_call_t *call, const char *content_type,
                            void (*gone)(attn_http_call_t *call, void *arg), void *arg);
/* Copies. False: the client left, or has 256 KiB unread; then only attn_http_stream_end() makes sense. */
bool attn_http_stream_write(attn_http_call_t *call, const void *data, size_t bytes);
void attn_http_stream_end(attn_http_call_t *call);

/* ---- the door ------------------------------------------------------------------------------------- */

typedef struct attn_http attn_http_t;

/* Binds and serves. Errors: SYSTEM with the address ("port 8000 on 127.0.0.1 is already in use: …"). */
attn_status_t attn_http_start(attn_front_t *front, attn_http_t **ret, attn_error_t *err);
uint16_t attn_http_port(const attn_http_t *http);
uint16_t attn_http_metrics_port(const attn_http_t *http); /* 0 = off */

/* Draining: answers carry `Connection: close`. */
void attn_http_drain_begin(attn_http_t *http);
/* No new connections; new requests and bodies that still arrive get 503 at once, probes and metrics their answer. */
void attn_http_drain_refuse(attn_http_t *http);
uint32_t attn_http_calls(const attn_http_t *http); /* requests whose answer is not yet on its way */

/* After drain_refuse: waits until no call is open or timeout_ms has passed, then shuts every connection down and takes
 * no further call at all: afterwards only parked calls and streams are left, for their owners to answer. */
void attn_http_drain_finish(attn_http_t *http, int timeout_ms);

/* After drain_finish, and after the owners of parked calls have ended. False when a parked call is still not answered:
 * the door's threads then run on (libmicrohttpd would abort the process). NULL is fine. */
bool attn_http_stop(attn_http_t *http);

#endif
