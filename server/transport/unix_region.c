/* transport/unix_region.c: regions and events of a connection. The door's thread; told() and gone() come on the
 * scheduler's.
 *
 * A region is in the table from its registration to its release; released, it waits in the list of busy ones until no
 * request uses it, then until no worker has it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/text.h"
#include "transport/unix_internal.h"

#define ALLOCATE_STEP (UINT64_C(8) << 20)

uint64_t unix_region_hash(const char *name)
{
    uint64_t hash = UINT64_C(14695981039346656037);
    for (; *name != '\0'; name++) {
        hash = (hash ^ (unsigned char)*name) * UINT64_C(1099511628211);
    }
    return hash;
}

unix_region_t *unix_region_by_name(unix_conn_t *conn, const char *name)
{
    uint64_t hash = unix_region_hash(name);
    for (uint32_t i = 0; i < UNIX_REGIONS_MAX; i++) {
        unix_region_t *region = conn->regions[i];
        if (region != NULL && region->hash == hash && strcmp(region->name, name) == 0) {
            return region;
        }
    }
    return NULL;
}

unix_region_t *unix_region_by_id(unix_conn_t *conn, uint32_t id)
{
    unix_region_t *region = conn->regions[id % UNIX_REGIONS_MAX];
    return region != NULL && region->id == id ? region : NULL;
}

unix_region_t *unix_event_by_id(unix_conn_t *conn, uint32_t id)
{
    unix_region_t *event = conn->events[id % UNIX_EVENTS_MAX];
    return event != NULL && event->id == id ? event : NULL;
}

attn_status_t unix_region_usable(const unix_region_t *region, attn_error_t *err)
{
    const char *what = region->name[0] != '\0' ? region->name : "an event";
    switch (atomic_load(&region->told)) {
    case UNIX_TOLD_GOOD:
        return ATTN_OK;
    case UNIX_TOLD_BAD:
        return attn_error_set(err, region->error.status, "region \"%s\" is lost: %.400s", what, region->error.message);
    default:
        return attn_error_set(err, ATTN_ERR_FAILED_PRECONDITION,
                              "region \"%s\" is not registered yet: wait for the answer to its registration", what);
    }
}

/* Good once, bad for good. Any thread. */
static void judge(unix_region_t *region, attn_status_t status, const char *message)
{
    pthread_mutex_lock(&region->conn->lock);
    if (status != ATTN_OK && atomic_load(&region->told) != UNIX_TOLD_BAD) {
        attn_error_set(&region->error, status, "%s", message);
        atomic_store(&region->told, UNIX_TOLD_BAD);
    } else if (status == ATTN_OK && atomic_load(&region->told) == UNIX_TOLD_NOT_YET) {
        atomic_store(&region->told, UNIX_TOLD_GOOD);
    }
    pthread_mutex_unlock(&region->conn->lock);
}

/* ---- the scheduler's thread ---- */

static void told(void *arg, attn_region_op_t op, attn_status_t status, const char *message)
{
    unix_region_t *region = arg;
    if (op == ATTN_REGION_AWAIT) {
        if (status != ATTN_OK) {
            judge(region, status, message);
        }
        atomic_store(&region->reached, status == ATTN_OK ? UNIX_TOLD_GOOD : UNIX_TOLD_BAD);
    } else {
        judge(region, status, message);
    }
    unix_conn_mail(region->conn);
}

static void gone(void *arg)
{
    unix_region_t *region = arg;
    unix_conn_t *conn = region->conn;
    /* The lock keeps the connection until the mail is in: unix_conn_reap() takes it. */
    pthread_mutex_lock(&conn->lock);
    atomic_store(&region->gone, true);
    unix_conn_mail(conn);
    pthread_mutex_unlock(&conn->lock);
}

/* ---- beginning and end ---- */

