/* worker/engine_cuda_alone.c: what is waited for where it is queued: rounds with timing, and the truth. Nothing else is
 * on the device beside timed rounds (the front's lease). Main thread. */
#include <stdlib.h>
#include <time.h>

#include "attn/engine_variants.h"
#include "base/clock.h"
#include "base/cpus.h"
#include "worker/engine_cuda.h"

/* Kernel rounds are queued for at most this long, so that a cancelled comparison ends soon. */
#define ROUNDS_QUEUED_US 20000.0
/* How long an event is polled without naps. */
#define SPIN_NS (400 * ATTN_NS_PER_US)

typedef struct alone {
    attn_engine_t *engine;
    attn_cuda_flight_t *flight;
    attn_engine_group_t *group;
    const attn_variant_t *variant;
    attn_group_t problems;
    attn_exec_t exec;
    uint64_t staging_bytes; /* of one launch */
    attn_error_t *err;
} alone_t;

static attn_status_t failed(const alone_t *alone, cudaError_t rc, const char *what)
{
    return rc == cudaSuccess ? ATTN_OK : attn_cuda_error(alone->err, (int)rc, what);
}

static attn_status_t record(const alone_t *alone, cudaEvent_t event)
{
    return failed(alone, cudaEventRecord(event, alone->engine->compute), "the job cannot be timed");
}

static cudaError_t wait_for(cudaEvent_t event)
{
    const int64_t began = attn_clock_ns(), spin_ns = attn_cpus_spin_us() ? SPIN_NS : 0;
    cudaError_t rc;
    while ((rc = cudaEventQuery(event)) == cudaErrorNotReady) {
        const int64_t waited = attn_clock_ns() - began;
        const struct timespec nap = {.tv_nsec = attn_clock_nap_ns(waited)};
        if (waited < spin_ns)
            attn_cpu_relax();
        else
            nanosleep(&nap, NULL);
    }
    return rc;
}

static attn_status_t inputs_copy(const alone_t *alone)
{
    const attn_engine_request_t *request = &alone->group->requests[0];
    const attn_addresses_t *device = &alone->flight->device[0], *host = &request->at;
    attn_cuda_moves_t *moves = &alone->engine->moves_in;
    moves->count = 0;
    moves->bytes = 0;
    if (!(request->on_device & ATTN_TENSOR_Q))
        attn_cuda_moves_add(moves, device->q, host->q, request->sizes.q, true);
    if (!(request->on_device & ATTN_TENSOR_K))
        attn_cuda_moves_add(moves, device->k, host->k, request->sizes.k, true);
    if (!(request->on_device & ATTN_TENSOR_V))
        attn_cuda_moves_add(moves, device->v, host->v, request->sizes.v, true);
    alone->group->result.link_in_bytes += moves->bytes;
    return failed(
        alone, attn_cuda_moves_queue(alone->engine, moves, true, NULL, alone->engine->compute, &alone->group->result),
        "the inputs cannot be copied to the GPU");
}

static attn_status_t moves_out(const alone_t *alone, attn_cuda_moves_t *moves, const char *what)
{
    alone->group->result.link_out_bytes += moves->bytes;
    return failed(
        alone, attn_cuda_moves_queue(alone->engine, moves, false, NULL, alone->engine->compute, &alone->group->result),
        what);
}

static attn_status_t outputs_copy(const alone_t *alone)
{
    const attn_engine_request_t *request = &alone->group->requests[0];
    const attn_addresses_t *device = &alone->flight->device[0], *host = &request->at;
    attn_cuda_moves_t *moves = &alone->engine->moves_out;
    moves->count = 0;
    moves->bytes = 0;
    if (!(request->on_device & ATTN_TENSOR_O))
        attn_cuda_moves_add(moves, device->o, host->o, request->sizes.o, false);
    if (host->lse && !(request->on_device & ATTN_TENSOR_LSE))
        attn_cuda_moves_add(moves, device->lse, host->lse, request->sizes.lse, false);
    return moves_out(alone, moves, "the answer cannot be copied from the GPU");
}

