/* test_link_turns.c: whose inputs take the link next, with a clock and a link of the test's own. */
#include <check.h>
#include <stdbool.h>
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
    return attn_turns_next(turns, count, 0, START + (int64_t)(now_us * (double)ATTN_NS_PER_US));
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

/* The first is due first and too late by whatever is left of it; the second is not, and shorter. */
START_TEST(who_cannot_be_on_time_stands_back_for_a_shorter_one)
{
    attn_turn_t turns[2] = {turn(0, 1000, 1000), turn(0, 0, 0)};
    double now = us(attn_turn_late_ns(&turns[0])) - 600;
    turns[1] = turn(now, 500, 500);
    ck_assert_uint_eq(next_at(now, turns, 2), 1);
    turns[0].left_us = 100; /* this much it can do, */
    ck_assert_uint_eq(next_at(now, turns, 2), 0);
    /* but not behind what the device has already */
    int64_t now_ns = START + (int64_t)(now * (double)ATTN_NS_PER_US);
    ck_assert_uint_eq(attn_turns_next(turns, 2, 500, now_ns), 1);
}
END_TEST

START_TEST(nobody_stands_back_for_an_equal_or_for_one_that_cannot_be_on_time_either)
{
    attn_turn_t turns[3] = {turn(0, 1000, 1000), turn(0, 0, 0), turn(0, 0, 0)};
    double now = us(attn_turn_late_ns(&turns[0]));
    turns[1] = turn(now, 1000, 1000);
    ck_assert_uint_eq(next_at(now, turns, 2), 0);
    turns[2] = turn(0, 900, 900);
    turns[2].came_ns += attn_turn_due_ns(&turns[0]) - attn_turn_due_ns(&turns[2]) + 1; /* due right behind */
    ck_assert_uint_eq(next_at(us(attn_turn_late_ns(&turns[2])), turns, 3), 0);
}
END_TEST

/* The second is late too and not shorter than the third: it does not go for the first, the third does. */
START_TEST(who_stands_back_does_so_for_all_who_are_late_and_longer)
{
    attn_turn_t turns[3] = {turn(0, 2000, 2000), turn(1, 2000, 2000), turn(0, 0, 0)};
    double now = us(attn_turn_late_ns(&turns[1]));
    turns[2] = turn(now, 250, 250);
    ck_assert_uint_eq(next_at(now, turns, 3), 2);
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

enum { PLACES = 8 };

/* One long request, and for a long time more short ones than the link carries: when the long one has been copied. */
static double long_one_ends(void)
{
    attn_turn_t turns[PLACES] = {turn(0, 2000, 2000)};
    uint32_t count = 1;
    for (double now = 0; now < 1e6; now += 80) {
        while (count < PLACES)
            turns[count++] = turn(now, 250, 250);
        uint32_t next = attn_turns_next(turns, count, 0, START + (int64_t)(now * (double)ATTN_NS_PER_US));
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
    ck_assert_double_le(long_one_ends(), us(attn_turn_limit_ns(&alone)) + 2000 + 2 * PLACES * 250);
}
END_TEST

static uint32_t earliest_due(const attn_turn_t *turns, uint32_t count)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < count; i++)
        if (attn_turn_due_ns(&turns[i]) < attn_turn_due_ns(&turns[best]))
            best = i;
    return best;
}

/* Bursts of 20 ms of more than the link carries, half as long again to recover: how many are late, of four lengths. */
static uint32_t late_of_bursts(bool by_due_alone)
{
    static const double copy_us[4] = {250, 500, 1000, 2000};
    attn_turn_t turns[256];
    uint32_t count = 0, late = 0;
    srand(1);
    for (int tick = 0; tick < 60000 || count > 0; tick++) {
        double now = tick * 80;
        /* Each length brings as many bytes; 1.3 and 0.4 of what the link carries. */
        for (int i = 0; i < 4 && tick < 60000; i++) {
            if (rand() < RAND_MAX * (tick % 500 < 250 ? 1.3 : 0.4) / 4 * 80 / copy_us[i]) {
                ck_assert_uint_lt(count, 256);
                turns[count++] = turn(now, copy_us[i], copy_us[i]);
            }
        }
        if (count == 0)
            continue;
        int64_t now_ns = START + (int64_t)(now * (double)ATTN_NS_PER_US);
        uint32_t next = by_due_alone ? earliest_due(turns, count) : attn_turns_next(turns, count, 0, now_ns);
        turns[next].left_us -= 80;
        if (turns[next].left_us > 0)
            continue;
        late += now_ns > attn_turn_late_ns(&turns[next]);
        turns[next] = turns[--count];
    }
    return late;
}

START_TEST(bursts_make_fewer_late)
{
    uint32_t alone = late_of_bursts(true), with = late_of_bursts(false);
    ck_assert_uint_gt(alone, 0);
    ck_assert_msg(with < alone - alone / 4, "%u late, by due alone %u", with, alone);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("turns");
    TCase *tests = tcase_create("turns");
    tcase_add_test(tests, a_shorter_one_overtakes_a_longer_one_and_not_for_ever);
    tcase_add_test(tests, of_equals_the_first_to_come_goes_first);
    tcase_add_test(tests, who_cannot_be_on_time_stands_back_for_a_shorter_one);
    tcase_add_test(tests, nobody_stands_back_for_an_equal_or_for_one_that_cannot_be_on_time_either);
    tcase_add_test(tests, who_stands_back_does_so_for_all_who_are_late_and_longer);
    tcase_add_test(tests, among_late_ones_the_earliest_due_goes);
    tcase_add_test(tests, nobody_stands_back_for_ever);
    tcase_add_test(tests, a_flood_of_short_ones_does_not_starve_a_long_one);
    tcase_add_test(tests, bursts_make_fewer_late);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
