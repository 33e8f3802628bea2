/* report.c: see report.h. One thread; owns nothing. */
#include "report.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* One line of a report: a class, or all of them. */
typedef struct row {
    const char *name;
    const bench_tally_t *tally;
    double answered, failed, requests_per_s, tokens_per_s, tflops, bytes_per_s;
    double queue_us, kernel_us, batch; /* means */
} row_t;

static const struct {
    const char *name;
    double q;
} quantiles[] = {{"p50_us", 0.5}, {"p90_us", 0.9}, {"p99_us", 0.99}, {"p999_us", 0.999}};
#define QUANTILE_COUNT (sizeof(quantiles) / sizeof(quantiles[0]))

static double quantile_us(const row_t *row, size_t i)
{
    return (double)bench_histogram_quantile(&row->tally->latency, quantiles[i].q) / 1e3;
}

static row_t row_make(const char *name, const bench_tally_t *tally, double window_s)
{
    double answered = (double)tally->latency.count, of = answered > 0 ? answered : 1;
    return (row_t){
        .name = name,
        .tally = tally,
        .answered = answered,
        .failed = (double)bench_tally_failed(tally),
        .requests_per_s = window_s > 0 ? answered / window_s : 0,
        .queue_us = tally->queue_us / of,
        .kernel_us = tally->kernel_us / of,
        .batch = tally->batch / of,
    };
}

/* Rates of a class into its row and into that of all. */
static void rates_add(const bench_class_t *class, row_t *row, row_t *all)
{
    const attn_sizes_t *sizes = &class->sizes;
    row->tokens_per_s = row->requests_per_s * (double)class->spec.s_q * class->spec.batch;
    row->tflops = row->requests_per_s * bench_class_flops(class) / 1e12;
    row->bytes_per_s = row->requests_per_s * (double)(sizes->q + sizes->k + sizes->v + sizes->o + sizes->lse);
    all->tokens_per_s += row->tokens_per_s;
    all->tflops += row->tflops;
    all->bytes_per_s += row->bytes_per_s;
}

static const char *mode_name(const bench_point_t *point)
{
    return point->arrivals == BENCH_CLOSED ? "closed" : point->arrivals == BENCH_POISSON ? "poisson" : "uniform";
}

static void csv_head(void)
{
    printf("door,arrivals,rate,connections,depth,class,answered,failed,requests_per_s,tokens_per_s,tflops,bytes_per_s,"
           "mean_us,min_us");
    for (size_t i = 0; i < QUANTILE_COUNT; i++) {
        printf(",%s", quantiles[i].name);
    }
    printf(",max_us,queue_us,kernel_us,batch_size,late_p99_us,waited,unsent\n");
}

static double late_p99_us(const bench_result_t *result)
{
    return (double)bench_histogram_quantile(&result->late, 0.99) / 1e3;
}

static void csv_row(const bench_point_t *point, const bench_result_t *result, const row_t *row)
{
    const bench_histogram_t *latency = &row->tally->latency;
    printf("%s,%s,%g,%u,%u,%s,%.0f,%.0f,%.3f,%.3f,%.6f,%.0f,%.3f,%.3f", point->door->name, mode_name(point),
           point->rate, point->connections, point->depth, row->name, row->answered, row->failed, row->requests_per_s,
           row->tokens_per_s, row->tflops, row->bytes_per_s, bench_histogram_mean(latency) / 1e3,
           (double)latency->min / 1e3);
    for (size_t i = 0; i < QUANTILE_COUNT; i++) {
        printf(",%.3f", quantile_us(row, i));
    }
    printf(",%.3f,%.3f,%.3f,%.3f,%.3f,%" PRIu64 ",%" PRIu64 "\n", (double)latency->max / 1e3, row->queue_us,
           row->kernel_us, row->batch, late_p99_us(result), result->waited, result->unsent);
}

static json_t *failed_json(const bench_tally_t *tally)
{
    json_t *failed = json_object();
    for (int i = 0; i < BENCH_STATUS_SPAN; i++) {
        if (tally->failed[i] > 0) {
            json_object_set_new(failed, attn_status_name((attn_status_t)-i),
                                json_integer((json_int_t)tally->failed[i]));
        }
    }
    return failed;
}

static json_t *row_json(const row_t *row)
{
    const bench_histogram_t *latency = &row->tally->latency;
    json_t *root =
        json_pack("{s:s, s:I, s:o, s:f, s:f, s:f, s:f, s:f, s:f}", "class", row->name, "answered",
                  (json_int_t)row->answered, "failed", failed_json(row->tally), "requests_per_s", row->requests_per_s,
                  "tokens_per_s", row->tokens_per_s, "tflops", row->tflops, "bytes_per_s", row->bytes_per_s, "mean_us",
                  bench_histogram_mean(latency) / 1e3, "min_us", (double)latency->min / 1e3);
    for (size_t i = 0; i < QUANTILE_COUNT; i++) {
        json_object_set_new(root, quantiles[i].name, json_real(quantile_us(row, i)));
    }
    json_object_set_new(root, "max_us", json_real((double)latency->max / 1e3));
    json_object_set_new(root, "queue_us", json_real(row->queue_us));
    json_object_set_new(root, "kernel_us", json_real(row->kernel_us));
    json_object_set_new(root, "batch_size", json_real(row->batch));
    return root;
}

