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

static uint64_t hash_name(const char *name)
{
    uint64_t hash = UINT64_C(14695981039346656037);
    for (; *name != '\0'; name++) {
        hash = (hash ^ (unsigned char)*name) * UINT64_C(1099511628211);
    }
    return hash;
}

unix_region_t *unix_region_by_name(unix_conn_t *conn, const char *name)
{
    uint64_t hash = hash_name(name);
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

/* ---- registering ---- */

static attn_status_t take_device(const attn_unix_t *door, const char *device, attn_region_about_t *about,
                                 attn_error_t *err)
{
    attn_sched_view_t *view = malloc(sizeof *view);
    if (view == NULL) {
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for a region");
    }
    attn_sched_view(door->front->sched, view);
    attn_status_t status = attn_error_set(
        err, ATTN_ERR_NOT_FOUND, "there is no device of this UUID here; the answer to hello lists those there are");
    for (uint32_t i = 0; i < view->device_count; i++) {
        const attn_device_t *known = &view->devices[i].device;
        if (known->uuid[0] == '\0' || strcmp(known->uuid, device) != 0) {
            continue;
        }
        status = ATTN_OK;
        if (view->devices[i].state == ATTN_DEVICE_LOST) {
            status = attn_error_set(err, ATTN_ERR_UNAVAILABLE, "device %s is lost", known->uuid);
        }
        memcpy(about->device, known->uuid, sizeof about->device);
    }
    free(view);
    return status;
}

static attn_status_t take_handle(const ProtobufCBinaryData *handle, attn_region_about_t *about, attn_error_t *err)
{
    if (handle->len != sizeof about->handle) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "a CUDA IPC handle has %zu bytes; this one has %zu",
                              sizeof about->handle, handle->len);
    }
    memcpy(about->handle, handle->data, sizeof about->handle);
    return ATTN_OK;
}

static attn_status_t need_fds(uint32_t given, uint32_t needed, attn_error_t *err)
{
    if (given == needed) {
        return ATTN_OK;
    }
    return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                          needed == 1 ? "the registration needs exactly one descriptor with it; %u came"
                                      : "%u descriptors came with a registration that takes none",
                          given);
}

static attn_status_t check_quota(const unix_conn_t *conn, uint64_t bytes, attn_error_t *err)
{
    const attn_unix_t *door = conn->door;
    uint64_t all = attn_regions_host_bytes(door->regions);
    if (bytes > door->region_bytes_max || bytes > door->region_bytes_max - conn->host_bytes) {
        return attn_error_set(
            err, ATTN_ERR_TOO_LARGE,
            "the region has %llu bytes and %llu of the connection's %llu are left; release others, or "
            "start attnd with more --socket-region-bytes",
            (unsigned long long)bytes, (unsigned long long)(door->region_bytes_max - conn->host_bytes),
            (unsigned long long)door->region_bytes_max);
    }
    if (all > door->region_bytes_all_max || bytes > door->region_bytes_all_max - all) {
        return attn_error_set(err, ATTN_ERR_UNAVAILABLE,
                              "all clients together have registered %llu bytes; %llu more do not fit now",
                              (unsigned long long)all, (unsigned long long)bytes);
    }
    return ATTN_OK;
}

static attn_status_t take_allocate(unix_conn_t *conn, const Attn__V1__HostAllocate *message, unix_region_t *region,
                                   attn_error_t *err)
{
    if (message->bytes == 0 || message->bytes > UINT64_MAX / 2) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "a region of %llu bytes cannot be made",
                              (unsigned long long)message->bytes);
    }
    region->about.bytes = ATTN_WIRE_ROUND(message->bytes);
    attn_status_t status = check_quota(conn, region->about.bytes, err);
    return status == ATTN_OK ? attn_fd_memory("attnd-region", region->about.bytes, &region->about.fd, err) : status;
}

static attn_status_t take_memfd(unix_conn_t *conn, int *fds, uint32_t fd_count, unix_region_t *region,
                                attn_error_t *err)
{
    attn_status_t status = need_fds(fd_count, 1, err);
    if (status == ATTN_OK) {
        status = unix_memfd_check(fds[0], region->about.writable, &region->about.bytes, &region->device_id,
                                  &region->inode, err);
    }
    if (status == ATTN_OK) {
        status = check_quota(conn, region->about.bytes, err);
    }
    if (status == ATTN_OK) {
        region->about.fd = fds[0];
        fds[0] = -1;
    }
    return status;
}

