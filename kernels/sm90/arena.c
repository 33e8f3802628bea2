/* sm90/arena.c: finds the tensor that the Q, K or V of all problems of a launch lie in. Pure; owns nothing. */
#include "arena.h"

/* TMA takes coordinates below 2^31, and addresses in multiples of 16 bytes. */
#define PLACES_MAX INT64_C(0x7fffffff)
#define STEP_LOG_MIN 4u
#define STEP_LOG_MAX 30u

/* A tensor of a problem, as far as arenas care. */
typedef struct part {
    const attn_view_t *view;
    int64_t length;
    uint32_t heads, batch;
} part_t;

typedef part_t part_of_fn(const attn_problem_t *p);

static part_t part_q(const attn_problem_t *p)
{
    return (part_t){&p->q, p->s_q, p->h_q, p->batch};
}

static part_t part_k(const attn_problem_t *p)
{
    return (part_t){&p->k, p->s_kv, p->h_kv, p->batch};
}

static part_t part_v(const attn_problem_t *p)
{
    return (part_t){&p->v, p->s_kv, p->h_kv, p->batch};
}

/* The rows' stride is that of a problem with more than one row; heads' strides must agree where there are several. */
static bool strides_agree(const attn_group_t *group, part_of_fn *part_of, attn_sm90_arena_t *arena)
{
    part_t first = part_of(&group->problems[0]);

    arena->stride = 16;
    arena->origin.rows = 1;
    for (uint32_t i = 0; i < group->count; i++) {
        part_t part = part_of(&group->problems[i]);
        int64_t stride = part.view->stride_s * 2;

        if (part.length < 1 || (part.heads > 1 && part.view->stride_h != first.view->stride_h))
            return false;
        if (part.length == 1)
            continue;
        if (arena->origin.rows > 1 && stride != arena->stride)
            return false;
        arena->stride = stride;
        if (part.length > arena->origin.rows)
            arena->origin.rows = (uint32_t)part.length;
    }
    return true;
}

static int64_t first_of(const attn_sm90_arena_t *arena, const part_t *part)
{
    return (int64_t)(uintptr_t)part->view->data - ((int64_t)arena->origin.rows - part->length) * arena->stride;
}

static bool find(const attn_group_t *group, part_of_fn *part_of, attn_sm90_arena_t *arena)
{
    int64_t distances = INT64_C(1) << STEP_LOG_MAX, most = 0;

    if (!strides_agree(group, part_of, arena))
        return false;
    arena->origin.base = INT64_MAX;
    for (uint32_t i = 0; i < group->count; i++) {
        part_t part = part_of(&group->problems[i]);
        int64_t first = first_of(arena, &part);

        arena->origin.base = first < arena->origin.base ? first : arena->origin.base;
    }
    if (arena->origin.base <= 0)
        return false;
    for (uint32_t i = 0; i < group->count; i++) {
        part_t part = part_of(&group->problems[i]);
        int64_t batch = part.batch > 1 ? part.view->stride_b * 2 : 0;
        int64_t first = first_of(arena, &part) - arena->origin.base;
        int64_t last = first + batch * ((int64_t)part.batch - 1);

        distances |= first | batch;
        most = last > most ? last : most;
    }
    arena->origin.step_log = (uint32_t)__builtin_ctzll((uint64_t)distances);
    most >>= arena->origin.step_log;
    arena->places = (uint32_t)(most + 1);
    return arena->origin.step_log >= STEP_LOG_MIN && most < PLACES_MAX;
}

bool attn_sm90_arenas_find(const attn_group_t *group, attn_sm90_arenas_t *ret_arenas)
{
    const attn_problem_t *first = group->problems;

    for (uint32_t i = 1; i < group->count; i++) {
        const attn_problem_t *p = &group->problems[i];

        if (p->h_q != first->h_q || p->h_kv != first->h_kv || p->d != first->d)
            return false;
    }
    return find(group, part_q, &ret_arenas->q) && find(group, part_k, &ret_arenas->k) &&
           find(group, part_v, &ret_arenas->v);
}
