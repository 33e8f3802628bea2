/* transport/http_info.c: what the daemon tells about itself: variants, status, metrics, probes. Threads of the door;
 * everything is a copy taken from its owner. */
#include <dirent.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "sched/compare.h"
#include "transport/http_internal.h"
#include "transport/unix.h"

static const char *state_name(attn_device_state_t state)
{
    static const char *const names[] = {"starting", "ready", "restarting", "lost"};
    return names[state];
}

static const char *kind_name(attn_device_kind_t kind)
{
    return kind == ATTN_DEVICE_CUDA ? "cuda" : "cpu";
}

static attn_sched_view_t *take_view(attn_http_call_t *call)
{
    attn_sched_view_t *view = malloc(sizeof *view); /* about 14 KiB */
    if (view == NULL) {
        attn_error_t err;
        attn_error_set(&err, ATTN_ERR_NO_MEMORY, "no memory for the listing");
        attn_http_reply_error(call, &err, NULL);
        return NULL;
    }
    attn_sched_view(attn_http_front(call)->sched, view);
    return view;
}

static void reply(attn_http_call_t *call, json_t *root)
{
    char *text = root != NULL ? json_dumps(root, JSON_COMPACT) : NULL;
    json_decref(root);
    attn_http_reply_json(call, 200, text);
}

/* ---- GET /v1/variants ---- */

static bool runs_on(const attn_variant_info_t *info, const attn_device_t *device)
{
    return (info->devices & 1u << device->kind) != 0 &&
           (device->kind != ATTN_DEVICE_CUDA || (device->arch >= info->arch_min && device->arch <= info->arch_max));
}

static const attn_quarantine_view_t *quarantine_of(const attn_sched_view_t *view, const attn_variant_info_t *info)
{
    for (uint32_t i = 0; i < view->quarantine_count; i++) {
        if (view->quarantine[i].variant == info) {
            return &view->quarantine[i];
        }
    }
    return NULL;
}

static void add_names(json_t *row, const attn_variant_info_t *info)
{
    json_t *dtypes = json_array(), *features = json_array(), *devices = json_array();
    for (uint32_t dtype = ATTN_DTYPE_F16; dtype < ATTN_DTYPE_COUNT; dtype++) {
        if ((info->dtypes & 1u << dtype) != 0) {
            json_array_append_new(dtypes, json_string(attn_dtype_name((attn_dtype_t)dtype)));
        }
    }
    for (uint32_t feature = 1; feature <= ATTN_FEATURES_ALL; feature <<= 1) {
        if ((info->features & feature) != 0) {
            json_array_append_new(features, json_string(attn_feature_name(feature)));
        }
    }
    for (int kind = ATTN_DEVICE_CPU; kind <= ATTN_DEVICE_CUDA; kind++) {
        if ((info->devices & 1u << kind) != 0) {
            json_array_append_new(devices, json_string(kind_name((attn_device_kind_t)kind)));
        }
    }
    json_object_set_new(row, "dtypes", dtypes);
    json_object_set_new(row, "features", features);
    json_object_set_new(row, "devices", devices);
}

static json_t *variant_row(const attn_variant_info_t *info, const attn_sched_view_t *view)
{
    const attn_quarantine_view_t *quarantine = quarantine_of(view, info);
    json_t *available = json_array();
    bool fits = false;
    for (uint32_t i = 0; i < view->device_count; i++) {
        bool here = runs_on(info, &view->devices[i].device);
        fits = fits || here;
        if (here && view->devices[i].state != ATTN_DEVICE_LOST) {
            json_array_append_new(available, json_string(view->devices[i].device.uuid));
        }
    }
    bool quarantined = quarantine != NULL && quarantine->active;
    const char *unavailable = quarantined                      ? "quarantined"
                              : json_array_size(available) > 0 ? ""
                              : fits                           ? "its device is lost"
                              : view->device_count == 0        ? "no device is up"
                                                               : "no device here can run it";
    json_t *row = json_pack(
        "{s:s, s:s, s:s, s:b, s:b, s:s, s:i, s:i, s:i, s:i, s:i, s:o, s:s, s:b}", "name", info->name, "summary",
        info->summary, "deprecated_for", info->deprecated_for != NULL ? info->deprecated_for : "", "test_only",
        info->test_only, "auto_select", info->auto_select, "class", info->run_class == ATTN_CLASS_LAB ? "lab" : "serve",
        "arch_min", info->arch_min, "arch_max", info->arch_max, "d_min", (int)info->d_min, "d_max", (int)info->d_max,
        "d_multiple", (int)info->d_multiple, "available_on", available, "unavailable", unavailable, "quarantined",
        quarantined);
    add_names(row, info);
    if (quarantine != NULL) {
        json_object_set_new(row, "quarantine",
                            json_pack("{s:i, s:b, s:I, s:s}", "strikes", (int)quarantine->strikes, "active",
                                      quarantine->active, "expires_in_ms", (json_int_t)quarantine->expires_in_ms, "why",
                                      quarantine->why));
    }
    return row;
}

