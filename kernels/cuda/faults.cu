// faults.cu: test-only variants whose fault must happen on the GPU; the others are host code (faults/faults.c).
#include <cuda_runtime.h>

#include "cuda.h"
#include "variants.h"

__global__ void spin_kernel(volatile unsigned *never)
{
    while (*never != 0xdeadu)
        __nanosleep(1000);
}

// Past the end of O in steps of 2 MiB, the size of a page, until there is no memory.
__global__ void oob_kernel(volatile char *end)
{
    for (int i = 1; i < 1 << 20; i++)
        end[static_cast<size_t>(i) << 21] = static_cast<char>(0xa5);
}

__global__ void write_kernel(volatile char *at)
{
    *at = 0x5a;
}

static attn_status_t launched(attn_error_t *err)
{
    const cudaError_t rc = cudaGetLastError();
    return rc == cudaSuccess ? ATTN_OK : attn_cuda_error(err, rc, "a launch failed");
}

static size_t output_bytes(const attn_config_t &config, const attn_problem_t &p)
{
    return static_cast<size_t>(p.batch) * static_cast<size_t>(p.s_q) * p.h_q * p.d * attn_dtype_size(config.dtype);
}

extern "C" attn_status_t attn_cuda_null_launch(const attn_group_t *group, const attn_exec_t *exec, attn_error_t *err)
{
    cudaStream_t stream = static_cast<cudaStream_t>(exec->stream);
    for (uint32_t i = 0; i < group->count; i++) {
        const attn_problem_t &p = group->problems[i];
        const size_t bytes = output_bytes(group->config, p);
        cudaError_t rc = bytes ? cudaMemsetAsync(p.o.data, 0, bytes, stream) : cudaSuccess;
        for (uint32_t b = 0; rc == cudaSuccess && p.lse && b < p.batch; b++)
            for (uint32_t h = 0; rc == cudaSuccess && h < p.h_q && p.s_q > 0; h++)
                rc = cudaMemsetAsync(p.lse + b * p.lse_stride_b + h * p.lse_stride_h, 0,
                                     static_cast<size_t>(p.s_q) * sizeof(float), stream);
        if (rc != cudaSuccess)
            return attn_cuda_error(err, rc, "the outputs cannot be cleared");
    }
    return ATTN_OK;
}

extern "C" attn_status_t attn_cuda_spin_launch(const attn_group_t *, const attn_exec_t *exec, attn_error_t *err)
{
    spin_kernel<<<1, 1, 0, static_cast<cudaStream_t>(exec->stream)>>>(static_cast<unsigned *>(exec->workspace));
    return launched(err);
}

extern "C" attn_status_t attn_cuda_oob_launch(const attn_group_t *group, const attn_exec_t *exec, attn_error_t *err)
{
    if (group->count == 0)
        return attn_error_set(err, ATTN_ERR_INTERNAL, "test_oob needs a problem");
    const attn_problem_t &p = group->problems[0];
    oob_kernel<<<1, 1, 0, static_cast<cudaStream_t>(exec->stream)>>>(static_cast<char *>(p.o.data) +
                                                                     output_bytes(group->config, p));
    return launched(err);
}

extern "C" attn_status_t attn_cuda_write_input_launch(const attn_group_t *group, const attn_exec_t *exec,
                                                      attn_error_t *err)
{
    if (group->count == 0 || group->problems[0].s_kv == 0)
        return attn_error_set(err, ATTN_ERR_INTERNAL, "test_write_input needs a key");
    write_kernel<<<1, 1, 0, static_cast<cudaStream_t>(exec->stream)>>>(static_cast<char *>(group->problems[0].k.data));
    attn_status_t status = launched(err);
    return status == ATTN_OK ? attn_cuda_null_launch(group, exec, err) : status;
}
