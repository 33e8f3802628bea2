/* test_parts.c: the scheduler's parts without workers: admission, inbox, quarantine. */
#include <check.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "sched/admit.h"
#include "sched/inbox.h"
#include "sched/internal.h"
#include "sched/quarantine.h"

/* ---- admission ---- */

enum { MIB = 1 << 20 };

static attn_admit_t *admit_make(uint64_t arena, uint64_t request)
{
    attn_admit_options_t options = {arena, request};
    attn_admit_t *admit;
    attn_error_t err;
    ck_assert_msg(attn_admit_create(&options, &admit, &err) == ATTN_OK, "%s", err.message);
    return admit;
}

static attn_admit_view_t view_of(attn_admit_t *admit)
{
    attn_admit_view_t view;
    attn_admit_view(admit, &view);
    return view;
}

START_TEST(admit_too_large_and_busy)
{
    attn_admit_t *admit = admit_make(64 * MIB, 0);
    attn_error_t err;
    attn_ticket_t *one = NULL, *two = NULL;
    ck_assert_uint_eq(view_of(admit).max_request_bytes, 32 * MIB);
    ck_assert_int_eq(attn_admit_open(admit, 1, 33 * MIB, 0, &one, &err), ATTN_ERR_TOO_LARGE);
    ck_assert_int_eq(attn_admit_open(admit, 1, UINT64_MAX, 0, &one, &err), ATTN_ERR_TOO_LARGE);
    ck_assert_int_eq(attn_admit_open(admit, 1, 0, UINT64_MAX, &one, &err), ATTN_ERR_TOO_LARGE);
    ck_assert_ptr_null(one);
    /* One that fits alone is let in, however large a part of the arena it is; a second is not. */
    ck_assert_int_eq(attn_admit_open(admit, 1, 32 * MIB, 1 * MIB, &one, &err), ATTN_OK);
    ck_assert_int_eq(attn_admit_open(admit, 2, 32 * MIB, 1 * MIB, &two, &err), ATTN_ERR_UNAVAILABLE);
    attn_admit_close(one);
    ck_assert_int_eq(attn_admit_open(admit, 2, 32 * MIB, 1 * MIB, &two, &err), ATTN_OK);
    attn_admit_close(two);
    attn_admit_close(NULL);
    ck_assert_uint_eq(view_of(admit).input_used + view_of(admit).output_used + view_of(admit).tickets, 0);
    attn_admit_destroy(admit);
    attn_admit_destroy(NULL);
}
END_TEST

START_TEST(admit_one_peer_has_a_quarter)
{
    attn_admit_t *admit = admit_make(64 * MIB, 0);
    attn_error_t err;
    attn_ticket_t *ticket[40];
    int count = 0;
    while (count < 40 && attn_admit_open(admit, 7, MIB, 0, &ticket[count], &err) == ATTN_OK)
        attn_admit_arrived(ticket[count++]);
    ck_assert_int_ge(count, 15);
    ck_assert_int_le(count, 16);
    attn_ticket_t *other;
    ck_assert_int_eq(attn_admit_open(admit, 8, MIB, 0, &other, &err), ATTN_OK);
    attn_admit_close(other);
    while (count > 0)
        attn_admit_close(ticket[--count]);
    attn_admit_destroy(admit);
}
END_TEST

START_TEST(admit_arriving_bodies_have_half)
{
    attn_admit_t *admit = admit_make(64 * MIB, 0);
    attn_error_t err;
    attn_ticket_t *ticket[64];
    uint64_t count = 0;
    while (count < 64 && attn_admit_open(admit, count + 1, MIB, 0, &ticket[count], &err) == ATTN_OK)
        count++;
    uint64_t half = view_of(admit).input_bytes / 2;
    ck_assert_uint_le(view_of(admit).arriving, half);
    ck_assert_uint_gt(view_of(admit).arriving + 2 * MIB, half);
    /* One has arrived: there is room for another. */
    attn_admit_arrived(ticket[0]);
    ck_assert_int_eq(attn_admit_open(admit, 1000, MIB, 0, &ticket[count], &err), ATTN_OK);
    count++;
    while (count > 0)
        attn_admit_close(ticket[--count]);
    ck_assert_uint_eq(view_of(admit).arriving, 0);
    attn_admit_destroy(admit);
}
END_TEST

