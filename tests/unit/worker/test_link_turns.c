/* test_link_turns.c: whose inputs take the link next, with a clock and a link of the test's own. */
#include <check.h>
#include <stdlib.h>

#include "base/clock.h"
#include "worker/turns.h"

#define START (1000 * ATTN_NS_PER_S)

static attn_turn_t turn(double came_us, double copy_us, double left_us)
{
    return (attn_turn_t){
        .came_ns = START + (int64_t)(came_us * (double)ATTN_NS_PER_US), .copy_us = copy_us, .left_us = left_us};
}

static uint32_t next_at(double now_us, const attn_turn_t *turns, uint32_t count)
{
    return attn_turns_next(turns, count, 0, false, START + (int64_t)(now_us * (double)ATTN_NS_PER_US));
}

static double us(int64_t ns)
{
    return (double)(ns - START) / (double)ATTN_NS_PER_US;
}

START_TEST(a_shorter_one_overtakes_a_longer_one_and_not_for_ever)
{
    attn_turn_t long_one = turn(0, 2000, 1500);
    double overtaken_until = us(attn_turn_due_ns(&long_one)) - us(attn_turn_due_ns(&(attn_turn_t){START, 250, 250}));
    attn_turn_t early[2] = {long_one, turn(100, 250, 250)};
    ck_assert_uint_eq(next_at(100, early, 2), 1);
    attn_turn_t late[2] = {long_one, turn(overtaken_until + 1, 250, 250)};
    ck_assert_uint_eq(next_at(overtaken_until + 1, late, 2), 0);
}
END_TEST

START_TEST(of_equals_the_first_to_come_goes_first)
{
    attn_turn_t turns[3] = {turn(20, 500, 500), turn(10, 500, 500), turn(10, 500, 500)};
    ck_assert_uint_eq(next_at(30, turns, 3), 1);
}
END_TEST

/* The first is due first and too late by whatever is left of it; the second is not. */
START_TEST(who_cannot_be_on_time_stands_back)
{
    attn_turn_t turns[2] = {turn(0, 1000, 1000), turn(0, 0, 500)};
    double late = us(attn_turn_late_ns(&turns[0]));
    turns[1] = turn(late - 600, 1000, 1000);
    ck_assert_uint_eq(next_at(late - 600, turns, 2), 1);
    turns[0].left_us = 100; /* this much it can do */
    ck_assert_uint_eq(next_at(late - 600, turns, 2), 0);
}
END_TEST

/* What is due before one, and what the device has already, is counted in. */
START_TEST(what_goes_before_counts)
{
    attn_turn_t turns[3] = {turn(0, 400, 400), turn(0, 600, 600), turn(0, 6000, 6000)};
    double late = us(attn_turn_late_ns(&turns[0]));
    double now = late - 700;
    ck_assert_uint_eq(next_at(now, turns, 3), 0);
    int64_t now_ns = START + (int64_t)(now * (double)ATTN_NS_PER_US);
    ck_assert_uint_eq(attn_turns_next(turns, 3, 300, false, now_ns), 1);
    /* The second alone would be on time, behind the first it is not: it stands back, not the first. */
    attn_turn_t pair[2] = {turn(0, 600, 600), turn(0, 610, 610)};
    now = us(attn_turn_late_ns(&pair[1])) - 1100;
    ck_assert_uint_eq(next_at(now, pair, 2), 0);
    ck_assert_uint_eq(next_at(now, &pair[1], 1), 0);
}
END_TEST

START_TEST(among_late_ones_the_earliest_due_goes)
{
    attn_turn_t turns[3] = {turn(100, 1000, 1000), turn(0, 1000, 1000), turn(50, 1000, 1000)};
    double now = us(attn_turn_late_ns(&turns[0]));
    ck_assert_uint_eq(next_at(now, turns, 3), 1);
}
END_TEST

START_TEST(nobody_stands_back_for_ever)
{
    attn_turn_t turns[2] = {turn(0, 1000, 1000), turn(0, 0, 0)};
    double limit = us(attn_turn_limit_ns(&turns[0]));
    turns[1] = turn(limit - 1, 250, 250);
    ck_assert_uint_eq(next_at(limit - 1, turns, 2), 1);
    ck_assert_uint_eq(next_at(limit + 1, turns, 2), 0);
}
END_TEST

