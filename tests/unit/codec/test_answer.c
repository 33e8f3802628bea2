/* What the codec writes: heads of answers in both framings, read back by other readers, and errors as JSON. */
#include <check.h>
#include <endian.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attn/v1/attention.pb-c.h"
#include "codec/answer.h"
#include "codec/json.h"
#include "codec/xattn.h"

static attn_error_t error;

START_TEST(answers_read_back)
{
    attn_request_t request = {.id = "id-1", .op = ATTN_OP_RUN};
    attn_sizes_t sizes;
    request.spec = (attn_spec_t){.dtype = ATTN_DTYPE_BF16,
                                 .layout = ATTN_LAYOUT_BHSD,
                                 .batch = 2,
                                 .h_q = 4,
                                 .h_kv = 2,
                                 .d = 8,
                                 .s_q = 3,
                                 .s_kv = 5,
                                 .return_lse = 1};
    ck_assert_int_eq(attn_spec_measure(&request.spec, &sizes, &error), ATTN_OK);
    snprintf(request.outcome.reason, sizeof request.outcome.reason, "because \"%s\"", "\xc2\xb5s");
    snprintf(request.outcome.device, sizeof request.outcome.device, "CPU");
    void *head;
    size_t bytes;
    ck_assert_int_eq(attn_answer_head(ATTN_FRAMING_SAFETENSORS, &request, &sizes, &head, &bytes, &error), ATTN_OK);
    ck_assert_uint_eq(bytes % 8, 0);
    uint64_t length;
    memcpy(&length, head, 8);
    ck_assert_uint_eq(le64toh(length), bytes - 8);
    json_t *root = json_loadb((char *)head + 8, bytes - 8, 0, NULL);
    ck_assert_ptr_nonnull(root);
    const json_t *metadata = json_object_get(root, "__metadata__");
    ck_assert_str_eq(json_string_value(json_object_get(metadata, "id")), "id-1");
    ck_assert_str_eq(json_string_value(json_object_get(metadata, "reason")), request.outcome.reason);
    const json_t *lse = json_object_get(root, "lse");
    ck_assert_int_eq(json_integer_value(json_array_get(json_object_get(lse, "data_offsets"), 1)),
                     (json_int_t)(sizes.o + sizes.lse));
    const json_t *o_shape = json_object_get(json_object_get(root, "o"), "shape");
    const json_int_t wanted[4] = {2, 4, 3, 8};
    for (size_t i = 0; i < 4; i++) {
        ck_assert_int_eq(json_integer_value(json_array_get(o_shape, i)), wanted[i]);
    }
    json_decref(root);
    free(head);
    ck_assert_int_eq(attn_answer_head(ATTN_FRAMING_XATTN, &request, &sizes, &head, &bytes, &error), ATTN_OK);
    uint32_t metadata_bytes;
    ck_assert_int_eq(attn_xattn_prefix_read(head, &metadata_bytes, &error), ATTN_OK);
    ck_assert_uint_eq(metadata_bytes, bytes - ATTN_XATTN_PREFIX);
    Attn__V1__AttentionResponse *response =
        attn__v1__attention_response__unpack(NULL, metadata_bytes, (uint8_t *)head + ATTN_XATTN_PREFIX);
    ck_assert_ptr_nonnull(response);
    ck_assert_str_eq(response->outcome->device, "CPU");
    ck_assert_uint_eq(response->lse->body->offset, sizes.o);
    ck_assert_uint_eq(response->lse->shape[2], 3);
    attn__v1__attention_response__free_unpacked(response, NULL);
    free(head);
}
END_TEST

START_TEST(errors_as_json)
{
    attn_missing_t missing = {.count = 1, .item = {"lse: asked for, not there"}};
    attn_error_set(&error, ATTN_ERR_FAILED_PRECONDITION, "a \"sentence\"\n%c", 0xc3); /* cut within a character */
    char *text = attn_json_error(&error, "r-1", &missing);
    json_t *root = json_loads(text, 0, NULL);
    ck_assert_ptr_nonnull(root);
    ck_assert_str_eq(json_string_value(json_object_get(root, "code")), "FAILED_PRECONDITION");
    ck_assert_str_eq(json_string_value(json_object_get(root, "request_id")), "r-1");
    ck_assert(json_is_false(json_object_get(root, "retryable")));
    ck_assert_uint_eq(json_array_size(json_object_get(root, "missing")), 1);
    json_decref(root);
    free(text);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("answers");
    TCase *answers = tcase_create("answers");
    tcase_add_test(answers, answers_read_back);
    tcase_add_test(answers, errors_as_json);
    suite_add_tcase(suite, answers);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
