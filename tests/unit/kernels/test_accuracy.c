/* kernels/test_accuracy.c: the truth against loops written out here, and what the judge lets pass and what not. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "attn/engine_variants.h"
#include "cpu/convert.h"
#include "kernels/kit.h"

static attn_spec_t spec_base(attn_dtype_t dtype)
{
    return (attn_spec_t){.dtype = dtype,
                         .layout = 1,
                         .batch = 2,
                         .h_q = 4,
                         .h_kv = 2,
                         .d = 24,
                         .s_q = 30,
                         .s_kv = 40,
                         .causal = 1,
                         .return_lse = 1};
}

/* One row of the formula in kernel.h, written out; O to ret_o, returns LSE. */
static double plain_row(const kit_t *kit, uint32_t b, uint32_t h, int64_t i, double *ret_o)
{
    const attn_spec_t *s = &kit->spec;
    const uint32_t h_kv = h / (s->h_q / s->h_kv);
    double *score = calloc((size_t)s->s_kv + 1, sizeof *score);
    double total = 0;
    memset(ret_o, 0, s->d * sizeof *ret_o);
    for (int64_t j = 0; j < s->s_kv; j++) {
        if (s->causal && j > i + s->s_kv - s->s_q)
            continue;
        for (uint32_t x = 0; x < s->d; x++)
            score[j] += attn_element_load(s->dtype, kit->at.q, ((b * s->s_q + i) * s->h_q + h) * s->d + x) *
                        attn_element_load(s->dtype, kit->at.k, ((b * s->s_kv + j) * s->h_kv + h_kv) * s->d + x);
        score[j] *= (double)s->sm_scale;
        if (s->softcap > 0)
            score[j] = (double)s->softcap * tanh(score[j] / (double)s->softcap);
        total += exp(score[j]);
        for (uint32_t x = 0; x < s->d; x++)
            ret_o[x] +=
                exp(score[j]) * attn_element_load(s->dtype, kit->at.v, ((b * s->s_kv + j) * s->h_kv + h_kv) * s->d + x);
    }
    for (uint32_t x = 0; x < s->d && total > 0; x++)
        ret_o[x] /= total;
    free(score);
    return log(total);
}

START_TEST(truth_is_the_formula)
{
    attn_spec_t spec = spec_base(1 + (uint32_t)_i % 3);
    spec.causal = _i / 3 % 2;
    spec.softcap = _i / 6 % 2 ? 1.5f : 0;
    if (_i >= 12)
        spec.s_q = 55; /* rows that see nothing */
    kit_t kit;
    kit_open(&kit, spec, NULL, NULL, 11);
    ck_assert_int_eq(kit_run(&kit, "reference", 2, NULL), ATTN_OK);
    kit_expect_pass(&kit, "reference");
    attn_truth_view_t view;
    attn_truth_open(&kit.spec, kit.truth, &view);
    ck_assert_uint_eq(view.rows, (uint64_t)2 * 4 * (uint64_t)spec.s_q);
    ck_assert_double_gt(*view.naive_max_abs, 0);
    const double *o = view.o, *lse = view.lse;
    for (uint32_t b = 0; b < 2; b++)
        for (uint32_t h = 0; h < 4; h++)
            for (int64_t i = 0; i < spec.s_q; i++, o += spec.d, lse++) {
                double expected[24];
                const double expected_lse = plain_row(&kit, b, h, i, expected);
                for (uint32_t x = 0; x < spec.d; x++)
                    ck_assert_double_eq_tol(o[x], expected[x], 1e-12);
                if (isinf(expected_lse))
                    ck_assert(*lse == -INFINITY);
                else
                    ck_assert_double_eq_tol(*lse, expected_lse, 1e-12);
            }
    kit_close(&kit);
}
END_TEST

