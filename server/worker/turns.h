/* worker/turns.h: which of the large requests in hand has the link next. Pure: no clock, no device; times are handed
 * in.
 *
 * The earliest due goes first; a request is due a few times its copy's own time after it came, so a shorter one
 * overtakes a longer one. That alone makes everybody a little late when more comes for a while than the link carries.
 * So one that cannot be on time any longer stands back for a shorter one that still can: few are late by much instead
 * of many by little. Among equals nobody stands back, so they keep their order under a load that lasts; and nobody does
 * for more than a fixed multiple of its copy's own time after it came. */
#ifndef ATTND_WORKER_TURNS_H
#define ATTND_WORKER_TURNS_H

#include <stdint.h>

/* A request with inputs left to copy. */
typedef struct attn_turn {
    int64_t came_ns;
    double copy_us; /* what all of its inputs take of the link */
    double left_us; /* of that, what has not been handed to the device */
} attn_turn_t;

/* When it is due, until when it counts as on time, and until when it may stand back. */
int64_t attn_turn_due_ns(const attn_turn_t *turn);
int64_t attn_turn_late_ns(const attn_turn_t *turn);
int64_t attn_turn_limit_ns(const attn_turn_t *turn);

/* The index of whose turn it is; `count` is at least 1. `ahead_us`: of the link, what the device has been handed and
 * not copied. */
uint32_t attn_turns_next(const attn_turn_t *turns, uint32_t count, double ahead_us, int64_t now_ns);

#endif
