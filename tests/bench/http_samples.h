/* tests/bench/http_samples.h: what http_load keeps of each answer, and how it is summed up. One list for each thread.
 */
#ifndef ATTN_BENCH_HTTP_SAMPLES_H
#define ATTN_BENCH_HTTP_SAMPLES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Parts of a request's time, in microseconds. The first three are the client's clock and add up to the latency; the
 * others are what attnd's answer says of itself, `door` the latency less the `total` that the answer says: reading the
 * request, sending the answer, and what they waited for. */
enum {
    SAMPLE_SENDING, /* from the first byte until the last was in the socket */
    SAMPLE_WAITING, /* from then until the first byte of the answer came */
    SAMPLE_RECEIVING,
    SAMPLE_DOOR,
    SAMPLE_TOTAL,
    SAMPLE_QUEUE,
    SAMPLE_COPY_IN,
    SAMPLE_KERNEL,
    SAMPLE_COPY_OUT,
    SAMPLE_BATCH_SIZE, /* requests, not microseconds */
    SAMPLE_PARTS
};

typedef struct sample {
    float latency_us;
    float part[SAMPLE_PARTS];
    bool told; /* the answer said its own times */
} sample_t;

typedef struct samples {
    sample_t *sample;
    size_t count, room;
} samples_t;

bool samples_add(samples_t *samples, const sample_t *sample); /* false: no memory */

/* Reads the times from the beginning of a safetensors answer; `text` ends with a zero, which may stand anywhere. */
void sample_read_answer(sample_t *sample, const char *text, size_t length);

/* In the order of latency, once no more are added. */
void samples_sort(samples_t *samples);
double samples_percentile(const samples_t *samples, double p); /* of a sorted list's latencies; 0 when it is empty */

/* Prints , "parts": {NAME: {"p50": of it alone, "p99": of it alone, "slow": its mean among the slowest hundredth of all
 * requests}}, "told": how many answers said their own times}. Of a sorted list. */
void samples_print_parts(const samples_t *samples);

#endif
