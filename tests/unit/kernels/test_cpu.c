/* kernels/test_cpu.c: `cpu` and `reference` over every feature and instruction set, judged against fp64; same bits
 * whatever the threads and the company; cancellation; what NaN and huge scores may do. */
#include <check.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "attn/engine_variants.h"
#include "cpu/convert.h"
#include "cpu/isa.h"
#include "cpu/pool.h"
#include "kernels/kit.h"

/* A small generator for picking cases; the tensors have their own. */
static uint32_t picked = 12345;
static uint32_t pick(uint32_t n)
{
    picked = picked * 1664525u + 1013904223u;
    return (picked >> 10) % n;
}
#define PICK(list) list[pick(sizeof(list) / sizeof(list)[0])]

static attn_spec_t spec_any(void)
{
    static const uint32_t dims[] = {1, 2, 7, 8, 16, 31, 32, 64, 64, 80, 96, 128, 128, 192, 255, 256};
    static const uint32_t heads[][2] = {{1, 1}, {2, 2}, {2, 1}, {6, 3}, {8, 2}, {7, 1}, {12, 4}};
    static const int64_t lengths[] = {0,  1,  2,  3,  5,   8,   15,  16,  17,  47, 48,
                                      49, 63, 64, 65, 100, 127, 128, 129, 200, 260};
    static const float caps[] = {0, 0, 0, 0.5f, 30};
    static const float scales[] = {0, 0, 0.1f, 1.0f};
    const uint32_t *h = heads[pick(sizeof heads / sizeof heads[0])];
    return (attn_spec_t){.dtype = 1 + pick(3),
                         .layout = 1 + pick(2),
                         .batch = 1 + pick(2),
                         .h_q = h[0],
                         .h_kv = h[1],
                         .d = PICK(dims),
                         .s_q = PICK(lengths),
                         .s_kv = PICK(lengths),
                         .sm_scale = PICK(scales),
                         .softcap = PICK(caps),
                         .causal = (uint8_t)pick(3) > 0,
                         .return_lse = (uint8_t)pick(4) > 0};
}

static void expect_variant(kit_t *kit, const char *variant, const char *who)
{
    attn_error_t err = {0};
    ck_assert_msg(kit_run(kit, variant, 2, &err) == ATTN_OK, "%s: %s", who, err.message);
    kit_expect_pass(kit, who);
}

/* 200 requests picked from all features, by every instruction set that this machine has. */
START_TEST(sweep)
{
    picked = (uint32_t)_i * 7919u + 1;
    for (int n = 0; n < 50 / KIT_SLOW; n++) {
        kit_t kit;
        kit_open(&kit, spec_any(), NULL, NULL, (uint64_t)n);
        expect_variant(&kit, "reference", "reference");
        for (int i = 0; i < KIT_ISAS; i++)
            if (attn_cpu_isa_force(kit_isas[i]))
                expect_variant(&kit, "cpu", kit_isas[i]);
        attn_cpu_isa_force(NULL);
        kit_close(&kit);
    }
}
END_TEST

/* Long enough for many steps of keys and tiles of several panels; the rows where rounding adds up most. */
START_TEST(long_ones)
{
    static const attn_spec_t specs[] = {
        {.h_q = 2, .h_kv = 1, .d = 128, .s_q = 1, .s_kv = 9000, .causal = 1},
        {.h_q = 2, .h_kv = 1, .d = 64, .s_q = 900, .s_kv = 900, .causal = 1},
        {.h_q = 1, .h_kv = 1, .d = 64, .s_q = 300, .s_kv = 1500},
        {.h_q = 1, .h_kv = 1, .d = 40, .s_q = 1500, .s_kv = 300, .causal = 1, .softcap = 5},
        {.h_q = 1, .h_kv = 1, .d = 16, .s_q = 20, .s_kv = 6000, .causal = 1},
    };
    attn_spec_t spec = specs[_i % 5];
    spec.dtype = 1 + (uint32_t)_i / 5;
    spec.layout = ATTN_LAYOUT_BSHD;
    spec.batch = 1;
    spec.return_lse = 1;
    kit_t kit;
    kit_open(&kit, spec, NULL, NULL, 3);
    for (int i = 0; i < KIT_ISAS; i++)
        if (attn_cpu_isa_force(kit_isas[i]))
            expect_variant(&kit, "cpu", kit_isas[i]);
    kit_close(&kit);
}
END_TEST

