/* faults/faults_info.h: rows of the test-only variants: `null`, which measures the service without a kernel, and
 * variants that misbehave on purpose, so that supervision can be tested. Pure data, any thread.
 *
 * Names end in `_serve` where a fault must also be seen in the worker that others share. All support everything. */
#ifndef ATTN_FAULTS_FAULTS_INFO_H
#define ATTN_FAULTS_FAULTS_INFO_H

#include "attn/kernel.h"

enum { ATTN_FAULT_COUNT = 14 };

extern const attn_variant_info_t attn_fault_infos[ATTN_FAULT_COUNT];

#endif
