/* region.c: memory that is registered with the daemon, and registered again on a new connection. Any thread;
 * a region owns its descriptor and, for host memory, its mapping. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "http_jobs.h"

/* The message that registers a region, with all that it points to. It must not move. */
typedef struct region_message {
    Attn__V1__SocketRequest request;
    Attn__V1__RegisterRegion region;
    Attn__V1__HostMemfd memfd;
    Attn__V1__HostAllocate allocate;
    Attn__V1__VmmFd vmm;
    Attn__V1__CudaIpc ipc;
} region_message_t;

static void region_message(attn_region_t *region, region_message_t *message)
{
    attn__v1__socket_request__init(&message->request);
    attn__v1__register_region__init(&message->region);
    message->request.what_case = ATTN__V1__SOCKET_REQUEST__WHAT_REGISTER_REGION;
    message->request.register_region = &message->region;
    message->region.name = region->name;
    message->region.access = region->access;
    message->region.memory_case = region->kind;
    switch (region->kind) {
    case ATTN__V1__REGISTER_REGION__MEMORY_ALLOCATE:
        attn__v1__host_allocate__init(&message->allocate);
        message->allocate.bytes = region->bytes;
        message->region.allocate = &message->allocate;
        break;
    case ATTN__V1__REGISTER_REGION__MEMORY_VMM_FD:
        attn__v1__vmm_fd__init(&message->vmm);
        message->vmm.device = region->device;
        message->vmm.bytes = region->bytes;
        message->region.vmm_fd = &message->vmm;
        break;
    case ATTN__V1__REGISTER_REGION__MEMORY_CUDA_IPC:
        attn__v1__cuda_ipc__init(&message->ipc);
        message->ipc.device = region->device;
        message->ipc.handle = (ProtobufCBinaryData){sizeof(region->handle), region->handle};
        message->ipc.base_offset = region->base_offset;
        message->ipc.bytes = region->bytes;
        message->region.cuda_ipc = &message->ipc;
        break;
    default:
        attn__v1__host_memfd__init(&message->memfd);
        message->region.memfd = &message->memfd;
        break;
    }
}

attn_status_t attn_regions_register(attn_local_t *local, attn_client_error_t *err)
{
    Attn__V1__SocketAnswer *answer = NULL;
    int fds[ATTN_LINK_FDS], fd_count = 0, timeout_ms = local->options.stall_timeout_ms;
    for (attn_region_t *region = local->regions; region != NULL; region = region->next) {
        region_message_t message;
        region->id = 0;
        if (region->kind == ATTN__V1__REGISTER_REGION__MEMORY_ALLOCATE) {
            continue; /* its first registration is under way */
        }
        region_message(region, &message);
        message.request.tag = 1;
        attn_status_t status = attn_link_exchange(&local->link, &message.request, region->fd, timeout_ms, &answer, fds,
                                                  &fd_count, &region->error);
        if (status == ATTN_ERR_CONNECTION || status == ATTN_ERR_TIMEOUT) {
            if (err != NULL) {
                *err = region->error;
            }
            return status;
        }
        if (status == ATTN_OK) {
            region->id = answer->what_case == ATTN__V1__SOCKET_ANSWER__WHAT_REGION_REGISTERED
                             ? answer->region_registered->id
                             : 0;
            attn_link_answer_drop(answer, fds, fd_count);
        }
    }
    return ATTN_OK;
}

static void region_free(attn_region_t *region)
{
    if (region->mapped) {
        munmap(region->base, region->bytes);
    }
    if (region->fd >= 0) {
        close(region->fd);
    }
    free(region);
}

void attn_regions_forget(attn_local_t *local)
{
    while (local->regions != NULL) {
        attn_region_t *region = local->regions;
        local->regions = region->next;
        region_free(region);
    }
    attn_events_forget(local);
    while (local->stages != NULL) { /* their regions went above */
        attn_stage_t *stage = local->stages;
        local->stages = stage->next;
        free(stage);
    }
}

attn_region_t *attn_region_find(attn_local_t *local, const void *address)
{
    for (attn_region_t *region = local->regions; region != NULL; region = region->next) {
        if (region->base != NULL && (uintptr_t)address - (uintptr_t)region->base < region->bytes) {
            return region;
        }
    }
    return NULL;
}

static void region_unlink(attn_region_t **list, attn_region_t *region)
{
    attn_region_t **at = list;
    while (*at != region) {
        at = &(*at)->next;
    }
    *at = region->next;
}

