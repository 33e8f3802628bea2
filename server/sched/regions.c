/* sched/regions.c: see regions.h. */
#include "sched/regions.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/fd.h"

typedef enum slot_state { SLOT_FREE, SLOT_LIVE, SLOT_DROPPED } slot_state_t;

typedef enum slot_wait { WAIT_NONE, WAIT_WANTED, WAIT_ASKED } slot_wait_t;

typedef struct slot {
    slot_state_t state;
    slot_wait_t wait; /* for an event */
    bool dirty;       /* is in the list of what to look at */
    uint32_t holds;   /* links that have it */
    attn_region_about_t about;
    attn_region_told_fn told;
    void *told_arg;
    bool was_told;
    attn_region_gone_fn gone;
    void *gone_arg;
} slot_t;

struct attn_regions {
    void (*wake)(void *arg);
    void *wake_arg;
    pthread_mutex_t lock;
    atomic_bool changed;
    uint32_t high, free_count, dirty_count; /* slots below `high` have been used */
    uint32_t free_slots[ATTN_REGIONS_MAX], dirty[ATTN_REGIONS_MAX];
    uint64_t host_bytes;
    slot_t slot[ATTN_REGIONS_MAX];
};

attn_status_t attn_regions_create(void (*wake)(void *arg), void *wake_arg, attn_regions_t **ret, attn_error_t *err)
{
    attn_regions_t *regions = calloc(1, sizeof *regions); /* 4 MiB that are touched as they are used */
    if (!regions)
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for the table of regions");
    regions->wake = wake;
    regions->wake_arg = wake_arg;
    pthread_mutex_init(&regions->lock, NULL);
    *ret = regions;
    return ATTN_OK;
}

void attn_regions_destroy(attn_regions_t *regions)
{
    if (!regions)
        return;
    for (uint32_t i = 0; i < regions->high; i++)
        if (regions->slot[i].state != SLOT_FREE)
            attn_fd_close(&regions->slot[i].about.fd);
    pthread_mutex_destroy(&regions->lock);
    free(regions);
}

static bool bit(const uint64_t *set, uint32_t i)
{
    return set[i / 64] >> i % 64 & 1;
}

static void bit_set(uint64_t *set, uint32_t i, bool on)
{
    uint64_t mask = UINT64_C(1) << i % 64;
    set[i / 64] = on ? set[i / 64] | mask : set[i / 64] & ~mask;
}

static void mark(attn_regions_t *regions, uint32_t i)
{
    if (regions->slot[i].dirty)
        return;
    regions->slot[i].dirty = true;
    regions->dirty[regions->dirty_count++] = i;
    atomic_store(&regions->changed, true);
}

attn_status_t attn_regions_add(attn_regions_t *regions, const attn_region_about_t *about, attn_region_told_fn told,
                               void *arg, uint32_t *ret_number, attn_error_t *err)
{
    pthread_mutex_lock(&regions->lock);
    if (regions->free_count == 0 && regions->high == ATTN_REGIONS_MAX) {
        pthread_mutex_unlock(&regions->lock);
        return attn_error_set(err, ATTN_ERR_UNAVAILABLE, "%u regions are registered already, by all clients together",
                              ATTN_REGIONS_MAX);
    }
    uint32_t i = regions->free_count > 0 ? regions->free_slots[--regions->free_count] : regions->high++;
    slot_t *slot = &regions->slot[i];
    *slot = (slot_t){.state = SLOT_LIVE, .dirty = slot->dirty, .about = *about, .told = told, .told_arg = arg};
    if (about->kind == ATTN_REGION_HOST)
        regions->host_bytes += about->bytes;
    mark(regions, i);
    pthread_mutex_unlock(&regions->lock);
    *ret_number = ATTN_REGION_CLIENT_FIRST + i;
    regions->wake(regions->wake_arg);
    return ATTN_OK;
}

void attn_regions_drop(attn_regions_t *regions, uint32_t number, attn_region_gone_fn gone, void *arg)
{
    uint32_t i = number - ATTN_REGION_CLIENT_FIRST;
    pthread_mutex_lock(&regions->lock);
    slot_t *slot = &regions->slot[i];
    slot->state = SLOT_DROPPED;
    slot->told = NULL;
    slot->gone = gone;
    slot->gone_arg = arg;
    mark(regions, i);
    pthread_mutex_unlock(&regions->lock);
    regions->wake(regions->wake_arg);
}

void attn_regions_await(attn_regions_t *regions, uint32_t number)
{
    uint32_t i = number - ATTN_REGION_CLIENT_FIRST;
    pthread_mutex_lock(&regions->lock);
    regions->slot[i].wait = WAIT_WANTED;
    mark(regions, i);
    pthread_mutex_unlock(&regions->lock);
    regions->wake(regions->wake_arg);
}

