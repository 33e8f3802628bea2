/* kernels/test_spec.c: the size routine against sizes that lie, and what a spec expands to. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "attn/spec.h"

static attn_spec_t spec_valid(void)
{
    return (attn_spec_t){.dtype = ATTN_DTYPE_BF16,
                         .layout = ATTN_LAYOUT_BSHD,
                         .batch = 2,
                         .h_q = 8,
                         .h_kv = 2,
                         .d = 64,
                         .s_q = 10,
                         .s_kv = 20,
                         .return_lse = 1};
}

/* Expects a refusal that leaves spec and sizes alone and whose sentence has `word`. */
static void spec_refused(attn_spec_t spec, attn_status_t status, const char *word)
{
    attn_sizes_t sizes, sizes_before;
    memset(&sizes, 0x5a, sizeof sizes);
    sizes_before = sizes;
    const attn_spec_t before = spec;
    attn_error_t err = {0};
    ck_assert_int_eq(attn_spec_measure(&spec, &sizes, &err), status);
    ck_assert_int_eq(err.status, status);
    ck_assert_msg(strstr(err.message, word) != NULL, "'%s' is not in: %s", word, err.message);
    ck_assert_mem_eq(&spec, &before, sizeof spec);
    ck_assert_mem_eq(&sizes, &sizes_before, sizeof sizes);
    ck_assert_int_eq(attn_spec_measure(&spec, &sizes, NULL), status);
}

START_TEST(measures)
{
    attn_spec_t spec = spec_valid();
    attn_sizes_t sizes;
    ck_assert_int_eq(attn_spec_measure(&spec, &sizes, NULL), ATTN_OK);
    ck_assert_uint_eq(sizes.q, 2 * 10 * 8 * 64 * 2);
    ck_assert_uint_eq(sizes.k, 2 * 20 * 2 * 64 * 2);
    ck_assert_uint_eq(sizes.v, sizes.k);
    ck_assert_uint_eq(sizes.o, sizes.q);
    ck_assert_uint_eq(sizes.lse, 2 * 10 * 8 * 4);
    ck_assert_float_eq(spec.sm_scale, 0.125f);

    spec.return_lse = 0;
    spec.layout = ATTN_LAYOUT_THD; /* s is the total: batch does not multiply */
    ck_assert_int_eq(attn_spec_measure(&spec, &sizes, NULL), ATTN_OK);
    ck_assert_uint_eq(sizes.q, 10 * 8 * 64 * 2);
    ck_assert_uint_eq(sizes.lse, 0);
}
END_TEST

START_TEST(empty_is_valid)
{
    for (int which = 0; which < 3; which++) {
        attn_spec_t spec = spec_valid();
        *(which == 0 ? &spec.s_q : &spec.s_kv) = 0;
        if (which == 2)
            spec.batch = 0;
        attn_sizes_t sizes;
        ck_assert_int_eq(attn_spec_measure(&spec, &sizes, NULL), ATTN_OK);
        ck_assert_uint_eq(which == 0 ? sizes.q : sizes.k, 0);
    }
}
END_TEST

START_TEST(refuses_nonsense)
{
    attn_spec_t s;
#define REFUSED(field, value, word)                                                                                    \
    s = spec_valid();                                                                                                  \
    s.field = (value);                                                                                                 \
    spec_refused(s, ATTN_ERR_INVALID_ARGUMENT, word)
    REFUSED(dtype, 0, "dtype");
    REFUSED(dtype, 4, "dtype");
    REFUSED(dtype, UINT32_MAX, "dtype");
    REFUSED(layout, 0, "layout");
    REFUSED(layout, 9, "layout");
    REFUSED(h_q, 0, "h_q");
    REFUSED(h_kv, 0, "h_kv");
    REFUSED(h_kv, 3, "divisible");
    REFUSED(h_kv, 16, "divisible");
    REFUSED(d, 0, "head dim");
    REFUSED(d, 257, "head dim");
    REFUSED(batch, ATTN_BATCH_MAX + 1, "batch");
    REFUSED(s_q, -1, "s_q");
    REFUSED(s_kv, INT64_MIN, "s_kv");
    REFUSED(s_q, ATTN_EXTENT_MAX + 1, "s_q");
    REFUSED(s_kv, INT64_MAX, "s_kv");
    REFUSED(sm_scale, -1.0f, "sm_scale");
    REFUSED(sm_scale, NAN, "sm_scale");
    REFUSED(sm_scale, INFINITY, "sm_scale");
    REFUSED(softcap, -0.5f, "softcap");
    REFUSED(softcap, NAN, "softcap");
    REFUSED(softcap, INFINITY, "softcap");
    REFUSED(causal, 2, "causal");
    REFUSED(return_lse, 255, "return_lse");
    REFUSED(reserved[3], 1, "reserved");
#undef REFUSED
}
END_TEST

