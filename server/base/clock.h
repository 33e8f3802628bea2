/* base/clock.h: the one clock that deadlines and durations are measured with. Any thread. */
#ifndef ATTND_BASE_CLOCK_H
#define ATTND_BASE_CLOCK_H

#include <stdint.h>

#define ATTN_NS_PER_US INT64_C(1000)
#define ATTN_NS_PER_MS INT64_C(1000000)
#define ATTN_NS_PER_S INT64_C(1000000000)

int64_t attn_clock_ns(void); /* CLOCK_MONOTONIC */

/* How long to sleep before looking again for something that does not wake anyone and has been waited for for `waited`
 * ns: a thirty-second of that, from 20 us to 0.5 ms. Only with a timer slack far below the default of 50 us. */
int64_t attn_clock_nap_ns(int64_t waited);

/* Tells the core that this is a spin loop. */
static inline void attn_cpu_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");
#endif
}

#endif
