/* gpu/engine_test.c: the CUDA engine of attn-worker (server/worker/engine.h) with real arenas and no daemon: answers
 * against the CPU, copies from pinned and pageable memory, slices, rounds, cancellation, faults, and what a request
 * costs. Without a GPU only the slices and what a launch reads are tested. One command, no arguments. */
#include <cuda_runtime_api.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "attn/engine_variants.h"
#include "gpu/check.h"
#include "gpu/engine_test.h"

#define ARENA_BYTES (UINT64_C(512) << 20)

static int input_fd, output_fd;
char *input, *output;
static char uuid[48];

bool go_on(void *arg)
{
    (void)arg;
    return true;
}

static bool stop(void *arg)
{
    ++*(unsigned *)arg;
    return false;
}

/* A group of one with its tensors placed one after the other in the arenas, as a request of the daemon has them. */
typedef struct task {
    attn_wire_job_t wire;
    attn_engine_group_t group;
    attn_engine_request_t request;
} task_t;

static void task_make(task_t *t, uint32_t op, const char *variant, const attn_spec_t *spec, const attn_sizes_t *sizes,
                      uint64_t truth_bytes)
{
    memset(t, 0, sizeof *t);
    attn_wire_job_t *w = &t->wire;
    uint64_t k = ATTN_WIRE_ROUND(sizes->q), v = k + ATTN_WIRE_ROUND(sizes->k);
    uint64_t lse = ATTN_WIRE_ROUND(sizes->o), truth = lse + ATTN_WIRE_ROUND(sizes->lse);
    w->op = op;
    w->q = (attn_place_t){ATTN_REGION_INPUT, 0, 0, sizes->q};
    w->k = (attn_place_t){ATTN_REGION_INPUT, 0, k, sizes->k};
    w->v = (attn_place_t){ATTN_REGION_INPUT, 0, v, sizes->v};
    w->o = (attn_place_t){ATTN_REGION_OUTPUT, 0, 0, sizes->o};
    if (spec->return_lse)
        w->lse = (attn_place_t){ATTN_REGION_OUTPUT, 0, lse, sizes->lse};
    if (truth_bytes)
        w->truth = (attn_place_t){ATTN_REGION_OUTPUT, 0, truth, truth_bytes};
    t->group = (attn_engine_group_t){
        .op = op, .variant = variant, .repeat = 1, .count = 1, .requests = &t->request, .checkpoint = go_on};
    t->request =
        (attn_engine_request_t){.spec = *spec, .sizes = *sizes, .truth_bytes = truth_bytes, .seed = 5, .id = "test"};
}

attn_engine_group_t *poll_until(attn_engine_t *engine)
{
    attn_engine_group_t *group;
    while ((group = attn_engine_cuda.poll(engine)) == NULL) {
    }
    return group;
}

static attn_status_t task_run(attn_engine_t *engine, attn_memory_t *memory, task_t *t, attn_engine_result_t *ret,
                              attn_error_t *err)
{
    attn_memory_window_t window;
    attn_engine_request_t *request = &t->request;
    t->group.result = (attn_engine_result_t){0};
    t->group.error = (attn_error_t){0};
    t->group.requests = request; /* a task may have been copied */
    attn_status_t status =
        attn_memory_enter(memory, &t->wire, &request->at, &request->truth, request->client, &window, err);
    if (status == ATTN_OK) {
        attn_engine_cuda.submit(engine, &t->group);
        poll_until(engine);
        status = t->group.error.status;
        *err = t->group.error;
    }
    attn_memory_leave(&window);
    *ret = t->group.result;
    return status;
}

static void arenas_fill(const attn_spec_t *spec, const attn_sizes_t *sizes, uint64_t seed)
{
    uint64_t element = attn_dtype_size((attn_dtype_t)spec->dtype), elements = sizes->q / element;
    elements = elements < 1u << 20 ? elements : 1u << 20; /* larger ones keep what earlier tests left behind */
    attn_fill_normal((attn_dtype_t)spec->dtype, seed, 0, input, elements);
    uint64_t k = ATTN_WIRE_ROUND(sizes->q), v = k + ATTN_WIRE_ROUND(sizes->k), n = sizes->k / element;
    n = n < 1u << 20 ? n : 1u << 20;
    attn_fill_normal((attn_dtype_t)spec->dtype, seed, 1, input + k, n);
    attn_fill_normal((attn_dtype_t)spec->dtype, seed, 2, input + v, n);
}

