/* worker/engine_cuda_flight.c: one group on its way through the GPU: copies in, one launch, copies out, each on a
 * stream of its own where other groups are under way, so that copies of one run under the kernel of another. Main
 * thread; owns the flight's events, memory and problems.
 *
 * A lone group of small tensors stays on one stream, where nothing waits for an event. A lone large request is cut into
 * slices, whose copies run under each other's computation. */
#include <stdlib.h>

#include "attn/engine_variants.h"
#include "worker/engine_cuda.h"
#include "worker/slab.h"

/* Below this one stream is quicker: waiting for an event costs about 3 us, which is what these bytes take. */
#define TOGETHER_BYTES (UINT64_C(1) << 20)

/* Of the kernel of a large request in slices, while other groups are under way. */
#define BESIDE_OTHERS_US 60.0

typedef struct queue {
    attn_engine_t *engine;
    attn_cuda_flight_t *flight;
    cudaStream_t in, out;
    attn_slab_order_t order;
    uint64_t output_bytes; /* that the host gets */
    attn_error_t *err;
} queue_t;

double attn_cuda_elapsed_us(cudaEvent_t from, cudaEvent_t to)
{
    float ms = 0;
    return cudaEventElapsedTime(&ms, from, to) == cudaSuccess && ms > 0 ? (double)ms * 1000 : 0;
}

attn_status_t attn_cuda_flight_open(attn_engine_t *engine, attn_cuda_flight_t *flight, attn_error_t *err)
{
    /* None of them for a thread to block on (cudaEventBlockingSync): each record of such a one is an interrupt, which
     * falls on whatever thread has that core. */
    cudaError_t rc = cudaEventCreate(&flight->copied_out);
    if (rc == cudaSuccess)
        rc = cudaEventCreate(&flight->began);
    for (int i = 0; i < ATTN_CUDA_SLICES && rc == cudaSuccess; i++) {
        rc = cudaEventCreate(&flight->copied_in[i]);
        if (rc == cudaSuccess)
            rc = cudaEventCreate(&flight->launched[i]);
        if (rc == cudaSuccess)
            rc = cudaEventCreate(&flight->computed[i]);
    }
    if (rc == cudaSuccess)
        rc = cudaHostAlloc((void **)&flight->fetch.times, sizeof *flight->fetch.times, cudaHostAllocDefault);
    if (rc != cudaSuccess)
        return attn_cuda_error(err, (int)rc, "events cannot be made");
    return attn_cuda_staging(engine, flight, 1, err);
}

void attn_cuda_flight_close(attn_cuda_flight_t *flight)
{
    cudaEventDestroy(flight->began);
    cudaEventDestroy(flight->copied_out);
    for (int i = 0; i < ATTN_CUDA_SLICES; i++) {
        cudaEventDestroy(flight->copied_in[i]);
        cudaEventDestroy(flight->launched[i]);
        cudaEventDestroy(flight->computed[i]);
    }
    cudaFreeHost(flight->fetch.times);
    cudaFree(flight->slab);
    cudaFreeHost(flight->staging);
    free(flight->problems);
}

static attn_status_t failed(const queue_t *queue, cudaError_t rc, const char *what)
{
    return rc == cudaSuccess ? ATTN_OK : attn_cuda_error(queue->err, (int)rc, what);
}

/* ---- places ---- */

uint64_t attn_cuda_flight_place(attn_cuda_flight_t *flight, uint32_t i, uint64_t offset, bool outputs)
{
    return attn_slab_place(&flight->group->requests[i], flight->slab, offset, outputs, &flight->device[i]);
}

/* Replaces a tensor's address by the one under which a kernel reaches it in host memory; false when it cannot. */
static bool tensor_direct(const attn_engine_t *engine, const attn_engine_request_t *request, uint32_t tensor,
                          uint64_t bytes, void **at)
{
    if (bytes == 0 || !*at || (request->on_device & tensor))
        return true;
    void *there = attn_cuda_direct(engine, *at, bytes);
    if (there)
        *at = there;
    return there != NULL;
}

static bool outputs_direct(const attn_engine_t *engine, const attn_engine_request_t *request, attn_addresses_t *at)
{
    void *lse = at->lse;
    bool direct = tensor_direct(engine, request, ATTN_TENSOR_O, request->sizes.o, &at->o) &&
                  tensor_direct(engine, request, ATTN_TENSOR_LSE, request->sizes.lse, &lse);
    at->lse = lse;
    return direct;
}

