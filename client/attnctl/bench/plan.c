/* plan.c: arrivals from two streams of xoshiro256** (Blackman and Vigna, prng.di.unimi.it), seeded by splitmix64 as
 * its authors advise. Pure; owns nothing. */
#include "plan.h"

#include <math.h>

static uint64_t splitmix(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static uint64_t rotate(uint64_t x, int by)
{
    return x << by | x >> (64 - by);
}

/* Uniform in [0, 1), 53 bits. */
static double draw(uint64_t s[4])
{
    uint64_t result = rotate(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate(s[3], 45);
    return (double)(result >> 11) * 0x1p-53;
}

void bench_plan_init(bench_plan_t *plan, const bench_workload_t *workload, bench_arrivals_t arrivals, double rate,
                     uint64_t seed)
{
    *plan = (bench_plan_t){.arrivals = arrivals, .rate = rate, .count = workload->count};
    for (int i = 0; i < 4; i++) {
        plan->times[i] = splitmix(&seed);
    }
    for (int i = 0; i < 4; i++) {
        plan->picks[i] = splitmix(&seed);
    }
    double sum = 0, total = 0;
    for (uint32_t i = 0; i < workload->count; i++) {
        total += workload->classes[i].weight;
    }
    for (uint32_t i = 0; i < workload->count; i++) {
        sum += workload->classes[i].weight;
        plan->bound[i] = sum / total;
    }
    plan->bound[workload->count - 1] = 1;
}

bench_arrival_t bench_plan_next(bench_plan_t *plan)
{
    bench_arrival_t arrival = {0};
    double pick = draw(plan->picks);
    while (pick >= plan->bound[arrival.picked]) {
        arrival.picked++;
    }
    if (plan->arrivals != BENCH_CLOSED) {
        plan->now_s += plan->arrivals == BENCH_POISSON ? -log1p(-draw(plan->times)) / plan->rate : 1 / plan->rate;
        arrival.at_s = plan->now_s;
    }
    return arrival;
}