/* ---- rounds ---- */

static attn_status_t launch(alone_t *alone, uint32_t staging)
{
    alone->exec.host_workspace = alone->staging_bytes ? alone->flight->staging + staging * alone->staging_bytes : NULL;
    alone->group->result.launches++;
    return alone->variant->launch(&alone->problems, &alone->exec, alone->err);
}

/* Queues rounds in batches of about ROUNDS_QUEUED_US and collects the times of those after the warm-up. */
static attn_status_t rounds(alone_t *alone)
{
    attn_engine_t *engine = alone->engine;
    const attn_engine_group_t *group = alone->group;
    uint32_t total = group->warmup + group->repeat;
    double round_us = ROUNDS_QUEUED_US;
    for (uint32_t done = 0; done < total;) {
        double room = ROUNDS_QUEUED_US / (round_us > 1 ? round_us : 1);
        uint32_t batch = room < 1 ? 1 : room > ATTN_CUDA_ROUNDS ? ATTN_CUDA_ROUNDS : (uint32_t)room;
        batch = batch < total - done ? batch : total - done;
        for (uint32_t i = 0; i < batch; i++) {
            attn_status_t status = record(alone, engine->round[2 * i]);
            if (status == ATTN_OK)
                status = launch(alone, i);
            if (status == ATTN_OK)
                status = record(alone, engine->round[2 * i + 1]);
            if (status != ATTN_OK)
                return status;
        }
        attn_status_t status = failed(alone, wait_for(engine->round[2 * batch - 1]), "the kernel failed");
        if (status != ATTN_OK)
            return status;
        for (uint32_t i = 0; i < batch; i++, done++) {
            round_us = attn_cuda_elapsed_us(engine->round[2 * i], engine->round[2 * i + 1]);
            if (done >= group->warmup)
                engine->rounds[done - group->warmup] = round_us;
        }
        if (done < total && !group->checkpoint(group->checkpoint_arg))
            return attn_error_set(alone->err, ATTN_ERR_CANCELLED, "cancelled between two rounds");
    }
    attn_engine_rounds(engine->rounds, group->repeat, &alone->group->result);
    return ATTN_OK;
}

/* Places in the slab for everything: rounds should not wait for PCIe. `extra` bytes follow. */
static attn_status_t places_make(const alone_t *alone, uint64_t extra, void **ret_extra)
{
    attn_cuda_flight_t *flight = alone->flight;
    uint64_t bytes = attn_cuda_flight_place(flight, 0, 0, true);
    attn_status_t status = attn_cuda_slab(alone->engine, flight, bytes + extra, alone->err);
    if (status != ATTN_OK)
        return status;
    attn_cuda_flight_place(flight, 0, 0, true);
    if (ret_extra)
        *ret_extra = flight->slab + bytes;
    return ATTN_OK;
}

static attn_status_t workspace_make(alone_t *alone)
{
    attn_engine_t *engine = alone->engine;
    attn_workspace_size_t size = {ATTN_WORKSPACE_ZEROED, 0};
    if (alone->variant->workspace)
        size = alone->variant->workspace(&alone->problems, &engine->device);
    alone->staging_bytes = (size.host + 255) / 256 * 256;
    attn_status_t status = attn_cuda_workspace(engine, size.device, alone->err);
    if (status == ATTN_OK && size.host > 0)
        status = attn_cuda_staging(engine, alone->flight, alone->staging_bytes * ATTN_CUDA_ROUNDS, alone->err);
    alone->exec = (attn_exec_t){.device = &engine->device,
                                .stream = engine->compute,
                                .workspace = engine->workspace,
                                .workspace_bytes = size.device,
                                .host_workspace_bytes = size.host,
                                .checkpoint = alone->group->checkpoint,
                                .checkpoint_arg = alone->group->checkpoint_arg};
    return status;
}