uint64_t attn_cuda_in_bytes(const attn_engine_request_t *request)
{
    const attn_sizes_t *sizes = &request->sizes;
    return (request->on_device & ATTN_TENSOR_Q ? 0 : sizes->q) + (request->on_device & ATTN_TENSOR_K ? 0 : sizes->k) +
           (request->on_device & ATTN_TENSOR_V ? 0 : sizes->v);
}

static uint64_t inputs_bytes(const attn_engine_group_t *group)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < group->count; i++)
        bytes += attn_cuda_in_bytes(&group->requests[i]);
    return bytes;
}

static attn_status_t places_make(queue_t *queue)
{
    attn_cuda_flight_t *flight = queue->flight;
    const attn_engine_group_t *group = flight->group;
    uint64_t output_bytes = 0;
    for (uint32_t i = 0; i < group->count; i++) {
        const attn_engine_request_t *request = &group->requests[i];
        output_bytes += (request->on_device & ATTN_TENSOR_O ? 0 : request->sizes.o) +
                        (request->on_device & ATTN_TENSOR_LSE ? 0 : request->sizes.lse);
    }
    flight->direct = output_bytes <= queue->engine->direct_bytes;
    queue->output_bytes = output_bytes;
    for (uint32_t i = 0; i < group->count && flight->direct; i++) {
        attn_addresses_t answers = group->requests[i].at;
        flight->direct = outputs_direct(queue->engine, &group->requests[i], &answers);
    }
    flight->in_place = inputs_bytes(group) == 0; /* what a kernel reads of the group is in device memory already */
    /* First how much, then where: the slab may move. */
    attn_slab_sort(group->requests, group->count, &queue->order);
    uint64_t bytes =
        attn_slab_place_group(group->requests, group->count, &queue->order, NULL, !flight->direct, flight->device);
    attn_status_t status = attn_cuda_slab(queue->engine, flight, bytes, queue->err);
    if (status != ATTN_OK)
        return status;
    attn_slab_place_group(group->requests, group->count, &queue->order, flight->slab, !flight->direct, flight->device);
    for (uint32_t i = 0; i < group->count; i++) {
        if (flight->direct)
            outputs_direct(queue->engine, &group->requests[i], &flight->device[i]);
    }
    return ATTN_OK;
}

attn_status_t attn_cuda_flight_problems(attn_cuda_flight_t *flight, attn_group_t *ret, attn_error_t *err)
{
    const attn_engine_group_t *group = flight->group;
    uint32_t count = attn_engine_problem_count(group);
    if (count > flight->problem_room) {
        attn_problem_t *problems = realloc(flight->problems, count * sizeof *problems);
        if (!problems)
            return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for the %u sequences of this group", count);
        flight->problems = problems;
        flight->problem_room = count;
    }
    attn_problem_t *next = flight->problems;
    for (uint32_t i = 0; i < group->count; i++)
        next += attn_engine_problems(&group->requests[i], &flight->device[i], next);
    *ret = (attn_group_t){.config = attn_engine_config(group), .count = count, .problems = flight->problems};
    return ATTN_OK;
}

static attn_group_t launch_group(const attn_cuda_flight_t *flight, uint32_t slice)
{
    attn_group_t group = flight->whole;
    if (flight->slices > 1) {
        group.count = 1;
        group.problems = &flight->slice[slice].problem;
    }
    return group;
}

/* Staging must stay as it is until a launch has finished: every launch that is queued has its own. */
static attn_status_t workspace_make(queue_t *queue)
{
    attn_engine_t *engine = queue->engine;
    attn_cuda_flight_t *flight = queue->flight;
    attn_workspace_size_t most = {ATTN_WORKSPACE_ZEROED, 0};
    for (uint32_t i = 0; flight->variant->workspace && i < flight->slices; i++) {
        attn_group_t group = launch_group(flight, i);
        attn_workspace_size_t size = flight->variant->workspace(&group, &engine->device);
        most.device = size.device > most.device ? size.device : most.device;
        most.host = size.host > most.host ? size.host : most.host;
    }
    flight->launch_staging = (most.host + 255) / 256 * 256;
    attn_status_t status = flight->large ? attn_cuda_bulk_workspace(engine, most.device, queue->err)
                                         : attn_cuda_workspace(engine, most.device, queue->err);
    if (status == ATTN_OK && most.host > 0)
        status = attn_cuda_staging(engine, flight, flight->launch_staging * flight->slices, queue->err);
    flight->exec = (attn_exec_t){.device = &engine->device,
                                 .stream = flight->large ? engine->bulk.compute : engine->compute,
                                 .workspace = engine->workspace,
                                 .workspace_bytes = most.device,
                                 .host_workspace_bytes = most.host,
                                 .checkpoint = flight->group->checkpoint,
                                 .checkpoint_arg = flight->group->checkpoint_arg};
    return status;
}

