/* test_compare.c: comparisons against a scheduler that does as it is told: what a job asks for, in which order, and
 * what a failing step costs. */
#include <check.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "fake_sched.h"
#include "sched/compare.h"

#define ARENA (UINT64_C(16) << 20)

static attn_admit_t *admit;
static attn_compare_t *compare;
static attn_error_t error;

/* What the fake was asked, and how it answers. */
static struct {
    attn_op_t ops[64];
    char variants[64][32];
    uint32_t rounds[64];
    uint32_t count;
    double kernel_us[8]; /* of the runs, one after another; 0 = 100 */
    uint32_t runs;
    bool poisoned, lab_only;
    attn_op_t fail_op;
    const char *fail_variant; /* with RUN and JUDGE; NULL = any */
    attn_status_t fail_status;
    uint32_t fail_times, fail_after_runs;
    attn_op_t hold_op;
} script;

static bool all_ones(const attn_place_t *place)
{
    const unsigned char *bytes = attn_admit_address(admit, place);
    for (uint64_t i = 0; i < place->bytes; i++) {
        if (bytes[i] != 0xFF) {
            return false;
        }
    }
    return true;
}

static bool answer(attn_request_t *request)
{
    uint32_t i = script.count++;
    ck_assert_uint_lt(i, 64);
    script.ops[i] = request->op;
    script.rounds[i] = request->repeat;
    snprintf(script.variants[i], sizeof script.variants[i], "%s", request->variant ? request->variant->name : "");
    ck_assert_ptr_nonnull(request->ticket);
    if (request->op == script.hold_op) {
        return false;
    }
    if (request->op == ATTN_OP_RUN) {
        script.poisoned = script.poisoned && all_ones(&request->o) && all_ones(&request->lse);
        script.lab_only = script.lab_only && request->force_lab;
        memset(attn_admit_address(admit, &request->o), 0, request->o.bytes);
        memset(attn_admit_address(admit, &request->lse), 0, request->lse.bytes);
        const uint32_t run = script.runs++;
        const double us = run < 8 && script.kernel_us[run] > 0 ? script.kernel_us[run] : 100;
        request->outcome.timing.kernel_us = us;
        request->outcome.timing.kernel_min_us = us - 10;
        strcpy(request->outcome.device, "CPU");
    }
    if (request->op == ATTN_OP_JUDGE) {
        request->outcome.judgement.pass = 1;
        request->outcome.judgement.max_abs = 0.5;
    }
    bool named = script.fail_variant == NULL ||
                 (request->variant != NULL && strcmp(request->variant->name, script.fail_variant) == 0);
    if (request->op == script.fail_op && named && script.fail_times > 0 && script.runs >= script.fail_after_runs) {
        script.fail_times--;
        attn_error_set(&request->outcome.error, script.fail_status, "%s ended with signal 11",
                       request->variant ? request->variant->name : "it");
        if (script.fail_status == ATTN_ERR_FAILED_PRECONDITION) {
            attn_missing_add(&request->outcome.missing, "dtype: asked fp32");
        }
    }
    return true;
}

static void setup(void)
{
    memset(&script, 0, sizeof script);
    script.poisoned = script.lab_only = true;
    attn_admit_options_t admit_options = {.arena_bytes = ARENA};
    ck_assert_int_eq(attn_admit_create(&admit_options, &admit, &error), ATTN_OK);
    fake_sched_start(answer);
    attn_compare_options_t options = {.admit = admit, .jobs_max = 3, .keep_s = 60, .test_variants = true};
    ck_assert_int_eq(attn_compare_start(&options, &compare, &error), ATTN_OK);
}

static void teardown(void)
{
    attn_compare_stop(compare);
    fake_sched_stop();
    attn_admit_view_t view;
    attn_admit_view(admit, &view);
    ck_assert_uint_eq(view.tickets, 0);
    ck_assert_uint_eq(view.input_used + view.output_used, 0);
    attn_admit_destroy(admit);
}