static void expect_fail(kit_t *kit, const char *what)
{
    const attn_judgement_t j = kit_judge(kit);
    ck_assert_msg(!j.pass, "the judge let pass: %s (max %g of %g, excess %g, lse %g, special %llu)", what, j.max_abs,
                  j.max_abs_allowed, j.row_excess, j.lse_err, (unsigned long long)j.special_mismatch);
}

/* 64 of 8192 keys left out: less than the max-norm's allowance, but each row is 9 % off. */
START_TEST(judge_sees_a_dropped_block)
{
    kit_t kit;
    kit_open(&kit,
             (attn_spec_t){.dtype = ATTN_DTYPE_BF16,
                           .layout = 1,
                           .batch = 1,
                           .h_q = 1,
                           .h_kv = 1,
                           .d = 64,
                           .s_q = 600,
                           .s_kv = 8192,
                           .causal = 1},
             NULL, NULL, 2);
    ck_assert_int_eq(kit_run(&kit, "cpu", 2, NULL), ATTN_OK);
    kit_expect_pass(&kit, "cpu");
    attn_problem_t p;
    attn_spec_problems(&kit.spec, NULL, NULL, &kit.at, &p);
    uint16_t *k = malloc(kit.sizes.k), *v = malloc(kit.sizes.v);
    const size_t before = (size_t)1024 * 64, dropped = (size_t)64 * 64, all = (size_t)8192 * 64;
    memcpy(k, kit.at.k, before * 2);
    memcpy(v, kit.at.v, before * 2);
    memcpy(k + before, (uint16_t *)kit.at.k + before + dropped, (all - before - dropped) * 2);
    memcpy(v + before, (uint16_t *)kit.at.v + before + dropped, (all - before - dropped) * 2);
    p.k.data = k;
    p.v.data = v;
    p.s_kv -= 64;
    const attn_group_t group = {{ATTN_DTYPE_BF16, true, false}, 1, &p};
    ck_assert_int_eq(kit_launch("cpu", &group, 2, -1, NULL), ATTN_OK);
    expect_fail(&kit, "a dropped key block");
    const attn_judgement_t j = kit_judge(&kit);
    ck_assert_double_gt(j.row_excess, 2);
    ck_assert_uint_eq(j.special_mismatch, 0);
    free(k);
    free(v);
    kit_close(&kit);
}
END_TEST

START_TEST(judge_sees_wrong_lse)
{
    kit_t kit;
    kit_open(&kit, spec_base(ATTN_DTYPE_F16), NULL, NULL, 3);
    ck_assert_int_eq(kit_run(&kit, "cpu", 2, NULL), ATTN_OK);
    kit_expect_pass(&kit, "cpu");
    const uint64_t count = kit.sizes.lse / sizeof(float);
    for (uint64_t i = 0; i < count; i++)
        kit.at.lse[i] *= 1.44269504f;
    expect_fail(&kit, "LSE in base 2");
    ck_assert_int_eq(kit_run(&kit, "cpu", 2, NULL), ATTN_OK);
    kit.at.lse[17] += 1e-4f;
    expect_fail(&kit, "LSE off by 1e-4 in one row");
    ck_assert_int_eq(kit_run(&kit, "cpu", 2, NULL), ATTN_OK);
    kit.at.lse[5] = NAN;
    expect_fail(&kit, "LSE of NaN");
    kit.at.lse[5] = INFINITY;
    expect_fail(&kit, "LSE of inf");
    kit_close(&kit);
}
END_TEST

