/* faults/faults_info.h: rows of the test-only variants: `null`, which measures the service without a kernel, and
 * variants that misbehave on purpose, so that supervision can be tested. Pure data, any thread.
 *
 * Names end in `_serve` where a fault must also be seen in the worker that others share. All support everything. */
#ifndef ATTN_FAULTS_FAULTS_INFO_H
#define ATTN_FAULTS_FAULTS_INFO_H

#include "attn/kernel.h"

enum {
    ATTN_FAULT_NULL,
    ATTN_FAULT_SLEEP,
    ATTN_FAULT_ERROR,
    ATTN_FAULT_SPIN,
    ATTN_FAULT_SPIN_SERVE,
    ATTN_FAULT_ABORT,
    ATTN_FAULT_ABORT_SERVE,
    ATTN_FAULT_ABORT_ONCE,
    ATTN_FAULT_EXIT,
    ATTN_FAULT_KILL_SERVE,
    ATTN_FAULT_OOB,
    ATTN_FAULT_WRITE_INPUT,
    ATTN_FAULT_GARBAGE,
    ATTN_FAULT_GARBAGE_SERVE,
    ATTN_FAULT_POISON_SERVE,
    ATTN_FAULT_COUNT
};

extern const attn_variant_info_t attn_fault_infos[ATTN_FAULT_COUNT];

#endif
