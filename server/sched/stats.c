/* sched/stats.c: see stats.h. The scheduler's thread. */
#include "sched/stats.h"

#include <stdio.h>
#include <stdlib.h>

#include "attn/spec.h"

struct attn_device_stats {
    attn_histogram_t *group_size;
    attn_counter_t *groups, *requests, *tokens, *flops, *launches, *helpers, *link_in, *link_out, *unpinned;
    attn_counter_t *kernel_ns, *busy_ns;
};

attn_device_stats_t *attn_stats_device(const char *uuid, uint32_t index)
{
    attn_device_stats_t *stats = calloc(1, sizeof *stats);
    if (!stats)
        return NULL;
    char labels[128], link[160];
    snprintf(labels, sizeof labels, "device=\"%s\",index=\"%u\"", uuid, index);
    stats->group_size = attn_metrics_sizes("attnd_group_size", "Requests that ran as one launch", labels);
    stats->groups = attn_metrics_counter("attnd_device_groups_total", "Groups that a device ran", labels);
    stats->requests = attn_metrics_counter("attnd_device_requests_total", "Requests that a device ran", labels);
    stats->tokens =
        attn_metrics_counter("attnd_device_tokens_total", "Query rows of the requests that a device ran", labels);
    stats->flops = attn_metrics_counter(
        "attnd_device_flops_total", "Floating-point operations (4 x heads x d x visible pairs) of attention", labels);
    stats->launches = attn_metrics_counter("attnd_device_launches_total", "Launches of attention kernels", labels);
    stats->helpers = attn_metrics_counter("attnd_device_helper_launches_total",
                                          "Launches of kernels that only move bytes to or from the device", labels);
    stats->kernel_ns =
        attn_metrics_seconds("attnd_device_kernel_seconds_total", "Time in kernels, by the device", labels);
    stats->busy_ns = attn_metrics_seconds("attnd_device_busy_seconds_total",
                                          "Time with a group on the device or on its way there or back", labels);
    snprintf(link, sizeof link, "%s,direction=\"in\"", labels);
    stats->link_in = attn_metrics_counter("attnd_link_bytes_total", "Bytes moved between host and device memory", link);
    snprintf(link, sizeof link, "%s,direction=\"out\"", labels);
    stats->link_out =
        attn_metrics_counter("attnd_link_bytes_total", "Bytes moved between host and device memory", link);
    stats->unpinned = attn_metrics_counter("attnd_link_unpinned_bytes_total",
                                           "Of these, bytes from or to host memory that was not pinned yet", labels);
    return stats;
}

void attn_stats_free(attn_device_stats_t *stats)
{
    free(stats); /* the series stay */
}

void attn_stats_given(attn_device_stats_t *stats, uint32_t count)
{
    if (stats)
        attn_histogram_observe_size(stats->group_size, count);
}

void attn_stats_ran(attn_device_stats_t *stats, const attn_request_t *request)
{
    if (!stats || request->op != ATTN_OP_RUN)
        return;
    const attn_spec_t *spec = &request->spec;
    uint64_t rounds = request->warmup + (request->repeat ? request->repeat : 1);
    attn_counter_add(stats->requests, 1);
    attn_counter_add(stats->tokens, rounds * (uint64_t)spec->s_q * (spec->layout == ATTN_LAYOUT_THD ? 1 : spec->batch));
    attn_counter_add(stats->flops, (uint64_t)(request->sched.flops * (double)rounds));
}

void attn_stats_group_ran(attn_device_stats_t *stats, const attn_wire_done_t *done, int64_t busy_ns)
{
    if (!stats)
        return;
    attn_counter_add(stats->groups, 1);
    attn_counter_add(stats->launches, done->launches);
    attn_counter_add(stats->helpers, done->helpers);
    attn_counter_add(stats->kernel_ns, (uint64_t)(done->kernel_us * 1000));
    attn_counter_add(stats->busy_ns, busy_ns > 0 ? (uint64_t)busy_ns : 0);
    attn_counter_add(stats->link_in, done->link_in_bytes);
    attn_counter_add(stats->link_out, done->link_out_bytes);
    attn_counter_add(stats->unpinned, done->unpinned_bytes);
}
