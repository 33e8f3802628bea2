/* codec/ask_proto.c: see ask_proto.h. */
#include "codec/ask_proto.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "attn/v1/attention.pb-c.h"
#include "base/text.h"
#include "codec/wire.h"

static attn_status_t region_unknown(const char *tensor, const char *region, attn_error_t *err)
{
    char quoted[80];
    attn_text_quote(quoted, sizeof quoted, region, strlen(region));
    return attn_error_set(err, ATTN_ERR_NOT_FOUND,
                          "%s: region \"%s\" is not known on this connection; regions belong to the connection that "
                          "registered them, over HTTP send the tensor in the body",
                          tensor, quoted);
}

static attn_status_t take_place(const char *name, const Attn__V1__RegionSlice *slice, attn_ask_place_t *ret,
                                attn_error_t *err)
{
    if (slice == NULL) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "%s has no region: through the socket every tensor lies in a region of the connection",
                              name);
    }
    attn_status_t status = attn_ask_set_name("region", slice->region, false, ret->region, err);
    if (status == ATTN_OK) {
        ret->given = true;
        ret->offset = slice->offset;
        ret->bytes = slice->length;
    }
    return status;
}

static attn_status_t take_slice(const char *name, uint32_t tag, const Attn__V1__Tensor *tensor, bool generated,
                                attn_slice_t *ret, attn_error_t *err)
{
    if (tensor->where_case == ATTN__V1__TENSOR__WHERE_REGION) {
        return region_unknown(name, tensor->region->region, err);
    }
    bool placed = tensor->where_case == ATTN__V1__TENSOR__WHERE_BODY;
    if (placed == generated) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              generated ? "%s has a place and there is a seed: send tensors or a seed, not both"
                                        : "%s has no place: say where it lies in the body",
                              name);
    }
    if (placed) {
        *ret = (attn_slice_t){name, tensor->body->offset, tensor->body->length, tag};
    }
    return ATTN_OK;
}

static attn_status_t take_seqlens(const char *name, const int32_t *from, size_t count, int32_t **ret, attn_error_t *err)
{
    if (count > (size_t)ATTN_BATCH_MAX + 1) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "%s has %zu entries; at most %u sequences are taken",
                              name, count, ATTN_BATCH_MAX);
    }
    if (count > 0) {
        *ret = malloc(count * sizeof **ret);
        if (*ret == NULL) {
            return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for %s", name);
        }
        memcpy(*ret, from, count * sizeof **ret);
    }
    return ATTN_OK;
}

static attn_status_t take_flags(const Attn__V1__AttentionRequest *message, attn_ask_t *ask, attn_error_t *err)
{
    attn_status_t status = ATTN_OK;
    if (message->variant[0] != '\0') {
        status = attn_ask_set_name("variant", message->variant, true, ask->variant, err);
    }
    if (status == ATTN_OK && message->id[0] != '\0') {
        status = attn_ask_set_id(ask, message->id, err);
    }
    if (status == ATTN_OK) {
        status = attn_ask_set_priority(ask, message->priority, err);
    }
    if (status != ATTN_OK) {
        return status;
    }
    if (message->deadline_presence_case == ATTN__V1__ATTENTION_REQUEST__DEADLINE_PRESENCE_DEADLINE_MS) {
        ask->has_deadline = true;
        ask->deadline_ms = message->deadline_ms;
    }
    ask->spec.causal = message->causal != 0;
    ask->spec.return_lse =
        message->return_lse_presence_case == ATTN__V1__ATTENTION_REQUEST__RETURN_LSE_PRESENCE_RETURN_LSE &&
        message->return_lse;
    if (message->softcap_presence_case == ATTN__V1__ATTENTION_REQUEST__SOFTCAP_PRESENCE_SOFTCAP) {
        ask->spec.softcap = message->softcap;
    }
    if (message->sm_scale_presence_case == ATTN__V1__ATTENTION_REQUEST__SM_SCALE_PRESENCE_SM_SCALE) {
        if (!(message->sm_scale > 0)) {
            return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                                  "sm_scale %g is not valid: give a finite number above 0, or leave it out for "
                                  "1/sqrt(d)",
                                  (double)message->sm_scale);
        }
        ask->spec.sm_scale = message->sm_scale;
    }
    return ATTN_OK;
}

static attn_status_t check_length(const char *name, uint64_t given, uint64_t needed, const char *dtype,
                                  attn_error_t *err)
{
    if (given == needed) {
        return ATTN_OK;
    }
    return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                          "%s: its length is given as %" PRIu64 " bytes; its shape in %s needs %" PRIu64, name, given,
                          dtype, needed);
}

