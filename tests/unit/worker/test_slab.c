/* test_slab.c: alike requests of a group lie at even distances in device memory, and `unified` takes them for one. */
#include <check.h>
#include <stdlib.h>

#include "sm90/merge.h"
#include "worker/slab.h"

enum { MEMBERS = 64 };

static attn_engine_request_t request[MEMBERS];
static attn_problem_t problems[MEMBERS], merged[MEMBERS];

/* Requests of `length` and 8/2 heads of 128, each from a place of its own, at distances that are not even. */
static void requests_make(int64_t length, bool lse)
{
    uintptr_t at = 1 << 20;
    for (uint32_t i = 0; i < MEMBERS; i++) {
        attn_engine_request_t *r = &request[i];
        *r = (attn_engine_request_t){.spec = {.dtype = ATTN_DTYPE_F16,
                                              .layout = ATTN_LAYOUT_BSHD,
                                              .batch = 1,
                                              .h_q = 8,
                                              .h_kv = 2,
                                              .d = 128,
                                              .s_q = length,
                                              .s_kv = length,
                                              .return_lse = lse}};
        ck_assert_int_eq(attn_spec_measure(&r->spec, &r->sizes, NULL), ATTN_OK);
        at += 4096 * (1 + i * i % 7);
        r->at = (attn_addresses_t){(char *)at, (char *)at + (4 << 20), (char *)at + (8 << 20), (char *)at + (12 << 20),
                                   lse ? (float *)(at + (16 << 20)) : NULL};
        at += 20 << 20;
    }
}

/* How many problems a launch has of the group, placed from `slab` on. */
static uint32_t launched(char *slab, bool outputs)
{
    attn_slab_order_t order;
    attn_addresses_t at[MEMBERS];
    attn_slab_sort(request, MEMBERS, &order);
    uint64_t needed = attn_slab_place_group(request, MEMBERS, &order, NULL, outputs, at);
    ck_assert_uint_eq(attn_slab_place_group(request, MEMBERS, &order, slab, outputs, at), needed);
    for (uint32_t i = 0; i < MEMBERS; i++)
        ck_assert_uint_eq(attn_engine_problems(&request[i], &at[i], &problems[i]), 1);
    attn_group_t group = {.config = {.dtype = ATTN_DTYPE_F16}, .count = MEMBERS, .problems = problems};
    return attn_sm90_merge(&group, merged);
}

START_TEST(alike_requests_are_one_problem)
{
    static const int64_t lengths[] = {1, 63, 64, 512};
    requests_make(lengths[_i / 2], _i % 2);
    char *slab = (char *)(UINT64_C(1) << 40);
    ck_assert_uint_eq(launched(slab, true), 1);
    ck_assert_uint_eq(merged[0].batch, MEMBERS);
    ck_assert_ptr_eq(merged[0].q.data, slab);
    /* Where they came from they are not. */
    for (uint32_t i = 0; i < MEMBERS; i++)
        attn_engine_problems(&request[i], &request[i].at, &problems[i]);
    attn_group_t group = {.config = {.dtype = ATTN_DTYPE_F16}, .count = MEMBERS, .problems = problems};
    ck_assert_uint_gt(attn_sm90_merge(&group, merged), 1);
}
END_TEST

/* What lies together in host memory lies together in the slab, in whatever order requests come; and no two tensors of a
 * group share a byte there. */
START_TEST(neighbours_stay_neighbours)
{
    enum { COUNT = 48 };
    static const uint8_t shuffled[8] = {5, 2, 7, 0, 3, 6, 1, 4};
    attn_slab_order_t order;
    attn_addresses_t at[COUNT];
    requests_make(64, false);
    char *in = (char *)(UINT64_C(1) << 30), *out = (char *)(UINT64_C(1) << 32), *slab = (char *)(UINT64_C(1) << 40);
    const attn_sizes_t *sizes = &request[0].sizes;
    uint64_t pitch = sizes->q + sizes->k + sizes->v;
    for (uint32_t i = 0; i < COUNT; i++) {
        uint32_t place = i / 8 * 8 + shuffled[i % 8];
        char *q = in + place * pitch;
        /* Answers in the opposite order. */
        request[i].at = (attn_addresses_t){
            .q = q, .k = q + sizes->q, .v = q + sizes->q + sizes->k, .o = out + (COUNT - 1 - place) * sizes->o};
    }
    attn_slab_sort(request, COUNT, &order);
    uint64_t needed = attn_slab_place_group(request, COUNT, &order, slab, true, at);
    ck_assert_uint_eq(needed, COUNT * (pitch + sizes->o));
    for (uint32_t i = 0; i < COUNT; i++) {
        ck_assert_int_eq((char *)at[i].q - slab, (char *)request[i].at.q - in);
        ck_assert_int_eq((char *)at[i].k - slab, (char *)request[i].at.k - in);
        ck_assert_int_eq((char *)at[i].v - slab, (char *)request[i].at.v - in);
        ck_assert_uint_eq((uint64_t)((char *)at[i].o - slab),
                          COUNT * pitch + (uint64_t)((char *)request[i].at.o - out));
    }
}
END_TEST

START_TEST(what_is_on_the_device_stays_there)
{
    requests_make(64, false);
    request[5].on_device = ATTN_TENSOR_K | ATTN_TENSOR_O;
    attn_addresses_t at;
    uint64_t end = attn_slab_place(&request[5], (char *)4096, 0, true, &at);
    ck_assert_ptr_eq(at.k, request[5].at.k);
    ck_assert_ptr_eq(at.o, request[5].at.o);
    ck_assert_ptr_eq(at.v, (char *)4096 + ATTN_WIRE_ROUND(request[5].sizes.q));
    ck_assert_uint_eq(end, ATTN_WIRE_ROUND(request[5].sizes.q) + ATTN_WIRE_ROUND(request[5].sizes.v));
    ck_assert_uint_gt(launched((char *)4096, true), 1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("slab");
    TCase *tests = tcase_create("slab");
    tcase_add_loop_test(tests, alike_requests_are_one_problem, 0, 8);
    tcase_add_test(tests, neighbours_stay_neighbours);
    tcase_add_test(tests, what_is_on_the_device_stays_there);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