static attn_region_t *region_new(attn_local_t *local, attn_client_error_t *err)
{
    attn_region_t *region = calloc(1, sizeof(*region));
    if (region == NULL) {
        attn_client_fail(err, ATTN_ERR_NO_MEMORY, "no memory for a region");
        return NULL;
    }
    region->local = local;
    region->fd = -1;
    region->access = ATTN__V1__REGION_ACCESS__REGION_ACCESS_READ_WRITE;
    region->kind = ATTN__V1__REGISTER_REGION__MEMORY_MEMFD;
    return region;
}

/* Maps host memory of ours or of the caller's. */
static attn_status_t region_map(attn_region_t *region, attn_client_error_t *err)
{
    int protection = region->access == ATTN__V1__REGION_ACCESS__REGION_ACCESS_READ ? PROT_READ : PROT_READ | PROT_WRITE;
    void *base = mmap(NULL, region->bytes, protection, MAP_SHARED | MAP_POPULATE, region->fd, 0);
    if (base == MAP_FAILED) {
        return attn_client_fail(err, ATTN_ERR_SYSTEM, "cannot map %llu bytes of a region: %s",
                                (unsigned long long)region->bytes, strerror(errno));
    }
    region->base = base;
    region->mapped = true;
    return ATTN_OK;
}

/* Registers a new region and gives it to the caller; frees it on failure. */
static attn_status_t region_register(attn_local_t *local, attn_region_t *region, attn_region_t **ret,
                                     attn_client_error_t *err)
{
    region_message_t message;
    Attn__V1__SocketAnswer *answer = NULL;
    attn_client_error_t error;
    int fds[ATTN_LINK_FDS] = {-1}, fd_count = 0;
    pthread_mutex_lock(&local->lock);
    snprintf(region->name, sizeof(region->name), "r%llu", (unsigned long long)++local->region_serial);
    attn_status_t status = attn_local_connect(local, &error);
    region->next = local->regions;
    local->regions = region;
    region_message(region, &message);
    message.region.pinned = local->options.pinned && (region->kind == ATTN__V1__REGISTER_REGION__MEMORY_MEMFD ||
                                                      region->kind == ATTN__V1__REGISTER_REGION__MEMORY_ALLOCATE);
    pthread_mutex_unlock(&local->lock);
    if (status == ATTN_OK) {
        status = attn_local_call(local, &message.request, region->fd, &answer, fds, &fd_count, &error);
    }
    bool by_daemon = region->kind == ATTN__V1__REGISTER_REGION__MEMORY_ALLOCATE;
    if (status == ATTN_OK &&
        (answer->what_case != ATTN__V1__SOCKET_ANSWER__WHAT_REGION_REGISTERED || answer->region_registered->id == 0 ||
         fd_count != (by_daemon ? 1 : 0) || answer->region_registered->bytes < region->bytes)) {
        status = attn_client_fail(&error, ATTN_ERR_INTERNAL, "the daemon answered what was not asked");
    }
    pthread_mutex_lock(&local->lock);
    if (status == ATTN_OK && by_daemon) {
        region->fd = fds[0];
        region->bytes = answer->region_registered->bytes;
        fd_count = 0;
        status = region_map(region, &error);
    }
    if (status == ATTN_OK) {
        region->id = answer->region_registered->id;
        region->kind = by_daemon ? ATTN__V1__REGISTER_REGION__MEMORY_MEMFD : region->kind;
    } else if (region->id != 0) {
        status = ATTN_OK; /* that connection ended, and a new one has registered it already */
    } else {
        region_unlink(&local->regions, region);
    }
    pthread_mutex_unlock(&local->lock);
    if (answer != NULL) {
        attn_link_answer_drop(answer, fds, fd_count);
    }
    if (status != ATTN_OK) {
        region_free(region);
        if (err != NULL) {
            *err = error;
        }
        return status;
    }
    *ret = region;
    return ATTN_OK;
}

/* Registers it, or, over HTTP, where nobody is to be told, keeps it for the client's end. */
static attn_status_t region_offer(attn_client_t *client, attn_region_t *region, attn_region_t **ret,
                                  attn_client_error_t *err)
{
    if (region->local != NULL) {
        return region_register(region->local, region, ret, err);
    }
    region->http = attn_client_http_jobs(client);
    pthread_mutex_lock(&region->http->lock);
    region->next = region->http->regions;
    region->http->regions = region;
    pthread_mutex_unlock(&region->http->lock);
    *ret = region;
    return ATTN_OK;
}

