/* worker/engine_cuda.c: the engine on one GPU. Main thread; owns the context's streams, events and memory.
 *
 * A job is queued completely - copies in, launches, copies out - and waited for once: by polling for as long as this
 * machine has cores to spare, then asleep. A large job is cut into slices whose copies run on their own streams under
 * the computation of the others. No memory is reserved per job: device memory, workspace and staging are kept. */
#include "worker/engine_cuda.h"

#include <stdlib.h>
#include <string.h>

#include "attn/engine_variants.h"
#include "base/clock.h"
#include "base/cpus.h"
#include "cuda/cuda.h"

/* Kernel rounds are queued for at most this long, so that a cancelled comparison ends soon. */
#define ROUNDS_QUEUED_US 20000.0

/* Outputs up to this size are written by the kernel over PCIe. H200, p50 with and without: 128 KiB 32.7 and 37.5 us,
 * 512 KiB 65 and 74, 8 MiB 462 and 391. */
#define DIRECT_BYTES (UINT64_C(512) << 10)

/* One job on its way. */
typedef struct cuda_run {
    attn_engine_t *engine;
    const attn_cuda_job_t *job;
    const attn_variant_t *variant;
    attn_addresses_t device;
    attn_group_t group; /* all of the job */
    attn_exec_t exec;
    uint64_t staging_bytes; /* of one launch */
    bool direct;            /* o and lse are pinned host memory */
    uint32_t slices;
    attn_cuda_slice_t slice[ATTN_CUDA_SLICES];
    attn_error_t *err;
} cuda_run_t;

static attn_status_t failed(const cuda_run_t *run, cudaError_t rc, const char *what)
{
    return rc == cudaSuccess ? ATTN_OK : attn_cuda_error(run->err, (int)rc, what);
}

static void cuda_close(attn_engine_t *engine)
{
    if (!engine)
        return;
    /* After a sticky error these fail, and the process ends anyway. */
    cudaDeviceSynchronize();
    attn_cuda_arenas_close(engine);
    attn_cuda_memory_close(engine);
    cudaEventDestroy(engine->began);
    cudaEventDestroy(engine->copied_out);
    for (int i = 0; i < ATTN_CUDA_SLICES; i++)
        cudaEventDestroy(engine->copied_in[i]);
    for (int i = 0; i < 2 * ATTN_CUDA_ROUNDS; i++)
        cudaEventDestroy(engine->round[i]);
    cudaStreamDestroy(engine->compute);
    cudaStreamDestroy(engine->in);
    cudaStreamDestroy(engine->out);
    attn_cuda_nvml_close(engine->nvml);
    free(engine->problems);
    free(engine);
}

static cudaError_t streams_open(attn_engine_t *engine)
{
    cudaError_t rc = cudaStreamCreateWithFlags(&engine->compute, cudaStreamNonBlocking);
    if (rc == cudaSuccess)
        rc = cudaStreamCreateWithFlags(&engine->in, cudaStreamNonBlocking);
    if (rc == cudaSuccess)
        rc = cudaStreamCreateWithFlags(&engine->out, cudaStreamNonBlocking);
    if (rc == cudaSuccess)
        rc = cudaEventCreate(&engine->began);
    if (rc == cudaSuccess)
        rc = cudaEventCreateWithFlags(&engine->copied_out, cudaEventBlockingSync);
    for (int i = 0; i < ATTN_CUDA_SLICES && rc == cudaSuccess; i++)
        rc = cudaEventCreate(&engine->copied_in[i]);
    for (int i = 0; i < 2 * ATTN_CUDA_ROUNDS && rc == cudaSuccess; i++)
        rc = cudaEventCreateWithFlags(&engine->round[i], cudaEventBlockingSync);
    return rc;
}

