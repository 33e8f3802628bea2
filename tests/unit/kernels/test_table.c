/* kernels/test_table.c: statuses, the table of variants, what rows support, and selection. */
#include <check.h>
#include <stdio.h>
#include <string.h>

#include "attn/engine_variants.h"
#include "attn/select.h"
#include "attn/spec.h"
#include "attn/status.h"

static const attn_device_t cpu = {.kind = ATTN_DEVICE_CPU, .units = 2, .name = "cpu", .uuid = "CPU"};
static const attn_device_t hopper = {.kind = ATTN_DEVICE_CUDA, .arch = 90, .units = 132, .uuid = "GPU-1"};
static const attn_device_t ampere = {.kind = ATTN_DEVICE_CUDA, .arch = 80, .units = 108, .uuid = "GPU-2"};

static attn_need_t need_of(attn_dtype_t dtype, uint32_t d)
{
    attn_spec_t spec = {.dtype = dtype,
                        .layout = ATTN_LAYOUT_BSHD,
                        .batch = 1,
                        .h_q = 8,
                        .h_kv = 2,
                        .d = d,
                        .s_q = 512,
                        .s_kv = 512,
                        .causal = 1};
    attn_sizes_t sizes;
    ck_assert_int_eq(attn_spec_measure(&spec, &sizes, NULL), ATTN_OK);
    attn_need_t need;
    attn_spec_need(&spec, NULL, NULL, 4096, &need);
    return need;
}

START_TEST(statuses)
{
    const struct {
        attn_status_t status;
        int http;
    } rows[] = {{ATTN_OK, 200},
                {ATTN_ERR_INVALID_ARGUMENT, 400},
                {ATTN_ERR_NOT_FOUND, 404},
                {ATTN_ERR_FAILED_PRECONDITION, 422},
                {ATTN_ERR_TOO_LARGE, 413},
                {ATTN_ERR_UNIMPLEMENTED, 501},
                {ATTN_ERR_LENGTH_REQUIRED, 411},
                {ATTN_ERR_UNSUPPORTED_MEDIA, 415},
                {ATTN_ERR_METHOD, 405},
                {ATTN_ERR_PERMISSION, 403},
                {ATTN_ERR_UNAVAILABLE, 503},
                {ATTN_ERR_DEADLINE_EXCEEDED, 504},
                {ATTN_ERR_CANCELLED, 499},
                {ATTN_ERR_TIMEOUT, 408},
                {ATTN_ERR_INTERNAL, 500},
                {ATTN_ERR_NO_MEMORY, 500},
                {ATTN_ERR_DEVICE, 500},
                {ATTN_ERR_WORKER_DIED, 500},
                {ATTN_ERR_SYSTEM, 500}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        ck_assert_int_eq(attn_status_http(rows[i].status), rows[i].http);
        for (size_t j = 0; j < i; j++)
            ck_assert_str_ne(attn_status_name(rows[i].status), attn_status_name(rows[j].status));
        if (rows[i].status > -20) /* the request itself is wrong */
            ck_assert(!attn_status_retryable(rows[i].status));
    }
    ck_assert(attn_status_retryable(ATTN_ERR_UNAVAILABLE));
    ck_assert(!attn_status_retryable(ATTN_ERR_WORKER_DIED)); /* it ran alone, and would again */
    ck_assert_str_eq(attn_status_name((attn_status_t)-999), "UNKNOWN");
    ck_assert_int_eq(attn_status_http((attn_status_t)-999), 500);
}
END_TEST

START_TEST(errors)
{
    attn_error_t err;
    ck_assert_int_eq(attn_error_set(&err, ATTN_ERR_NOT_FOUND, "no %s", "region"), ATTN_ERR_NOT_FOUND);
    ck_assert_str_eq(err.message, "no region");
    ck_assert_int_eq(attn_error_set(&err, ATTN_ERR_INTERNAL, "first: %s", err.message), ATTN_ERR_INTERNAL);
    ck_assert_str_eq(err.message, "first: no region");
    char longer[2 * ATTN_ERROR_MESSAGE_MAX];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    attn_error_set(&err, ATTN_ERR_INTERNAL, "%s", longer);
    ck_assert_uint_eq(strlen(err.message), ATTN_ERROR_MESSAGE_MAX - 1);
    ck_assert_int_eq(attn_error_set(NULL, ATTN_ERR_TIMEOUT, "unheard"), ATTN_ERR_TIMEOUT);
}
END_TEST

