/* cuda_driver.c: see cuda_driver.h. Owns the driver's handle and the device's primary context for the process's life.
 */
#include "cuda_driver.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* CUmemLocation, CUmemAllocationProp and CUmemAccessDesc. */
typedef struct location {
    int type, id; /* CU_MEM_LOCATION_TYPE_DEVICE = 1 */
} location_t;

typedef struct allocation_prop {
    int type;         /* CU_MEM_ALLOCATION_TYPE_PINNED = 1 */
    int handle_types; /* CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR = 1 */
    location_t location;
    void *win32;
    uint8_t flags[8];
} allocation_prop_t;
_Static_assert(sizeof(allocation_prop_t) == 32 && offsetof(allocation_prop_t, win32) == 16, "as CUmemAllocationProp");

typedef struct access_desc {
    location_t location;
    int flags; /* CU_MEM_ACCESS_FLAGS_PROT_READWRITE = 3 */
} access_desc_t;

typedef struct ipc_handle {
    uint8_t bytes[64];
} ipc_handle_t;

static struct driver {
    int (*init)(unsigned flags);
    int (*error_name)(int error, const char **ret);
    int (*device_get)(int *ret, int ordinal);
    int (*device_uuid)(uint8_t ret[16], int device);
    int (*primary_retain)(void **ret, int device);
    int (*context_set)(void *context);
    int (*granularity)(size_t *ret, const allocation_prop_t *prop, int option);
    int (*create)(uint64_t *ret, size_t bytes, const allocation_prop_t *prop, unsigned long long flags);
    int (*release)(uint64_t handle);
    int (*export_handle)(void *ret, uint64_t handle, int type, unsigned long long flags);
    int (*reserve)(uint64_t *ret, size_t bytes, size_t alignment, uint64_t at, unsigned long long flags);
    int (*reserve_free)(uint64_t at, size_t bytes);
    int (*map)(uint64_t at, size_t bytes, size_t offset, uint64_t handle, unsigned long long flags);
    int (*unmap)(uint64_t at, size_t bytes);
    int (*set_access)(uint64_t at, size_t bytes, const access_desc_t *access, size_t count);
    int (*alloc)(uint64_t *ret, size_t bytes);
    int (*free)(uint64_t at);
    int (*ipc_get)(ipc_handle_t *ret, uint64_t at);
    int (*upload)(uint64_t to, const void *from, size_t bytes);
    int (*download)(void *to, uint64_t from, size_t bytes);
    int (*synchronize)(void);
} driver;

static void *context;
static int device;

#define PLACE(member) offsetof(struct driver, member)
static const struct {
    const char *name;
    size_t place;
} symbols[] = {
    {"cuInit", PLACE(init)},
    {"cuGetErrorName", PLACE(error_name)},
    {"cuDeviceGet", PLACE(device_get)},
    {"cuDeviceGetUuid", PLACE(device_uuid)},
    {"cuDevicePrimaryCtxRetain", PLACE(primary_retain)},
    {"cuCtxSetCurrent", PLACE(context_set)},
    {"cuMemGetAllocationGranularity", PLACE(granularity)},
    {"cuMemCreate", PLACE(create)},
    {"cuMemRelease", PLACE(release)},
    {"cuMemExportToShareableHandle", PLACE(export_handle)},
    {"cuMemAddressReserve", PLACE(reserve)},
    {"cuMemAddressFree", PLACE(reserve_free)},
    {"cuMemMap", PLACE(map)},
    {"cuMemUnmap", PLACE(unmap)},
    {"cuMemSetAccess", PLACE(set_access)},
    {"cuMemAlloc_v2", PLACE(alloc)},
    {"cuMemFree_v2", PLACE(free)},
    {"cuIpcGetMemHandle", PLACE(ipc_get)},
    {"cuMemcpyHtoD_v2", PLACE(upload)},
    {"cuMemcpyDtoH_v2", PLACE(download)},
    {"cuCtxSynchronize", PLACE(synchronize)},
};

static attn_status_t cuda_check(const char *what, int error, attn_error_t *err)
{
    const char *name = "an error without a name";
    if (error == 0) {
        return ATTN_OK;
    }
    (void)driver.error_name(error, &name);
    return attn_error_set(err, ATTN_ERR_DEVICE, "%s failed: %s", what, name);
}

