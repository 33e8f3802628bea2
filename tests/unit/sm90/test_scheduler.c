/* test_scheduler.c: tile numbers of the unified kernel: each tile of each problem exactly once, longest first. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "sm90/scheduler.h"

static attn_problem_t problem(uint32_t batch, uint32_t h_q, uint32_t h_kv, int64_t s_q, int64_t s_kv)
{
    attn_problem_t p;

    memset(&p, 0, sizeof(p));
    p.batch = batch;
    p.h_q = h_q;
    p.h_kv = h_kv;
    p.d = 128;
    p.s_q = s_q;
    p.s_kv = s_kv;
    return p;
}

static attn_group_t group_of(const attn_problem_t *problems, uint32_t count, bool causal)
{
    attn_group_t g = {.config = {.dtype = ATTN_DTYPE_BF16, .causal = causal}, .count = count, .problems = problems};
    return g;
}

/* Every (m block, head) once, and lengths that never grow inside a section. */
static void check_problem(const attn_problem_t *p, bool causal)
{
    attn_group_t g = group_of(p, 1, causal);
    attn_sm90_plan_entry_t e;
    uint32_t count, tiles, last_section = UINT32_MAX;
    int32_t last = 0;
    unsigned char *seen;

    ck_assert_int_eq(attn_sm90_plan(&g, 128, 128, &e, &count, &tiles), ATTN_OK);
    ck_assert_uint_eq(count, 1);
    ck_assert_uint_eq(tiles, e.span.m_blocks * p->batch * p->h_q);
    seen = calloc(tiles, 1);
    for (uint32_t t = 0; t < tiles; t++) {
        uint32_t m, head;
        int32_t blocks;

        attn_sm90_tile_locate(&e.span, t, causal, &m, &head);
        ck_assert_uint_lt(m, e.span.m_blocks);
        ck_assert_uint_lt(head, e.span.heads);
        ck_assert_int_eq(seen[m * e.span.heads + head], 0);
        seen[m * e.span.heads + head] = 1;
        blocks = attn_sm90_key_blocks((int32_t)m * 128, 128, (int32_t)p->s_q, (int32_t)p->s_kv, causal, 128);
        ck_assert_int_ge(blocks, 1);
        if (causal && head / e.span.section_heads == last_section)
            ck_assert_int_le(blocks, last);
        last = blocks;
        last_section = head / e.span.section_heads;
    }
    free(seen);
}

START_TEST(every_tile_once)
{
    static const int64_t lengths[][2] = {{1, 1}, {128, 128}, {129, 64}, {1000, 70000}, {5000, 5000}, {300, 0}};

    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++)
        for (int causal = 0; causal < 2; causal++) {
            attn_problem_t p = problem(3, 6, 2, lengths[i][0], lengths[i][1]);
            check_problem(&p, causal);
        }
}
END_TEST

START_TEST(sections_fit_the_cache)
{
    attn_problem_t p = problem(1, 32, 8, 32768, 32768);
    attn_group_t g = group_of(&p, 1, true);
    attn_sm90_plan_entry_t e;
    uint32_t count, tiles;

    ck_assert_int_eq(attn_sm90_plan(&g, 128, 128, &e, &count, &tiles), ATTN_OK);
    ck_assert_uint_eq(e.span.section_heads, 8); /* 16 MiB of K and V per key head: two of them, four heads each */
    g.config.causal = false;
    ck_assert_int_eq(attn_sm90_plan(&g, 128, 128, &e, &count, &tiles), ATTN_OK);
    ck_assert_uint_eq(e.span.section_heads, 1);
}
END_TEST

START_TEST(groups_longest_first_without_empty)
{
    attn_problem_t p[5] = {problem(1, 2, 2, 100, 100), problem(1, 2, 2, 0, 100), problem(2, 4, 2, 4000, 4000),
                           problem(0, 2, 2, 10, 10), problem(1, 2, 1, 300, 0)};
    attn_group_t g = group_of(p, 5, true);
    attn_sm90_plan_entry_t e[5];
    uint32_t count, tiles, at = 0;

    ck_assert_int_eq(attn_sm90_plan(&g, 128, 128, e, &count, &tiles), ATTN_OK);
    ck_assert_uint_eq(count, 3);
    ck_assert_uint_eq(e[0].problem, 2);
    ck_assert_uint_eq(e[1].problem, 0);
    ck_assert_uint_eq(e[2].problem, 4);
    for (uint32_t i = 0; i < count; i++) {
        ck_assert_uint_eq(e[i].span.tile_begin, at);
        at += e[i].span.m_blocks * e[i].span.heads;
    }
    ck_assert_uint_eq(tiles, at);
}
END_TEST

START_TEST(too_many_tiles)
{
    attn_problem_t p = problem(65536, 1024, 1024, 1 << 20, 1);
    attn_group_t g = group_of(&p, 1, false);
    attn_sm90_plan_entry_t e;
    uint32_t count, tiles;

    ck_assert_int_eq(attn_sm90_plan(&g, 128, 128, &e, &count, &tiles), ATTN_ERR_TOO_LARGE);
}
END_TEST

START_TEST(visible_keys)
{
    ck_assert_int_eq(attn_sm90_visible_keys(0, 4, 4, true), 1);
    ck_assert_int_eq(attn_sm90_visible_keys(3, 4, 4, true), 4);
    ck_assert_int_eq(attn_sm90_visible_keys(0, 4, 10, true), 7);
    ck_assert_int_eq(attn_sm90_visible_keys(0, 10, 4, true), 0);
    ck_assert_int_eq(attn_sm90_visible_keys(6, 10, 4, true), 1);
    ck_assert_int_eq(attn_sm90_visible_keys(500, 4, 10, true), 10); /* rows of the tile beyond s_q */
    ck_assert_int_eq(attn_sm90_visible_keys(0, 10, 4, false), 4);
    ck_assert_int_eq(attn_sm90_key_blocks(0, 128, 100, 100, true, 128), 1);
    ck_assert_int_eq(attn_sm90_key_blocks(128, 128, 200, 200, true, 80), 3);
    ck_assert_int_eq(attn_sm90_key_blocks(0, 128, 500, 10, true, 128), 1); /* sees nothing, walks one block */
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("sm90_scheduler");
    TCase *tests = tcase_create("plan");
    SRunner *runner;
    int failed;

    tcase_add_test(tests, every_tile_once);
    tcase_add_test(tests, sections_fit_the_cache);
    tcase_add_test(tests, groups_longest_first_without_empty);
    tcase_add_test(tests, too_many_tiles);
    tcase_add_test(tests, visible_keys);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