/* Products that wrap around 64 bits, one of them to a small positive number, and strides of tensors that are empty. */
START_TEST(refuses_overflow)
{
    attn_spec_t s = spec_valid();
    s.s_q = ATTN_EXTENT_MAX;
    s.batch = ATTN_BATCH_MAX; /* 2^20 * 2^40 * 8 * 64 * 2 = 2^70 */
    spec_refused(s, ATTN_ERR_TOO_LARGE, "2^63");
    s = spec_valid();
    s.s_kv = ATTN_EXTENT_MAX;
    s.h_q = s.h_kv = UINT32_MAX;
    spec_refused(s, ATTN_ERR_TOO_LARGE, "2^63");
    s.batch = 0; /* nothing to store, but bhsd's strides would overflow */
    s.layout = ATTN_LAYOUT_BHSD;
    spec_refused(s, ATTN_ERR_TOO_LARGE, "2^63");
    s = spec_valid(); /* each tensor fits, together they do not: 4 * 2^61 */
    s.batch = 1u << 12;
    s.s_q = s.s_kv = INT64_C(1) << 39;
    s.h_q = s.h_kv = 8;
    s.d = 64;
    spec_refused(s, ATTN_ERR_TOO_LARGE, "2^63");
    s.s_q = s.s_kv = INT64_C(1) << 38; /* 4 * 2^60 fits, LSE of 2^55 too */
    attn_sizes_t sizes;
    ck_assert_int_eq(attn_spec_measure(&s, &sizes, NULL), ATTN_OK);
    ck_assert_uint_eq(sizes.q, UINT64_C(1) << 60);
}
END_TEST