START_TEST(where_all_places_are_taken_nobody_stands_back)
{
    attn_turn_t turns[2] = {turn(0, 1000, 1000), turn(0, 0, 0)};
    double now = us(attn_turn_late_ns(&turns[0]));
    turns[1] = turn(now, 1000, 1000);
    int64_t now_ns = START + (int64_t)(now * (double)ATTN_NS_PER_US);
    ck_assert_uint_eq(attn_turns_next(turns, 2, 0, false, now_ns), 1);
    ck_assert_uint_eq(attn_turns_next(turns, 2, 0, true, now_ns), 0);
}
END_TEST

enum { PLACES = 10 };

/* One long request, and for a long time more short ones than the link carries: when the long one has been copied. */
static double long_one_ends(bool full)
{
    attn_turn_t turns[PLACES] = {turn(0, 2000, 2000)};
    uint32_t count = 1;
    for (double now = 0; now < 1e6; now += 80) {
        while (count < (full ? PLACES : PLACES - 1))
            turns[count++] = turn(now, 250, 250);
        uint32_t next = attn_turns_next(turns, count, 0, full, START + (int64_t)(now * (double)ATTN_NS_PER_US));
        ck_assert_uint_lt(next, count);
        turns[next].left_us -= 80;
        if (turns[next].left_us > 0)
            continue;
        if (turns[next].copy_us > 1000)
            return now + 80;
        turns[next] = turns[--count];
    }
    return 1e6;
}

/* It takes 2 ms by itself; as many short ones may be due first, or over their limit, as there are places. */
START_TEST(a_flood_of_short_ones_does_not_starve_a_long_one)
{
    attn_turn_t alone = turn(0, 2000, 2000);
    ck_assert_double_le(long_one_ends(true), us(attn_turn_due_ns(&alone)) + 2000 + PLACES * 250);
    ck_assert_double_le(long_one_ends(false), us(attn_turn_limit_ns(&alone)) + 2000 + 2 * PLACES * 250);
}
END_TEST

/* More than the link carries for 20 ms: of the short ones fewer are late than in the order of dues alone. */
static uint32_t late_of_a_burst(bool by_due_alone)
{
    attn_turn_t turns[64];
    uint32_t count = 0, late = 0, sent = 0;
    for (int tick = 0; tick < 1200; tick++) {
        double now = tick * 80;
        if (tick < 250 && tick % 4 == 0) {
            ck_assert_uint_lt(count, 64);
            turns[count++] = sent++ % 8 == 0 ? turn(now, 2000, 2000) : turn(now, 250, 250);
        }
        if (count == 0)
            continue;
        int64_t now_ns = START + (int64_t)(now * (double)ATTN_NS_PER_US);
        uint32_t next = attn_turns_next(turns, count, 0, by_due_alone, now_ns);
        turns[next].left_us -= 80;
        if (turns[next].left_us > 0)
            continue;
        late += now_ns > attn_turn_late_ns(&turns[next]);
        turns[next] = turns[--count];
    }
    ck_assert_uint_eq(count, 0);
    return late;
}

START_TEST(a_burst_makes_fewer_late)
{
    uint32_t alone = late_of_a_burst(true), with = late_of_a_burst(false);
    ck_assert_uint_gt(alone, 0);
    ck_assert_uint_lt(with, alone);
    ck_assert_uint_ge(alone - with, alone / 4);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("turns");
    TCase *tests = tcase_create("turns");
    tcase_add_test(tests, a_shorter_one_overtakes_a_longer_one_and_not_for_ever);
    tcase_add_test(tests, of_equals_the_first_to_come_goes_first);
    tcase_add_test(tests, who_cannot_be_on_time_stands_back);
    tcase_add_test(tests, what_goes_before_counts);
    tcase_add_test(tests, among_late_ones_the_earliest_due_goes);
    tcase_add_test(tests, nobody_stands_back_for_ever);
    tcase_add_test(tests, where_all_places_are_taken_nobody_stands_back);
    tcase_add_test(tests, a_flood_of_short_ones_does_not_starve_a_long_one);
    tcase_add_test(tests, a_burst_makes_fewer_late);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