static attn_compare_plan_t plan_of(uint32_t count, const char *first, const char *second)
{
    attn_compare_plan_t plan = {.has_seed = true, .seed = 7, .variant_count = count, .variants = {first, second}};
    plan.spec = (attn_spec_t){.dtype = ATTN_DTYPE_F32,
                              .layout = ATTN_LAYOUT_BSHD,
                              .batch = 1,
                              .h_q = 4,
                              .h_kv = 2,
                              .d = 64,
                              .s_q = 128,
                              .s_kv = 128,
                              .return_lse = 1};
    ck_assert_int_eq(attn_spec_measure(&plan.spec, &plan.sizes, &error), ATTN_OK);
    return plan;
}

static attn_compare_view_t *view_wait(const char *id, attn_compare_state_t state)
{
    attn_compare_view_t *view = malloc(sizeof *view);
    for (int i = 0; i < 5000; i++) {
        ck_assert_int_eq(attn_compare_view(compare, id, view, &error), ATTN_OK);
        if (view->state == state) {
            return view;
        }
        usleep(1000);
    }
    ck_abort_msg("the job is %s, not %s", attn_compare_state_name(view->state), attn_compare_state_name(state));
}

START_TEST(test_steps)
{
    char id[ATTN_COMPARE_ID_MAX];
    attn_compare_plan_t plan = plan_of(2, "cpu", "reference");
    ck_assert_int_eq(attn_compare_submit(compare, &plan, id, &error), ATTN_OK);
    attn_compare_view_t *view = view_wait(id, ATTN_COMPARE_DONE);
    static const attn_op_t expected[] = {ATTN_OP_FILL,  ATTN_OP_TRUTH, ATTN_OP_RUN,
                                         ATTN_OP_JUDGE, ATTN_OP_RUN,   ATTN_OP_JUDGE};
    ck_assert_uint_eq(script.count, 6 + 2 * 4);
    ck_assert_mem_eq(script.ops, expected, sizeof expected);
    ck_assert_str_eq(script.variants[2], "cpu");
    ck_assert_str_eq(script.variants[4], "reference");
    /* 20 rounds each, in five passes of four; both are timed in turn. */
    for (uint32_t i = 6; i < script.count; i++) {
        ck_assert_int_eq(script.ops[i], ATTN_OP_RUN);
        ck_assert_str_eq(script.variants[i], i % 2 == 0 ? "cpu" : "reference");
    }
    for (uint32_t i = 2; i < script.count; i++) {
        ck_assert_uint_eq(script.rounds[i], script.ops[i] == ATTN_OP_RUN ? 4 : 1);
    }
    ck_assert(script.poisoned);
    ck_assert(script.lab_only);
    ck_assert_uint_eq(view->row_count, 2);
    ck_assert_uint_eq(view->steps_done, view->steps_total);
    ck_assert_str_eq(view->device.device.name, "fake");
    for (int i = 0; i < 2; i++) {
        ck_assert(view->rows[i].done);
        ck_assert_uint_eq(view->rows[i].judgement.pass, 1);
        /* 4 * 4 heads * 64 * 128 * 128 in 100 us */
        ck_assert_double_eq_tol(view->rows[i].tflops, 4.0 * 4 * 64 * 128 * 128 / 100e6, 1e-9);
    }
    free(view);
}
END_TEST

/* 12 rounds are three passes; a row that fails in the second has no third. */
START_TEST(test_times_of_passes)
{
    char id[ATTN_COMPARE_ID_MAX];
    const double times[] = {100, 50, 300, 70, 200, 60};
    memcpy(script.kernel_us, times, sizeof times);
    attn_compare_plan_t plan = plan_of(2, "cpu", "reference");
    plan.has_rounds = true;
    plan.rounds = 12;
    ck_assert_int_eq(attn_compare_submit(compare, &plan, id, &error), ATTN_OK);
    attn_compare_view_t *view = view_wait(id, ATTN_COMPARE_DONE);
    ck_assert_uint_eq(script.runs, 6);
    ck_assert_double_eq(view->rows[0].timing.kernel_us, 200); /* of 100, 300, 200 */
    ck_assert_double_eq(view->rows[0].timing.kernel_min_us, 90);
    ck_assert_double_eq(view->rows[1].timing.kernel_us, 60); /* of 50, 70, 60 */
    ck_assert_double_eq(view->rows[1].timing.kernel_min_us, 40);
    ck_assert_uint_eq(view->steps_done, view->steps_total);
    free(view);
    script.runs = script.count = 0;
    script.fail_after_runs = 3;
    script.fail_op = ATTN_OP_RUN;
    script.fail_variant = "cpu";
    script.fail_status = ATTN_ERR_WORKER_DIED;
    script.fail_times = 1;
    ck_assert_int_eq(attn_compare_submit(compare, &plan, id, &error), ATTN_OK);
    view = view_wait(id, ATTN_COMPARE_DONE);
    ck_assert_int_eq(view->rows[0].error.status, ATTN_ERR_WORKER_DIED);
    ck_assert_int_eq(view->rows[1].error.status, ATTN_OK);
    ck_assert_uint_eq(script.runs, 5);
    ck_assert_uint_eq(view->steps_done, view->steps_total);
    free(view);
}
END_TEST

