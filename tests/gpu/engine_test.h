/* gpu/engine_test.h: what the files of engine_test share. */
#ifndef TEST_GPU_ENGINE_TEST_H
#define TEST_GPU_ENGINE_TEST_H

#include "worker/engine_cuda.h"

extern char *input, *output; /* the arenas, as the front sees them */

bool go_on(void *arg); /* a checkpoint that never stops */
attn_engine_group_t *poll_until(attn_engine_t *engine);

/* engine_groups.c. `first`: where in both arenas the tensors begin. */
void test_groups(attn_engine_t *engine, attn_memory_t *memory, uint64_t first, const char *where);
void test_alike(attn_engine_t *engine, attn_memory_t *memory, uint64_t first, const char *where);
void test_bad_group(attn_engine_t *engine, attn_memory_t *memory);

/* engine_large.c */
void test_large(attn_engine_t *engine, attn_memory_t *memory, uint64_t first, const char *where);

#endif
