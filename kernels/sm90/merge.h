/* sm90/merge.h: problems of one shape whose tensors lie at even distances are one problem with a batch dimension.
 *
 * Callers' requests that a batcher placed one after the other look like that. A launch then
 * needs fewer tensor maps to be made and fetched. Pairs among more problems stay apart: every pair is evenly spaced,
 * and as one with two batches it would be a shape of its own. Pure arithmetic, any thread; owns nothing. */
#ifndef ATTN_SM90_MERGE_H
#define ATTN_SM90_MERGE_H

#include "attn/kernel.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Writes the problems of `group` that have output to `merged` (room for group->count), evenly spaced runs as one, and
 * returns how many there are. They compute the same: same rows, same addresses. */
uint32_t attn_sm90_merge(const attn_group_t *group, attn_problem_t *merged);

#ifdef __cplusplus
}
#endif
#endif