START_TEST(huge_scores)
{
    kit_t kit;
    kit_open(&kit,
             (attn_spec_t){.dtype = 1 + (uint32_t)_i,
                           .layout = 1,
                           .batch = 1,
                           .h_q = 2,
                           .h_kv = 1,
                           .d = 64,
                           .s_q = 70,
                           .s_kv = 300,
                           .causal = 1,
                           .sm_scale = 1,
                           .return_lse = 1},
             NULL, NULL, 9);
    kit_scale(&kit, kit.at.q, kit.sizes.q, 100); /* scores of some thousands: exp would overflow by far */
    for (int i = 0; i < KIT_ISAS; i++)
        if (attn_cpu_isa_force(kit_isas[i]))
            expect_variant(&kit, "cpu", kit_isas[i]);
    expect_variant(&kit, "reference", "reference");
    kit_close(&kit);
}
END_TEST

START_TEST(packed)
{
    static const int32_t cu_q[] = {0, 5, 5, 90, 91, 140, 140};
    static const int32_t cu_k[] = {0, 5, 20, 60, 260, 260, 260};
    kit_t kit;
    kit_open(&kit,
             (attn_spec_t){.dtype = 1 + (uint32_t)_i,
                           .layout = ATTN_LAYOUT_THD,
                           .batch = 6,
                           .h_q = 6,
                           .h_kv = 2,
                           .d = 48,
                           .s_q = 140,
                           .s_kv = 260,
                           .causal = 1,
                           .return_lse = 1},
             cu_q, cu_k, 4);
    for (int i = 0; i < KIT_ISAS; i++)
        if (attn_cpu_isa_force(kit_isas[i]))
            expect_variant(&kit, "cpu", kit_isas[i]);
    expect_variant(&kit, "reference", "reference");
    kit_close(&kit);
}
END_TEST

/* A request's bits do not depend on threads, on the run, or on who else is in the group. */
START_TEST(same_bits)
{
    const char *variant = _i ? "reference" : "cpu";
    static const int32_t cu_q[] = {0, 150, 157, 357}, cu_k[] = {0, 150, 450, 460};
    kit_t kit;
    const attn_spec_t spec = {.dtype = ATTN_DTYPE_F32,
                              .layout = ATTN_LAYOUT_THD,
                              .batch = 3,
                              .h_q = 4,
                              .h_kv = 2,
                              .d = 64,
                              .s_q = 357,
                              .s_kv = 460,
                              .causal = 1,
                              .return_lse = 1};
    kit_open(&kit, spec, cu_q, cu_k, 5);
    ck_assert_int_eq(kit_run(&kit, variant, 1, NULL), ATTN_OK);
    void *o = malloc(kit.sizes.o);
    void *lse = malloc(kit.sizes.lse);
    memcpy(o, kit.at.o, kit.sizes.o);
    memcpy(lse, kit.at.lse, kit.sizes.lse);
    for (int units = 1; units <= 5; units++) {
        ck_assert_int_eq(kit_run(&kit, variant, units, NULL), ATTN_OK);
        ck_assert(memcmp(o, kit.at.o, kit.sizes.o) == 0);
        ck_assert(memcmp(lse, kit.at.lse, kit.sizes.lse) == 0);
    }
    attn_problem_t problems[3];
    attn_spec_problems(&kit.spec, cu_q, cu_k, &kit.at, problems);
    memset(kit.at.o, 0xff, kit.sizes.o);
    memset(kit.at.lse, 0xff, kit.sizes.lse);
    for (int i = 2; i >= 0; i--) { /* one by one */
        const attn_group_t alone = {{ATTN_DTYPE_F32, true, false}, 1, &problems[i]};
        ck_assert_int_eq(kit_launch(variant, &alone, 2, -1, NULL), ATTN_OK);
    }
    ck_assert(memcmp(o, kit.at.o, kit.sizes.o) == 0);
    ck_assert(memcmp(lse, kit.at.lse, kit.sizes.lse) == 0);
    free(o);
    free(lse);
    kit_close(&kit);
}
END_TEST

/* NaN and inf in K and V: rows that do not see the key keep the bits of a clean run; rows that do are judged, by
 * position, against fp64. */