static attn_status_t cuda_open(const attn_engine_setup_t *setup, attn_engine_t **ret, attn_engine_about_t *ret_about,
                               attn_error_t *err)
{
    attn_engine_t *engine = calloc(1, sizeof *engine);
    if (!engine)
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for the CUDA engine");
    engine->setup = *setup;
    engine->direct_bytes = DIRECT_BYTES;
    engine->spin_us = 2 * attn_cpus_spin_us();
    attn_engine_about_t about = {0};
    attn_status_t status = attn_cuda_device_open(setup->device, &engine->device, err);
    if (status != ATTN_OK) {
        free(engine);
        return status;
    }
    cudaError_t rc = streams_open(engine);
    if (rc != cudaSuccess)
        status = attn_cuda_error(err, (int)rc, "streams and events cannot be made");
    if (status == ATTN_OK)
        status = attn_cuda_slab(engine, 1, err);
    if (status == ATTN_OK)
        status = attn_cuda_workspace(engine, ATTN_WORKSPACE_ZEROED, err);
    if (status == ATTN_OK)
        status = attn_cuda_staging(engine, 1, err);
    if (status != ATTN_OK) {
        cuda_close(engine);
        return status;
    }
    attn_cuda_arenas_open(engine);
    engine->nvml = attn_cuda_nvml_open(setup->device, about.driver, sizeof about.driver);
    attn_cuda_nvml_clocks(engine->nvml, &about.sm_clock_mhz, &about.mem_clock_mhz);
    about.device = engine->device;
    *ret_about = about;
    *ret = engine;
    return ATTN_OK;
}

static bool cuda_has(const attn_engine_t *engine, const char *variant)
{
    return attn_cuda_variant_find(variant) != NULL;
}

static cudaError_t wait_for(const attn_engine_t *engine, cudaEvent_t event)
{
    int64_t until = attn_clock_ns() + engine->spin_us * ATTN_NS_PER_US;
    do {
        cudaError_t rc = cudaEventQuery(event);
        if (rc != cudaErrorNotReady)
            return rc;
        attn_cpu_relax();
    } while (attn_clock_ns() < until);
    return cudaEventSynchronize(event);
}

static double elapsed_us(cudaEvent_t from, cudaEvent_t to)
{
    float ms = 0;
    return cudaEventElapsedTime(&ms, from, to) == cudaSuccess && ms > 0 ? (double)ms * 1000 : 0;
}

/* Places of the job's tensors in the slab, at the distances that they have in the arena where a request was placed in
 * one go, so that one copy can move q, k and v together. `extra` bytes follow. */
static attn_status_t place(cuda_run_t *run, uint64_t extra, void **ret_extra)
{
    attn_engine_t *engine = run->engine;
    const attn_sizes_t *sizes = &run->job->sizes;
    uint64_t k = ATTN_WIRE_ROUND(sizes->q), v = k + ATTN_WIRE_ROUND(sizes->k), o = v + ATTN_WIRE_ROUND(sizes->v);
    uint64_t lse = o + ATTN_WIRE_ROUND(sizes->o), end = lse + ATTN_WIRE_ROUND(sizes->lse);
    attn_status_t status = attn_cuda_slab(engine, end + extra, run->err);
    if (status != ATTN_OK)
        return status;
    char *slab = engine->slab;
    run->device = (attn_addresses_t){slab, slab + k, slab + v, slab + o,
                                     run->job->host.lse ? (float *)(void *)(slab + lse) : NULL};
    if (ret_extra)
        *ret_extra = slab + end;
    return ATTN_OK;
}

/* Small outputs go straight to their place when nobody asks for rounds, which should not wait for PCIe. */
static void place_outputs(cuda_run_t *run)
{
    const attn_cuda_job_t *job = run->job;
    if (job->warmup > 0 || job->repeat > 1 || job->sizes.o + job->sizes.lse > run->engine->direct_bytes)
        return;
    void *o = attn_cuda_arena_direct(&run->engine->output, job->host.o, job->sizes.o);
    void *lse = job->host.lse ? attn_cuda_arena_direct(&run->engine->output, job->host.lse, job->sizes.lse) : NULL;
    if (!o || (job->host.lse && !lse))
        return;
    run->device.o = o;
    run->device.lse = lse;
    run->direct = true;
}

static attn_status_t problems_make(cuda_run_t *run)
{
    attn_engine_t *engine = run->engine;
    const attn_spec_t *spec = &run->job->spec;
    uint32_t count = attn_spec_problem_count(spec);
    if (count > engine->problem_room) {
        attn_problem_t *problems = realloc(engine->problems, count * sizeof *problems);
        if (!problems)
            return attn_error_set(run->err, ATTN_ERR_NO_MEMORY, "no memory for the %u sequences of this request",
                                  count);
        engine->problems = problems;
        engine->problem_room = count;
    }
    attn_spec_problems(spec, run->job->cu_seqlens_q, run->job->cu_seqlens_k, &run->device, engine->problems);
    run->group = (attn_group_t){
        .config = {(attn_dtype_t)spec->dtype, spec->causal != 0, spec->softcap > 0},
        .count = count,
        .problems = engine->problems,
    };
    return ATTN_OK;
}