static void region_free(unix_region_t *region)
{
    unix_conn_t *conn = region->conn;
    if (region->about.kind == ATTN_REGION_HOST) {
        conn->host_bytes -= region->about.bytes;
        atomic_fetch_sub(&conn->door->region_bytes, region->about.bytes);
    }
    conn->region_count--;
    atomic_fetch_sub(&conn->door->region_count, 1);
    free(region);
}

/* Counts it and hands it to the workers. */
attn_status_t unix_region_begin(unix_region_t *region, attn_error_t *err)
{
    unix_conn_t *conn = region->conn;
    attn_status_t status = attn_regions_add(conn->door->regions, &region->about, told, region, &region->number, err);
    if (status != ATTN_OK) {
        return status;
    }
    conn->region_count++;
    atomic_fetch_add(&conn->door->region_count, 1);
    if (region->about.kind == ATTN_REGION_HOST) {
        conn->host_bytes += region->about.bytes;
        atomic_fetch_add(&conn->door->region_bytes, region->about.bytes);
    }
    region->registering = true;
    region->next_busy = conn->busy;
    conn->busy = region;
    return ATTN_OK;
}

void unix_region_good(unix_region_t *region)
{
    judge(region, ATTN_OK, "");
}

/* ---- releasing ---- */

static void forget(unix_region_t *region)
{
    unix_region_t **table = region->about.kind == ATTN_REGION_EVENT ? region->conn->events : region->conn->regions;
    uint32_t size = region->about.kind == ATTN_REGION_EVENT ? UNIX_EVENTS_MAX : UNIX_REGIONS_MAX;
    table[region->id % size] = NULL;
}

static void release(unix_region_t *region)
{
    unix_conn_t *conn = region->conn;
    forget(region);
    atomic_store(&region->released, true);
    if (!region->registering) { /* else it is in the list already */
        region->next_busy = conn->busy;
        conn->busy = region;
    }
    region->registering = false;
}

static void release_answered(unix_conn_t *conn, unix_region_t *region, uint64_t tag)
{
    release(region);
    region->tag = tag;
    region->answers = true;
    unix_region_look(conn);
}

void unix_region_release(unix_conn_t *conn, uint64_t tag, const char *name)
{
    unix_region_t *region = unix_region_by_name(conn, name);
    if (region != NULL && !region->registering) {
        release_answered(conn, region, tag);
        return;
    }
    char quoted[80];
    attn_error_t err;
    attn_text_quote(quoted, sizeof quoted, name, strlen(name));
    attn_error_set(&err, ATTN_ERR_NOT_FOUND, "region \"%s\" is not known on this connection", quoted);
    unix_conn_refuse(conn, tag, &err);
}

void unix_event_release(unix_conn_t *conn, uint64_t tag, uint32_t id)
{
    unix_region_t *event = unix_event_by_id(conn, id);
    if (event != NULL && !event->registering) {
        release_answered(conn, event, tag);
        return;
    }
    attn_error_t err;
    attn_error_set(&err, ATTN_ERR_NOT_FOUND, "event %u is not known on this connection", id);
    unix_conn_refuse(conn, tag, &err);
}

void unix_region_release_all(unix_conn_t *conn)
{
    for (uint32_t i = 0; i < UNIX_REGIONS_MAX; i++) {
        if (conn->regions[i] != NULL) {
            release(conn->regions[i]);
        }
    }
    for (uint32_t i = 0; i < UNIX_EVENTS_MAX; i++) {
        if (conn->events[i] != NULL) {
            release(conn->events[i]);
        }
    }
}

/* ---- going on ---- */

static void answer_registered(unix_region_t *region)
{
    unix_conn_t *conn = region->conn;
    Attn__V1__SocketAnswer answer = ATTN__V1__SOCKET_ANSWER__INIT;
    Attn__V1__RegionRegistered registered = ATTN__V1__REGION_REGISTERED__INIT;
    Attn__V1__EventRegistered event = ATTN__V1__EVENT_REGISTERED__INIT;
    answer.tag = region->tag;
    if (region->about.kind == ATTN_REGION_EVENT) {
        event.id = region->id;
        answer.what_case = ATTN__V1__SOCKET_ANSWER__WHAT_EVENT_REGISTERED;
        answer.event_registered = &event;
    } else {
        registered.id = region->id;
        registered.bytes = region->about.bytes;
        answer.what_case = ATTN__V1__SOCKET_ANSWER__WHAT_REGION_REGISTERED;
        answer.region_registered = &registered;
    }
    /* A memfd without an inode of the client's is one that was made here. */
    bool made = region->about.kind == ATTN_REGION_HOST && region->inode == 0;
    unix_conn_answer(conn, &answer, &region->about.fd, made ? 1 : 0);
}

