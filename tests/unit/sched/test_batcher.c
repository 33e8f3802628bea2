/* test_batcher.c: the batcher's rules, without threads and with a clock of the test's own. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "batcher_kit.h"

static const attn_variant_info_t variant_b;

static attn_batch_t form(bool company, int64_t *ret_due)
{
    attn_batch_t batch;
    int64_t due;
    attn_batcher_form(&batcher, 0, ATTN_BATCH_ANY, company, now, &batch, ret_due ? ret_due : &due);
    return batch;
}

static attn_batch_t take(void)
{
    attn_batch_t batch = form(false, NULL);
    attn_batcher_take(&batcher, &batch);
    return batch;
}

START_TEST(what_waits_becomes_one_group_by_arrival)
{
    attn_request_t *request[40];
    ck_assert_uint_eq(form(false, NULL).count, 0);
    for (int i = 0; i < 40; i++)
        request[i] = push(make());
    ck_assert_ptr_eq(attn_batcher_peek(&batcher, 0, ATTN_BATCH_ANY), request[0]);
    attn_batch_t batch = take();
    ck_assert_ptr_null(attn_batcher_first(&batcher));
    ck_assert_uint_eq(batch.count, 40);
    for (int i = 0; i < 40; i++)
        ck_assert_ptr_eq(batch.request[i], request[i]);
    ck_assert(!batch.full);
    ck_assert_double_eq(batch.cost_us, 400);
}
END_TEST

/* Each of these differs from the first in one thing that makes another configuration. */
static void differ(attn_request_t *request, int how)
{
    attn_spec_t *spec = &request->spec;
    request->outcome.variant = how == 0 ? &variant_b : &variant_a;
    spec->dtype = how == 1 ? ATTN_DTYPE_BF16 : ATTN_DTYPE_F16;
    spec->h_q = how == 2 ? 16 : 8;
    spec->h_kv = how == 3 ? 8 : 2;
    spec->d = how == 4 ? 64 : 128;
    spec->causal = how == 5;
    spec->softcap = how == 6 ? 2 : 0;
    request->sched.alone = request->sched.alone || how == 7;
    request->sched.devices = how == 8 ? 2 : request->sched.devices;
}

START_TEST(only_one_configuration_runs_together)
{
    attn_request_t *first = push(make()), *other = make(), *third = make();
    differ(other, _i);
    push(other);
    push(third);
    attn_batch_t batch = take();
    ck_assert_uint_eq(batch.count, 2);
    ck_assert(has(&batch, first) && has(&batch, third));
    /* Lengths, scales, the cap's value, batch, layout and LSE do not matter, nor a head dim of the same class. */
    attn_request_t *free_in = make();
    free_in->spec = (attn_spec_t){.dtype = ATTN_DTYPE_F16,
                                  .layout = ATTN_LAYOUT_THD,
                                  .batch = 3,
                                  .h_q = 8,
                                  .h_kv = 2,
                                  .d = 112,
                                  .s_q = 1,
                                  .s_kv = 900,
                                  .sm_scale = 3,
                                  .return_lse = 1};
    push(make());
    push(free_in);
    attn_batcher_remove(&batcher, other);
    batch = take();
    ck_assert_uint_eq(batch.count, 2);
    ck_assert(has(&batch, free_in));
}
END_TEST

/* Limits: requests, tokens, bytes, cost. */
START_TEST(groups_end_at_each_limit)
{
    const attn_batcher_limits_t limits[] = {
        {.requests = 5, .tokens = 1 << 20, .bytes = 1 << 26, .cost_us = 1e6},
        {.requests = 64, .tokens = 5 * 128, .bytes = 1 << 26, .cost_us = 1e6},
        {.requests = 64, .tokens = 1 << 20, .bytes = 5 * 1024, .cost_us = 1e6},
        {.requests = 64, .tokens = 1 << 20, .bytes = 1 << 26, .cost_us = 50},
    };
    attn_batcher_init(&batcher, &limits[_i]);
    for (int i = 0; i < 12; i++)
        push(make());
    attn_batch_t batch = take();
    ck_assert_uint_eq(batch.count, 5);
    ck_assert(batch.full);
    batch = take();
    ck_assert_uint_eq(batch.count, 5);
    batch = take();
    ck_assert_uint_eq(batch.count, 2);
    ck_assert(!batch.full);
}
END_TEST

