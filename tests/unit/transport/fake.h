/* tests/unit/transport/fake.h: a scheduler in place of sched/sched.c: it completes each request after a delay, or as
 * soon as it is cancelled, on a thread of its own. Answers are filled with ones. */
#ifndef ATTN_TESTS_TRANSPORT_FAKE_H
#define ATTN_TESTS_TRANSPORT_FAKE_H

#include "sched/sched.h"

void fake_start(attn_admit_t *admit);
void fake_stop(void); /* completes what is left */

extern _Atomic uint32_t fake_delay_us;  /* up to so long, at random */
extern _Atomic uint32_t fake_cancelled; /* requests that ended because they were cancelled */
extern _Atomic uint32_t fake_completed;
extern _Atomic uint32_t fake_waiting;

#endif