START_TEST(judge_sees_wrong_masked_rows)
{
    attn_spec_t spec = spec_base(ATTN_DTYPE_F16);
    spec.s_q = 60; /* the first 20 rows see nothing */
    kit_t kit;
    kit_open(&kit, spec, NULL, NULL, 4);
    ck_assert_int_eq(kit_run(&kit, "cpu", 2, NULL), ATTN_OK);
    kit_expect_pass(&kit, "cpu");
    uint16_t *o = kit.at.o;
    ck_assert_uint_eq(o[3], 0);
    ck_assert(kit.at.lse[3] == -INFINITY);
    o[3] = 0x8000;
    kit_expect_pass(&kit, "-0 in a masked row"); /* equal to 0 */
    o[3] = 0x7e00;
    expect_fail(&kit, "NaN in a masked row");
    o[3] = 0x0001;
    expect_fail(&kit, "the smallest number in a masked row");
    o[3] = 0;
    kit.at.lse[3] = -1e30f;
    expect_fail(&kit, "a finite LSE of a masked row");
    kit.at.lse[3] = INFINITY;
    expect_fail(&kit, "LSE of +inf for -inf");
    kit.at.lse[3] = -INFINITY;
    kit_expect_pass(&kit, "restored");
    kit_close(&kit);
}
END_TEST

START_TEST(judge_sees_wrong_places)
{
    kit_t kit;
    kit_open(&kit, spec_base(ATTN_DTYPE_F32), NULL, NULL, 5);
    float *v = kit.at.v;
    v[(39 * 2 + 1) * 24 + 7] = NAN; /* the last key of batch 0: seen by its last query in two heads */
    ck_assert_int_eq(kit_run(&kit, "cpu", 2, NULL), ATTN_OK);
    kit_expect_pass(&kit, "cpu");
    float *o = kit.at.o;
    float *seen = o + ((29 * 4) + 2) * 24 + 7;
    ck_assert(isnan(*seen));
    const float nan_was = *seen;
    *seen = 0.5f;
    expect_fail(&kit, "a number where NaN is right");
    *seen = nan_was;
    o[0] = NAN;
    expect_fail(&kit, "NaN where a number is right");
    ck_assert_int_eq(kit_run(&kit, "cpu", 2, NULL), ATTN_OK);
    float head[24];
    memcpy(head, o, sizeof head);
    memcpy(o, o + 24, sizeof head);
    memcpy(o + 24, head, sizeof head);
    expect_fail(&kit, "two heads swapped");
    ck_assert_int_eq(kit_run(&kit, "cpu", 2, NULL), ATTN_OK);
    for (int x = 0; x < 24; x++)
        o[5 * 24 + x] = 0;
    expect_fail(&kit, "a row of zeros");
    ck_assert_int_eq(kit_run(&kit, "cpu", 2, NULL), ATTN_OK);
    for (uint64_t i = 0; i < kit.sizes.o / 4; i++)
        o[i] = attn_float_round(ATTN_DTYPE_F16, o[i]);
    expect_fail(&kit, "fp32 that was fp16 on the way");
    kit_close(&kit);
}
END_TEST

/* Top-left instead of bottom-right causal, and a scale that was ignored. */
START_TEST(judge_sees_another_formula)
{
    attn_spec_t spec = spec_base(ATTN_DTYPE_BF16);
    spec.sm_scale = 0.3f;
    kit_t kit;
    kit_open(&kit, spec, NULL, NULL, 6);
    attn_problem_t p;
    attn_spec_problems(&kit.spec, NULL, NULL, &kit.at, &p);
    attn_group_t group = {{ATTN_DTYPE_BF16, true, false}, 1, &p};
    ck_assert_int_eq(kit_launch("cpu", &group, 1, -1, NULL), ATTN_OK);
    kit_expect_pass(&kit, "cpu");
    p.s_kv = p.s_q; /* row i sees j <= i */
    ck_assert_int_eq(kit_launch("cpu", &group, 1, -1, NULL), ATTN_OK);
    expect_fail(&kit, "top-left causal");
    p.s_kv = spec.s_kv;
    p.sm_scale = 0.29f;
    ck_assert_int_eq(kit_launch("cpu", &group, 1, -1, NULL), ATTN_OK);
    expect_fail(&kit, "a scale of 0.29 for 0.3");
    kit_close(&kit);
}
END_TEST

