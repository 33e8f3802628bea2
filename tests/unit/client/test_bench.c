/* test_bench.c: the parts of attnctl bench that need no server: the histogram against sorted values, the plan of
 * arrivals against what it promises, and the reader of workloads. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench/histogram.h"
#include "bench/plan.h"

static attn_error_t error;
static bench_histogram_t histogram, other;

/* ---- histogram ---- */

static void histograms_clear(void)
{
    memset(&histogram, 0, sizeof histogram);
    memset(&other, 0, sizeof other);
}

static int compare(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

START_TEST(test_histogram_against_sorting)
{
    enum { COUNT = 20000 };
    static int64_t values[COUNT];
    static const double quantiles[] = {0, 0.001, 0.25, 0.5, 0.9, 0.99, 0.999, 0.9999, 1};
    srand48(7);
    for (int i = 0; i < COUNT; i++) {
        values[i] = (int64_t)exp(drand48() * 25); /* 1 ns to 72 s, every magnitude as often */
        bench_histogram_record(i % 3 == 0 ? &other : &histogram, values[i]);
    }
    bench_histogram_merge(&histogram, &other);
    qsort(values, COUNT, sizeof values[0], compare);
    ck_assert_uint_eq(histogram.count, COUNT);
    ck_assert_int_eq(histogram.min, values[0]);
    for (size_t i = 0; i < sizeof quantiles / sizeof quantiles[0]; i++) {
        int64_t rank = (int64_t)ceil(quantiles[i] * COUNT), truth = values[rank > 0 ? rank - 1 : 0];
        int64_t got = bench_histogram_quantile(&histogram, quantiles[i]);
        ck_assert_msg(got >= truth && (double)got <= (double)truth * (1 + 1.0 / 256), "quantile %g: %lld, truly %lld",
                      quantiles[i], (long long)got, (long long)truth);
    }
    ck_assert_int_eq(bench_histogram_quantile(&histogram, 1), values[COUNT - 1]);
}
END_TEST

START_TEST(test_histogram_edges)
{
    ck_assert_int_eq(bench_histogram_quantile(&histogram, 0.5), 0);
    ck_assert_double_eq(bench_histogram_mean(&histogram), 0);
    bench_histogram_merge(&histogram, &other);
    ck_assert_uint_eq(histogram.count, 0);
    for (int64_t exact = 0; exact < 512; exact++) { /* small values have buckets of their own */
        histograms_clear();
        bench_histogram_record(&histogram, exact);
        bench_histogram_record(&histogram, 100000);
        ck_assert_int_eq(bench_histogram_quantile(&histogram, 0.5), exact);
    }
    histograms_clear();
    bench_histogram_record(&histogram, -5);
    bench_histogram_record(&histogram, INT64_MAX);
    ck_assert_int_eq(histogram.min, 0);
    ck_assert_int_eq(bench_histogram_quantile(&histogram, 0.99), (INT64_C(1) << BENCH_VALUE_BITS) - 1);
    ck_assert_uint_eq(histogram.count, 2);
}
END_TEST

/* ---- workloads ---- */

static bench_workload_t workload;

static attn_status_t parse(const char *text)
{
    return bench_workload_parse("w", text, strlen(text), &workload, &error);
}

START_TEST(test_workload)
{
    ck_assert_msg(
        parse("# a mix\n"
              "default dtype=fp16 causal=true weight=2\n"
              "\n"
              "  tiny shape=1,64,64,8/2,128 weight=9 priority=-7 # the rest\r\n"
              "default variant=cpu causal=false\n"
              "big\tshape=2,16,32,4,64 layout=bhsd softcap=30 sm-scale=0.5 return-lse=true deadline-ms=250") == ATTN_OK,
        "%s", error.message);
    ck_assert_uint_eq(workload.count, 2);
    const bench_class_t *tiny = &workload.classes[0], *big = &workload.classes[1];
    ck_assert_str_eq(tiny->name, "tiny");
    ck_assert_double_eq(tiny->weight, 9);
    ck_assert_int_eq(tiny->priority, -7);
    ck_assert_str_eq(tiny->variant, "");
    ck_assert(tiny->spec.causal && tiny->spec.dtype == ATTN_DTYPE_F16);
    ck_assert_uint_eq(tiny->sizes.q, 64 * 8 * 128 * 2);
    ck_assert_str_eq(big->variant, "cpu");
    ck_assert_double_eq(big->weight, 2);
    ck_assert(!big->spec.causal && big->spec.return_lse && big->spec.layout == ATTN_LAYOUT_BHSD);
    ck_assert_float_eq(big->spec.sm_scale, 0.5f);
    ck_assert_float_eq(big->spec.softcap, 30);
    ck_assert_uint_eq(big->deadline_ms, 250);
    ck_assert_double_eq(bench_class_flops(big), 4.0 * 2 * 4 * 64 * 16 * 32);
}
END_TEST

static const struct {
    const char *text, *sentence;
} wrong[] = {
    {"", "has no class"},
    {"# nothing\n\n", "has no class"},
    {"default shape=1,2,2,1,8", "has no class"},
    {"a", "w:1: class 'a' has no shape"},
    {"a shape=1,2", "w:1: shape is '1,2'"},
    {"\n\na shape=1,2,2,3/2,8", "w:3:"},
    {"shape=1,2,2,1,8", "begins with the name"},
    {"a shape=1,2,2,1,8 shape", "'shape' is not key=value"},
    {"a shape=1,2,2,1,8 weight=", "'weight=' is not key=value"},
    {"a shape=1,2,2,1,8 weight=0", "above 0"},
    {"a shape=1,2,2,1,8 weight=nan", "above 0"},
    {"a shape=1,2,2,1,8 weight=-1", "above 0"},
    {"a shape=1,2,2,1,8 softcap=inf", "0 or more"},
    {"a shape=1,2,2,1,8 causal=yes", "true or false"},
    {"a shape=1,2,2,1,8 priority=101", "-100 to 100"},
    {"a shape=1,2,2,1,8 priority=1.5", "-100 to 100"},
    {"a shape=1,2,2,1,8 deadline-ms=-1", "0 to"},
    {"a shape=1,2,2,1,8 dtype=fp8", "dtype is 'fp8'"},
    {"a shape=1,2,2,1,8 layout=thd", "bshd or bhsd"},
    {"a shape=1,2,2,1,8 colour=red", "no key 'colour'"},
    {"a shape=1,2,2,1,8\na shape=1,2,2,1,8", "w:2: there is a class 'a' already"},
    {"a_name_that_is_longer_than_a_name_may_be shape=1,2,2,1,8", "begins with the name"},
    {"a shape=1,1099511627776,1099511627776,4096,256", "w:1:"},
};

START_TEST(test_workload_wrong)
{
    workload.count = 77;
    attn_status_t status = parse(wrong[_i].text);
    ck_assert_msg(status == ATTN_ERR_INVALID_ARGUMENT || status == ATTN_ERR_TOO_LARGE, "%d", status);
    ck_assert_msg(strstr(error.message, wrong[_i].sentence) != NULL, "%s", error.message);
    ck_assert_uint_eq(workload.count, 77); /* untouched on failure */
}
END_TEST

START_TEST(test_workload_has_a_limit)
{
    char text[65 * 40] = "";
    for (int i = 0; i < 65; i++) {
        snprintf(text + strlen(text), sizeof text - strlen(text), "c%d shape=1,2,2,1,8\n", i);
    }
    ck_assert_int_eq(parse(text), ATTN_ERR_TOO_LARGE);
    *strstr(text, "c64") = '\0';
    ck_assert_int_eq(parse(text), ATTN_OK);
    ck_assert_uint_eq(workload.count, 64);
}
END_TEST

/* ---- the plan ---- */

START_TEST(test_plan_poisson)
{
    enum { COUNT = 200000 };
    bench_plan_t plan;
    ck_assert_int_eq(parse("a weight=3 shape=1,2,2,1,8\nb weight=1 shape=1,2,2,1,8"), ATTN_OK);
    bench_plan_init(&plan, &workload, BENCH_POISSON, 500, 42);
    double last = 0, sum = 0, squares = 0, first = 0;
    for (int i = 0; i < COUNT; i++) {
        bench_arrival_t arrival = bench_plan_next(&plan);
        double gap = arrival.at_s - last;
        ck_assert(gap >= 0);
        last = arrival.at_s;
        sum += gap;
        squares += gap * gap;
        first += arrival.picked == 0;
    }
    double mean = sum / COUNT, deviation = sqrt(squares / COUNT - mean * mean);
    ck_assert_double_eq_tol(mean * 500, 1, 0.01); /* 4 standard errors of 1/sqrt(COUNT) */
    ck_assert_double_eq_tol(deviation * 500, 1, 0.02);
    ck_assert_double_eq_tol(first / COUNT, 0.75, 0.005);
}
END_TEST

START_TEST(test_plan_is_reproducible)
{
    bench_plan_t one, two, slow, seeded;
    ck_assert_int_eq(parse("a shape=1,2,2,1,8\nb shape=1,2,2,1,8\nc shape=1,2,2,1,8"), ATTN_OK);
    bench_plan_init(&one, &workload, BENCH_POISSON, 500, 1);
    bench_plan_init(&two, &workload, BENCH_POISSON, 500, 1);
    bench_plan_init(&slow, &workload, BENCH_CLOSED, 0, 1);
    bench_plan_init(&seeded, &workload, BENCH_POISSON, 500, 2);
    uint32_t differ = 0;
    for (int i = 0; i < 1000; i++) {
        bench_arrival_t a = bench_plan_next(&one), b = bench_plan_next(&two), c = bench_plan_next(&slow);
        ck_assert(a.at_s == b.at_s && a.picked == b.picked);
        ck_assert_uint_eq(a.picked, c.picked); /* the classes do not depend on the rate */
        ck_assert_double_eq(c.at_s, 0);
        differ += bench_plan_next(&seeded).picked != a.picked;
    }
    ck_assert_uint_gt(differ, 500);
}
END_TEST

START_TEST(test_plan_uniform)
{
    bench_plan_t plan;
    ck_assert_int_eq(parse("a shape=1,2,2,1,8"), ATTN_OK);
    bench_plan_init(&plan, &workload, BENCH_UNIFORM, 100, 1);
    for (int i = 1; i <= 1000; i++) {
        ck_assert_double_eq_tol(bench_plan_next(&plan).at_s, i / 100.0, 1e-9);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("bench");
    TCase *tests = tcase_create("all");
    tcase_add_checked_fixture(tests, histograms_clear, NULL);
    tcase_add_test(tests, test_histogram_against_sorting);
    tcase_add_test(tests, test_histogram_edges);
    tcase_add_test(tests, test_workload);
    tcase_add_loop_test(tests, test_workload_wrong, 0, (int)(sizeof wrong / sizeof wrong[0]));
    tcase_add_test(tests, test_workload_has_a_limit);
    tcase_add_test(tests, test_plan_poisson);
    tcase_add_test(tests, test_plan_is_reproducible);
    tcase_add_test(tests, test_plan_uniform);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
