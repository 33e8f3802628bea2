/* test_merge.c: which problems of a group become one with a batch dimension, and that it addresses what they did. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "sm90/merge.h"

enum { H_Q = 4, H_KV = 2, D = 64, S_Q = 16, S_KV = 32, ROOM = 64 };
enum { Q_EACH = S_Q * H_Q * D, K_EACH = S_KV * H_KV * D, LSE_EACH = S_Q * H_Q };

static uint16_t q[ROOM * Q_EACH] __attribute__((aligned(16))), o[ROOM * Q_EACH] __attribute__((aligned(16)));
static uint16_t k[ROOM * K_EACH] __attribute__((aligned(16))), v[ROOM * K_EACH] __attribute__((aligned(16)));
static float lse[ROOM * LSE_EACH];

/* The problem whose tensors are number `at` of each pool. */
static attn_problem_t problem(uint32_t at)
{
    attn_problem_t p;

    memset(&p, 0, sizeof(p));
    p.batch = 1;
    p.h_q = H_Q;
    p.h_kv = H_KV;
    p.d = D;
    p.s_q = S_Q;
    p.s_kv = S_KV;
    p.q = (attn_view_t){q + at * Q_EACH, Q_EACH, H_Q * D, D};
    p.o = (attn_view_t){o + at * Q_EACH, Q_EACH, H_Q * D, D};
    p.k = (attn_view_t){k + at * K_EACH, K_EACH, H_KV * D, D};
    p.v = (attn_view_t){v + at * K_EACH, K_EACH, H_KV * D, D};
    p.lse = lse + at * LSE_EACH;
    p.lse_stride_b = LSE_EACH;
    p.lse_stride_h = S_Q;
    p.sm_scale = 0.125f;
    return p;
}

static uint32_t merge(const attn_problem_t *problems, uint32_t count, attn_problem_t *merged)
{
    attn_group_t group = {.config = {.dtype = ATTN_DTYPE_F16, .causal = true}, .count = count, .problems = problems};
    return attn_sm90_merge(&group, merged);
}

/* Every problem of the group is in exactly one merged one, at its own addresses. */
static void check_same(const attn_problem_t *problems, uint32_t count, const attn_problem_t *merged, uint32_t used)
{
    for (uint32_t i = 0; i < count; i++) {
        uint32_t found = 0;

        for (uint32_t m = 0; m < used; m++)
            for (uint32_t b = 0; b < merged[m].batch; b++)
                found += (uint16_t *)merged[m].q.data + b * merged[m].q.stride_b == problems[i].q.data &&
                         (uint16_t *)merged[m].k.data + b * merged[m].k.stride_b == problems[i].k.data &&
                         (uint16_t *)merged[m].v.data + b * merged[m].v.stride_b == problems[i].v.data &&
                         (uint16_t *)merged[m].o.data + b * merged[m].o.stride_b == problems[i].o.data &&
                         (problems[i].lse == NULL ? merged[m].lse == NULL
                                                  : merged[m].lse + b * merged[m].lse_stride_b == problems[i].lse);
        ck_assert_uint_eq(found, 1);
    }
}

START_TEST(even_distances_are_one)
{
    attn_problem_t p[8], merged[8];

    for (uint32_t i = 0; i < 8; i++)
        p[i] = problem(3 * ((i * 5) % 8) + 1); /* in any order */
    ck_assert_uint_eq(merge(p, 8, merged), 1);
    ck_assert_uint_eq(merged[0].batch, 8);
    ck_assert_int_eq(merged[0].q.stride_b, 3 * Q_EACH);
    ck_assert_int_eq(merged[0].lse_stride_b, 3 * LSE_EACH);
    check_same(p, 8, merged, 1);
}
END_TEST

START_TEST(uneven_distances_are_runs)
{
    static const uint32_t at[] = {0, 1, 2, 10, 20, 30, 31};
    attn_problem_t p[7], merged[7];
    uint32_t used;

    for (uint32_t i = 0; i < 7; i++)
        p[i] = problem(at[i]);
    used = merge(p, 7, merged);
    ck_assert_uint_eq(used, 3); /* 0 1 2, 10 20 30, 31 */
    check_same(p, 7, merged, used);
}
END_TEST

/* Two of more are evenly spaced by chance; a run that begins with the second of them is still found. */
START_TEST(pairs_stay_apart)
{
    static const uint32_t at[] = {0, 1, 5, 9, 13, 20, 21};
    attn_problem_t p[7], merged[7];
    uint32_t used;

    for (uint32_t i = 0; i < 7; i++)
        p[i] = problem(at[i]);
    used = merge(p, 7, merged);
    ck_assert_uint_eq(used, 4); /* 0, 1 5 9 13, 20, 21 */
    check_same(p, 7, merged, used);
    ck_assert_uint_eq(merge(p, 2, merged), 1);
    check_same(p, 2, merged, 1);
}
END_TEST

/* What one record cannot describe stays apart. */
START_TEST(differences_keep_apart)
{
    attn_problem_t p[2], merged[2];

    for (int what = 0; what < 11; what++) {
        p[0] = problem(4);
        p[1] = problem(5);
        switch (what) {
        case 0:
            p[1].sm_scale = 0.5f;
            break;
        case 1:
            p[1].softcap = 1;
            break;
        case 2:
            p[1].lse = NULL;
            break;
        case 3:
            p[1].s_q--;
            break;
        case 4:
            p[1].s_kv--;
            break;
        case 5:
            p[1].q.stride_s += 8;
            break;
        case 6:
            p[1].v.stride_h += 8;
            break;
        case 7:
            p[1].batch = 2;
            break;
        case 8:
            p[1].k = p[0].k;
            break; /* shared keys: no distance */
        case 9:
            p[1].v.data = v;
            break; /* backwards */
        case 10:
            p[1].lse_stride_h += 1;
            break;
        }
        ck_assert_uint_eq(merge(p, 2, merged), 2);
    }
}
END_TEST

START_TEST(empty_ones_are_left_out)
{
    attn_problem_t p[4] = {problem(0), problem(1), problem(2), problem(3)}, merged[4];

    p[0].s_q = 0;
    p[1].batch = 0;
    p[2].h_q = 0;
    ck_assert_uint_eq(merge(p, 3, merged), 0);
    ck_assert_uint_eq(merge(p, 4, merged), 1);
    ck_assert_ptr_eq(merged[0].q.data, p[3].q.data);
}
END_TEST

START_TEST(without_keys_they_do_not_matter)
{
    attn_problem_t p[3] = {problem(0), problem(1), problem(2)}, merged[3];

    for (int i = 0; i < 3; i++) {
        p[i].s_kv = 0;
        p[i].k.data = p[i].v.data = NULL;
    }
    ck_assert_uint_eq(merge(p, 3, merged), 1);
    ck_assert_uint_eq(merged[0].batch, 3);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("sm90_merge");
    TCase *tests = tcase_create("merge");
    SRunner *runner;
    int failed;

    tcase_add_test(tests, even_distances_are_one);
    tcase_add_test(tests, uneven_distances_are_runs);
    tcase_add_test(tests, pairs_stay_apart);
    tcase_add_test(tests, differences_keep_apart);
    tcase_add_test(tests, empty_ones_are_left_out);
    tcase_add_test(tests, without_keys_they_do_not_matter);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
