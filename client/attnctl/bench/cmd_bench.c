/* cmd_bench.c: attnctl bench: reads what is asked for, runs a load per rate or per number of connections, reports. One
 * thread; the loads have theirs. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "report.h"

#define POINTS_MAX 64
#define CONNECTIONS_MAX 4096
#define OPEN_CONNECTIONS 64 /* an open loop needs spare ones; each is a thread */

/* "1,16,64": numbers above 0 and at most `max`. */
static attn_status_t list_read(const char *option, const char *text, bool whole, double max, double ret[POINTS_MAX],
                               uint32_t *ret_count, attn_error_t *err)
{
    const char *at = text;
    uint32_t count = 0;
    for (;;) {
        char *end = NULL;
        double number = strtod(at, &end);
        bool good = end != at && number > 0 && number <= max && (!whole || number == (double)(uint64_t)number);
        if (!good || (*end != ',' && *end != '\0') || count == POINTS_MAX) {
            return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                                  "--%s is '%.100s'; it must be a list of at most %d %s up to %g with commas between",
                                  option, text, POINTS_MAX, whole ? "whole numbers above 0" : "numbers above 0", max);
        }
        ret[count++] = number;
        if (*end == '\0') {
            *ret_count = count;
            return ATTN_OK;
        }
        at = end + 1;
    }
}

/* The loads that are asked for: one per rate (open), or per number of connections (closed). */
static attn_status_t points_make(const ctl_options_t *options, bench_point_t ret[POINTS_MAX], uint32_t *ret_count,
                                 attn_error_t *err)
{
    bench_point_t point = {
        .warmup_s = options->has_warmup_seconds ? options->warmup_seconds : 1,
        .seconds = options->seconds > 0 ? options->seconds : 10,
        .requests = options->requests,
        .depth = options->depth > 0 ? (uint32_t)(options->depth < UINT32_MAX ? options->depth : UINT32_MAX) : 1,
        .seed = options->seed,
    };
    double rates[POINTS_MAX], connections[POINTS_MAX] = {options->rate != NULL ? OPEN_CONNECTIONS : 1};
    uint32_t rate_count = 0, connection_count = 1;
    attn_status_t status = ATTN_OK;
    if (bench_door_find(options->door, options->server, &point.door, err) != ATTN_OK) {
        return ATTN_ERR_INVALID_ARGUMENT;
    }
    if (point.depth > point.door->depth_max) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "--depth is %u; over %s a connection has at most %u requests in flight", point.depth,
                              point.door->name, point.door->depth_max);
    }
    if (options->connections != NULL) {
        status =
            list_read("connections", options->connections, true, CONNECTIONS_MAX, connections, &connection_count, err);
    }
    if (status == ATTN_OK && options->rate != NULL) {
        status = list_read("rate", options->rate, false, 1e7, rates, &rate_count, err);
    }
    if (status != ATTN_OK) {
        return status;
    }
    if (options->arrivals != NULL && strcmp(options->arrivals, "poisson") != 0 &&
        strcmp(options->arrivals, "uniform") != 0) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "--arrivals is '%.100s'; it must be poisson or uniform",
                              options->arrivals);
    }
    if ((options->arrivals != NULL && rate_count == 0) || (rate_count > 0 && connection_count > 1)) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "%s",
                              rate_count == 0 ? "--arrivals belongs to an open loop; give it a --rate"
                                              : "an open loop (--rate) takes one number of connections");
    }
    uint32_t count = rate_count > 0 ? rate_count : connection_count;
    for (uint32_t i = 0; i < count; i++) {
        ret[i] = point;
        ret[i].rate = rate_count > 0 ? rates[i] : 0;
        ret[i].connections = (uint32_t)connections[rate_count > 0 ? 0 : i];
        ret[i].arrivals = rate_count == 0                                            ? BENCH_CLOSED
                          : options->arrivals != NULL && options->arrivals[0] == 'u' ? BENCH_UNIFORM
                                                                                     : BENCH_POISSON;
    }
    *ret_count = count;
    return ATTN_OK;
}

static uint64_t answered(const bench_workload_t *workload, const bench_result_t *result)
{
    uint64_t count = 0;
    for (uint32_t i = 0; i < workload->count; i++) {
        count += result->classes[i].latency.count;
    }
    return count;
}

/* Runs and reports every load; what the command exits with. */
static int points_run(const ctl_options_t *options, const bench_setup_t *setup, const bench_point_t *points,
                      uint32_t count)
{
    bench_form_t form = options->json ? BENCH_JSON : options->csv ? BENCH_CSV : BENCH_TABLE;
    json_t *runs = json_array();
    attn_client_error_t error = {0};
    uint64_t good = 0;
    int code = CTL_OK;
    for (uint32_t i = 0; i < count && code == CTL_OK && !ctl_interrupted(); i++) {
        bench_result_t result;
        if (bench_load_run(setup, &points[i], &result, &error) != ATTN_OK) {
            code = ctl_fail(options, &error);
            break;
        }
        bench_report(form, setup->workload, &points[i], &result, i == 0, runs);
        good += answered(setup->workload, &result);
        error = result.first_error;
        bench_result_free(&result);
    }
    if (code == CTL_OK && good == 0 && error.error.status != ATTN_OK) {
        code = ctl_exit_code(error.error.status);
    }
    if (form == BENCH_JSON && json_array_size(runs) > 0) {
        json_t *root = json_pack("{s:s, s:s, s:O}", "version", ATTND_VERSION, "server", options->server, "runs", runs);
        json_dumpf(root, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
        putchar('\n');
        json_decref(root);
    }
    json_decref(runs);
    return code;
}

int ctl_bench(const ctl_options_t *options)
{
    attn_error_t error;
    bench_workload_t *workload = calloc(1, sizeof(*workload));
    bench_setup_t *setup = calloc(1, sizeof(*setup));
    bench_point_t points[POINTS_MAX];
    uint32_t count = 0;
    int code = CTL_OK;
    attn_client_t *client = NULL;
    attn_status_t status = ATTN_OK;
    if (workload == NULL || setup == NULL) {
        status = attn_error_set(&error, ATTN_ERR_NO_MEMORY, "no memory for a workload");
    } else if (options->json && options->csv) {
        status = attn_error_set(&error, ATTN_ERR_INVALID_ARGUMENT, "--json and --csv exclude each other");
    } else {
        status = ctl_priority_check(options, &error);
    }
    if (status == ATTN_OK) {
        status = points_make(options, points, &count, &error);
    }
    if (status == ATTN_OK) {
        status = bench_workload_open(options, workload, &error);
    }
    if (status == ATTN_OK && ctl_open(options, &client, &code)) { /* says what is wrong with an address, once */
        attn_client_close(client);
        status = bench_setup_open(options, workload, setup, &error);
        if (status == ATTN_OK) {
            code = points_run(options, setup, points, count);
            bench_setup_close(setup);
        }
    }
    free(setup);
    free(workload);
    return status == ATTN_OK ? code : ctl_fail_local(options, &error);
}
