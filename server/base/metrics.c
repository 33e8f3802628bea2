/* base/metrics.c: see metrics.h. The list of series is guarded by one mutex; values are atomics. */
#include "base/metrics.h"

#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define SERIES_MAX 4096

typedef enum series_kind { SERIES_COUNTER, SERIES_SECONDS, SERIES_TIMES, SERIES_SIZES } series_kind_t;

typedef struct series {
    struct series *next;
    const char *name, *help;
    char *labels;
    series_kind_t kind;
    union {
        attn_counter_t counter;
        attn_histogram_t histogram;
    } value;
} series_t;

static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static series_t *list_first, *list_last;
static unsigned list_count;
static series_t overflow; /* where counts go that have no series */

static const struct {
    int64_t ns;
    const char *text;
} bounds[ATTN_HISTOGRAM_BUCKETS - 1] = {
    {10000, "1e-05"},    {25000, "2.5e-05"},  {50000, "5e-05"},    {100000, "0.0001"},  {250000, "0.00025"},
    {500000, "0.0005"},  {1000000, "0.001"},  {2500000, "0.0025"}, {5000000, "0.005"},  {10000000, "0.01"},
    {25000000, "0.025"}, {50000000, "0.05"},  {100000000, "0.1"},  {250000000, "0.25"}, {500000000, "0.5"},
    {1000000000, "1"},   {2500000000, "2.5"}, {5000000000, "5"},   {10000000000, "10"},
};

static series_t *find(const char *name, const char *help, const char *labels, series_kind_t kind)
{
    pthread_mutex_lock(&list_lock);
    series_t *series = list_first;
    while (series != NULL &&
           (series->kind != kind || strcmp(series->name, name) != 0 || strcmp(series->labels, labels) != 0)) {
        series = series->next;
    }
    if (series == NULL && list_count < SERIES_MAX) {
        series = calloc(1, sizeof *series);
        char *copy = strdup(labels);
        if (series != NULL && copy != NULL) {
            series->name = name;
            series->help = help;
            series->labels = copy;
            series->kind = kind;
            if (list_last == NULL) {
                list_first = series;
            } else {
                list_last->next = series;
            }
            list_last = series;
            list_count++;
        } else {
            free(series);
            free(copy);
            series = NULL;
        }
    }
    pthread_mutex_unlock(&list_lock);
    return series != NULL ? series : &overflow;
}

attn_counter_t *attn_metrics_counter(const char *name, const char *help, const char *labels)
{
    return &find(name, help, labels, SERIES_COUNTER)->value.counter;
}

attn_histogram_t *attn_metrics_histogram(const char *name, const char *help, const char *labels)
{
    return &find(name, help, labels, SERIES_TIMES)->value.histogram;
}

attn_histogram_t *attn_metrics_sizes(const char *name, const char *help, const char *labels)
{
    return &find(name, help, labels, SERIES_SIZES)->value.histogram;
}

attn_counter_t *attn_metrics_seconds(const char *name, const char *help, const char *labels)
{
    return &find(name, help, labels, SERIES_SECONDS)->value.counter;
}

static void observe(attn_histogram_t *histogram, unsigned bucket, uint64_t value)
{
    atomic_fetch_add_explicit(&histogram->bucket[bucket], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&histogram->sum, value, memory_order_relaxed);
}

void attn_histogram_observe_size(attn_histogram_t *histogram, uint64_t size)
{
    unsigned i = 0;
    while (i < ATTN_HISTOGRAM_BUCKETS - 1 && size > UINT64_C(1) << i) {
        i++;
    }
    observe(histogram, i, size);
}

void attn_histogram_observe_ns(attn_histogram_t *histogram, int64_t ns)
{
    ns = ns < 0 ? 0 : ns;
    unsigned i = 0;
    while (i < ATTN_HISTOGRAM_BUCKETS - 1 && ns > bounds[i].ns) {
        i++;
    }
    observe(histogram, i, (uint64_t)ns);
}

void attn_metrics_write_head(FILE *out, const char *name, const char *type, const char *help)
{
    fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

void attn_metrics_write_value(FILE *out, const char *name, const char *labels, double value)
{
    const char *open = labels[0] != '\0' ? "{" : "", *close = labels[0] != '\0' ? "}" : "";
    if (value == floor(value) && fabs(value) < 9e15) {
        fprintf(out, "%s%s%s%s %.0f\n", name, open, labels, close, value);
    } else {
        fprintf(out, "%s%s%s%s %.9g\n", name, open, labels, close, value);
    }
}

static bool is_histogram(const series_t *series)
{
    return series->kind == SERIES_TIMES || series->kind == SERIES_SIZES;
}

static void write_histogram(FILE *out, series_t *series)
{
    const char *comma = series->labels[0] != '\0' ? "," : "";
    uint64_t total = 0;
    for (unsigned i = 0; i < ATTN_HISTOGRAM_BUCKETS; i++) {
        total += atomic_load_explicit(&series->value.histogram.bucket[i], memory_order_relaxed);
        char bound[16];
        if (i == ATTN_HISTOGRAM_BUCKETS - 1)
            snprintf(bound, sizeof bound, "+Inf");
        else if (series->kind == SERIES_SIZES)
            snprintf(bound, sizeof bound, "%u", 1u << i);
        else
            snprintf(bound, sizeof bound, "%s", bounds[i].text);
        fprintf(out, "%s_bucket{%s%sle=\"%s\"} %" PRIu64 "\n", series->name, series->labels, comma, bound, total);
    }
    const char *open = series->labels[0] != '\0' ? "{" : "", *close = series->labels[0] != '\0' ? "}" : "";
    uint64_t sum = atomic_load_explicit(&series->value.histogram.sum, memory_order_relaxed);
    double shown = series->kind == SERIES_SIZES ? (double)sum : (double)sum * 1e-9;
    fprintf(out, "%s_sum%s%s%s %.9f\n", series->name, open, series->labels, close, shown);
    fprintf(out, "%s_count%s%s%s %" PRIu64 "\n", series->name, open, series->labels, close, total);
}

void attn_metrics_render(FILE *out)
{
    /* Series are only ever appended and their heads never change, so the list can be walked without the mutex as far
     * as it reached when the walk began. */
    pthread_mutex_lock(&list_lock);
    series_t *first = list_first, *last = list_last;
    pthread_mutex_unlock(&list_lock);
    for (series_t *family = first; family != NULL; family = family == last ? NULL : family->next) {
        bool begun = false; /* an earlier series of the same family has written them all */
        for (series_t *s = first; s != family && !begun; s = s->next) {
            begun = strcmp(s->name, family->name) == 0;
        }
        if (begun) {
            continue;
        }
        attn_metrics_write_head(out, family->name, is_histogram(family) ? "histogram" : "counter", family->help);
        for (series_t *s = family; s != NULL; s = s == last ? NULL : s->next) {
            if (strcmp(s->name, family->name) != 0) {
                continue;
            }
            if (is_histogram(s)) {
                write_histogram(out, s);
            } else {
                double value = (double)atomic_load_explicit(&s->value.counter.value, memory_order_relaxed);
                attn_metrics_write_value(out, s->name, s->labels, s->kind == SERIES_SECONDS ? value * 1e-9 : value);
            }
        }
    }
}
