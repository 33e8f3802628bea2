/* codec/answer.c: see answer.h. */
#include "codec/answer.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codec/safetensors.h"
#include "codec/xattn.h"

const char *attn_framing_media(attn_framing_t framing)
{
    return framing == ATTN_FRAMING_XATTN ? "application/x-attn" : "application/safetensors";
}

uint32_t attn_answer_o_shape(const attn_spec_t *spec, uint64_t ret[4])
{
    if (spec->layout == ATTN_LAYOUT_THD) {
        memcpy(ret, (const uint64_t[]){(uint64_t)spec->s_q, spec->h_q, spec->d}, 3 * sizeof *ret);
        return 3;
    }
    bool bhsd = spec->layout == ATTN_LAYOUT_BHSD;
    ret[0] = spec->batch;
    ret[1] = bhsd ? spec->h_q : (uint64_t)spec->s_q;
    ret[2] = bhsd ? (uint64_t)spec->s_q : spec->h_q;
    ret[3] = spec->d;
    return 4;
}

uint32_t attn_answer_lse_shape(const attn_spec_t *spec, uint64_t ret[4])
{
    if (spec->layout == ATTN_LAYOUT_THD) {
        ret[0] = spec->h_q;
        ret[1] = (uint64_t)spec->s_q;
        return 2;
    }
    ret[0] = spec->batch;
    ret[1] = spec->h_q;
    ret[2] = (uint64_t)spec->s_q;
    return 3;
}

static attn_status_t head_safetensors(const attn_request_t *request, const attn_sizes_t *sizes, void **ret,
                                      size_t *ret_bytes, attn_error_t *err)
{
    const attn_outcome_t *outcome = &request->outcome;
    const attn_timing_t *timing = &outcome->timing;
    attn_safetensors_tensor_t tensors[2] = {
        {.name = "o", .dtype = attn_safetensors_dtype(request->spec.dtype), .bytes = sizes->o},
        {.name = "lse", .dtype = "F32", .bytes = sizes->lse},
    };
    tensors[0].rank = attn_answer_o_shape(&request->spec, tensors[0].shape);
    tensors[1].rank = attn_answer_lse_shape(&request->spec, tensors[1].shape);
    char batch[24], queue[24], in[24], kernel[40], out[24], total[24];
    snprintf(batch, sizeof batch, "%" PRIu32, outcome->batch_size);
    snprintf(queue, sizeof queue, "%" PRIu64, timing->queue_us);
    snprintf(in, sizeof in, "%" PRIu64, timing->copy_in_us);
    snprintf(kernel, sizeof kernel, "%.3f", timing->kernel_us);
    snprintf(out, sizeof out, "%" PRIu64, timing->copy_out_us);
    snprintf(total, sizeof total, "%" PRIu64, timing->total_us);
    const attn_safetensors_pair_t pairs[] = {
        {"variant", outcome->variant != NULL ? outcome->variant->name : ""},
        {"reason", outcome->reason},
        {"device", outcome->device},
        {"batch_size", batch},
        {"queue_us", queue},
        {"copy_in_us", in},
        {"kernel_us", kernel},
        {"copy_out_us", out},
        {"total_us", total},
        {"id", request->id},
    };
    return attn_safetensors_write(tensors, request->spec.return_lse ? 2 : 1, pairs, sizeof pairs / sizeof pairs[0], ret,
                                  ret_bytes, err);
}

void attn_answer_fill(const attn_request_t *request, attn_answer_t *ret)
{
    const attn_outcome_t *outcome = &request->outcome;
    attn__v1__attention_response__init(&ret->response);
    attn__v1__outcome__init(&ret->outcome);
    attn__v1__timing__init(&ret->timing);
    attn__v1__tensor__init(&ret->o);
    attn__v1__tensor__init(&ret->lse);
    ret->timing.queue_us = outcome->timing.queue_us;
    ret->timing.copy_in_us = outcome->timing.copy_in_us;
    ret->timing.kernel_us = outcome->timing.kernel_us;
    ret->timing.kernel_min_us = outcome->timing.kernel_min_us;
    ret->timing.copy_out_us = outcome->timing.copy_out_us;
    ret->timing.total_us = outcome->timing.total_us;
    ret->outcome.variant = (char *)(uintptr_t)(outcome->variant != NULL ? outcome->variant->name : "");
    ret->outcome.reason = (char *)(uintptr_t)outcome->reason;
    ret->outcome.device = (char *)(uintptr_t)outcome->device;
    ret->outcome.batch_size = outcome->batch_size;
    ret->outcome.attempts = outcome->attempts;
    ret->outcome.timing = &ret->timing;
    ret->o.n_shape = attn_answer_o_shape(&request->spec, ret->o_shape);
    ret->o.shape = ret->o_shape;
    ret->lse.n_shape = attn_answer_lse_shape(&request->spec, ret->lse_shape);
    ret->lse.shape = ret->lse_shape;
    ret->response.id = (char *)(uintptr_t)request->id;
    ret->response.outcome = &ret->outcome;
    ret->response.dtype = (Attn__V1__DType)request->spec.dtype;
    ret->response.layout = (Attn__V1__Layout)request->spec.layout;
    ret->response.o = &ret->o;
    ret->response.lse = request->spec.return_lse ? &ret->lse : NULL;
}

static attn_status_t head_xattn(const attn_request_t *request, const attn_sizes_t *sizes, void **ret, size_t *ret_bytes,
                                attn_error_t *err)
{
    attn_answer_t answer;
    Attn__V1__BodySlice o_slice = ATTN__V1__BODY_SLICE__INIT, lse_slice = ATTN__V1__BODY_SLICE__INIT;
    attn_answer_fill(request, &answer);
    o_slice.length = sizes->o;
    answer.o.where_case = ATTN__V1__TENSOR__WHERE_BODY;
    answer.o.body = &o_slice;
    lse_slice.offset = sizes->o;
    lse_slice.length = sizes->lse;
    answer.lse.where_case = ATTN__V1__TENSOR__WHERE_BODY;
    answer.lse.body = &lse_slice;
    size_t bytes = attn__v1__attention_response__get_packed_size(&answer.response);
    unsigned char *head = malloc(ATTN_XATTN_PREFIX + bytes);
    if (head == NULL) {
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for the head of the answer");
    }
    attn_xattn_prefix_write((uint32_t)bytes, head);
    attn__v1__attention_response__pack(&answer.response, head + ATTN_XATTN_PREFIX);
    *ret = head;
    *ret_bytes = ATTN_XATTN_PREFIX + bytes;
    return ATTN_OK;
}

attn_status_t attn_answer_head(attn_framing_t framing, const attn_request_t *request, const attn_sizes_t *sizes,
                               void **ret, size_t *ret_bytes, attn_error_t *err)
{
    return framing == ATTN_FRAMING_XATTN ? head_xattn(request, sizes, ret, ret_bytes, err)
                                         : head_safetensors(request, sizes, ret, ret_bytes, err);
}