START_TEST(admit_resize_and_places)
{
    attn_admit_t *admit = admit_make(64 * MIB, 0);
    attn_error_t err;
    attn_ticket_t *ticket;
    attn_place_t q, k, o, empty;
    void *address;
    ck_assert_int_eq(attn_admit_open(admit, 1, 8 * MIB, MIB, &ticket, &err), ATTN_OK);
    ck_assert_int_eq(attn_admit_resize(ticket, 4 * MIB, 2 * MIB, &err), ATTN_OK);
    ck_assert_int_eq(attn_admit_place(ticket, false, 3 * MIB, &q, &address, &err), ATTN_OK);
    memset(address, 1, 3 * MIB);
    ck_assert_ptr_eq(attn_admit_address(admit, &q), address);
    ck_assert_uint_eq(q.offset % 4096, 0);
    ck_assert_int_eq(attn_admit_place(ticket, false, 3 * MIB, &k, &address, &err), ATTN_ERR_INTERNAL);
    ck_assert_int_eq(attn_admit_place(ticket, true, 5, &o, &address, &err), ATTN_OK);
    ck_assert_uint_eq(o.region, ATTN_REGION_OUTPUT);
    ck_assert_int_eq(attn_admit_place(ticket, true, 0, &empty, &address, &err), ATTN_OK);
    ck_assert_int_eq(attn_admit_resize(ticket, 40 * MIB, 0, &err), ATTN_ERR_TOO_LARGE);
    /* What is placed cannot be given back before the end. */
    ck_assert_int_eq(attn_admit_resize(ticket, 0, 0, &err), ATTN_OK);
    ck_assert_uint_eq(view_of(admit).input_used, 3 * MIB);
    attn_admit_close(ticket);
    ck_assert_uint_eq(view_of(admit).input_used, 0);
    attn_admit_destroy(admit);
}
END_TEST

START_TEST(admit_leak_is_for_good)
{
    attn_admit_t *admit = admit_make(8 * MIB, 0);
    attn_error_t err;
    attn_ticket_t *ticket;
    attn_place_t leaked, next;
    void *address;
    ck_assert_int_eq(attn_admit_open(admit, 1, MIB, 0, &ticket, &err), ATTN_OK);
    ck_assert_int_eq(attn_admit_place(ticket, false, MIB, &leaked, &address, &err), ATTN_OK);
    attn_admit_leak(ticket);
    attn_admit_leak(NULL);
    attn_admit_close(ticket);
    ck_assert_uint_eq(view_of(admit).leaked, MIB);
    ck_assert_uint_eq(view_of(admit).input_used, MIB);
    for (int i = 0; i < 100; i++) {
        ck_assert_int_eq(attn_admit_open(admit, 1, MIB, 0, &ticket, &err), ATTN_OK);
        ck_assert_int_eq(attn_admit_place(ticket, false, MIB, &next, &address, &err), ATTN_OK);
        ck_assert(next.offset + MIB <= leaked.offset || next.offset >= leaked.offset + MIB);
        attn_admit_close(ticket);
    }
    attn_admit_destroy(admit);
}
END_TEST

static void *admit_hammer(void *arg)
{
    attn_admit_t *admit = arg;
    uint64_t peer = (uint64_t)(uintptr_t)&peer;
    for (int i = 0; i < 3000; i++) {
        attn_ticket_t *ticket;
        attn_place_t place;
        void *address;
        attn_error_t err;
        if (attn_admit_open(admit, peer, 20000, 5000, &ticket, &err) != ATTN_OK)
            continue;
        if (attn_admit_place(ticket, i % 2, 4000, &place, &address, &err) == ATTN_OK)
            memset(address, i, 4000);
        attn_admit_arrived(ticket);
        attn_admit_close(ticket);
    }
    return NULL;
}

START_TEST(admit_from_many_threads)
{
    attn_admit_t *admit = admit_make(8 * MIB, 0);
    pthread_t thread[4];
    for (int i = 0; i < 4; i++)
        pthread_create(&thread[i], NULL, admit_hammer, admit);
    for (int i = 0; i < 4; i++)
        pthread_join(thread[i], NULL);
    ck_assert_uint_eq(view_of(admit).input_used + view_of(admit).output_used + view_of(admit).arriving, 0);
    attn_admit_destroy(admit);
}
END_TEST

