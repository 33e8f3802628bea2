/* cmd_top.c: attnctl top: what the daemon does, from the difference of its metrics between two looks. A metric that
 * this daemon does not have shows as "-". One thread. */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "samples.h"

#define LINES_MAX 64 /* devices, and variants, that are shown */

typedef struct look {
    ctl_samples_t now, before;
    double seconds; /* between them */
} look_t;

/* How one number is got from the metrics. */
typedef enum kind { LEVEL, RATE, P50, P99, SHARE, MEAN } kind_t;
typedef struct figure {
    const char *key, *heading; /* in JSON; in the table, with its unit */
    const char *metric;
    kind_t kind;
    const char *label; /* that the samples must have; NULL = all */
    double scale;      /* from the metric's unit to the heading's */
} figure_t;

static const figure_t totals[] = {
    {"requests_per_s", "requests/s", "attnd_attention_requests_total", RATE, NULL, 1},
    {"answered_per_s", "answered/s", "attnd_attention_requests_total", RATE, "code=\"OK\"", 1},
    {"refused_per_s", "refused/s", "attnd_attention_requests_total", RATE, "code=\"UNAVAILABLE\"", 1},
    {"queue_length", "queued", "attnd_queue_length", LEVEL, NULL, 1},
    {"running", "running", "attnd_running", LEVEL, NULL, 1},
    {"http_connections", "http conns", "attnd_http_connections", LEVEL, NULL, 1},
    {"socket_connections", "socket conns", "attnd_socket_connections", LEVEL, NULL, 1},
    {"queue_p50_us", "queue p50 us", "attnd_queue_seconds", P50, NULL, 1e6},
    {"queue_p99_us", "queue p99 us", "attnd_queue_seconds", P99, NULL, 1e6},
    {"group_mean", "group mean", "attnd_group_size", MEAN, NULL, 1},
    {"tokens_per_s", "tokens/s", "attnd_device_tokens_total", RATE, NULL, 1},
    {"tflops", "TFLOP/s", "attnd_device_flops_total", RATE, NULL, 1e-12},
    {"input_used_mib", "input MiB", "attnd_arena_used_bytes", LEVEL, "arena=\"input\"", 1.0 / 1048576},
    {"output_used_mib", "output MiB", "attnd_arena_used_bytes", LEVEL, "arena=\"output\"", 1.0 / 1048576},
};

static const figure_t of_door[] = {
    {"requests_per_s", "requests/s", "attnd_door_requests_total", RATE, NULL, 1},
    {"answered_per_s", "answered/s", "attnd_door_requests_total", RATE, "code=\"OK\"", 1},
    {"p50_us", "p50 us", "attnd_door_seconds", P50, NULL, 1e6},
    {"p99_us", "p99 us", "attnd_door_seconds", P99, NULL, 1e6},
};

static const figure_t of_device[] = {
    {"ready", "ready", "attnd_device_ready", LEVEL, NULL, 1},
    {"restarts", "restarts", "attnd_worker_restarts_total", LEVEL, NULL, 1},
    {"in_flight", "in flight", "attnd_device_groups_in_flight", LEVEL, NULL, 1},
    {"requests_per_s", "requests/s", "attnd_device_requests_total", RATE, NULL, 1},
    {"groups_per_s", "groups/s", "attnd_device_groups_total", RATE, NULL, 1},
    {"launches_per_s", "launches/s", "attnd_device_launches_total", RATE, NULL, 1},
    {"tokens_per_s", "tokens/s", "attnd_device_tokens_total", RATE, NULL, 1},
    {"tflops", "TFLOP/s", "attnd_device_flops_total", RATE, NULL, 1e-12},
    {"link_in_mb_per_s", "in MB/s", "attnd_link_bytes_total", RATE, "direction=\"in\"", 1e-6},
    {"link_out_mb_per_s", "out MB/s", "attnd_link_bytes_total", RATE, "direction=\"out\"", 1e-6},
    {"busy_percent", "busy %", "attnd_device_busy_seconds_total", SHARE, NULL, 100},
};

static const figure_t of_variant[] = {
    {"answered_per_s", "answered/s", "attnd_attention_requests_total", RATE, "code=\"OK\"", 1},
    {"kernel_p50_us", "kernel p50 us", "attnd_kernel_seconds", P50, NULL, 1e6},
    {"kernel_p99_us", "kernel p99 us", "attnd_kernel_seconds", P99, NULL, 1e6},
};
#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

