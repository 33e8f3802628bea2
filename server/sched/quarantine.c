/* sched/quarantine.c: see quarantine.h. */
#include "sched/quarantine.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"

void attn_quarantine_init(attn_quarantine_t *quarantine, uint32_t strikes, int64_t window_ns, int64_t duration_ns)
{
    memset(quarantine, 0, sizeof *quarantine);
    pthread_mutex_init(&quarantine->lock, NULL);
    quarantine->strikes = strikes;
    quarantine->window_ns = window_ns;
    quarantine->duration_ns = duration_ns;
}

void attn_quarantine_destroy(attn_quarantine_t *quarantine)
{
    pthread_mutex_destroy(&quarantine->lock);
}

static void forget(attn_quarantine_t *q, attn_quarantine_entry_t *entry)
{
    memset(entry, 0, sizeof *entry);
    atomic_fetch_sub(&q->used, 1);
}

/* Drops entries whose quarantine, or whose window without one, is over. */
static void expire(attn_quarantine_t *q, int64_t now_ns)
{
    for (int i = 0; i < ATTN_SCHED_QUARANTINE_MAX; i++) {
        attn_quarantine_entry_t *entry = &q->entry[i];
        int64_t end = entry->active_until_ns ? entry->active_until_ns : entry->first_ns + q->window_ns;
        if (entry->variant && now_ns >= end)
            forget(q, entry);
    }
}

static attn_quarantine_entry_t *find(attn_quarantine_t *q, const attn_variant_info_t *variant)
{
    for (int i = 0; i < ATTN_SCHED_QUARANTINE_MAX; i++)
        if (q->entry[i].variant == variant)
            return &q->entry[i];
    return NULL;
}

static attn_quarantine_entry_t *find_or_add(attn_quarantine_t *q, const attn_variant_info_t *variant, int64_t now_ns)
{
    attn_quarantine_entry_t *entry = find(q, variant);
    if (entry)
        return entry;
    entry = find(q, NULL);
    if (!entry) {
        entry = &q->entry[0];
        for (int i = 1; i < ATTN_SCHED_QUARANTINE_MAX; i++)
            if (q->entry[i].first_ns < entry->first_ns)
                entry = &q->entry[i];
        forget(q, entry);
    }
    entry->variant = variant;
    entry->first_ns = now_ns;
    atomic_fetch_add(&q->used, 1);
    return entry;
}

bool attn_quarantine_strike(attn_quarantine_t *q, const attn_variant_info_t *variant, int64_t now_ns, const char *why)
{
    pthread_mutex_lock(&q->lock);
    expire(q, now_ns);
    attn_quarantine_entry_t *entry = find_or_add(q, variant, now_ns);
    entry->strikes++;
    snprintf(entry->why, sizeof entry->why, "%s", why);
    if (entry->strikes >= q->strikes)
        entry->active_until_ns = now_ns + q->duration_ns;
    bool active = entry->active_until_ns != 0;
    pthread_mutex_unlock(&q->lock);
    return active;
}

uint32_t attn_quarantine_look(attn_quarantine_t *q, const attn_variant_info_t *variant, int64_t now_ns,
                              bool *ret_active, char *detail, size_t detail_size)
{
    if (ret_active)
        *ret_active = false;
    if (atomic_load(&q->used) == 0)
        return 0;
    pthread_mutex_lock(&q->lock);
    expire(q, now_ns);
    const attn_quarantine_entry_t *entry = find(q, variant);
    uint32_t strikes = entry ? entry->strikes : 0;
    if (entry && entry->active_until_ns) {
        if (ret_active)
            *ret_active = true;
        if (detail)
            snprintf(detail, detail_size, "quarantined for %lld s more after %u failures, the last: %s",
                     (long long)((entry->active_until_ns - now_ns + ATTN_NS_PER_S - 1) / ATTN_NS_PER_S), strikes,
                     entry->why);
    }
    pthread_mutex_unlock(&q->lock);
    return strikes;
}

attn_status_t attn_quarantine_clear(attn_quarantine_t *q, const attn_variant_info_t *variant, int64_t now_ns)
{
    pthread_mutex_lock(&q->lock);
    expire(q, now_ns);
    attn_quarantine_entry_t *entry = variant ? find(q, variant) : NULL;
    if (entry)
        forget(q, entry);
    pthread_mutex_unlock(&q->lock);
    return entry ? ATTN_OK : ATTN_ERR_NOT_FOUND;
}

uint32_t attn_quarantine_view(attn_quarantine_t *q, int64_t now_ns,
                              attn_quarantine_view_t ret[ATTN_SCHED_QUARANTINE_MAX])
{
    uint32_t count = 0;
    pthread_mutex_lock(&q->lock);
    expire(q, now_ns);
    for (int i = 0; i < ATTN_SCHED_QUARANTINE_MAX; i++) {
        const attn_quarantine_entry_t *entry = &q->entry[i];
        if (!entry->variant)
            continue;
        int64_t end = entry->active_until_ns ? entry->active_until_ns : entry->first_ns + q->window_ns;
        attn_quarantine_view_t *view = &ret[count++];
        *view = (attn_quarantine_view_t){.variant = entry->variant,
                                         .strikes = entry->strikes,
                                         .active = entry->active_until_ns != 0,
                                         .expires_in_ms = (end - now_ns) / ATTN_NS_PER_MS};
        memcpy(view->why, entry->why, sizeof view->why);
    }
    pthread_mutex_unlock(&q->lock);
    return count;
}
