/* tests/unit/codec/test_codec.c: what the readers take, what they refuse and with which words; writers against readers.
 */
#include <check.h>
#include <endian.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attn/v1/attention.pb-c.h"
#include "codec/ask_proto.h"
#include "codec/intake.h"
#include "codec/json.h"
#include "codec/query.h"
#include "codec/safetensors_header.h"
#include "codec/wire.h"
#include "codec/xattn.h"

static attn_error_t error;
static attn_admit_t *admit;

static void setup(void)
{
    const attn_admit_options_t options = {.arena_bytes = 16u << 20};
    ck_assert_int_eq(attn_admit_create(&options, &admit, &error), ATTN_OK);
}

static void teardown(void)
{
    attn_admit_view_t view;
    attn_admit_view(admit, &view);
    ck_assert_uint_eq(view.tickets, 0);
    ck_assert_uint_eq(view.input_used + view.output_used, 0);
    attn_admit_destroy(admit);
}

static void expect(attn_status_t got, attn_status_t wanted, const char *word)
{
    ck_assert_msg(got == wanted, "%s instead of %s: %s", attn_status_name(got), attn_status_name(wanted),
                  error.message);
    ck_assert_msg(got == ATTN_OK || strstr(error.message, word) != NULL, "\"%s\" is not in: %s", word, error.message);
}

/* ---- tiling ---- */

START_TEST(tiling)
{
    attn_slice_t good[4] = {{"v", 8, 4, 2}, {"q", 0, 4, 0}, {"e", 4, 0, 3}, {"k", 4, 4, 1}};
    expect(attn_tiling_check(good, 4, 12, &error), ATTN_OK, "");
    ck_assert_str_eq(good[0].name, "q");
    ck_assert_str_eq(good[3].name, "v");
    attn_slice_t hole[2] = {{"q", 0, 4, 0}, {"k", 5, 4, 1}};
    expect(attn_tiling_check(hole, 2, 9, &error), ATTN_ERR_INVALID_ARGUMENT, "hole");
    attn_slice_t overlap[2] = {{"q", 0, 4, 0}, {"k", 3, 4, 1}};
    expect(attn_tiling_check(overlap, 2, 7, &error), ATTN_ERR_INVALID_ARGUMENT, "overlap");
    attn_slice_t beyond[1] = {{"q", UINT64_MAX - 1, 4, 0}};
    expect(attn_tiling_check(beyond, 1, 4, &error), ATTN_ERR_INVALID_ARGUMENT, "outside");
    attn_slice_t rest[1] = {{"q", 0, 4, 0}};
    expect(attn_tiling_check(rest, 1, 5, &error), ATTN_ERR_INVALID_ARGUMENT, "exactly");
    expect(attn_tiling_check(NULL, 0, 0, &error), ATTN_OK, "");
}
END_TEST

/* ---- protobuf ---- */

static attn_status_t unpack(const void *bytes, size_t size)
{
    attn_bump_t bump = {0};
    ProtobufCMessage *message;
    attn_status_t status =
        attn_wire_unpack(&attn__v1__attention_request__descriptor, bytes, size, &bump, &message, &error);
    attn_bump_close(&bump);
    return status;
}
#define UNPACK(text) unpack(text, sizeof text - 1)

START_TEST(wire_takes)
{
    expect(UNPACK(""), ATTN_OK, "");
    expect(UNPACK("\x0a\x03"
                  "cpu\x10\x02\x48\x01"),
           ATTN_OK, "");
    /* A shape packed, and the same one value by value. */
    expect(UNPACK("\x22\x04\x0a\x02\x01\x02"), ATTN_OK, "");
    expect(UNPACK("\x22\x04\x08\x01\x08\x02"), ATTN_OK, "");
}
END_TEST

