/* transport/http_attention.c: POST /v1/attention: the ask becomes a request to the scheduler, its outcome an answer.
 * The door's threads until it is submitted, the scheduler's thread in `complete`, the watch thread in `gone`. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "codec/answer.h"
#include "transport/http_internal.h"

/* Owned by the scheduler from submit to complete. The intake, and with it every place, lives in the call, which
 * outlives the request: a parked call is freed only after its answer. */
typedef struct run {
    attn_request_t request;
    attn_http_call_t *call;
} run_t;

/* Series are looked up once per variant and code; afterwards counting is a few atomic additions. */
#define VARIANTS_MAX 32
#define CODES_MAX 48 /* statuses are 0 to -45 */
static _Atomic(attn_counter_t *) run_counters[VARIANTS_MAX][CODES_MAX];
static _Atomic(attn_histogram_t *) kernel_histograms[VARIANTS_MAX];
static _Atomic(attn_histogram_t *) queue_histogram;

static size_t variant_index(const attn_variant_info_t *variant)
{
    size_t count, index = 0;
    const attn_variant_info_t *const *table = attn_variant_table(&count);
    while (index < count && table[index] != variant) {
        index++;
    }
    return index < VARIANTS_MAX - 1 ? index : VARIANTS_MAX - 1;
}

static void count_run(const attn_request_t *request)
{
    const attn_outcome_t *outcome = &request->outcome;
    const attn_variant_info_t *variant = outcome->variant != NULL ? outcome->variant : request->variant;
    const char *name = variant != NULL ? variant->name : "auto";
    size_t row = variant_index(variant);
    size_t code = outcome->error.status > -CODES_MAX ? (size_t)-outcome->error.status : CODES_MAX - 1;
    char labels[128];
    attn_counter_t *counter = atomic_load_explicit(&run_counters[row][code], memory_order_acquire);
    if (counter == NULL) {
        snprintf(labels, sizeof labels, "variant=\"%s\",code=\"%s\"", name, attn_status_name(outcome->error.status));
        counter = attn_metrics_counter("attnd_attention_requests_total",
                                       "Attention requests that reached the scheduler, by variant and code", labels);
        atomic_store_explicit(&run_counters[row][code], counter, memory_order_release);
    }
    attn_counter_add(counter, 1);
    if (outcome->error.status != ATTN_OK) {
        return;
    }
    attn_histogram_t *kernel = atomic_load_explicit(&kernel_histograms[row], memory_order_acquire);
    attn_histogram_t *queue = atomic_load_explicit(&queue_histogram, memory_order_acquire);
    if (kernel == NULL) {
        snprintf(labels, sizeof labels, "variant=\"%s\"", name);
        kernel = attn_metrics_histogram("attnd_kernel_seconds", "Kernel time of attention requests by variant", labels);
        atomic_store_explicit(&kernel_histograms[row], kernel, memory_order_release);
    }
    if (queue == NULL) {
        queue = attn_metrics_histogram("attnd_queue_seconds", "Time that attention requests waited for a device", "");
        atomic_store_explicit(&queue_histogram, queue, memory_order_release);
    }
    attn_histogram_observe_ns(kernel, (int64_t)(outcome->timing.kernel_us * 1e3));
    attn_histogram_observe_ns(queue, (int64_t)outcome->timing.queue_us * ATTN_NS_PER_US);
}

static void run_complete(attn_request_t *request, void *arg)
{
    run_t *run = arg;
    attn_http_call_t *call = run->call;
    attn_intake_t *intake = &call->intake;
    const attn_outcome_t *outcome = &request->outcome;
    attn_error_t err;
    void *head;
    size_t head_bytes;
    count_run(request);
    if (outcome->variant != NULL) {
        snprintf(call->variant, sizeof call->variant, "%s", outcome->variant->name);
    }
    if (outcome->error.status == ATTN_ERR_CANCELLED && atomic_load(&call->door->http->refusing)) {
        /* Not by the caller: the time to drain is over. */
        http_refusing(&err);
        attn_http_reply_error(call, &err, NULL);
    } else if (outcome->error.status != ATTN_OK) {
        attn_http_reply_error(call, &outcome->error, &outcome->missing);
    } else if (attn_answer_head(intake->options.framing, request, &intake->ask.sizes, &head, &head_bytes, &err) !=
               ATTN_OK) {
        attn_http_reply_error(call, &err, NULL);
    } else if (head_bytes <= intake->o_room) {
        /* One piece, so one system call: as head and vector it is two, and the client wakes for each. */
        char *begin = (char *)intake->o_address - head_bytes;
        memcpy(begin, head, head_bytes);
        free(head);
        const attn_http_part_t whole = {begin, head_bytes + intake->ask.sizes.o};
        attn_http_reply_parts(call, attn_framing_media(intake->options.framing), NULL, 0, &whole, 1,
                              attn_intake_take_ticket(intake));
    } else {
        const attn_http_part_t parts[2] = {{intake->o_address, intake->ask.sizes.o},
                                           {intake->lse_address, intake->ask.sizes.lse}};
        const char *media = attn_framing_media(intake->options.framing);
        attn_http_reply_parts(call, media, head, head_bytes, parts, 2, attn_intake_take_ticket(intake));
    }
    free(run);
}

