/* worker/turns.h: which of the large requests in hand has the link next. Pure: no clock, no device; times are handed
 * in.
 *
 * The earliest due goes first; a request is due a few times its copy's own time after it came, so a shorter one
 * overtakes a longer one. That alone makes everybody a little late when more comes for a while than the link carries.
 * So the first who can still be on time goes, and who cannot any longer, with what is due before it, stands back: a few
 * are late by much and the others not at all. Nobody stands back for more than a fixed multiple of its copy's own time
 * after it came; it then goes before all others. And nobody stands back while all places are taken: such a load lasts,
 * and whoever stood back would wait for the more who come all the time. */
#ifndef ATTND_WORKER_TURNS_H
#define ATTND_WORKER_TURNS_H

#include <stdbool.h>
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
 * not copied. `full`: no place is free for another request. */
uint32_t attn_turns_next(const attn_turn_t *turns, uint32_t count, double ahead_us, bool full, int64_t now_ns);

#endif
