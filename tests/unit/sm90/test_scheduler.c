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

/* The plan of a group of up to 8 problems of any shape. */
typedef struct planned {
    attn_sm90_plan_entry_t entries[16];
    attn_sm90_span_t spans[16];
    attn_sm90_plan_t plan;
    attn_status_t status;
} planned_t;

static void plan_tiles(const attn_group_t *group, uint32_t tile_m, planned_t *ret)
{
    memset(ret, 0, sizeof(*ret));
    ret->plan.entries = ret->entries;
    ret->plan.spans = ret->spans;
    ret->status = attn_sm90_plan(group, tile_m, 128, 132, &ret->plan);
}

static void plan_of(const attn_group_t *group, planned_t *ret)
{
    plan_tiles(group, 128, ret);
}

/* Marks the rows of warp group `group` of a tile as seen, once, in units of 64 rows of a head. */
static void see_rows(const attn_problem_t *p, const attn_sm90_span_t *span, uint32_t m, uint32_t head, bool causal,
                     uint32_t tile_m, uint32_t group, unsigned char *seen)
{
    uint32_t ratio = p->h_q / p->h_kv, row_units = ((uint32_t)p->s_q + 63) / 64, member;
    int32_t row;

    if (span->together == 1) {
        row = attn_sm90_tile_row(m, span->m_blocks, (int32_t)tile_m, (int32_t)p->s_q, causal) + 64 * (int32_t)group;
    } else {
        ck_assert_uint_eq(m, 0);
        row = (int32_t)span->row_begin;
        member = head % span->kv_heads * span->together + group;
        if (group >= span->together || member >= ratio)
            return;
        head = head / span->kv_heads * ratio + member;
    }
    ck_assert_int_eq(row % 64, 0);
    if (row < 0 || row >= p->s_q)
        return;
    ck_assert_int_eq(seen[head * row_units + (uint32_t)row / 64]++, 0);
}

/* All rows of all heads once, and lengths that never grow inside a section. */
static void check_problem(const attn_problem_t *p, bool causal, uint32_t tile_m)
{
    attn_group_t g = group_of(p, 1, causal);
    planned_t made;
    uint32_t units = p->batch * p->h_q * (((uint32_t)p->s_q + 63) / 64), tiles = 0;
    uint32_t together = attn_sm90_together(p->s_q, p->h_q / p->h_kv, tile_m);
    unsigned char *seen = calloc(units, 1);

    plan_tiles(&g, tile_m, &made);
    ck_assert_int_eq(made.status, ATTN_OK);
    ck_assert_uint_eq(made.plan.spans_used, 1u + (together > 1 && p->s_q > tile_m));
    for (uint32_t i = 0; i < made.plan.spans_used; i++) {
        const attn_sm90_span_t *span = &made.spans[i];
        uint32_t last_section = UINT32_MAX;
        int32_t last = 0;

        ck_assert_uint_eq(span->together, i == 0 ? together : 1);
        ck_assert_uint_eq(span->tile_begin, tiles);
        ck_assert_uint_eq(span->problem_begin, 0);
        ck_assert_uint_eq(span->kv_heads, (p->h_q / p->h_kv + span->together - 1) / span->together);
        ck_assert_uint_eq(span->batch_heads, p->h_kv * span->kv_heads);
        ck_assert_uint_eq(span->heads, p->batch * span->batch_heads);
        tiles += span->m_blocks * span->heads;
        for (uint32_t t = span->tile_begin; t < tiles; t++) {
            uint32_t m, head, section;
            int32_t blocks;

            attn_sm90_tile_locate(span, t, causal, &m, &head);
            ck_assert_uint_lt(m, span->m_blocks);
            ck_assert_uint_lt(head, span->heads);
            for (uint32_t group = 0; group < tile_m / 64; group++)
                see_rows(p, span, m, head, causal, tile_m, group, seen);
            blocks = attn_sm90_key_blocks((int32_t)(span->row_begin + tile_m * m), (int32_t)tile_m, (int32_t)p->s_q,
                                          (int32_t)p->s_kv, causal, 128);
            ck_assert_int_ge(blocks, 1);
            section = head / span->section_heads;
            section = section < span->sections ? section : span->sections - 1;
            if (causal && section == last_section)
                ck_assert_int_le(blocks, last);
            last = blocks;
            last_section = section;
        }
    }
    ck_assert_uint_eq(made.plan.tiles, tiles);
    for (uint32_t i = 0; i < units; i++)
        ck_assert_int_eq(seen[i], 1);
    free(seen);
}

