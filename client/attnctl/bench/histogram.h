/* histogram.h: a histogram of latencies with a bounded relative error, in the manner of HdrHistogram: 256 buckets per
 * power of two, so that a quantile is never below the true one and at most 0.4 % above. Fixed size, no allocation; one
 * thread at a time. Our own hundred lines, because the packaged library brings zlib for a log format. */
#ifndef ATTNCTL_BENCH_HISTOGRAM_H
#define ATTNCTL_BENCH_HISTOGRAM_H

#include <stdint.h>

#define BENCH_SUB_BITS 8    /* 2^8 buckets per power of two */
#define BENCH_VALUE_BITS 44 /* 2^44 ns are 4.9 hours; longer values count as that */
#define BENCH_BUCKETS (((BENCH_VALUE_BITS - BENCH_SUB_BITS) << BENCH_SUB_BITS) + (1 << BENCH_SUB_BITS))

typedef struct bench_histogram {
    uint64_t count;
    int64_t min, max; /* exact; meaningless while count is 0 */
    double sum;
    uint64_t bucket[BENCH_BUCKETS];
} bench_histogram_t;

/* Zeroed memory is an empty histogram. Negative values count as 0. */
void bench_histogram_record(bench_histogram_t *histogram, int64_t ns);
void bench_histogram_merge(bench_histogram_t *into, const bench_histogram_t *from);

/* The smallest recorded value (rounded up as said above) that at least the share q of the values do not exceed, for q
 * in 0..1; 0 when empty. */
int64_t bench_histogram_quantile(const bench_histogram_t *histogram, double q);
double bench_histogram_mean(const bench_histogram_t *histogram); /* 0 when empty */

#endif
