/* cuda_driver.h: the few calls of the CUDA driver that a client needs to have device memory which the daemon can
 * import. The driver is opened at run time, so that attnctl needs no CUDA; the declarations are those of cuda.h, whose
 * binary interface is stable. One thread at a time opens; the calls themselves may come from any. */
#ifndef ATTNCTL_CUDA_DRIVER_H
#define ATTNCTL_CUDA_DRIVER_H

#include <stdbool.h>
#include <stdint.h>

#include "attn/status.h"

typedef struct ctl_cuda_memory {
    uint64_t address, bytes; /* bytes: as allocated */
    bool virtual;            /* made by cuMemCreate, exported as a descriptor; else cuMemAlloc, exported as a handle */
    uint64_t allocation;     /* CUmemGenericAllocationHandle */
    int fd;                  /* -1 unless virtual */
    uint8_t handle[64];      /* CUipcMemHandle unless virtual */
} ctl_cuda_memory_t;

/* Opens the driver and the first device, and gives its UUID as the daemon writes it ("GPU-…"). Done once;
 * FAILED_PRECONDITION with a sentence where there is no driver or no device. */
attn_status_t ctl_cuda_open(char ret_uuid[48], attn_error_t *err);

/* Makes the device the calling thread's. */
attn_status_t ctl_cuda_enter(attn_error_t *err);

attn_status_t ctl_cuda_allocate(uint64_t bytes, bool virtual, ctl_cuda_memory_t *ret, attn_error_t *err);
void ctl_cuda_free(ctl_cuda_memory_t *memory);

/* Return when the bytes are there. */
attn_status_t ctl_cuda_upload(uint64_t to, const void *from, uint64_t bytes, attn_error_t *err);
attn_status_t ctl_cuda_download(void *to, uint64_t from, uint64_t bytes, attn_error_t *err);

#endif