START_TEST(every_tile_once)
{
    static const int64_t lengths[][2] = {{1, 1},     {64, 64},   {65, 65},      {128, 128},   {129, 64},
                                         {192, 500}, {193, 193}, {1000, 70000}, {5000, 5000}, {300, 0}};

    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++)
        for (int causal = 0; causal < 2; causal++) {
            attn_problem_t p = problem(3, 6, 2, lengths[i][0], lengths[i][1]); /* three heads share: two and one */
            attn_problem_t apart = problem(3, 4, 4, lengths[i][0], lengths[i][1]);

            check_problem(&p, causal, 128);
            check_problem(&p, causal, 192);
            check_problem(&apart, causal, 128);
            check_problem(&apart, causal, 192);
        }
}
END_TEST

START_TEST(sections_fit_the_cache)
{
    attn_problem_t p = problem(4, 32, 8, 8192, 8192);
    attn_group_t g = group_of(&p, 1, true);
    planned_t made;
    const attn_sm90_span_t *span = &made.spans[0];

    plan_of(&g, &made);
    ck_assert_uint_eq(span->section_heads, 8); /* 4 MiB of K and V per key head: two of them, four heads each */
    p.s_kv = 65536;
    plan_of(&g, &made);
    ck_assert_uint_eq(span->section_heads, 4); /* one key head at least */
    g.config.causal = false;
    plan_of(&g, &made);
    ck_assert_uint_eq(span->section_heads, 1);
}
END_TEST

/* The last section has work for all units as long as its longest tile lasts, where there are heads enough. */
START_TEST(last_section_is_balanced)
{
    for (int64_t s = 512; s <= 65536; s *= 2) {
        attn_problem_t p = problem((uint32_t)(65536 / s), 16, 16, s, s);
        attn_group_t g = group_of(&p, 1, true);
        planned_t made;
        const attn_sm90_span_t *span = &made.spans[0];
        uint32_t last;

        plan_of(&g, &made);
        ck_assert_uint_ge(span->sections, 1);
        last = span->heads - (span->sections - 1) * span->section_heads;
        ck_assert_uint_le((span->sections - 1) * span->section_heads, span->heads);
        if (last < span->heads)
            ck_assert_uint_ge(last * (span->m_blocks + 1) / (s < 2048 ? 1 : 2), 132);
    }
}
END_TEST

/* Of equal longest tiles those with many rows and those with few take turns; equal problems stay together. */
START_TEST(rows_are_mixed)
{
    attn_problem_t p[7] = {problem(1, 2, 2, 60, 60), problem(1, 2, 2, 100, 100), problem(1, 2, 2, 500, 500),
                           problem(1, 2, 2, 80, 80), problem(1, 2, 2, 100, 100), problem(1, 2, 2, 70, 70),
                           problem(1, 2, 2, 90, 90)};
    attn_group_t g = group_of(p, 7, false);
    static const uint32_t order[] = {2, 1, 4, 5, 6, 0, 3};
    planned_t made;

    plan_of(&g, &made);
    ck_assert_int_eq(made.status, ATTN_OK);
    ck_assert_uint_eq(made.plan.spans_used, 6);
    for (uint32_t i = 0; i < 7; i++)
        ck_assert_uint_eq(made.entries[i].problem, order[i]);
}
END_TEST

/* Heads share their last tile when the rows that are left for it fit one of its warp groups, and only those of one key
 * head. */
START_TEST(heads_share_last_tiles)
{
    ck_assert_uint_eq(attn_sm90_together(64, 4, 128), 2);
    ck_assert_uint_eq(attn_sm90_together(128 * 7 + 64, 2, 128), 2);
    ck_assert_uint_eq(attn_sm90_together(128 * 7 + 65, 2, 128), 1);
    ck_assert_uint_eq(attn_sm90_together(128 * 7, 2, 128), 1);
    ck_assert_uint_eq(attn_sm90_together(192 + 1, 4, 192), 2); /* two and two, not three and one */
    ck_assert_uint_eq(attn_sm90_together(192 + 1, 2, 192), 2);
    ck_assert_uint_eq(attn_sm90_together(1, 8, 192), 3);
    ck_assert_uint_eq(attn_sm90_together(65, 4, 128), 1);
    ck_assert_uint_eq(attn_sm90_together(64, 1, 128), 1);
}
END_TEST

