/* cpu/cpu_info.h: the row of `cpu`. Pure data, any thread. */
#ifndef ATTN_CPU_CPU_INFO_H
#define ATTN_CPU_CPU_INFO_H

#include "attn/kernel.h"

extern const attn_variant_info_t attn_cpu_info;

#endif