START_TEST(test_crash_costs_one_row)
{
    char id[ATTN_COMPARE_ID_MAX];
    script.fail_op = ATTN_OP_RUN;
    script.fail_variant = "cpu";
    script.fail_status = ATTN_ERR_WORKER_DIED;
    script.fail_times = 1;
    attn_compare_plan_t plan = plan_of(2, "cpu", "reference");
    ck_assert_int_eq(attn_compare_submit(compare, &plan, id, &error), ATTN_OK);
    attn_compare_view_t *view = view_wait(id, ATTN_COMPARE_DONE);
    ck_assert_int_eq(view->rows[0].error.status, ATTN_ERR_WORKER_DIED);
    ck_assert_ptr_nonnull(strstr(view->rows[0].error.message, "cpu ended with signal 11"));
    ck_assert_uint_eq(view->rows[0].judgement.pass, 0);
    ck_assert_int_eq(view->rows[1].error.status, ATTN_OK);
    ck_assert_uint_eq(view->rows[1].judgement.pass, 1);
    ck_assert_uint_eq(view->steps_done, view->steps_total);
    free(view);
}
END_TEST

START_TEST(test_unsupported_is_a_row)
{
    char id[ATTN_COMPARE_ID_MAX];
    script.fail_op = ATTN_OP_RUN;
    script.fail_variant = "unified";
    script.fail_status = ATTN_ERR_FAILED_PRECONDITION;
    script.fail_times = 1;
    attn_compare_plan_t plan = plan_of(2, "unified", "cpu");
    ck_assert_int_eq(attn_compare_submit(compare, &plan, id, &error), ATTN_OK);
    attn_compare_view_t *view = view_wait(id, ATTN_COMPARE_DONE);
    ck_assert_int_eq(view->rows[0].error.status, ATTN_ERR_FAILED_PRECONDITION);
    ck_assert_uint_eq(view->rows[0].missing.count, 1);
    ck_assert_int_eq(view->rows[1].error.status, ATTN_OK);
    free(view);
}
END_TEST

START_TEST(test_judge_failure_is_a_row)
{
    char id[ATTN_COMPARE_ID_MAX];
    script.fail_op = ATTN_OP_JUDGE;
    script.fail_status = ATTN_ERR_INTERNAL;
    script.fail_times = 1;
    attn_compare_plan_t plan = plan_of(2, "cpu", "reference");
    ck_assert_int_eq(attn_compare_submit(compare, &plan, id, &error), ATTN_OK);
    attn_compare_view_t *view = view_wait(id, ATTN_COMPARE_DONE);
    ck_assert_int_eq(view->rows[0].error.status, ATTN_ERR_INTERNAL);
    ck_assert_uint_eq(view->rows[0].judgement.pass, 0);
    ck_assert_uint_eq(view->rows[1].judgement.pass, 1);
    free(view);
}
END_TEST

START_TEST(test_truth_failure_fails_the_job)
{
    char id[ATTN_COMPARE_ID_MAX];
    script.fail_op = ATTN_OP_TRUTH;
    script.fail_status = ATTN_ERR_NO_MEMORY;
    script.fail_times = 1;
    attn_compare_plan_t plan = plan_of(1, "cpu", NULL);
    ck_assert_int_eq(attn_compare_submit(compare, &plan, id, &error), ATTN_OK);
    attn_compare_view_t *view = view_wait(id, ATTN_COMPARE_FAILED);
    ck_assert_int_eq(view->error.status, ATTN_ERR_NO_MEMORY);
    ck_assert_uint_eq(script.count, 2);
    free(view);
}
END_TEST

