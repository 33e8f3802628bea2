/* worker/turns.c: see turns.h. Any thread; owns nothing. Cost is quadratic in the requests, of which there are a few.
 */
#include "worker/turns.h"

#include <stdbool.h>

#include "base/clock.h"

/* By a simulation of the link and of kernels, lengths 64 to 8192 and others at 70 % of the link, 20 sequences of
 * arrivals (p99 of each class over five times what it takes alone and the longest kernel).
 * DUE: below 4.5 the short ones of the large, above 5 the longest have the worst p99.
 * LATE and GRACE_US: what is aimed at; with 6 and 500 the longest stand back too often.
 * LIMIT: with 12 those who stood back are back within the burst and make others late. */
#define DUE 4.75
#define LATE 6.5
#define GRACE_US 1000.0
#define LIMIT 20.0

/* Of the link, what is reckoned with: small groups and who comes meanwhile take the rest. */
#define LINK_SHARE 0.66

/* How much shorter a copy must be to be let go first. */
#define SHORTER 0.9

static int64_t after(const attn_turn_t *turn, double us)
{
    return turn->came_ns + (int64_t)(us * (double)ATTN_NS_PER_US);
}

int64_t attn_turn_due_ns(const attn_turn_t *turn)
{
    return after(turn, DUE * turn->copy_us);
}

int64_t attn_turn_late_ns(const attn_turn_t *turn)
{
    return after(turn, LATE * turn->copy_us + GRACE_US);
}

int64_t attn_turn_limit_ns(const attn_turn_t *turn)
{
    return after(turn, LIMIT * turn->copy_us + GRACE_US);
}

/* In the order in which they are due, of equals by index: the one behind `last`, or the first; `count` at the end. */
static uint32_t next_due(const attn_turn_t *turns, uint32_t count, uint32_t last)
{
    uint32_t best = count;
    for (uint32_t i = 0; i < count; i++) {
        int64_t due = attn_turn_due_ns(&turns[i]);
        int64_t behind = last < count ? due - attn_turn_due_ns(&turns[last]) : 1;
        if ((behind > 0 || (behind == 0 && i > last)) && (best == count || due < attn_turn_due_ns(&turns[best])))
            best = i;
    }
    return best;
}

/* Whether it can be on time if it goes next, behind what the device has been handed. */
static bool can(const attn_turn_t *turn, double ahead_us, int64_t now_ns)
{
    double end_us = (ahead_us + turn->left_us) / LINK_SHARE;
    return now_ns + (int64_t)(end_us * (double)ATTN_NS_PER_US) <= attn_turn_late_ns(turn);
}

static bool stands_back(const attn_turn_t *turns, uint32_t count, uint32_t who, double ahead_us, int64_t now_ns)
{
    const attn_turn_t *own = &turns[who];
    if (can(own, ahead_us, now_ns) || now_ns > attn_turn_limit_ns(own))
        return false;
    for (uint32_t i = 0; i < count; i++)
        if (turns[i].copy_us < SHORTER * own->copy_us && can(&turns[i], ahead_us, now_ns))
            return true;
    return false;
}

uint32_t attn_turns_next(const attn_turn_t *turns, uint32_t count, double ahead_us, int64_t now_ns)
{
    uint32_t next = next_due(turns, count, count);
    while (stands_back(turns, count, next, ahead_us, now_ns)) /* for somebody behind, who does not */
        next = next_due(turns, count, next);
    return next;
}
