/* wire.h: a request and an answer as protobuf messages, for the body of an HTTP call and for a packet of the Unix
 * socket. Pure; any thread. */
#ifndef ATTN_CLIENT_WIRE_H
#define ATTN_CLIENT_WIRE_H

#include "attn/v1/attention.pb-c.h"
#include "internal.h"

/* The protobuf message of a request with everything that it points to, so that it can live on the stack. */
typedef struct attn_wire_message {
    Attn__V1__AttentionRequest request;
    Attn__V1__Tensor tensors[3];
    Attn__V1__BodySlice slices[3];
    uint64_t shapes[3][4];
} attn_wire_message_t;

/* What every message of a request says: shapes, layout, mask, scale. `message` must not move afterwards. With `placed`
 * the tensors lie in the body, one after the other. */
void attn_wire_message_build(const attn_client_request_t *from, const attn_spec_t *spec, const attn_sizes_t *sizes,
                             bool placed, attn_wire_message_t *message);

/* Variant, id, deadline and priority. */
void attn_wire_message_options(const attn_client_request_t *from, attn_wire_message_t *message);

/* Measures the spec and checks what would make this side read (`placed`) or write (`outputs`) where it must not; the
 * rest is the server's to judge. */
attn_status_t attn_wire_check(const attn_client_request_t *request, bool placed, bool outputs, attn_spec_t *ret_spec,
                              attn_sizes_t *ret_sizes, attn_client_error_t *err);

void attn_wire_outcome(const Attn__V1__AttentionResponse *message, attn_client_answer_t *ret);
void attn_wire_text(char *to, size_t capacity, const char *from); /* truncates */

#endif