/* ---- inbox ---- */

enum { PUSHERS = 3, PUSHES = 2000 };
static attn_inbox_t inbox;
static attn_request_t pushed[PUSHERS][PUSHES];

static void *inbox_push(void *arg)
{
    attn_request_t *mine = arg;
    for (int i = 0; i < PUSHES; i++) {
        mine[i].seed = (uint64_t)i;
        attn_inbox_push(&inbox, &mine[i]);
    }
    return NULL;
}

START_TEST(inbox_keeps_each_pushers_order)
{
    attn_error_t err;
    pthread_t thread[PUSHERS];
    uint64_t next[PUSHERS] = {0};
    ck_assert_int_eq(attn_inbox_open(&inbox, &err), ATTN_OK);
    ck_assert_ptr_null(attn_inbox_take(&inbox));
    for (int i = 0; i < PUSHERS; i++)
        pthread_create(&thread[i], NULL, inbox_push, pushed[i]);
    for (int got = 0; got < PUSHERS * PUSHES;) {
        attn_inbox_arm(&inbox, true);
        attn_inbox_arm(&inbox, false);
        for (attn_request_t *request = attn_inbox_take(&inbox); request; got++) {
            attn_request_t *following = request->sched.next;
            long pusher = (request - pushed[0]) / PUSHES;
            ck_assert_uint_eq(request->seed, next[pusher]++);
            request = following;
        }
    }
    for (int i = 0; i < PUSHERS; i++)
        pthread_join(thread[i], NULL);
    attn_inbox_close(&inbox);
}
END_TEST

/* ---- quarantine ---- */

static const attn_variant_info_t variants[ATTN_SCHED_QUARANTINE_MAX + 8];

START_TEST(quarantine_by_strikes_within_a_window)
{
    static attn_quarantine_t quarantine;
    const attn_variant_info_t *a = &variants[0], *b = &variants[1];
    bool active;
    char detail[160] = "";
    int64_t now = 1000 * ATTN_NS_PER_S;
    attn_quarantine_init(&quarantine, 2, 10 * ATTN_NS_PER_S, 30 * ATTN_NS_PER_S);
    ck_assert_uint_eq(attn_quarantine_look(&quarantine, a, now, &active, NULL, 0), 0);
    ck_assert(!attn_quarantine_strike(&quarantine, a, now, "first"));
    /* The window passes: the next strike is a first one again. */
    now += 11 * ATTN_NS_PER_S;
    ck_assert_uint_eq(attn_quarantine_look(&quarantine, a, now, &active, NULL, 0), 0);
    ck_assert(!attn_quarantine_strike(&quarantine, a, now, "again"));
    ck_assert(!attn_quarantine_strike(&quarantine, b, now, "other"));
    now += 9 * ATTN_NS_PER_S;
    ck_assert(attn_quarantine_strike(&quarantine, a, now, "SIGABRT"));
    ck_assert_uint_eq(attn_quarantine_look(&quarantine, a, now, &active, detail, sizeof detail), 2);
    ck_assert(active);
    ck_assert_str_eq(detail, "quarantined for 30 s more after 2 failures, the last: SIGABRT");
    ck_assert_uint_eq(attn_quarantine_look(&quarantine, b, now, &active, NULL, 0), 1);
    ck_assert(!active);
    attn_quarantine_view_t view[ATTN_SCHED_QUARANTINE_MAX];
    ck_assert_uint_eq(attn_quarantine_view(&quarantine, now, view), 2);
    ck_assert_int_eq(view[0].expires_in_ms, 30000);
    now += 30 * ATTN_NS_PER_S;
    ck_assert_uint_eq(attn_quarantine_look(&quarantine, a, now, &active, NULL, 0), 0);
    ck_assert(!active);
    ck_assert_int_eq(attn_quarantine_clear(&quarantine, a, now), ATTN_ERR_NOT_FOUND);
    attn_quarantine_strike(&quarantine, a, now, "x");
    ck_assert_int_eq(attn_quarantine_clear(&quarantine, a, now), ATTN_OK);
    ck_assert_uint_eq(attn_quarantine_view(&quarantine, now, view), 0);
    attn_quarantine_destroy(&quarantine);
}
END_TEST

