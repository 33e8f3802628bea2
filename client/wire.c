/* wire.c: the wire form of requests and answers (application/x-attn): a 16-byte prefix, protobuf metadata, then the
 * tensors' bytes. Pure; any thread; owns nothing but the head that it allocates for a body. */
#include <stdlib.h>
#include <string.h>

#include "wire.h"

#define WIRE_MAGIC "ATTN"
#define WIRE_VERSION 1u
#define ANSWER_METADATA_MAX (64u << 10) /* 64 KiB of hostile protobuf unpack to at most 2.5 MB */

_Static_assert((int)ATTN_DTYPE_F16 == (int)ATTN__V1__DTYPE__DTYPE_F16, "same numbers on the wire");
_Static_assert((int)ATTN_DTYPE_BF16 == (int)ATTN__V1__DTYPE__DTYPE_BF16, "same numbers on the wire");
_Static_assert((int)ATTN_DTYPE_F32 == (int)ATTN__V1__DTYPE__DTYPE_F32, "same numbers on the wire");
_Static_assert((int)ATTN_LAYOUT_BSHD == (int)ATTN__V1__LAYOUT__LAYOUT_BSHD, "same numbers on the wire");
_Static_assert((int)ATTN_LAYOUT_BHSD == (int)ATTN__V1__LAYOUT__LAYOUT_BHSD, "same numbers on the wire");
_Static_assert((int)ATTN_LAYOUT_THD == (int)ATTN__V1__LAYOUT__LAYOUT_THD, "same numbers on the wire");

static void u32_put(uint8_t *to, uint32_t value)
{
    for (int i = 0; i < 4; i++) {
        to[i] = (uint8_t)(value >> (8 * i));
    }
}

static uint32_t u32_get(const uint8_t *from)
{
    return (uint32_t)from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 | (uint32_t)from[3] << 24;
}

/* The shape of a tensor of `heads` heads and `s` rows, in the order of the layout; gives its rank. */
static size_t shape_put(const attn_spec_t *spec, int64_t s, uint32_t heads, uint64_t ret[4])
{
    if (spec->layout == ATTN_LAYOUT_THD) {
        ret[0] = (uint64_t)s;
        ret[1] = heads;
        ret[2] = spec->d;
        return 3;
    }
    bool bhsd = spec->layout == ATTN_LAYOUT_BHSD;
    ret[0] = spec->batch;
    ret[1] = bhsd ? heads : (uint64_t)s;
    ret[2] = bhsd ? (uint64_t)s : heads;
    ret[3] = spec->d;
    return 4;
}

static size_t lse_shape_put(const attn_spec_t *spec, uint64_t ret[4])
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

void attn_wire_message_build(const attn_client_request_t *from, const attn_spec_t *spec, const attn_sizes_t *sizes,
                             bool placed, attn_wire_message_t *message)
{
    Attn__V1__AttentionRequest *to = &message->request;
    const uint64_t bytes[3] = {sizes->q, sizes->k, sizes->v};
    uint64_t offset = 0;
    attn__v1__attention_request__init(to);
    for (int i = 0; i < 3; i++) {
        Attn__V1__Tensor *tensor = &message->tensors[i];
        attn__v1__tensor__init(tensor);
        tensor->n_shape =
            shape_put(spec, i == 0 ? spec->s_q : spec->s_kv, i == 0 ? spec->h_q : spec->h_kv, message->shapes[i]);
        tensor->shape = message->shapes[i];
        if (placed) {
            attn__v1__body_slice__init(&message->slices[i]);
            message->slices[i].offset = offset;
            message->slices[i].length = bytes[i];
            tensor->where_case = ATTN__V1__TENSOR__WHERE_BODY;
            tensor->body = &message->slices[i];
            offset += bytes[i];
        }
    }
    to->dtype = (Attn__V1__DType)spec->dtype;
    to->layout = (Attn__V1__Layout)spec->layout;
    to->q = &message->tensors[0];
    to->k = &message->tensors[1];
    to->v = &message->tensors[2];
    if (spec->layout == ATTN_LAYOUT_THD) {
        to->n_cu_seqlens_q = to->n_cu_seqlens_k = (size_t)spec->batch + 1;
        to->cu_seqlens_q = (int32_t *)(uintptr_t)from->cu_seqlens_q;
        to->cu_seqlens_k = (int32_t *)(uintptr_t)from->cu_seqlens_k;
    }
    to->causal = spec->causal != 0;
    if (from->spec.sm_scale != 0) {
        to->sm_scale_presence_case = ATTN__V1__ATTENTION_REQUEST__SM_SCALE_PRESENCE_SM_SCALE;
        to->sm_scale = from->spec.sm_scale;
    }
    if (spec->softcap != 0) {
        to->softcap_presence_case = ATTN__V1__ATTENTION_REQUEST__SOFTCAP_PRESENCE_SOFTCAP;
        to->softcap = spec->softcap;
    }
    if (spec->return_lse) {
        to->return_lse_presence_case = ATTN__V1__ATTENTION_REQUEST__RETURN_LSE_PRESENCE_RETURN_LSE;
        to->return_lse = 1;
    }
}

