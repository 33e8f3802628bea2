/* reference/reference.c: `reference` on the CPU: O64 rounded once to the request's dtype. Runs on the worker's thread
 * and the pool; memory is the launch's workspace. */
#include "reference/reference.h"

#include "cpu/convert.h"
#include "cpu/isa.h"
#include "cpu/pool.h"
#include "reference/reference_info.h"
#include "reference/rows.h"

enum { REFERENCE_ALIGNMENT = 64 };

typedef struct reference_job {
    const attn_problem_t *problem;
    const attn_config_t *config;
    const attn_cpu_isa_t *isa;
    char *scratch;
    size_t scratch_bytes; /* per thread */
} reference_job_t;

/* The most that any problem of the group needs for one thread. */
static size_t reference_scratch_bytes(const attn_group_t *group)
{
    size_t most = 4096;
    for (uint32_t i = 0; i < group->count; i++) {
        const attn_problem_t *p = &group->problems[i];
        const size_t bytes = attn_reference_scratch_bytes(p->d, p->s_kv, false);
        most = bytes > most ? bytes : most;
    }
    return most;
}

static unsigned reference_threads(size_t scratch_bytes, const attn_device_t *device)
{
    return attn_reference_threads(device->units > 0 ? (unsigned)device->units : 1, scratch_bytes);
}

static attn_workspace_size_t reference_workspace(const attn_group_t *group, const attn_device_t *device)
{
    const size_t scratch = reference_scratch_bytes(group);
    const size_t bytes = ATTN_WORKSPACE_ZEROED + REFERENCE_ALIGNMENT + reference_threads(scratch, device) * scratch;
    return (attn_workspace_size_t){.device = (bytes + 255) / 256 * 256};
}

static void reference_block_run(void *arg, uint64_t item, attn_pool_thread_t *thread)
{
    const reference_job_t *job = arg;
    const attn_problem_t *p = job->problem;
    attn_reference_scratch_t scratch;
    attn_reference_scratch_open(job->scratch + attn_pool_thread_index(thread) * job->scratch_bytes, p->d, p->s_kv,
                                false, &scratch);
    const attn_reference_block_t block = attn_reference_block_at(p, job->config, item);
    if (!job->isa->reference_rows(&block, &scratch, thread))
        return;
    const int64_t heads = p->h_q / p->h_kv;
    for (int64_t i = 0; i < block.rows; i++) {
        const int64_t query = (block.row + i) / heads;
        const int64_t head = block.h_kv * heads + (block.row + i) % heads;
        const int64_t at = (int64_t)block.batch * p->o.stride_b + query * p->o.stride_s + head * p->o.stride_h;
        for (uint32_t x = 0; x < p->d; x++)
            attn_element_store(job->config->dtype, p->o.data, at + x, scratch.o[i * p->d + x]);
        if (p->lse)
            p->lse[(int64_t)block.batch * p->lse_stride_b + head * p->lse_stride_h + query] = (float)scratch.lse[i];
    }
}

static attn_status_t reference_launch(const attn_group_t *group, const attn_exec_t *exec, attn_error_t *err)
{
    const attn_workspace_size_t need = reference_workspace(group, exec->device);
    if (exec->workspace_bytes < need.device)
        return attn_error_set(err, ATTN_ERR_INTERNAL, "reference was given %zu bytes of workspace, %zu are needed",
                              exec->workspace_bytes, need.device);
    const uintptr_t start = (uintptr_t)exec->workspace + ATTN_WORKSPACE_ZEROED;
    reference_job_t job = {.config = &group->config,
                           .isa = attn_cpu_isa(),
                           .scratch =
                               (char *)exec->workspace + ATTN_WORKSPACE_ZEROED + (-start & (REFERENCE_ALIGNMENT - 1)),
                           .scratch_bytes = reference_scratch_bytes(group)};
    const unsigned threads = reference_threads(job.scratch_bytes, exec->device);
    for (uint32_t i = 0; i < group->count; i++) {
        job.problem = &group->problems[i];
        const attn_status_t status =
            attn_pool_run(threads, attn_reference_block_count(job.problem), reference_block_run, &job, exec, err);
        if (status != ATTN_OK)
            return status;
    }
    return ATTN_OK;
}

const attn_variant_t attn_reference_variant = {
    .info = &attn_reference_info, .workspace = reference_workspace, .launch = reference_launch};
