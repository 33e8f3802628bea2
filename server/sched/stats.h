/* sched/stats.h: what scheduler and devices have done, as metrics (base/metrics.h). Written by the scheduler's thread,
 * rendered with all others by GET /metrics; counters live as long as the process. */
#ifndef ATTND_SCHED_STATS_H
#define ATTND_SCHED_STATS_H

#include "base/metrics.h"
#include "sched/request.h"

/* Counters of one device; rates are made by whoever reads: tokens/s from attnd_device_tokens_total, TFLOP/s from
 * attnd_device_flops_total over attnd_device_kernel_seconds_total. */
typedef struct attn_device_stats attn_device_stats_t;

/* Labels are {device="UUID",index="N"}: the same as those of the gauges. NULL without memory; then nothing is counted.
 */
attn_device_stats_t *attn_stats_device(const char *uuid, uint32_t index);
void attn_stats_free(attn_device_stats_t *stats); /* NULL is fine */

void attn_stats_given(attn_device_stats_t *stats, uint32_t count); /* a group of `count` */
void attn_stats_ran(attn_device_stats_t *stats, const attn_request_t *request);
void attn_stats_group_ran(attn_device_stats_t *stats, const attn_wire_done_t *done, int64_t busy_ns);

#endif
