/* tests/unit/transport/test_turns.c: which bodies a loop reads at a time. libmicrohttpd's part is played here. */
#include <check.h>
#include <stdlib.h>

#include "base/clock.h"
#include "transport/http_internal.h"

enum { CALLS = 8, MIB = 1 << 20 };
static attn_http_call_t call[CALLS];
static http_conn_t conn[CALLS];
static bool suspended[CALLS];
static http_turns_t turns;
static http_loop_t loop;

/* A connection of libmicrohttpd is the place of its flag. */
void MHD_suspend_connection(struct MHD_Connection *connection)
{
    bool *flag = (bool *)connection;
    ck_assert(!*flag);
    *flag = true;
}

void MHD_resume_connection(struct MHD_Connection *connection)
{
    bool *flag = (bool *)connection;
    ck_assert(*flag);
    *flag = false;
}

/* Calls of 2 MiB whose peers are the characters. */
static void calls_make(const char *peers)
{
    turns = (http_turns_t){NULL, NULL};
    for (int i = 0; peers[i] != '\0'; i++) {
        suspended[i] = false;
        conn[i] =
            (http_conn_t){.loop = &loop, .peer = (uint64_t)peers[i], .mhd = (struct MHD_Connection *)&suspended[i]};
        call[i] = (attn_http_call_t){.conn = &conn[i], .body_bytes = 2 * MIB};
    }
}

/* Data of the call comes at this time; whether they are taken. */
static bool take(int i, int64_t ms)
{
    ck_assert(!suspended[i]);
    bool taken = http_turn_take(&turns, &call[i], ms * ATTN_NS_PER_MS);
    ck_assert(suspended[i] == !taken);
    ck_assert(atomic_load(&call[i].waits) == !taken);
    return taken;
}

static void end(int i, int64_t ms)
{
    http_turn_end(&turns, &call[i], ms * ATTN_NS_PER_MS);
}

static bool pass(bool idle, int64_t ms)
{
    return http_turns_pass(&turns, idle, ms * ATTN_NS_PER_MS);
}

START_TEST(one_body_of_a_peer_at_a_time)
{
    calls_make("aaa");
    ck_assert(take(0, 0));
    ck_assert(!take(1, 0));
    ck_assert(!take(2, 0));
    ck_assert(take(0, 1)); /* the next chunk of the one that is read */
    end(0, 1);
    ck_assert(!suspended[1] && suspended[2]);
    ck_assert(take(1, 1));
    ck_assert(!pass(false, 2));
    end(1, 2);
    ck_assert(take(2, 2));
    end(2, 3);
    ck_assert_ptr_null(turns.reading);
    ck_assert_ptr_null(turns.waiting);
}
END_TEST

START_TEST(a_flood_keeps_no_other_peer_waiting)
{
    calls_make("aaaavv");
    ck_assert(take(0, 0));
    for (int i = 1; i < 4; i++) {
        ck_assert(!take(i, 0));
    }
    ck_assert(take(4, 0));
    ck_assert(!take(5, 0));
    end(4, 1); /* the place that is free now is the victim's own */
    ck_assert(!suspended[5] && suspended[1]);
    end(0, 1);
    ck_assert(!suspended[1] && suspended[2] && suspended[3]);
}
END_TEST

START_TEST(small_bodies_never_wait)
{
    calls_make("aaa");
    call[1].body_bytes = 64 * 1024;
    ck_assert(take(0, 0));
    ck_assert(take(1, 0));
    end(1, 1);
    ck_assert(!take(2, 1)); /* and free nobody's place */
    ck_assert(pass(true, 1));
}
END_TEST

START_TEST(who_has_nothing_to_do_reads_on)
{
    calls_make("aaa");
    ck_assert(take(0, 0));
    ck_assert(!take(1, 0));
    ck_assert(!take(2, 0));
    ck_assert(!pass(false, 1)); /* others are served: the line stays */
    ck_assert(pass(true, 1));   /* the one with the turn sends nothing */
    ck_assert(!suspended[1] && suspended[2]);
    end(0, 2); /* the second is still read */
    ck_assert(suspended[2]);
    end(1, 2);
    ck_assert(!suspended[2]);
    ck_assert(!pass(true, 2));
}
END_TEST

START_TEST(a_long_body_holds_nobody_up_for_long)
{
    calls_make("aaab");
    ck_assert(take(0, 0));
    ck_assert(!take(1, 0));
    ck_assert(!take(2, 0));
    ck_assert(take(3, 0));
    ck_assert(!pass(false, 5));
    ck_assert(pass(false, 6));
    ck_assert(!suspended[1] && suspended[2]);
    ck_assert(take(0, 6)); /* reads on beside it */
    end(0, 7);             /* and has no place to give */
    ck_assert(suspended[2]);
    ck_assert(pass(false, 12));
    ck_assert(!suspended[2]);
}
END_TEST

START_TEST(whoever_leaves_gives_way)
{
    calls_make("aaa");
    ck_assert(take(0, 0));
    ck_assert(!take(1, 0));
    ck_assert(!take(2, 0));
    end(1, 1); /* closed while it waits */
    end(0, 1);
    ck_assert(suspended[1] && !suspended[2]);
}
END_TEST

START_TEST(nobody_is_left_suspended_at_the_end)
{
    calls_make("aaab");
    for (int i = 0; i < 4; i++) {
        take(i, 0);
    }
    http_turns_stop(&turns);
    for (int i = 0; i < 4; i++) {
        ck_assert(!suspended[i]);
        end(i, 1);
    }
    ck_assert_ptr_null(turns.reading);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("turns");
    TCase *tests = tcase_create("turns");
    tcase_add_test(tests, one_body_of_a_peer_at_a_time);
    tcase_add_test(tests, a_flood_keeps_no_other_peer_waiting);
    tcase_add_test(tests, small_bodies_never_wait);
    tcase_add_test(tests, who_has_nothing_to_do_reads_on);
    tcase_add_test(tests, a_long_body_holds_nobody_up_for_long);
    tcase_add_test(tests, whoever_leaves_gives_way);
    tcase_add_test(tests, nobody_is_left_suspended_at_the_end);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