START_TEST(rows_are_sane)
{
    size_t count;
    const attn_variant_info_t *const *rows = attn_variant_table(&count);
    ck_assert_uint_gt(count, 4);
    const attn_need_t need = need_of(ATTN_DTYPE_BF16, 128);
    for (size_t i = 0; i < count; i++) {
        const attn_variant_info_t *row = rows[i];
        ck_assert_ptr_eq(attn_variant_find(row->name), row); /* unique, too */
        ck_assert_uint_gt(strlen(row->summary), 10);
        ck_assert_ptr_null(strchr(row->summary, '\n'));
        ck_assert_uint_ne(row->devices, 0);
        ck_assert_uint_ne(row->dtypes, 0);
        ck_assert(row->d_min >= 1 && row->d_max <= ATTN_HEAD_DIM_MAX && row->d_multiple >= 1);
        ck_assert(row->alignment >= 1 && row->stride_alignment >= 1);
        ck_assert(!(row->test_only && row->auto_select));
        ck_assert(!(row->deprecated_for && row->auto_select));
        if (row->deprecated_for)
            ck_assert_ptr_nonnull(attn_variant_find(row->deprecated_for));
        if (row->devices & (1u << ATTN_DEVICE_CPU)) {
            ck_assert_double_gt(row->cost_us(&need, &cpu), 0);
            ck_assert_msg(attn_cpu_variant_find(row->name) != NULL, "nothing runs %s on the CPU", row->name);
            ck_assert_ptr_eq(attn_cpu_variant_find(row->name)->info, row);
        }
        if (row->devices & (1u << ATTN_DEVICE_CUDA))
            ck_assert_double_gt(row->cost_us(&need, &hopper), 0);
    }
    ck_assert_ptr_null(attn_variant_find("no such"));
    ck_assert_ptr_null(attn_variant_find(""));
    ck_assert_ptr_null(attn_variant_find(NULL));
    ck_assert_ptr_null(attn_cpu_variant_find("no such"));
}
END_TEST

START_TEST(cost_scales)
{
    const attn_need_t small = need_of(ATTN_DTYPE_F32, 64);
    attn_need_t large = small;
    large.flops *= 1000;
    const attn_device_t many = {.kind = ATTN_DEVICE_CPU, .units = 64};
    for (int i = 0; i < 2; i++) {
        const attn_variant_info_t *row = attn_variant_find(i ? "reference" : "cpu");
        ck_assert_double_gt(row->cost_us(&large, &cpu), 100 * row->cost_us(&small, &cpu));
        ck_assert_double_lt(row->cost_us(&large, &many), row->cost_us(&large, &cpu) / 16);
    }
}
END_TEST

START_TEST(supports_lists_everything_missing)
{
    const attn_variant_info_t narrow = {.name = "narrow",
                                        .devices = 1u << ATTN_DEVICE_CUDA,
                                        .arch_min = 90,
                                        .arch_max = 90,
                                        .dtypes = 1u << ATTN_DTYPE_F16,
                                        .d_min = 64,
                                        .d_max = 128,
                                        .d_multiple = 64,
                                        .features = ATTN_FEATURE_NON_CAUSAL,
                                        .alignment = 16,
                                        .stride_alignment = 16};
    attn_need_t need = need_of(ATTN_DTYPE_F32, 96);
    need.alignment = 4;
    need.stride_alignment = 2;
    attn_missing_t missing;
    ck_assert_int_eq(attn_variant_supports(&narrow, &need, &ampere, &missing), ATTN_ERR_FAILED_PRECONDITION);
    ck_assert_uint_eq(missing.count, 7); /* arch, dtype, head_dim, causal, gqa, two alignments */
    const char *const words[] = {"sm_80", "fp32", "96", "causal", "gqa", "alignment"};
    for (size_t w = 0; w < sizeof words / sizeof words[0]; w++) {
        bool found = false;
        for (uint32_t i = 0; i < missing.count; i++)
            found |= strstr(missing.item[i], words[w]) != NULL;
        ck_assert_msg(found, "no reason names %s", words[w]);
    }
    ck_assert_int_eq(attn_variant_supports(&narrow, &need, &cpu, NULL), ATTN_ERR_FAILED_PRECONDITION);
    need = need_of(ATTN_DTYPE_F16, 128);
    need.features = ATTN_FEATURE_NON_CAUSAL;
    ck_assert_int_eq(attn_variant_supports(&narrow, &need, &hopper, &missing), ATTN_OK);
    ck_assert_uint_eq(missing.count, 0);
    attn_missing_t full = {0};
    for (int i = 0; i < ATTN_MISSING_MAX + 5; i++)
        attn_missing_add(&full, "%0200d", i); /* longer than an item, more than fit */
    ck_assert_uint_eq(full.count, ATTN_MISSING_MAX);
    ck_assert_uint_eq(strlen(full.item[0]), ATTN_MISSING_TEXT - 1);
}
END_TEST