const char *attn_regions_device(const attn_regions_t *regions, uint32_t number)
{
    return regions->slot[number - ATTN_REGION_CLIENT_FIRST].about.device;
}

uint64_t attn_regions_base(const attn_regions_t *regions, uint32_t number)
{
    return regions->slot[number - ATTN_REGION_CLIENT_FIRST].about.base;
}

uint32_t attn_regions_count(attn_regions_t *regions)
{
    pthread_mutex_lock(&regions->lock);
    uint32_t count = regions->high - regions->free_count;
    pthread_mutex_unlock(&regions->lock);
    return count;
}

uint64_t attn_regions_host_bytes(attn_regions_t *regions)
{
    pthread_mutex_lock(&regions->lock);
    uint64_t bytes = regions->host_bytes;
    pthread_mutex_unlock(&regions->lock);
    return bytes;
}

/* ---- the scheduler's thread ---- */

bool attn_regions_changed(const attn_regions_t *regions)
{
    return atomic_load_explicit(&regions->changed, memory_order_relaxed);
}

/* Returns false when the socket is full. A worker that is gone is found out elsewhere. */
static bool order_send(const attn_region_link_t *link, const attn_region_order_t *order, int fd)
{
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec part = {(void *)(uintptr_t)order, sizeof *order};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (fd >= 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = sizeof control.bytes;
        struct cmsghdr *head = CMSG_FIRSTHDR(&message);
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(head), &fd, sizeof fd);
    }
    ssize_t sent;
    do {
        sent = sendmsg(link->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    /* ETOOMANYREFS: more descriptors on their way than a process may have. */
    return sent >= 0 || (errno != EAGAIN && errno != ETOOMANYREFS && errno != ENOBUFS && errno != ENOMEM);
}

static bool add_send(attn_regions_t *regions, attn_region_link_t *link, uint32_t i)
{
    slot_t *slot = &regions->slot[i];
    attn_region_order_t order = {
        .op = ATTN_REGION_ADD,
        .number = ATTN_REGION_CLIENT_FIRST + i,
        .kind = slot->about.kind,
        .writable = slot->about.writable,
        .bytes = slot->about.bytes,
        .base = slot->about.base,
    };
    memcpy(order.handle, slot->about.handle, sizeof order.handle);
    if (!order_send(link, &order, slot->about.fd))
        return false;
    bit_set(link->held, i, true);
    slot->holds++;
    return true;
}

static bool wanted(const slot_t *slot, const attn_region_link_t *link)
{
    return link->serve && (slot->about.kind == ATTN_REGION_HOST || strcmp(slot->about.device, link->device) == 0);
}

/* Returns whether the slot has to be looked at again. */
static bool slot_sync(attn_regions_t *regions, uint32_t i, attn_region_link_t *const *links, uint32_t count)
{
    slot_t *slot = &regions->slot[i];
    bool again = false;
    for (uint32_t n = 0; n < count; n++) {
        attn_region_link_t *link = links[n];
        if (link->fd < 0 || !link->open)
            continue;
        if (slot->state == SLOT_LIVE && wanted(slot, link) && !bit(link->held, i))
            again = !add_send(regions, link, i) || again;
        if (slot->state == SLOT_LIVE && slot->wait == WAIT_WANTED && bit(link->held, i)) {
            attn_region_order_t order = {.op = ATTN_REGION_AWAIT, .number = ATTN_REGION_CLIENT_FIRST + i};
            if (order_send(link, &order, -1))
                slot->wait = WAIT_ASKED;
            else
                again = true;
        }
        if (slot->state == SLOT_DROPPED && bit(link->held, i) && !bit(link->dropping, i)) {
            attn_region_order_t order = {.op = ATTN_REGION_DROP, .number = ATTN_REGION_CLIENT_FIRST + i};
            if (order_send(link, &order, -1))
                bit_set(link->dropping, i, true);
            else
                again = true;
        }
    }
    return again;
}

typedef struct ending {
    attn_region_gone_fn gone;
    void *arg;
} ending_t;

static ending_t slot_free(attn_regions_t *regions, uint32_t i)
{
    slot_t *slot = &regions->slot[i];
    ending_t ending = {slot->gone, slot->gone_arg};
    attn_fd_close(&slot->about.fd);
    if (slot->about.kind == ATTN_REGION_HOST)
        regions->host_bytes -= slot->about.bytes;
    slot->state = SLOT_FREE;
    regions->free_slots[regions->free_count++] = i;
    return ending;
}

bool attn_regions_sync(attn_regions_t *regions, attn_region_link_t *const *links, uint32_t count)
{
    enum { AT_ONCE = 64 };
    bool again = false;
    for (bool more = true; more;) {
        ending_t endings[AT_ONCE];
        uint32_t ended = 0, kept = 0, looked = 0;
        pthread_mutex_lock(&regions->lock);
        atomic_store(&regions->changed, false);
        uint32_t dirty = regions->dirty_count;
        for (; looked < dirty && ended < AT_ONCE; looked++) {
            uint32_t i = regions->dirty[looked];
            slot_t *slot = &regions->slot[i];
            if (slot->state != SLOT_FREE && slot_sync(regions, i, links, count)) {
                regions->dirty[kept++] = i;
                continue;
            }
            slot->dirty = false;
            if (slot->state == SLOT_DROPPED && slot->holds == 0)
                endings[ended++] = slot_free(regions, i);
        }
        memmove(regions->dirty + kept, regions->dirty + looked, (dirty - looked) * sizeof regions->dirty[0]);
        regions->dirty_count = kept + dirty - looked;
        more = looked < dirty;
        again = again || kept > 0;
        pthread_mutex_unlock(&regions->lock);
        for (uint32_t n = 0; n < ended; n++)
            if (endings[n].gone)
                endings[n].gone(endings[n].arg);
    }
    return again;
}

bool attn_regions_ensure(attn_regions_t *regions, attn_region_link_t *link, uint32_t number)
{
    uint32_t i = number - ATTN_REGION_CLIENT_FIRST;
    if (bit(link->held, i))
        return true;
    pthread_mutex_lock(&regions->lock);
    bool sent = add_send(regions, link, i);
    pthread_mutex_unlock(&regions->lock);
    return sent;
}

static bool report_valid(const attn_region_link_t *link, const attn_region_report_t *report)
{
    uint32_t i = report->number - ATTN_REGION_CLIENT_FIRST;
    return report->number >= ATTN_REGION_CLIENT_FIRST && i < ATTN_REGIONS_MAX && report->status <= 0 &&
           memchr(report->message, '\0', sizeof report->message) != NULL &&
           (report->op == ATTN_REGION_DROP
                ? bit(link->dropping, i)
                : (report->op == ATTN_REGION_ADD || report->op == ATTN_REGION_AWAIT) && bit(link->held, i));
}

bool attn_regions_collect(attn_regions_t *regions, attn_region_link_t *link, bool *ret_garbage)
{
    attn_region_report_t report;
    ssize_t got = recv(link->fd, &report, sizeof report, MSG_DONTWAIT | MSG_TRUNC);
    *ret_garbage = false;
    if (got <= 0)
        return false; /* nothing, or the end, which the process tells too */
    if (got != (ssize_t)sizeof report || !report_valid(link, &report)) {
        *ret_garbage = true;
        return true;
    }
    uint32_t i = report.number - ATTN_REGION_CLIENT_FIRST;
    slot_t *slot = &regions->slot[i];
    pthread_mutex_lock(&regions->lock);
    if (report.op == ATTN_REGION_DROP) {
        bit_set(link->held, i, false);
        bit_set(link->dropping, i, false);
        slot->holds--;
        mark(regions, i);
    } else if (report.op == ATTN_REGION_AWAIT) {
        if (slot->told && slot->wait == WAIT_ASKED) {
            slot->wait = WAIT_NONE;
            slot->told(slot->told_arg, ATTN_REGION_AWAIT, report.status, report.message);
        }
    } else if (slot->told && (!slot->was_told || report.status != ATTN_OK)) {
        /* Under the lock: a drop afterwards means that it is not called any more. */
        slot->was_told = true;
        slot->told(slot->told_arg, ATTN_REGION_ADD, report.status, report.message);
    }
    pthread_mutex_unlock(&regions->lock);
    return true;
}

void attn_regions_link_begin(attn_regions_t *regions, attn_region_link_t *link)
{
    pthread_mutex_lock(&regions->lock);
    for (uint32_t i = 0; i < regions->high && link->serve; i++)
        if (regions->slot[i].state == SLOT_LIVE)
            mark(regions, i);
    pthread_mutex_unlock(&regions->lock);
    link->open = true;
}

void attn_regions_link_end(attn_regions_t *regions, attn_region_link_t *link)
{
    pthread_mutex_lock(&regions->lock);
    for (uint32_t i = 0; i < regions->high; i++)
        if (bit(link->held, i)) {
            regions->slot[i].holds--;
            if (regions->slot[i].wait == WAIT_ASKED)
                regions->slot[i].wait = WAIT_WANTED;
            mark(regions, i);
        }
    pthread_mutex_unlock(&regions->lock);
    memset(link->held, 0, sizeof link->held);
    memset(link->dropping, 0, sizeof link->dropping);
    link->open = false;
    attn_fd_close(&link->fd);
}
