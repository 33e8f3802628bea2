/* load.h: runs one load against the daemon and counts what came of it. */
#ifndef ATTNCTL_BENCH_LOAD_H
#define ATTNCTL_BENCH_LOAD_H

#include "door.h"
#include "histogram.h"
#include "plan.h"

typedef struct bench_point {
    const bench_door_t *door;
    bench_arrivals_t arrivals;
    double rate; /* arrivals per second, unless closed */
    uint32_t connections, depth;
    double warmup_s, seconds;
    uint64_t requests; /* measured requests; 0 = as many as `seconds` holds */
    uint64_t seed;
} bench_point_t;

#define BENCH_STATUS_SPAN 64 /* statuses are 0 to -45 */

/* What came of the requests of one class. Latency is of requests that were answered with OK: from the moment at which
 * the plan wanted the request sent (open), or from its sending (closed), until its last byte had come. */
typedef struct bench_tally {
    bench_histogram_t latency;
    uint64_t failed[BENCH_STATUS_SPAN]; /* by -status */
    double queue_us, kernel_us, batch;  /* sums over those answered with OK */
} bench_tally_t;

typedef struct bench_result {
    double window_s;        /* from the end of the warm-up to the last answer, at least as long as was asked */
    bench_tally_t *classes; /* one per class */
    bench_histogram_t late; /* open: how much later than planned requests were sent while a connection was free */
    uint64_t waited;        /* open: requests whose time came while every connection was busy */
    uint64_t unsent;        /* open: requests that were given up because the backlog did not end */
    bool interrupted;       /* by SIGINT; what was measured until then is here */
    attn_client_error_t first_error; /* error.status ATTN_OK when nothing failed */
} bench_result_t;

/* Fails only when no load could be made at all; requests that fail are counted. Free *ret with bench_result_free(). */
attn_status_t bench_load_run(const bench_setup_t *setup, const bench_point_t *point, bench_result_t *ret,
                             attn_client_error_t *err);
void bench_result_free(bench_result_t *result);

uint64_t bench_tally_failed(const bench_tally_t *tally); /* of every status */
void bench_tally_merge(bench_tally_t *into, const bench_tally_t *from);

#endif