static attn_status_t workspace_make(cuda_run_t *run)
{
    attn_engine_t *engine = run->engine;
    attn_workspace_size_t most = {ATTN_WORKSPACE_ZEROED, 0};
    for (uint32_t i = 0; run->variant->workspace && i < run->slices; i++) {
        attn_group_t group = run->group;
        if (run->slices > 1) {
            group.count = 1;
            group.problems = &run->slice[i].problem;
        }
        attn_workspace_size_t size = run->variant->workspace(&group, &engine->device);
        most.device = size.device > most.device ? size.device : most.device;
        most.host = size.host > most.host ? size.host : most.host;
    }
    run->staging_bytes = (most.host + 255) / 256 * 256;
    /* Staging must stay as it is until a launch has finished: every launch that is queued has its own. */
    uint64_t launches = run->slices > 1 ? run->slices : run->job->warmup + run->job->repeat > 1 ? ATTN_CUDA_ROUNDS : 1;
    attn_status_t status = attn_cuda_workspace(engine, most.device, run->err);
    if (status == ATTN_OK && most.host > 0)
        status = attn_cuda_staging(engine, run->staging_bytes * launches, run->err);
    run->exec = (attn_exec_t){.device = &engine->device,
                              .stream = engine->compute,
                              .workspace = engine->workspace,
                              .workspace_bytes = most.device,
                              .host_workspace_bytes = most.host,
                              .checkpoint = run->job->checkpoint,
                              .checkpoint_arg = run->job->checkpoint_arg};
    return status;
}

static attn_status_t launch(cuda_run_t *run, const attn_group_t *group, uint32_t staging)
{
    run->exec.host_workspace = run->staging_bytes ? run->engine->staging + staging * run->staging_bytes : NULL;
    return run->variant->launch(group, &run->exec, run->err);
}

static attn_status_t copy_in(const cuda_run_t *run, const attn_cuda_slice_t *slice, cudaStream_t stream)
{
    const attn_cuda_job_t *job = run->job;
    const attn_addresses_t *host = &job->host, *device = &run->device;
    const char *q = host->q, *k = host->k, *v = host->v;
    if (run->slices == 1 && k == q + ATTN_WIRE_ROUND(job->sizes.q) && v == k + ATTN_WIRE_ROUND(job->sizes.k) &&
        attn_cuda_arena_direct(&run->engine->input, q, (uint64_t)(v - q) + job->sizes.v))
        return failed(run, attn_cuda_copy_in(run->engine, device->q, q, (uint64_t)(v - q) + job->sizes.v, stream),
                      "the inputs cannot be copied to the GPU");
    cudaError_t rc = attn_cuda_copy_in(run->engine, (char *)device->k + slice->k.offset, k + slice->k.offset,
                                       slice->k.bytes, stream);
    if (rc == cudaSuccess)
        rc = attn_cuda_copy_in(run->engine, (char *)device->v + slice->v.offset, v + slice->v.offset, slice->v.bytes,
                               stream);
    if (rc == cudaSuccess)
        rc = attn_cuda_copy_in(run->engine, (char *)device->q + slice->q.offset, q + slice->q.offset, slice->q.bytes,
                               stream);
    return failed(run, rc, "the inputs cannot be copied to the GPU");
}

static attn_status_t copy_out(const cuda_run_t *run, const attn_cuda_slice_t *slice, cudaStream_t stream)
{
    const attn_addresses_t *host = &run->job->host, *device = &run->device;
    cudaError_t rc = attn_cuda_copy_out(run->engine, (char *)host->o + slice->o.offset,
                                        (char *)device->o + slice->o.offset, slice->o.bytes, stream);
    if (rc == cudaSuccess && host->lse)
        rc = attn_cuda_copy_out(run->engine, (char *)host->lse + slice->lse.offset,
                                (char *)device->lse + slice->lse.offset, slice->lse.bytes, stream);
    return failed(run, rc, "the answer cannot be copied from the GPU");
}