START_TEST(truth_of_nothing)
{
    attn_spec_t spec = spec_base(ATTN_DTYPE_F16);
    spec.s_q = 0;
    kit_t kit;
    kit_open(&kit, spec, NULL, NULL, 7);
    ck_assert_int_eq(kit_run(&kit, "cpu", 2, NULL), ATTN_OK);
    attn_judgement_t j = kit_judge(&kit);
    ck_assert(j.pass && j.elements == 0);
    kit_close(&kit);

    spec = spec_base(ATTN_DTYPE_F16);
    spec.s_kv = 0;
    kit_open(&kit, spec, NULL, NULL, 7);
    ck_assert_int_eq(kit_run(&kit, "cpu", 2, NULL), ATTN_OK);
    j = kit_judge(&kit);
    ck_assert(j.pass && j.elements == 2 * 30 * 4 * 25);
    ck_assert(kit.at.lse[0] == -INFINITY);
    kit_close(&kit);

    static const int32_t none[] = {0};
    spec.layout = ATTN_LAYOUT_THD;
    spec.batch = 0;
    spec.s_q = spec.s_kv = 0;
    kit_open(&kit, spec, none, none, 7);
    ck_assert_int_eq(kit_run(&kit, "cpu", 2, NULL), ATTN_OK);
    ck_assert(kit_judge(&kit).pass);
    kit_close(&kit);
}
END_TEST

START_TEST(truth_size)
{
    attn_spec_t spec = spec_base(ATTN_DTYPE_F16);
    ck_assert_uint_eq(attn_truth_bytes(&spec), 8 * (8 + 2 * 4 * 30 * 26));
    spec.s_q = ATTN_EXTENT_MAX;
    spec.h_q = UINT32_MAX;
    ck_assert_uint_eq(attn_truth_bytes(&spec), 0);
    spec.h_q = 1u << 15; /* rows fit, bytes do not */
    ck_assert_uint_eq(attn_truth_bytes(&spec), 0);
}
END_TEST

static bool refuse(void *arg)
{
    (void)arg;
    return false;
}

START_TEST(truth_and_judge_can_be_cancelled)
{
    kit_t kit;
    kit_open(
        &kit,
        (attn_spec_t){
            .dtype = ATTN_DTYPE_F16, .layout = 1, .batch = 1, .h_q = 8, .h_kv = 1, .d = 64, .s_q = 4000, .s_kv = 4000},
        NULL, NULL, 1);
    void *truth = malloc(attn_truth_bytes(&kit.spec));
    const attn_device_t device = {.kind = ATTN_DEVICE_CPU, .units = 2};
    const attn_exec_t exec = {.device = &device, .checkpoint = refuse};
    attn_error_t err;
    ck_assert_int_eq(attn_truth_compute(&kit.spec, NULL, NULL, &kit.at, truth, &exec, &err), ATTN_ERR_CANCELLED);
    attn_judgement_t judgement; /* of two million elements: more than the 10 ms after which it is asked */
    ck_assert_int_eq(attn_truth_judge(&kit.spec, NULL, NULL, &kit.at, truth, 1, &exec, &judgement, &err),
                     ATTN_ERR_CANCELLED);
    free(truth);
    kit_close(&kit);
}
END_TEST

/* The first block of Philox4x32-10 with key and counter 0 is 6627e8d5 e169c58d bc57ac4c 9b00dbd8 (Random123's known
 * answers); Box-Muller of it by libm. */
