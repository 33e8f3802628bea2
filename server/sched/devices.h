/* sched/devices.h: from the option `--devices` to the devices that workers are started for. At start only. */
#ifndef ATTND_SCHED_DEVICES_H
#define ATTND_SCHED_DEVICES_H

#include "sched/sched.h"

enum { ATTN_DEVICE_ARGUMENT_MAX = 64 };

/* What a worker is started with: "cpu", "null" or a GPU's UUID. */
typedef char attn_device_argument_t[ATTN_DEVICE_ARGUMENT_MAX];

/* `option`: a list with commas of "auto" (every GPU, or the CPU where there is none), "all" (every GPU and the CPU),
 * "cpu", "null", a GPU's index or UUID. "cpu" and "null" may be repeated, for a worker each: tests of several devices
 * need no GPU. Asks `worker_path --list-devices`, for at most 30 s, when GPUs matter. Errors:
 * INVALID_ARGUMENT (with what there is), SYSTEM. */
attn_status_t attn_devices_resolve(const char *option, const char *worker_path,
                                   attn_device_argument_t ret[ATTN_SCHED_DEVICES_MAX], uint32_t *ret_count,
                                   attn_error_t *err);

#endif