START_TEST(wire_refuses)
{
    const attn_status_t bad = ATTN_ERR_INVALID_ARGUMENT;
    expect(UNPACK("\x0a\x03"
                  "cp"),
           bad, "broken");
    expect(UNPACK("\x0a"), bad, "broken");
    expect(UNPACK("\x48\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01"), bad, "broken");
    expect(UNPACK("\x48\x01\x48\x01"), bad, "twice");
    expect(UNPACK("\x22\x00\x22\x00"), bad, "twice");
    expect(UNPACK("\x10\x09"), bad, "dtype");
    expect(UNPACK("\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), bad, "dtype");
    expect(UNPACK("\x48\x02"), bad, "bool");
    expect(UNPACK("\x0a\x01\xff"), bad, "UTF-8");
    expect(UNPACK("\x0a\x02\xc0\x80"), bad, "UTF-8");
    expect(UNPACK("\x0a\x01\x00"), bad, "NUL");
    expect(UNPACK("\x09\x00\x00\x00\x00\x00\x00\x00\x00"), bad, "wire type");
    expect(UNPACK("\xf8\x3f\x01"), bad, "1023");
    expect(UNPACK("\x80\x02\x01"), ATTN_ERR_UNIMPLEMENTED, "sliding window");
    expect(UNPACK("\x00"), bad, "broken");
    expect(UNPACK("\x0b\x0c"), bad, "wire type");
    /* body and region of one tensor exclude each other. */
    expect(UNPACK("\x22\x04\x12\x00\x1a\x00"), bad, "exclude");
    /* A number of 64 bits in a field of 32. */
    expect(UNPACK("\x80\x01\xff\xff\xff\xff\x7f"), bad, "32 bits");
}
END_TEST

START_TEST(wire_memory_is_bounded)
{
    /* 64 KiB of one-byte varints, not packed: protobuf-c would take 48 bytes for each. */
    size_t size = 65536;
    unsigned char *bytes = malloc(size + 4);
    for (size_t i = 0; i + 1 < size; i += 2) {
        bytes[i] = 0x38;
        bytes[i + 1] = 0;
    }
    attn_bump_t bump = {0};
    ProtobufCMessage *message;
    attn_status_t status =
        attn_wire_unpack(&attn__v1__attention_request__descriptor, bytes, size, &bump, &message, &error);
    ck_assert(status == ATTN_OK || status == ATTN_ERR_INVALID_ARGUMENT);
    ck_assert_uint_le(bump.size, 8192 + 24 * size);
    attn_bump_close(&bump);
    free(bytes);
}
END_TEST

/* A request of three equal tensors; `edit` changes it before it is packed. */
typedef struct message {
    Attn__V1__AttentionRequest request;
    Attn__V1__Tensor tensor[3];
    Attn__V1__BodySlice slice[3];
    Attn__V1__RegionSlice region;
    uint64_t shape[3][4];
} message_t;

static void message_init(message_t *m, uint64_t s, uint64_t h, uint64_t d, uint64_t element)
{
    static const Attn__V1__AttentionRequest request = ATTN__V1__ATTENTION_REQUEST__INIT;
    static const Attn__V1__Tensor tensor = ATTN__V1__TENSOR__INIT;
    static const Attn__V1__BodySlice slice = ATTN__V1__BODY_SLICE__INIT;
    static const Attn__V1__RegionSlice region = ATTN__V1__REGION_SLICE__INIT;
    m->request = request;
    m->region = region;
    for (int i = 0; i < 3; i++) {
        const uint64_t shape[4] = {1, s, h, d};
        memcpy(m->shape[i], shape, sizeof shape);
        m->tensor[i] = tensor;
        m->slice[i] = slice;
        m->slice[i].length = s * h * d * element;
        m->slice[i].offset = (uint64_t)i * m->slice[i].length;
        m->tensor[i].n_shape = 4;
        m->tensor[i].shape = m->shape[i];
        m->tensor[i].where_case = ATTN__V1__TENSOR__WHERE_BODY;
        m->tensor[i].body = &m->slice[i];
    }
    m->request.dtype = ATTN__V1__DTYPE__DTYPE_F16;
    m->request.q = &m->tensor[0];
    m->request.k = &m->tensor[1];
    m->request.v = &m->tensor[2];
}

static attn_status_t ask_of(const message_t *m, attn_ask_t *ask)
{
    uint8_t bytes[1024];
    attn_slice_t slices[3];
    uint32_t count = 0;
    size_t size = attn__v1__attention_request__get_packed_size(&m->request);
    ck_assert_uint_le(size, sizeof bytes);
    attn__v1__attention_request__pack(&m->request, bytes);
    attn_ask_clear(ask);
    return attn_ask_from_request(bytes, size, ask, slices, &count, &error);
}

START_TEST(request_takes)
{
    message_t m;
    attn_ask_t ask = {0};
    message_init(&m, 6, 4, 16, 2);
    m.request.variant = (char *)"auto";
    m.request.id = (char *)"abc-1";
    m.request.causal = 1;
    m.request.priority = -100;
    m.request.deadline_presence_case = ATTN__V1__ATTENTION_REQUEST__DEADLINE_PRESENCE_DEADLINE_MS;
    m.request.deadline_ms = 0;
    expect(ask_of(&m, &ask), ATTN_OK, "");
    ck_assert_str_eq(ask.variant, "");
    ck_assert_str_eq(ask.id, "abc-1");
    ck_assert_uint_eq(ask.spec.layout, ATTN_LAYOUT_BSHD);
    ck_assert_uint_eq(ask.spec.h_q, 4);
    ck_assert_int_eq(ask.spec.s_kv, 6);
    ck_assert_float_eq(ask.spec.sm_scale, 0.25f);
    ck_assert(ask.has_deadline && ask.deadline_ms == 0);
    ck_assert_int_eq(ask.priority, -100);
    m.request.layout = ATTN__V1__LAYOUT__LAYOUT_BHSD;
    expect(ask_of(&m, &ask), ATTN_OK, "");
    ck_assert_int_eq(ask.spec.s_q, 4);
    ck_assert_uint_eq(ask.spec.h_q, 6);
    /* Packed: total 6 in sequences of 0, 2, 4. */
    int32_t offsets[4] = {0, 0, 2, 6};
    message_init(&m, 6, 4, 16, 2);
    for (int i = 0; i < 3; i++) {
        m.tensor[i].n_shape = 3;
        m.tensor[i].shape = m.shape[i] + 1;
    }
    m.request.n_cu_seqlens_q = m.request.n_cu_seqlens_k = 4;
    m.request.cu_seqlens_q = m.request.cu_seqlens_k = offsets;
    expect(ask_of(&m, &ask), ATTN_OK, "");
    ck_assert_uint_eq(ask.spec.layout, ATTN_LAYOUT_THD);
    ck_assert_uint_eq(ask.spec.batch, 3);
    ck_assert_int_eq(ask.cu_seqlens_k[3], 6);
    offsets[2] = 7;
    expect(ask_of(&m, &ask), ATTN_ERR_INVALID_ARGUMENT, "decrease");
    attn_ask_clear(&ask);
}
END_TEST

START_TEST(request_refuses)
{
    const attn_status_t bad = ATTN_ERR_INVALID_ARGUMENT;
    message_t m;
    attn_ask_t ask = {0};
#define WITH(edit, status, word)                                                                                       \
    message_init(&m, 6, 4, 16, 2);                                                                                     \
    edit;                                                                                                              \
    expect(ask_of(&m, &ask), status, word)
    WITH(m.request.q = NULL, bad, "q is missing");
    WITH(m.request.dtype = ATTN__V1__DTYPE__DTYPE_UNSPECIFIED, bad, "dtype");
    WITH(m.tensor[0].n_shape = 3, bad, "4: [batch");
    WITH(m.shape[2][1] = 7, bad, "the same");
    WITH(m.shape[0][3] = 8, bad, "head dim");
    WITH(m.shape[0][2] = 3, bad, "h");
    WITH(m.slice[1].length++, bad, "needs");
    WITH(m.shape[0][1] = UINT64_C(1) << 63, bad, "dimension");
    WITH(for (int i = 0; i < 3; i++) m.shape[i][1] = UINT64_C(1) << 40;
         m.shape[0][2] = m.shape[1][2] = m.shape[2][2] = UINT64_C(1) << 31, ATTN_ERR_TOO_LARGE, "");
    WITH(m.request.priority = 101, bad, "-100 to 100");
    WITH(m.request.variant = (char *)"a b", bad, "name");
    WITH(m.request.id = (char *)"with space", bad, "id");
    WITH(m.tensor[0].where_case = ATTN__V1__TENSOR__WHERE__NOT_SET, bad, "place");
    WITH(m.tensor[0].where_case = ATTN__V1__TENSOR__WHERE_REGION; m.tensor[0].region = &m.region;
         m.region.region = (char *)"mine", ATTN_ERR_NOT_FOUND, "\"mine\"");
    const float scales[] = {0.0f, -1.0f, __builtin_nanf(""), __builtin_inff()};
    for (size_t i = 0; i < 4; i++) {
        WITH(m.request.sm_scale_presence_case = ATTN__V1__ATTENTION_REQUEST__SM_SCALE_PRESENCE_SM_SCALE;
             m.request.sm_scale = scales[i], bad, "sm_scale");
    }
    WITH(m.request.softcap_presence_case = ATTN__V1__ATTENTION_REQUEST__SOFTCAP_PRESENCE_SOFTCAP;
         m.request.softcap = -0.5f, bad, "softcap");
    int32_t offsets[2] = {0, 6};
    WITH(m.request.layout = ATTN__V1__LAYOUT__LAYOUT_BSHD; m.request.n_cu_seqlens_q = 2;
         m.request.cu_seqlens_q = offsets, bad, "thd");
    attn_ask_clear(&ask);
}
END_TEST

/* ---- safetensors ---- */

static attn_status_t header_of(const char *text, uint64_t total, attn_ask_t *ask)
{
    attn_slice_t slices[ATTN_TENSOR_COUNT];
    uint32_t count = 0;
    attn_ask_clear(ask);
    return attn_safetensors_read(text, strlen(text), total, ask, slices, &count, &error);
}

#define TENSOR(name, dtype, shape, begin, end)                                                                         \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}"
#define K48 TENSOR("k", "F16", "[1,3,2,4]", "48", "96")
#define V96 TENSOR("v", "F16", "[1,3,2,4]", "96", "144")

START_TEST(safetensors_reads)
{
    attn_ask_t ask = {0};
    const char *good = "{" TENSOR("q", "F16", "[1,3,2,4]", "0", "48") "," K48 "," V96 "}  ";
    expect(header_of(good, 144, &ask), ATTN_OK, "");
    ck_assert_uint_eq(ask.spec.dtype, ATTN_DTYPE_F16);
    ck_assert_int_eq(ask.spec.s_q, 3);
    expect(header_of(good, 145, &ask), ATTN_ERR_INVALID_ARGUMENT, "exactly");
    expect(header_of(good, 143, &ask), ATTN_ERR_INVALID_ARGUMENT, "outside");
    const struct {
        const char *header, *word;
    } bad[] = {
        {"", "JSON"},
        {"[]", "object"},
        {"{}", "q is missing"},
        {"{" TENSOR("q", "F16", "[1,3,2,4]", "0", "48") "," TENSOR("q", "F16", "[1,3,2,4]", "0", "48") "," K48 "," V96
                                                                                                       "}",
         "duplicate"},
        {"{" TENSOR("q", "F16", "[1,3,2,4]", "0", "48") "," K48 "," V96 "," TENSOR("x", "F16", "[0]", "144", "144") "}",
         "\"x\""},
        {"{" TENSOR("q", "F64", "[1,3,2,4]", "0", "48") "," K48 "," V96 "}", "F64"},
        {"{" TENSOR("q", "BF16", "[1,3,2,4]", "0", "48") "," K48 "," V96 "}", "the same"},
        {"{" TENSOR("q", "F16", "[1,3,2,4]", "0", "47") "," K48 "," V96 "}", "needs"},
        {"{" TENSOR("q", "F16", "[1,3,2,-4]", "0", "48") "," K48 "," V96 "}", "dimension"},
        {"{" TENSOR("q", "F16", "[1,3,2,4.0]", "0", "48") "," K48 "," V96 "}", "dimension"},
        {"{" TENSOR("q", "F16", "[1,3,2,4]", "48", "0") "," K48 "," V96 "}", "begin before end"},
        {"{" TENSOR("q", "F16", "[1,3,2,4]", "1", "49") "," K48 "," V96 "}", "hole"},
        {"{\"q\":{\"dtype\":\"F16\",\"shape\":[1,3,2,4]}," K48 "," V96 "}", "data_offsets"},
        {"{\"__metadata__\":{\"a\":1}}", "strings"},
        {"{\"q\":[[[[[[[[[1]]]]]]]]]}", "nested"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        expect(header_of(bad[i].header, 144, &ask), ATTN_ERR_INVALID_ARGUMENT, bad[i].word);
    }
    expect(header_of("{" TENSOR("sinks", "F16", "[0]", "0", "0") "}", 0, &ask), ATTN_ERR_UNIMPLEMENTED, "sinks");
    attn_ask_clear(&ask);
}
END_TEST

/* What the plain reader takes is what the parser of all JSON reads. */
START_TEST(safetensors_plain_agrees)
{
    static const char *const plain[] = {
        "{" TENSOR("q", "F16", "[1,3,2,4]", "0", "48") "," K48 "," V96 "}  ",
        " {\n" TENSOR("v", "BF16", "[ ]", "0", "0") "\t,\r\"__metadata__\" : { \"a\" : \"\" , \"b\":\"x y\" } }",
        "{\"k\":{\"data_offsets\":[7,999999999999999999],\"dtype\":\"ABCDEFG\",\"shape\":[0,1,2,3,4,5,6,7]}}\n",
        "{" TENSOR("cu_seqlens_q", "I32", "[2]", "0", "8") ",\"__metadata__\":{}," TENSOR("cu_seqlens_k", "I32", "[2]",
                                                                                          "8", "16") "}",
    };
    static const char *const other[] = {
        "",
        "{",
        "{}",
        "{" K48 ",}",
        "{" K48 "}x",
        "{" K48 "," K48 "}",
        "{" TENSOR("q", "F\\u0031", "[1]", "0", "1") "}",
        "{" TENSOR("q", "ABCDEFGH", "[1]", "0", "1") "}",
        "{" TENSOR("q", "F16", "[01]", "0", "1") "}",
        "{" TENSOR("q", "F16", "[1.0]", "0", "1") "}",
        "{" TENSOR("q", "F16", "[1,]", "0", "1") "}",
        "{" TENSOR("q", "F16", "[-1]", "0", "1") "}",
        "{" TENSOR("q", "F16", "[1000000000000000000]", "0", "1") "}",
        "{" TENSOR("q", "F16", "[1,1,1,1,1,1,1,1,1]", "0", "1") "}",
        "{" TENSOR("q", "F16", "[1]", "1", "0") "}",
        "{" TENSOR("x", "F16", "[1]", "0", "1") "}",
        "{\"q\":{\"dtype\":\"F16\",\"shape\":[1]}}",
        "{\"q\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[0]}}",
        "{\"q\":{\"dtype\":\"F16\",\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[0,1]}}",
        "{" K48 ",\"__metadata__\":{\"a\":1}}",
        "{" K48 ",\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}",
        "{\"__metadata__\":{},\"__metadata__\":{}}",
    };
    for (size_t i = 0; i < sizeof plain / sizeof plain[0]; i++) {
        attn_safetensors_entry_t read[ATTN_TENSOR_COUNT] = {{0}}, parsed[ATTN_TENSOR_COUNT] = {{0}};
        ck_assert_msg(attn_safetensors_plain(plain[i], strlen(plain[i]), read), "header %zu is plain", i);
        expect(attn_safetensors_parse(plain[i], strlen(plain[i]), parsed, &error), ATTN_OK, "");
        ck_assert_mem_eq(read, parsed, sizeof read);
    }
    for (size_t i = 0; i < sizeof other / sizeof other[0]; i++) {
        attn_safetensors_entry_t read[ATTN_TENSOR_COUNT] = {{0}};
        ck_assert_msg(!attn_safetensors_plain(other[i], strlen(other[i]), read), "header %zu is not plain", i);
    }
}
END_TEST

START_TEST(json_is_bounded)
{
    size_t size = 100000;
    char *text = malloc(size + 1);
    memset(text, ',', size);
    text[0] = '[';
    text[size] = '\0';
    json_t *root;
    expect(attn_json_parse("body", text, size, &root, &error), ATTN_ERR_INVALID_ARGUMENT, "values");
    memset(text, '"', size);
    expect(attn_json_parse("body", text, size, &root, &error), ATTN_ERR_INVALID_ARGUMENT, "JSON");
    free(text);
}
END_TEST

/* ---- query ---- */

static attn_status_t query(const char *text, attn_query_use_t use, attn_ask_t *ask, attn_compare_ask_t *compare)
{
    memset(ask, 0, sizeof *ask);
    memset(compare, 0, sizeof *compare);
    return attn_query_parse(text, use, ask, compare, &error);
}

START_TEST(query_reads)
{
    attn_ask_t ask;
    attn_compare_ask_t compare;
    expect(query("", ATTN_QUERY_NONE, &ask, &compare), ATTN_OK, "");
    expect(
        query("variant=auto&causal=true&sm%5Fscale=1e-1&softcap=30&return_lse=1&layout=thd&deadline_ms=5&priority=-3&"
              "id=x%2Dy",
              ATTN_QUERY_ATTENTION, &ask, &compare),
        ATTN_OK, "");
    ck_assert(ask.spec.causal && ask.spec.return_lse && ask.has_deadline);
    ck_assert_float_eq(ask.spec.sm_scale, 0.1f);
    ck_assert_int_eq(ask.priority, -3);
    ck_assert_str_eq(ask.id, "x-y");
    ck_assert_uint_eq(ask.spec.layout, ATTN_LAYOUT_THD);
    expect(query("softcap=0.00e5", ATTN_QUERY_ATTENTION, &ask, &compare), ATTN_OK, "");
    ck_assert_float_eq(ask.spec.softcap, 0);
    expect(query("variants=a,b-c&rounds=3&warmup=0&wait=500ms", ATTN_QUERY_COMPARE, &ask, &compare), ATTN_OK, "");
    ck_assert_uint_eq(compare.variant_count, 2);
    ck_assert_str_eq(compare.variants[1], "b-c");
    ck_assert_uint_eq(compare.wait_ms, 500);
    ck_assert(compare.has_warmup && compare.warmup == 0);
}
END_TEST

START_TEST(query_refuses)
{
    static const struct {
        const char *text, *word;
    } bad[] = {
        {"causal=maybe", "true or false"},
        {"causal", "no value"},
        {"causal=1&causal=1", "twice"},
        {"sm_scale=0", "above 0"},
        {"sm_scale=nan", "sm_scale"},
        {"sm_scale=0x1p-3", "sm_scale"},
        {"sm_scale=1e99", "sm_scale"},
        {"sm_scale= 1", "sm_scale"},
        {"softcap=-1", "softcap"},
        {"softcap=inf", "softcap"},
        {"softcap=1e-50", "softcap"},
        {"layout=sbhd", "bhsd"},
        {"priority=101", "-100"},
        {"priority=--1", "-100"},
        {"deadline_ms=-1", "whole"},
        {"deadline_ms=1.5", "whole"},
        {"id=", "id"},
        {"id=a%20b", "id"},
        {"id=%0", "broken"},
        {"id=%00", "broken"},
        {"&", "unknown"},
        {"Causal=true", "unknown"},
        {"variant=x/y", "name"},
        {"wait=30s", "unknown"},
        {"seed=1", "unknown"},
    };
    attn_ask_t ask;
    attn_compare_ask_t compare;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        expect(query(bad[i].text, ATTN_QUERY_ATTENTION, &ask, &compare), ATTN_ERR_INVALID_ARGUMENT, bad[i].word);
    }
    expect(query("window_left=5", ATTN_QUERY_ATTENTION, &ask, &compare), ATTN_ERR_UNIMPLEMENTED, "sliding window");
    expect(query("causal=1", ATTN_QUERY_NONE, &ask, &compare), ATTN_ERR_INVALID_ARGUMENT, "metadata");
    expect(query("variants=a,,b", ATTN_QUERY_COMPARE, &ask, &compare), ATTN_ERR_INVALID_ARGUMENT, "variants");
    expect(query("rounds=0", ATTN_QUERY_COMPARE, &ask, &compare), ATTN_ERR_INVALID_ARGUMENT, "rounds");
    expect(query("wait=2h", ATTN_QUERY_COMPARE_WAIT, &ask, &compare), ATTN_ERR_INVALID_ARGUMENT, "30s");
    expect(query("wait=61m", ATTN_QUERY_COMPARE_WAIT, &ask, &compare), ATTN_ERR_INVALID_ARGUMENT, "hour");
}
END_TEST

/* ---- intake ---- */

static size_t safetensors_body(unsigned char *ret, size_t header_pad)
{
    const char *header = "{" TENSOR("v", "F16", "[1,3,2,4]", "0", "48") "," TENSOR(
        "q", "F16", "[1,3,2,4]", "96", "144") "," TENSOR("k", "F16", "[1,3,2,4]", "48", "96") "}";
    size_t length = strlen(header) + header_pad;
    uint64_t prefix = htole64(length);
    memset(ret + 8, ' ', length);
    memcpy(ret, &prefix, 8);
    memcpy(ret + 8, header, strlen(header));
    for (int i = 0; i < 144; i++) {
        ret[8 + length + (size_t)i] = (unsigned char)i;
    }
    return 8 + length + 144;
}

START_TEST(intake_scatters)
{
    /* Every size of piece, so that every border falls into every place. */
    unsigned char body[1024];
    size_t size = safetensors_body(body, 5);
    for (size_t piece = 1; piece < size; piece = piece < 40 ? piece + 1 : piece + 37) {
        attn_intake_t intake;
        const attn_intake_options_t options = {
            .admit = admit, .framing = ATTN_FRAMING_SAFETENSORS, .body_bytes = size, .max_metadata_bytes = 65536};
        expect(attn_intake_open(&intake, &options, NULL, NULL, &error), ATTN_OK, "");
        for (size_t at = 0; at < size; at += piece) {
            size_t bytes = size - at < piece ? size - at : piece;
            expect(attn_intake_feed(&intake, body + at, bytes, &error), ATTN_OK, "");
        }
        expect(attn_intake_end(&intake, &error), ATTN_OK, "");
        const unsigned char *tensors = body + size - 144;
        ck_assert_mem_eq(intake.v_address, tensors, 48);
        ck_assert_mem_eq(intake.k_address, tensors + 48, 48);
        ck_assert_mem_eq(intake.q_address, tensors + 96, 48);
        ck_assert_uint_eq(intake.q.offset % 4096, 0);
        ck_assert_uint_eq(intake.o.bytes, 48);
        ck_assert_uint_eq(intake.o.offset % 4096, 0);
        ck_assert_uint_ge(intake.o_room, 1024);
        ck_assert_uint_ge(intake.o.offset, intake.o_room);
        memset((char *)intake.o_address - intake.o_room, 0xee, intake.o_room + 48); /* belongs to the request */
        attn_intake_close(&intake);
        attn_intake_close(&intake);
    }
}
END_TEST

START_TEST(intake_refuses)
{
    unsigned char body[1024];
    size_t size = safetensors_body(body, 0);
    attn_intake_t intake;
    attn_intake_options_t options = {
        .admit = admit, .framing = ATTN_FRAMING_SAFETENSORS, .body_bytes = size, .max_metadata_bytes = 65536};
    /* The body ends early, at each place. */
    for (size_t cut = 0; cut < size; cut += 7) {
        expect(attn_intake_open(&intake, &options, NULL, NULL, &error), ATTN_OK, "");
        expect(attn_intake_feed(&intake, body, cut, &error), ATTN_OK, "");
        expect(attn_intake_end(&intake, &error), ATTN_ERR_INVALID_ARGUMENT, "ended");
        attn_intake_close(&intake);
    }
    /* A header longer than the body, and longer than the limit. */
    const uint64_t lengths[] = {UINT64_MAX, UINT64_C(1) << 63, size, size - 7};
    for (size_t i = 0; i < 4; i++) {
        uint64_t length = htole64(lengths[i]);
        expect(attn_intake_open(&intake, &options, NULL, NULL, &error), ATTN_OK, "");
        expect(attn_intake_feed(&intake, &length, 8, &error), ATTN_ERR_INVALID_ARGUMENT, "more");
        attn_intake_close(&intake);
    }
    options.max_metadata_bytes = 100;
    expect(attn_intake_open(&intake, &options, NULL, NULL, &error), ATTN_OK, "");
    expect(attn_intake_feed(&intake, body, size, &error), ATTN_ERR_TOO_LARGE, "at most 100");
    attn_intake_close(&intake);
    /* Never fits: refused before a byte of it. */
    options.body_bytes = UINT64_C(1) << 40;
    expect(attn_intake_open(&intake, &options, NULL, NULL, &error), ATTN_ERR_TOO_LARGE, "bytes");
    attn_intake_close(&intake);
    /* Not x-attn. */
    options.framing = ATTN_FRAMING_XATTN;
    options.body_bytes = size;
    expect(attn_intake_open(&intake, &options, NULL, NULL, &error), ATTN_OK, "");
    expect(attn_intake_feed(&intake, body, size, &error), ATTN_ERR_INVALID_ARGUMENT, "ATTN");
    attn_intake_close(&intake);
}
END_TEST

START_TEST(media)
{
    attn_framing_t framing;
    expect(attn_framing_of_media("Application/X-Attn; a=b", &framing, &error), ATTN_OK, "");
    ck_assert_int_eq(framing, ATTN_FRAMING_XATTN);
    expect(attn_framing_of_media("application/x-attn2", &framing, &error), ATTN_ERR_UNSUPPORTED_MEDIA, "safetensors");
    expect(attn_framing_of_media(NULL, &framing, &error), ATTN_ERR_UNSUPPORTED_MEDIA, "(none)");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("codec");
    TCase *pure = tcase_create("pure");
    tcase_add_test(pure, tiling);
    tcase_add_test(pure, wire_takes);
    tcase_add_test(pure, wire_refuses);
    tcase_add_test(pure, wire_memory_is_bounded);
    tcase_add_test(pure, request_takes);
    tcase_add_test(pure, request_refuses);
    tcase_add_test(pure, safetensors_reads);
    tcase_add_test(pure, safetensors_plain_agrees);
    tcase_add_test(pure, json_is_bounded);
    tcase_add_test(pure, query_reads);
    tcase_add_test(pure, query_refuses);
    tcase_add_test(pure, media);
    suite_add_tcase(suite, pure);
    TCase *intake = tcase_create("intake");
    tcase_add_checked_fixture(intake, setup, teardown);
    tcase_add_test(intake, intake_scatters);
    tcase_add_test(intake, intake_refuses);
    suite_add_tcase(suite, intake);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
