/* reference/reference.h: how `reference` runs on the CPU. */
#ifndef ATTN_REFERENCE_REFERENCE_H
#define ATTN_REFERENCE_REFERENCE_H

#include "attn/kernel.h"

extern const attn_variant_t attn_reference_variant;

#endif
