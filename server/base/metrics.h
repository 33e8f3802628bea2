/* base/metrics.h: counters and histograms, and the Prometheus text that shows them.
 *
 * A series is found once by name and labels (a mutex, a short list) and kept by the caller; counting is one relaxed
 * atomic addition from any thread. Series live as long as the process. Gauges are not kept: whoever renders asks the
 * owner of the state and writes the value. */
#ifndef ATTND_BASE_METRICS_H
#define ATTND_BASE_METRICS_H

#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>

typedef struct attn_counter {
    _Atomic uint64_t value;
} attn_counter_t;

/* Upper bounds in seconds: 10 µs to 10 s, three per decade, and +Inf. */
#define ATTN_HISTOGRAM_BUCKETS 20
typedef struct attn_histogram {
    _Atomic uint64_t bucket[ATTN_HISTOGRAM_BUCKETS];
    _Atomic uint64_t sum; /* nanoseconds, or sizes */
} attn_histogram_t;

/* Upper bounds of sizes: 1, 2, 4 … 2^18, and +Inf, in the same buckets. */

/* The series `name{labels}`; made on first use. name and help are static strings; `labels` ("code=\"200\"" or "") is
 * copied. Past 4096 series, and when memory is short, a common nameless series is returned: counting never fails. */
attn_counter_t *attn_metrics_counter(const char *name, const char *help, const char *labels);
attn_histogram_t *attn_metrics_histogram(const char *name, const char *help, const char *labels);
attn_histogram_t *attn_metrics_sizes(const char *name, const char *help, const char *labels); /* of sizes */
attn_counter_t *attn_metrics_seconds(const char *name, const char *help, const char *labels); /* counts ns, shows s */

static inline void attn_counter_add(attn_counter_t *counter, uint64_t n)
{
    atomic_fetch_add_explicit(&counter->value, n, memory_order_relaxed);
}
void attn_histogram_observe_ns(attn_histogram_t *histogram, int64_t ns); /* negative counts as 0 */
void attn_histogram_observe_size(attn_histogram_t *histogram, uint64_t size);

/* Every series, families together in the order in which they were made. */
void attn_metrics_render(FILE *out);

/* One family of gauges (or of counters that are kept elsewhere): its head, then its values. */
void attn_metrics_write_head(FILE *out, const char *name, const char *type, const char *help);
void attn_metrics_write_value(FILE *out, const char *name, const char *labels, double value);

#endif