static bool blocked_named(const attn_variant_info_t *info, const attn_device_t *device, void *arg, char *detail,
                          size_t size)
{
    (void)device;
    if (strcmp(info->name, arg) != 0)
        return false;
    snprintf(detail, size, "quarantined: SIGABRT twice");
    return true;
}

START_TEST(selects_the_cheapest)
{
    const attn_device_t *const both[] = {&cpu, &hopper};
    const attn_need_t half = need_of(ATTN_DTYPE_BF16, 128), single = need_of(ATTN_DTYPE_F32, 128);
    attn_choice_t choice;
    attn_error_t err;
    ck_assert_int_eq(attn_variant_select(NULL, &half, both, 2, NULL, NULL, &choice, NULL, &err), ATTN_OK);
    ck_assert_str_eq(choice.variant->name, "unified");
    ck_assert_uint_eq(choice.device, 1);
    ck_assert_ptr_nonnull(strstr(choice.reason, "auto"));
    ck_assert_int_eq(attn_variant_select(NULL, &half, both, 1, NULL, NULL, &choice, NULL, &err), ATTN_OK);
    ck_assert_str_eq(choice.variant->name, "cpu");
    ck_assert_int_eq(attn_variant_select(NULL, &single, both, 2, NULL, NULL, &choice, NULL, &err), ATTN_OK);
    ck_assert_str_ne(choice.variant->name, "unified"); /* fp32 is not among its dtypes */

    ck_assert_int_eq(attn_variant_select(NULL, &half, both, 2, blocked_named, "unified", &choice, NULL, &err), ATTN_OK);
    ck_assert_str_ne(choice.variant->name, "unified");
}
END_TEST

START_TEST(never_replaces_a_named_one)
{
    const attn_device_t *const only_cpu[] = {&cpu};
    const attn_need_t need = need_of(ATTN_DTYPE_BF16, 128);
    attn_choice_t choice = {.device = 77};
    attn_missing_t missing = {0};
    attn_error_t err;
    const attn_variant_info_t *unified = attn_variant_find("unified");
    ck_assert_int_eq(attn_variant_select(unified, &need, only_cpu, 1, NULL, NULL, &choice, &missing, &err),
                     ATTN_ERR_FAILED_PRECONDITION);
    ck_assert_uint_eq(choice.device, 77);
    ck_assert_uint_eq(missing.count, 1);
    ck_assert_ptr_nonnull(strstr(err.message, "unified"));
    ck_assert_ptr_nonnull(strstr(err.message, "device"));

    const attn_variant_info_t *named = attn_variant_find("reference");
    ck_assert_int_eq(attn_variant_select(named, &need, only_cpu, 1, NULL, NULL, &choice, &missing, &err), ATTN_OK);
    ck_assert_ptr_eq(choice.variant, named);
    ck_assert_int_eq(
        attn_variant_select(named, &need, only_cpu, 1, blocked_named, "reference", &choice, &missing, &err),
        ATTN_ERR_UNAVAILABLE);
    ck_assert_ptr_nonnull(strstr(err.message, "SIGABRT"));
    ck_assert_int_eq(attn_variant_select(named, &need, only_cpu, 0, NULL, NULL, &choice, &missing, &err),
                     ATTN_ERR_UNAVAILABLE);
    ck_assert_int_eq(attn_variant_select(NULL, &need, only_cpu, 0, NULL, NULL, &choice, &missing, &err),
                     ATTN_ERR_UNAVAILABLE);
}
END_TEST

