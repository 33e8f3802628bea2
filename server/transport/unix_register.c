/* transport/unix_register.c: what a client registers - memory or an event - from its packet to the workers. The door's
 * thread; what follows is unix_region.c. */
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "transport/unix_internal.h"

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
    region->hash = unix_region_hash(region->name);
    region->about.writable = message->access == ATTN__V1__REGION_ACCESS__REGION_ACCESS_READ_WRITE;
    return status;
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
        status = unix_region_begin(region, &err);
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
    /* Host memory is good as it is, unless it is to be pinned first; what a worker makes of device memory has to be
     * waited for. */
    if (region->about.kind == ATTN_REGION_HOST && !message->pinned) {
        unix_region_good(region);
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
        status = unix_region_begin(event, &err);
    }
    if (status != ATTN_OK) {
        free(event);
        unix_conn_refuse(conn, tag, &err);
        return;
    }
    conn->events[slot] = event;
}
