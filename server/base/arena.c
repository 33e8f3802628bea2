/* base/arena.c: see arena.h.
 *
 * Bookkeeping is one record per page, of which only those at the ends of an extent are ever touched: the array is
 * mapped, not zeroed, so an idle 8 GiB arena costs no memory for it. */
#include "base/arena.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/fd.h"

enum { STEPS_LOG2 = 4, STEPS = 1 << STEPS_LOG2, LEVELS = 32 - STEPS_LOG2 + 1 };
/* Bounds the only search: among extents of the request's own class, some of which are too short. */
enum { SAME_CLASS_TRIES = 256 };
#define NOWHERE UINT32_MAX

typedef enum page_state {
    PAGE_INSIDE = 0,
    PAGE_FREE_FIRST,
    PAGE_FREE_LAST,
    PAGE_USED_FIRST,
    PAGE_USED_LAST
} page_state_t;

/* `length` is valid at the first and the last page of an extent; `next` and `prev` (in the class's list) at the first
 * page of a free one. An extent of one page has only its first record; state tells. */
typedef struct page {
    uint32_t length, next, prev;
    uint32_t state;
} page_t;

struct attn_extents {
    page_t *page;
    size_t map_bytes;
    uint32_t pages, used;
    uint32_t levels_with_free;
    uint32_t steps_with_free[LEVELS];
    uint32_t head[LEVELS][STEPS];
};

/* The class whose extents have `length` pages: below STEPS one class per length, above STEPS per power of two. */
static void class_of(uint32_t length, uint32_t *level, uint32_t *step)
{
    if (length < STEPS) {
        *level = 0;
        *step = length;
        return;
    }
    uint32_t log2 = 31u - (uint32_t)__builtin_clz(length);
    *level = log2 - STEPS_LOG2 + 1;
    *step = (length >> (log2 - STEPS_LOG2)) & (STEPS - 1);
}

static void mark(attn_extents_t *x, uint32_t first, uint32_t length, page_state_t first_state, page_state_t last_state)
{
    page_t *last = &x->page[first + length - 1];
    last->length = length;
    last->state = last_state;
    x->page[first].length = length;
    x->page[first].state = first_state;
}

static void insert(attn_extents_t *x, uint32_t first, uint32_t length)
{
    uint32_t level, step;
    class_of(length, &level, &step);
    mark(x, first, length, PAGE_FREE_FIRST, PAGE_FREE_LAST);
    uint32_t head = x->steps_with_free[level] & (1u << step) ? x->head[level][step] : NOWHERE;
    x->page[first].next = head;
    x->page[first].prev = NOWHERE;
    if (head != NOWHERE)
        x->page[head].prev = first;
    x->head[level][step] = first;
    x->steps_with_free[level] |= 1u << step;
    x->levels_with_free |= 1u << level;
}

static void take(attn_extents_t *x, uint32_t first)
{
    uint32_t level, step;
    const page_t *page = &x->page[first];
    class_of(page->length, &level, &step);
    if (page->next != NOWHERE)
        x->page[page->next].prev = page->prev;
    if (page->prev != NOWHERE) {
        x->page[page->prev].next = page->next;
    } else if (page->next != NOWHERE) {
        x->head[level][step] = page->next;
    } else {
        x->steps_with_free[level] &= ~(1u << step);
        if (x->steps_with_free[level] == 0)
            x->levels_with_free &= ~(1u << level);
    }
}

attn_status_t attn_extents_create(uint32_t pages, attn_extents_t **ret, attn_error_t *err)
{
    if (pages == 0 || pages > UINT32_MAX / 2)
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "an arena has 1 to 2^31 pages, not %u", pages);
    attn_extents_t *x = calloc(1, sizeof *x);
    if (!x)
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for an arena's bookkeeping");
    x->pages = pages;
    x->map_bytes = (size_t)pages * sizeof *x->page;
    x->page = mmap(NULL, x->map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (x->page == MAP_FAILED) {
        free(x);
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for an arena's bookkeeping");
    }
    insert(x, 0, pages);
    *ret = x;
    return ATTN_OK;
}

void attn_extents_destroy(attn_extents_t *extents)
{
    if (!extents)
        return;
    munmap(extents->page, extents->map_bytes);
    free(extents);
}

/* A free extent of at least `pages`, or NOWHERE: the first of the smallest class whose every member is large enough;
 * else any that fits in the class that `pages` itself belongs to. */
