/* worker/engine_cuda_clients.c: memory and events of colocated clients on the GPU (worker/client_memory.h): host memory
 * is pinned in pieces, device memory is imported and used where it is. The regions' thread, beside the main one; what
 * both touch is under engine->ranges->lock.
 *
 * A handle that is no good - of another GPU, of another size, of a process that is gone - is an error of its own
 * region: none of the calls here leaves an error in the context that others would meet. */
#include "worker/engine_cuda.h"

#include <cuda.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "base/clock.h"
#include "base/fd.h"
#include "cuda/cuda.h"

enum { UNPIN_REST = 3 };

/* The driver's functions, looked up at run time: this program links the runtime only. */
typedef struct driver {
    CUresult (*import)(CUmemGenericAllocationHandle *handle, void *os_handle, CUmemAllocationHandleType type);
    CUresult (*properties)(CUmemAllocationProp *properties, CUmemGenericAllocationHandle handle);
    CUresult (*release)(CUmemGenericAllocationHandle handle);
    CUresult (*reserve)(CUdeviceptr *ptr, size_t size, size_t alignment, CUdeviceptr addr, unsigned long long flags);
    CUresult (*unreserve)(CUdeviceptr ptr, size_t size);
    CUresult (*map)(CUdeviceptr ptr, size_t size, size_t offset, CUmemGenericAllocationHandle handle,
                    unsigned long long flags);
    CUresult (*unmap)(CUdeviceptr ptr, size_t size);
    CUresult (*access)(CUdeviceptr ptr, size_t size, const CUmemAccessDesc *desc, size_t count);
    CUresult (*range)(CUdeviceptr *base, size_t *size, CUdeviceptr ptr);
    CUresult (*text)(CUresult error, const char **text);
} driver_t;

static bool driver_find(const char *name, unsigned version, void **ret)
{
    enum cudaDriverEntryPointQueryResult result;
    cudaError_t rc = cudaGetDriverEntryPointByVersion(name, ret, version, cudaEnableDefault, &result);
    return rc == cudaSuccess && result == cudaDriverEntryPointSuccess && *ret;
}

static const driver_t *driver_get(attn_error_t *err)
{
    static driver_t driver; /* the regions' thread only */
    const struct {
        const char *name;
        unsigned version;
        void **place;
    } rows[] = {
        {"cuMemImportFromShareableHandle", 10020, (void **)&driver.import},
        {"cuMemGetAllocationPropertiesFromHandle", 10020, (void **)&driver.properties},
        {"cuMemRelease", 10020, (void **)&driver.release},
        {"cuMemAddressReserve", 10020, (void **)&driver.reserve},
        {"cuMemAddressFree", 10020, (void **)&driver.unreserve},
        {"cuMemMap", 10020, (void **)&driver.map},
        {"cuMemUnmap", 10020, (void **)&driver.unmap},
        {"cuMemSetAccess", 10020, (void **)&driver.access},
        {"cuMemGetAddressRange", 3020, (void **)&driver.range},
        {"cuGetErrorString", 6000, (void **)&driver.text},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (!*rows[i].place && !driver_find(rows[i].name, rows[i].version, rows[i].place)) {
            cudaGetLastError();
            attn_error_set(err, ATTN_ERR_UNIMPLEMENTED, "the CUDA driver of this host has no %s", rows[i].name);
            return NULL;
        }
    return &driver;
}

static attn_status_t driver_failed(const driver_t *driver, CUresult rc, const char *what, attn_error_t *err)
{
    const char *text = NULL;
    if (rc == CUDA_SUCCESS)
        return ATTN_OK;
    driver->text(rc, &text);
    return attn_error_set(err, rc == CUDA_ERROR_OUT_OF_MEMORY ? ATTN_ERR_NO_MEMORY : ATTN_ERR_INVALID_ARGUMENT,
                          "%s: %s", what, text ? text : "an unknown error");
}

static attn_status_t runtime_failed(cudaError_t rc, const char *what, attn_error_t *err)
{
    if (rc == cudaSuccess)
        return ATTN_OK;
    cudaGetLastError(); /* not sticky */
    return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "%s: %s", what, cudaGetErrorString(rc));
}

/* ---- host memory ---- */

static attn_status_t host_add(attn_engine_t *engine, attn_client_region_t *region, attn_error_t *err)
{
    if (!region->host)
        return ATTN_OK; /* the lab class maps what a job needs, and pins nothing */
    attn_cuda_range_t *range = calloc(1, sizeof *range);
    if (!range)
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for a region");
    range->host = range->mapped = region->host;
    range->bytes = region->about.bytes;
    range->first = ATTN_CUDA_PIN_PIECE;
    range->read_only = !region->about.writable;
    if (!attn_cuda_ranges_link(engine->ranges, range)) {
        free(range);
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for a region");
    }
    region->engine = range;
    return ATTN_OK;
}