/* Packed and dense, with blocks that end inside a problem: bit for bit the same on any number of threads. */
START_TEST(judge_on_threads)
{
    static const int32_t cu_q[] = {0, 300, 300, 301, 900}, cu_k[] = {0, 40, 50, 50, 400};
    for (int packed = 0; packed < 2; packed++) {
        kit_t kit;
        attn_spec_t spec = {.dtype = ATTN_DTYPE_F16,
                            .layout = packed ? ATTN_LAYOUT_THD : ATTN_LAYOUT_BHSD,
                            .batch = packed ? 4 : 2,
                            .h_q = 4,
                            .h_kv = 2,
                            .d = 40,
                            .s_q = 900,
                            .s_kv = 400,
                            .causal = 1,
                            .return_lse = 1};
        kit_open(&kit, spec, packed ? cu_q : NULL, packed ? cu_k : NULL, 3);
        ck_assert_int_eq(kit_run(&kit, "cpu", 2, NULL), ATTN_OK);
        kit_expect_pass(&kit, "cpu");
        attn_judgement_t one, some;
        ck_assert_int_eq(attn_truth_judge(&kit.spec, kit.cu_q, kit.cu_k, &kit.at, kit.truth, 1, NULL, &one, NULL),
                         ATTN_OK);
        for (unsigned threads = 2; threads < 6; threads++) {
            memset(&some, 0xee, sizeof some);
            ck_assert_int_eq(
                attn_truth_judge(&kit.spec, kit.cu_q, kit.cu_k, &kit.at, kit.truth, threads, NULL, &some, NULL),
                ATTN_OK);
            ck_assert_mem_eq(&one, &some, sizeof one);
        }
        ck_assert_uint_eq(one.elements, (uint64_t)(packed ? 1 : 2) * 900 * 4 * (40 + 1));
        kit_close(&kit);
    }
}
END_TEST

START_TEST(fill_is_philox)
{
    static const uint32_t known[] = {0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u};
    float values[4];
    attn_fill_normal(ATTN_DTYPE_F32, 0, 0, values, 4);
    for (int pair = 0; pair < 2; pair++) {
        const double radius = sqrt(-2 * log((known[2 * pair] + 0.5) / 4294967296.0));
        const double angle = 2 * acos(-1.0) * (known[2 * pair + 1] / 4294967296.0);
        ck_assert_float_eq(values[2 * pair], (float)(radius * cos(angle)));
        ck_assert_float_eq(values[2 * pair + 1], (float)(radius * sin(angle)));
    }
}
END_TEST

START_TEST(fill_is_normal)
{
    enum { N = 100000 };
    float *values = malloc(N * sizeof *values), *other = malloc(N * sizeof *other);
    attn_fill_normal(ATTN_DTYPE_F32, 42, 1, values, N);
    double sum = 0, square = 0, fourth = 0, cross = 0;
    attn_fill_normal(ATTN_DTYPE_F32, 42, 2, other, N);
    for (int i = 0; i < N; i++) {
        const double x = (double)values[i];
        sum += x;
        square += x * x;
        fourth += x * x * x * x;
        cross += x * (double)other[i];
    }
    ck_assert_double_lt(fabs(sum / N), 0.02); /* six standard errors */
    ck_assert_double_lt(fabs(square / N - 1), 0.03);
    ck_assert_double_lt(fabs(fourth / N - 3), 0.2);
    ck_assert_double_lt(fabs(cross / N), 0.02);

    for (uint64_t first = 0; first < 9; first++) { /* in pieces that split blocks */
        float piece[7];
        attn_fill_normal_at(ATTN_DTYPE_F32, 42, 1, first, piece, 7);
        ck_assert_mem_eq(piece, values + first, sizeof piece);
    }
    uint16_t half[64], brain[64];
    attn_fill_normal(ATTN_DTYPE_F16, 42, 1, half, 64);
    attn_fill_normal(ATTN_DTYPE_BF16, 42, 1, brain, 64);
    for (int i = 0; i < 64; i++) {
        ck_assert_double_eq_tol((double)attn_f16_to_float(half[i]), (double)values[i], 2e-3);
        ck_assert_double_eq_tol((double)attn_bf16_to_float(brain[i]), (double)values[i], 2e-2);
    }
    free(values);
    free(other);
}
END_TEST

