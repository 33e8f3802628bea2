/* conn.h: one HTTP/1.1 connection to a server: the body of a call is gathered from the caller's memory, and the
 * body of an answer is scattered into it, so that no tensor byte is copied on this side.
 *
 * Plain HTTP over IPv4 and IPv6 with keep-alive and Content-Length, which is all that the daemon speaks; a library
 * for the rest of HTTP would bring its TLS and compression stacks into every static binary. What the server sends is
 * treated as hostile: heads are limited, lengths are checked, nothing is believed twice.
 *
 * A connection belongs to one thread at a time and owns its socket and its head buffer. Bodies belong to the caller. */
#ifndef ATTN_CLIENT_CONN_H
#define ATTN_CLIENT_CONN_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "attn/status.h"

typedef struct attn_endpoint {
    char host[256]; /* name or address, without brackets */
    char port[8];
} attn_endpoint_t;

/* Parses "http://host[:port]" ("http://[::1]:8000"); a trailing slash is fine. INVALID_ARGUMENT with what would be
 * right; UNIMPLEMENTED for https:. */
attn_status_t attn_endpoint_parse(const char *url, attn_endpoint_t *ret, attn_error_t *err);

typedef enum attn_conn_phase { ATTN_CONN_SENDING, ATTN_CONN_WAITING, ATTN_CONN_RECEIVING } attn_conn_phase_t;

/* Called when bytes have moved and at least every 200 ms while they do not; false stops with CANCELLED. */
typedef bool (*attn_conn_progress_fn)(void *arg, attn_conn_phase_t phase, uint64_t done, uint64_t total);

typedef struct attn_conn_options {
    int connect_timeout_ms;
    int stall_timeout_ms;           /* no byte moved while a head or a body is under way */
    int answer_timeout_ms;          /* from the last byte sent to the first one of the answer; 0 = none */
    attn_conn_progress_fn progress; /* may be NULL */
    void *progress_arg;
} attn_conn_options_t;

typedef struct attn_conn attn_conn_t;

/* Tries every address of the name in turn. CONNECTION with the reason of the last one. */
attn_status_t attn_conn_connect(const attn_endpoint_t *endpoint, const attn_conn_options_t *options, attn_conn_t **ret,
                                attn_error_t *err);
void attn_conn_close(attn_conn_t *conn); /* NULL is fine */

typedef struct attn_conn_call {
    const char *method;
    const char *target;       /* path and query, already encoded */
    const char *content_type; /* NULL when there is no body */
    const char *accept;       /* may be NULL */
    const struct iovec *body;
    size_t body_count;
} attn_conn_call_t;

typedef struct attn_conn_head {
    int status; /* 200..599 */
    uint64_t content_length;
    char content_type[64]; /* lower case, without parameters; "" when absent */
    char location[256];    /* "" when absent */
} attn_conn_head_t;

/* Sends a call and reads the head of its answer. An answer that arrives before the whole body is sent (a refusal)
 * ends the sending. Errors: CONNECTION, TIMEOUT, CANCELLED, INVALID_ARGUMENT (the call), INTERNAL (the answer is not
 * HTTP as described above). After an error the connection is only good for closing. */
attn_status_t attn_conn_exchange(attn_conn_t *conn, const attn_conn_call_t *call, const attn_conn_options_t *options,
                                 attn_conn_head_t *ret, attn_error_t *err);

/* True when the last exchange failed before the server had sent one byte: on a connection that had been idle, the
 * server had probably closed it, and the call may be made again on a new one. */
bool attn_conn_unanswered(const attn_conn_t *conn);

/* Reads exactly `size` bytes of the answer's body. INTERNAL when fewer are left of it than that. */
attn_status_t attn_conn_read(attn_conn_t *conn, void *ret_data, uint64_t size, const attn_conn_options_t *options,
                             attn_error_t *err);

/* Bytes of the body that have not been read yet. */
uint64_t attn_conn_remaining(const attn_conn_t *conn);

/* Whether another call can be made: everything was sent and read, and neither side asked to close. */
bool attn_conn_reusable(const attn_conn_t *conn);

#endif
