/* base/clock.c: see clock.h. */
#include "base/clock.h"

#include <time.h>

int64_t attn_clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * ATTN_NS_PER_S + now.tv_nsec;
}

int64_t attn_clock_nap_ns(int64_t waited)
{
    const int64_t least = 20 * ATTN_NS_PER_US, most = 500 * ATTN_NS_PER_US, part = waited / 32;
    return part < least ? least : part > most ? most : part;
}
