/* device.h: tensors in device memory that the daemon uses in place. The calling thread. */
#ifndef ATTNCTL_DEVICE_H
#define ATTNCTL_DEVICE_H

#include "ctl.h"
#include "cuda_driver.h"

/* Memory on the first GPU, registered with the daemon: shared as a descriptor (`virtual`) or by a handle. The client's
 * close releases the region, ctl_cuda_free() the memory, in this order. */
attn_status_t ctl_device_region(attn_client_t *client, bool virtual, uint64_t bytes, ctl_cuda_memory_t *ret_memory,
                                attn_region_t **ret_region, attn_client_error_t *err);

/* Runs the request, whose tensors lie on the host, in device memory: copies them there, and the outputs back. */
attn_status_t ctl_device_run(attn_client_t *client, bool virtual, const attn_client_request_t *request,
                             const attn_sizes_t *sizes, attn_client_answer_t *ret, attn_client_error_t *err);

#endif
