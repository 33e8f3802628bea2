/* run.c: one attention request over HTTP, or handed on to the Unix socket. The calling thread; owns the request's head
 * while it is sent. */
#include <stdlib.h>

#include "local.h"

/* Reads the answer's prefix, metadata and tensors. */
static attn_status_t answer_read(attn_client_t *client, attn_conn_t *conn, const attn_client_request_t *request,
                                 const attn_client_progress_t *progress, attn_client_answer_t *ret,
                                 attn_client_error_t *err)
{
    uint8_t prefix[ATTN_WIRE_PREFIX];
    uint32_t size = 0;
    attn_status_t status = attn_client_read(client, conn, prefix, sizeof(prefix), progress, err);
    if (status == ATTN_OK) {
        status = attn_wire_prefix(prefix, &size, err);
    }
    if (status != ATTN_OK) {
        return status;
    }
    uint8_t *metadata = malloc((size_t)size + 1);
    if (metadata == NULL) {
        return attn_client_fail(err, ATTN_ERR_NO_MEMORY, "no memory for the answer's metadata");
    }
    attn_wire_piece_t pieces[2];
    attn_client_answer_t answer = {0};
    status = attn_client_read(client, conn, metadata, size, progress, err);
    if (status == ATTN_OK) {
        status = attn_wire_answer(request, metadata, size, attn_conn_remaining(conn), &answer, pieces, err);
    }
    free(metadata);
    for (int i = 0; i < 2 && status == ATTN_OK; i++) {
        status = attn_client_read(client, conn, pieces[i].data, pieces[i].bytes, progress, err);
    }
    if (status == ATTN_OK && ret != NULL) {
        *ret = answer;
    }
    return status;
}

attn_status_t attn_client_run(attn_client_t *client, const attn_client_request_t *request,
                              const attn_client_progress_t *progress, attn_client_answer_t *ret,
                              attn_client_error_t *err)
{
    attn_wire_body_t body;
    if (attn_client_local(client) != NULL) {
        return attn_local_run(attn_client_local(client), request, progress, ret, err);
    }
    attn_status_t status = attn_wire_request(request, &body, err);
    if (status != ATTN_OK) {
        return status;
    }
    attn_conn_call_t call = {
        .method = "POST",
        .target = "/v1/attention",
        .content_type = ATTN_WIRE_TYPE,
        .accept = ATTN_WIRE_TYPE,
        .body = body.parts,
        .body_count = body.count,
    };
    attn_conn_t *conn = NULL;
    attn_conn_head_t head;
    status = attn_client_call(client, &call, progress, &conn, &head, err);
    attn_wire_body_free(&body);
    if (status != ATTN_OK) {
        return status;
    }
    status = answer_read(client, conn, request, progress, ret, err);
    attn_client_release(client, conn);
    return status;
}
