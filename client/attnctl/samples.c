/* samples.c: see samples.h. Owns the list and the text that it was made from. */
#include "samples.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BOUNDS_MAX 64

/* "name{labels} value" or "name value": the parts, in place. False for comments and what is not a sample. */
static bool sample_split(char *line, ctl_sample_t *ret)
{
    char *brace = strchr(line, '{'), *space = strrchr(line, ' ');
    if (line[0] == '#' || space == NULL || space == line) {
        return false;
    }
    *space = '\0';
    *ret = (ctl_sample_t){.name = line, .labels = "", .text = space + 1, .value = strtod(space + 1, NULL)};
    if (brace != NULL && space[-1] == '}') {
        *brace = '\0';
        space[-1] = '\0';
        ret->labels = brace + 1;
    }
    return true;
}

attn_status_t ctl_samples_read(char *text, ctl_samples_t *ret, attn_error_t *err)
{
    size_t lines = 1;
    for (const char *at = text; *at != '\0'; at++) {
        lines += *at == '\n';
    }
    ctl_samples_t samples = {.samples = calloc(lines, sizeof(*samples.samples)), .text = text};
    if (samples.samples == NULL) {
        attn_client_text_free(text);
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for the server's metrics");
    }
    char *rest = NULL;
    for (char *line = strtok_r(text, "\n", &rest); line != NULL; line = strtok_r(NULL, "\n", &rest)) {
        samples.count += sample_split(line, &samples.samples[samples.count]);
    }
    *ret = samples;
    return ATTN_OK;
}

void ctl_samples_free(ctl_samples_t *samples)
{
    free(samples->samples);
    attn_client_text_free(samples->text);
    memset(samples, 0, sizeof(*samples));
}

bool ctl_sample_has(const ctl_sample_t *sample, const char *label)
{
    if (label == NULL || label[0] == '\0') {
        return true;
    }
    size_t size = strlen(label);
    for (const char *at = sample->labels; (at = strstr(at, label)) != NULL; at += size) {
        if ((at == sample->labels || at[-1] == ',') && (at[size] == ',' || at[size] == '\0')) {
            return true;
        }
    }
    return false;
}

void ctl_sample_label(const ctl_sample_t *sample, const char *name, char *ret, size_t capacity)
{
    size_t size = strlen(name);
    ret[0] = '\0';
    for (const char *at = sample->labels; (at = strstr(at, name)) != NULL; at += size) {
        if ((at == sample->labels || at[-1] == ',') && at[size] == '=' && at[size + 1] == '"') {
            const char *value = at + size + 2;
            snprintf(ret, capacity, "%.*s", (int)strcspn(value, "\""), value);
            return;
        }
    }
}

double ctl_samples_sum(const ctl_samples_t *samples, const char *name, const char *label)
{
    double sum = NAN;
    for (size_t i = 0; i < samples->count; i++) {
        const ctl_sample_t *sample = &samples->samples[i];
        if (strcmp(sample->name, name) == 0 && ctl_sample_has(sample, label)) {
            sum = isnan(sum) ? sample->value : sum + sample->value;
        }
    }
    return sum;
}

/* Cumulative counts by upper bound, summed over series; the bounds come in ascending order. */
typedef struct buckets {
    size_t count;
    double bound[BOUNDS_MAX], below[BOUNDS_MAX];
} buckets_t;

static void buckets_add(buckets_t *buckets, const ctl_samples_t *samples, const char *name, const char *label,
                        double sign)
{
    char full[128], bound_text[40];
    snprintf(full, sizeof(full), "%s_bucket", name);
    for (size_t i = 0; i < samples->count; i++) {
        const ctl_sample_t *sample = &samples->samples[i];
        if (strcmp(sample->name, full) != 0 || !ctl_sample_has(sample, label)) {
            continue;
        }
        ctl_sample_label(sample, "le", bound_text, sizeof(bound_text));
        double bound = strtod(bound_text, NULL); /* reads "+Inf" too */
        size_t at = 0;
        while (at < buckets->count && buckets->bound[at] < bound) {
            at++;
        }
        if (at == buckets->count || buckets->bound[at] != bound) {
            if (buckets->count == BOUNDS_MAX) {
                continue;
            }
            memmove(&buckets->bound[at + 1], &buckets->bound[at], (buckets->count - at) * sizeof(double));
            memmove(&buckets->below[at + 1], &buckets->below[at], (buckets->count - at) * sizeof(double));
            buckets->bound[at] = bound;
            buckets->below[at] = 0;
            buckets->count++;
        }
        buckets->below[at] += sign * sample->value;
    }
}

double ctl_samples_quantile(const ctl_samples_t *now, const ctl_samples_t *before, const char *name, const char *label,
                            double q)
{
    buckets_t buckets = {0};
    buckets_add(&buckets, now, name, label, 1);
    if (before != NULL) {
        buckets_add(&buckets, before, name, label, -1);
    }
    double total = buckets.count > 0 ? buckets.below[buckets.count - 1] : 0;
    if (!(total > 0)) {
        return NAN;
    }
    size_t at = 0;
    while (at + 1 < buckets.count && buckets.below[at] < q * total) {
        at++;
    }
    double lower = at > 0 ? buckets.bound[at - 1] : 0, under = at > 0 ? buckets.below[at - 1] : 0;
    double in = buckets.below[at] - under;
    if (isinf(buckets.bound[at]) || in <= 0) {
        return lower;
    }
    return lower + (buckets.bound[at] - lower) * (q * total - under) / in;
}
