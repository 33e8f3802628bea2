/* worker/engine_cuda.c: the engine on one GPU. Main thread; owns the context's streams, events and memory.
 *
 * Up to ATTN_WIRE_GROUPS groups are in flight. Each is queued completely - copies in, one launch, copies out - and ends
 * with its last event; a large request is queued piece by piece, by poll() (engine_cuda_bulk.c). What wants the device
 * to itself is waited for in submit(). No memory is reserved per group: device memory, workspace and staging are kept.
 */
#include "worker/engine_cuda.h"

#include <stdlib.h>
#include <string.h>

#include "attn/engine_variants.h"
#include "base/cpus.h"

/* Answers up to this size are written by the kernel over PCIe. H100, p50 of one request, with and without: 128 KiB 31.9
 * and 36.8 us, 256 KiB 35.9 and 40.9, 512 KiB 65.9 and 72.6, 8 MiB 438 and 350. */
#define DIRECT_BYTES (UINT64_C(512) << 10)

/* Inputs of a lone group up to this size are fetched by a kernel. H100, p50 of one request, with and without: 192
 * KiB 29.2 and 31.9 us, 384 KiB 35.6 and 35.9, 1.5 MiB 68.1 and 65.9. (The attention kernel reading 192 KiB in host
 * memory itself, by TMA: 96.) */
#define GATHER_BYTES (UINT64_C(256) << 10)

static void cuda_close(attn_engine_t *engine)
{
    if (!engine)
        return;
    /* After a sticky error these fail, and the process ends anyway. */
    cudaDeviceSynchronize();
    for (uint32_t i = 0; i < ATTN_WIRE_GROUPS; i++)
        attn_cuda_flight_close(&engine->flight[i]);
    while (attn_cuda_outgrown_free(engine))
        ;
    attn_cuda_bulk_close(&engine->bulk);
    attn_cuda_ranges_close(engine);
    attn_cuda_ranges_destroy(engine->ranges);
    cudaFree(engine->workspace);
    for (int i = 0; i < 2 * ATTN_CUDA_ROUNDS; i++)
        cudaEventDestroy(engine->round[i]);
    cudaStreamDestroy(engine->compute);
    cudaStreamDestroy(engine->in);
    cudaStreamDestroy(engine->out);
    attn_cuda_nvml_close(engine->nvml);
    free(engine);
}

static attn_status_t streams_open(attn_engine_t *engine, attn_error_t *err)
{
    int least = 0, greatest = 0;
    cudaError_t rc = cudaDeviceGetStreamPriorityRange(&least, &greatest);
    if (rc == cudaSuccess)
        rc = cudaStreamCreateWithPriority(&engine->compute, cudaStreamNonBlocking, greatest);
    if (rc == cudaSuccess)
        rc = cudaStreamCreateWithFlags(&engine->in, cudaStreamNonBlocking);
    if (rc == cudaSuccess)
        rc = cudaStreamCreateWithFlags(&engine->out, cudaStreamNonBlocking);
    for (int i = 0; i < 2 * ATTN_CUDA_ROUNDS && rc == cudaSuccess; i++)
        rc = cudaEventCreate(&engine->round[i]);
    if (rc != cudaSuccess)
        return attn_cuda_error(err, (int)rc, "streams and events cannot be made");
    attn_status_t status = attn_cuda_bulk_open(&engine->bulk, err);
    if (status == ATTN_OK)
        status = attn_cuda_workspace(engine, ATTN_WORKSPACE_ZEROED, err);
    for (uint32_t i = 0; i < ATTN_WIRE_GROUPS && status == ATTN_OK; i++)
        status = attn_cuda_flight_open(engine, &engine->flight[i], err);
    if (status == ATTN_OK)
        status = attn_cuda_slab(engine, &engine->flight[0], 1, err);
    return status;
}