START_TEST(test_busy_is_tried_again)
{
    char id[ATTN_COMPARE_ID_MAX];
    script.fail_op = ATTN_OP_RUN;
    script.fail_status = ATTN_ERR_UNAVAILABLE;
    script.fail_times = 2;
    attn_compare_plan_t plan = plan_of(1, "cpu", NULL);
    ck_assert_int_eq(attn_compare_submit(compare, &plan, id, &error), ATTN_OK);
    attn_compare_view_t *view = view_wait(id, ATTN_COMPARE_DONE);
    ck_assert_int_eq(view->rows[0].error.status, ATTN_OK);
    ck_assert_uint_eq(script.count, 6); /* FILL, TRUTH, RUN three times, JUDGE */
    ck_assert(script.poisoned);
    free(view);
}
END_TEST

START_TEST(test_cancel)
{
    char id[ATTN_COMPARE_ID_MAX];
    script.hold_op = ATTN_OP_TRUTH;
    attn_compare_plan_t plan = plan_of(1, "cpu", NULL);
    ck_assert_int_eq(attn_compare_submit(compare, &plan, id, &error), ATTN_OK);
    free(view_wait(id, ATTN_COMPARE_RUNNING));
    ck_assert_int_eq(attn_compare_cancel(compare, id, &error), ATTN_OK);
    free(view_wait(id, ATTN_COMPARE_CANCELLED));
    ck_assert_int_eq(attn_compare_cancel(compare, id, &error), ATTN_OK); /* stays as it is */
    free(view_wait(id, ATTN_COMPARE_CANCELLED));
}
END_TEST

START_TEST(test_stop_cancels)
{
    char id[ATTN_COMPARE_ID_MAX];
    script.hold_op = ATTN_OP_FILL;
    attn_compare_plan_t plan = plan_of(1, "cpu", NULL);
    ck_assert_int_eq(attn_compare_submit(compare, &plan, id, &error), ATTN_OK);
    /* teardown() stops while the request is out, and checks that the memory came back. */
}
END_TEST

START_TEST(test_drain)
{
    char id[ATTN_COMPARE_ID_MAX];
    attn_compare_plan_t plan = plan_of(1, "cpu", NULL);
    ck_assert_int_eq(attn_compare_submit(compare, &plan, id, &error), ATTN_OK);
    attn_compare_drain(compare, 5000);
    free(view_wait(id, ATTN_COMPARE_DONE));
    ck_assert_int_eq(attn_compare_submit(compare, &plan, id, &error), ATTN_ERR_UNAVAILABLE);
}
END_TEST

START_TEST(test_drain_gives_up)
{
    char id[ATTN_COMPARE_ID_MAX];
    script.hold_op = ATTN_OP_TRUTH;
    attn_compare_plan_t plan = plan_of(1, "cpu", NULL);
    ck_assert_int_eq(attn_compare_submit(compare, &plan, id, &error), ATTN_OK);
    free(view_wait(id, ATTN_COMPARE_RUNNING));
    attn_compare_drain(compare, 30);
    attn_compare_view_t *view = view_wait(id, ATTN_COMPARE_FAILED);
    ck_assert_int_eq(view->error.status, ATTN_ERR_UNAVAILABLE);
    free(view);
}
END_TEST

START_TEST(test_limit_and_room)
{
    char ids[4][ATTN_COMPARE_ID_MAX];
    script.hold_op = ATTN_OP_FILL;
    attn_compare_plan_t plan = plan_of(1, "cpu", NULL);
    for (int i = 0; i < 3; i++) {
        plan.peer = (uint64_t)i;
        ck_assert_int_eq(attn_compare_submit(compare, &plan, ids[i], &error), ATTN_OK);
    }
    plan.peer = 3;
    ck_assert_int_eq(attn_compare_submit(compare, &plan, ids[3], &error), ATTN_ERR_UNAVAILABLE);
    ck_assert_ptr_nonnull(strstr(error.message, "3 comparisons"));
    attn_compare_cancel(compare, ids[0], &error);
    free(view_wait(ids[0], ATTN_COMPARE_CANCELLED));
    ck_assert_int_eq(attn_compare_submit(compare, &plan, ids[3], &error), ATTN_OK);
    attn_compare_view_t view;
    ck_assert_int_eq(attn_compare_view(compare, ids[0], &view, &error), ATTN_ERR_NOT_FOUND);
}
END_TEST