START_TEST(divisors)
{
    static const uint32_t numbers[] = {0,  1,  2,   3,        5,          6,          7,         63,
                                       64, 65, 999, 1u << 16, 0x12345678, 0x7ffffffe, 0x7fffffff};
    const size_t count = sizeof(numbers) / sizeof(numbers[0]);

    for (size_t i = 1; i < count; i++) {
        uint32_t by = numbers[i];
        attn_sm90_divisor_t divisor = attn_sm90_divisor(by);

        for (size_t j = 0; j < count; j++) {
            ck_assert_uint_eq(attn_sm90_divide(numbers[j], divisor), numbers[j] / by);
            /* around multiples, where a magic number that is off by one shows */
            for (uint32_t n = numbers[j] / by * by; n > 0 && n < 0x7fffffff && n < numbers[j] / by * by + 2; n++) {
                ck_assert_uint_eq(attn_sm90_divide(n, divisor), n / by);
                ck_assert_uint_eq(attn_sm90_divide(n - 1, divisor), (n - 1) / by);
            }
        }
    }
    for (uint32_t by = 1; by < 3000; by++) {
        attn_sm90_divisor_t divisor = attn_sm90_divisor(by);
        uint32_t last = 0x7fffffffu / by * by;

        ck_assert_uint_eq(attn_sm90_divide(last, divisor), last / by);
        ck_assert_uint_eq(attn_sm90_divide(last - 1, divisor), (last - 1) / by);
        ck_assert_uint_eq(attn_sm90_divide(by * 7, divisor), 7);
        ck_assert_uint_eq(attn_sm90_divide(by * 7 - 1, divisor), 6);
    }
}
END_TEST

START_TEST(groups_longest_first)
{
    attn_problem_t p[3] = {problem(1, 2, 2, 100, 100), problem(2, 4, 2, 4000, 4000), problem(1, 2, 1, 300, 0)};
    attn_group_t g = group_of(p, 3, true);
    static const uint32_t order[] = {1, 2, 0}; /* the last two walk one block; the one with more rows comes first */
    planned_t made;
    uint32_t at = 0;

    plan_of(&g, &made);
    ck_assert_int_eq(made.status, ATTN_OK);
    ck_assert_uint_eq(made.plan.spans_used, 5); /* heads of the first two share their last tiles */
    for (uint32_t i = 0; i < 3; i++)
        ck_assert_uint_eq(made.entries[i].problem, order[i]);
    for (uint32_t i = 0; i < 5; i++) {
        ck_assert_uint_eq(made.spans[i].problem_begin, i / 2);
        ck_assert_uint_eq(made.spans[i].together, i == 0 || i == 2 ? 2 : 1);
        ck_assert_uint_eq(made.spans[i].tile_begin, at);
        at += made.spans[i].m_blocks * made.spans[i].heads;
    }
    ck_assert_uint_eq(made.spans[0].row_begin, 3968);
    ck_assert_uint_eq(made.spans[1].m_blocks, 31);
    ck_assert_uint_eq(made.plan.tiles, at);
}
END_TEST

/* Problems of one shape are one span wherever they stand in the group, and all their tiles are in it once, the longest
 * of all before the shorter ones of any. */