/* One that is above a limit by itself runs, alone; small ones behind it do not wait for it to be merged with. */
START_TEST(a_huge_request_is_its_own_group)
{
    attn_request_t *huge = make();
    huge->sched.cost_us = 50000;
    push(huge);
    attn_request_t *small[3];
    for (int i = 0; i < 3; i++)
        small[i] = push(make());
    /* What would finish first goes first: the small ones, of other connections, although they came later. */
    attn_batch_t batch = take();
    ck_assert_uint_eq(batch.count, 3);
    ck_assert(has(&batch, small[0]) && !has(&batch, huge));
    batch = take();
    ck_assert_uint_eq(batch.count, 1);
    ck_assert_ptr_eq(batch.request[0], huge);
    ck_assert(batch.full);
}
END_TEST

/* ... but a stream of small ones does not keep it waiting for more than eight times its own cost. */
START_TEST(a_huge_request_does_not_starve)
{
    attn_request_t *huge = make();
    huge->sched.cost_us = 5000;
    push(huge);
    int groups = 0;
    for (attn_batch_t batch; groups < 2000; groups++) {
        for (int i = 0; i < 5; i++)
            push(make());
        batch = take();
        if (has(&batch, huge))
            break;
        if (pool_used > POOL - 8)
            pool_used = 1;
        for (uint32_t i = 0; i < batch.count; i++)
            batch.request[i]->sched.arrival = 0;
    }
    ck_assert_int_le(groups, 8 * 5000 / 50 + 40); /* groups of 50 us, and the rounds that they share */
}
END_TEST

START_TEST(higher_priority_goes_first)
{
    attn_request_t *request[7];
    const int32_t priority[7] = {0, 5, 0, -1000, 1000, 5, 0};
    const int order[7] = {4, 1, 5, 6, 0, 2, 3};
    for (int i = 0; i < 7; i++) {
        request[i] = make();
        request[i]->priority = priority[i];
        request[i]->sched.replay = i == 6; /* it has waited already */
        push(request[i]);
    }
    attn_batch_t batch = take();
    ck_assert_uint_eq(batch.count, 7);
    for (int i = 0; i < 7; i++)
        ck_assert_ptr_eq(batch.request[i], request[order[i]]);
}
END_TEST

START_TEST(earliest_deadline_goes_first)
{
    attn_request_t *none = make(), *late = make(), *soon = make(), *other_peer = make();
    late->deadline_ns = now + 50 * ATTN_NS_PER_MS;
    soon->deadline_ns = now + 10 * ATTN_NS_PER_MS;
    other_peer->deadline_ns = now + 20 * ATTN_NS_PER_MS;
    other_peer->peer = 2;
    push(none);
    push(late);
    push(soon);
    push(other_peer);
    attn_batch_t batch = take();
    ck_assert_ptr_eq(batch.request[0], soon);
    ck_assert_ptr_eq(batch.request[1], other_peer);
    ck_assert_ptr_eq(batch.request[2], late);
    ck_assert_ptr_eq(batch.request[3], none);
}
END_TEST

/* A rare configuration among a flood of another has its turn within about the backlog that it found. */
START_TEST(rare_configurations_do_not_starve)
{
    for (int i = 0; i < 64; i++)
        push(make());
    attn_request_t *rare = make();
    rare->spec.causal = 1;
    push(rare);
    int groups = 0;
    for (; groups < 50; groups++) {
        attn_batch_t batch = take();
        if (has(&batch, rare))
            break;
        for (uint32_t i = 0; i < batch.count && pool_used < POOL; i++)
            push(make());
    }
    ck_assert_int_le(groups, 2);
}
END_TEST