static json_t *run_json(const bench_point_t *point, const bench_result_t *result)
{
    json_t *root = json_pack(
        "{s:s, s:s, s:f, s:i, s:i, s:f, s:f, s:I, s:b, s:f, s:f, s:I, s:I}", "door", point->door->name, "arrivals",
        mode_name(point), "rate", point->rate, "connections", (int)point->connections, "depth", (int)point->depth,
        "warmup_seconds", point->warmup_s, "seconds", result->window_s, "seed", (json_int_t)point->seed, "interrupted",
        result->interrupted, "late_p50_us", (double)bench_histogram_quantile(&result->late, 0.5) / 1e3, "late_p99_us",
        late_p99_us(result), "waited", (json_int_t)result->waited, "unsent", (json_int_t)result->unsent);
    if (result->first_error.error.status != ATTN_OK) {
        json_object_set_new(root, "first_error",
                            json_pack("{s:s, s:s}", "code", attn_status_name(result->first_error.error.status), "error",
                                      result->first_error.error.message));
    }
    return root;
}

static void table_head(const bench_point_t *point, const bench_result_t *result, bool first)
{
    char what[96];
    if (point->arrivals == BENCH_CLOSED) {
        snprintf(what, sizeof(what), "closed loop, %u in flight on each of", point->depth);
    } else {
        snprintf(what, sizeof(what), "open loop, %g requests/s (%s), at most %u in flight on each of", point->rate,
                 mode_name(point), point->depth);
    }
    printf("%s%s %u connection%s over %s, %.2f s\n", first ? "" : "\n", what, point->connections,
           point->connections == 1 ? "" : "s", point->door->name, result->window_s);
    printf("%-16s %9s %7s %11s %9s %9s %9s %9s %9s | %9s %9s %6s\n", "class", "answered", "failed", "requests/s",
           "p50 us", "p90 us", "p99 us", "p99.9 us", "max us", "queue us", "kernel us", "group");
}

static void table_row(const row_t *row)
{
    printf("%-16s %9.0f %7.0f %11.1f", row->name, row->answered, row->failed, row->requests_per_s);
    for (size_t i = 0; i < QUANTILE_COUNT; i++) {
        printf(" %9.1f", quantile_us(row, i));
    }
    printf(" %9.1f | %9.1f %9.1f %6.1f\n", (double)row->tally->latency.max / 1e3, row->queue_us, row->kernel_us,
           row->batch);
}

static void table_end(const bench_point_t *point, const bench_result_t *result, const row_t *all)
{
    printf("%.4g tokens/s, %.4g TFLOP/s, %.4g MB/s of tensors\n", all->tokens_per_s, all->tflops,
           all->bytes_per_s / 1e6);
    if (point->arrivals != BENCH_CLOSED) {
        printf("latency runs from the planned time; sent late by p50 %.1f us, p99 %.1f us; %" PRIu64
               " waited for a connection",
               (double)bench_histogram_quantile(&result->late, 0.5) / 1e3, late_p99_us(result), result->waited);
        if (result->unsent > 0) {
            printf("; %" PRIu64 " were never sent, because the backlog did not end", result->unsent);
        }
        putchar('\n');
    }
    for (int i = 0; i < BENCH_STATUS_SPAN; i++) {
        if (all->tally->failed[i] > 0) {
            printf("failed with %s: %" PRIu64 "\n", attn_status_name((attn_status_t)-i), all->tally->failed[i]);
        }
    }
    if (result->first_error.error.status != ATTN_OK) {
        printf("the first failure: %s\n", result->first_error.error.message);
    }
    if (result->interrupted) {
        printf("interrupted\n");
    }
}

static void row_put(bench_form_t form, const bench_point_t *point, const bench_result_t *result, const row_t *row,
                    json_t *list)
{
    if (form == BENCH_CSV) {
        csv_row(point, result, row);
    } else if (form == BENCH_JSON) {
        json_array_append_new(list, row_json(row));
    } else {
        table_row(row);
    }
}

void bench_report(bench_form_t form, const bench_workload_t *workload, const bench_point_t *point,
                  const bench_result_t *result, bool first, json_t *runs)
{
    bench_tally_t *total = calloc(1, sizeof(*total));
    json_t *list = json_array();
    if (total == NULL) {
        json_decref(list);
        return;
    }
    for (uint32_t i = 0; i < workload->count; i++) {
        bench_tally_merge(total, &result->classes[i]);
    }
    row_t all = row_make("total", total, result->window_s);
    if (form == BENCH_TABLE) {
        table_head(point, result, first);
    } else if (form == BENCH_CSV && first) {
        csv_head();
    }
    for (uint32_t i = 0; i < workload->count; i++) {
        row_t row = row_make(workload->classes[i].name, &result->classes[i], result->window_s);
        rates_add(&workload->classes[i], &row, &all);
        row_put(form, point, result, &row, list);
    }
    if (form == BENCH_JSON) {
        json_t *run = run_json(point, result);
        json_object_set_new(run, "total", row_json(&all));
        json_object_set(run, "classes", list);
        json_array_append_new(runs, run);
    } else if (workload->count > 1) {
        row_put(form, point, result, &all, NULL);
    }
    if (form == BENCH_TABLE) {
        table_end(point, result, &all);
    }
    json_decref(list);
    free(total);
    fflush(stdout);
}
