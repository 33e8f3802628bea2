/* test_batcher_kinds.c: small and large requests in one batcher, and how many of which a device is given: without
 * threads and with a clock of the test's own. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "batcher_kit.h"
#include "sched/room.h"

static attn_batch_t take_of(uint32_t kinds)
{
    attn_batch_t batch;
    int64_t due;
    attn_batcher_form(&batcher, 0, kinds, false, now, &batch, &due);
    attn_batcher_take(&batcher, &batch);
    return batch;
}

/* A large request is below every limit and alone all the same; what leads beside it is merged as ever. */
START_TEST(a_large_request_is_its_own_group)
{
    attn_request_t *small[3], *large[2];
    for (int i = 0; i < 2; i++) {
        large[i] = make();
        large[i]->sched.large = true;
        large[i]->sched.work_us = 400;
    }
    push(small[0] = make());
    push(large[0]);
    push(small[1] = make());
    push(large[1]);
    push(small[2] = make());
    attn_batch_t batch = take_of(ATTN_BATCH_ANY);
    ck_assert_uint_eq(batch.count, 3);
    ck_assert(!has(&batch, large[0]) && !has(&batch, large[1]) && !batch.full);
    for (int i = 0; i < 2; i++) {
        batch = take_of(ATTN_BATCH_ANY);
        ck_assert_uint_eq(batch.count, 1);
        ck_assert_ptr_eq(batch.request[0], large[i]);
        ck_assert(batch.full);
        ck_assert_double_eq(batch.work_us, 400);
    }
}
END_TEST

/* Where there is room for one kind only, the first in order of that kind goes, and the other keeps its turn, whatever
 * its priority is. */
START_TEST(one_kind_does_not_hold_up_the_other)
{
    attn_request_t *large = make(), *small = make(), *later = make();
    large->sched.large = true;
    large->priority = 50;
    later->sched.large = true;
    push(large);
    push(small);
    push(later);
    ck_assert_ptr_eq(attn_batcher_peek(&batcher, 0, ATTN_BATCH_ANY), large);
    ck_assert_ptr_eq(attn_batcher_peek(&batcher, 0, ATTN_BATCH_LARGE), large);
    ck_assert_ptr_eq(attn_batcher_peek(&batcher, 0, ATTN_BATCH_SMALL), small);
    attn_batch_t batch = take_of(ATTN_BATCH_SMALL);
    ck_assert_uint_eq(batch.count, 1);
    ck_assert_ptr_eq(batch.request[0], small);
    ck_assert_uint_eq(take_of(ATTN_BATCH_SMALL).count, 0);
    ck_assert_ptr_null(attn_batcher_peek(&batcher, 0, ATTN_BATCH_SMALL));
    push(small);
    ck_assert_ptr_eq(take_of(ATTN_BATCH_LARGE).request[0], large);
    ck_assert_ptr_eq(take_of(ATTN_BATCH_LARGE).request[0], later);
    ck_assert_uint_eq(take_of(ATTN_BATCH_LARGE).count, 0);
    ck_assert_ptr_eq(take_of(ATTN_BATCH_ANY).request[0], small);
}
END_TEST

/* While a small leader waits for company, a large request need not: it would have none. */
START_TEST(a_large_request_waits_for_no_company)
{
    batcher.limits.delay_ns = 300 * ATTN_NS_PER_US;
    attn_request_t *small = push(make()), *large = make();
    large->sched.large = true;
    push(large);
    attn_batch_t batch;
    int64_t due;
    attn_batcher_form(&batcher, 0, ATTN_BATCH_ANY, true, now, &batch, &due);
    ck_assert_uint_eq(batch.count, 0);
    ck_assert_int_eq(due, now + batcher.limits.delay_ns);
    attn_batcher_form(&batcher, 0, ATTN_BATCH_LARGE, true, now, &batch, &due);
    ck_assert_uint_eq(batch.count, 1);
    ck_assert_ptr_eq(batch.request[0], large);
    attn_batcher_take(&batcher, &batch);
    now += batcher.limits.delay_ns;
    attn_batcher_form(&batcher, 0, ATTN_BATCH_ANY, true, now, &batch, &due);
    ck_assert_ptr_eq(batch.request[0], small);
}
END_TEST

/* By default a GPU has four small groups and beside them ten large requests; neither takes the other's places. */
START_TEST(a_gpu_has_places_for_both)
{
    const uint32_t small = ATTN_WIRE_GROUPS_SMALL, large = ATTN_WIRE_GROUPS_LARGE;
    ck_assert_uint_eq(attn_room_kinds(true, 0, 0, 0), ATTN_BATCH_ANY);
    ck_assert_uint_eq(attn_room_kinds(true, 0, small - 1, 0), ATTN_BATCH_ANY);
    ck_assert_uint_eq(attn_room_kinds(true, 0, small, 0), ATTN_BATCH_LARGE);
    ck_assert_uint_eq(attn_room_kinds(true, 0, large, large), ATTN_BATCH_SMALL);
    ck_assert_uint_eq(attn_room_kinds(true, 0, large + small - 1, large), ATTN_BATCH_SMALL);
    ck_assert_uint_eq(attn_room_kinds(true, 0, large + small, large), 0);
    ck_assert_uint_ge(ATTN_WIRE_SLOTS, small * ATTN_WIRE_GROUP_MAX + large);
}
END_TEST

/* A depth that was asked for is all that is in flight, and large requests leave a place of it to others. */
START_TEST(a_depth_is_kept)
{
    for (int gpu = 0; gpu < 2; gpu++)
        for (uint32_t depth = 1; depth <= 4; depth++) {
            ck_assert_uint_eq(attn_room_kinds(gpu, depth, depth, 0), 0);
            ck_assert_uint_eq(attn_room_kinds(gpu, depth, 0, 0), ATTN_BATCH_ANY);
            if (depth > 1)
                ck_assert_uint_eq(attn_room_kinds(gpu, depth, depth - 1, depth - 1), ATTN_BATCH_SMALL);
        }
    ck_assert_uint_eq(attn_room_kinds(false, 0, 0, 0), ATTN_BATCH_ANY);
    ck_assert_uint_eq(attn_room_kinds(false, 0, 1, 0), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("batcher, kinds");
    TCase *tests = tcase_create("kinds");
    tcase_add_checked_fixture(tests, setup, NULL);
    tcase_add_test(tests, a_large_request_is_its_own_group);
    tcase_add_test(tests, one_kind_does_not_hold_up_the_other);
    tcase_add_test(tests, a_large_request_waits_for_no_company);
    tcase_add_test(tests, a_gpu_has_places_for_both);
    tcase_add_test(tests, a_depth_is_kept);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