/* ---- queueing ---- */

static void move_add(const queue_t *queue, uint32_t i, uint32_t tensor, void *device, const void *host,
                     const attn_cuda_span_t *span, bool in)
{
    attn_cuda_moves_t *moves = in ? &queue->engine->moves_in : &queue->engine->moves_out;
    const attn_engine_request_t *request = &queue->flight->group->requests[i];
    if (!(request->on_device & tensor) && host)
        attn_cuda_moves_add_of(moves, request->client[__builtin_ctz(tensor)], (char *)device + span->offset,
                               (const char *)host + span->offset, span->bytes, in);
}

static void inputs_add(const queue_t *queue, uint32_t i, const attn_cuda_slice_t *slice)
{
    const attn_addresses_t *device = &queue->flight->device[i], *host = &queue->flight->group->requests[i].at;
    move_add(queue, i, ATTN_TENSOR_Q, device->q, host->q, &slice->q, true);
    move_add(queue, i, ATTN_TENSOR_K, device->k, host->k, &slice->k, true);
    move_add(queue, i, ATTN_TENSOR_V, device->v, host->v, &slice->v, true);
}

static void outputs_add(const queue_t *queue, uint32_t i, const attn_cuda_slice_t *slice)
{
    const attn_addresses_t *device = &queue->flight->device[i], *host = &queue->flight->group->requests[i].at;
    if (queue->flight->direct)
        return;
    move_add(queue, i, ATTN_TENSOR_O, device->o, host->o, &slice->o, false);
    move_add(queue, i, ATTN_TENSOR_LSE, device->lse, host->lse, &slice->lse, false);
}

/* In the order of addresses in host memory, which is that of the slab: neighbours become one copy. */
static void slice_moves(const queue_t *queue, uint32_t slice)
{
    const attn_cuda_flight_t *flight = queue->flight;
    const attn_engine_group_t *group = flight->group;
    for (uint32_t i = 0; i < group->count; i++) {
        uint32_t in = queue->order.in[i], out = queue->order.out[i];
        const attn_cuda_slice_t whole_in = attn_cuda_slice_whole(&group->requests[in]);
        const attn_cuda_slice_t whole_out = attn_cuda_slice_whole(&group->requests[out]);
        inputs_add(queue, in, flight->slices > 1 ? &flight->slice[slice] : &whole_in);
        outputs_add(queue, out, flight->slices > 1 ? &flight->slice[slice] : &whole_out);
    }
}

static attn_status_t copy_in(queue_t *queue)
{
    attn_engine_t *engine = queue->engine;
    attn_cuda_moves_t *moves = &engine->moves_in;
    queue->flight->group->result.link_in_bytes += moves->bytes;
    /* Beside other groups its blocks would wait for theirs; a copy engine does not. */
    attn_cuda_flight_t *flight = queue->flight;
    bool gather = moves->bytes <= engine->gather_bytes && (engine->gather_apart || !flight->apart);
    flight->fetch.blocks = 0;
    cudaError_t rc =
        attn_cuda_moves_queue(engine, moves, true, gather ? &flight->fetch : NULL, queue->in, &flight->group->result);
    flight->exec.early = flight->fetch.blocks > 0 && !flight->apart;
    return failed(queue, rc, "the inputs cannot be copied to the GPU");
}

static attn_status_t copy_out(queue_t *queue)
{
    attn_cuda_moves_t *moves = &queue->engine->moves_out;
    attn_engine_result_t *result = &queue->flight->group->result;
    result->link_out_bytes += moves->bytes;
    return failed(queue, attn_cuda_moves_queue(queue->engine, moves, false, NULL, queue->out, result),
                  "the answer cannot be copied from the GPU");
}