START_TEST(quarantine_table_overflows_gently)
{
    static attn_quarantine_t quarantine;
    attn_quarantine_init(&quarantine, 1, 10 * ATTN_NS_PER_S, 30 * ATTN_NS_PER_S);
    for (int i = 0; i < ATTN_SCHED_QUARANTINE_MAX + 8; i++)
        ck_assert(attn_quarantine_strike(&quarantine, &variants[i], ATTN_NS_PER_S + i, "x"));
    bool active;
    attn_quarantine_look(&quarantine, &variants[ATTN_SCHED_QUARANTINE_MAX + 7], 2 * ATTN_NS_PER_S, &active, NULL, 0);
    ck_assert(active);
    attn_quarantine_look(&quarantine, &variants[0], 2 * ATTN_NS_PER_S, &active, NULL, 0);
    ck_assert(!active);
    attn_quarantine_view_t view[ATTN_SCHED_QUARANTINE_MAX];
    ck_assert_uint_eq(attn_quarantine_view(&quarantine, 2 * ATTN_NS_PER_S, view), ATTN_SCHED_QUARANTINE_MAX);
    attn_quarantine_destroy(&quarantine);
}
END_TEST

/* ---- a device whose worker cannot be reaped ---- */

static attn_status_t lost_status;

static void lost_completed(attn_request_t *request, void *arg)
{
    lost_status = request->outcome.error.status;
    attn_admit_close(arg);
}

START_TEST(lost_device_leaks_the_places_of_its_job)
{
    static attn_sched_t sched;
    static attn_request_t request;
    attn_sched_device_t *device = &sched.device[0];
    attn_error_t err;
    attn_ticket_t *ticket;
    attn_place_t place;
    void *address;
    attn_admit_t *admit = admit_make(8 * MIB, 0);
    ck_assert_int_eq(attn_admit_open(admit, 1, MIB, MIB, &ticket, &err), ATTN_OK);
    ck_assert_int_eq(attn_admit_place(ticket, true, MIB, &place, &address, &err), ATTN_OK);
    request.ticket = ticket;
    request.complete = lost_completed;
    request.complete_arg = ticket;
    atomic_store(&sched.outstanding, 1);
    atomic_store(&sched.running, 1);
    attn_worker_t *worker = &device->worker[ATTN_LANE_SERVE];
    worker->job[3].request = &request;
    worker->jobs = worker->groups = 1;
    device->worker[ATTN_LANE_SERVE].state = ATTN_WORKER_ENDING;
    attn_sched_judge_lost(&sched, device, ATTN_LANE_SERVE);
    ck_assert_int_eq(lost_status, ATTN_ERR_UNAVAILABLE);
    ck_assert_uint_eq(view_of(admit).leaked, MIB);
    ck_assert_uint_eq(view_of(admit).output_used, MIB);
    ck_assert_uint_eq(view_of(admit).input_used, 0);
    ck_assert_uint_eq(atomic_load(&sched.outstanding) + atomic_load(&sched.running), 0);
    ck_assert_ptr_null(worker->job[3].request);
    ck_assert_uint_eq(worker->jobs, 0);
    /* Without a job there is nothing to leak. */
    attn_sched_judge_lost(&sched, device, ATTN_LANE_SERVE);
    ck_assert_uint_eq(view_of(admit).leaked, MIB);
    attn_admit_destroy(admit);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("sched_parts");
    TCase *all = tcase_create("all");
    tcase_set_timeout(all, 60);
    tcase_add_test(all, admit_too_large_and_busy);
    tcase_add_test(all, admit_one_peer_has_a_quarter);
    tcase_add_test(all, admit_arriving_bodies_have_half);
    tcase_add_test(all, admit_resize_and_places);
    tcase_add_test(all, admit_leak_is_for_good);
    tcase_add_test(all, admit_from_many_threads);
    tcase_add_test(all, inbox_keeps_each_pushers_order);
    tcase_add_test(all, quarantine_by_strikes_within_a_window);
    tcase_add_test(all, quarantine_table_overflows_gently);
    tcase_add_test(all, lost_device_leaks_the_places_of_its_job);
    suite_add_tcase(suite, all);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