START_TEST(test_refusals)
{
    char id[ATTN_COMPARE_ID_MAX];
    attn_compare_plan_t plan = plan_of(1, "no_such", NULL);
    ck_assert_int_eq(attn_compare_submit(compare, &plan, id, &error), ATTN_ERR_NOT_FOUND);
    ck_assert_ptr_nonnull(strstr(error.message, "no_such"));
    plan = plan_of(2, "cpu", "cpu");
    ck_assert_int_eq(attn_compare_submit(compare, &plan, id, &error), ATTN_ERR_INVALID_ARGUMENT);
    plan = plan_of(1, "cpu", NULL);
    plan.reference = "cpu";
    ck_assert_int_eq(attn_compare_submit(compare, &plan, id, &error), ATTN_ERR_INVALID_ARGUMENT);
    plan = plan_of(1, "cpu", NULL);
    plan.has_rounds = true;
    ck_assert_int_eq(attn_compare_submit(compare, &plan, id, &error), ATTN_ERR_INVALID_ARGUMENT);
    plan = plan_of(1, "cpu", NULL);
    plan.spec.s_q = plan.spec.s_kv = 8192; /* O of 8 MiB, its truth of 16 */
    ck_assert_int_eq(attn_spec_measure(&plan.spec, &plan.sizes, &error), ATTN_OK);
    ck_assert_int_eq(attn_compare_submit(compare, &plan, id, &error), ATTN_ERR_TOO_LARGE);
    /* With a seed the ticket of the body is none of the job's, whatever happens; teardown() counts. */
    attn_ticket_t *body = NULL;
    ck_assert_int_eq(attn_admit_open(admit, 0, 4096, 0, &body, &error), ATTN_OK);
    plan.ticket = body;
    ck_assert_int_eq(attn_compare_submit(compare, &plan, id, &error), ATTN_ERR_TOO_LARGE);
    attn_admit_view_t view;
    attn_admit_view(admit, &view);
    ck_assert_uint_eq(view.tickets, 1);
    attn_admit_close(body);
    fake_sched_devices = 0;
    plan = plan_of(1, "cpu", NULL);
    ck_assert_int_eq(attn_compare_submit(compare, &plan, id, &error), ATTN_ERR_UNAVAILABLE);
    ck_assert_uint_eq(script.count, 0);
}
END_TEST

START_TEST(test_default_variants)
{
    char id[ATTN_COMPARE_ID_MAX];
    attn_compare_plan_t plan = plan_of(0, NULL, NULL);
    ck_assert_int_eq(attn_compare_submit(compare, &plan, id, &error), ATTN_OK);
    attn_compare_view_t *view = view_wait(id, ATTN_COMPARE_DONE);
    bool cpu = false, reference = false;
    for (uint32_t i = 0; i < view->row_count; i++) {
        const attn_variant_info_t *info = view->rows[i].variant;
        ck_assert(!info->test_only);
        ck_assert_ptr_null(info->deprecated_for);
        ck_assert(info->devices & 1u << ATTN_DEVICE_CPU);
        cpu |= strcmp(info->name, "cpu") == 0;
        reference |= strcmp(info->name, "reference") == 0;
    }
    ck_assert(cpu && reference);
    free(view);
}
END_TEST

static pthread_mutex_t told_lock = PTHREAD_MUTEX_INITIALIZER;
static int told;
static attn_compare_state_t told_state;

static void tell(void *arg, const attn_compare_view_t *view)
{
    pthread_mutex_lock(&told_lock);
    told++;
    told_state = view->state;
    pthread_mutex_unlock(&told_lock);
}

static int told_wait(int count)
{
    int now = 0;
    for (int i = 0; i < 5000 && now < count; i++) {
        usleep(1000);
        pthread_mutex_lock(&told_lock);
        now = told;
        pthread_mutex_unlock(&told_lock);
    }
    return now;
}