/* What an output in the answer's body must not have. */
static attn_status_t refuse_outputs(const Attn__V1__AttentionRequest *message, attn_error_t *err)
{
    const struct {
        const char *name;
        const Attn__V1__Output *output;
    } outputs[] = {{"o", message->o}, {"lse", message->lse}};
    for (size_t i = 0; i < 2; i++) {
        if (outputs[i].output != NULL && outputs[i].output->region != NULL) {
            return region_unknown(outputs[i].name, outputs[i].output->region->region, err);
        }
    }
    return ATTN_OK;
}

/* Everything but where the tensors lie. */
static attn_status_t take_spec(const Attn__V1__AttentionRequest *message, attn_ask_t *ask, attn_error_t *err)
{
    static const char *const names[3] = {"q", "k", "v"};
    const Attn__V1__Tensor *tensors[3] = {message->q, message->k, message->v};
    if (message->dtype == ATTN__V1__DTYPE__DTYPE_UNSPECIFIED) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "dtype is missing: give fp16, bf16 or fp32");
    }
    for (uint32_t i = 0; i < 3; i++) {
        if (tensors[i] == NULL) {
            return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "tensor %s is missing; q, k and v are needed",
                                  names[i]);
        }
    }
    /* The enums of the schema and of attn/kernel.h, attn/spec.h count alike; wire.c has refused unknown values. */
    ask->spec = (attn_spec_t){.dtype = (uint32_t)message->dtype, .layout = (uint32_t)message->layout};
    if (message->layout == ATTN__V1__LAYOUT__LAYOUT_UNSPECIFIED) {
        ask->spec.layout = message->n_cu_seqlens_q > 0 ? ATTN_LAYOUT_THD : ATTN_LAYOUT_BSHD;
    }
    attn_status_t status = take_flags(message, ask, err);
    if (status == ATTN_OK) {
        status =
            attn_ask_set_shapes(ask, message->q->shape, message->q->n_shape, message->k->shape, message->k->n_shape,
                                message->v->shape, message->v->n_shape, message->n_cu_seqlens_q, err);
    }
    if (status == ATTN_OK) {
        status = take_seqlens("cu_seqlens_q", message->cu_seqlens_q, message->n_cu_seqlens_q, &ask->cu_seqlens_q, err);
    }
    if (status == ATTN_OK) {
        status = take_seqlens("cu_seqlens_k", message->cu_seqlens_k, message->n_cu_seqlens_k, &ask->cu_seqlens_k, err);
    }
    if (status == ATTN_OK) {
        status = attn_ask_check_seqlens(ask, message->n_cu_seqlens_q, message->n_cu_seqlens_k, err);
    }
    return status;
}

static attn_status_t take_problem(const Attn__V1__AttentionRequest *message, bool generated, attn_ask_t *ask,
                                  attn_slice_t ret_slices[3], attn_error_t *err)
{
    static const char *const names[3] = {"q", "k", "v"};
    const Attn__V1__Tensor *tensors[3] = {message->q, message->k, message->v};
    attn_slice_t slices[3] = {{0}};
    attn_status_t status = ATTN_OK;
    for (uint32_t i = 0; i < 3 && status == ATTN_OK; i++) {
        if (tensors[i] != NULL) {
            status = take_slice(names[i], i, tensors[i], generated, &slices[i], err);
        }
    }
    if (status == ATTN_OK) {
        status = refuse_outputs(message, err);
    }
    if (status == ATTN_OK) {
        status = take_spec(message, ask, err);
    }
    const char *dtype = attn_dtype_name((attn_dtype_t)ask->spec.dtype);
    const uint64_t sizes[3] = {ask->sizes.q, ask->sizes.k, ask->sizes.v};
    for (uint32_t i = 0; i < 3 && status == ATTN_OK && !generated; i++) {
        status = check_length(names[i], slices[i].length, sizes[i], dtype, err);
    }
    if (status == ATTN_OK) {
        memcpy(ret_slices, slices, sizeof slices);
    }
    return status;
}