static json_t *device_rows(const attn_sched_view_t *view)
{
    json_t *rows = json_array();
    for (uint32_t i = 0; i < view->device_count; i++) {
        const attn_device_view_t *device = &view->devices[i];
        json_t *row = json_pack("{s:s, s:s, s:s, s:i, s:s, s:I, s:i, s:i, s:s, s:s}", "uuid", device->device.uuid,
                                "name", device->device.name, "kind", kind_name(device->device.kind), "arch",
                                device->device.arch, "state", state_name(device->state), "memory_bytes",
                                (json_int_t)device->device.memory_bytes, "restarts", (int)device->restarts, "serve_pid",
                                device->serve_pid, "driver", device->driver, "why", device->why);
        json_array_append_new(rows, row);
    }
    return rows;
}

void http_variants_handle(attn_http_call_t *call)
{
    attn_front_t *front = attn_http_front(call);
    attn_sched_view_t *view = take_view(call);
    if (view == NULL) {
        return;
    }
    size_t count;
    const attn_variant_info_t *const *table = attn_variant_table(&count);
    json_t *variants = json_array();
    for (size_t i = 0; i < count; i++) {
        if (!table[i]->test_only || front->options->test_variants) {
            json_array_append_new(variants, variant_row(table[i], view));
        }
    }
    attn_admit_view_t admit;
    attn_admit_view(front->admit, &admit);
    json_t *limits =
        json_pack("{s:I, s:I, s:i}", "max_request_bytes", (json_int_t)admit.max_request_bytes, "max_metadata_bytes",
                  (json_int_t)front->options->max_metadata_bytes, "head_dim_max", ATTN_HEAD_DIM_MAX);
    reply(call, json_pack("{s:o, s:o, s:o, s:s}", "variants", variants, "devices", device_rows(view), "limits", limits,
                          "version", ATTND_VERSION));
    free(view);
}

void http_quarantine_clear_handle(attn_http_call_t *call)
{
    attn_error_t err;
    const char *name = attn_http_capture(call);
    const attn_variant_info_t *variant = attn_variant_find(name);
    bool known = variant != NULL && (!variant->test_only || attn_http_front(call)->options->test_variants);
    if (!known || attn_sched_quarantine_clear(attn_http_front(call)->sched, variant) != ATTN_OK) {
        attn_error_set(&err, ATTN_ERR_NOT_FOUND,
                       known ? "this variant has no strikes and is not in quarantine"
                             : "there is no such variant; /v1/variants lists them");
        attn_http_reply_error(call, &err, NULL);
        return;
    }
    reply(call, json_pack("{s:s, s:b}", "variant", variant->name, "quarantined", 0));
}

/* ---- GET /v1/status ---- */