static attn_status_t take_vmm(unix_conn_t *conn, const Attn__V1__VmmFd *message, int *fds, uint32_t fd_count,
                              unix_region_t *region, attn_error_t *err)
{
    attn_status_t status = need_fds(fd_count, 1, err);
    if (status == ATTN_OK && message->bytes == 0) {
        status = attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "the allocation's size is missing");
    }
    if (status == ATTN_OK) {
        status = take_device(conn->door, message->device, &region->about, err);
    }
    if (status == ATTN_OK) {
        region->about.kind = ATTN_REGION_VMM;
        region->about.bytes = message->bytes;
        region->about.fd = fds[0];
        fds[0] = -1;
    }
    return status;
}

static attn_status_t take_ipc(unix_conn_t *conn, const Attn__V1__CudaIpc *message, unix_region_t *region,
                              attn_error_t *err)
{
    if (message->bytes == 0 || message->base_offset > UINT64_MAX - message->bytes) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "the region's size is missing, or its offset too large");
    }
    if (message->base_offset % UNIX_ALIGNMENT != 0) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "base_offset %llu is not a multiple of %u",
                              (unsigned long long)message->base_offset, UNIX_ALIGNMENT);
    }
    region->about.kind = ATTN_REGION_IPC;
    region->about.bytes = message->bytes;
    region->about.base = message->base_offset;
    attn_status_t status = take_handle(&message->handle, &region->about, err);
    return status == ATTN_OK ? take_device(conn->door, message->device, &region->about, err) : status;
}

static attn_status_t take_memory(unix_conn_t *conn, const Attn__V1__RegisterRegion *message, int *fds,
                                 uint32_t fd_count, unix_region_t *region, attn_error_t *err)
{
    bool takes_fd = message->memory_case == ATTN__V1__REGISTER_REGION__MEMORY_MEMFD ||
                    message->memory_case == ATTN__V1__REGISTER_REGION__MEMORY_VMM_FD;
    attn_status_t status = takes_fd ? ATTN_OK : need_fds(fd_count, 0, err);
    if (status != ATTN_OK) {
        return status;
    }
    region->about.kind = ATTN_REGION_HOST;
    switch (message->memory_case) {
    case ATTN__V1__REGISTER_REGION__MEMORY_MEMFD:
        return take_memfd(conn, fds, fd_count, region, err);
    case ATTN__V1__REGISTER_REGION__MEMORY_ALLOCATE:
        return take_allocate(conn, message->allocate, region, err);
    case ATTN__V1__REGISTER_REGION__MEMORY_VMM_FD:
        return take_vmm(conn, message->vmm_fd, fds, fd_count, region, err);
    case ATTN__V1__REGISTER_REGION__MEMORY_CUDA_IPC:
        return take_ipc(conn, message->cuda_ipc, region, err);
    default:
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "the registration does not say what memory it is: memfd, allocate, vmm_fd or cuda_ipc");
    }
}

/* A free slot and its next id; ids of a slot are never used again. */
static bool take_slot(void *const *table, uint32_t *generations, uint32_t size, uint32_t *ret_slot, uint32_t *ret_id)
{
    for (uint32_t slot = 0; slot < size; slot++) {
        if (table[slot] == NULL && generations[slot] < UINT32_MAX / size) {
            *ret_slot = slot;
            *ret_id = ++generations[slot] * size + slot;
            return true;
        }
    }
    return false;
}

static attn_status_t check_count(const unix_conn_t *conn, attn_error_t *err)
{
    const attn_unix_t *door = conn->door;
    if (conn->region_count >= door->regions_max) {
        return attn_error_set(err, ATTN_ERR_UNAVAILABLE,
                              "this connection has %u regions and events already; release some, or put several tensors "
                              "into one",
                              conn->region_count);
    }
    if (atomic_load(&door->region_count) >= door->regions_all_max) {
        return attn_error_set(err, ATTN_ERR_UNAVAILABLE, "all clients together have %u regions and events already",
                              door->regions_all_max);
    }
    return ATTN_OK;
}

