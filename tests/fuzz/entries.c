/* tests/fuzz/entries.c: see entries.h. */
#include "fuzz/entries.h"

#include <endian.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attn/v1/attention.pb-c.h"
#include "codec/compare_json.h"
#include "codec/intake.h"
#include "codec/json.h"
#include "codec/query.h"
#include "codec/safetensors_header.h"
#include "codec/xattn.h"

#define MUST(condition)                                                                                                \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition);                              \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

static attn_admit_t *admit(void)
{
    static attn_admit_t *one;
    attn_error_t err;
    if (one == NULL) {
        const attn_admit_options_t options = {.arena_bytes = 4u << 20};
        MUST(attn_admit_create(&options, &one, &err) == ATTN_OK);
    }
    return one;
}

/* Writes the body's next bytes where the intake has room for them, at most `most` at a time, as far as there is any. */
static attn_status_t fill_room(attn_intake_t *intake, const uint8_t *data, size_t size, size_t most, attn_error_t *err)
{
    attn_status_t status = ATTN_OK;
    struct iovec room[2];
    uint32_t count;
    size_t done = 0;
    while (status == ATTN_OK && (count = attn_intake_room(intake, room, 2)) > 0) {
        size_t bytes = 0;
        for (uint32_t i = 0; i < count && bytes < most; i++) {
            size_t part = room[i].iov_len < most - bytes ? room[i].iov_len : most - bytes;
            MUST(part > 0 && part <= size - done);
            memcpy(room[i].iov_base, data + done, part);
            bytes += part;
            done += part;
        }
        status = attn_intake_filled(intake, bytes, err);
    }
    MUST(status != ATTN_OK || done == size);
    return status;
}

/* A whole body through the intake: in two pieces that meet anywhere, or written to its room. */
static void run_intake_by(attn_framing_t framing, bool compare, const uint8_t *data, size_t size, bool by_room,
                          attn_status_t *ret_status)
{
    attn_intake_t intake;
    attn_error_t err = {0};
    const attn_intake_options_t options = {
        .admit = admit(), .framing = framing, .compare = compare, .body_bytes = size, .max_metadata_bytes = 65536};
    attn_status_t status = attn_intake_open(&intake, &options, NULL, NULL, &err);
    if (status == ATTN_OK) {
        size_t cut = size > 0 ? data[size - 1] % size : 0;
        if (by_room) {
            status = fill_room(&intake, data, size, 1 + cut, &err);
        } else {
            status = attn_intake_feed(&intake, data, cut, &err);
        }
        if (status == ATTN_OK && !by_room) {
            status = attn_intake_feed(&intake, data + cut, size - cut, &err);
        }
        if (status == ATTN_OK) {
            status = attn_intake_end(&intake, &err);
        }
        if (status == ATTN_OK) {
            const attn_sizes_t *sizes = &intake.ask.sizes;
            uint64_t tensors = intake.compare.has_seed ? 0 : sizes->q + sizes->k + sizes->v;
            MUST(tensors <= size);
            MUST(intake.ask.spec.h_q % intake.ask.spec.h_kv == 0);
            MUST(intake.ask.spec.sm_scale > 0);
            MUST(compare || intake.o.bytes == sizes->o);
        }
        attn_intake_close(&intake);
    }
    MUST(status == ATTN_OK || strlen(err.message) > 10);
    attn_admit_view_t view;
    attn_admit_view(admit(), &view);
    MUST(view.tickets == 0 && view.input_used == 0 && view.output_used == 0 && view.arriving == 0);
    *ret_status = status;
}

static void run_intake(attn_framing_t framing, bool compare, const uint8_t *data, size_t size)
{
    attn_status_t fed, filled;
    run_intake_by(framing, compare, data, size, false, &fed);
    run_intake_by(framing, compare, data, size, true, &filled);
    MUST(fed == filled);
}

static void run_xattn(const uint8_t *data, size_t size)
{
    run_intake(ATTN_FRAMING_XATTN, false, data, size);
}

static void run_xattn_compare(const uint8_t *data, size_t size)
{
    run_intake(ATTN_FRAMING_XATTN, true, data, size);
}

static void run_safetensors(const uint8_t *data, size_t size)
{
    run_intake(ATTN_FRAMING_SAFETENSORS, false, data, size);
}

/* What the plain reader takes, the parser takes for the same. */
static void run_safetensors_header(const uint8_t *data, size_t size)
{
    attn_safetensors_entry_t plain[ATTN_TENSOR_COUNT] = {{0}}, parsed[ATTN_TENSOR_COUNT] = {{0}};
    attn_error_t err;
    const bool is_plain = attn_safetensors_plain((const char *)data, size, plain);
    attn_status_t status = attn_safetensors_parse((const char *)data, size, parsed, &err);
    MUST(!is_plain || (status == ATTN_OK && memcmp(plain, parsed, sizeof plain) == 0));
}