START_TEST(nan_stays_where_it_is_seen)
{
    static const double specials[] = {NAN, INFINITY, -INFINITY};
    kit_t clean, kit;
    const attn_spec_t spec = {.dtype = 1 + (uint32_t)_i % 3,
                              .layout = 1,
                              .batch = 1,
                              .h_q = 4,
                              .h_kv = 2,
                              .d = 32,
                              .s_q = 200,
                              .s_kv = 230,
                              .causal = 1,
                              .softcap = _i >= 9 ? 20 : 0,
                              .return_lse = 1};
    const int64_t key = 140, first_row = key - (spec.s_kv - spec.s_q); /* rows from here on see it */
    kit_open(&clean, spec, NULL, NULL, 6);
    kit_open(&kit, spec, NULL, NULL, 6);
    const double special = specials[_i / 3 % 3];
    attn_element_store(spec.dtype, kit.at.v, (key * 2 + 1) * 32 + 5, special); /* V: one element */
    if (isnan(special))
        attn_element_store(spec.dtype, kit.at.k, key * 2 * 32 + 9, special); /* K of the other key head */
    for (int i = 0; i <= KIT_ISAS; i++) {
        if (i < KIT_ISAS && !attn_cpu_isa_force(kit_isas[i]))
            continue;
        const char *variant = i < KIT_ISAS ? "cpu" : "reference";
        ck_assert_int_eq(kit_run(&clean, variant, 2, NULL), ATTN_OK);
        ck_assert_int_eq(kit_run(&kit, variant, 2, NULL), ATTN_OK);
        const size_t unseen = (size_t)first_row * 4 * 32 * attn_dtype_size(spec.dtype);
        ck_assert_msg(memcmp(clean.at.o, kit.at.o, unseen) == 0, "%s %d", variant, i);
        kit_expect_pass(&kit, variant);
        const double seen = attn_element_load(spec.dtype, kit.at.o, (first_row * 4 + 2) * 32 + 5);
        ck_assert(isnan(special) ? isnan(seen) : seen == special);
    }
    kit_close(&clean);
    kit_close(&kit);
}
END_TEST

/* Any positive strides: rows of O are written and nothing between them; inputs may start at odd elements. */
START_TEST(strided_views)
{
    enum { S = 70, H = 3, D = 20, GAP = 7, ROW = D + GAP };
    const size_t elements = (size_t)S * H * ROW + 1;
    uint16_t *q = malloc(elements * 2), *k = malloc(elements * 2), *v = malloc(elements * 2), *o = malloc(elements * 2);
    attn_fill_normal(ATTN_DTYPE_F16, 1, 0, q, elements);
    attn_fill_normal(ATTN_DTYPE_F16, 1, 1, k, elements);
    attn_fill_normal(ATTN_DTYPE_F16, 1, 2, v, elements);
    memset(o, 0xab, elements * 2);
    kit_t dense;
    kit_open(&dense,
             (attn_spec_t){
                 .dtype = ATTN_DTYPE_F16, .layout = 1, .batch = 1, .h_q = H, .h_kv = H, .d = D, .s_q = S, .s_kv = S},
             NULL, NULL, 1);
    for (int i = 0; i < S * H; i++) {
        memcpy((uint16_t *)dense.at.q + i * D, q + 1 + i * ROW, D * 2);
        memcpy((uint16_t *)dense.at.k + i * D, k + 1 + i * ROW, D * 2);
        memcpy((uint16_t *)dense.at.v + i * D, v + 1 + i * ROW, D * 2);
    }
    ck_assert_int_eq(kit_run(&dense, "cpu", 2, NULL), ATTN_OK);
    const attn_problem_t problem = {.batch = 1,
                                    .h_q = H,
                                    .h_kv = H,
                                    .d = D,
                                    .s_q = S,
                                    .s_kv = S,
                                    .q = {q + 1, 0, (int64_t)H * ROW, ROW},
                                    .k = {k + 1, 0, (int64_t)H * ROW, ROW},
                                    .v = {v + 1, 0, (int64_t)H * ROW, ROW},
                                    .o = {o + 1, 0, (int64_t)H * ROW, ROW},
                                    .sm_scale = dense.spec.sm_scale};
    const attn_group_t group = {{ATTN_DTYPE_F16, false, false}, 1, &problem};
    ck_assert_int_eq(kit_launch("cpu", &group, 2, -1, NULL), ATTN_OK);
    for (int i = 0; i < S * H; i++) {
        ck_assert(memcmp((uint16_t *)dense.at.o + i * D, o + 1 + i * ROW, D * 2) == 0);
        for (int g = 0; g < GAP && i < S * H; g++)
            ck_assert_uint_eq(o[1 + i * ROW + D + g], 0xabab);
    }
    free(q);
    free(k);
    free(v);
    free(o);
    kit_close(&dense);
}
END_TEST

typedef struct watch {
    pthread_t thread;
    int64_t last_ns, longest_ns;
    int calls;
} watch_t;

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static bool watch_checkpoint(void *arg)
{
    watch_t *watch = arg;
    ck_assert(pthread_equal(watch->thread, pthread_self()));
    const int64_t now = now_ns();
    watch->longest_ns = now - watch->last_ns > watch->longest_ns ? now - watch->last_ns : watch->longest_ns;
    watch->last_ns = now;
    watch->calls++;
    return watch->calls < 20;
}