/* Inputs, rounds, outputs, one after the other. */
attn_status_t attn_cuda_alone_rounds(attn_engine_t *engine, attn_cuda_flight_t *flight, attn_error_t *err)
{
    attn_engine_group_t *group = flight->group;
    attn_engine_result_t *ret = &group->result;
    alone_t alone = {.engine = engine,
                     .flight = flight,
                     .group = group,
                     .variant = attn_cuda_variant_find(group->variant),
                     .err = err};
    if (!alone.variant)
        return attn_error_set(err, ATTN_ERR_INTERNAL, "variant %s does not run on a GPU", group->variant);
    attn_status_t status = places_make(&alone, 0, NULL);
    if (status == ATTN_OK)
        status = attn_cuda_flight_problems(flight, &alone.problems, err);
    if (status == ATTN_OK)
        status = workspace_make(&alone);
    if (status == ATTN_OK)
        status = record(&alone, flight->began);
    if (status == ATTN_OK)
        status = inputs_copy(&alone);
    if (status == ATTN_OK)
        status = record(&alone, flight->copied_in[0]);
    if (status == ATTN_OK)
        status = rounds(&alone);
    attn_cuda_nvml_clocks(engine->nvml, &ret->sm_clock_mhz, &ret->mem_clock_mhz); /* while still warm */
    if (status == ATTN_OK)
        status = record(&alone, flight->computed[0]);
    if (status == ATTN_OK)
        status = outputs_copy(&alone);
    if (status == ATTN_OK)
        status = record(&alone, flight->copied_out);
    if (status == ATTN_OK)
        status = failed(&alone, wait_for(flight->copied_out), "the answer cannot be copied from the GPU");
    if (status != ATTN_OK)
        return status;
    ret->copy_in_us = (uint64_t)attn_cuda_elapsed_us(flight->began, flight->copied_in[0]);
    ret->copy_out_us = (uint64_t)attn_cuda_elapsed_us(flight->computed[0], flight->copied_out);
    return ATTN_OK;
}

attn_status_t attn_cuda_alone_truth(attn_engine_t *engine, attn_cuda_flight_t *flight, attn_error_t *err)
{
    attn_engine_group_t *group = flight->group;
    const attn_engine_request_t *request = &group->requests[0];
    alone_t alone = {.engine = engine, .flight = flight, .group = group, .err = err};
    uint64_t bytes = attn_truth_bytes(&request->spec);
    uint64_t workspace = attn_cuda_truth_workspace(&request->spec, &engine->device);
    void *truth;
    attn_status_t status = places_make(&alone, bytes, &truth);
    if (status == ATTN_OK)
        status = attn_cuda_workspace(engine, workspace, err);
    if (status == ATTN_OK)
        status = inputs_copy(&alone);
    attn_exec_t exec = {.device = &engine->device,
                        .stream = engine->compute,
                        .workspace = engine->workspace,
                        .workspace_bytes = workspace,
                        .checkpoint = group->checkpoint,
                        .checkpoint_arg = group->checkpoint_arg};
    if (status == ATTN_OK)
        status = record(&alone, engine->round[0]);
    if (status == ATTN_OK)
        status = attn_cuda_truth_compute(&request->spec, request->cu_seqlens_q, request->cu_seqlens_k,
                                         &flight->device[0], truth, &exec, err);
    if (status == ATTN_OK)
        status = record(&alone, engine->round[1]);
    engine->moves_out.count = 0;
    engine->moves_out.bytes = 0;
    if (status == ATTN_OK) {
        attn_cuda_moves_add(&engine->moves_out, truth, request->truth, bytes, false);
        status = moves_out(&alone, &engine->moves_out, "the truth cannot be copied from the GPU");
    }
    if (status == ATTN_OK)
        status = record(&alone, flight->copied_out);
    if (status == ATTN_OK)
        status = failed(&alone, wait_for(flight->copied_out), "the truth failed");
    if (status == ATTN_OK)
        group->result.kernel_us = group->result.kernel_min_us =
            attn_cuda_elapsed_us(engine->round[0], engine->round[1]);
    return status;
}