/* Two peers, or two connections of one peer: of many small groups each has its half. */
START_TEST(backlogs_share_equally)
{
    batcher.limits.requests = 4;
    uint32_t of_first = 0, of_second = 0;
    for (int i = 0; i < 400; i++) {
        attn_request_t *request = make();
        *(_i ? &request->peer : &request->connection) = i < 300 ? 7 : 8;
        request->sched.cost_us = 100;
        push(request);
    }
    for (int i = 0; i < 40; i++) {
        attn_batch_t batch = take();
        for (uint32_t j = 0; j < batch.count; j++)
            *((_i ? batch.request[j]->peer : batch.request[j]->connection) == 7 ? &of_first : &of_second) += 1;
    }
    ck_assert_uint_eq(of_first + of_second, 160);
    ck_assert_uint_ge(of_first, 70);
    ck_assert_uint_ge(of_second, 70);
}
END_TEST

/* One request at a time beside a backlog, whatever it costs: at most one of the others goes before each. */
START_TEST(a_lone_caller_does_not_stand_in_line)
{
    for (int i = 0; i < 200; i++) {
        attn_request_t *request = make();
        request->peer = 7;
        request->sched.cost_us = _i;
        push(request);
    }
    batcher.limits.requests = 1;
    for (int turn = 0; turn < 60; turn++) {
        attn_request_t *victim = make();
        victim->peer = 8;
        victim->sched.cost_us = _i;
        push(victim);
        int ahead = 0;
        while (take().request[0] != victim)
            ahead++;
        ck_assert_int_le(ahead, 1 + 200 / _i);
    }
}
END_TEST

/* A peer that has been idle has no credit from that: it does not shut others out when it comes back. */
START_TEST(idleness_is_not_saved_up)
{
    const attn_batcher_limits_t limits = {.requests = 1, .tokens = 1 << 20, .bytes = 1 << 26, .cost_us = 1e6};
    attn_batcher_init(&batcher, &limits);
    for (int i = 0; i < 500; i++) {
        attn_request_t *request = make();
        request->sched.cost_us = 1000;
        push(request);
        take();
    }
    uint32_t of_old = 0;
    for (int i = 0; i < 60; i++) {
        attn_request_t *request = make();
        request->peer = 1 + (uint64_t)(i % 2);
        request->sched.cost_us = 1000;
        push(request);
    }
    for (int i = 0; i < 20; i++)
        of_old += take().request[0]->peer == 1;
    ck_assert_uint_ge(of_old, 9);
    ck_assert_uint_le(of_old, 11);
}
END_TEST

START_TEST(the_largest_backlog_makes_room)
{
    for (int i = 0; i < 10; i++)
        push(make());
    attn_request_t *own = make(), *other = make();
    ck_assert_ptr_null(attn_batcher_crowded_out(&batcher, own)); /* it is the one with most itself */
    other->peer = 2;
    attn_request_t *out = attn_batcher_crowded_out(&batcher, other);
    ck_assert_ptr_eq(out, &pool[9]); /* the last of them */
    attn_batcher_remove(&batcher, out);
    ck_assert_uint_eq(batcher.count, 9);
}
END_TEST

START_TEST(removed_requests_are_gone)
{
    attn_request_t *request[30];
    for (int i = 0; i < 30; i++) {
        request[i] = make();
        request[i]->peer = (uint64_t)(i % 3);
        push(request[i]);
    }
    for (int i = 0; i < 30; i += 2)
        attn_batcher_remove(&batcher, request[i]);
    uint32_t seen = 0;
    for (const attn_request_t *at = attn_batcher_first(&batcher); at; at = attn_batcher_next(at), seen++)
        ck_assert_uint_eq((uint32_t)(at - pool) % 2, 1);
    ck_assert_uint_eq(seen, 15);
    attn_batch_t batch = take();
    ck_assert_uint_eq(batch.count, 15);
    ck_assert_double_eq_tol(batcher.cost_us, 0, 1e-9);
}
END_TEST

/* ---- the delay ---- */

START_TEST(a_leader_waits_for_company_and_no_longer)
{
    int64_t due;
    attn_request_t *request = push(make());
    ck_assert_uint_eq(form(true, &due).count, 1); /* without a delay nobody waits */
    batcher.limits.delay_ns = 200 * ATTN_NS_PER_US;
    batcher.limits.requests = 4;
    /* Nobody else is about: at once. */
    ck_assert_uint_eq(form(false, &due).count, 1);
    ck_assert_uint_eq(form(true, &due).count, 0);
    ck_assert_int_eq(due, request->sched.submitted_ns + 200 * ATTN_NS_PER_US);
    now += 199 * ATTN_NS_PER_US;
    ck_assert_uint_eq(form(true, &due).count, 0);
    now += ATTN_NS_PER_US;
    ck_assert_uint_eq(form(true, &due).count, 1);
    ck_assert_int_eq(due, INT64_MAX);
    /* A full group does not wait. */
    now -= 150 * ATTN_NS_PER_US;
    for (int i = 0; i < 3; i++)
        push(make());
    ck_assert_uint_eq(form(true, &due).count, 4);
}
END_TEST

