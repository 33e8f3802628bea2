/* sm90/unified_info.h: what `unified` and its deprecated aliases are and can do. Pure C, static storage. */
#ifndef ATTN_SM90_UNIFIED_INFO_H
#define ATTN_SM90_UNIFIED_INFO_H

#include "attn/kernel.h"

#ifdef __cplusplus
extern "C" {
#endif

extern const attn_variant_info_t attn_variant_info_unified;
extern const attn_variant_info_t attn_variant_info_gqa_fwd_ws;
extern const attn_variant_info_t attn_variant_info_gqa_prefill_fwd_ws;

#ifdef __cplusplus
}
#endif
#endif