/* Prefix and packed metadata, then the tensors when they are placed. */
static attn_status_t body_build(const ProtobufCMessage *metadata, const attn_client_request_t *from,
                                const attn_sizes_t *sizes, bool placed, attn_wire_body_t *ret, attn_client_error_t *err)
{
    size_t size = protobuf_c_message_get_packed_size(metadata);
    if (size > UINT32_MAX - ATTN_WIRE_PREFIX) {
        return attn_client_fail(err, ATTN_ERR_TOO_LARGE, "the request's metadata take %zu bytes, above 4 GiB", size);
    }
    uint8_t *head = malloc(ATTN_WIRE_PREFIX + size);
    if (head == NULL) {
        return attn_client_fail(err, ATTN_ERR_NO_MEMORY, "no memory for the request's metadata");
    }
    memcpy(head, WIRE_MAGIC, 4);
    u32_put(head + 4, WIRE_VERSION);
    u32_put(head + 8, 0);
    u32_put(head + 12, (uint32_t)size);
    protobuf_c_message_pack(metadata, head + ATTN_WIRE_PREFIX);
    *ret = (attn_wire_body_t){.head = head, .parts = {{head, ATTN_WIRE_PREFIX + size}}, .count = 1};
    if (placed) {
        ret->parts[1] = (struct iovec){(void *)(uintptr_t)from->q, sizes->q};
        ret->parts[2] = (struct iovec){(void *)(uintptr_t)from->k, sizes->k};
        ret->parts[3] = (struct iovec){(void *)(uintptr_t)from->v, sizes->v};
        ret->count = 4;
    }
    return ATTN_OK;
}

void attn_wire_body_free(attn_wire_body_t *body)
{
    free(body->head);
}

attn_status_t attn_wire_check(const attn_client_request_t *request, bool placed, bool outputs, attn_spec_t *ret_spec,
                              attn_sizes_t *ret_sizes, attn_client_error_t *err)
{
    attn_error_t error;
    attn_spec_t spec = request->spec;
    attn_sizes_t sizes;
    if (attn_spec_measure(&spec, &sizes, &error) != ATTN_OK) {
        return attn_client_fail_with(err, &error);
    }
    if (placed && ((sizes.q > 0 && request->q == NULL) || (sizes.k > 0 && request->k == NULL) ||
                   (sizes.v > 0 && request->v == NULL))) {
        return attn_client_fail(err, ATTN_ERR_INVALID_ARGUMENT, "q, k and v must point to the tensors; one is NULL");
    }
    if (outputs && ((sizes.o > 0 && request->o == NULL) || (sizes.lse > 0 && request->lse == NULL))) {
        return attn_client_fail(err, ATTN_ERR_INVALID_ARGUMENT,
                                "o (and lse with return_lse) must point to where the answer goes; one is NULL");
    }
    bool thd = spec.layout == ATTN_LAYOUT_THD;
    if (thd && (request->cu_seqlens_q == NULL || request->cu_seqlens_k == NULL)) {
        return attn_client_fail(err, ATTN_ERR_INVALID_ARGUMENT,
                                "layout thd needs cu_seqlens_q and cu_seqlens_k with batch + 1 entries each");
    }
    *ret_spec = spec;
    *ret_sizes = sizes;
    return ATTN_OK;
}