START_TEST(test_watch)
{
    char id[ATTN_COMPARE_ID_MAX];
    told = 0;
    ck_assert_int_eq(attn_compare_watch(compare, "none", 0, true, 0, tell, NULL, &error), ATTN_ERR_NOT_FOUND);
    script.hold_op = ATTN_OP_TRUTH;
    attn_compare_plan_t plan = plan_of(1, "cpu", NULL);
    ck_assert_int_eq(attn_compare_submit(compare, &plan, id, &error), ATTN_OK);
    int64_t now = attn_clock_ns();
    ck_assert_int_eq(attn_compare_watch(compare, id, 0, true, now + 50 * ATTN_NS_PER_MS, tell, NULL, &error), ATTN_OK);
    ck_assert_int_eq(told_wait(1), 1); /* by its deadline */
    ck_assert_int_eq(told_state, ATTN_COMPARE_RUNNING);
    ck_assert_int_ge(attn_clock_ns() - now, 50 * ATTN_NS_PER_MS);
    ck_assert_int_eq(attn_compare_watch(compare, id, 0, false, INT64_MAX, tell, NULL, &error), ATTN_OK);
    ck_assert_int_eq(told_wait(2), 2); /* it has changed since version 0 */
    ck_assert_int_eq(attn_compare_watch(compare, id, 0, true, INT64_MAX, tell, NULL, &error), ATTN_OK);
    attn_compare_cancel(compare, id, &error);
    ck_assert_int_eq(told_wait(3), 3);
    ck_assert_int_eq(told_state, ATTN_COMPARE_CANCELLED);
    usleep(20000);
    ck_assert_int_eq(told_wait(3), 3); /* each once */
}
END_TEST

START_TEST(test_tensors_of_the_caller)
{
    char id[ATTN_COMPARE_ID_MAX];
    attn_ticket_t *ticket = NULL;
    attn_compare_plan_t plan = plan_of(1, "cpu", NULL);
    plan.has_seed = false;
    uint64_t outputs = plan.sizes.o + plan.sizes.lse + attn_truth_bytes(&plan.spec);
    void *address;
    ck_assert_int_eq(attn_admit_open(admit, 1, plan.sizes.q + plan.sizes.k + plan.sizes.v, outputs, &ticket, &error),
                     ATTN_OK);
    ck_assert_int_eq(attn_admit_place(ticket, false, plan.sizes.q, &plan.q, &address, &error), ATTN_OK);
    ck_assert_int_eq(attn_admit_place(ticket, false, plan.sizes.k, &plan.k, &address, &error), ATTN_OK);
    ck_assert_int_eq(attn_admit_place(ticket, false, plan.sizes.v, &plan.v, &address, &error), ATTN_OK);
    plan.ticket = ticket;
    plan.variants[0] = "no_such"; /* refused: the ticket stays here */
    ck_assert_int_eq(attn_compare_submit(compare, &plan, id, &error), ATTN_ERR_NOT_FOUND);
    plan.variants[0] = "cpu";
    ck_assert_int_eq(attn_compare_submit(compare, &plan, id, &error), ATTN_OK);
    free(view_wait(id, ATTN_COMPARE_DONE));
    ck_assert_int_eq(script.ops[0], ATTN_OP_TRUTH);
    ck_assert_uint_eq(script.count, 3);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("compare");
    TCase *jobs = tcase_create("jobs");
    tcase_add_checked_fixture(jobs, setup, teardown);
    tcase_set_timeout(jobs, 60);
    tcase_add_test(jobs, test_steps);
    tcase_add_test(jobs, test_times_of_passes);
    tcase_add_test(jobs, test_crash_costs_one_row);
    tcase_add_test(jobs, test_unsupported_is_a_row);
    tcase_add_test(jobs, test_judge_failure_is_a_row);
    tcase_add_test(jobs, test_truth_failure_fails_the_job);
    tcase_add_test(jobs, test_busy_is_tried_again);
    tcase_add_test(jobs, test_cancel);
    tcase_add_test(jobs, test_stop_cancels);
    tcase_add_test(jobs, test_drain);
    tcase_add_test(jobs, test_drain_gives_up);
    tcase_add_test(jobs, test_limit_and_room);
    tcase_add_test(jobs, test_refusals);
    tcase_add_test(jobs, test_default_variants);
    tcase_add_test(jobs, test_watch);
    tcase_add_test(jobs, test_tensors_of_the_caller);
    suite_add_tcase(suite, jobs);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