/* Who has been sending lately is counted once each, and forgotten after two periods. */
START_TEST(callers_are_counted)
{
    ck_assert_uint_eq(attn_batcher_flows(&batcher, now), 0);
    for (int i = 0; i < 30; i++) {
        attn_request_t *request = make();
        request->connection = (uint64_t)(i % 10);
        push(request);
    }
    ck_assert_uint_eq(attn_batcher_flows(&batcher, now), 10);
    now += 6 * ATTN_NS_PER_MS;
    push(make());
    ck_assert_uint_eq(attn_batcher_flows(&batcher, now), 10);
    now += 6 * ATTN_NS_PER_MS;
    ck_assert_uint_eq(attn_batcher_flows(&batcher, now), 1);
    now += 20 * ATTN_NS_PER_MS;
    ck_assert_uint_eq(attn_batcher_flows(&batcher, now), 0);
    now -= 3600 * ATTN_NS_PER_S; /* clocks that jump do no harm */
    push(make());
    ck_assert_uint_gt(take().count, 0);
}
END_TEST

/* A deadline shortens the wait. */
START_TEST(a_deadline_is_not_slept_over)
{
    batcher.limits.delay_ns = 1000 * ATTN_NS_PER_MS;
    int64_t due;
    attn_request_t *request = make();
    request->deadline_ns = now + 5 * ATTN_NS_PER_MS;
    push(request);
    ck_assert_uint_eq(form(true, &due).count, 0);
    ck_assert_int_lt(due, request->deadline_ns);
    now = due;
    ck_assert_uint_eq(form(true, &due).count, 1);
}
END_TEST

/* While an urgent one waits for company, one of another configuration whose time has come goes. */
START_TEST(the_delay_holds_up_only_its_own)
{
    batcher.limits.delay_ns = 200 * ATTN_NS_PER_US;
    int64_t due;
    attn_request_t *old = make();
    old->spec.causal = 1;
    push(old);
    now += 250 * ATTN_NS_PER_US;
    attn_request_t *fresh = make();
    fresh->priority = 10;
    push(fresh);
    attn_batch_t batch = form(true, &due);
    ck_assert_uint_eq(batch.count, 1);
    ck_assert_ptr_eq(batch.request[0], old);
    ck_assert_int_eq(due, fresh->sched.submitted_ns + 200 * ATTN_NS_PER_US);
}
END_TEST

/* ---- devices ---- */

START_TEST(a_device_takes_what_it_may_run)
{
    attn_request_t *elsewhere = make();
    elsewhere->sched.devices = 2;
    push(elsewhere);
    ck_assert_uint_eq(form(false, NULL).count, 0);
    attn_request_t *both = make();
    both->sched.devices = 3;
    push(both);
    attn_batch_t batch = form(false, NULL);
    ck_assert_uint_eq(batch.count, 1);
    ck_assert_ptr_eq(batch.request[0], both);
    ck_assert_ptr_eq(attn_batcher_peek(&batcher, 1, ATTN_BATCH_ANY), elsewhere);
}
END_TEST