/* Queues rounds in batches of about ROUNDS_QUEUED_US and collects the times of those after the warm-up. */
static attn_status_t rounds(cuda_run_t *run, attn_engine_result_t *ret)
{
    attn_engine_t *engine = run->engine;
    const attn_cuda_job_t *job = run->job;
    uint32_t total = job->warmup + job->repeat;
    double round_us = ROUNDS_QUEUED_US;
    for (uint32_t done = 0; done < total;) {
        double room = ROUNDS_QUEUED_US / (round_us > 1 ? round_us : 1);
        uint32_t batch = room < 1 ? 1 : room > ATTN_CUDA_ROUNDS ? ATTN_CUDA_ROUNDS : (uint32_t)room;
        batch = batch < total - done ? batch : total - done;
        for (uint32_t i = 0; i < batch; i++) {
            cudaError_t rc = cudaEventRecord(engine->round[2 * i], engine->compute);
            attn_status_t status = failed(run, rc, "a round cannot be timed");
            if (status == ATTN_OK)
                status = launch(run, &run->group, i);
            if (status == ATTN_OK)
                status =
                    failed(run, cudaEventRecord(engine->round[2 * i + 1], engine->compute), "a round cannot be timed");
            if (status != ATTN_OK)
                return status;
        }
        attn_status_t status = failed(run, wait_for(engine, engine->round[2 * batch - 1]), "the kernel failed");
        if (status != ATTN_OK)
            return status;
        for (uint32_t i = 0; i < batch; i++, done++) {
            round_us = elapsed_us(engine->round[2 * i], engine->round[2 * i + 1]);
            if (done >= job->warmup)
                engine->rounds[done - job->warmup] = round_us;
        }
        if (done < total && !job->checkpoint(job->checkpoint_arg))
            return attn_error_set(run->err, ATTN_ERR_CANCELLED, "cancelled between two rounds");
    }
    attn_engine_rounds(engine->rounds, job->repeat, ret);
    return ATTN_OK;
}

/* Inputs, rounds, outputs, one after the other. */
static attn_status_t run_rounds(cuda_run_t *run, attn_engine_result_t *ret)
{
    attn_engine_t *engine = run->engine;
    attn_status_t status = failed(run, cudaEventRecord(engine->began, engine->compute), "the job cannot be timed");
    if (status == ATTN_OK)
        status = copy_in(run, &run->slice[0], engine->compute);
    if (status == ATTN_OK)
        status = failed(run, cudaEventRecord(engine->copied_in[0], engine->compute), "the job cannot be timed");
    if (status == ATTN_OK)
        status = rounds(run, ret);
    attn_cuda_nvml_clocks(engine->nvml, &ret->sm_clock_mhz, &ret->mem_clock_mhz); /* while still warm */
    if (status != ATTN_OK)
        return status;
    cudaEvent_t kernel_done = engine->round[0];
    status = failed(run, cudaEventRecord(kernel_done, engine->compute), "the job cannot be timed");
    if (status == ATTN_OK)
        status = copy_out(run, &run->slice[0], engine->compute);
    if (status == ATTN_OK)
        status = failed(run, cudaEventRecord(engine->copied_out, engine->compute), "the job cannot be timed");
    if (status == ATTN_OK)
        status = failed(run, wait_for(engine, engine->copied_out), "the answer cannot be copied from the GPU");
    ret->copy_in_us = (uint64_t)elapsed_us(engine->began, engine->copied_in[0]);
    ret->copy_out_us = (uint64_t)elapsed_us(kernel_done, engine->copied_out);
    return status;
}

static cudaError_t queue_wait(cudaStream_t stream, cudaEvent_t event, bool needed)
{
    return needed ? cudaStreamWaitEvent(stream, event, 0) : cudaSuccess;
}

