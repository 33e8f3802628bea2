/* reference/reference_info.h: the row of `reference`, on the CPU and on the GPU. Pure data, any thread. */
#ifndef ATTN_REFERENCE_REFERENCE_INFO_H
#define ATTN_REFERENCE_REFERENCE_INFO_H

#include "attn/kernel.h"

extern const attn_variant_info_t attn_reference_info;

#endif
