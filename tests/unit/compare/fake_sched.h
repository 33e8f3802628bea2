/* fake_sched.h: a scheduler in place of sched/sched.c that does as it is told. Its thread completes one request after
 * the other. */
#ifndef FAKE_SCHED_H
#define FAKE_SCHED_H

#include "sched/sched.h"

/* What the next requests get; asked on the fake's thread. Fills request->outcome; false holds the request back until it
 * is cancelled. */
typedef bool (*fake_answer_fn)(attn_request_t *request);

void fake_sched_start(fake_answer_fn answer);
void fake_sched_stop(void);

extern uint32_t fake_sched_devices; /* that the view shows */

#endif