/* Sum over the samples that have both labels. */
static double sum_of(const ctl_samples_t *samples, const char *name, const char *one, const char *two)
{
    double sum = NAN;
    for (size_t i = 0; i < samples->count; i++) {
        const ctl_sample_t *sample = &samples->samples[i];
        if (strcmp(sample->name, name) == 0 && ctl_sample_has(sample, one) && ctl_sample_has(sample, two)) {
            sum = isnan(sum) ? sample->value : sum + sample->value;
        }
    }
    return sum;
}

static double change(const look_t *look, const char *name, const char *one, const char *two)
{
    double now = sum_of(&look->now, name, one, two), before = sum_of(&look->before, name, one, two);
    return now - (isnan(before) ? 0 : before); /* a series begins with its first event */
}

/* Of the samples with `label`; NAN when this daemon does not say. */
static double figure_value(const look_t *look, const figure_t *figure, const char *label)
{
    char part[128];
    const char *narrow = label != NULL ? label : figure->label;
    switch (figure->kind) {
    case LEVEL:
        return sum_of(&look->now, figure->metric, figure->label, label) * figure->scale;
    case RATE:
    case SHARE:
        return change(look, figure->metric, figure->label, label) / look->seconds * figure->scale;
    case P50:
    case P99:
        return ctl_samples_quantile(&look->now, &look->before, figure->metric, narrow,
                                    figure->kind == P50 ? 0.5 : 0.99) *
               figure->scale;
    case MEAN:
        snprintf(part, sizeof(part), "%s_count", figure->metric);
        double count = change(look, part, figure->label, label);
        snprintf(part, sizeof(part), "%s_sum", figure->metric);
        return count > 0 ? change(look, part, figure->label, label) / count * figure->scale : NAN;
    }
    return NAN;
}

/* The values of `label` among the samples of `metric`, each once, as `label="value"`. */
static size_t lines_find(const ctl_samples_t *samples, const char *metric, const char *label, char ret[][96],
                         size_t capacity)
{
    size_t count = 0;
    for (size_t i = 0; i < samples->count && count < capacity; i++) {
        char value[80], line[96];
        if (strcmp(samples->samples[i].name, metric) != 0) {
            continue;
        }
        ctl_sample_label(&samples->samples[i], label, value, sizeof(value));
        snprintf(line, sizeof(line), "%s=\"%s\"", label, value);
        bool known = false;
        for (size_t k = 0; k < count; k++) {
            known = known || strcmp(ret[k], line) == 0;
        }
        if (!known) {
            memcpy(ret[count++], line, sizeof(line));
        }
    }
    return count;
}

static void value_print(double value, int width)
{
    if (isnan(value)) {
        printf("%*s", width, "-");
    } else if (value >= 1e6) {
        printf("%*.3g", width, value);
    } else {
        printf("%*.*f", width, value >= 100 || value == floor(value) ? 0 : value >= 1 ? 1 : 3, value);
    }
}

static void figures_json(const look_t *look, const figure_t *figures, size_t count, const char *label, json_t *into)
{
    for (size_t i = 0; i < count; i++) {
        double value = figure_value(look, &figures[i], label);
        json_object_set_new(into, figures[i].key, isfinite(value) ? json_real(value) : json_null());
    }
}

/* A table with a line per value of `label`. */
static void lines_print(const look_t *look, const figure_t *figures, size_t count, const char *metric,
                        const char *label)
{
    static char lines[LINES_MAX][96];
    size_t line_count = lines_find(&look->now, metric, label, lines, LINES_MAX);
    printf("\n%-42s", label);
    for (size_t i = 0; i < count; i++) {
        printf(" %*s", (int)strlen(figures[i].heading) > 9 ? (int)strlen(figures[i].heading) : 9, figures[i].heading);
    }
    putchar('\n');
    for (size_t k = 0; k < line_count; k++) {
        const char *name = lines[k] + strlen(label) + 2;
        printf("%-42.*s", (int)strlen(name) - 1, name);
        for (size_t i = 0; i < count; i++) {
            putchar(' ');
            value_print(figure_value(look, &figures[i], lines[k]),
                        (int)strlen(figures[i].heading) > 9 ? (int)strlen(figures[i].heading) : 9);
        }
        putchar('\n');
    }
}

