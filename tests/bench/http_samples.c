/* tests/bench/http_samples.c: see http_samples.h. */
#include "http_samples.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SLOW 0.01 /* of all requests */

static const struct {
    const char *name, *key; /* of the answer's metadata; NULL: measured or computed here */
} parts[SAMPLE_PARTS] = {
    [SAMPLE_SENDING] = {"sending_us", NULL},
    [SAMPLE_WAITING] = {"waiting_us", NULL},
    [SAMPLE_RECEIVING] = {"receiving_us", NULL},
    [SAMPLE_DOOR] = {"door_us", NULL},
    [SAMPLE_TOTAL] = {"total_us", "\"total_us\":\""},
    [SAMPLE_QUEUE] = {"queue_us", "\"queue_us\":\""},
    [SAMPLE_COPY_IN] = {"copy_in_us", "\"copy_in_us\":\""},
    [SAMPLE_KERNEL] = {"kernel_us", "\"kernel_us\":\""},
    [SAMPLE_COPY_OUT] = {"copy_out_us", "\"copy_out_us\":\""},
    [SAMPLE_BATCH_SIZE] = {"batch_size", "\"batch_size\":\""},
};

bool samples_add(samples_t *samples, const sample_t *sample)
{
    if (samples->count == samples->room) {
        size_t room = samples->room ? 2 * samples->room : 16384;
        sample_t *grown = realloc(samples->sample, room * sizeof *grown);
        if (grown == NULL)
            return false;
        samples->sample = grown;
        samples->room = room;
    }
    samples->sample[samples->count++] = *sample;
    return true;
}

void sample_read_answer(sample_t *sample, const char *text, size_t length)
{
    sample->told = true;
    for (int i = 0; i < SAMPLE_PARTS; i++) {
        if (parts[i].key == NULL)
            continue;
        size_t key_length = strlen(parts[i].key);
        const char *at = memmem(text, length, parts[i].key, key_length);
        sample->told = sample->told && at != NULL;
        sample->part[i] = at != NULL ? strtof(at + key_length, NULL) : 0;
    }
}

static int by_latency(const void *a, const void *b)
{
    float x = ((const sample_t *)a)->latency_us, y = ((const sample_t *)b)->latency_us;
    return x < y ? -1 : x > y;
}

void samples_sort(samples_t *samples)
{
    for (size_t i = 0; i < samples->count; i++) {
        sample_t *sample = &samples->sample[i];
        sample->part[SAMPLE_DOOR] = sample->told ? sample->latency_us - sample->part[SAMPLE_TOTAL] : 0;
    }
    if (samples->count > 0)
        qsort(samples->sample, samples->count, sizeof *samples->sample, by_latency);
}

static size_t place(size_t count, double p)
{
    return (size_t)(p * (double)(count - 1) + 0.5);
}

double samples_percentile(const samples_t *samples, double p)
{
    return samples->count > 0 ? samples->sample[place(samples->count, p)].latency_us : 0;
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

/* The part alone, of the requests that have it. */
static void part_print(const samples_t *samples, int part, float *values)
{
    const bool needs_answer = part >= SAMPLE_DOOR;
    size_t count = 0, slow_count = 0;
    double slow = 0;
    for (size_t i = 0; i < samples->count; i++) {
        const sample_t *sample = &samples->sample[i];
        if (needs_answer && !sample->told)
            continue;
        values[count++] = sample->part[part];
        if (i >= place(samples->count, 1 - SLOW)) {
            slow += sample->part[part];
            slow_count++;
        }
    }
    if (count > 0)
        qsort(values, count, sizeof *values, by_value);
    printf("%s\"%s\": {\"p50\": %.1f, \"p99\": %.1f, \"slow\": %.1f}", part == 0 ? "" : ", ", parts[part].name,
           count > 0 ? values[place(count, 0.5)] : 0, count > 0 ? values[place(count, 0.99)] : 0,
           slow_count > 0 ? slow / (double)slow_count : 0);
}

void samples_print_parts(const samples_t *samples)
{
    float *values = malloc((samples->count + 1) * sizeof *values);
    size_t told = 0;
    if (values == NULL)
        return;
    for (size_t i = 0; i < samples->count; i++)
        told += samples->sample[i].told;
    printf(", \"told\": %zu, \"parts\": {", told);
    for (int i = 0; i < SAMPLE_PARTS; i++)
        part_print(samples, i, values);
    printf("}");
    free(values);
}