START_TEST(outputs_lie_apart)
{
    const attn_span_t inputs[] = {{1, 0, 100}, {1, 50, 100}, {2, 0, 10}};
    attn_span_t outputs[] = {{1, 150, 10}, {1, 160, 4}};
    ck_assert(!attn_outputs_overlap(inputs, 3, outputs, 2));
    outputs[0].begin = 149;
    ck_assert(attn_outputs_overlap(inputs, 3, outputs, 2));
    outputs[0].bytes = 0; /* nothing of it lies anywhere */
    ck_assert(!attn_outputs_overlap(inputs, 3, outputs, 2));
    outputs[0] = (attn_span_t){2, 10, UINT64_MAX - 10}; /* no sum overflows */
    ck_assert(!attn_outputs_overlap(inputs, 3, outputs, 2));
    outputs[0] = (attn_span_t){3, 0, 5};
    outputs[1] = (attn_span_t){3, 4, 5};
    ck_assert(attn_outputs_overlap(inputs, 3, outputs, 2));
    ck_assert(!attn_outputs_overlap(inputs, 3, outputs, 1));

    attn_need_t need = need_of(ATTN_DTYPE_F16, 128);
    attn_missing_t missing;
    need.outputs_overlap = true;
    size_t count;
    const attn_variant_info_t *const *rows = attn_variant_table(&count);
    for (size_t i = 0; i < count; i++) {
        ck_assert_int_eq(attn_variant_supports(rows[i], &need, &cpu, &missing), ATTN_ERR_FAILED_PRECONDITION);
        ck_assert_ptr_nonnull(strstr(missing.item[missing.count - 1], "overlap"));
    }
}
END_TEST

/* The deprecated names keep what the old kernels could and were; they are never chosen by auto. */
START_TEST(aliases_keep_their_limits)
{
    const attn_variant_info_t *square = attn_variant_find("gqa_fwd_ws");
    const attn_variant_info_t *prefill = attn_variant_find("gqa_prefill_fwd_ws");
    const struct {
        attn_dtype_t dtype;
        uint32_t d;
        int64_t s_q, s_kv;
        bool causal, lse;
        float softcap;
        bool square_can, prefill_can;
    } rows[] = {
        {ATTN_DTYPE_F16, 128, 500, 500, true, false, 0, true, true},
        {ATTN_DTYPE_F16, 128, 500, 500, false, false, 0, true, false},
        {ATTN_DTYPE_F16, 128, 100, 500, true, false, 0, false, true},
        {ATTN_DTYPE_F16, 128, 100, 500, false, false, 0, false, false},
        {ATTN_DTYPE_F16, 128, 500, 100, true, false, 0, false, false},
        {ATTN_DTYPE_F16, 64, 500, 500, true, false, 0, false, false},
        {ATTN_DTYPE_F16, 256, 500, 500, true, false, 0, false, false},
        {ATTN_DTYPE_BF16, 128, 500, 500, true, false, 0, false, false},
        {ATTN_DTYPE_F16, 128, 500, 500, true, true, 0, false, false},
        {ATTN_DTYPE_F16, 128, 500, 500, true, false, 30, false, false},
        {ATTN_DTYPE_F16, 128, 0, 500, true, false, 0, false, false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        attn_spec_t spec = {.dtype = rows[i].dtype,
                            .layout = ATTN_LAYOUT_BSHD,
                            .batch = 1,
                            .h_q = 8,
                            .h_kv = 2,
                            .d = rows[i].d,
                            .s_q = rows[i].s_q,
                            .s_kv = rows[i].s_kv,
                            .causal = rows[i].causal,
                            .return_lse = rows[i].lse,
                            .softcap = rows[i].softcap};
        attn_sizes_t sizes;
        attn_need_t need;
        ck_assert_int_eq(attn_spec_measure(&spec, &sizes, NULL), ATTN_OK);
        attn_spec_need(&spec, NULL, NULL, 4096, &need);
        ck_assert_msg((attn_variant_supports(square, &need, &hopper, NULL) == ATTN_OK) == rows[i].square_can,
                      "gqa_fwd_ws, row %zu", i);
        ck_assert_msg((attn_variant_supports(prefill, &need, &hopper, NULL) == ATTN_OK) == rows[i].prefill_can,
                      "gqa_prefill_fwd_ws, row %zu", i);
    }
    ck_assert_str_eq(square->deprecated_for, "unified");
    ck_assert_str_eq(prefill->deprecated_for, "unified");
    ck_assert(!square->auto_select && !prefill->auto_select);
}
END_TEST

int main(void)
{
    TCase *tests = tcase_create("table");
    tcase_add_test(tests, statuses);
    tcase_add_test(tests, errors);
    tcase_add_test(tests, rows_are_sane);
    tcase_add_test(tests, cost_scales);
    tcase_add_test(tests, supports_lists_everything_missing);
    tcase_add_test(tests, selects_the_cheapest);
    tcase_add_test(tests, never_replaces_a_named_one);
    tcase_add_test(tests, outputs_lie_apart);
    tcase_add_test(tests, aliases_keep_their_limits);
    Suite *suite = suite_create("kernels_table");
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