static json_t *lines_json(const look_t *look, const figure_t *figures, size_t count, const char *metric,
                          const char *label)
{
    static char lines[LINES_MAX][96];
    size_t line_count = lines_find(&look->now, metric, label, lines, LINES_MAX);
    json_t *list = json_array();
    for (size_t k = 0; k < line_count; k++) {
        const char *name = lines[k] + strlen(label) + 2;
        json_t *line = json_object();
        json_object_set_new(line, label, json_stringn(name, strlen(name) - 1));
        figures_json(look, figures, count, lines[k], line);
        json_array_append_new(list, line);
    }
    return list;
}

static void group_sizes_print(const look_t *look)
{
    double below = 0, total = change(look, "attnd_group_size_count", NULL, NULL);
    if (!(total > 0)) {
        return;
    }
    static char bounds[LINES_MAX][96];
    size_t count = lines_find(&look->now, "attnd_group_size_bucket", "le", bounds, LINES_MAX);
    printf("groups of");
    for (size_t i = 0; i < count; i++) { /* the daemon writes them in ascending order */
        double until = change(look, "attnd_group_size_bucket", bounds[i], NULL);
        if (until > below) {
            printf("  <=%.*s: %.1f%%", (int)strcspn(bounds[i] + 4, "\""), bounds[i] + 4, (until - below) / total * 100);
        }
        below = until;
    }
    putchar('\n');
}

static void look_print(const ctl_options_t *options, const look_t *look)
{
    if (options->json) {
        json_t *root = json_pack("{s:f}", "seconds", look->seconds);
        figures_json(look, totals, COUNT_OF(totals), NULL, root);
        json_object_set_new(root, "doors",
                            lines_json(look, of_door, COUNT_OF(of_door), "attnd_door_requests_total", "door"));
        json_object_set_new(root, "devices",
                            lines_json(look, of_device, COUNT_OF(of_device), "attnd_device_ready", "device"));
        json_object_set_new(
            root, "variants",
            lines_json(look, of_variant, COUNT_OF(of_variant), "attnd_attention_requests_total", "variant"));
        json_dumpf(root, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
        putchar('\n');
        json_decref(root);
        fflush(stdout);
        return;
    }
    if (isatty(STDOUT_FILENO)) {
        fputs("\033[H\033[2J", stdout);
    }
    double ready = ctl_samples_sum(&look->now, "attnd_ready", NULL);
    printf("attnd at %s, %s, over the last %.1f s\n\n", options->server, ready > 0 ? "ready" : "not ready",
           look->seconds);
    for (size_t i = 0; i < COUNT_OF(totals); i++) {
        printf("%-14s", totals[i].heading);
        value_print(figure_value(look, &totals[i], NULL), 10);
        fputs(i % 4 == 3 ? "\n" : "    ", stdout);
    }
    group_sizes_print(look);
    lines_print(look, of_door, COUNT_OF(of_door), "attnd_door_requests_total", "door");
    lines_print(look, of_device, COUNT_OF(of_device), "attnd_device_ready", "device");
    lines_print(look, of_variant, COUNT_OF(of_variant), "attnd_attention_requests_total", "variant");
    fflush(stdout);
}

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static attn_status_t samples_take(attn_client_t *client, ctl_samples_t *ret, double *ret_when, attn_client_error_t *err)
{
    char *text = NULL;
    attn_status_t status = attn_client_stats(client, &text, err);
    *ret_when = now_s();
    if (status != ATTN_OK) {
        return status;
    }
    memset(err, 0, sizeof(*err));
    return ctl_samples_read(text, ret, &err->error);
}

int ctl_top(const ctl_options_t *options)
{
    attn_client_t *client = NULL;
    attn_client_error_t error;
    look_t look = {0};
    double interval = options->interval > 0 ? options->interval : 2, before, now;
    int code = CTL_OK;
    if (!ctl_open(options, &client, &code)) {
        return code;
    }
    attn_status_t status = samples_take(client, &look.before, &before, &error);
    for (uint64_t i = 0; status == ATTN_OK && (options->count == 0 || i < options->count); i++) {
        struct timespec nap = {(time_t)interval, (long)(fmod(interval, 1) * 1e9)};
        if (nanosleep(&nap, NULL) != 0 || ctl_interrupted()) {
            break;
        }
        status = samples_take(client, &look.now, &now, &error);
        if (status == ATTN_OK) {
            look.seconds = now - before;
            look_print(options, &look);
            ctl_samples_free(&look.before);
            look.before = look.now;
            look.now = (ctl_samples_t){0};
            before = now;
        }
    }
    if (status != ATTN_OK) {
        code = ctl_fail(options, &error);
    }
    ctl_samples_free(&look.before);
    attn_client_close(client);
    return code;
}
