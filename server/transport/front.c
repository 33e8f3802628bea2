/* transport/front.c: see front.h. Any thread. */
#include "transport/front.h"

#include <stdatomic.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/metrics.h"

/* Series are looked up once per variant and code; afterwards counting is a few atomic additions. */
#define VARIANTS_MAX 32
#define CODES_MAX 48 /* statuses are 0 to -45 */
static _Atomic(attn_counter_t *) run_counters[VARIANTS_MAX][CODES_MAX];
static _Atomic(attn_counter_t *) door_counters[ATTN_DOORS][CODES_MAX];
static _Atomic(attn_histogram_t *) kernel_histograms[VARIANTS_MAX];
static _Atomic(attn_histogram_t *) door_histograms[ATTN_DOORS];
static _Atomic(attn_histogram_t *) queue_histogram;
static atomic_uint_fast64_t copied_bytes[ATTN_DOORS];
static const char *const door_names[ATTN_DOORS] = {"http", "socket", "ring"};

attn_status_t attn_front_variant(const attn_front_t *front, const char *name, const attn_variant_info_t **ret,
                                 attn_error_t *err)
{
    const attn_variant_info_t *variant = NULL;
    if (name[0] != '\0') {
        variant = attn_variant_find(name);
        if (variant == NULL || (variant->test_only && !front->options->test_variants)) {
            return attn_error_set(err, ATTN_ERR_NOT_FOUND,
                                  "there is no variant \"%s\"; /v1/variants lists them, and auto chooses one", name);
        }
    }
    *ret = variant;
    return ATTN_OK;
}

static size_t variant_index(const attn_variant_info_t *variant)
{
    size_t count, index = 0;
    const attn_variant_info_t *const *table = attn_variant_table(&count);
    while (index < count && table[index] != variant) {
        index++;
    }
    return index < VARIANTS_MAX - 1 ? index : VARIANTS_MAX - 1;
}

static size_t code_index(attn_status_t status)
{
    return status > -CODES_MAX ? (size_t)-status : CODES_MAX - 1;
}

void attn_front_tally_refused(attn_door_t door, attn_status_t status)
{
    _Atomic(attn_counter_t *) *place = &door_counters[door][code_index(status)];
    attn_counter_t *counter = atomic_load_explicit(place, memory_order_acquire);
    if (counter == NULL) {
        char labels[96];
        snprintf(labels, sizeof labels, "door=\"%s\",code=\"%s\"", door_names[door], attn_status_name(status));
        counter = attn_metrics_counter("attnd_door_requests_total", "Attention requests by door and code", labels);
        atomic_store_explicit(place, counter, memory_order_release);
    }
    attn_counter_add(counter, 1);
}

static attn_histogram_t *histogram_of(_Atomic(attn_histogram_t *) *place, const char *name, const char *help,
                                      const char *label, const char *value)
{
    attn_histogram_t *histogram = atomic_load_explicit(place, memory_order_acquire);
    if (histogram == NULL) {
        char labels[128] = "";
        if (label[0] != '\0') {
            snprintf(labels, sizeof labels, "%s=\"%s\"", label, value);
        }
        histogram = attn_metrics_histogram(name, help, labels);
        atomic_store_explicit(place, histogram, memory_order_release);
    }
    return histogram;
}

void attn_front_tally(attn_door_t door, const attn_request_t *request)
{
    const attn_outcome_t *outcome = &request->outcome;
    const attn_variant_info_t *variant = outcome->variant != NULL ? outcome->variant : request->variant;
    const char *name = variant != NULL ? variant->name : "auto";
    size_t row = variant_index(variant), code = code_index(outcome->error.status);
    attn_counter_t *counter = atomic_load_explicit(&run_counters[row][code], memory_order_acquire);
    if (counter == NULL) {
        char labels[128];
        snprintf(labels, sizeof labels, "variant=\"%s\",code=\"%s\"", name, attn_status_name(outcome->error.status));
        counter = attn_metrics_counter("attnd_attention_requests_total",
                                       "Attention requests that reached the scheduler, by variant and code", labels);
        atomic_store_explicit(&run_counters[row][code], counter, memory_order_release);
    }
    attn_counter_add(counter, 1);
    attn_front_tally_refused(door, outcome->error.status);
    if (outcome->error.status != ATTN_OK) {
        return;
    }
    attn_histogram_observe_ns(histogram_of(&kernel_histograms[row], "attnd_kernel_seconds",
                                           "Kernel time of attention requests by variant", "variant", name),
                              (int64_t)(outcome->timing.kernel_us * 1e3));
    attn_histogram_observe_ns(histogram_of(&queue_histogram, "attnd_queue_seconds",
                                           "Time that attention requests waited for a device", "", ""),
                              (int64_t)outcome->timing.queue_us * ATTN_NS_PER_US);
    attn_histogram_observe_ns(histogram_of(&door_histograms[door], "attnd_door_seconds",
                                           "From submission to completion of attention requests by door", "door",
                                           door_names[door]),
                              (int64_t)outcome->timing.total_us * ATTN_NS_PER_US);
}

void attn_front_tally_copied(attn_door_t door, uint64_t bytes)
{
    atomic_fetch_add_explicit(&copied_bytes[door], bytes, memory_order_relaxed);
}

uint64_t attn_front_copied(attn_door_t door)
{
    return atomic_load_explicit(&copied_bytes[door], memory_order_relaxed);
}

void attn_front_write_copied(FILE *out)
{
    attn_metrics_write_head(out, "attnd_tensor_bytes_copied_total", "counter",
                            "Bytes of tensors that attnd copied in memory, by door");
    for (int door = 0; door < ATTN_DOORS; door++) {
        char labels[32];
        snprintf(labels, sizeof labels, "door=\"%s\"", door_names[door]);
        attn_metrics_write_value(out, "attnd_tensor_bytes_copied_total", labels,
                                 (double)attn_front_copied((attn_door_t)door));
    }
}
