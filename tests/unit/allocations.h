/* allocations.h: counts the calls of the allocator in this process and in a program that it starts. Link allocations.c
 * into both; any thread. */
#ifndef TESTS_UNIT_ALLOCATIONS_H
#define TESTS_UNIT_ALLOCATIONS_H

#include <stdbool.h>
#include <stdint.h>

/* Before the programs that shall count are started: makes what is shared with them and says in the environment where.
 */
void allocations_share(void);
/* The calling thread's own allocations are not the subject: Check allocates with every assertion. */
void allocations_leave_out(void);
/* Counts from now on, from 0, in all processes; or no longer. */
void allocations_count(bool on);
uint32_t allocations_here(void);
uint32_t allocations_there(void); /* in the programs that were started */

#endif