/* Under the connection's lock, which the answer needs too: so the request has not completed yet. */
static void run_gone(attn_http_call_t *call, void *arg)
{
    run_t *run = arg;
    attn_sched_cancel(attn_http_front(call)->sched, &run->request);
}

static attn_status_t find_variant(attn_http_call_t *call, const char *name, const attn_variant_info_t **ret,
                                  attn_error_t *err)
{
    const attn_variant_info_t *variant = NULL;
    if (name[0] != '\0') {
        variant = attn_variant_find(name);
        if (variant == NULL || (variant->test_only && !attn_http_front(call)->options->test_variants)) {
            return attn_error_set(err, ATTN_ERR_NOT_FOUND,
                                  "there is no variant \"%s\"; /v1/variants lists them, and auto chooses one", name);
        }
    }
    *ret = variant;
    return ATTN_OK;
}

static int64_t deadline_of(const attn_http_call_t *call, const attn_ask_t *ask)
{
    /* A deadline of more than 100 years is none. */
    if (!ask->has_deadline || ask->deadline_ms > UINT64_C(3155760000000)) {
        return 0;
    }
    return call->arrived_ns + (int64_t)ask->deadline_ms * ATTN_NS_PER_MS;
}

void http_attention_handle(attn_http_call_t *call)
{
    attn_intake_t *intake = &call->intake;
    attn_ask_t *ask = &intake->ask;
    const attn_variant_info_t *variant = NULL;
    attn_error_t err;
    if (ask->id[0] != '\0') {
        memcpy(call->id, ask->id, sizeof call->id);
    }
    attn_status_t status = find_variant(call, ask->variant, &variant, &err);
    int64_t deadline_ns = deadline_of(call, ask);
    if (status == ATTN_OK && deadline_ns != 0 && attn_clock_ns() >= deadline_ns) {
        status = attn_error_set(&err, ATTN_ERR_DEADLINE_EXCEEDED,
                                "the deadline of %llu ms passed before the whole body had arrived",
                                (unsigned long long)ask->deadline_ms);
    }
    run_t *run = status == ATTN_OK ? calloc(1, sizeof *run) : NULL;
    if (status == ATTN_OK && run == NULL) {
        status = attn_error_set(&err, ATTN_ERR_NO_MEMORY, "no memory for the request");
    }
    if (status != ATTN_OK) {
        attn_http_reply_error(call, &err, NULL);
        return;
    }
    if (variant != NULL) {
        snprintf(call->variant, sizeof call->variant, "%s", variant->name);
    }
    run->call = call;
    attn_request_t *request = &run->request;
    request->op = ATTN_OP_RUN;
    memcpy(request->id, call->id, sizeof request->id);
    request->spec = ask->spec;
    request->cu_seqlens_q = ask->cu_seqlens_q;
    request->cu_seqlens_k = ask->cu_seqlens_k;
    request->variant = variant;
    request->q = intake->q;
    request->k = intake->k;
    request->v = intake->v;
    request->o = intake->o;
    request->lse = intake->lse;
    request->repeat = 1;
    request->priority = ask->priority;
    request->deadline_ns = deadline_ns;
    request->peer = attn_http_peer(call);
    request->complete = run_complete;
    request->complete_arg = run;
    attn_http_park(call, run_gone, run);
    attn_sched_submit(attn_http_front(call)->sched, request);
}
