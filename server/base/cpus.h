/* base/cpus.h: what this process may use of the machine, by affinity and by its control group. Any thread. */
#ifndef ATTND_BASE_CPUS_H
#define ATTND_BASE_CPUS_H

#include <stdint.h>

/* Cores' worth of time: the lesser of the affinity mask and cpu.max (cgroup v2) or the v1 quota; at least 0.01. */
double attn_cpus_usable(void);

/* The lesser of physical memory and the memory limits of the control groups above this process. */
uint64_t attn_memory_usable(void);

/* Microseconds that a thread with nothing to do may spin before it sleeps. 0 on up to two cores: there the spinner
 * takes the core that the other side needs. Otherwise 200: waking a sleeping core costs about 35, and a caller that
 * sends its next request at once is back within that time. */
uint32_t attn_cpus_spin_us(void);

#endif
