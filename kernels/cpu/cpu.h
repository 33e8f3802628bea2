/* cpu/cpu.h: how `cpu` runs. */
#ifndef ATTN_CPU_CPU_H
#define ATTN_CPU_CPU_H

#include "attn/kernel.h"

extern const attn_variant_t attn_cpu_variant;

#endif
