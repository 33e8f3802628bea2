/* internal.h: what the files of libattn share: the connection pool, calls, and the wire form of a request. */
#ifndef ATTN_CLIENT_INTERNAL_H
#define ATTN_CLIENT_INTERNAL_H

#include <jansson.h>

#include "attn.h"
#include "conn.h"

/* ---- calls (client.c) ---- */

/* The client's connection over the Unix socket; NULL when it is one over HTTP. */
struct attn_local *attn_client_local(attn_client_t *client);
struct attn_http_jobs *attn_client_http_jobs(attn_client_t *client);

/* Makes a call and reads the head of its answer, on a pooled connection or a new one. An answer of 400 and above is
 * read and becomes *err. On success the caller reads the body from *ret_conn and then hands it to
 * attn_client_release(). `progress` may be NULL. */
attn_status_t attn_client_call(attn_client_t *client, const attn_conn_call_t *call,
                               const attn_client_progress_t *progress, attn_conn_t **ret_conn,
                               attn_conn_head_t *ret_head, attn_client_error_t *err);

/* As attn_client_call() for an answer that is JSON or text: reads all of it, NUL-terminated, owned by the caller.
 * ret_head may be NULL. */
attn_status_t attn_client_call_text(attn_client_t *client, const attn_conn_call_t *call,
                                    const attn_client_progress_t *progress, char **ret_text, attn_conn_head_t *ret_head,
                                    attn_client_error_t *err);

/* Reads exactly `size` bytes of an answer's body. */
attn_status_t attn_client_read(attn_client_t *client, attn_conn_t *conn, void *ret_data, uint64_t size,
                               const attn_client_progress_t *progress, attn_client_error_t *err);

/* Back into the pool when another call can be made on it; closed otherwise. NULL is fine. */
void attn_client_release(attn_client_t *client, attn_conn_t *conn);

/* ---- errors (failure.c) ---- */

/* Makes *err (may be NULL) of a status and a sentence, and returns the status. */
attn_status_t attn_client_fail(attn_client_error_t *err, attn_status_t status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Completes *err whose err->error a callee has filled. */
attn_status_t attn_client_fail_with(attn_client_error_t *err, const attn_error_t *error);

/* Makes *err of an answer of 400 and above with `text` as its body. */
attn_status_t attn_client_fail_answer(attn_client_error_t *err, int http_status, const char *text);

/* The status of a name ("INVALID_ARGUMENT"); ATTN_OK when it is none of a failure. NULL is fine. */
attn_status_t attn_client_status_of(const char *code);

/* Fills *ret from an error record {"error", "code", "request_id", "retryable", "missing"}; false when it is not one. */
bool attn_client_error_parse(const json_t *record, attn_client_error_t *ret);

/* ---- the wire form of a request (wire.c) ---- */

/* A body: its parts, the first of which (`head`: prefix and metadata) is owned here, the others being the caller's
 * tensors. */
typedef struct attn_wire_body {
    uint8_t *head;
    struct iovec parts[4];
    size_t count;
} attn_wire_body_t;

attn_status_t attn_wire_request(const attn_client_request_t *request, attn_wire_body_t *ret, attn_client_error_t *err);
attn_status_t attn_wire_compare(const attn_client_compare_t *compare, attn_wire_body_t *ret, attn_client_error_t *err);
void attn_wire_body_free(attn_wire_body_t *body);

#define ATTN_WIRE_TYPE "application/x-attn"
#define ATTN_WIRE_PREFIX 16

/* The metadata's size from an answer's prefix; INTERNAL when it is not one. */
attn_status_t attn_wire_prefix(const uint8_t *prefix, uint32_t *ret_metadata_size, attn_client_error_t *err);

/* Where an answer's tensors lie, in the order in which they come. */
typedef struct attn_wire_piece {
    void *data;
    uint64_t bytes;
} attn_wire_piece_t;

/* Reads an answer's metadata against the request: the tensors must be those that were asked for and fill
 * `tensor_bytes` exactly. */
attn_status_t attn_wire_answer(const attn_client_request_t *request, const uint8_t *metadata, size_t size,
                               uint64_t tensor_bytes, attn_client_answer_t *ret, attn_wire_piece_t ret_pieces[2],
                               attn_client_error_t *err);

/* ---- reading JSON (reply.c) ---- */

/* Copies a string member, truncated to the capacity; "" when there is none. */
void attn_reply_text(const json_t *object, const char *name, char *ret, size_t capacity);
double attn_reply_number(const json_t *object, const char *name); /* 0 when there is none */
bool attn_reply_true(const json_t *object, const char *name);
/* The strings of an array, joined with commas. */
void attn_reply_list(const json_t *object, const char *name, char *ret, size_t capacity);

/* Parses what the server wrote; INTERNAL when it is not a JSON object. The caller drops the reference. */
attn_status_t attn_reply_parse(const char *text, json_t **ret, attn_client_error_t *err);

#endif
