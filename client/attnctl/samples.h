/* samples.h: Prometheus text as a list of samples, and what `stats` and `top` ask of it. One thread. */
#ifndef ATTNCTL_SAMPLES_H
#define ATTNCTL_SAMPLES_H

#include "ctl.h"

typedef struct ctl_sample {
    const char *name, *labels; /* labels as they stand between the braces; "" when there are none */
    const char *text;          /* the value as the server wrote it */
    double value;
} ctl_sample_t;

typedef struct ctl_samples {
    size_t count;
    ctl_sample_t *samples;
    char *text; /* what the samples point into */
} ctl_samples_t;

/* Takes `text` (from attn_client_stats()), which ctl_samples_free() frees. Comments and lines that are no sample are
 * left out. NO_MEMORY. */
attn_status_t ctl_samples_read(char *text, ctl_samples_t *ret, attn_error_t *err);
void ctl_samples_free(ctl_samples_t *samples);

/* Whether labels hold this one, given as `name="value"`; NULL and "" are in every sample. */
bool ctl_sample_has(const ctl_sample_t *sample, const char *label);
/* The value of a label; "" when it is not there. */
void ctl_sample_label(const ctl_sample_t *sample, const char *name, char *ret, size_t capacity);

/* Sum over the samples of this name with this label; NAN when there is none. */
double ctl_samples_sum(const ctl_samples_t *samples, const char *name, const char *label);

/* A quantile of the histogram `name` (without _bucket) over its samples with this label, of what was observed since
 * `before` (NULL: ever): interpolated within its bucket, as histogram_quantile() of Prometheus does. The lower bound of
 * the last bucket when it lies in that; NAN when nothing was observed. */
double ctl_samples_quantile(const ctl_samples_t *now, const ctl_samples_t *before, const char *name, const char *label,
                            double q);

#endif
