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
#include "codec/listing.h"
#include "sched/compare.h"
#include "transport/http_internal.h"
#include "transport/unix.h"

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

void http_variants_handle(attn_http_call_t *call)
{
    attn_front_t *front = attn_http_front(call);
    attn_sched_view_t *view = take_view(call);
    if (view == NULL) {
        return;
    }
    attn_admit_view_t admit;
    attn_admit_view(front->admit, &admit);
    const attn_listing_t listing = {
        .view = view,
        .test_variants = front->options->test_variants,
        .max_request_bytes = admit.max_request_bytes,
        .max_metadata_bytes = front->options->max_metadata_bytes,
    };
    void *data = NULL;
    size_t bytes = 0;
    if (!attn_http_wants_protobuf(call)) {
        reply(call, attn_listing_json(&listing));
    } else if (attn_listing_proto(&listing, &data, &bytes)) {
        attn_http_reply_bytes(call, 200, ATTN_HTTP_PROTOBUF, data, bytes);
    } else {
        reply(call, NULL);
    }
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
                    (int)atomic_load(&http->open_calls), "arena", arena, "devices", attn_listing_devices(view)));
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
    attn_metrics_write_head(out, "attnd_device_groups_in_flight", "gauge", "Groups that the device has in hand");
    for (uint32_t i = 0; i < view->device_count; i++) {
        snprintf(labels, sizeof labels, "device=\"%s\",index=\"%u\"", view->devices[i].device.uuid, i);
        attn_metrics_write_value(out, "attnd_device_groups_in_flight", labels, view->groups[i]);
    }
    attn_metrics_write_head(out, "attnd_device_load_seconds", "gauge", "Expected time of these groups");
    for (uint32_t i = 0; i < view->device_count; i++) {
        snprintf(labels, sizeof labels, "device=\"%s\",index=\"%u\"", view->devices[i].device.uuid, i);
        attn_metrics_write_value(out, "attnd_device_load_seconds", labels, (double)view->load_us[i] * 1e-6);
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
        attn_front_write_copied(out);
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