static uint32_t find(const attn_extents_t *x, uint32_t pages)
{
    uint32_t level, step;
    uint32_t rounded = pages;
    if (pages >= STEPS) {
        uint32_t grain = (1u << (31u - (uint32_t)__builtin_clz(pages) - STEPS_LOG2)) - 1;
        rounded = pages + grain;
    }
    class_of(rounded, &level, &step);
    uint32_t steps = x->levels_with_free & (1u << level) ? x->steps_with_free[level] & (~0u << step) : 0;
    if (steps == 0) {
        uint32_t levels = level + 1 < LEVELS ? x->levels_with_free & (~0u << (level + 1)) : 0;
        if (levels != 0) {
            level = (uint32_t)__builtin_ctz(levels);
            steps = x->steps_with_free[level];
        }
    }
    if (steps != 0)
        return x->head[level][__builtin_ctz(steps)];
    class_of(pages, &level, &step);
    if ((x->steps_with_free[level] & (1u << step)) == 0)
        return NOWHERE;
    uint32_t at = x->head[level][step];
    for (int tries = 0; at != NOWHERE && tries < SAME_CLASS_TRIES; tries++, at = x->page[at].next)
        if (x->page[at].length >= pages)
            return at;
    return NOWHERE;
}

bool attn_extents_alloc(attn_extents_t *x, uint32_t pages, uint32_t *ret_first)
{
    if (pages == 0 || pages > x->pages)
        return false;
    uint32_t first = find(x, pages);
    if (first == NOWHERE)
        return false;
    uint32_t length = x->page[first].length;
    take(x, first);
    mark(x, first, pages, PAGE_USED_FIRST, PAGE_USED_LAST);
    if (length > pages)
        insert(x, first + pages, length - pages);
    x->used += pages;
    *ret_first = first;
    return true;
}

void attn_extents_free(attn_extents_t *x, uint32_t first)
{
    uint32_t length = x->page[first].length;
    x->used -= length;
    uint32_t end = first + length;
    if (first > 0) {
        const page_t *before = &x->page[first - 1];
        if (before->state == PAGE_FREE_LAST || (before->state == PAGE_FREE_FIRST && before->length == 1)) {
            uint32_t before_first = first - before->length;
            take(x, before_first);
            first = before_first;
        }
    }
    if (end < x->pages && x->page[end].state == PAGE_FREE_FIRST) {
        uint32_t after_length = x->page[end].length;
        take(x, end);
        end += after_length;
    }
    insert(x, first, end - first);
}

uint32_t attn_extents_used(const attn_extents_t *extents)
{
    return extents->used;
}

struct attn_arena {
    int fd;
    char *base;
    uint64_t bytes;
    attn_extents_t *extents;
};

attn_status_t attn_arena_create(const char *name, uint64_t bytes, attn_arena_t **ret, attn_error_t *err)
{
    if (bytes == 0 || bytes > (UINT64_C(1) << 43))
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "an arena has 1 byte to 8 TiB, not %llu bytes",
                              (unsigned long long)bytes);
    attn_arena_t *arena = calloc(1, sizeof *arena);
    if (!arena)
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for an arena");
    arena->fd = -1;
    arena->bytes = (bytes + ATTN_ARENA_PAGE - 1) / ATTN_ARENA_PAGE * ATTN_ARENA_PAGE;
    attn_status_t status = attn_fd_memory(name, arena->bytes, &arena->fd, err);
    if (status == ATTN_OK)
        status = attn_extents_create((uint32_t)(arena->bytes / ATTN_ARENA_PAGE), &arena->extents, err);
    if (status == ATTN_OK) {
        arena->base = mmap(NULL, arena->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, arena->fd, 0);
        if (arena->base == MAP_FAILED) {
            arena->base = NULL;
            status = attn_error_set(err, ATTN_ERR_NO_MEMORY, "cannot map an arena of %llu bytes: %s",
                                    (unsigned long long)arena->bytes, strerror(errno));
        }
    }
    if (status != ATTN_OK) {
        attn_arena_destroy(arena);
        return status;
    }
    *ret = arena;
    return ATTN_OK;
}

void attn_arena_destroy(attn_arena_t *arena)
{
    if (!arena)
        return;
    if (arena->base)
        munmap(arena->base, arena->bytes);
    attn_extents_destroy(arena->extents);
    attn_fd_close(&arena->fd);
    free(arena);
}

bool attn_arena_alloc(attn_arena_t *arena, uint64_t bytes, uint64_t *ret_offset)
{
    uint32_t first;
    if (bytes > arena->bytes ||
        !attn_extents_alloc(arena->extents, (uint32_t)((bytes + ATTN_ARENA_PAGE - 1) / ATTN_ARENA_PAGE), &first))
        return false;
    *ret_offset = (uint64_t)first * ATTN_ARENA_PAGE;
    return true;
}

void attn_arena_free(attn_arena_t *arena, uint64_t offset)
{
    attn_extents_free(arena->extents, (uint32_t)(offset / ATTN_ARENA_PAGE));
}

int attn_arena_fd(const attn_arena_t *arena)
{
    return arena->fd;
}

char *attn_arena_base(const attn_arena_t *arena)
{
    return arena->base;
}

uint64_t attn_arena_bytes(const attn_arena_t *arena)
{
    return arena->bytes;
}

uint64_t attn_arena_used(const attn_arena_t *arena)
{
    return (uint64_t)attn_extents_used(arena->extents) * ATTN_ARENA_PAGE;
}