/* A sealed memfd whose blocks are there. */
static attn_status_t memfd_make(attn_region_t *region, attn_client_error_t *err)
{
    region->fd = memfd_create("attn-region", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (region->fd < 0 || ftruncate(region->fd, (off_t)region->bytes) != 0 ||
        fallocate(region->fd, 0, 0, (off_t)region->bytes) != 0 ||
        fcntl(region->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        int code = errno;
        return attn_client_fail(err, code == ENOSPC || code == ENOMEM ? ATTN_ERR_NO_MEMORY : ATTN_ERR_SYSTEM,
                                "cannot make a region of %llu bytes: %s", (unsigned long long)region->bytes,
                                strerror(code));
    }
    return region_map(region, err);
}

/* Host memory of ours, or, `by_daemon`, a place for it, not registered yet. */
static attn_status_t host_make(attn_local_t *local, uint64_t bytes, bool by_daemon, attn_region_t **ret,
                               attn_client_error_t *err)
{
    const uint64_t page = 4096;
    if (bytes == 0 || bytes > INT64_MAX - page) {
        return attn_client_fail(err, ATTN_ERR_INVALID_ARGUMENT, "a region of %llu bytes cannot be made",
                                (unsigned long long)bytes);
    }
    attn_region_t *region = region_new(local, err);
    if (region == NULL) {
        return ATTN_ERR_NO_MEMORY;
    }
    region->bytes = (bytes + page - 1) / page * page;
    region->kind = by_daemon ? ATTN__V1__REGISTER_REGION__MEMORY_ALLOCATE : ATTN__V1__REGISTER_REGION__MEMORY_MEMFD;
    attn_status_t status = by_daemon ? ATTN_OK : memfd_make(region, err);
    if (status != ATTN_OK) {
        region_free(region);
        return status;
    }
    *ret = region;
    return ATTN_OK;
}

attn_status_t attn_local_allocate(attn_local_t *local, uint64_t bytes, attn_region_t **ret, attn_client_error_t *err)
{
    attn_region_t *region = NULL;
    attn_status_t status = host_make(local, bytes, false, &region, err);
    return status == ATTN_OK ? region_register(local, region, ret, err) : status;
}

attn_status_t attn_region_allocate(attn_client_t *client, uint64_t bytes, bool by_daemon, attn_region_t **ret,
                                   attn_client_error_t *err)
{
    attn_local_t *local = attn_client_local(client);
    attn_region_t *region = NULL;
    attn_status_t status = host_make(local, bytes, by_daemon && local != NULL, &region, err);
    return status == ATTN_OK ? region_offer(client, region, ret, err) : status;
}

static attn_status_t access_set(attn_region_t *region, attn_region_access_t access, attn_client_error_t *err)
{
    if (access != ATTN_REGION_READ && access != ATTN_REGION_READ_WRITE) {
        return attn_client_fail(err, ATTN_ERR_INVALID_ARGUMENT, "access is %d; it must be an attn_region_access_t",
                                (int)access);
    }
    region->access = (Attn__V1__RegionAccess)access; /* the same numbers */
    return ATTN_OK;
}

static attn_status_t fd_take(attn_region_t *region, int fd, attn_client_error_t *err)
{
    region->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    return region->fd >= 0
               ? ATTN_OK
               : attn_client_fail(err, ATTN_ERR_INVALID_ARGUMENT, "descriptor %d of a region: %s", fd, strerror(errno));
}

attn_status_t attn_region_import_memfd(attn_client_t *client, int fd, attn_region_access_t access, attn_region_t **ret,
                                       attn_client_error_t *err)
{
    attn_local_t *local = attn_client_local(client);
    attn_region_t *region = region_new(local, err);
    struct stat about;
    if (region == NULL) {
        return ATTN_ERR_NO_MEMORY;
    }
    attn_status_t status = access_set(region, access, err);
    if (status == ATTN_OK) {
        status = fd_take(region, fd, err);
    }
    if (status == ATTN_OK && (fstat(fd, &about) != 0 || !S_ISREG(about.st_mode) || about.st_size <= 0)) {
        status = attn_client_fail(err, ATTN_ERR_INVALID_ARGUMENT, "descriptor %d is no memfd with a size", fd);
    }
    if (status == ATTN_OK) {
        region->bytes = (uint64_t)about.st_size;
        status = region_map(region, err);
    }
    if (status != ATTN_OK) {
        region_free(region);
        return status;
    }
    return region_offer(client, region, ret, err);
}

/* What both kinds of CUDA memory share. */
static attn_status_t cuda_region(attn_local_t *local, const char *device, void *base, uint64_t bytes,
                                 attn_region_access_t access, attn_region_t **ret, attn_client_error_t *err)
{
    attn_region_t *region = region_new(local, err);
    if (region == NULL) {
        return ATTN_ERR_NO_MEMORY;
    }
    region->base = base;
    region->bytes = bytes;
    attn_status_t status = access_set(region, access, err);
    if (status == ATTN_OK && (device == NULL || base == NULL || bytes == 0)) {
        status = attn_client_fail(err, ATTN_ERR_INVALID_ARGUMENT,
                                  "CUDA memory needs its device's UUID, its address and its size");
    }
    if (status != ATTN_OK) {
        region_free(region);
        return status;
    }
    attn_wire_text(region->device, sizeof(region->device), device);
    *ret = region;
    return ATTN_OK;
}

attn_status_t attn_region_import_cuda_fd(attn_client_t *client, int fd, const char *device, void *base, uint64_t bytes,
                                         attn_region_access_t access, attn_region_t **ret, attn_client_error_t *err)
{
    attn_local_t *local = attn_local_of(client, "CUDA memory", err);
    attn_region_t *region = NULL;
    if (local == NULL) {
        return ATTN_ERR_UNIMPLEMENTED;
    }
    attn_status_t status = cuda_region(local, device, base, bytes, access, &region, err);
    if (status != ATTN_OK) {
        return status;
    }
    region->kind = ATTN__V1__REGISTER_REGION__MEMORY_VMM_FD;
    status = fd_take(region, fd, err);
    if (status != ATTN_OK) {
        region_free(region);
        return status;
    }
    return region_register(local, region, ret, err);
}

attn_status_t attn_region_import_cuda_ipc(attn_client_t *client, const void *handle, const char *device, void *base,
                                          uint64_t base_offset, uint64_t bytes, attn_region_access_t access,
                                          attn_region_t **ret, attn_client_error_t *err)
{
    attn_local_t *local = attn_local_of(client, "CUDA memory", err);
    attn_region_t *region = NULL;
    if (local == NULL) {
        return ATTN_ERR_UNIMPLEMENTED;
    }
    attn_status_t status = cuda_region(local, device, base, bytes, access, &region, err);
    if (status != ATTN_OK) {
        return status;
    }
    region->kind = ATTN__V1__REGISTER_REGION__MEMORY_CUDA_IPC;
    region->base_offset = base_offset;
    memcpy(region->handle, handle, sizeof(region->handle));
    return region_register(local, region, ret, err);
}

void *attn_region_data(const attn_region_t *region)
{
    return region->base;
}

uint64_t attn_region_bytes(const attn_region_t *region)
{
    return region->bytes;
}

void attn_region_release(attn_region_t *region)
{
    if (region == NULL) {
        return;
    }
    attn_local_t *local = region->local;
    if (local == NULL) {
        pthread_mutex_lock(&region->http->lock);
        region_unlink(&region->http->regions, region);
        pthread_mutex_unlock(&region->http->lock);
        region_free(region);
        return;
    }
    Attn__V1__ReleaseRegion release = ATTN__V1__RELEASE_REGION__INIT;
    Attn__V1__SocketRequest request = ATTN__V1__SOCKET_REQUEST__INIT;
    Attn__V1__SocketAnswer *answer = NULL;
    int fds[ATTN_LINK_FDS], fd_count = 0;
    pthread_mutex_lock(&local->lock);
    region_unlink(&local->regions, region);
    bool known = local->connected && region->id != 0;
    pthread_mutex_unlock(&local->lock);
    request.what_case = ATTN__V1__SOCKET_REQUEST__WHAT_RELEASE_REGION;
    request.release_region = &release;
    release.name = region->name;
    /* A connection that has ended has released it. */
    if (known && attn_local_call(local, &request, -1, &answer, fds, &fd_count, NULL) == ATTN_OK) {
        attn_link_answer_drop(answer, fds, fd_count);
    }
    region_free(region);
}
