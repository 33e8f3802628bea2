/* test_loop.c: the worker's loop: when background work follows a group, and how it waits for an engine that has more to
 * do in poll(). With an engine that only counts. */
#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/fd.h"
#include "worker/loop.h"

/* FEW are all in the engine's hands at once, as the front has it; with MANY, some are always left in the ring. */
enum { FEW = 8, MANY = 40 };

/* Groups numbered below `wants` want background work, of which there are `pieces`; the last one ends the loop. */
struct attn_engine {
    attn_engine_queue_t queue;
    uint32_t jobs, ended, wants, pieces, idled;
    /* A group ends with its `steps`-th step. A step is made in poll(): when the thread has slept since the last one,
     * or, of an urgent engine, by the way. */
    uint32_t steps, made, naps;
    bool urgent;
    long sleeps; /* of this thread so far */
};
static struct attn_engine engine;

static void fake_submit(attn_engine_t *e, attn_engine_group_t *group)
{
    group->result.unpinned_bytes = 7 * group->number;
    attn_engine_queue_push(&e->queue, group);
}

static attn_engine_group_t *fake_poll(attn_engine_t *e)
{
    struct rusage used;
    ck_assert_int_eq(getrusage(RUSAGE_THREAD, &used), 0);
    bool slept = used.ru_nvcsw != e->sleeps;
    e->sleeps = used.ru_nvcsw;
    e->naps += slept;
    e->made += slept || e->urgent;
    if (e->made < e->steps)
        return NULL;
    e->made = 0;
    attn_engine_group_t *group = attn_engine_queue_take(&e->queue);
    if (group) {
        group->result.idle_wanted = e->ended < e->wants;
        group->result.unusable = ++e->ended == e->jobs;
    }
    return group;
}

static bool fake_idle(attn_engine_t *e)
{
    return ++e->idled < e->pieces;
}

static bool fake_urgent(const attn_engine_t *e)
{
    return e->urgent;
}

static const attn_engine_ops_t ops = {.name = "fake",
                                      .runs_alone = true,
                                      .submit = fake_submit,
                                      .poll = fake_poll,
                                      .urgent = fake_urgent,
                                      .idle = fake_idle};

/* Runs groups of one through the loop, all of which wait when it begins: it is never without work. */
static void run(struct attn_engine as, uint32_t spin_us)
{
    static attn_loop_t loop;
    attn_ring_t front;
    attn_error_t err;
    int ring, input, output;
    attn_sizes_t sizes;
    attn_spec_t spec = {.dtype = ATTN_DTYPE_F32,
                        .layout = ATTN_LAYOUT_BSHD,
                        .batch = 1,
                        .s_q = 1,
                        .s_kv = 1,
                        .h_q = 1,
                        .h_kv = 1,
                        .d = 64,
                        .sm_scale = 1};
    engine = as;
    int bell;
    ck_assert_int_eq(attn_fd_event(true, &bell, &err), ATTN_OK);
    ck_assert_int_eq(dup2(bell, ATTN_WORKER_FD_JOB_BELL), ATTN_WORKER_FD_JOB_BELL);
    memset(&loop, 0, sizeof loop);
    loop.ops = &ops;
    loop.engine = &engine;
    ck_assert_int_eq(attn_ring_create(spin_us, &front, &ring, &err), ATTN_OK);
    ck_assert_int_eq(attn_ring_attach(ring, &loop.ring, &err), ATTN_OK);
    ck_assert_int_eq(attn_fd_memory("input", 1 << 20, &input, &err), ATTN_OK);
    ck_assert_int_eq(attn_fd_memory("output", 1 << 20, &output, &err), ATTN_OK);
    ck_assert_int_eq(attn_memory_open(ATTN_CLASS_SERVE, input, output, &loop.memory, &err), ATTN_OK);
    ck_assert_int_eq(attn_spec_measure(&spec, &sizes, &err), ATTN_OK);
    for (uint32_t i = 0; i < engine.jobs; i++) {
        attn_wire_job_t *job = attn_ring_job_next(&front);
        *job = (attn_wire_job_t){.serial = i + 1,
                                 .group = i + 1,
                                 .slot = i,
                                 .group_count = 1,
                                 .op = ATTN_OP_RUN,
                                 .repeat = 1,
                                 .spec = spec,
                                 .q = {ATTN_REGION_INPUT, 0, 0, sizes.q},
                                 .k = {ATTN_REGION_INPUT, 0, 4096, sizes.k},
                                 .v = {ATTN_REGION_INPUT, 0, 8192, sizes.v},
                                 .o = {ATTN_REGION_OUTPUT, 0, 0, sizes.o}};
        attn_ring_job_publish(&front);
    }
    struct rusage used;
    ck_assert_int_eq(getrusage(RUSAGE_THREAD, &used), 0);
    engine.sleeps = used.ru_nvcsw;
    attn_loop_run(&loop);
    for (uint32_t i = 0; i < engine.jobs; i++) {
        attn_wire_done_t done;
        ck_assert_int_eq(attn_ring_done_pop(&front, &done), ATTN_RING_POPPED);
        ck_assert_msg(done.status == ATTN_OK, "job %u: %s", i, done.message);
        ck_assert_uint_eq(done.serial, i + 1);
        ck_assert_uint_eq(done.unpinned_bytes, 7 * (i + 1));
    }
    attn_memory_close(loop.memory);
    attn_ring_close(&loop.ring);
    attn_ring_close(&front);
    attn_fd_close(&ring);
    attn_fd_close(&input);
    attn_fd_close(&output);
}

