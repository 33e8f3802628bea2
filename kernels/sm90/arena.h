/* sm90/arena.h: one tensor map for the Q, K or V of all problems of a launch, wherever they are.
 *
 * An *arena* is a tensor whose outermost dimension is an address: one step along it is the largest power of two that
 * divides all distances. What lies beyond a problem's last row must read as zeros, and a map has one number of rows: so
 * every problem's last row is the map's last one, and its first row lies `rows - length` rows further on. Place 0 may
 * lie where no memory is: loads must have at least a row inside (H100: one that has none is a fault there, though it
 * reads nothing). Pure; host and device, any thread, owns nothing. */
#ifndef ATTN_SM90_ARENA_H
#define ATTN_SM90_ARENA_H

#include "scheduler.h"

/* What the device must know of an arena. */
typedef struct attn_sm90_origin {
    int64_t base;      /* address of place 0, row 0; need not be anyone's */
    uint32_t rows;     /* of the longest problem */
    uint32_t step_log; /* one place is 1 << step_log bytes */
} attn_sm90_origin_t;

typedef struct attn_sm90_arena {
    attn_sm90_origin_t origin;
    int64_t stride;  /* bytes from row to row */
    uint32_t places; /* extent of the outermost dimension */
} attn_sm90_arena_t;

/* Arenas of a launch. */
typedef struct attn_sm90_arenas {
    attn_sm90_arena_t q, k, v;
} attn_sm90_arenas_t;

/* The place in an arena of a problem of `length` rows that has row 0 at `address`; rows are `stride` bytes apart. */
ATTN_SM90_BOTH int32_t attn_sm90_arena_place(const attn_sm90_origin_t *origin, int64_t stride, int64_t address,
                                             int32_t length)
{
    const int64_t first = address - ((int64_t)origin->rows - length) * stride;
    return (int32_t)((first - origin->base) >> origin->step_log);
}

#ifdef __cplusplus
extern "C" {
#endif

/* Finds arenas for the group's problems, which all have output. False, and `ret_arenas` is undefined, when there are
 * none: heads, head dim or the strides of rows and heads differ, a problem has no keys, or they are too far apart. */
bool attn_sm90_arenas_find(const attn_group_t *group, attn_sm90_arenas_t *ret_arenas);

#ifdef __cplusplus
}
#endif
#endif
