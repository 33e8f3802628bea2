/* test_compare_json.c: what POST /v1/compare accepts in JSON, what it refuses and with which words, and how a job is
 * written. */
#include <check.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "codec/compare_json.h"

static attn_ask_t ask;
static attn_compare_ask_t compare;
static attn_error_t error;

static attn_status_t take(const char *text)
{
    attn_ask_clear(&ask);
    memset(&compare, 0, sizeof compare);
    return attn_compare_json_read(text, strlen(text), &ask, &compare, &error);
}

START_TEST(test_smallest)
{
    ck_assert_int_eq(take("{\"shape\":{\"s_q\":16,\"h_q\":4,\"d\":64}}"), ATTN_OK);
    ck_assert_uint_eq(ask.spec.batch, 1);
    ck_assert_int_eq(ask.spec.s_kv, 16);
    ck_assert_uint_eq(ask.spec.h_kv, 4);
    ck_assert_uint_eq(ask.spec.dtype, ATTN_DTYPE_BF16);
    ck_assert_uint_eq(ask.spec.layout, ATTN_LAYOUT_BSHD);
    ck_assert_float_eq_tol(ask.spec.sm_scale, 0.125f, 1e-7f);
    ck_assert_uint_eq(ask.sizes.q, 16 * 4 * 64 * 2);
    ck_assert(compare.has_seed);
    ck_assert_uint_eq(compare.variant_count, 0);
}
END_TEST

START_TEST(test_everything)
{
    ck_assert_int_eq(
        take("{\"shape\":{\"batch\":2,\"s_q\":16,\"s_kv\":32,\"h_q\":8,\"h_kv\":2,\"d\":96},\"seed\":9,"
             "\"variants\":[\"cpu\",\"reference\"],\"reference\":\"reference\",\"dtype\":\"fp16\",\"layout\":\"bhsd\","
             "\"causal\":true,\"sm_scale\":0.5,\"softcap\":30,\"return_lse\":true,\"warmup\":0,\"rounds\":5}"),
        ATTN_OK);
    ck_assert_uint_eq(compare.seed, 9);
    ck_assert_uint_eq(compare.variant_count, 2);
    ck_assert_str_eq(compare.variants[1], "reference");
    ck_assert_uint_eq(ask.spec.dtype, ATTN_DTYPE_F16);
    ck_assert_uint_eq(ask.spec.layout, ATTN_LAYOUT_BHSD);
    ck_assert_uint_eq(ask.spec.causal, 1);
    ck_assert_uint_eq(ask.spec.return_lse, 1);
    ck_assert_float_eq(ask.spec.sm_scale, 0.5f);
    ck_assert_float_eq(ask.spec.softcap, 30.0f);
    ck_assert(compare.has_warmup && compare.has_rounds);
    ck_assert_uint_eq(compare.rounds, 5);
}
END_TEST

START_TEST(test_packed)
{
    ck_assert_int_eq(take("{\"shape\":{\"h_q\":2,\"d\":8},\"layout\":\"thd\",\"cu_seqlens_q\":[0,3,5],"
                          "\"cu_seqlens_k\":[0,4,9]}"),
                     ATTN_OK);
    ck_assert_uint_eq(ask.spec.batch, 2);
    ck_assert_int_eq(ask.spec.s_q, 5);
    ck_assert_int_eq(ask.spec.s_kv, 9);
    ck_assert_int_eq(ask.cu_seqlens_k[1], 4);
}
END_TEST

