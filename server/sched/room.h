/* sched/room.h: how many groups a device is given at a time, by kind. Pure, any thread.
 *
 * By default a GPU has ATTN_WIRE_GROUPS_SMALL groups: one is copied in, one computed, one copied out, and one waits in
 * the ring. Beside these it has ATTN_WIRE_GROUPS_LARGE large requests, which its engine puts in order by what each
 * takes and how long it has waited (worker/turns.h): with so many to choose from, the shorter ones among them seldom
 * wait for a place. Neither kind takes the other's places. A CPU gains nothing from a second group, which could no
 * longer be overtaken or given to another device. */
#ifndef ATTND_SCHED_ROOM_H
#define ATTND_SCHED_ROOM_H

#include "sched/batcher.h"

/* The kinds of requests (ATTN_BATCH_…) of which a worker with so many `groups` in hand, `large` of them large, can take
 * one more. With a `depth` that was asked for, that is all there is in flight, and large requests leave a place of it
 * to others; 0 = the default. */
static inline uint32_t attn_room_kinds(bool gpu, uint32_t depth, uint32_t groups, uint32_t large)
{
    if (gpu && depth == 0)
        return (groups - large < ATTN_WIRE_GROUPS_SMALL ? ATTN_BATCH_SMALL : 0) |
               (large < ATTN_WIRE_GROUPS_LARGE ? ATTN_BATCH_LARGE : 0);
    if (groups >= (depth ? depth : 1))
        return 0;
    return ATTN_BATCH_SMALL | (large == 0 || large + 1 < depth ? ATTN_BATCH_LARGE : 0);
}

#endif
