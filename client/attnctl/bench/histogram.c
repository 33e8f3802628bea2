/* histogram.c: see histogram.h. Pure; owns nothing. */
#include "histogram.h"

#include <math.h>

#define SUB_COUNT (1 << BENCH_SUB_BITS)

/* Values below 2 * SUB_COUNT have a bucket of their own; above, the leading SUB_BITS + 1 bits choose it. */
static uint32_t bucket_of(int64_t ns)
{
    uint64_t value = (uint64_t)ns;
    int top = 63 - __builtin_clzll(value | 1);
    int shift = top > BENCH_SUB_BITS ? top - BENCH_SUB_BITS : 0;
    return ((uint32_t)shift << BENCH_SUB_BITS) + (uint32_t)(value >> shift);
}

/* The largest value that falls into the bucket. */
static int64_t bucket_top(uint32_t index)
{
    uint32_t shift = index < 2 * SUB_COUNT ? 0 : (index >> BENCH_SUB_BITS) - 1;
    uint64_t lead = index - (shift << BENCH_SUB_BITS);
    return (int64_t)(((lead + 1) << shift) - 1);
}

void bench_histogram_record(bench_histogram_t *histogram, int64_t ns)
{
    const int64_t most = (INT64_C(1) << BENCH_VALUE_BITS) - 1;
    ns = ns < 0 ? 0 : ns > most ? most : ns;
    if (histogram->count == 0 || ns < histogram->min) {
        histogram->min = ns;
    }
    if (histogram->count == 0 || ns > histogram->max) {
        histogram->max = ns;
    }
    histogram->count++;
    histogram->sum += (double)ns;
    histogram->bucket[bucket_of(ns)]++;
}

void bench_histogram_merge(bench_histogram_t *into, const bench_histogram_t *from)
{
    if (from->count == 0) {
        return;
    }
    if (into->count == 0 || from->min < into->min) {
        into->min = from->min;
    }
    if (into->count == 0 || from->max > into->max) {
        into->max = from->max;
    }
    into->count += from->count;
    into->sum += from->sum;
    for (uint32_t i = 0; i < BENCH_BUCKETS; i++) {
        into->bucket[i] += from->bucket[i];
    }
}

int64_t bench_histogram_quantile(const bench_histogram_t *histogram, double q)
{
    if (histogram->count == 0) {
        return 0;
    }
    double wanted = ceil(q * (double)histogram->count);
    uint64_t rank = wanted < 1 ? 1 : wanted >= (double)histogram->count ? histogram->count : (uint64_t)wanted, seen = 0;
    if (rank == histogram->count) {
        return histogram->max;
    }
    for (uint32_t i = 0; i < BENCH_BUCKETS; i++) {
        seen += histogram->bucket[i];
        if (seen >= rank) {
            int64_t top = bucket_top(i);
            return top < histogram->max ? top : histogram->max;
        }
    }
    return histogram->max;
}

double bench_histogram_mean(const bench_histogram_t *histogram)
{
    return histogram->count > 0 ? histogram->sum / (double)histogram->count : 0;
}
