// reference.cu: `reference` and the truth of a comparison on the GPU. Host code of a worker's thread; owns nothing.
#include <cstdlib>

#include <cuda_runtime.h>

#include "cuda.h"
#include "plan.h"
#include "variants.h"

using namespace attn_cuda;

static uint32_t group_head_dim(const attn_group_t *group, int64_t *ret_s_kv)
{
    uint32_t d = 0;
    *ret_s_kv = 0;
    for (uint32_t i = 0; i < group->count; i++) {
        d = group->problems[i].d > d ? group->problems[i].d : d;
        *ret_s_kv = group->problems[i].s_kv > *ret_s_kv ? group->problems[i].s_kv : *ret_s_kv;
    }
    return d;
}

extern "C" attn_workspace_size_t attn_cuda_reference_workspace(const attn_group_t *group, const attn_device_t *device)
{
    int64_t s_kv;
    const uint32_t d = group_head_dim(group, &s_kv);
    const Kernel kernel = exact_kernel_for(group->config.dtype, d);
    return {ATTN_WORKSPACE_ZEROED + (kernel.entry ? plan_state_bytes(kernel, s_kv, device) : 0), 0};
}

static attn_status_t reference_check(const attn_group_t *group, const attn_exec_t *exec, attn_error_t *err)
{
    int64_t s_kv;
    const uint32_t d = group_head_dim(group, &s_kv);
    if (!exact_kernel_for(group->config.dtype, d).entry || d > ATTN_HEAD_DIM_MAX)
        return attn_error_set(err, ATTN_ERR_FAILED_PRECONDITION,
                              "reference takes fp16, bf16 and fp32 and head dims up to %d", ATTN_HEAD_DIM_MAX);
    const size_t bytes = attn_cuda_reference_workspace(group, exec->device).device;
    if (exec->workspace_bytes < bytes)
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "the workspace has %zu bytes; %zu are needed",
                              exec->workspace_bytes, bytes);
    return ATTN_OK;
}

extern "C" attn_status_t attn_cuda_reference_launch(const attn_group_t *group, const attn_exec_t *exec,
                                                    attn_error_t *err)
{
    attn_status_t status = reference_check(group, exec, err);
    if (status != ATTN_OK || group->count == 0)
        return status;
    int64_t s_kv;
    const uint32_t d = group_head_dim(group, &s_kv);
    return plan_run(exact_kernel_for(group->config.dtype, d), group, Truth{}, exec, err);
}

extern "C" size_t attn_cuda_truth_workspace(const attn_spec_t *spec, const attn_device_t *device)
{
    const Kernel kernel = exact_kernel_for(static_cast<attn_dtype_t>(spec->dtype), spec->d);
    return ATTN_WORKSPACE_ZEROED + (kernel.entry ? plan_state_bytes(kernel, spec->s_kv, device) : 0);
}

extern "C" attn_status_t attn_cuda_truth_compute(const attn_spec_t *spec, const int32_t *cu_seqlens_q,
                                                 const int32_t *cu_seqlens_k, const attn_addresses_t *tensors,
                                                 void *truth, const attn_exec_t *exec, attn_error_t *err)
{
    attn_truth_view_t view;
    attn_truth_open(spec, truth, &view);
    const cudaError_t rc =
        cudaMemsetAsync(view.naive_max_abs, 0, sizeof(double), static_cast<cudaStream_t>(exec->stream));
    if (rc != cudaSuccess)
        return attn_cuda_error(err, rc, "the truth cannot be cleared");
    const uint32_t count = attn_spec_problem_count(spec);
    attn_problem_t *problems = static_cast<attn_problem_t *>(calloc(count ? count : 1, sizeof *problems));
    if (!problems)
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for the %u problems of this request", count);
    attn_spec_problems(spec, cu_seqlens_q, cu_seqlens_k, tensors, problems);
    attn_group_t group = {};
    group.config = {static_cast<attn_dtype_t>(spec->dtype), spec->causal != 0, spec->softcap > 0};
    group.count = count;
    group.problems = problems;
    const Truth parts = {view.o, view.lse, view.naive_row_err, view.naive_max_abs};
    attn_status_t status = reference_check(&group, exec, err);
    if (status == ATTN_OK)
        status = plan_run(exact_kernel_for(group.config.dtype, spec->d), &group, parts, exec, err);
    if (status == ATTN_OK)
        status = plan_run(naive_kernel_for(group.config.dtype, spec->d), &group, parts, exec, err);
    free(problems);
    return status;
}

extern "C" attn_status_t attn_cuda_error(attn_error_t *err, int rc, const char *what)
{
    const cudaError_t code = static_cast<cudaError_t>(rc);
    return attn_error_set(err, code == cudaErrorMemoryAllocation ? ATTN_ERR_NO_MEMORY : ATTN_ERR_DEVICE, "%s: %s (%s)",
                          what, cudaGetErrorString(code), cudaGetErrorName(code));
}
