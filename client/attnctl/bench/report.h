/* report.h: what came of loads, as a table, as CSV and as JSON. */
#ifndef ATTNCTL_BENCH_REPORT_H
#define ATTNCTL_BENCH_REPORT_H

#include <jansson.h>

#include "load.h"

typedef enum bench_form { BENCH_TABLE, BENCH_CSV, BENCH_JSON } bench_form_t;

/* Prints one load; `first`: it is the first of the list. With BENCH_JSON it is appended to `runs` instead. */
void bench_report(bench_form_t form, const bench_workload_t *workload, const bench_point_t *point,
                  const bench_result_t *result, bool first, json_t *runs);

#endif