static bool host_pin(attn_engine_t *engine, attn_client_region_t *region, int64_t *ret_ns)
{
    attn_cuda_range_t *range = region->engine;
    cudaSetDevice(0);
    attn_cuda_ranges_lock(engine->ranges);
    int64_t began = attn_clock_ns();
    attn_cuda_range_pin(range);
    *ret_ns = attn_clock_ns() - began;
    if (range->closed && range->pinned == 0 && range->read_only) {
        /* A driver that cannot pin what this process may not write gets a mapping that it may, if the client gave that
         * much; jobs go on to see the other one. */
        void *map = mmap(NULL, range->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, region->fd, 0);
        range->read_only = false;
        range->closed = map == MAP_FAILED;
        range->mapped = map == MAP_FAILED ? range->host : map;
    }
    bool more = !range->closed && range->pinned < range->bytes;
    attn_cuda_ranges_unlock(engine->ranges);
    return more;
}

static void host_drop(attn_engine_t *engine, attn_client_region_t *region)
{
    attn_cuda_range_t *range = region->engine;
    if (!range)
        return;
    attn_cuda_ranges_unlink(engine->ranges, range);
    /* Unpinning stalls launches as pinning does: it rests as long, too. */
    for (uint64_t at = 0; at < range->pinned; at += ATTN_CUDA_PIN_PIECE) {
        int64_t began = attn_clock_ns();
        cudaHostUnregister(range->mapped + at);
        int64_t rest = UNPIN_REST * (attn_clock_ns() - began);
        if (at + ATTN_CUDA_PIN_PIECE < range->pinned)
            nanosleep(&(struct timespec){rest / ATTN_NS_PER_S, rest % ATTN_NS_PER_S}, NULL);
    }
    range->pinned = 0;
    attn_cuda_range_unpin(range);
    free(range);
}

/* ---- device memory ---- */

static attn_status_t vmm_check(const driver_t *driver, CUmemGenericAllocationHandle handle, attn_error_t *err)
{
    CUmemAllocationProp about = {0};
    attn_status_t status = driver_failed(driver, driver->properties(&about, handle),
                                         "the exported memory cannot be asked what it is", err);
    if (status == ATTN_OK && about.location.type != CU_MEM_LOCATION_TYPE_DEVICE)
        status = attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "the exported memory does not lie on a GPU");
    /* This process sees one GPU only. */
    if (status == ATTN_OK && about.location.id != 0)
        status = attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "the exported memory lies on another GPU");
    return status;
}

static attn_status_t vmm_map(const driver_t *driver, attn_client_region_t *region, CUmemGenericAllocationHandle handle,
                             attn_error_t *err)
{
    size_t bytes = region->about.bytes;
    CUdeviceptr at = 0;
    const CUmemAccessDesc access = {.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0},
                                    .flags = region->about.writable ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE
                                                                    : CU_MEM_ACCESS_FLAGS_PROT_READ};
    attn_status_t status =
        driver_failed(driver, driver->reserve(&at, bytes, 0, 0, 0), "no addresses for the exported memory", err);
    if (status != ATTN_OK)
        return status;
    status = driver_failed(driver, driver->map(at, bytes, 0, handle, 0),
                           "the exported memory cannot be mapped; is its size the one that was given?", err);
    if (status == ATTN_OK) {
        CUresult rc = driver->access(at, bytes, &access, 1);
        /* A driver that has no read-only access: the kernels write outputs only. */
        if (rc == CUDA_ERROR_NOT_SUPPORTED && !region->about.writable) {
            CUmemAccessDesc both = access;
            both.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
            rc = driver->access(at, bytes, &both, 1);
        }
        status = driver_failed(driver, rc, "the exported memory cannot be made accessible", err);
        if (status != ATTN_OK)
            driver->unmap(at, bytes);
    }
    if (status != ATTN_OK) {
        driver->unreserve(at, bytes);
        return status;
    }
    region->device = (char *)(uintptr_t)at;
    return ATTN_OK;
}

