/* device.c: see device.h. Owns nothing after it returns. */
#include "device.h"

#include <string.h>

#define ALIGNMENT 256

attn_status_t ctl_device_region(attn_client_t *client, bool virtual, uint64_t bytes, ctl_cuda_memory_t *ret_memory,
                                attn_region_t **ret_region, attn_client_error_t *err)
{
    char uuid[48];
    ctl_cuda_memory_t memory;
    memset(err, 0, sizeof(*err));
    attn_status_t status = ctl_cuda_open(uuid, &err->error);
    if (status == ATTN_OK) {
        status = ctl_cuda_enter(&err->error);
    }
    if (status == ATTN_OK) {
        status = ctl_cuda_allocate(bytes, virtual, &memory, &err->error);
    }
    if (status != ATTN_OK) {
        return status;
    }
    void *base = (void *)(uintptr_t)memory.address;
    status = virtual ? attn_region_import_cuda_fd(client, memory.fd, uuid, base, memory.bytes, ATTN_REGION_READ_WRITE,
                                                  ret_region, err)
                     : attn_region_import_cuda_ipc(client, memory.handle, uuid, base, 0, memory.bytes,
                                                   ATTN_REGION_READ_WRITE, ret_region, err);
    if (status != ATTN_OK) {
        ctl_cuda_free(&memory);
        return status;
    }
    *ret_memory = memory;
    return ATTN_OK;
}

static uint64_t aligned(uint64_t bytes)
{
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

attn_status_t ctl_device_run(attn_client_t *client, bool virtual, const attn_client_request_t *request,
                             const attn_sizes_t *sizes, attn_client_answer_t *ret, attn_client_error_t *err)
{
    const void *inputs[3] = {request->q, request->k, request->v};
    const uint64_t bytes[5] = {sizes->q, sizes->k, sizes->v, sizes->o, sizes->lse};
    uint64_t at[5], total = 0;
    ctl_cuda_memory_t memory;
    attn_region_t *region;
    attn_client_request_t placed = *request;
    for (int i = 0; i < 5; i++) {
        at[i] = total;
        total += aligned(bytes[i]);
    }
    attn_status_t status = ctl_device_region(client, virtual, total > 0 ? total : 1, &memory, &region, err);
    if (status != ATTN_OK) {
        return status;
    }
    for (int i = 0; i < 5; i++) {
        at[i] += memory.address;
    }
    for (int i = 0; i < 3 && status == ATTN_OK; i++) {
        status = ctl_cuda_upload(at[i], inputs[i], bytes[i], &err->error);
    }
    placed.q = (void *)(uintptr_t)at[0];
    placed.k = (void *)(uintptr_t)at[1];
    placed.v = (void *)(uintptr_t)at[2];
    placed.o = (void *)(uintptr_t)at[3];
    placed.lse = (float *)(uintptr_t)at[4];
    if (status == ATTN_OK) {
        status = attn_client_run(client, &placed, &ctl_progress, ret, err);
    }
    if (status == ATTN_OK) {
        status = ctl_cuda_download(request->o, at[3], bytes[3], &err->error);
    }
    if (status == ATTN_OK && bytes[4] > 0) {
        status = ctl_cuda_download(request->lse, at[4], bytes[4], &err->error);
    }
    attn_region_release(region);
    ctl_cuda_free(&memory);
    return status;
}