START_TEST(cu_seqlens)
{
    attn_error_t err;
    const int32_t good[] = {0, 3, 3, 10};
    ck_assert_int_eq(attn_cu_seqlens_check("cu_seqlens_q", good, 4, 3, 10, &err), ATTN_OK);
    const int32_t only[] = {0};
    ck_assert_int_eq(attn_cu_seqlens_check("cu_seqlens_q", only, 1, 0, 0, &err), ATTN_OK);
    const struct {
        int32_t values[4];
        uint64_t count;
        int64_t total;
        const char *word;
    } bad[] = {
        {{0, 3, 3, 10}, 3, 10, "4 are needed"},
        {{0, 3, 3, 10}, UINT64_MAX, 10, "entries"},
        {{1, 3, 3, 10}, 4, 10, "start at 0"},
        {{0, 3, 2, 10}, 4, 10, "decrease"},
        {{0, -1, 2, 10}, 4, 10, "decrease"},
        {{0, 3, 3, 9}, 4, 10, "end at"},
        {{0, 3, 3, 10}, 4, INT64_C(10) + (INT64_C(1) << 32), "end at"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        ck_assert_int_eq(attn_cu_seqlens_check("cu_seqlens_k", bad[i].values, bad[i].count, 3, bad[i].total, &err),
                         ATTN_ERR_INVALID_ARGUMENT);
        ck_assert_msg(strstr(err.message, bad[i].word) && strstr(err.message, "cu_seqlens_k"), "%s", err.message);
    }
    ck_assert_int_eq(attn_cu_seqlens_check("cu_seqlens_q", NULL, 4, 3, 10, &err), ATTN_ERR_INVALID_ARGUMENT);
    ck_assert_int_eq(attn_cu_seqlens_check("cu_seqlens_q", good, 0, UINT32_MAX, 10, &err), ATTN_ERR_INVALID_ARGUMENT);
}
END_TEST

START_TEST(need_names_features)
{
    attn_spec_t spec = spec_valid();
    attn_sizes_t sizes;
    ck_assert_int_eq(attn_spec_measure(&spec, &sizes, NULL), ATTN_OK);
    attn_need_t need;
    attn_spec_need(&spec, NULL, NULL, 4096, &need);
    ck_assert_uint_eq(need.features,
                      ATTN_FEATURE_NON_CAUSAL | ATTN_FEATURE_LSE | ATTN_FEATURE_GQA | ATTN_FEATURE_RECTANGULAR);
    ck_assert_uint_eq(need.alignment, 4096);
    ck_assert_uint_eq(need.stride_alignment, 128);
    ck_assert_double_eq(need.flops, 4.0 * 2 * 8 * 64 * 200);
    ck_assert_double_eq(need.bytes, (double)(sizes.q + sizes.k + sizes.v + sizes.o + sizes.lse));

    spec.layout = ATTN_LAYOUT_THD;
    spec.causal = 1;
    spec.softcap = 30;
    spec.sm_scale = 0.1f;
    spec.return_lse = 0;
    spec.h_kv = 8;
    const int32_t cu_q[] = {0, 10, 10}, cu_k[] = {0, 3, 20};
    attn_spec_need(&spec, cu_q, cu_k, 16, &need);
    ck_assert_uint_eq(need.features, ATTN_FEATURE_CAUSAL | ATTN_FEATURE_SOFTCAP | ATTN_FEATURE_VARLEN |
                                         ATTN_FEATURE_SCALE | ATTN_FEATURE_TALL | ATTN_FEATURE_RECTANGULAR |
                                         ATTN_FEATURE_EMPTY);
    ck_assert_int_eq(need.max_s_q, 10);
    ck_assert_int_eq(need.max_s_kv, 17);
    ck_assert_uint_eq(need.alignment, 16);
    ck_assert_double_eq(need.flops, 4.0 * 8 * 64 * (1 + 2 + 3));

    spec.d = 3; /* sequences then start at odd places */
    spec.h_q = spec.h_kv = 1;
    attn_spec_need(&spec, cu_q, cu_k, 4096, &need);
    ck_assert_uint_eq(need.stride_alignment, 2);
    ck_assert_uint_eq(need.alignment, 2); /* key 3 starts at byte 18 */
}
END_TEST

START_TEST(problems_have_strides)
{
    attn_spec_t spec = spec_valid();
    attn_sizes_t sizes;
    ck_assert_int_eq(attn_spec_measure(&spec, &sizes, NULL), ATTN_OK);
    char q[1], k[1], v[1], o[1];
    float lse[1];
    const attn_addresses_t at = {q, k, v, o, lse};
    attn_problem_t p;
    attn_spec_problems(&spec, NULL, NULL, &at, &p);
    ck_assert_int_eq(p.q.stride_h, 64);
    ck_assert_int_eq(p.q.stride_s, 512);
    ck_assert_int_eq(p.q.stride_b, 5120);
    ck_assert_int_eq(p.k.stride_b, 20 * 128);
    ck_assert_int_eq(p.lse_stride_h, 10);
    ck_assert_int_eq(p.lse_stride_b, 80);
    spec.layout = ATTN_LAYOUT_BHSD;
    attn_spec_problems(&spec, NULL, NULL, &at, &p);
    ck_assert_int_eq(p.k.stride_s, 64);
    ck_assert_int_eq(p.k.stride_h, 20 * 64);
    ck_assert_int_eq(p.k.stride_b, 2 * 20 * 64);
    spec.return_lse = 0;
    attn_spec_problems(&spec, NULL, NULL, &at, &p);
    ck_assert_ptr_null(p.lse);
}
END_TEST

START_TEST(problems_of_packed)
{
    attn_spec_t spec = spec_valid();
    spec.layout = ATTN_LAYOUT_THD;
    attn_sizes_t sizes;
    ck_assert_int_eq(attn_spec_measure(&spec, &sizes, NULL), ATTN_OK);
    char *q = malloc(sizes.q), *k = malloc(sizes.k);
    float *lse = malloc(sizes.lse);
    const attn_addresses_t at = {q, k, k, q, lse};
    const int32_t cu_q[] = {0, 4, 10}, cu_k[] = {0, 20, 20};
    attn_problem_t p[2];
    ck_assert_uint_eq(attn_spec_problem_count(&spec), 2);
    attn_spec_problems(&spec, cu_q, cu_k, &at, p);
    ck_assert_int_eq(p[1].batch, 1);
    ck_assert_int_eq(p[1].s_q, 6);
    ck_assert_int_eq(p[1].s_kv, 0);
    ck_assert_ptr_eq(p[1].q.data, q + 4 * 8 * 64 * 2);
    ck_assert_ptr_eq(p[1].lse, lse + 4);
    ck_assert_int_eq(p[1].lse_stride_h, 10); /* of the whole tensor */
    free(q);
    free(k);
    free(lse);
}
END_TEST

START_TEST(visible_pairs)
{
    for (int64_t s_q = 0; s_q < 9; s_q++)
        for (int64_t s_kv = 0; s_kv < 9; s_kv++) {
            int64_t pairs = 0;
            for (int64_t i = 0; i < s_q; i++)
                for (int64_t j = 0; j < s_kv; j++)
                    pairs += j <= i + s_kv - s_q;
            ck_assert_int_eq(attn_visible_pairs(s_q, s_kv, true), pairs);
            ck_assert_int_eq(attn_visible_pairs(s_q, s_kv, false), s_q * s_kv);
        }
    ck_assert_int_eq(attn_visible_pairs(ATTN_EXTENT_MAX, ATTN_EXTENT_MAX, false), INT64_MAX);
    ck_assert_int_eq(attn_visible_pairs(ATTN_EXTENT_MAX, ATTN_EXTENT_MAX, true), INT64_MAX);
    ck_assert_int_eq(attn_visible_pairs(1, ATTN_EXTENT_MAX, true), ATTN_EXTENT_MAX);
}
END_TEST

int main(void)
{
    TCase *tests = tcase_create("spec");
    tcase_add_test(tests, measures);
    tcase_add_test(tests, empty_is_valid);
    tcase_add_test(tests, refuses_nonsense);
    tcase_add_test(tests, refuses_overflow);
    tcase_add_test(tests, cu_seqlens);
    tcase_add_test(tests, need_names_features);
    tcase_add_test(tests, problems_have_strides);
    tcase_add_test(tests, problems_of_packed);
    tcase_add_test(tests, visible_pairs);
    Suite *suite = suite_create("kernels_spec");
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
