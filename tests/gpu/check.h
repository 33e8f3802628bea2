/* gpu/check.h: what the GPU test programs share: counting, inputs, and comparing. Main thread. */
#ifndef ATTN_TESTS_GPU_CHECK_H
#define ATTN_TESTS_GPU_CHECK_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#include "attn/spec.h"

/* Counts one check; prints the sentence when it failed. Returns `ok`. */
bool check(bool ok, const char *format, ...) __attribute__((format(printf, 2, 3)));
int check_finish(void); /* prints "N passed, N failed"; 1 when something failed */

double check_value(uint32_t dtype, const void *data, uint64_t element);
void check_store(uint32_t dtype, void *data, uint64_t element, double value);
/* Greatest |a - b| in units of the dtype's spacing at b; NaN against NaN and equal infinities are 0, other specials
 * 1e30. */
double check_ulps(uint32_t dtype, const void *a, const void *b, uint64_t elements);

/* A spec with sm_scale resolved, and its sizes. Ends the program when it is invalid. */
attn_spec_t check_spec(uint32_t dtype, uint32_t layout, uint32_t batch, int64_t s_q, int64_t s_kv, uint32_t h_q,
                       uint32_t h_kv, uint32_t d, bool causal, float softcap, attn_sizes_t *ret);

double check_now_ms(void);

#endif