static void answer_released(const unix_region_t *region)
{
    Attn__V1__SocketAnswer answer = ATTN__V1__SOCKET_ANSWER__INIT;
    Attn__V1__RegionReleased released = ATTN__V1__REGION_RELEASED__INIT;
    Attn__V1__EventReleased event = ATTN__V1__EVENT_RELEASED__INIT;
    answer.tag = region->tag;
    if (region->about.kind == ATTN_REGION_EVENT) {
        answer.what_case = ATTN__V1__SOCKET_ANSWER__WHAT_EVENT_RELEASED;
        answer.event_released = &event;
    } else {
        answer.what_case = ATTN__V1__SOCKET_ANSWER__WHAT_REGION_RELEASED;
        answer.region_released = &released;
    }
    unix_conn_answer(region->conn, &answer, NULL, 0);
}

/* A memfd that is made here gets its memory before the client sees it: a client that comes back with it after a restart
 * of the daemon may register it as its own. Returns whether there is more to do; it then comes again by mail, because
 * 64 MiB take 10 ms and others wait. */
static bool allocate_step(unix_region_t *region)
{
    uint64_t left = region->about.bytes - region->allocated, step = left < ALLOCATE_STEP ? left : ALLOCATE_STEP;
    if (region->inode != 0 || region->about.kind != ATTN_REGION_HOST || left == 0 ||
        atomic_load(&region->told) == UNIX_TOLD_BAD) {
        return false;
    }
    bool made = fallocate(region->about.fd, 0, (off_t)region->allocated, (off_t)step) == 0;
    if (!made && errno != EINTR) {
        char why[96];
        snprintf(why, sizeof why, "%llu bytes cannot be made: %s", (unsigned long long)region->about.bytes,
                 strerror(errno));
        judge(region, ATTN_ERR_NO_MEMORY, why);
        return false;
    }
    region->allocated += made ? step : 0;
    unix_conn_mail(region->conn);
    return true;
}

/* Returns whether the region stays busy. */
static bool region_step(unix_region_t *region)
{
    unix_conn_t *conn = region->conn;
    if (region->registering) {
        if (allocate_step(region)) {
            return true;
        }
        unix_told_t state = atomic_load(&region->told);
        if (state == UNIX_TOLD_NOT_YET) {
            return true;
        }
        /* The connection may end in the answer, and release what is in its table. */
        region->registering = false;
        if (state == UNIX_TOLD_GOOD) {
            answer_registered(region);
            return false;
        }
        forget(region);
        atomic_store(&region->released, true);
        unix_conn_refuse(conn, region->tag, &region->error);
    }
    if (!region->dropping) {
        if (atomic_load(&region->uses) > 0) {
            return true;
        }
        region->dropping = true;
        attn_regions_drop(conn->door->regions, region->number, gone, region);
    }
    if (!atomic_load(&region->gone)) {
        return true;
    }
    if (region->answers) {
        answer_released(region);
    }
    region_free(region);
    return false;
}

void unix_region_look(unix_conn_t *conn)
{
    unix_region_t *list = conn->busy, *next;
    conn->busy = NULL;
    for (unix_region_t *region = list; region != NULL; region = next) {
        next = region->next_busy;
        /* While the socket is full, answers wait here. */
        if ((conn->pending != NULL && !conn->closing) || region_step(region)) {
            region->next_busy = conn->busy;
            conn->busy = region;
        }
    }
}