static char *text_of(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);
    MUST(text != NULL);
    memcpy(text, data, size);
    text[size] = '\0';
    return text;
}

static void run_query(const uint8_t *data, size_t size)
{
    char *text = text_of(data, size);
    static const attn_query_use_t uses[] = {ATTN_QUERY_NONE, ATTN_QUERY_ATTENTION, ATTN_QUERY_COMPARE,
                                            ATTN_QUERY_COMPARE_WAIT};
    for (size_t i = 0; i < sizeof uses / sizeof uses[0]; i++) {
        attn_ask_t ask = {0};
        attn_compare_ask_t compare = {0};
        attn_error_t err = {0};
        if (attn_query_parse(text, uses[i], &ask, &compare, &err) == ATTN_OK) {
            MUST(ask.priority >= -100 && ask.priority <= 100);
            MUST(ask.spec.causal <= 1 && ask.spec.softcap >= 0 && ask.spec.sm_scale >= 0);
            MUST(compare.variant_count <= ATTN_COMPARE_VARIANTS_MAX);
        } else {
            MUST(strlen(err.message) > 10);
        }
    }
    free(text);
}

static void run_json(const uint8_t *data, size_t size)
{
    json_t *root;
    attn_error_t err = {0};
    if (attn_json_parse("body", (const char *)data, size, &root, &err) == ATTN_OK) {
        json_decref(root);
    } else {
        MUST(strlen(err.message) > 10);
    }
}

static void run_compare_json(const uint8_t *data, size_t size)
{
    attn_ask_t ask = {0};
    attn_compare_ask_t compare = {0};
    attn_error_t err = {0};
    char *text = text_of(data, size);
    if (attn_compare_json_read(text, size, &ask, &compare, &err) == ATTN_OK) {
        MUST(ask.spec.h_q % ask.spec.h_kv == 0);
    } else {
        MUST(strlen(err.message) > 10);
    }
    attn_ask_clear(&ask);
    free(text);
}

/* ---- seeds ---- */

static uint8_t *copy(const char *text, size_t *ret_size)
{
    *ret_size = strlen(text);
    return (uint8_t *)strdup(text);
}

static uint8_t *seed_xattn_any(unsigned which, bool compare, size_t *ret_size)
{
    Attn__V1__AttentionRequest request = ATTN__V1__ATTENTION_REQUEST__INIT;
    Attn__V1__CompareRequest outer = ATTN__V1__COMPARE_REQUEST__INIT;
    Attn__V1__Tensor tensors[3] = {ATTN__V1__TENSOR__INIT, ATTN__V1__TENSOR__INIT, ATTN__V1__TENSOR__INIT};
    Attn__V1__BodySlice slices[3] = {ATTN__V1__BODY_SLICE__INIT, ATTN__V1__BODY_SLICE__INIT,
                                     ATTN__V1__BODY_SLICE__INIT};
    static uint64_t dense[4] = {1, 3, 2, 4}, packed[3] = {5, 2, 4};
    static int32_t offsets[3] = {0, 2, 5};
    static char *variants[2] = {(char *)"cpu", (char *)"reference"};
    bool thd = which == 1;
    uint64_t bytes = thd ? 5 * 2 * 4 * 2 : 3 * 2 * 4 * 2;
    if (which > 2 || (which == 2 && !compare)) {
        return NULL;
    }
    bool generated = which == 2;
    for (int i = 0; i < 3; i++) {
        tensors[i].n_shape = thd ? 3 : 4;
        tensors[i].shape = thd ? packed : dense;
        slices[i].offset = (uint64_t)i * bytes;
        slices[i].length = bytes;
        tensors[i].where_case = generated ? ATTN__V1__TENSOR__WHERE__NOT_SET : ATTN__V1__TENSOR__WHERE_BODY;
        tensors[i].body = generated ? NULL : &slices[i];
    }
    request.q = &tensors[0];
    request.k = &tensors[1];
    request.v = &tensors[2];
    request.dtype = ATTN__V1__DTYPE__DTYPE_BF16;
    request.causal = 1;
    request.return_lse_presence_case = ATTN__V1__ATTENTION_REQUEST__RETURN_LSE_PRESENCE_RETURN_LSE;
    request.return_lse = 1;
    request.id = (char *)"seed-1";
    if (thd) {
        request.n_cu_seqlens_q = request.n_cu_seqlens_k = 3;
        request.cu_seqlens_q = request.cu_seqlens_k = offsets;
    }
    outer.problem = &request;
    outer.n_variants = 2;
    outer.variants = variants;
    if (generated) {
        outer.seed_presence_case = ATTN__V1__COMPARE_REQUEST__SEED_PRESENCE_SEED;
        outer.seed = 7;
    }
    const ProtobufCMessage *message = compare ? &outer.base : &request.base;
    size_t metadata = protobuf_c_message_get_packed_size(message), tensor_bytes = generated ? 0 : 3 * bytes;
    uint8_t *body = calloc(1, ATTN_XATTN_PREFIX + metadata + tensor_bytes);
    MUST(body != NULL);
    attn_xattn_prefix_write((uint32_t)metadata, body);
    protobuf_c_message_pack(message, body + ATTN_XATTN_PREFIX);
    *ret_size = ATTN_XATTN_PREFIX + metadata + tensor_bytes;
    return body;
}