attn_status_t attn_ask_from_placed(const Attn__V1__AttentionRequest *message, attn_ask_t *ask,
                                   attn_ask_place_t ret_places[ATTN_ASK_PLACES], attn_error_t *err)
{
    static const char *const names[ATTN_ASK_PLACES] = {"q", "k", "v", "o", "lse"};
    attn_ask_place_t places[ATTN_ASK_PLACES] = {0};
    attn_status_t status = take_spec(message, ask, err);
    if (status != ATTN_OK) {
        return status;
    }
    const Attn__V1__Tensor *tensors[3] = {message->q, message->k, message->v};
    const Attn__V1__Output *outputs[2] = {message->o, message->lse};
    const uint64_t sizes[ATTN_ASK_PLACES] = {ask->sizes.q, ask->sizes.k, ask->sizes.v, ask->sizes.o, ask->sizes.lse};
    uint32_t count = ask->spec.return_lse ? ATTN_ASK_PLACES : ATTN_ASK_LSE;
    if (!ask->spec.return_lse && message->lse != NULL) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "lse has a place and return_lse is not set");
    }
    for (uint32_t i = 0; i < count && status == ATTN_OK; i++) {
        const Attn__V1__RegionSlice *slice = NULL;
        if (i >= ATTN_ASK_O) {
            slice = outputs[i - ATTN_ASK_O] != NULL ? outputs[i - ATTN_ASK_O]->region : NULL;
        } else if (tensors[i]->where_case == ATTN__V1__TENSOR__WHERE_REGION) {
            slice = tensors[i]->region;
        }
        status = take_place(names[i], slice, &places[i], err);
        if (status == ATTN_OK) {
            status = check_length(names[i], places[i].bytes, sizes[i],
                                  i == ATTN_ASK_LSE ? "fp32" : attn_dtype_name((attn_dtype_t)ask->spec.dtype), err);
        }
    }
    if (status == ATTN_OK) {
        memcpy(ret_places, places, sizeof places);
    }
    return status;
}

attn_status_t attn_ask_from_request(const uint8_t *data, size_t bytes, attn_ask_t *ask, attn_slice_t ret_slices[3],
                                    uint32_t *ret_count, attn_error_t *err)
{
    attn_bump_t bump = {0};
    ProtobufCMessage *message;
    attn_status_t status =
        attn_wire_unpack(&attn__v1__attention_request__descriptor, data, bytes, &bump, &message, err);
    if (status == ATTN_OK) {
        status = take_problem((const Attn__V1__AttentionRequest *)message, false, ask, ret_slices, err);
    }
    if (status == ATTN_OK) {
        *ret_count = 3;
    }
    attn_bump_close(&bump);
    return status;
}

static attn_status_t take_compare(const Attn__V1__CompareRequest *message, attn_compare_ask_t *compare,
                                  attn_error_t *err)
{
    if (message->problem == NULL) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "problem is missing: say what to compare on");
    }
    if (message->problem->variant[0] != '\0') {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "problem.variant is for single requests; name what to compare in variants");
    }
    if (message->n_variants > ATTN_COMPARE_VARIANTS_MAX) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "variants has %zu names; give at most %d",
                              message->n_variants, ATTN_COMPARE_VARIANTS_MAX);
    }
    for (size_t i = 0; i < message->n_variants; i++) {
        attn_status_t status = attn_ask_set_name("variant", message->variants[i], false, compare->variants[i], err);
        if (status != ATTN_OK) {
            return status;
        }
    }
    compare->variant_count = (uint32_t)message->n_variants;
    if (message->reference[0] != '\0') {
        attn_status_t status = attn_ask_set_name("reference", message->reference, false, compare->reference, err);
        if (status != ATTN_OK) {
            return status;
        }
    }
    compare->has_seed = message->seed_presence_case == ATTN__V1__COMPARE_REQUEST__SEED_PRESENCE_SEED;
    compare->has_warmup = message->warmup_presence_case == ATTN__V1__COMPARE_REQUEST__WARMUP_PRESENCE_WARMUP;
    compare->has_rounds = message->rounds_presence_case == ATTN__V1__COMPARE_REQUEST__ROUNDS_PRESENCE_ROUNDS;
    compare->seed = compare->has_seed ? message->seed : 0;
    compare->warmup = compare->has_warmup ? message->warmup : 0;
    compare->rounds = compare->has_rounds ? message->rounds : 0;
    if (compare->warmup > ATTN_COMPARE_ROUNDS_MAX || compare->rounds > ATTN_COMPARE_ROUNDS_MAX ||
        (compare->has_rounds && compare->rounds == 0)) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "warmup %u and rounds %u: give at most %d of either, and at least 1 round",
                              compare->warmup, compare->rounds, ATTN_COMPARE_ROUNDS_MAX);
    }
    return ATTN_OK;
}

attn_status_t attn_ask_from_compare(const uint8_t *data, size_t bytes, attn_ask_t *ask, attn_compare_ask_t *compare,
                                    attn_slice_t ret_slices[3], uint32_t *ret_count, attn_error_t *err)
{
    attn_bump_t bump = {0};
    ProtobufCMessage *unpacked;
    attn_status_t status = attn_wire_unpack(&attn__v1__compare_request__descriptor, data, bytes, &bump, &unpacked, err);
    if (status != ATTN_OK) {
        return status;
    }
    const Attn__V1__CompareRequest *message = (const Attn__V1__CompareRequest *)unpacked;
    status = take_compare(message, compare, err);
    if (status == ATTN_OK) {
        status = take_problem(message->problem, compare->has_seed, ask, ret_slices, err);
    }
    if (status == ATTN_OK) {
        *ret_count = compare->has_seed ? 0 : 3;
    }
    attn_bump_close(&bump);
    return status;
}