/* One round. A whole job stays on one stream, where nothing waits for an event; slices use all three. */
static attn_status_t queue_slice(cuda_run_t *run, uint32_t i)
{
    attn_engine_t *engine = run->engine;
    bool cut = run->slices > 1;
    cudaStream_t in = cut ? engine->in : engine->compute, out = cut ? engine->out : engine->compute;
    attn_group_t group = run->group;
    if (cut) {
        group.count = 1;
        group.problems = &run->slice[i].problem;
    }
    attn_status_t status = copy_in(run, &run->slice[i], in);
    cudaError_t rc = cudaSuccess;
    if (status == ATTN_OK)
        rc = cudaEventRecord(engine->copied_in[i], in);
    if (status == ATTN_OK && rc == cudaSuccess)
        rc = queue_wait(engine->compute, engine->copied_in[i], cut);
    if (status == ATTN_OK && rc == cudaSuccess && cut)
        rc = cudaEventRecord(engine->round[2 * i], engine->compute);
    if (status == ATTN_OK && rc == cudaSuccess)
        status = launch(run, &group, i);
    if (status == ATTN_OK && rc == cudaSuccess)
        rc = cudaEventRecord(engine->round[2 * i + 1], engine->compute);
    if (status == ATTN_OK && rc == cudaSuccess)
        rc = queue_wait(out, engine->round[2 * i + 1], cut);
    if (status == ATTN_OK)
        status = failed(run, rc, "the job cannot be queued");
    if (status == ATTN_OK && !run->direct)
        status = copy_out(run, &run->slice[i], out);
    return status;
}

static attn_status_t run_once(cuda_run_t *run, attn_engine_result_t *ret)
{
    attn_engine_t *engine = run->engine;
    bool cut = run->slices > 1;
    attn_status_t status =
        failed(run, cudaEventRecord(engine->began, cut ? engine->in : engine->compute), "the job cannot be timed");
    for (uint32_t i = 0; i < run->slices && status == ATTN_OK; i++)
        status = queue_slice(run, i);
    cudaEvent_t kernel_done = engine->round[2 * run->slices - 1], done = kernel_done;
    if (status == ATTN_OK && !run->direct) {
        done = engine->copied_out;
        status = failed(run, cudaEventRecord(done, cut ? engine->out : engine->compute), "the job cannot be timed");
    }
    if (status == ATTN_OK)
        status = failed(run, wait_for(engine, done), "the kernel failed");
    if (status != ATTN_OK)
        return status;
    /* Copies out count from the end of the last kernel: what is seen of them. */
    ret->copy_in_us = (uint64_t)elapsed_us(engine->began, engine->copied_in[run->slices - 1]);
    ret->copy_out_us = run->direct ? 0 : (uint64_t)elapsed_us(kernel_done, done);
    for (uint32_t i = 0; i < run->slices; i++)
        ret->kernel_us += elapsed_us(cut ? engine->round[2 * i] : engine->copied_in[0], engine->round[2 * i + 1]);
    ret->kernel_min_us = ret->kernel_us;
    return ATTN_OK;
}

static attn_status_t cuda_launch(cuda_run_t *run, attn_engine_result_t *ret)
{
    const attn_cuda_job_t *job = run->job;
    run->variant = attn_cuda_variant_find(job->variant);
    if (!run->variant)
        return attn_error_set(run->err, ATTN_ERR_INTERNAL, "variant %s does not run on a GPU", job->variant);
    if (job->sizes.o == 0)
        return ATTN_OK;
    attn_status_t status = place(run, 0, NULL);
    if (status != ATTN_OK)
        return status;
    place_outputs(run);
    run->slices = attn_cuda_slices(job, &run->device, run->slice);
    status = problems_make(run);
    if (status == ATTN_OK)
        status = workspace_make(run);
    if (status != ATTN_OK)
        return status;
    return job->warmup > 0 || job->repeat > 1 ? run_rounds(run, ret) : run_once(run, ret);
}