static uint8_t *seed_xattn(unsigned which, size_t *ret_size)
{
    return seed_xattn_any(which, false, ret_size);
}

static uint8_t *seed_xattn_compare(unsigned which, size_t *ret_size)
{
    return seed_xattn_any(which, true, ret_size);
}

static uint8_t *seed_safetensors(unsigned which, size_t *ret_size)
{
    static const struct {
        const char *header;
        size_t bytes;
    } files[] = {
        {"{\"q\":{\"dtype\":\"F16\",\"shape\":[1,3,2,4],\"data_offsets\":[0,48]},\"k\":{\"dtype\":\"F16\",\"shape\":[1,"
         "3,2,4],\"data_offsets\":[48,96]},\"v\":{\"dtype\":\"F16\",\"shape\":[1,3,2,4],\"data_offsets\":[96,144]},"
         "\"__metadata__\":{\"from\":\"seed\"}}",
         144},
        {"{\"cu_seqlens_q\":{\"dtype\":\"I32\",\"shape\":[2],\"data_offsets\":[0,8]},\"cu_seqlens_k\":{\"dtype\":"
         "\"I32\",\"shape\":[2],\"data_offsets\":[8,16]},\"q\":{\"dtype\":\"F32\",\"shape\":[0,1,1],\"data_offsets\":["
         "16,16]},\"k\":{\"dtype\":\"F32\",\"shape\":[0,1,1],\"data_offsets\":[16,16]},\"v\":{\"dtype\":\"F32\","
         "\"shape\":[0,1,1],\"data_offsets\":[16,16]}}",
         16},
    };
    if (which >= sizeof files / sizeof files[0]) {
        return NULL;
    }
    size_t header = strlen(files[which].header);
    uint8_t *body = calloc(1, 8 + header + files[which].bytes);
    MUST(body != NULL);
    uint64_t length = htole64(header);
    memcpy(body, &length, 8);
    memcpy(body + 8, files[which].header, header);
    *ret_size = 8 + header + files[which].bytes;
    return body;
}

static uint8_t *seed_safetensors_header(unsigned which, size_t *ret_size)
{
    uint8_t *body = seed_safetensors(which, ret_size);
    if (body != NULL) {
        uint64_t length;
        memcpy(&length, body, 8);
        *ret_size = le64toh(length);
        memmove(body, body + 8, *ret_size);
    }
    return body;
}

static uint8_t *seed_query(unsigned which, size_t *ret_size)
{
    static const char *const texts[] = {("variant=cpu&causal=true&sm_scale=0.125&softcap=30&return_lse=1&layout=bhsd&"
                                         "deadline_ms=1000&priority=-7&id=a-1"),
                                        "variants=cpu,reference&reference=reference&warmup=1&rounds=5&wait=30s&seed=1",
                                        "window_left=5", "id=%41%zz"};
    return which < sizeof texts / sizeof texts[0] ? copy(texts[which], ret_size) : NULL;
}

static uint8_t *seed_json(unsigned which, size_t *ret_size)
{
    static const char *const texts[] = {
        ("{\"shape\":{\"batch\":1,\"s_q\":16,\"s_kv\":16,\"h_q\":4,\"h_kv\":2,\"d\":64},\"seed\":1,\"variants\":["
         "\"cpu\"],"
         "\"dtype\":\"bf16\",\"causal\":true,\"sm_scale\":0.1,\"warmup\":1,\"rounds\":3}"),
        "{\"shape\":{\"h_q\":1,\"d\":8},\"layout\":\"thd\",\"cu_seqlens_q\":[0,3,9],\"cu_seqlens_k\":[0,3,9]}",
        "[[[[[[[[1]]]]]]]]", "{\"a\":1,\"a\":2}"};
    return which < sizeof texts / sizeof texts[0] ? copy(texts[which], ret_size) : NULL;
}

const fuzz_entry_t fuzz_entries[] = {
    {"xattn", run_xattn, seed_xattn},
    {"xattn_compare", run_xattn_compare, seed_xattn_compare},
    {"safetensors", run_safetensors, seed_safetensors},
    {"safetensors_header", run_safetensors_header, seed_safetensors_header},
    {"query", run_query, seed_query},
    {"json", run_json, seed_json},
    {"compare_json", run_compare_json, seed_json},
    {"socket", fuzz_socket_run, fuzz_socket_seed},
    {"submission", fuzz_submission_run, fuzz_submission_seed},
};
const size_t fuzz_entry_count = sizeof fuzz_entries / sizeof fuzz_entries[0];