void attn_wire_message_options(const attn_client_request_t *from, attn_wire_message_t *message)
{
    Attn__V1__AttentionRequest *to = &message->request;
    if (from->variant != NULL) {
        to->variant = (char *)(uintptr_t)from->variant;
    }
    if (from->id != NULL) {
        to->id = (char *)(uintptr_t)from->id;
    }
    if (from->deadline_ms != 0) {
        to->deadline_presence_case = ATTN__V1__ATTENTION_REQUEST__DEADLINE_PRESENCE_DEADLINE_MS;
        to->deadline_ms = from->deadline_ms;
    }
    to->priority = from->priority;
}

attn_status_t attn_wire_request(const attn_client_request_t *request, attn_wire_body_t *ret, attn_client_error_t *err)
{
    attn_spec_t spec;
    attn_sizes_t sizes;
    attn_status_t status = attn_wire_check(request, true, true, &spec, &sizes, err);
    if (status != ATTN_OK) {
        return status;
    }
    attn_wire_message_t message;
    attn_wire_message_build(request, &spec, &sizes, true, &message);
    attn_wire_message_options(request, &message);
    return body_build(&message.request.base, request, &sizes, true, ret, err);
}

attn_status_t attn_wire_compare(const attn_client_compare_t *compare, attn_wire_body_t *ret, attn_client_error_t *err)
{
    attn_spec_t spec;
    attn_sizes_t sizes;
    attn_status_t status = attn_wire_check(&compare->request, !compare->seeded, false, &spec, &sizes, err);
    if (status != ATTN_OK) {
        return status;
    }
    attn_wire_message_t message;
    attn_wire_message_build(&compare->request, &spec, &sizes, !compare->seeded, &message);
    Attn__V1__CompareRequest to = ATTN__V1__COMPARE_REQUEST__INIT;
    to.problem = &message.request;
    to.n_variants = compare->variant_count;
    to.variants = (char **)(uintptr_t)compare->variants;
    if (compare->seeded) {
        to.seed_presence_case = ATTN__V1__COMPARE_REQUEST__SEED_PRESENCE_SEED;
        to.seed = compare->seed;
    }
    if (compare->has_warmup) {
        to.warmup_presence_case = ATTN__V1__COMPARE_REQUEST__WARMUP_PRESENCE_WARMUP;
        to.warmup = compare->warmup;
    }
    if (compare->has_rounds) {
        to.rounds_presence_case = ATTN__V1__COMPARE_REQUEST__ROUNDS_PRESENCE_ROUNDS;
        to.rounds = compare->rounds;
    }
    return body_build(&to.base, &compare->request, &sizes, !compare->seeded, ret, err);
}

attn_status_t attn_wire_prefix(const uint8_t *prefix, uint32_t *ret_metadata_size, attn_client_error_t *err)
{
    if (memcmp(prefix, WIRE_MAGIC, 4) != 0 || u32_get(prefix + 4) != WIRE_VERSION || u32_get(prefix + 8) != 0) {
        return attn_client_fail(err, ATTN_ERR_INTERNAL,
                                "the server's answer does not begin with the prefix of " ATTN_WIRE_TYPE " version %u",
                                WIRE_VERSION);
    }
    uint32_t size = u32_get(prefix + 12);
    if (size > ANSWER_METADATA_MAX) {
        return attn_client_fail(err, ATTN_ERR_INTERNAL,
                                "the server's answer announces %u bytes of metadata; at most %u are read", size,
                                ANSWER_METADATA_MAX);
    }
    *ret_metadata_size = size;
    return ATTN_OK;
}

/* Whether a tensor of the answer is there, in the body, with this shape and this many bytes. */
static bool tensor_good(const Attn__V1__Tensor *tensor, const uint64_t *shape, size_t rank, uint64_t bytes)
{
    return tensor != NULL && tensor->where_case == ATTN__V1__TENSOR__WHERE_BODY && tensor->body->length == bytes &&
           tensor->n_shape == rank && memcmp(tensor->shape, shape, rank * sizeof(*shape)) == 0;
}

