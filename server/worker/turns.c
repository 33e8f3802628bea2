/* worker/turns.c: see turns.h. Any thread; owns nothing. Cost is quadratic in the requests, of which there are a few.
 */
#include "worker/turns.h"

#include "base/clock.h"

/* By a simulation of the link and of kernels, lengths 64 to 8192 at 70 % of the link, 20 sequences of arrivals (p99 of
 * each class over five times what it takes alone and the longest kernel).
 * DUE: below 4.5 the short ones of the large, above 5 the longest have the worst p99.
 * LATE and GRACE_US: what is aimed at; with 5 and 0 too many stand back.
 * LIMIT: with 10 those who stood back are back within the burst and make others late; with 40 it gains no more. */
#define DUE 4.75
#define LATE 6.5
#define GRACE_US 1000.0
#define LIMIT 20.0

/* Of the link, what is reckoned with: small groups and shorter requests that come meanwhile take the rest. With less,
 * too many stand back where nobody else comes. */
#define LINK_SHARE 0.8

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

static uint32_t over_limit(const attn_turn_t *turns, uint32_t count, int64_t now_ns)
{
    uint32_t best = count;
    for (uint32_t i = 0; i < count; i++) {
        int64_t limit = attn_turn_limit_ns(&turns[i]);
        if (now_ns > limit && (best == count || limit < attn_turn_limit_ns(&turns[best])))
            best = i;
    }
    return best;
}

uint32_t attn_turns_next(const attn_turn_t *turns, uint32_t count, double ahead_us, bool full, int64_t now_ns)
{
    const uint32_t first = next_due(turns, count, count);
    if (full)
        return first;
    const uint32_t over = over_limit(turns, count, now_ns);
    if (over < count)
        return over;
    double end_us = ahead_us / LINK_SHARE;
    uint32_t next = count;
    for (uint32_t i = first; i < count; i = next_due(turns, count, i)) {
        double own_us = end_us + turns[i].left_us / LINK_SHARE;
        if (now_ns + (int64_t)(own_us * (double)ATTN_NS_PER_US) > attn_turn_late_ns(&turns[i]))
            continue;
        end_us = own_us;
        next = next < count ? next : i;
    }
    return next < count ? next : first;
}