static attn_status_t vmm_add(attn_client_region_t *region, attn_error_t *err)
{
    const driver_t *driver = driver_get(err);
    CUmemGenericAllocationHandle handle;
    if (!driver)
        return ATTN_ERR_UNIMPLEMENTED;
    attn_status_t status = driver_failed(
        driver, driver->import(&handle, (void *)(intptr_t)region->fd, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
        "the descriptor is not memory that this GPU can import", err);
    if (status != ATTN_OK)
        return status;
    status = vmm_check(driver, handle, err);
    if (status == ATTN_OK)
        status = vmm_map(driver, region, handle, err);
    driver->release(handle); /* the mapping keeps the memory */
    attn_fd_close(&region->fd);
    return status;
}

static void vmm_drop(attn_client_region_t *region)
{
    const driver_t *driver = driver_get(NULL);
    if (!driver || !region->device)
        return;
    CUdeviceptr at = (CUdeviceptr)(uintptr_t)region->device;
    driver->unmap(at, region->about.bytes);
    driver->unreserve(at, region->about.bytes);
}

static attn_status_t ipc_add(attn_client_region_t *region, attn_error_t *err)
{
    const driver_t *driver = driver_get(err);
    cudaIpcMemHandle_t handle;
    void *at = NULL;
    CUdeviceptr base = 0;
    size_t bytes = 0;
    _Static_assert(sizeof handle == sizeof region->about.handle, "one size of handles");
    if (!driver)
        return ATTN_ERR_UNIMPLEMENTED;
    memcpy(&handle, region->about.handle, sizeof handle);
    attn_status_t status = runtime_failed(
        cudaIpcOpenMemHandle(&at, handle, cudaIpcMemLazyEnablePeerAccess),
        "the CUDA IPC handle cannot be opened; is it of this GPU, and does its process still live?", err);
    if (status != ATTN_OK)
        return status;
    status = driver_failed(driver, driver->range(&base, &bytes, (CUdeviceptr)(uintptr_t)at),
                           "the opened memory cannot be asked how large it is", err);
    if (status == ATTN_OK && (region->about.base > bytes || region->about.bytes > bytes - region->about.base))
        status = attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                                "%llu bytes from offset %llu do not lie inside the allocation, which has %zu",
                                (unsigned long long)region->about.bytes, (unsigned long long)region->about.base, bytes);
    if (status != ATTN_OK) {
        cudaIpcCloseMemHandle(at);
        return status;
    }
    region->engine = at;
    region->device = (char *)at + region->about.base;
    return ATTN_OK;
}

static attn_status_t event_add(attn_client_region_t *region, attn_error_t *err)
{
    cudaIpcEventHandle_t handle;
    cudaEvent_t event;
    _Static_assert(sizeof handle == sizeof region->about.handle, "one size of handles");
    memcpy(&handle, region->about.handle, sizeof handle);
    attn_status_t status = runtime_failed(cudaIpcOpenEventHandle(&event, handle),
                                          "the CUDA event cannot be opened; is it of this GPU and interprocess?", err);
    if (status == ATTN_OK)
        region->engine = event;
    return status;
}

/* ---- the seam ---- */

attn_status_t attn_cuda_client_add(attn_engine_t *engine, attn_client_region_t *region, attn_error_t *err)
{
    cudaSetDevice(0); /* of this thread */
    switch (region->about.kind) {
    case ATTN_REGION_HOST:
        return host_add(engine, region, err);
    case ATTN_REGION_VMM:
        return vmm_add(region, err);
    case ATTN_REGION_IPC:
        return ipc_add(region, err);
    case ATTN_REGION_EVENT:
        return event_add(region, err);
    default:
        return attn_error_set(err, ATTN_ERR_INTERNAL, "a region is of no known kind");
    }
}

bool attn_cuda_client_pin(attn_engine_t *engine, attn_client_region_t *region, int64_t *ret_ns)
{
    return host_pin(engine, region, ret_ns);
}

attn_status_t attn_cuda_client_ready(attn_engine_t *engine, attn_client_region_t *event, bool *ret, attn_error_t *err)
{
    cudaError_t rc = cudaEventQuery((cudaEvent_t)event->engine);
    *ret = rc == cudaSuccess;
    if (rc == cudaErrorNotReady) {
        cudaGetLastError();
        return ATTN_OK;
    }
    return runtime_failed(rc, "the event to wait for cannot be asked", err);
}

void attn_cuda_client_drop(attn_engine_t *engine, attn_client_region_t *region)
{
    switch (region->about.kind) {
    case ATTN_REGION_HOST:
        host_drop(engine, region);
        break;
    case ATTN_REGION_VMM:
        vmm_drop(region);
        break;
    case ATTN_REGION_IPC:
        cudaIpcCloseMemHandle(region->engine);
        break;
    default:
        cudaEventDestroy((cudaEvent_t)region->engine);
        break;
    }
    cudaGetLastError();
}
