/* cpu/variants.c: what runs on the CPU, by name. Pure data, any thread. */
#include <string.h>

#include "attn/engine_variants.h"
#include "cpu/cpu.h"
#include "faults/faults.h"
#include "reference/reference.h"

const attn_variant_t *attn_cpu_variant_find(const char *name)
{
    static const attn_variant_t *const variants[] = {&attn_cpu_variant, &attn_reference_variant};
    for (size_t i = 0; i < sizeof variants / sizeof variants[0]; i++)
        if (strcmp(variants[i]->info->name, name) == 0)
            return variants[i];
    return attn_fault_variant_find(name);
}