/* What is wrong, and a word that the sentence must have. */
static const struct {
    const char *text, *word;
    attn_status_t status;
} wrong[] = {
    {"", "JSON", ATTN_ERR_INVALID_ARGUMENT},
    {"[]", "object", ATTN_ERR_INVALID_ARGUMENT},
    {"{}", "shape", ATTN_ERR_INVALID_ARGUMENT},
    {"{\"shape\":[1,2]}", "shape", ATTN_ERR_INVALID_ARGUMENT},
    {"{\"shape\":{\"s_q\":16,\"h_q\":4}}", "d;", ATTN_ERR_INVALID_ARGUMENT},
    {"{\"shape\":{\"s_q\":16,\"h_q\":4,\"d\":64,\"s_k\":3}}", "s_k", ATTN_ERR_INVALID_ARGUMENT},
    {"{\"shape\":{\"s_q\":-1,\"h_q\":4,\"d\":64}}", "s_q", ATTN_ERR_INVALID_ARGUMENT},
    {"{\"shape\":{\"s_q\":1.5,\"h_q\":4,\"d\":64}}", "s_q", ATTN_ERR_INVALID_ARGUMENT},
    {"{\"shape\":{\"s_q\":16,\"h_q\":4294967296,\"d\":64}}", "h_q", ATTN_ERR_INVALID_ARGUMENT},
    {"{\"shape\":{\"s_q\":16,\"h_q\":4,\"h_kv\":3,\"d\":64}}", "divisible", ATTN_ERR_INVALID_ARGUMENT},
    {"{\"shape\":{\"s_q\":1099511627776,\"h_q\":4294967295,\"d\":256}}", "", ATTN_ERR_TOO_LARGE},
    {"{\"shape\":{\"s_q\":16,\"h_q\":4,\"d\":64},\"seed\":-1}", "seed", ATTN_ERR_INVALID_ARGUMENT},
    {"{\"shape\":{\"s_q\":16,\"h_q\":4,\"d\":64},\"seed\":1,\"seed\":1}", "JSON", ATTN_ERR_INVALID_ARGUMENT},
    {"{\"shape\":{\"s_q\":16,\"h_q\":4,\"d\":64},\"variants\":\"cpu\"}", "variants", ATTN_ERR_INVALID_ARGUMENT},
    {"{\"shape\":{\"s_q\":16,\"h_q\":4,\"d\":64},\"variants\":[1]}", "variants", ATTN_ERR_INVALID_ARGUMENT},
    {"{\"shape\":{\"s_q\":16,\"h_q\":4,\"d\":64},\"variants\":[\"a b\"]}", "a b", ATTN_ERR_INVALID_ARGUMENT},
    {"{\"shape\":{\"s_q\":16,\"h_q\":4,\"d\":64},\"dtype\":\"fp8\"}", "bf16", ATTN_ERR_INVALID_ARGUMENT},
    {"{\"shape\":{\"s_q\":16,\"h_q\":4,\"d\":64},\"layout\":\"sbhd\"}", "bshd", ATTN_ERR_INVALID_ARGUMENT},
    {"{\"shape\":{\"s_q\":16,\"h_q\":4,\"d\":64},\"causal\":1}", "causal", ATTN_ERR_INVALID_ARGUMENT},
    {"{\"shape\":{\"s_q\":16,\"h_q\":4,\"d\":64},\"sm_scale\":0}", "sm_scale", ATTN_ERR_INVALID_ARGUMENT},
    {"{\"shape\":{\"s_q\":16,\"h_q\":4,\"d\":64},\"sm_scale\":1e300}", "sm_scale", ATTN_ERR_INVALID_ARGUMENT},
    {"{\"shape\":{\"s_q\":16,\"h_q\":4,\"d\":64},\"softcap\":-1}", "softcap", ATTN_ERR_INVALID_ARGUMENT},
    {"{\"shape\":{\"s_q\":16,\"h_q\":4,\"d\":64},\"softcap\":1e-50}", "softcap", ATTN_ERR_INVALID_ARGUMENT},
    {"{\"shape\":{\"s_q\":16,\"h_q\":4,\"d\":64},\"rounds\":1001}", "rounds", ATTN_ERR_INVALID_ARGUMENT},
    {"{\"shape\":{\"s_q\":16,\"h_q\":4,\"d\":64},\"window_left\":4}", "window", ATTN_ERR_UNIMPLEMENTED},
    {"{\"shape\":{\"s_q\":16,\"h_q\":4,\"d\":64},\"colour\":4}", "colour", ATTN_ERR_INVALID_ARGUMENT},
    {"{\"shape\":{\"s_q\":16,\"h_q\":4,\"d\":64},\"layout\":\"thd\"}", "cu_seqlens", ATTN_ERR_INVALID_ARGUMENT},
    {"{\"shape\":{\"s_q\":16,\"h_q\":4,\"d\":64},\"cu_seqlens_q\":[0,16]}", "cu_seqlens", ATTN_ERR_INVALID_ARGUMENT},
    {"{\"shape\":{\"h_q\":2,\"d\":8},\"layout\":\"thd\",\"cu_seqlens_q\":[0,5,3],\"cu_seqlens_k\":[0,4,9]}",
     "cu_seqlens_q", ATTN_ERR_INVALID_ARGUMENT},
    {"{\"shape\":{\"h_q\":2,\"d\":8},\"layout\":\"thd\",\"cu_seqlens_q\":[],\"cu_seqlens_k\":[0,4,9]}", "cu_seqlens_q",
     ATTN_ERR_INVALID_ARGUMENT},
    {"{\"shape\":{\"h_q\":2,\"d\":8},\"layout\":\"thd\",\"cu_seqlens_q\":[0,3],\"cu_seqlens_k\":[0,4,9]}", "cu_seqlens",
     ATTN_ERR_INVALID_ARGUMENT},
};