static attn_status_t driver_load(attn_error_t *err)
{
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        return attn_error_set(err, ATTN_ERR_FAILED_PRECONDITION,
                              "device memory needs the NVIDIA driver, which is not here: %s", dlerror());
    }
    for (size_t i = 0; i < sizeof(symbols) / sizeof(symbols[0]); i++) {
        void *symbol = dlsym(library, symbols[i].name);
        if (symbol == NULL) {
            return attn_error_set(err, ATTN_ERR_FAILED_PRECONDITION, "this NVIDIA driver has no %s", symbols[i].name);
        }
        memcpy((char *)&driver + symbols[i].place, &symbol, sizeof(symbol));
    }
    return ATTN_OK;
}

attn_status_t ctl_cuda_open(char ret_uuid[48], attn_error_t *err)
{
    attn_status_t status = context == NULL ? driver_load(err) : ATTN_OK;
    uint8_t id[16];
    if (status == ATTN_OK && context == NULL) {
        int error = driver.init(0);
        error = error == 0 ? driver.device_get(&device, 0) : error;
        error = error == 0 ? driver.primary_retain(&context, device) : error;
        status = cuda_check("opening the first GPU", error, err);
    }
    if (status == ATTN_OK) {
        status = cuda_check("cuDeviceGetUuid", driver.device_uuid(id, device), err);
    }
    if (status != ATTN_OK) {
        return status;
    }
    int used = snprintf(ret_uuid, 48, "GPU-");
    for (int i = 0; i < 16; i++) {
        used += snprintf(ret_uuid + used, 48 - (size_t)used, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "",
                         id[i]);
    }
    return ATTN_OK;
}

attn_status_t ctl_cuda_enter(attn_error_t *err)
{
    return cuda_check("cuCtxSetCurrent", driver.context_set(context), err);
}

static attn_status_t virtual_allocate(ctl_cuda_memory_t *memory, attn_error_t *err)
{
    const allocation_prop_t prop = {.type = 1, .handle_types = 1, .location = {1, device}};
    const access_desc_t access = {.location = {1, device}, .flags = 3};
    size_t step = 0;
    int error = driver.granularity(&step, &prop, 0);
    if (error == 0 && step > 0) {
        memory->bytes = (memory->bytes + step - 1) / step * step;
        error = driver.create(&memory->allocation, memory->bytes, &prop, 0);
    }
    error = error == 0 ? driver.reserve(&memory->address, memory->bytes, 0, 0, 0) : error;
    error = error == 0 ? driver.map(memory->address, memory->bytes, 0, memory->allocation, 0) : error;
    error = error == 0 ? driver.set_access(memory->address, memory->bytes, &access, 1) : error;
    error = error == 0 ? driver.export_handle(&memory->fd, memory->allocation, 1, 0) : error;
    return cuda_check("making shareable device memory", error, err);
}

attn_status_t ctl_cuda_allocate(uint64_t bytes, bool virtual, ctl_cuda_memory_t *ret, attn_error_t *err)
{
    ctl_cuda_memory_t memory = {.bytes = bytes, .virtual = virtual, .fd = -1};
    attn_status_t status;
    if (virtual) {
        status = virtual_allocate(&memory, err);
    } else {
        ipc_handle_t handle;
        const uint64_t block = UINT64_C(2) << 20; /* smaller allocations share a block, and its handle */
        memory.bytes = (bytes + block - 1) / block * block;
        int error = driver.alloc(&memory.address, memory.bytes);
        error = error == 0 ? driver.ipc_get(&handle, memory.address) : error;
        status = cuda_check("making device memory with a handle", error, err);
        memcpy(memory.handle, &handle, sizeof(handle));
    }
    if (status != ATTN_OK) {
        ctl_cuda_free(&memory);
        return status;
    }
    *ret = memory;
    return ATTN_OK;
}

void ctl_cuda_free(ctl_cuda_memory_t *memory)
{
    if (memory->fd >= 0) {
        close(memory->fd);
    }
    if (!memory->virtual) {
        if (memory->address != 0) {
            (void)driver.free(memory->address);
        }
    } else if (memory->address != 0) {
        (void)driver.unmap(memory->address, memory->bytes);
        (void)driver.reserve_free(memory->address, memory->bytes);
    }
    if (memory->allocation != 0) {
        (void)driver.release(memory->allocation);
    }
    memset(memory, 0, sizeof(*memory));
    memory->fd = -1;
}

attn_status_t ctl_cuda_upload(uint64_t to, const void *from, uint64_t bytes, attn_error_t *err)
{
    int error = bytes > 0 ? driver.upload(to, from, bytes) : 0;
    return cuda_check("copying to the device", error == 0 ? driver.synchronize() : error, err);
}

attn_status_t ctl_cuda_download(void *to, uint64_t from, uint64_t bytes, attn_error_t *err)
{
    return cuda_check("copying from the device", bytes > 0 ? driver.download(to, from, bytes) : 0, err);
}