START_TEST(busy_groups_are_not_held_up)
{
    run((struct attn_engine){.jobs = MANY, .pieces = 1000}, 0);
    ck_assert_uint_eq(engine.idled, 0);
}
END_TEST

START_TEST(a_group_that_wants_background_work_gets_a_piece)
{
    run((struct attn_engine){.jobs = MANY, .wants = 9, .pieces = 1000}, 0);
    ck_assert_uint_eq(engine.idled, 9);
}
END_TEST

/* Work may come anew after the last piece. */
START_TEST(an_end_of_background_work_is_not_for_ever)
{
    run((struct attn_engine){.jobs = MANY, .wants = 9, .pieces = 5}, 0);
    ck_assert_uint_eq(engine.idled, 9);
}
END_TEST

/* Every step of every group is slept for: the engine is asked anew after each nap. */
START_TEST(each_step_is_slept_for)
{
    run((struct attn_engine){.jobs = FEW, .steps = 3}, 0);
    ck_assert_uint_eq(engine.naps, 3 * FEW);
}
END_TEST

/* Where the worker may spin, it does not sleep while there is something to do in poll(), however long that takes. */
START_TEST(an_urgent_engine_is_polled_on)
{
    run((struct attn_engine){.jobs = FEW, .steps = 2000, .urgent = true}, 1);
    ck_assert_uint_eq(engine.naps, 0);
}
END_TEST

/* Where it may not, it sleeps all the same. */
START_TEST(an_urgent_engine_is_slept_for_without_a_core)
{
    run((struct attn_engine){.jobs = FEW, .steps = 200, .urgent = true}, 0);
    ck_assert_uint_gt(engine.naps, 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("loop");
    TCase *all = tcase_create("all");
    tcase_add_test(all, busy_groups_are_not_held_up);
    tcase_add_test(all, a_group_that_wants_background_work_gets_a_piece);
    tcase_add_test(all, an_end_of_background_work_is_not_for_ever);
    tcase_add_test(all, each_step_is_slept_for);
    tcase_add_test(all, an_urgent_engine_is_polled_on);
    tcase_add_test(all, an_urgent_engine_is_slept_for_without_a_core);
    suite_add_tcase(suite, all);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