/* Every element of every tensor is copied in once, before the first slice that needs it, and out once. */
static void test_slices(void)
{
    static const struct {
        uint32_t layout, batch;
        int64_t s_q, s_kv;
        bool causal;
    } cases[] = {
        {ATTN_LAYOUT_BSHD, 1, 4096, 4096, true}, {ATTN_LAYOUT_BSHD, 1, 4096, 4096, false},
        {ATTN_LAYOUT_BSHD, 7, 1000, 900, true},  {ATTN_LAYOUT_BHSD, 3, 2048, 2048, true},
        {ATTN_LAYOUT_BHSD, 1, 4096, 4096, true}, {ATTN_LAYOUT_BSHD, 1, 5000, 1000, true},
        {ATTN_LAYOUT_BSHD, 1, 700, 9000, true},  {ATTN_LAYOUT_BSHD, 1, 64, 64, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        attn_sizes_t sizes;
        attn_spec_t spec = check_spec(ATTN_DTYPE_BF16, cases[i].layout, cases[i].batch, cases[i].s_q, cases[i].s_kv, 32,
                                      8, 128, cases[i].causal, 0, &sizes);
        attn_engine_request_t request = {.spec = spec, .sizes = sizes};
        attn_addresses_t at = {(void *)4096, (void *)8192, (void *)16384, (void *)32768, (float *)65536};
        attn_cuda_slice_t slice[ATTN_CUDA_SLICES];
        uint32_t n = attn_cuda_slices(&request, &at, ATTN_CUDA_SLICES, slice);
        uint64_t q = 0, k = 0, v = 0, o = 0, lse = 0, rows = 0;
        double flops = 0;
        for (uint32_t s = 0; s < n; s++) {
            check(slice[s].q.offset == q && slice[s].o.offset == o && slice[s].k.offset == k && slice[s].v.offset == v,
                  "case %zu: slice %u leaves a gap", i, s);
            q += slice[s].q.bytes;
            k += slice[s].k.bytes;
            v += slice[s].v.bytes;
            o += slice[s].o.bytes;
            lse += slice[s].lse.bytes;
            rows += slice[s].problem.batch * (uint64_t)slice[s].problem.s_q;
            flops += attn_problem_flops(&slice[s].problem, spec.causal);
            check(n == 1 || (uint64_t)((char *)slice[s].problem.q.data - (char *)at.q) == slice[s].q.offset,
                  "case %zu: slice %u computes other rows than it copies", i, s);
        }
        check(q == sizes.q && o == sizes.o && lse == sizes.lse, "case %zu: not everything is copied", i);
        check(k == sizes.k && v == sizes.v, "case %zu: %llu of %llu bytes of K", i, (unsigned long long)k,
              (unsigned long long)sizes.k);
        attn_problem_t whole;
        attn_spec_problems(&spec, NULL, NULL, &at, &whole);
        check(n == 1 || rows == cases[i].batch * (uint64_t)cases[i].s_q, "case %zu: rows", i);
        check(n == 1 || flops == attn_problem_flops(&whole, spec.causal), "case %zu: visible pairs %g", i, flops);
        check((n > 1) == (i < 4 || i == 5 || i == 6), "case %zu: %u slices", i, n);
    }
}

static void keep_first(const char *found, int index, const char *name, void *arg)
{
    (void)arg;
    if (uuid[0] == '\0')
        snprintf(uuid, sizeof uuid, "%s", found);
    printf("device %d: %s %s\n", index, found, name);
}

/* `reference` through the engine has the CPU's values; `unified` passes by the truth that the engine computes. */
static void test_answers(attn_engine_t *engine, attn_memory_t *memory, const char *class_name)
{
    static const struct {
        const char *variant;
        uint32_t dtype, layout, batch, h_q, h_kv, d;
        int64_t s_q, s_kv;
        bool causal;
        float softcap;
    } cases[] = {
        {"reference", ATTN_DTYPE_F32, ATTN_LAYOUT_BSHD, 2, 4, 2, 32, 50, 60, true, 0},
        {"reference", ATTN_DTYPE_F16, ATTN_LAYOUT_BHSD, 2, 4, 2, 80, 70, 60, true, 3},
        {"unified", ATTN_DTYPE_BF16, ATTN_LAYOUT_BSHD, 1, 8, 2, 128, 64, 64, false, 0},
        {"unified", ATTN_DTYPE_BF16, ATTN_LAYOUT_BSHD, 2, 8, 2, 128, 300, 500, true, 0},
        {"unified", ATTN_DTYPE_F16, ATTN_LAYOUT_BHSD, 1, 4, 4, 64, 513, 200, true, 10},
        {"unified", ATTN_DTYPE_F16, ATTN_LAYOUT_BSHD, 1, 2, 1, 256, 128, 0, false, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        attn_sizes_t sizes;
        attn_spec_t spec =
            check_spec(cases[i].dtype, cases[i].layout, cases[i].batch, cases[i].s_q, cases[i].s_kv, cases[i].h_q,
                       cases[i].h_kv, cases[i].d, cases[i].causal, cases[i].softcap, &sizes);
        arenas_fill(&spec, &sizes, i);
        memset(output, 0x7b, 8 << 20);
        task_t t;
        attn_engine_result_t result;
        attn_error_t err;
        uint64_t truth = attn_truth_bytes(&spec);
        task_make(&t, ATTN_OP_TRUTH, NULL, &spec, &sizes, truth);
        check(task_run(engine, memory, &t, &result, &err) == ATTN_OK, "%s case %zu: truth: %s", class_name, i,
              err.message);
        task_make(&t, ATTN_OP_RUN, cases[i].variant, &spec, &sizes, truth);
        check(task_run(engine, memory, &t, &result, &err) == ATTN_OK, "%s case %zu: run: %s", class_name, i,
              err.message);
        check(result.kernel_us > 0 && result.kernel_us < 1e5, "%s case %zu: kernel %g us", class_name, i,
              result.kernel_us);
        task_make(&t, ATTN_OP_JUDGE, NULL, &spec, &sizes, truth);
        check(task_run(engine, memory, &t, &result, &err) == ATTN_OK && result.judgement.pass,
              "%s case %zu: judged max %g of %g, row %g, lse %g, special %llu", class_name, i, result.judgement.max_abs,
              result.judgement.max_abs_allowed, result.judgement.row_excess, result.judgement.lse_err,
              (unsigned long long)result.judgement.special_mismatch);
        /* An answer that lost its last row must fail by the same truth. */
        uint64_t row = spec.d * attn_dtype_size((attn_dtype_t)spec.dtype);
        memset(output + sizes.o - row, 0x11, row);
        task_run(engine, memory, &t, &result, &err);
        check(!result.judgement.pass, "%s case %zu: a destroyed row passes", class_name, i);

        attn_engine_result_t ignored;
        task_make(&t, ATTN_OP_RUN, cases[i].variant, &spec, &sizes, truth);
        task_run(engine, memory, &t, &ignored, &err);
        char *first = malloc(sizes.o);
        memcpy(first, output, sizes.o);
        memset(output, 0x7b, sizes.o);
        t.group.warmup = 2;
        t.group.repeat = 40;
        check(task_run(engine, memory, &t, &result, &err) == ATTN_OK, "%s case %zu: rounds: %s", class_name, i,
              err.message);
        check(result.kernel_min_us > 0 && result.kernel_min_us <= result.kernel_us, "%s case %zu: median %g, least %g",
              class_name, i, result.kernel_us, result.kernel_min_us);
        check(memcmp(first, output, sizes.o) == 0, "%s case %zu: rounds gave other bits", class_name, i);
        free(first);
    }
}

/* Packed sequences, empty ones on either side among them. */
static void test_packed(attn_engine_t *engine, attn_memory_t *memory)
{
    enum { N = 6 };
    static const int32_t cu_q[N + 1] = {0, 100, 100, 101, 330, 400, 480},
                                  cu_k[N + 1] = {0, 60, 160, 200, 500, 500, 599};
    const char *variants[] = {"reference", "unified"};
    for (int i = 0; i < 2; i++) {
        attn_sizes_t sizes;
        attn_spec_t spec =
            check_spec(ATTN_DTYPE_BF16, ATTN_LAYOUT_THD, N, cu_q[N], cu_k[N], 8, 2, 128, true, 0, &sizes);
        arenas_fill(&spec, &sizes, 60);
        uint64_t truth = attn_truth_bytes(&spec);
        const uint32_t ops[] = {ATTN_OP_TRUTH, ATTN_OP_RUN, ATTN_OP_JUDGE};
        attn_engine_result_t result = {0};
        for (int op = 0; op < 3; op++) {
            task_t t;
            attn_error_t err;
            task_make(&t, ops[op], variants[i], &spec, &sizes, truth);
            t.request.cu_seqlens_q = cu_q;
            t.request.cu_seqlens_k = cu_k;
            check(task_run(engine, memory, &t, &result, &err) == ATTN_OK, "packed %s: %s", variants[i], err.message);
        }
        check(result.judgement.pass && result.judgement.elements > 0,
              "packed %s: judged max %g of %g, row %g, lse %g, special %llu", variants[i], result.judgement.max_abs,
              result.judgement.max_abs_allowed, result.judgement.row_excess, result.judgement.lse_err,
              (unsigned long long)result.judgement.special_mismatch);
    }
}

static void test_sliced(attn_engine_t *engine, attn_memory_t *memory, const char *variant)
{
    static const struct {
        uint32_t layout, batch;
        int64_t s_q, s_kv;
        bool causal;
    } cases[] = {
        {ATTN_LAYOUT_BSHD, 1, 4096, 4096, true},
        {ATTN_LAYOUT_BSHD, 1, 4000, 4096, false},
        {ATTN_LAYOUT_BHSD, 3, 1024, 1024, true},
        {ATTN_LAYOUT_BSHD, 1, 4096, 1500, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        attn_sizes_t sizes;
        attn_spec_t spec = check_spec(ATTN_DTYPE_BF16, cases[i].layout, cases[i].batch, cases[i].s_q, cases[i].s_kv, 32,
                                      8, 128, cases[i].causal, 0, &sizes);
        arenas_fill(&spec, &sizes, 30 + i);
        task_t t;
        attn_engine_result_t result;
        attn_error_t err;
        task_make(&t, ATTN_OP_RUN, variant, &spec, &sizes, 0);
        uint64_t lse_at = ATTN_WIRE_ROUND(sizes.o), bytes = lse_at + sizes.lse;
        memset(output, 0x7b, bytes);
        double best = 1e9;
        for (int round = 0; round < 5; round++) {
            double start = check_now_ms();
            if (!check(task_run(engine, memory, &t, &result, &err) == ATTN_OK, "sliced: %s", err.message))
                return;
            double ms = check_now_ms() - start;
            best = ms < best ? ms : best;
        }
        printf("%s case %zu in slices: %.3f ms (copies in %llu us, kernel %.0f us, left of copies out %llu us)\n",
               variant, i, best, (unsigned long long)result.copy_in_us, result.kernel_us,
               (unsigned long long)result.copy_out_us);
        char *sliced = malloc(bytes);
        memcpy(sliced, output, bytes);
        memset(output, 0x7b, bytes);
        t.group.warmup = 1; /* whole */
        double start = check_now_ms();
        check(task_run(engine, memory, &t, &result, &err) == ATTN_OK, "whole: %s", err.message);
        printf("%s case %zu whole with a warm-up round: %.3f ms (in %llu, kernel %.0f, out %llu us)\n", variant, i,
               check_now_ms() - start, (unsigned long long)result.copy_in_us, result.kernel_us,
               (unsigned long long)result.copy_out_us);
        check(memcmp(sliced, output, sizes.o) == 0, "%s case %zu: slices gave other bits of O", variant, i);
        check(memcmp(sliced + lse_at, output + lse_at, sizes.lse) == 0, "%s case %zu: slices gave other bits of LSE",
              variant, i);
        free(sliced);
    }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* What a request costs inside the engine: its output written directly or copied, its inputs copied or fetched by a
 * kernel, at once after the last one or after a pause in which the device may doze off. */
static void bench(attn_engine_t *engine, attn_memory_t *memory, const char *variant, int64_t s, uint32_t h_q,
                  uint32_t h_kv, int n)
{
    attn_sizes_t sizes;
    attn_spec_t spec = check_spec(ATTN_DTYPE_BF16, ATTN_LAYOUT_BSHD, 1, s, s, h_q, h_kv, 128, false, 0, &sizes);
    spec.return_lse = 0;
    sizes.lse = 0;
    arenas_fill(&spec, &sizes, 1);
    double times[1000];
    static const struct {
        const char *inputs;
        bool direct, gather;
        int pause_us;
    } modes[] = {{"copied", false, false, 0},
                 {"copied", true, false, 0},
                 {"gathered", true, true, 0},
                 {"copied", true, false, 100},
                 {"gathered", true, true, 100}};
    uint64_t direct = engine->direct_bytes, gather = engine->gather_bytes;
    for (size_t mode = 0; mode < sizeof modes / sizeof modes[0]; mode++) {
        task_t t;
        attn_engine_result_t result;
        attn_error_t err;
        task_make(&t, ATTN_OP_RUN, variant, &spec, &sizes, 0);
        engine->direct_bytes = modes[mode].direct ? UINT64_C(1) << 30 : 0;
        engine->gather_bytes = modes[mode].gather ? UINT64_C(1) << 30 : 0;
        for (int i = -20; i < n; i++) {
            for (double until = check_now_ms() + modes[mode].pause_us / 1000.0; check_now_ms() < until;) {
            }
            double start = check_now_ms();
            if (!check(task_run(engine, memory, &t, &result, &err) == ATTN_OK, "bench: %s", err.message))
                return;
            if (i >= 0)
                times[i] = (check_now_ms() - start) * 1000;
        }
        qsort(times, (size_t)n, sizeof times[0], by_value);
        printf(
            "%-9s 1x%lldx%lld %u/%u d128 %6.1f KiB in %6.1f KiB out, inputs %s, output %s, pause %3d us: p50 %.1f us, "
            "least %.1f (in %llu, kernel %.1f, out %llu)\n",
            variant, (long long)s, (long long)s, h_q, h_kv, (double)(sizes.q + 2 * sizes.k) / 1024,
            (double)sizes.o / 1024, modes[mode].inputs, modes[mode].direct ? "direct" : "copied", modes[mode].pause_us,
            times[n / 2], times[0], (unsigned long long)result.copy_in_us, result.kernel_us,
            (unsigned long long)result.copy_out_us);
    }
    engine->direct_bytes = direct;
    engine->gather_bytes = gather;
}

static void test_refusals(attn_engine_t *engine, attn_memory_t *memory)
{
    attn_sizes_t sizes;
    attn_spec_t spec = check_spec(ATTN_DTYPE_BF16, ATTN_LAYOUT_BSHD, 1, 8192, 8192, 16, 16, 128, false, 0, &sizes);
    arenas_fill(&spec, &sizes, 2);
    task_t t;
    attn_engine_result_t result;
    attn_error_t err;
    unsigned calls = 0;
    task_make(&t, ATTN_OP_RUN, "reference", &spec, &sizes, 0);
    t.group.checkpoint = stop;
    t.group.checkpoint_arg = &calls;
    t.group.repeat = 100;
    double start = check_now_ms();
    attn_status_t status = task_run(engine, memory, &t, &result, &err);
    double ms = check_now_ms() - start;
    check(status == ATTN_ERR_CANCELLED && !result.unusable && calls == 1, "cancelled: %s after %u calls",
          attn_status_name(status), calls);
    check(ms < 300, "a cancelled job took %g ms to end", ms);
    task_make(&t, ATTN_OP_RUN, "reference", &spec, &sizes, 0);
    check(task_run(engine, memory, &t, &result, &err) == ATTN_OK, "after a cancelled job: %s", err.message);
    printf("reference (1,8192,8192,16/16,128): kernel %.1f ms\n", result.kernel_us / 1000);
    task_make(&t, ATTN_OP_RUN, "cpu", &spec, &sizes, 0);
    check(task_run(engine, memory, &t, &result, &err) == ATTN_ERR_INTERNAL && !result.unusable,
          "an unknown variant: %s", err.message);

    /* O and nothing else is zero after `null`; extents of zero are no work. */
    spec = check_spec(ATTN_DTYPE_F32, ATTN_LAYOUT_BSHD, 1, 3, 5, 2, 1, 16, false, 0, &sizes);
    memset(output, 0x7b, 4096);
    task_make(&t, ATTN_OP_RUN, "null", &spec, &sizes, 0);
    check(task_run(engine, memory, &t, &result, &err) == ATTN_OK, "null: %s", err.message);
    bool zero = true;
    for (uint64_t i = 0; i < sizes.o; i++)
        zero = zero && output[i] == 0;
    check(zero && output[sizes.o] == 0x7b, "null writes exactly O");
    spec = check_spec(ATTN_DTYPE_F32, ATTN_LAYOUT_BSHD, 1, 0, 5, 2, 1, 16, false, 0, &sizes);
    task_make(&t, ATTN_OP_RUN, "reference", &spec, &sizes, 0);
    check(task_run(engine, memory, &t, &result, &err) == ATTN_OK, "no queries: %s", err.message);
}

static void test_fill(attn_engine_t *engine, attn_memory_t *memory)
{
    attn_sizes_t sizes;
    attn_spec_t spec = check_spec(ATTN_DTYPE_F16, ATTN_LAYOUT_BSHD, 1, 1111, 777, 4, 2, 128, false, 0, &sizes);
    task_t t;
    attn_engine_result_t result;
    attn_error_t err;
    task_make(&t, ATTN_OP_FILL, NULL, &spec, &sizes, 0);
    memset(&t.wire.o, 0, sizeof t.wire.o);
    memset(&t.wire.lse, 0, sizeof t.wire.lse);
    check(task_run(engine, memory, &t, &result, &err) == ATTN_OK, "fill: %s", err.message);
    char *expected = malloc(sizes.q);
    attn_fill_normal(ATTN_DTYPE_F16, 5, 0, expected, sizes.q / 2);
    check(memcmp(expected, input, sizes.q) == 0, "q differs from attn_fill_normal()");
    attn_fill_normal(ATTN_DTYPE_F16, 5, 2, expected, sizes.v / 2);
    check(memcmp(expected, input + ATTN_WIRE_ROUND(sizes.q) + ATTN_WIRE_ROUND(sizes.k), sizes.v) == 0,
          "v differs from attn_fill_normal()");
    free(expected);
}

static attn_engine_t *engine_open(attn_variant_class_t run_class, attn_memory_t **ret_memory)
{
    attn_error_t err = {0};
    attn_engine_t *engine = NULL;
    attn_engine_about_t about = {0};
    if (!check(attn_memory_open(run_class, input_fd, output_fd, ret_memory, &err) == ATTN_OK, "%s", err.message))
        exit(check_finish());
    attn_engine_setup_t setup = {run_class, uuid, *ret_memory};
    double start = check_now_ms();
    if (!check(attn_engine_cuda.open(&setup, &engine, &about, &err) == ATTN_OK, "open: %s", err.message))
        exit(check_finish());
    printf("opened %s in %.0f ms: sm_%d, %d multiprocessors, driver %s, clocks %u/%u MHz\n", about.device.name,
           check_now_ms() - start, about.device.arch, about.device.units, about.driver, about.sm_clock_mhz,
           about.mem_clock_mhz);
    return engine;
}

/* Last: the context is lost. */
static void test_oob(attn_engine_t *engine, attn_memory_t *memory)
{
    attn_sizes_t sizes;
    attn_spec_t spec = check_spec(ATTN_DTYPE_BF16, ATTN_LAYOUT_BSHD, 1, 64, 64, 2, 1, 64, false, 0, &sizes);
    task_t t;
    attn_engine_result_t result;
    attn_error_t err;
    task_make(&t, ATTN_OP_RUN, "test_oob", &spec, &sizes, 0);
    attn_status_t status = task_run(engine, memory, &t, &result, &err);
    check(status == ATTN_ERR_DEVICE && result.unusable, "a wild write: %s, unusable %d", attn_status_name(status),
          result.unusable);
    printf("a wild write says: %s\n", err.message);
}

int main(void)
{
    test_slices();
    attn_engine_cuda_list(keep_first, NULL);
    if (uuid[0] == '\0') {
        printf("skipped: no GPU\n");
        return check_finish() ? 1 : 77;
    }
    input_fd = memfd_create("test-input", MFD_CLOEXEC);
    output_fd = memfd_create("test-output", MFD_CLOEXEC);
    if (ftruncate(input_fd, (off_t)ARENA_BYTES) != 0 || ftruncate(output_fd, (off_t)ARENA_BYTES) != 0)
        return 2;
    input = mmap(NULL, ARENA_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, input_fd, 0);
    output = mmap(NULL, ARENA_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, output_fd, 0);

    attn_memory_t *memory;
    attn_engine_t *engine = engine_open(ATTN_CLASS_SERVE, &memory);
    check(engine->input.pinned > 0 && engine->output.pinned > 0, "the arenas are not pinned (%llu, %llu)",
          (unsigned long long)engine->input.pinned, (unsigned long long)engine->output.pinned);
    test_answers(engine, memory, "serve");
    test_packed(engine, memory);
    test_groups(engine, memory, engine->input.pinned - (1 << 20), "pinned and pageable");
    test_large(engine, memory, engine->input.pinned - (12 << 20), "large, pinned and pageable");
    test_sliced(engine, memory, "unified"); /* crosses from pinned into pageable memory */
    double start = check_now_ms(), worst = 0;
    for (bool more = true; more;) {
        double piece = check_now_ms();
        more = attn_engine_cuda.idle(engine);
        piece = check_now_ms() - piece;
        worst = piece > worst ? piece : worst;
    }
    printf("pinned %llu MiB in %.0f ms, the longest piece %.1f ms\n",
           (unsigned long long)((engine->input.pinned + engine->output.pinned) >> 20), check_now_ms() - start, worst);
    check(engine->input.pinned == ARENA_BYTES && engine->output.pinned == ARENA_BYTES, "idle() pins everything");
    test_sliced(engine, memory, "unified");
    test_sliced(engine, memory, "reference");
    test_groups(engine, memory, 0, "pinned");
    test_bad_group(engine, memory);
    test_alike(engine, memory, 0, "pinned");
    test_alike(engine, memory, ATTN_CUDA_PIN_FIRST + ATTN_CUDA_PIN_PIECE - (1 << 20), "across registrations");
    test_large(engine, memory, 0, "large");
    test_refusals(engine, memory);
    test_fill(engine, memory);
    bench(engine, memory, "null", 64, 8, 2, 500);
    bench(engine, memory, "unified", 64, 8, 2, 1000);
    bench(engine, memory, "unified", 64, 4, 4, 500);
    bench(engine, memory, "unified", 64, 32, 4, 500);
    bench(engine, memory, "unified", 128, 8, 2, 500);
    bench(engine, memory, "unified", 256, 8, 2, 500);
    bench(engine, memory, "unified", 256, 8, 8, 500);
    bench(engine, memory, "unified", 1024, 32, 8, 100);
    attn_engine_cuda.close(engine);
    attn_memory_close(memory);

    engine = engine_open(ATTN_CLASS_LAB, &memory);
    check(engine->input.pinned == 0, "a lab worker pins nothing");
    test_answers(engine, memory, "lab");
    test_oob(engine, memory);
    attn_engine_cuda.close(engine);
    attn_memory_close(memory);
    return check_finish();
}