static attn_status_t cuda_open(const attn_engine_setup_t *setup, attn_engine_t **ret, attn_engine_about_t *ret_about,
                               attn_error_t *err)
{
    attn_engine_t *engine = calloc(1, sizeof *engine);
    if (!engine)
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for the CUDA engine");
    engine->setup = *setup;
    engine->direct_bytes = DIRECT_BYTES;
    engine->gather_bytes = GATHER_BYTES;
    engine->row_copies = engine->batch_copies = true;
    engine->threads = (unsigned)(attn_cpus_usable() + 0.5);
    engine->annotate = attn_cuda_nvtx_wanted();
    attn_engine_about_t about = {0};
    attn_status_t status = attn_cuda_device_open(setup->device, &engine->device, err);
    if (status != ATTN_OK) {
        free(engine);
        return status;
    }
    status = attn_cuda_ranges_create(&engine->ranges, err);
    if (status == ATTN_OK)
        status = streams_open(engine, err);
    if (status != ATTN_OK) {
        cuda_close(engine);
        return status;
    }
    attn_cuda_ranges_open(engine);
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

/* A failed group may have left work behind, or its mark in the workspace. Nothing may touch its memory when it is
 * handed back; if the device cannot promise that, the context is broken. */
static void settle(attn_engine_t *engine, attn_engine_result_t *ret)
{
    cudaGetLastError();
    cudaError_t rc = cudaDeviceSynchronize();
    if (rc == cudaSuccess && engine->workspace)
        rc = cudaMemset(engine->workspace, 0, ATTN_WORKSPACE_ZEROED);
    if (rc == cudaSuccess && engine->bulk.workspace)
        rc = cudaMemset(engine->bulk.workspace, 0, ATTN_WORKSPACE_ZEROED);
    ret->unusable = rc != cudaSuccess;
}

bool attn_cuda_idle(const attn_engine_t *engine)
{
    return engine->order.count == 0 && engine->bulk.count == 0;
}

/* Large requests begin at the other end, so that the slabs which grow are theirs. */
static attn_cuda_flight_t *flight_free(attn_engine_t *engine, bool large)
{
    uint32_t i = large ? ATTN_WIRE_GROUPS - 1 : 0;
    while (engine->flight[i].group)
        i += large ? -1 : 1;
    return &engine->flight[i];
}

static bool is_plain(const attn_engine_group_t *group)
{
    return group->op == ATTN_OP_RUN && group->warmup == 0 && group->repeat == 1;
}

static attn_status_t group_begin(attn_engine_t *engine, attn_cuda_flight_t *flight)
{
    attn_engine_group_t *group = flight->group;
    const attn_engine_request_t *request = &group->requests[0];
    attn_error_t *err = &group->error;
    const unsigned threads = engine->threads;
    const attn_exec_t exec = {.checkpoint = group->checkpoint, .checkpoint_arg = group->checkpoint_arg};
    switch (group->op) {
    case ATTN_OP_RUN:
        return is_plain(group) ? attn_cuda_flight_queue(engine, flight, err)
                               : attn_cuda_alone_rounds(engine, flight, err);
    case ATTN_OP_TRUTH:
        return attn_cuda_alone_truth(engine, flight, err);
    case ATTN_OP_FILL:
        return attn_engine_fill(group, threads, err);
    case ATTN_OP_JUDGE:
        return attn_truth_judge(&request->spec, request->cu_seqlens_q, request->cu_seqlens_k, &request->at,
                                request->truth, threads, &exec, &group->result.judgement, err);
    default:
        return attn_error_set(err, ATTN_ERR_UNIMPLEMENTED, "the CUDA engine has no operation %u", group->op);
    }
}

static void cuda_submit(attn_engine_t *engine, attn_engine_group_t *group)
{
    bool large = group->large && group->count == 1 && is_plain(group);
    attn_cuda_flight_t *flight = flight_free(engine, large);
    flight->group = group;
    flight->large = large;
    group->lane = flight;
    flight->range = engine->annotate ? attn_cuda_nvtx_begin(group) : 0;
    attn_status_t status = group_begin(engine, flight);
    if (large && status == ATTN_OK)
        return; /* engine->bulk has it */
    group->error.status = status;
    flight->queued = status == ATTN_OK && is_plain(group);
    if (status != ATTN_OK && (group->op == ATTN_OP_RUN || group->op == ATTN_OP_TRUTH))
        settle(engine, &group->result);
    attn_engine_queue_push(&engine->order, group);
    /* Queueing many requests takes as long as the pieces that the device has. */
    if (engine->bulk.count > 0)
        attn_cuda_bulk_pump(engine);
}

/* What is left to do for a group that has ended. */
static attn_engine_group_t *flight_end(attn_engine_t *engine, attn_cuda_flight_t *flight)
{
    attn_engine_group_t *group = flight->group;
    cudaError_t rc = flight->queued ? cudaEventQuery(flight->done) : cudaSuccess;
    if (rc != cudaSuccess) {
        attn_cuda_error(&group->error, (int)rc, "the kernel failed");
        settle(engine, &group->result);
    } else if (flight->queued && group->error.status == ATTN_OK) {
        attn_cuda_flight_times(flight, &group->result);
    } else if (flight->large && !flight->queued) {
        settle(engine, &group->result);
    }
    if (engine->annotate)
        attn_cuda_nvtx_end(flight->range);
    group->result.idle_wanted |= engine->outgrown_count > 0;
    flight->group = NULL;
    return group;
}

/* Small groups end in the order in which they were submitted, large requests in any. */
static attn_engine_group_t *cuda_poll(attn_engine_t *engine)
{
    if (engine->bulk.count > 0)
        attn_cuda_bulk_pump(engine);
    if (engine->order.count > 0) {
        attn_cuda_flight_t *flight = engine->order.group[engine->order.first]->lane;
        if (!flight->queued || cudaEventQuery(flight->done) != cudaErrorNotReady) {
            attn_engine_queue_take(&engine->order);
            return flight_end(engine, flight);
        }
    }
    attn_cuda_flight_t *large = engine->bulk.count > 0 ? attn_cuda_bulk_ended(&engine->bulk) : NULL;
    if (!large)
        return NULL;
    attn_cuda_bulk_forget(&engine->bulk, large);
    return flight_end(engine, large);
}

static bool cuda_urgent(const attn_engine_t *engine)
{
    return attn_cuda_bulk_waits(&engine->bulk);
}

/* Pinning holds up everybody's launches: beside groups only what they have met. */
static bool cuda_idle(attn_engine_t *engine)
{
    if (!attn_cuda_idle(engine))
        return attn_cuda_ranges_wanted(engine) ? attn_cuda_ranges_pin(engine) : true;
    if (engine->outgrown_count > 0) {
        attn_cuda_outgrown_free(engine);
        return true;
    }
    return attn_cuda_ranges_pin(engine);
}

const attn_engine_ops_t attn_engine_cuda = {.name = "cuda",
                                            .runs_alone = true,
                                            .open = cuda_open,
                                            .close = cuda_close,
                                            .has = cuda_has,
                                            .submit = cuda_submit,
                                            .poll = cuda_poll,
                                            .urgent = cuda_urgent,
                                            .idle = cuda_idle,
                                            .client_memory = {.add = attn_cuda_client_add,
                                                              .pin = attn_cuda_client_pin,
                                                              .ready = attn_cuda_client_ready,
                                                              .drop = attn_cuda_client_drop}};