/* Every 16-bit number survives the way through float; floats round to the nearest neighbour, ties to even. */
START_TEST(conversions)
{
    for (uint32_t bits = 0; bits <= 0xffff; bits++) {
        const float half = attn_f16_to_float((uint16_t)bits), brain = attn_bf16_to_float((uint16_t)bits);
        if (isnan(half))
            ck_assert(isnan(attn_f16_to_float(attn_float_to_f16(half))));
        else
            ck_assert_uint_eq(attn_float_to_f16(half), bits);
        if (isnan(brain))
            ck_assert(isnan(attn_bf16_to_float(attn_float_to_bf16(brain))));
        else
            ck_assert_uint_eq(attn_float_to_bf16(brain), bits);
    }
    ck_assert_float_eq(attn_f16_to_float(0x3c00), 1.0f);
    ck_assert_float_eq(attn_f16_to_float(0x0001), 0x1p-24f);
    ck_assert_float_eq(attn_f16_to_float(0x7bff), 65504.0f);
    ck_assert_uint_eq(attn_float_to_f16(65519.996f), 0x7bff);
    ck_assert_uint_eq(attn_float_to_f16(65520.0f), 0x7c00);
    for (uint32_t bits = 0; bits < 0x7bff; bits++) { /* halfway, and a hair on either side */
        const float low = attn_f16_to_float((uint16_t)bits), high = attn_f16_to_float((uint16_t)(bits + 1));
        const float middle = (low + high) / 2; /* exact */
        ck_assert_uint_eq(attn_float_to_f16(middle), bits + (bits & 1));
        ck_assert_uint_eq(attn_float_to_f16(nextafterf(middle, 0)), bits);
        ck_assert_uint_eq(attn_float_to_f16(nextafterf(middle, 1e9f)), bits + 1);
        /* from double: a tie only in float, which one rounding must not see */
        uint16_t stored;
        attn_element_store(ATTN_DTYPE_F16, &stored, 0, (double)middle * (1 + 0x1p-40));
        ck_assert_uint_eq(stored, bits + 1);
        attn_element_store(ATTN_DTYPE_F16, &stored, 0, -(double)middle * (1 - 0x1p-40));
        ck_assert_uint_eq(stored, bits | 0x8000u);
    }
    ck_assert_uint_eq(attn_float_to_bf16(attn_bits_float(0x3f808000u)), 0x3f80);
    ck_assert_uint_eq(attn_float_to_bf16(attn_bits_float(0x3f818000u)), 0x3f82);
    ck_assert_uint_eq(attn_float_to_bf16(attn_bits_float(0x3f808001u)), 0x3f81);
    ck_assert_uint_eq(attn_float_to_bf16(attn_bits_float(0x7f7fffffu)), 0x7f80);
    ck_assert(isnan(attn_bf16_to_float(attn_float_to_bf16(attn_bits_float(0x7f800001u)))));
    uint16_t stored;
    attn_element_store(ATTN_DTYPE_F16, &stored, 0, 1e300);
    ck_assert_uint_eq(stored, 0x7c00);
    attn_element_store(ATTN_DTYPE_BF16, &stored, 0, -INFINITY);
    ck_assert_uint_eq(stored, 0xff80);
}
END_TEST

int main(void)
{
    TCase *tests = tcase_create("accuracy");
    tcase_set_timeout(tests, 120);
    tcase_add_loop_test(tests, truth_is_the_formula, 0, 24);
    tcase_add_test(tests, judge_sees_a_dropped_block);
    tcase_add_test(tests, judge_sees_wrong_lse);
    tcase_add_test(tests, judge_sees_wrong_masked_rows);
    tcase_add_test(tests, judge_sees_wrong_places);
    tcase_add_test(tests, judge_sees_another_formula);
    tcase_add_test(tests, truth_of_nothing);
    tcase_add_test(tests, truth_size);
    tcase_add_test(tests, truth_and_judge_can_be_cancelled);
    tcase_add_test(tests, judge_on_threads);
    tcase_add_test(tests, fill_is_philox);
    tcase_add_test(tests, fill_is_normal);
    tcase_add_test(tests, conversions);
    Suite *suite = suite_create("kernels_accuracy");
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