START_TEST(test_wrong)
{
    attn_status_t status = take(wrong[_i].text);
    ck_assert_msg(status == wrong[_i].status, "%s: %s: %s", wrong[_i].text, attn_status_name(status), error.message);
    ck_assert_msg(strstr(error.message, wrong[_i].word) != NULL, "%s: %s", wrong[_i].text, error.message);
    attn_ask_clear(&ask);
}
END_TEST

START_TEST(test_write)
{
    attn_compare_view_t *view = calloc(1, sizeof *view);
    strcpy(view->id, "abc");
    view->state = ATTN_COMPARE_DONE;
    view->spec = (attn_spec_t){.dtype = ATTN_DTYPE_BF16, .layout = ATTN_LAYOUT_BSHD, .batch = 1, .h_q = 2, .h_kv = 1};
    view->has_seed = true;
    view->seed = UINT64_MAX;
    view->seqlens_count = 2;
    view->cu_seqlens_k[1] = 9;
    view->row_count = 3;
    for (int i = 0; i < 3; i++) {
        view->rows[i].variant = attn_variant_find("cpu");
        view->rows[i].done = i < 2;
    }
    view->rows[0].judgement.max_abs = NAN;
    view->rows[0].judgement.rmse = 0.5;
    attn_error_set(&view->rows[1].error, ATTN_ERR_WORKER_DIED, "cpu: signal 11, \"\xff\"");
    attn_missing_add(&view->rows[1].missing, "one");
    char *text = attn_compare_json_write(view, true);
    ck_assert_ptr_nonnull(text);
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    ck_assert_ptr_nonnull(root);
    ck_assert_str_eq(json_string_value(json_object_get(root, "state")), "done");
    json_t *result = json_object_get(root, "result"), *rows = json_object_get(result, "results");
    ck_assert_str_eq(json_string_value(json_object_get(result, "seed")), "18446744073709551615");
    ck_assert_uint_eq(json_array_size(rows), 2);
    json_t *seqlens = json_object_get(json_object_get(result, "problem"), "cu_seqlens_k");
    ck_assert_int_eq(json_integer_value(json_array_get(seqlens, 1)), 9);
    json_t *accuracy = json_object_get(json_array_get(rows, 0), "accuracy");
    ck_assert(json_is_null(json_object_get(accuracy, "max_abs")));
    ck_assert_double_eq(json_real_value(json_object_get(accuracy, "rmse")), 0.5);
    json_t *failure = json_object_get(json_array_get(rows, 1), "error");
    ck_assert_str_eq(json_string_value(json_object_get(failure, "code")), "WORKER_DIED");
    ck_assert_ptr_nonnull(strstr(json_string_value(json_object_get(failure, "error")), "signal 11"));
    ck_assert_uint_eq(json_array_size(json_object_get(failure, "missing")), 1);
    json_decref(root);
    free(text);
    free(view);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("compare_json");
    TCase *all = tcase_create("all");
    tcase_add_test(all, test_smallest);
    tcase_add_test(all, test_everything);
    tcase_add_test(all, test_packed);
    tcase_add_loop_test(all, test_wrong, 0, (int)(sizeof wrong / sizeof wrong[0]));
    tcase_add_test(all, test_write);
    suite_add_tcase(suite, all);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