static cudaError_t stream_wait(const queue_t *queue, cudaStream_t stream, cudaEvent_t event)
{
    return queue->flight->apart ? cudaStreamWaitEvent(stream, event, 0) : cudaSuccess;
}

attn_status_t attn_cuda_flight_launch(attn_cuda_flight_t *flight, uint32_t slice, attn_error_t *err)
{
    cudaStream_t compute = flight->exec.stream;
    attn_group_t group = launch_group(flight, slice);
    flight->exec.host_workspace = flight->launch_staging ? flight->staging + slice * flight->launch_staging : NULL;
    cudaError_t rc = cudaSuccess;
    if (flight->apart && !flight->in_place)
        rc = cudaStreamWaitEvent(compute, flight->copied_in[slice], 0);
    if (rc == cudaSuccess && flight->apart)
        rc = cudaEventRecord(flight->launched[slice], compute);
    if (rc != cudaSuccess)
        return attn_cuda_error(err, (int)rc, "the group cannot be queued");
    flight->group->result.launches++;
    attn_status_t status = flight->variant->launch(&group, &flight->exec, err);
    if (status == ATTN_OK && (rc = cudaEventRecord(flight->computed[slice], compute)) != cudaSuccess)
        return attn_cuda_error(err, (int)rc, "the group cannot be queued");
    return status;
}

static attn_status_t slice_queue(queue_t *queue, uint32_t slice)
{
    attn_cuda_flight_t *flight = queue->flight;
    slice_moves(queue, slice);
    attn_status_t status = copy_in(queue);
    /* An event between a kernel that fetches and the launch would keep the two apart (3 us of 23, H100). */
    if (status == ATTN_OK && !flight->in_place && !flight->exec.early)
        status = failed(queue, cudaEventRecord(flight->copied_in[slice], queue->in), "the group cannot be queued");
    if (status == ATTN_OK)
        status = attn_cuda_flight_launch(flight, slice, queue->err);
    if (status != ATTN_OK || flight->direct)
        return status;
    status = failed(queue, stream_wait(queue, queue->out, flight->computed[slice]), "the group cannot be queued");
    return status == ATTN_OK ? copy_out(queue) : status;
}

attn_status_t attn_cuda_flight_after(const attn_cuda_flight_t *flight, cudaStream_t stream, attn_error_t *err)
{
    const attn_engine_group_t *group = flight->group;
    cudaError_t rc = cudaSuccess;
    for (uint32_t i = 0; i < group->count && rc == cudaSuccess; i++)
        if (group->requests[i].after)
            rc = cudaEventRecord((cudaEvent_t)group->requests[i].after, stream);
    return rc == cudaSuccess ? ATTN_OK : attn_cuda_error(err, (int)rc, "the event of a request cannot be recorded");
}

static attn_status_t all_queue(queue_t *queue)
{
    attn_cuda_flight_t *flight = queue->flight;
    attn_status_t status = failed(queue, cudaEventRecord(flight->began, queue->in), "the group cannot be queued");
    for (uint32_t i = 0; i < flight->slices && status == ATTN_OK; i++)
        status = slice_queue(queue, i);
    flight->done = flight->computed[flight->slices - 1];
    if (flight->direct)
        flight->group->result.link_out_bytes = queue->output_bytes;
    if (status == ATTN_OK)
        status = attn_cuda_flight_after(flight, flight->direct ? queue->engine->compute : queue->out, queue->err);
    if (status != ATTN_OK || flight->direct)
        return status;
    flight->done = flight->copied_out;
    return failed(queue, cudaEventRecord(flight->done, queue->out), "the group cannot be queued");
}

/* Whether copies get streams of their own: when there is something to overlap with. */
static bool copies_apart(const attn_engine_t *engine, const attn_cuda_flight_t *flight)
{
    return flight->large || flight->slices > 1 || !attn_cuda_idle(engine) ||
           inputs_bytes(flight->group) > TOGETHER_BYTES;
}

/* Slices let copies run under the kernel, and another group's kernel in between. A kernel in one piece is the quicker
 * one: it stays whole beside other groups, where there is enough to overlap with, if it takes longer than the link.
 * Else there its slices are as long as others may well wait: each ends a copy and begins one, for which the link rests
 * (H100, four of (1,4096,4096,32/8,128) in flight, 0.97 ms of the link each: 1.08 ms in 8 slices, 1.04 in one; but
 * slices of 90 us held others up: 64 rows in a mix at 70 % of the peak, p99 1.35 ms instead of 1.26). */
