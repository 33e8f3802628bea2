/* cpu/isa.c: see isa.h. Owns the choice that a test forces. */
#include "cpu/isa.h"

#include <stdatomic.h>
#include <string.h>

static atomic_uintptr_t isa_forced;

static bool isa_usable(const attn_cpu_isa_t *isa)
{
#if defined(__x86_64__)
    if (isa == &attn_cpu_isa_avx512)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (isa == &attn_cpu_isa_avx2) /* every processor with AVX2 and FMA has F16C */
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return isa == &attn_cpu_isa_base;
}

static const attn_cpu_isa_t *const isa_by_speed[] = {
#if defined(__x86_64__)
    &attn_cpu_isa_avx512,
    &attn_cpu_isa_avx2,
#endif
    &attn_cpu_isa_base,
};

const attn_cpu_isa_t *attn_cpu_isa(void)
{
    const attn_cpu_isa_t *forced = (const attn_cpu_isa_t *)atomic_load(&isa_forced);
    if (forced)
        return forced;
    size_t i = 0;
    while (!isa_usable(isa_by_speed[i]))
        i++; /* ends: the last one always is */
    return isa_by_speed[i];
}

bool attn_cpu_isa_force(const char *name)
{
    if (!name) {
        atomic_store(&isa_forced, (uintptr_t)0);
        return true;
    }
    for (size_t i = 0; i < sizeof isa_by_speed / sizeof isa_by_speed[0]; i++)
        if (strcmp(isa_by_speed[i]->name, name) == 0 && isa_usable(isa_by_speed[i])) {
            atomic_store(&isa_forced, (uintptr_t)isa_by_speed[i]);
            return true;
        }
    return false;
}
