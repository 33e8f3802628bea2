/* sched/quarantine.h: which variants have killed a worker they had to themselves, and for how long they stay out.
 * Any thread (one short mutex); times are handed in, so that tests own the clock. */
#ifndef ATTND_SCHED_QUARANTINE_H
#define ATTND_SCHED_QUARANTINE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "sched/sched.h"

typedef struct attn_quarantine_entry {
    const attn_variant_info_t *variant; /* NULL: a free cell */
    uint32_t strikes;
    int64_t first_ns;        /* of the strikes counted */
    int64_t active_until_ns; /* 0: not in quarantine */
    char why[256];
} attn_quarantine_entry_t;

typedef struct attn_quarantine {
    pthread_mutex_t lock;
    atomic_uint used; /* lets the hot path skip the lock while nothing has gone wrong */
    uint32_t strikes;
    int64_t window_ns, duration_ns;
    attn_quarantine_entry_t entry[ATTN_SCHED_QUARANTINE_MAX];
} attn_quarantine_t;

/* `strikes` within `window_ns` quarantine a variant for `duration_ns`. */
void attn_quarantine_init(attn_quarantine_t *quarantine, uint32_t strikes, int64_t window_ns, int64_t duration_ns);
void attn_quarantine_destroy(attn_quarantine_t *quarantine);

/* Counts one; returns whether the variant is in quarantine now. When the table is full the oldest entry goes. */
bool attn_quarantine_strike(attn_quarantine_t *quarantine, const attn_variant_info_t *variant, int64_t now_ns,
                            const char *why);

/* Strikes that still count; *ret_active (may be NULL) whether it is in quarantine, with a sentence fragment in
 * `detail` (may be NULL). */
uint32_t attn_quarantine_look(attn_quarantine_t *quarantine, const attn_variant_info_t *variant, int64_t now_ns,
                              bool *ret_active, char *detail, size_t detail_size);

attn_status_t attn_quarantine_clear(attn_quarantine_t *quarantine, const attn_variant_info_t *variant, int64_t now_ns);
uint32_t attn_quarantine_view(attn_quarantine_t *quarantine, int64_t now_ns,
                              attn_quarantine_view_t ret[ATTN_SCHED_QUARANTINE_MAX]);

#endif