/* Random pushes, removals and takes: everything comes out exactly once, and the counts agree. */
START_TEST(nothing_is_lost_or_doubled)
{
    srand((unsigned)_i + 1);
    static int state[POOL]; /* 0 not made, 1 waits, 2 gone */
    memset(state, 0, sizeof state);
    uint32_t waiting = 0;
    for (int turn = 0; turn < 6000; turn++) {
        int what = rand() % 10;
        if (what < 6 && pool_used < POOL) {
            attn_request_t *request = make();
            request->peer = (uint64_t)(rand() % 9);
            request->connection = (uint64_t)(rand() % 4);
            request->priority = rand() % 5 ? 0 : rand() % 200 - 100;
            request->deadline_ns = rand() % 3 ? 0 : now + rand() % 1000000;
            request->sched.cost_us = rand() % 50 ? rand() % 300 : 5000;
            request->sched.devices = 1u + (uint32_t)(rand() % 3);
            request->sched.alone = rand() % 20 == 0;
            differ(request, rand() % 20);
            push(request);
            state[request - pool] = 1;
            waiting++;
        } else if (what < 7 && waiting > 0) {
            int at = rand() % (int)pool_used;
            if (state[at] == 1) {
                attn_batcher_remove(&batcher, &pool[at]);
                state[at] = 2;
                waiting--;
            }
        } else {
            attn_batch_t batch;
            int64_t due;
            attn_batcher_form(&batcher, (uint32_t)(rand() % 2), ATTN_BATCH_ANY, false, now, &batch, &due);
            attn_batcher_take(&batcher, &batch);
            for (uint32_t i = 0; i < batch.count; i++) {
                ck_assert_int_eq(state[batch.request[i] - pool], 1);
                state[batch.request[i] - pool] = 2;
                waiting--;
            }
        }
        ck_assert_uint_eq(batcher.count, waiting);
    }
    for (uint32_t device = 0; device < 2; device++)
        for (;;) {
            attn_batch_t batch;
            int64_t due;
            attn_batcher_form(&batcher, device, ATTN_BATCH_ANY, false, now, &batch, &due);
            if (batch.count == 0)
                break;
            attn_batcher_take(&batcher, &batch);
            waiting -= batch.count;
        }
    ck_assert_uint_eq(batcher.count, waiting);
    ck_assert_uint_eq(waiting, 0);
}
END_TEST

/* What a turn costs at a full queue: a defect that makes it quadratic is seen, noise is not. */
START_TEST(a_full_queue_is_quick)
{
    int64_t start = attn_clock_ns();
    for (int round = 0; round < 20; round++) {
        setup();
        for (int i = 0; i < POOL; i++) {
            attn_request_t *request = make();
            request->peer = (uint64_t)(i % 50);
            push(request);
        }
        while (batcher.count > 0)
            ck_assert_uint_gt(take().count, 0);
    }
    double us = (double)(attn_clock_ns() - start) / 1000 / 20 / POOL;
    printf("batcher: %.2f us per request with %d waiting of 50 peers\n", us, POOL);
    ck_assert_double_lt(us, 50);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("batcher");
    TCase *all = tcase_create("all");
    tcase_set_timeout(all, 120);
    tcase_add_checked_fixture(all, setup, NULL);
    tcase_add_test(all, what_waits_becomes_one_group_by_arrival);
    tcase_add_loop_test(all, only_one_configuration_runs_together, 0, 9);
    tcase_add_loop_test(all, groups_end_at_each_limit, 0, 4);
    tcase_add_test(all, a_huge_request_is_its_own_group);
    tcase_add_test(all, a_huge_request_does_not_starve);
    tcase_add_test(all, higher_priority_goes_first);
    tcase_add_test(all, earliest_deadline_goes_first);
    tcase_add_test(all, rare_configurations_do_not_starve);
    tcase_add_loop_test(all, backlogs_share_equally, 0, 2);
    tcase_add_loop_test(all, a_lone_caller_does_not_stand_in_line, 100, 103);
    tcase_add_loop_test(all, a_lone_caller_does_not_stand_in_line, 900, 903);
    tcase_add_test(all, idleness_is_not_saved_up);
    tcase_add_test(all, the_largest_backlog_makes_room);
    tcase_add_test(all, removed_requests_are_gone);
    tcase_add_test(all, a_leader_waits_for_company_and_no_longer);
    tcase_add_test(all, callers_are_counted);
    tcase_add_test(all, a_deadline_is_not_slept_over);
    tcase_add_test(all, the_delay_holds_up_only_its_own);
    tcase_add_test(all, a_device_takes_what_it_may_run);
    tcase_add_loop_test(all, nothing_is_lost_or_doubled, 0, 8);
    tcase_add_test(all, a_full_queue_is_quick);
    suite_add_tcase(suite, all);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
