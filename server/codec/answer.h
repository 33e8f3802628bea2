/* codec/answer.h: the head of an answer in either framing; the tensors follow it from the arena. Any thread. */
#ifndef ATTND_CODEC_ANSWER_H
#define ATTND_CODEC_ANSWER_H

#include "attn/v1/attention.pb-c.h"
#include "codec/intake.h"
#include "sched/request.h"

/* Everything before the bytes of o and lse, which follow in this order. malloc'ed. */
attn_status_t attn_answer_head(attn_framing_t framing, const attn_request_t *request, const attn_sizes_t *sizes,
                               void **ret, size_t *ret_bytes, attn_error_t *err);

/* An AttentionResponse of a request that went well, without the places of its tensors. It points into the request and
 * into itself. */
typedef struct attn_answer {
    Attn__V1__AttentionResponse response;
    Attn__V1__Outcome outcome;
    Attn__V1__Timing timing;
    Attn__V1__Tensor o, lse;
    uint64_t o_shape[4], lse_shape[4];
} attn_answer_t;
void attn_answer_fill(const attn_request_t *request, attn_answer_t *ret);

const char *attn_framing_media(attn_framing_t framing); /* "application/x-attn", … */

/* The shapes of o and lse in the request's layout; returns their rank. */
uint32_t attn_answer_o_shape(const attn_spec_t *spec, uint64_t ret[4]);
uint32_t attn_answer_lse_shape(const attn_spec_t *spec, uint64_t ret[4]);

#endif