START_TEST(equal_problems_are_scheduled_as_a_batch)
{
    attn_problem_t p[5] = {problem(1, 4, 2, 512, 512), problem(1, 4, 2, 768, 768), problem(1, 4, 2, 512, 512),
                           problem(1, 4, 4, 512, 512), problem(1, 4, 2, 512, 512)};
    attn_group_t g = group_of(p, 5, true);
    planned_t made;
    const attn_sm90_span_t *span = &made.spans[1];
    unsigned char seen[12 * 4] = {0};
    uint32_t last = 4;

    plan_of(&g, &made);
    ck_assert_uint_eq(made.plan.spans_used, 3);
    ck_assert_uint_eq(made.entries[0].problem, 1);
    ck_assert_uint_eq(made.spans[2].problem_begin, 2);
    span = &made.spans[made.spans[1].heads == 12 ? 1 : 2];
    ck_assert_uint_eq(span->heads, 12);
    ck_assert_uint_eq(span->problem_heads, 4);
    for (uint32_t t = 0; t < 48; t++) {
        uint32_t m, head;

        attn_sm90_tile_locate(span, span->tile_begin + t, true, &m, &head);
        ck_assert_uint_lt(m, 4);
        ck_assert_uint_lt(head, 12);
        ck_assert_int_eq(seen[head * 4 + m]++, 0);
        ck_assert_uint_le(m, last);
        last = m;
    }
}
END_TEST

START_TEST(too_many_tiles)
{
    attn_problem_t p[2] = {problem(65536, 1024, 1024, 1 << 20, 1), problem(65536, 1024, 1024, 1 << 10, 1)};
    attn_group_t g = group_of(p, 1, false);
    planned_t made;

    plan_of(&g, &made);
    ck_assert_int_eq(made.status, ATTN_ERR_TOO_LARGE);
    p[0] = p[1];
    g.count = 1;
    plan_of(&g, &made);
    ck_assert_int_eq(made.status, ATTN_OK);
    p[0].s_q = p[1].s_q = 1 << 11; /* each fits, the sum does not */
    g.count = 2;
    plan_of(&g, &made);
    ck_assert_int_eq(made.status, ATTN_ERR_TOO_LARGE);
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
    ck_assert_int_eq(attn_sm90_live_blocks(-64, 64, 512, 512, true, 128), 0);
    /* 512 rows in 3 tiles of 192: 64 are missing, from the first tile when causal. */
    ck_assert_int_eq(attn_sm90_tile_row(0, 3, 192, 512, false), 0);
    ck_assert_int_eq(attn_sm90_tile_row(0, 3, 192, 512, true), -64);
    ck_assert_int_eq(attn_sm90_tile_row(2, 3, 192, 512, true), 320);
    ck_assert_int_eq(attn_sm90_tile_row(2, 3, 192, 513, true), 384); /* 63: less than a warp group */
    ck_assert_int_eq(attn_sm90_tile_row(0, 1, 192, 1, true), -128);
    ck_assert_int_eq(attn_sm90_tile_row(0, 1, 192, 193, true), 0); /* the second one is shared */
    ck_assert_int_eq(attn_sm90_tile_row(0, 1, 128, 1, true), 0);   /* not with two warp groups */
    ck_assert_int_eq(attn_sm90_tile_row(1, 2, 128, 190, true), 128);
    /* A warp group's part of a tile of 192 rows and blocks of 128 keys: its rows end at 64, 128, 192. */
    ck_assert_int_eq(attn_sm90_live_blocks(0, 64, 192, 192, true, 128), 1);
    ck_assert_int_eq(attn_sm90_live_blocks(64, 64, 192, 192, true, 128), 1);
    ck_assert_int_eq(attn_sm90_live_blocks(128, 64, 192, 192, true, 128), 2);
    ck_assert_int_eq(attn_sm90_live_blocks(64, 64, 65, 4096, true, 128), 32);
    ck_assert_int_eq(attn_sm90_live_blocks(64, 64, 64, 4096, true, 128), 0); /* no such row */
    ck_assert_int_eq(attn_sm90_live_blocks(64, 64, 64, 4096, false, 128), 0);
    ck_assert_int_eq(attn_sm90_live_blocks(0, 64, 500, 10, true, 128), 1); /* rows that see nothing are written too */
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
    tcase_add_test(tests, last_section_is_balanced);
    tcase_add_test(tests, rows_are_mixed);
    tcase_add_test(tests, heads_share_last_tiles);
    tcase_add_test(tests, divisors);
    tcase_add_test(tests, groups_longest_first);
    tcase_add_test(tests, equal_problems_are_scheduled_as_a_batch);
    tcase_add_test(tests, too_many_tiles);
    tcase_add_test(tests, visible_keys);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
