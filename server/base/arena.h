/* base/arena.h: shared memory that is handed out in extents of whole pages.
 *
 * attn_arena_t owns a memfd, sealed against shrinking and growing, and its mapping in this process. attn_extents_t is
 * the allocator under it, on its own so that it can be tested against a model. Neither locks: the owner does. */
#ifndef ATTND_BASE_ARENA_H
#define ATTND_BASE_ARENA_H

#include <stdbool.h>
#include <stdint.h>

#include "attn/status.h"

#define ATTN_ARENA_PAGE 4096u

/* Extents of [0, pages). Two-level segregated fit: allocate and free in constant time, neighbours merged at once, 16
 * size classes per power of two. A hole that was just freed is taken before untouched memory is, which keeps the pages
 * in use few, pinned and warm. */
typedef struct attn_extents attn_extents_t;
attn_status_t attn_extents_create(uint32_t pages, attn_extents_t **ret, attn_error_t *err);
void attn_extents_destroy(attn_extents_t *extents);                                    /* NULL is fine */
bool attn_extents_alloc(attn_extents_t *extents, uint32_t pages, uint32_t *ret_first); /* pages >= 1 */
void attn_extents_free(attn_extents_t *extents, uint32_t first);                       /* what alloc returned, once */
uint32_t attn_extents_used(const attn_extents_t *extents);                             /* pages */

typedef struct attn_arena attn_arena_t;

/* `bytes` is rounded up to pages; at most 8 TiB. `name` is seen in /proc/PID/maps. */
attn_status_t attn_arena_create(const char *name, uint64_t bytes, attn_arena_t **ret, attn_error_t *err);
void attn_arena_destroy(attn_arena_t *arena); /* NULL is fine */

/* An extent of at least `bytes` >= 1, page-aligned; false when no hole is large enough. */
bool attn_arena_alloc(attn_arena_t *arena, uint64_t bytes, uint64_t *ret_offset);
void attn_arena_free(attn_arena_t *arena, uint64_t offset);

int attn_arena_fd(const attn_arena_t *arena);
char *attn_arena_base(const attn_arena_t *arena);
uint64_t attn_arena_bytes(const attn_arena_t *arena);
uint64_t attn_arena_used(const attn_arena_t *arena); /* bytes, in whole pages */

#endif