static attn_status_t tensors_order(const attn_client_request_t *request, const Attn__V1__AttentionResponse *message,
                                   uint64_t tensor_bytes, attn_wire_piece_t ret[2], attn_client_error_t *err)
{
    attn_spec_t spec = request->spec;
    attn_sizes_t sizes;
    attn_error_t error;
    if (attn_spec_measure(&spec, &sizes, &error) != ATTN_OK) {
        return attn_client_fail_with(err, &error);
    }
    uint64_t shape[4], lse_shape[4];
    size_t rank = shape_put(&spec, spec.s_q, spec.h_q, shape), lse_rank = lse_shape_put(&spec, lse_shape);
    bool good = (uint32_t)message->dtype == spec.dtype && (uint32_t)message->layout == spec.layout &&
                tensor_good(message->o, shape, rank, sizes.o) &&
                (spec.return_lse ? tensor_good(message->lse, lse_shape, lse_rank, sizes.lse) : message->lse == NULL);
    if (!good || tensor_bytes != sizes.o + sizes.lse) {
        return attn_client_fail(err, ATTN_ERR_INTERNAL,
                                "the server's answer does not hold the tensors that were asked for");
    }
    attn_wire_piece_t o = {request->o, sizes.o}, lse = {request->lse, sizes.lse};
    uint64_t o_at = message->o->body->offset, lse_at = spec.return_lse ? message->lse->body->offset : sizes.o;
    if (o_at == 0 && lse_at == sizes.o) {
        ret[0] = o;
        ret[1] = lse;
    } else if (lse_at == 0 && o_at == sizes.lse) {
        ret[0] = lse;
        ret[1] = o;
    } else {
        return attn_client_fail(err, ATTN_ERR_INTERNAL, "the tensors of the server's answer overlap or leave gaps");
    }
    return ATTN_OK;
}

void attn_wire_text(char *to, size_t capacity, const char *from)
{
    size_t size = strnlen(from, capacity - 1);
    memcpy(to, from, size);
    to[size] = '\0';
}

void attn_wire_outcome(const Attn__V1__AttentionResponse *message, attn_client_answer_t *ret)
{
    memset(ret, 0, sizeof(*ret));
    attn_wire_text(ret->id, sizeof(ret->id), message->id);
    const Attn__V1__Outcome *outcome = message->outcome;
    if (outcome == NULL) {
        return;
    }
    attn_wire_text(ret->variant, sizeof(ret->variant), outcome->variant);
    attn_wire_text(ret->reason, sizeof(ret->reason), outcome->reason);
    attn_wire_text(ret->device, sizeof(ret->device), outcome->device);
    ret->batch_size = outcome->batch_size;
    ret->attempts = outcome->attempts;
    if (outcome->timing != NULL) {
        ret->queue_us = outcome->timing->queue_us;
        ret->copy_in_us = outcome->timing->copy_in_us;
        ret->kernel_us = outcome->timing->kernel_us;
        ret->copy_out_us = outcome->timing->copy_out_us;
        ret->total_us = outcome->timing->total_us;
    }
}

attn_status_t attn_wire_answer(const attn_client_request_t *request, const uint8_t *metadata, size_t size,
                               uint64_t tensor_bytes, attn_client_answer_t *ret, attn_wire_piece_t ret_pieces[2],
                               attn_client_error_t *err)
{
    Attn__V1__AttentionResponse *message = attn__v1__attention_response__unpack(NULL, size, metadata);
    if (message == NULL) {
        return attn_client_fail(err, ATTN_ERR_INTERNAL, "the metadata of the server's answer are malformed");
    }
    attn_status_t status = tensors_order(request, message, tensor_bytes, ret_pieces, err);
    if (status == ATTN_OK) {
        attn_wire_outcome(message, ret);
    }
    attn__v1__attention_response__free_unpacked(message, NULL);
    return status;
}