static attn_status_t take_head(unix_conn_t *conn, const Attn__V1__RegisterRegion *message, unix_region_t *region,
                               attn_error_t *err)
{
    attn_status_t status = attn_ask_set_name("region", message->name, false, region->name, err);
    if (status == ATTN_OK && message->access == ATTN__V1__REGION_ACCESS__REGION_ACCESS_UNSPECIFIED) {
        status = attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "access is missing: READ for inputs, READ_WRITE");
    }
    if (status == ATTN_OK && unix_region_by_name(conn, region->name) != NULL) {
        status =
            attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                           "region \"%s\" is registered already; release it first, or use another name", region->name);
    }
    if (status == ATTN_OK) {
        status = check_count(conn, err);
    }
    region->hash = hash_name(region->name);
    region->about.writable = message->access == ATTN__V1__REGION_ACCESS__REGION_ACCESS_READ_WRITE;
    return status;
}

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
static attn_status_t region_begin(unix_region_t *region, attn_error_t *err)
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

void unix_region_register(unix_conn_t *conn, uint64_t tag, const Attn__V1__RegisterRegion *message, int *fds,
                          uint32_t fd_count)
{
    attn_error_t err;
    uint32_t slot = 0;
    unix_region_t *region = calloc(1, sizeof *region);
    attn_status_t status = region != NULL ? ATTN_OK : attn_error_set(&err, ATTN_ERR_NO_MEMORY, "no memory");
    if (status == ATTN_OK) {
        region->conn = conn;
        region->tag = tag;
        region->about.fd = -1;
        status = take_head(conn, message, region, &err);
    }
    if (status == ATTN_OK) {
        status = take_memory(conn, message, fds, fd_count, region, &err);
    }
    if (status == ATTN_OK &&
        !take_slot((void *const *)conn->regions, conn->region_generation, UNIX_REGIONS_MAX, &slot, &region->id)) {
        status = attn_error_set(&err, ATTN_ERR_UNAVAILABLE, "this connection has used up its numbers for regions");
    }
    if (status == ATTN_OK) {
        status = region_begin(region, &err);
    }
    if (status != ATTN_OK) {
        if (region != NULL) {
            attn_fd_close(&region->about.fd);
        }
        free(region);
        unix_conn_refuse(conn, tag, &err);
        return;
    }
    conn->regions[slot] = region;
    /* Host memory is good as it is; what a worker makes of device memory has to be waited for. */
    if (region->about.kind == ATTN_REGION_HOST) {
        judge(region, ATTN_OK, "");
        unix_region_look(conn);
    }
}

void unix_event_register(unix_conn_t *conn, uint64_t tag, const Attn__V1__RegisterEvent *message)
{
    attn_error_t err;
    uint32_t slot = 0;
    unix_region_t *event = calloc(1, sizeof *event);
    attn_status_t status = event != NULL ? ATTN_OK : attn_error_set(&err, ATTN_ERR_NO_MEMORY, "no memory");
    if (status == ATTN_OK) {
        event->conn = conn;
        event->tag = tag;
        event->about = (attn_region_about_t){.kind = ATTN_REGION_EVENT, .fd = -1};
        status = check_count(conn, &err);
    }
    if (status == ATTN_OK) {
        status = take_handle(&message->handle, &event->about, &err);
    }
    if (status == ATTN_OK) {
        status = take_device(conn->door, message->device, &event->about, &err);
    }
    if (status == ATTN_OK &&
        !take_slot((void *const *)conn->events, conn->event_generation, UNIX_EVENTS_MAX, &slot, &event->id)) {
        status = attn_error_set(&err, ATTN_ERR_UNAVAILABLE, "this connection has %u events already", UNIX_EVENTS_MAX);
    }
    if (status == ATTN_OK) {
        status = region_begin(event, &err);
    }
    if (status != ATTN_OK) {
        free(event);
        unix_conn_refuse(conn, tag, &err);
        return;
    }
    conn->events[slot] = event;
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
