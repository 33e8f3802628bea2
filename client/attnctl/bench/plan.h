/* plan.h: which request comes when: a reproducible sequence of arrivals. One thread at a time. */
#ifndef ATTNCTL_BENCH_PLAN_H
#define ATTNCTL_BENCH_PLAN_H

#include "workload.h"

typedef enum bench_arrivals { BENCH_CLOSED, BENCH_POISSON, BENCH_UNIFORM } bench_arrivals_t;

typedef struct bench_plan {
    uint64_t times[4], picks[4]; /* two streams of random numbers, so that the classes do not depend on the rate */
    bench_arrivals_t arrivals;
    double rate, now_s; /* arrivals per second; when the last one was, in seconds from the beginning */
    uint32_t count;
    double bound[BENCH_CLASS_MAX]; /* cumulative weights, the last one 1 */
} bench_plan_t;

typedef struct bench_arrival {
    double at_s;     /* from the beginning; 0 in a closed loop, where the caller decides */
    uint32_t picked; /* the class */
} bench_arrival_t;

/* `rate` is looked at unless closed. The same seed gives the same sequence everywhere. */
void bench_plan_init(bench_plan_t *plan, const bench_workload_t *workload, bench_arrivals_t arrivals, double rate,
                     uint64_t seed);
bench_arrival_t bench_plan_next(bench_plan_t *plan);

#endif
