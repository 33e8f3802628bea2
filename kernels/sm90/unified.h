/* sm90/unified.h: the `unified` kernel and its deprecated aliases as rows that a worker can launch.
 * launch() is asynchronous on exec->stream and may be called from any thread with a workspace of its own. */
#ifndef ATTN_SM90_UNIFIED_H
#define ATTN_SM90_UNIFIED_H

#include "attn/kernel.h"

#ifdef __cplusplus
extern "C" {
#endif

extern const attn_variant_t attn_variant_unified;
extern const attn_variant_t attn_variant_gqa_fwd_ws;
extern const attn_variant_t attn_variant_gqa_prefill_fwd_ws;

#ifdef __cplusplus
}
#endif
#endif