static attn_status_t cuda_truth(cuda_run_t *run, attn_engine_result_t *ret)
{
    attn_engine_t *engine = run->engine;
    const attn_cuda_job_t *job = run->job;
    uint64_t bytes = attn_truth_bytes(&job->spec), workspace = attn_cuda_truth_workspace(&job->spec, &engine->device);
    void *truth;
    attn_status_t status = place(run, bytes, &truth);
    if (status == ATTN_OK)
        status = attn_cuda_workspace(engine, workspace, run->err);
    if (status != ATTN_OK)
        return status;
    run->slices = 1;
    run->slice[0] = (attn_cuda_slice_t){.q = {0, job->sizes.q}, .k = {0, job->sizes.k}, .v = {0, job->sizes.v}};
    status = copy_in(run, &run->slice[0], engine->compute);
    attn_exec_t exec = {.device = &engine->device,
                        .stream = engine->compute,
                        .workspace = engine->workspace,
                        .workspace_bytes = workspace,
                        .checkpoint = job->checkpoint,
                        .checkpoint_arg = job->checkpoint_arg};
    if (status == ATTN_OK)
        status = failed(run, cudaEventRecord(engine->round[0], engine->compute), "the job cannot be timed");
    if (status == ATTN_OK)
        status = attn_cuda_truth_compute(&job->spec, job->cu_seqlens_q, job->cu_seqlens_k, &run->device, truth, &exec,
                                         run->err);
    if (status == ATTN_OK)
        status = failed(run, cudaEventRecord(engine->round[1], engine->compute), "the job cannot be timed");
    if (status == ATTN_OK)
        status = failed(run, attn_cuda_copy_out(engine, job->truth, truth, bytes, engine->compute),
                        "the truth cannot be copied from the GPU");
    if (status == ATTN_OK)
        status = failed(run, cudaEventRecord(engine->copied_out, engine->compute), "the job cannot be timed");
    if (status == ATTN_OK)
        status = failed(run, wait_for(engine, engine->copied_out), "the truth failed");
    if (status == ATTN_OK)
        ret->kernel_us = ret->kernel_min_us = elapsed_us(engine->round[0], engine->round[1]);
    return status;
}

/* A failed job may have left work behind, or its mark in the workspace. Nothing may touch the job's memory when run()
 * returns; if the device cannot promise that, the context is broken. */
static void settle(attn_engine_t *engine, attn_engine_result_t *ret)
{
    cudaGetLastError();
    cudaError_t rc = cudaDeviceSynchronize();
    if (rc == cudaSuccess && engine->workspace)
        rc = cudaMemset(engine->workspace, 0, ATTN_WORKSPACE_ZEROED);
    ret->unusable = rc != cudaSuccess;
}

static attn_status_t cuda_run(attn_engine_t *engine, attn_engine_group_t *group, const attn_engine_request_t *request)
{
    attn_error_t *err = &group->error;
    attn_engine_result_t *ret = &group->result;
    attn_cuda_job_t job = {
        .op = group->op,
        .variant = group->variant,
        .spec = request->spec,
        .sizes = request->sizes,
        .cu_seqlens_q = request->cu_seqlens_q,
        .cu_seqlens_k = request->cu_seqlens_k,
        .host = request->at,
        .truth = request->truth,
        .warmup = group->warmup,
        .repeat = group->repeat,
        .checkpoint = group->checkpoint,
        .checkpoint_arg = group->checkpoint_arg,
    };
    cuda_run_t run = {.engine = engine, .job = &job, .err = err};
    attn_status_t status;
    switch (group->op) {
    case ATTN_OP_RUN:
        status = cuda_launch(&run, ret);
        break;
    case ATTN_OP_TRUTH:
        status = cuda_truth(&run, ret);
        break;
    case ATTN_OP_FILL:
        return attn_engine_fill(group, (unsigned)(attn_cpus_usable() + 0.5), err);
    case ATTN_OP_JUDGE:
        return attn_truth_judge(&job.spec, job.cu_seqlens_q, job.cu_seqlens_k, &job.host, job.truth,
                                (unsigned)(attn_cpus_usable() + 0.5),
                                &(attn_exec_t){.checkpoint = job.checkpoint, .checkpoint_arg = job.checkpoint_arg},
                                &ret->judgement, err);
    default:
        return attn_error_set(err, ATTN_ERR_UNIMPLEMENTED, "the CUDA engine has no operation %u", group->op);
    }
    if (status != ATTN_OK)
        settle(engine, ret);
    return status;
}

static void cuda_submit(attn_engine_t *engine, attn_engine_group_t *group)
{
    attn_engine_queue_push(&engine->queue, group);
}

static attn_engine_group_t *cuda_poll(attn_engine_t *engine)
{
    attn_engine_group_t *group = attn_engine_queue_take(&engine->queue);
    for (uint32_t i = 0; group && i < group->count && group->error.status == ATTN_OK; i++)
        group->error.status = cuda_run(engine, group, &group->requests[i]);
    return group;
}

static bool cuda_idle(attn_engine_t *engine)
{
    return attn_cuda_arenas_pin(engine);
}

const attn_engine_ops_t attn_engine_cuda = {.name = "cuda",
                                            .open = cuda_open,
                                            .close = cuda_close,
                                            .has = cuda_has,
                                            .submit = cuda_submit,
                                            .poll = cuda_poll,
                                            .idle = cuda_idle};