void http_status_handle(attn_http_call_t *call)
{
    attn_front_t *front = attn_http_front(call);
    attn_http_t *http = call->door->http;
    attn_sched_view_t *view = take_view(call);
    if (view == NULL) {
        return;
    }
    attn_admit_view_t admit;
    attn_admit_view(front->admit, &admit);
    pthread_mutex_lock(&http->lock);
    uint32_t connections = http->open_conns;
    pthread_mutex_unlock(&http->lock);
    json_t *arena =
        json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:i}", "input_bytes", (json_int_t)admit.input_bytes,
                  "input_used_bytes", (json_int_t)admit.input_used, "output_bytes", (json_int_t)admit.output_bytes,
                  "output_used_bytes", (json_int_t)admit.output_used, "arriving_bytes", (json_int_t)admit.arriving,
                  "leaked_bytes", (json_int_t)admit.leaked, "tickets", (int)admit.tickets);
    reply(call,
          json_pack("{s:s, s:f, s:b, s:b, s:b, s:i, s:i, s:i, s:i, s:o, s:o}", "version", ATTND_VERSION, "uptime_s",
                    (double)(attn_clock_ns() - http->started_ns) * 1e-9, "live", attn_sched_live(front->sched), "ready",
                    attn_sched_ready(front->sched), "draining", atomic_load(&http->draining), "queued",
                    (int)view->queued, "running", (int)view->running, "connections", (int)connections, "calls",
                    (int)atomic_load(&http->open_calls), "arena", arena, "devices", device_rows(view)));
    free(view);
}

/* ---- GET /metrics ---- */

static void write_one(FILE *out, const char *name, const char *type, const char *help, double value)
{
    attn_metrics_write_head(out, name, type, help);
    attn_metrics_write_value(out, name, "", value);
}

