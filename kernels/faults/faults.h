/* faults/faults.h: how the test-only variants run. Host code only, linked into workers of either kind. */
#ifndef ATTN_FAULTS_FAULTS_H
#define ATTN_FAULTS_FAULTS_H

#include "attn/kernel.h"

/* NULL when `name` is not a test-only variant. Static storage, any thread. */
const attn_variant_t *attn_fault_variant_find(const char *name);

#endif
