/* kernels/kit.h: a request with its tensors in exactly sized memory, run by a variant of the CPU and judged. */
#ifndef TEST_KERNELS_KIT_H
#define TEST_KERNELS_KIT_H

#include <check.h>

#include "attn/accuracy.h"
#include "attn/kernel.h"
#include "attn/spec.h"

typedef struct kit {
    attn_spec_t spec;
    attn_sizes_t sizes;
    const int32_t *cu_q, *cu_k;
    attn_addresses_t at;
    void *truth;
} kit_t;

/* Measures the spec (which must be valid) and fills q, k, v from the seed. The cu_seqlens are borrowed. */
void kit_open(kit_t *kit, attn_spec_t spec, const int32_t *cu_q, const int32_t *cu_k, uint64_t seed);
void kit_close(kit_t *kit);

/* Multiplies a tensor's elements, to make large scores. */
void kit_scale(kit_t *kit, void *tensor, uint64_t bytes, double factor);

/* Runs on `units` threads with outputs that are NaN before, so that what is not written is noticed. */
attn_status_t kit_run(kit_t *kit, const char *variant, int units, attn_error_t *err);

/* Runs problems as they are; a checkpoint that says no after `checkpoints` calls (negative: never). */
attn_status_t kit_launch(const char *variant, const attn_group_t *group, int units, int checkpoints, attn_error_t *err);

/* Against the truth of the inputs as they are now, which is computed on the first call. */
attn_judgement_t kit_judge(kit_t *kit);

/* The same with a sentence in case it fails: what the request was and by how much. */
void kit_expect_pass(kit_t *kit, const char *who);

/* Sanitizers slow the inner loops down tenfold: fewer of the picked cases there. */
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum { KIT_SLOW = 5 };
#else
enum { KIT_SLOW = 1 };
#endif

extern const char *const kit_isas[];
enum { KIT_ISAS = 3 };

#endif
