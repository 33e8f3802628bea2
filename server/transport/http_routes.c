/* transport/http_routes.c: the table of routes and how a path finds its row. Read-only; any thread. */
#include <stdio.h>
#include <string.h>

#include "codec/query.h"
#include "transport/http_internal.h"

static const attn_http_route_t own_routes[] = {
    {"POST", "/v1/attention", ATTN_HTTP_BODY_TENSORS, false, http_attention_handle, NULL},
    {"GET", "/v1/variants", ATTN_HTTP_BODY_NONE, false, http_variants_handle, NULL},
    {"DELETE", "/v1/variants/{name}/quarantine", ATTN_HTTP_BODY_NONE, false, http_quarantine_clear_handle, NULL},
    {"GET", "/v1/status", ATTN_HTTP_BODY_NONE, false, http_status_handle, NULL},
    {"GET", "/metrics", ATTN_HTTP_BODY_NONE, true, http_metrics_handle, NULL},
    {"GET", "/v2/health/live", ATTN_HTTP_BODY_NONE, true, http_live_handle, NULL},
    {"GET", "/v2/health/ready", ATTN_HTTP_BODY_NONE, true, http_ready_handle, NULL},
};
#define OWN_ROUTES (sizeof own_routes / sizeof own_routes[0])

static const attn_http_route_t *route_at(size_t index)
{
    if (index < OWN_ROUTES) {
        return &own_routes[index];
    }
    index -= OWN_ROUTES;
    return index < attn_http_job_route_count ? &attn_http_job_routes[index] : NULL;
}

size_t http_route_index(const attn_http_route_t *route)
{
    size_t index = 0;
    while (route_at(index) != NULL && route_at(index) != route) {
        index++;
    }
    return index < HTTP_ROUTES_MAX - 1 ? index : HTTP_ROUTES_MAX - 1;
}

/* Segment by segment; "{…}" takes one that is not empty. */
static bool matches(const char *pattern, const char *path, char *capture, size_t capture_size)
{
    while (*pattern != '\0') {
        if (*pattern != '{') {
            if (*pattern++ != *path++) {
                return false;
            }
            continue;
        }
        size_t length = strcspn(path, "/");
        if (length == 0 || length >= capture_size || !attn_percent_decode(path, length, capture)) {
            return false;
        }
        path += length;
        pattern += strcspn(pattern, "}") + 1;
    }
    return *path == '\0';
}

const attn_http_route_t *http_route_find(const http_door_t *door, const char *method, const char *path, char *capture,
                                         size_t capture_size, char *ret_allow, size_t allow_size)
{
    size_t used = 0;
    ret_allow[0] = '\0';
    for (size_t i = 0; route_at(i) != NULL; i++) {
        const attn_http_route_t *route = route_at(i);
        if ((door->probes_only && !route->probe) || !matches(route->pattern, path, capture, capture_size)) {
            continue;
        }
        bool is_get = strcmp(route->method, "GET") == 0;
        if (strcmp(method, route->method) == 0 || (is_get && strcmp(method, "HEAD") == 0)) {
            return route;
        }
        if (used < allow_size) {
            used += (size_t)snprintf(ret_allow + used, allow_size - used, "%s%s%s", used > 0 ? ", " : "", route->method,
                                     is_get ? ", HEAD" : "");
        }
    }
    return NULL;
}