static uint32_t slices_make(const attn_engine_t *engine, attn_cuda_flight_t *flight)
{
    const attn_engine_request_t *request = &flight->group->requests[0];
    const attn_sizes_t *sizes = &request->sizes;
    double link_us = (double)(sizes->q + sizes->k + sizes->v) / ATTN_CUDA_LINK_BYTES_PER_US;
    double most = attn_cuda_idle(engine)                               ? ATTN_CUDA_SLICES
                  : flight->large && flight->group->cost_us <= link_us ? flight->group->cost_us / BESIDE_OTHERS_US
                                                                       : 1;
    flight->slice[0] = attn_cuda_slice_whole(request);
    if (flight->group->count > 1 || flight->direct || most < 2)
        return 1;
    return attn_cuda_slices(request, &flight->device[0], most < ATTN_CUDA_SLICES ? (uint32_t)most : ATTN_CUDA_SLICES,
                            flight->slice);
}

attn_status_t attn_cuda_flight_queue(attn_engine_t *engine, attn_cuda_flight_t *flight, attn_error_t *err)
{
    const attn_engine_group_t *group = flight->group;
    queue_t queue = {.engine = engine, .flight = flight, .err = err};
    flight->variant = attn_cuda_variant_find(group->variant);
    flight->done = NULL;
    if (!flight->variant)
        return attn_error_set(err, ATTN_ERR_INTERNAL, "variant %s does not run on a GPU", group->variant);
    engine->moves_in.count = engine->moves_out.count = 0;
    engine->moves_in.bytes = engine->moves_out.bytes = 0;
    attn_status_t status = places_make(&queue);
    if (status == ATTN_OK)
        status = attn_cuda_flight_problems(flight, &flight->whole, err);
    if (status != ATTN_OK)
        return status;
    flight->slices = slices_make(engine, flight);
    flight->apart = copies_apart(engine, flight);
    queue.in = flight->apart && !flight->in_place ? engine->in : engine->compute;
    queue.out = flight->apart ? engine->out : engine->compute;
    status = workspace_make(&queue);
    if (status != ATTN_OK || !flight->large)
        return status == ATTN_OK ? all_queue(&queue) : status;
    if (flight->direct)
        flight->group->result.link_out_bytes = queue.output_bytes;
    attn_cuda_bulk_begin(engine, flight);
    return ATTN_OK;
}

/* What a kernel took to fetch the inputs: its blocks start together. */
static double fetch_us(const attn_cuda_fetch_t *fetch)
{
    const attn_cuda_gather_times_t *times = fetch->times;
    uint64_t ended = times->began;
    for (uint32_t i = 0; i < fetch->blocks; i++)
        ended = times->ended[i] > ended ? times->ended[i] : ended;
    return (double)(ended - times->began) / 1000;
}

/* Copies out count from the end of the last kernel: what is seen of them. */
void attn_cuda_flight_times(const attn_cuda_flight_t *flight, attn_engine_result_t *ret)
{
    uint32_t last = flight->slices - 1;
    if (flight->exec.early) {
        double all_us = attn_cuda_elapsed_us(flight->began, flight->computed[0]), fetched_us = fetch_us(&flight->fetch);
        ret->copy_in_us = (uint64_t)fetched_us;
        ret->kernel_us = all_us > fetched_us ? all_us - fetched_us : 0;
    } else if (!flight->in_place) {
        ret->copy_in_us = (uint64_t)attn_cuda_elapsed_us(flight->began, flight->copied_in[last]);
    }
    for (uint32_t i = 0; i <= last && !flight->exec.early; i++) {
        cudaEvent_t from = flight->apart      ? flight->launched[i]
                           : flight->in_place ? flight->began
                                              : flight->copied_in[i];
        ret->kernel_us += attn_cuda_elapsed_us(from, flight->computed[i]);
    }
    ret->kernel_min_us = ret->kernel_us;
    if (!flight->direct)
        ret->copy_out_us = (uint64_t)attn_cuda_elapsed_us(flight->computed[last], flight->copied_out);
}
