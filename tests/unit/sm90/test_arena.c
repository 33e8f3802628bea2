/* test_arena.c: which groups' tensors lie in one arena each, and that its coordinates lead to where they are. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "sm90/arena.h"

enum { H_Q = 4, H_KV = 2, D = 64, COUNT = 50 };

/* Tensors are never read: addresses are numbers, as far apart as those of a large device. */
static attn_view_t view(uint64_t address, int64_t length, uint32_t heads)
{
    return (attn_view_t){(void *)(uintptr_t)address, length * heads * D, heads * D, D};
}

static uint64_t address(uint64_t step)
{
    return (UINT64_C(1) << 40) + step * (uint64_t)(rand() % (1 << 24));
}

static attn_problem_t problem(int64_t s_q, int64_t s_kv, uint64_t step)
{
    attn_problem_t p;

    memset(&p, 0, sizeof(p));
    p.batch = 1;
    p.h_q = H_Q;
    p.h_kv = H_KV;
    p.d = D;
    p.s_q = s_q;
    p.s_kv = s_kv;
    p.q = view(address(step), s_q, H_Q);
    p.o = view(address(step), s_q, H_Q);
    p.k = view(address(step), s_kv, H_KV);
    p.v = view(address(step), s_kv, H_KV);
    p.sm_scale = 0.125f;
    return p;
}

static bool find(const attn_problem_t *problems, uint32_t count, attn_sm90_arenas_t *arenas)
{
    attn_group_t group = {.config = {.dtype = ATTN_DTYPE_F16, .causal = true}, .count = count, .problems = problems};
    return attn_sm90_arenas_find(&group, arenas);
}

/* Every batch begins at a place of the arena, its first row at its address and its last row at the arena's end. */
static void check_tensor(const attn_sm90_arena_t *arena, const attn_view_t *v, int64_t length, uint32_t batch)
{
    ck_assert_uint_ge(arena->origin.rows, (uint32_t)length);
    for (uint32_t b = 0; b < batch; b++) {
        int64_t at = (int64_t)(uintptr_t)v->data + b * v->stride_b * 2;
        int64_t place = attn_sm90_arena_place(&arena->origin, arena->stride, at, (int32_t)length);
        int64_t first_row = (int64_t)arena->origin.rows - length;

        ck_assert_int_ge(place, 0);
        ck_assert_int_lt(place, arena->places);
        ck_assert_int_eq(arena->origin.base + (place << arena->origin.step_log) + first_row * arena->stride, at);
    }
    if (length > 1)
        ck_assert_int_eq(arena->stride, v->stride_s * 2);
}

static void check_found(const attn_problem_t *p, uint32_t count)
{
    attn_sm90_arenas_t arenas;

    ck_assert(find(p, count, &arenas));
    for (uint32_t i = 0; i < count; i++) {
        check_tensor(&arenas.q, &p[i].q, p[i].s_q, p[i].batch);
        check_tensor(&arenas.k, &p[i].k, p[i].s_kv, p[i].batch);
        check_tensor(&arenas.v, &p[i].v, p[i].s_kv, p[i].batch);
    }
}

START_TEST(any_lengths_anywhere)
{
    attn_problem_t p[COUNT];

    for (uint64_t step = 16; step <= 1024; step *= 4) {
        for (uint32_t i = 0; i < COUNT; i++) {
            p[i] = problem(1 + rand() % 3000, 1 + rand() % 9000, step);
            p[i].batch = 1 + i % 3;
            p[i].k.stride_b += 8 * (i % 5);
        }
        check_found(p, COUNT);
    }
    check_found(p, 1);
}
END_TEST

/* The stride of a single row is never used. */
START_TEST(single_rows_have_any_stride)
{
    attn_problem_t p[3] = {problem(1, 1, 256), problem(7, 9, 256), problem(1, 300, 256)};

    p[0].q.stride_s = p[0].k.stride_s = 8;
    p[2].q.stride_s = -5;
    check_found(p, 3);
    check_found(p, 1);
}
END_TEST

START_TEST(differences_have_none)
{
    for (int what = 0; what < 11; what++) {
        attn_problem_t p[2] = {problem(100, 200, 256), problem(100, 200, 256)};
        attn_sm90_arenas_t arenas;

        ck_assert(find(p, 2, &arenas));
        switch (what) {
        case 0:
            p[1].h_q *= 2;
            break;
        case 1:
            p[1].h_kv = 1;
            break;
        case 2:
            p[1].d -= 8;
            break;
        case 3:
            p[1].s_kv = 0;
            break;
        case 4:
            p[1].q.stride_s += 8;
            break;
        case 5:
            p[1].k.stride_s += 8;
            break;
        case 6:
            p[1].v.stride_h += 8;
            break;
        case 7:
            p[1].q.stride_h += 8;
            break;
        case 8: /* 2^35 bytes apart in steps of 16 */
            p[1].k.data = (unsigned char *)p[0].k.data + (INT64_C(1) << 35) + 16;
            break;
        case 9: /* the arena would begin below address 0 */
            p[1] = problem(1, 200, 256);
            p[1].q.data = (void *)(uintptr_t)4096;
            break;
        case 10: /* 8 bytes apart */
            p[1].v.data = (unsigned char *)p[0].v.data + 8;
            break;
        }
        ck_assert_msg(!find(p, 2, &arenas), "case %d", what);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("sm90_arena");
    TCase *tests = tcase_create("arena");
    SRunner *runner;
    int failed;

    tcase_add_test(tests, any_lengths_anywhere);
    tcase_add_test(tests, single_rows_have_any_stride);
    tcase_add_test(tests, differences_have_none);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