static void write_process(FILE *out, const attn_http_t *http)
{
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    if (file != NULL) {
        if (fscanf(file, "%*d %ld", &pages) != 1) {
            pages = 0;
        }
        fclose(file);
    }
    unsigned fds = 0;
    DIR *folder = opendir("/proc/self/fd");
    if (folder != NULL) {
        for (const struct dirent *entry; (entry = readdir(folder)) != NULL;) {
            fds += entry->d_name[0] != '.';
        }
        closedir(folder);
        fds -= fds > 0; /* the folder's own */
    }
    struct rusage usage = {0};
    getrusage(RUSAGE_SELF, &usage);
    write_one(out, "process_resident_memory_bytes", "gauge", "Resident memory of attnd",
              (double)pages * (double)sysconf(_SC_PAGESIZE));
    write_one(out, "process_open_fds", "gauge", "Open file descriptors of attnd", fds);
    write_one(out, "process_cpu_seconds_total", "counter", "CPU time of attnd",
              (double)usage.ru_utime.tv_sec + (double)usage.ru_stime.tv_sec +
                  (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6);
    write_one(out, "process_start_time_seconds", "gauge", "Start of attnd, Unix time", (double)http->started_s);
}

static void write_admit(FILE *out, attn_admit_t *admit)
{
    attn_admit_view_t view;
    attn_admit_view(admit, &view);
    attn_metrics_write_head(out, "attnd_arena_bytes", "gauge", "Size of the arenas");
    attn_metrics_write_value(out, "attnd_arena_bytes", "arena=\"input\"", (double)view.input_bytes);
    attn_metrics_write_value(out, "attnd_arena_bytes", "arena=\"output\"", (double)view.output_bytes);
    attn_metrics_write_head(out, "attnd_arena_used_bytes", "gauge", "Arena bytes that requests hold");
    attn_metrics_write_value(out, "attnd_arena_used_bytes", "arena=\"input\"", (double)view.input_used);
    attn_metrics_write_value(out, "attnd_arena_used_bytes", "arena=\"output\"", (double)view.output_used);
    write_one(out, "attnd_arena_arriving_bytes", "gauge", "Input bytes held by bodies that still arrive",
              (double)view.arriving);
    write_one(out, "attnd_arena_leaked_bytes", "gauge", "Bytes given up because a dead worker might write them",
              (double)view.leaked);
    write_one(out, "attnd_requests_admitted", "gauge", "Requests that hold arena bytes", view.tickets);
}

static void write_sched(FILE *out, attn_sched_t *sched, const attn_sched_view_t *view)
{
    char labels[160];
    write_one(out, "attnd_queue_length", "gauge", "Requests that wait for a device", view->queued);
    write_one(out, "attnd_running", "gauge", "Requests on a device", view->running);
    write_one(out, "attnd_live", "gauge", "1 while the scheduler turns", attn_sched_live(sched));
    write_one(out, "attnd_ready", "gauge", "1 while requests are served and no drain has begun",
              attn_sched_ready(sched));
    attn_metrics_write_head(out, "attnd_device_ready", "gauge", "1 while the device has a worker that serves");
    for (uint32_t i = 0; i < view->device_count; i++) {
        snprintf(labels, sizeof labels, "device=\"%s\",index=\"%u\"", view->devices[i].device.uuid, i);
        attn_metrics_write_value(out, "attnd_device_ready", labels, view->devices[i].state == ATTN_DEVICE_READY);
    }
    attn_metrics_write_head(out, "attnd_worker_restarts_total", "counter", "Workers of a device that were replaced");
    for (uint32_t i = 0; i < view->device_count; i++) {
        snprintf(labels, sizeof labels, "device=\"%s\",index=\"%u\"", view->devices[i].device.uuid, i);
        attn_metrics_write_value(out, "attnd_worker_restarts_total", labels, view->devices[i].restarts);
    }
    attn_metrics_write_head(out, "attnd_quarantined", "gauge", "1 while the variant is in quarantine");
    for (uint32_t i = 0; i < view->quarantine_count; i++) {
        snprintf(labels, sizeof labels, "variant=\"%s\"", view->quarantine[i].variant->name);
        attn_metrics_write_value(out, "attnd_quarantined", labels, view->quarantine[i].active);
    }
}

static void write_compare(FILE *out, attn_compare_t *compare)
{
    attn_compare_counts_t counts;
    attn_compare_count(compare, &counts);
    write_one(out, "attnd_compare_active", "gauge", "Comparisons under way", counts.active);
    write_one(out, "attnd_compare_kept", "gauge", "Comparisons that can be asked for", counts.kept);
    attn_metrics_write_head(out, "attnd_compare_jobs_total", "counter", "Comparisons by how they ended");
    attn_metrics_write_value(out, "attnd_compare_jobs_total", "state=\"done\"", (double)counts.done);
    attn_metrics_write_value(out, "attnd_compare_jobs_total", "state=\"failed\"", (double)counts.failed);
    attn_metrics_write_value(out, "attnd_compare_jobs_total", "state=\"cancelled\"", (double)counts.cancelled);
}

void http_metrics_handle(attn_http_call_t *call)
{
    attn_sched_view_t *view = take_view(call);
    if (view == NULL) {
        return;
    }
    attn_http_t *http = call->door->http;
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    if (out != NULL) {
        attn_metrics_write_head(out, "attnd_build_info", "gauge", "1; which build this is");
        attn_metrics_write_value(out, "attnd_build_info", "version=\"" ATTND_VERSION "\"", 1);
        pthread_mutex_lock(&http->lock);
        uint32_t connections = http->open_conns;
        pthread_mutex_unlock(&http->lock);
        write_one(out, "attnd_http_connections", "gauge", "Open HTTP connections", connections);
        write_admit(out, attn_http_front(call)->admit);
        write_sched(out, attn_http_front(call)->sched, view);
        write_compare(out, attn_http_front(call)->compare);
        if (attn_http_front(call)->socket != NULL) {
            attn_unix_metrics(attn_http_front(call)->socket, out);
        }
        write_process(out, http);
        attn_metrics_render(out);
        fclose(out);
    }
    free(view);
    attn_http_reply_bytes(call, text != NULL ? 200 : 500, "text/plain; version=0.0.4; charset=utf-8", text, bytes);
}

/* ---- probes ---- */

static void reply_probe(attn_http_call_t *call, bool good, const char *sentence)
{
    attn_error_t err;
    if (good) {
        attn_http_reply_bytes(call, 200, NULL, NULL, 0);
    } else {
        attn_error_set(&err, ATTN_ERR_UNAVAILABLE, "%s", sentence);
        attn_http_reply_error(call, &err, NULL);
    }
}

void http_live_handle(attn_http_call_t *call)
{
    reply_probe(call, attn_sched_live(attn_http_front(call)->sched), "the scheduler has not turned for some seconds");
}

void http_ready_handle(attn_http_call_t *call)
{
    bool draining = atomic_load(&call->door->http->draining);
    reply_probe(call, !draining && attn_sched_ready(attn_http_front(call)->sched),
                draining ? "the daemon is draining" : "no device serves yet");
}