/* A request of seconds stops after 20 checkpoints, which come from the launching thread and often. */
START_TEST(cancels_between_pieces)
{
    const char *name = _i ? "reference" : "cpu";
    kit_t kit;
    kit_open(&kit,
             (attn_spec_t){.dtype = ATTN_DTYPE_F16,
                           .layout = 1,
                           .batch = 1,
                           .h_q = 4,
                           .h_kv = 1,
                           .d = 256,
                           .s_q = 20000,
                           .s_kv = 20000},
             NULL, NULL, 1);
    attn_problem_t problem;
    attn_spec_problems(&kit.spec, NULL, NULL, &kit.at, &problem);
    const attn_group_t group = {{ATTN_DTYPE_F16, false, false}, 1, &problem};
    const attn_variant_t *variant = attn_cpu_variant_find(name);
    const attn_device_t device = {.kind = ATTN_DEVICE_CPU, .units = 2};
    const size_t bytes = variant->workspace(&group, &device).device;
    watch_t watch = {.thread = pthread_self(), .last_ns = now_ns()};
    attn_exec_t exec = {.device = &device,
                        .workspace = malloc(bytes),
                        .workspace_bytes = bytes,
                        .checkpoint = watch_checkpoint,
                        .checkpoint_arg = &watch};
    attn_error_t err;
    ck_assert_int_eq(variant->launch(&group, &exec, &err), ATTN_ERR_CANCELLED);
    ck_assert_int_eq(err.status, ATTN_ERR_CANCELLED);
    ck_assert_int_eq(watch.calls, 20); /* and none after it said no */
    ck_assert_msg(watch.longest_ns < 1000000000, "%lld ns between checkpoints", (long long)watch.longest_ns);

    exec.workspace_bytes = bytes - 1;
    ck_assert_int_eq(variant->launch(&group, &exec, &err), ATTN_ERR_INTERNAL);
    ck_assert_ptr_nonnull(strstr(err.message, "workspace"));
    free(exec.workspace);
    kit_close(&kit);
}
END_TEST

static atomic_uint visits[1000];
static void pool_visit(void *arg, uint64_t item, attn_pool_thread_t *thread)
{
    ck_assert_uint_lt(attn_pool_thread_index(thread), *(unsigned *)arg);
    atomic_fetch_add(&visits[item], 1);
}

static void *pool_caller(void *arg)
{
    for (int n = 0; n < 50; n++)
        ck_assert_int_eq(attn_pool_run(*(unsigned *)arg, 1000, pool_visit, arg, NULL, NULL), ATTN_OK);
    return NULL;
}

/* Two threads call at a time: each job runs every item once, on at most the threads that it asked for. */
START_TEST(pool_runs_every_item_once)
{
    unsigned threads[] = {3, 6};
    pthread_t other;
    ck_assert_int_eq(pthread_create(&other, NULL, pool_caller, &threads[0]), 0);
    pool_caller(&threads[1]);
    pthread_join(other, NULL);
    for (int i = 0; i < 1000; i++)
        ck_assert_uint_eq(atomic_load(&visits[i]), 100);
    ck_assert_int_eq(attn_pool_run(4, 0, pool_visit, &threads[0], NULL, NULL), ATTN_OK);
}
END_TEST

START_TEST(isa_is_known)
{
    ck_assert(attn_cpu_isa_force("base"));
    ck_assert_str_eq(attn_cpu_isa()->name, "base");
    ck_assert(!attn_cpu_isa_force("mmx"));
    ck_assert_str_eq(attn_cpu_isa()->name, "base");
    ck_assert(attn_cpu_isa_force(NULL));
}
END_TEST

int main(void)
{
    TCase *tests = tcase_create("cpu");
    tcase_set_timeout(tests, 240);
    tcase_add_loop_test(tests, sweep, 0, 4);
    tcase_add_loop_test(tests, long_ones, 0, 15 / KIT_SLOW);
    tcase_add_loop_test(tests, huge_scores, 0, 3);
    tcase_add_loop_test(tests, packed, 0, 3);
    tcase_add_loop_test(tests, same_bits, 0, 2);
    tcase_add_loop_test(tests, nan_stays_where_it_is_seen, 0, 18);
    tcase_add_test(tests, strided_views);
    tcase_add_loop_test(tests, cancels_between_pieces, 0, 2);
    tcase_add_test(tests, pool_runs_every_item_once);
    tcase_add_test(tests, isa_is_known);
    Suite *suite = suite_create("kernels_cpu");
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
