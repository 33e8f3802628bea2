/* transport/http_log.c: what is left of a call when it is over: a line in the log and its counts. The loop's thread of
 * the connection. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "transport/http_internal.h"

static const int statuses[] = {200, 202, 400, 403, 404, 405, 408, 411, 413, 415, 422, 499, 500, 501, 503, 504};
#define STATUSES (sizeof statuses / sizeof statuses[0])

/* Looked up once per route and status, then one atomic addition. */
static _Atomic(attn_counter_t *) request_counters[HTTP_ROUTES_MAX][STATUSES + 1];
static _Atomic(attn_histogram_t *) time_histograms[HTTP_ROUTES_MAX];
static _Atomic(attn_counter_t *) byte_counters[2];

static void labels_of(const attn_http_route_t *route, int status, char *ret, size_t size)
{
    int used = snprintf(ret, size, "method=\"%s\",route=\"%s\"", route != NULL ? route->method : "",
                        route != NULL ? route->pattern : "");
    if (status != 0 && used < (int)size) {
        snprintf(ret + used, size - (size_t)used, ",status=\"%d\"", status);
    }
}

static void count(const attn_http_call_t *call, int status, int64_t ns)
{
    size_t route = call->route != NULL ? http_route_index(call->route) : HTTP_ROUTES_MAX - 1;
    size_t s = 0;
    char labels[160];
    while (s < STATUSES && statuses[s] != status) {
        s++;
    }
    attn_counter_t *counter = atomic_load_explicit(&request_counters[route][s], memory_order_acquire);
    if (counter == NULL) {
        labels_of(call->route, s < STATUSES ? status : 0, labels, sizeof labels);
        counter = attn_metrics_counter("attnd_http_requests_total", "HTTP requests by route and status", labels);
        atomic_store_explicit(&request_counters[route][s], counter, memory_order_release);
    }
    attn_counter_add(counter, 1);
    attn_histogram_t *histogram = atomic_load_explicit(&time_histograms[route], memory_order_acquire);
    if (histogram == NULL) {
        labels_of(call->route, 0, labels, sizeof labels);
        histogram = attn_metrics_histogram("attnd_http_request_seconds",
                                           "From the head of a request to the end of its answer", labels);
        atomic_store_explicit(&time_histograms[route], histogram, memory_order_release);
    }
    attn_histogram_observe_ns(histogram, ns);
    for (int i = 0; i < 2; i++) {
        attn_counter_t *bytes = atomic_load_explicit(&byte_counters[i], memory_order_acquire);
        if (bytes == NULL) {
            bytes = attn_metrics_counter("attnd_http_body_bytes_total", "Bytes of bodies by direction",
                                         i == 0 ? "direction=\"in\"" : "direction=\"out\"");
            atomic_store_explicit(&byte_counters[i], bytes, memory_order_release);
        }
        attn_counter_add(bytes,
                         i == 0 ? atomic_load_explicit(&call->received, memory_order_relaxed) : call->sent_bytes);
    }
}

void http_call_record(attn_http_call_t *call, bool sent)
{
    if (!call->seen_head) {
        return; /* the head never came to its end */
    }
    int64_t ns = attn_clock_ns() - call->arrived_ns;
    int status = call->reply.status != 0 ? call->reply.status : attn_status_http(ATTN_ERR_CANCELLED);
    count(call, status, ns);
    bool probe = call->route != NULL && call->route->probe && status == 200;
    attn_log_level_t level = probe ? ATTN_LOG_DEBUG : status >= 500 && status != 503 ? ATTN_LOG_ERROR : ATTN_LOG_INFO;
    bool ended_well = sent || call->answered_raw;
    ATTN_LOG(level, "request", attn_log_text("request_id", call->id), attn_log_text("traceparent", call->trace),
             attn_log_text("method", call->route != NULL ? call->route->method : NULL),
             attn_log_text("path", call->path), attn_log_integer("status", status),
             attn_log_text("variant", call->variant),
             attn_log_integer("bytes_in", (int64_t)atomic_load_explicit(&call->received, memory_order_relaxed)),
             attn_log_integer("bytes_out", (int64_t)call->sent_bytes), attn_log_integer("us", ns / ATTN_NS_PER_US),
             attn_log_text("error", call->reply.error != ATTN_OK ? call->reply.sentence : NULL),
             attn_log_text("ended", ended_well ? NULL : "connection lost"));
}
