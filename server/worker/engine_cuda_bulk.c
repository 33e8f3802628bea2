/* worker/engine_cuda_bulk.c: large requests on their way through the GPU: copies in pieces, kernels in slices, handed
 * to the device a little at a time, so that a small group that comes meanwhile stands behind a piece and a slice and
 * not behind all of them. Main thread, from submit() and from poll(); owns its streams, its workspace and the events of
 * the pieces.
 *
 * Whose inputs go next turns.h says. Answers follow in the order of the kernels, which is that in which inputs were
 * complete. */
#include <string.h>

#include "base/clock.h"
#include "worker/engine_cuda.h"
#include "worker/turns.h"

enum { TENSORS_IN = 3, TENSORS_OUT = 2 };

attn_status_t attn_cuda_bulk_open(attn_cuda_bulk_t *bulk, attn_error_t *err)
{
    int least = 0, greatest = 0;
    cudaError_t rc = cudaDeviceGetStreamPriorityRange(&least, &greatest);
    if (rc == cudaSuccess)
        rc = cudaStreamCreateWithPriority(&bulk->compute, cudaStreamNonBlocking, least);
    if (rc == cudaSuccess)
        rc = cudaStreamCreateWithFlags(&bulk->out, cudaStreamNonBlocking);
    for (int i = 0; i < ATTN_CUDA_PIECES && rc == cudaSuccess; i++) {
        rc = cudaEventCreateWithFlags(&bulk->ahead_in.copied[i], cudaEventDisableTiming);
        if (rc == cudaSuccess)
            rc = cudaEventCreateWithFlags(&bulk->ahead_out.copied[i], cudaEventDisableTiming);
    }
    return rc == cudaSuccess ? ATTN_OK
                             : attn_cuda_error(err, (int)rc, "streams and events for large requests cannot be made");
}

void attn_cuda_bulk_close(attn_cuda_bulk_t *bulk)
{
    for (int i = 0; i < ATTN_CUDA_PIECES; i++) {
        cudaEventDestroy(bulk->ahead_in.copied[i]);
        cudaEventDestroy(bulk->ahead_out.copied[i]);
    }
    cudaFree(bulk->workspace);
    cudaStreamDestroy(bulk->compute);
    cudaStreamDestroy(bulk->out);
}

/* ---- pieces ---- */

/* Forgets the pieces that have arrived. An error is the context's: a piece fails when any work did. */
static cudaError_t line_retire(attn_cuda_line_t *line)
{
    while (line->count > 0) {
        cudaError_t rc = cudaEventQuery(line->copied[line->first]);
        if (rc != cudaSuccess)
            return rc == cudaErrorNotReady ? cudaSuccess : rc;
        line->bytes -= line->size[line->first];
        line->first = (line->first + 1) % ATTN_CUDA_PIECES;
        line->count--;
    }
    return cudaSuccess;
}

static bool line_has_room(const attn_cuda_line_t *line)
{
    return line->count < ATTN_CUDA_PIECES && line->bytes + ATTN_CUDA_PIECE <= ATTN_CUDA_AHEAD;
}

typedef struct tensor {
    uint32_t bit;
    void *device;
    const void *host;
    const attn_cuda_span_t *span;
} tensor_t;

static uint32_t tensors_of(const attn_cuda_flight_t *flight, uint32_t slice, bool in, tensor_t ret[TENSORS_IN])
{
    const attn_addresses_t *device = &flight->device[0], *host = &flight->group->requests[0].at;
    const attn_cuda_slice_t *spans = &flight->slice[slice];
    if (in) {
        ret[0] = (tensor_t){ATTN_TENSOR_Q, device->q, host->q, &spans->q};
        ret[1] = (tensor_t){ATTN_TENSOR_K, device->k, host->k, &spans->k};
        ret[2] = (tensor_t){ATTN_TENSOR_V, device->v, host->v, &spans->v};
        return flight->in_place ? 0 : TENSORS_IN;
    }
    ret[0] = (tensor_t){ATTN_TENSOR_O, device->o, host->o, &spans->o};
    ret[1] = (tensor_t){ATTN_TENSOR_LSE, device->lse, host->lse, &spans->lse};
    return flight->direct ? 0 : TENSORS_OUT;
}

/* Moves the cursor to the next tensor of its slice that has bytes to copy, which *ret becomes; false when all of the
 * slice is queued. */
static bool piece_left(attn_cuda_flight_t *flight, bool in, tensor_t *ret)
{
    attn_cuda_cursor_t *cursor = in ? &flight->in : &flight->back;
    tensor_t tensor[TENSORS_IN];
    uint32_t count = tensors_of(flight, cursor->slice, in, tensor);
    for (; cursor->tensor < count; cursor->tensor++, cursor->done = 0) {
        *ret = tensor[cursor->tensor];
        if (ret->host && !(flight->group->requests[0].on_device & ret->bit) && cursor->done < ret->span->bytes)
            return true;
    }
    return false;
}

/* Takes up to ATTN_CUDA_PIECE bytes of the slice at the cursor, of several tensors where one has less. */
static void piece_take(attn_cuda_flight_t *flight, bool in, attn_cuda_moves_t *moves)
{
    attn_cuda_cursor_t *cursor = in ? &flight->in : &flight->back;
    tensor_t tensor;
    moves->count = 0;
    moves->bytes = 0;
    while (moves->bytes < ATTN_CUDA_PIECE && piece_left(flight, in, &tensor)) {
        uint64_t at = tensor.span->offset + cursor->done;
        uint64_t room = ATTN_CUDA_PIECE - moves->bytes, left = tensor.span->bytes - cursor->done;
        uint64_t bytes = left < room ? left : room;
        attn_cuda_moves_add(moves, (char *)tensor.device + at, (const char *)tensor.host + at, bytes, in);
        cursor->done += bytes;
    }
}

static attn_status_t piece_queue(attn_engine_t *engine, attn_cuda_flight_t *flight, bool in, attn_error_t *err)
{
    attn_cuda_bulk_t *bulk = &engine->bulk;
    attn_cuda_line_t *line = in ? &bulk->ahead_in : &bulk->ahead_out;
    attn_cuda_moves_t *moves = in ? &engine->moves_in : &engine->moves_out;
    attn_engine_result_t *result = &flight->group->result;
    cudaStream_t stream = in ? engine->in : bulk->out;
    uint32_t last = (line->first + line->count) % ATTN_CUDA_PIECES;
    piece_take(flight, in, moves);
    const uint64_t bytes = moves->bytes;
    cudaError_t rc = attn_cuda_moves_queue(engine, moves, in, NULL, stream, result);
    if (rc == cudaSuccess)
        rc = cudaEventRecord(line->copied[last], stream);
    if (rc != cudaSuccess)
        return attn_cuda_error(
            err, (int)rc, in ? "the inputs cannot be copied to the GPU" : "the answer cannot be copied from the GPU");
    flight->in_left -= in ? bytes : 0;
    line->size[last] = bytes;
    line->bytes += bytes;
    line->count++;
    *(in ? &result->link_in_bytes : &result->link_out_bytes) += bytes;
    return ATTN_OK;
}

/* ---- in ---- */

static void computed_forget(attn_cuda_bulk_t *bulk, const attn_cuda_flight_t *flight)
{
    const uint32_t room = ATTN_WIRE_GROUPS * ATTN_CUDA_SLICES;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < bulk->computed_count; i++) {
        uint32_t from = (bulk->computed_first + i) % room, to = (bulk->computed_first + kept) % room;
        bulk->computed[to] = bulk->computed[from];
        kept += bulk->computed[to].flight != flight;
    }
    bulk->computed_count = kept;
}

static bool inputs_left(const attn_cuda_flight_t *flight)
{
    return flight->queued && flight->in.slice < flight->slices;
}

static bool any_left(const attn_cuda_bulk_t *bulk)
{
    for (uint32_t i = 0; i < bulk->count; i++)
        if (inputs_left(bulk->flight[i]))
            return true;
    return false;
}

static attn_cuda_flight_t *next_in(const attn_cuda_bulk_t *bulk)
{
    attn_cuda_flight_t *flight[ATTN_WIRE_GROUPS];
    attn_turn_t turn[ATTN_WIRE_GROUPS];
    uint32_t count = 0;
    for (uint32_t i = 0; i < bulk->count; i++)
        if (inputs_left(bulk->flight[i])) {
            flight[count] = bulk->flight[i];
            turn[count] = (attn_turn_t){.came_ns = flight[count]->came_ns,
                                        .copy_us = (double)flight[count]->in_bytes / ATTN_CUDA_LINK_BYTES_PER_US,
                                        .left_us = (double)flight[count]->in_left / ATTN_CUDA_LINK_BYTES_PER_US};
            count++;
        }
    if (count <= 1)
        return count == 1 ? flight[0] : NULL;
    double ahead_us = (double)bulk->ahead_in.bytes / ATTN_CUDA_LINK_BYTES_PER_US;
    return flight[attn_turns_next(turn, count, ahead_us, attn_clock_ns())];
}

/* Nobody wants it any longer: it ends when what the device has of it has ended. */
static attn_status_t flight_cancel(attn_engine_t *engine, attn_cuda_flight_t *flight)
{
    attn_cuda_bulk_t *bulk = &engine->bulk;
    attn_error_t *err = &flight->group->error;
    uint32_t slice = flight->in.slice;
    computed_forget(bulk, flight);
    cudaError_t rc = cudaEventRecord(flight->copied_in[slice], engine->in);
    if (rc == cudaSuccess)
        rc = cudaStreamWaitEvent(bulk->out, flight->copied_in[slice], 0);
    if (rc == cudaSuccess && slice > 0)
        rc = cudaStreamWaitEvent(bulk->out, flight->computed[slice - 1], 0);
    if (rc == cudaSuccess)
        rc = cudaEventRecord(flight->copied_out, bulk->out);
    if (rc != cudaSuccess)
        return attn_cuda_error(err, (int)rc, "the group cannot be given up");
    flight->in.slice = flight->slices;
    flight->done = flight->copied_out;
    attn_error_set(err, ATTN_ERR_CANCELLED, "cancelled before all of it was computed");
    return ATTN_OK;
}

/* The slice at the cursor has its inputs: its kernel, and its turn to be copied out. */
static attn_status_t slice_launch(attn_engine_t *engine, attn_cuda_flight_t *flight)
{
    attn_cuda_bulk_t *bulk = &engine->bulk;
    attn_engine_group_t *group = flight->group;
    uint32_t slice = flight->in.slice;
    if (!group->checkpoint(group->checkpoint_arg))
        return flight_cancel(engine, flight);
    if (!flight->in_place) {
        cudaError_t rc = cudaEventRecord(flight->copied_in[slice], engine->in);
        if (rc != cudaSuccess)
            return attn_cuda_error(&group->error, (int)rc, "the group cannot be queued");
    }
    flight->exec.workspace = bulk->workspace; /* it may have grown since submit() */
    attn_status_t status = attn_cuda_flight_launch(flight, slice, &group->error);
    if (status != ATTN_OK)
        return status;
    flight->in = (attn_cuda_cursor_t){.slice = slice + 1};
    if (!flight->direct) {
        uint32_t at = (bulk->computed_first + bulk->computed_count++) % (ATTN_WIRE_GROUPS * ATTN_CUDA_SLICES);
        bulk->computed[at].flight = flight;
        bulk->computed[at].slice = slice;
    } else if (slice + 1 == flight->slices) {
        status = attn_cuda_flight_after(flight, bulk->compute, &group->error);
        flight->done = flight->computed[slice];
    }
    return status;
}

/* One piece, or what follows the last of a slice; false when there is no room for it. */
static bool in_step(attn_engine_t *engine, attn_cuda_flight_t *flight, attn_status_t *ret)
{
    tensor_t left;
    *ret = ATTN_OK;
    if (piece_left(flight, true, &left)) {
        if (!line_has_room(&engine->bulk.ahead_in))
            return false;
        *ret = piece_queue(engine, flight, true, &flight->group->error);
        if (*ret != ATTN_OK || piece_left(flight, true, &left))
            return true;
    }
    *ret = slice_launch(engine, flight);
    return true;
}

/* ---- out ---- */

static attn_status_t flight_end(attn_cuda_bulk_t *bulk, attn_cuda_flight_t *flight, attn_error_t *err)
{
    attn_status_t status = attn_cuda_flight_after(flight, bulk->out, err);
    cudaError_t rc = status == ATTN_OK ? cudaEventRecord(flight->copied_out, bulk->out) : cudaSuccess;
    if (rc != cudaSuccess)
        return attn_cuda_error(err, (int)rc, "the group cannot be queued");
    flight->done = status == ATTN_OK ? flight->copied_out : NULL;
    return status;
}

static bool out_step(attn_engine_t *engine, attn_cuda_flight_t *flight, attn_status_t *ret)
{
    attn_cuda_bulk_t *bulk = &engine->bulk;
    attn_error_t *err = &flight->group->error;
    tensor_t tensor;
    uint32_t slice = flight->back.slice;
    *ret = ATTN_OK;
    bool left = piece_left(flight, false, &tensor);
    if (left && !line_has_room(&bulk->ahead_out))
        return false;
    if (!flight->back.begun) {
        flight->back.begun = true;
        cudaError_t rc = cudaStreamWaitEvent(bulk->out, flight->computed[slice], 0);
        if (rc != cudaSuccess)
            *ret = attn_cuda_error(err, (int)rc, "the group cannot be queued");
    }
    if (*ret == ATTN_OK && left)
        *ret = piece_queue(engine, flight, false, err);
    if (*ret != ATTN_OK || (left && piece_left(flight, false, &tensor)))
        return true;
    bulk->computed_first = (bulk->computed_first + 1) % (ATTN_WIRE_GROUPS * ATTN_CUDA_SLICES);
    bulk->computed_count--;
    flight->back = (attn_cuda_cursor_t){.slice = slice + 1};
    if (slice + 1 == flight->slices)
        *ret = flight_end(bulk, flight, err);
    return true;
}

/* ---- flights ---- */

static void flight_fail(attn_cuda_bulk_t *bulk, attn_cuda_flight_t *flight, attn_status_t status)
{
    flight->group->error.status = status;
    flight->queued = false;
    computed_forget(bulk, flight);
}

void attn_cuda_bulk_begin(attn_engine_t *engine, attn_cuda_flight_t *flight)
{
    attn_cuda_bulk_t *bulk = &engine->bulk;
    flight->came_ns = attn_clock_ns();
    flight->in_left = flight->in_bytes = attn_cuda_in_bytes(&flight->group->requests[0]);
    flight->in = flight->back = (attn_cuda_cursor_t){0};
    flight->queued = true;
    bulk->flight[bulk->count++] = flight;
    cudaError_t rc = cudaEventRecord(flight->began, flight->in_place ? bulk->compute : engine->in);
    if (rc != cudaSuccess)
        flight_fail(bulk, flight, attn_cuda_error(&flight->group->error, (int)rc, "the group cannot be queued"));
    attn_cuda_bulk_pump(engine);
}

void attn_cuda_bulk_pump(attn_engine_t *engine)
{
    attn_cuda_bulk_t *bulk = &engine->bulk;
    attn_cuda_flight_t *flight;
    attn_status_t status;
    cudaError_t rc = line_retire(&bulk->ahead_in);
    if (rc == cudaSuccess)
        rc = line_retire(&bulk->ahead_out);
    for (uint32_t i = 0; i < bulk->count && rc != cudaSuccess; i++)
        if (bulk->flight[i]->queued)
            flight_fail(bulk, bulk->flight[i],
                        attn_cuda_error(&bulk->flight[i]->group->error, (int)rc, "the kernel failed"));
    while ((flight = next_in(bulk)) != NULL && in_step(engine, flight, &status))
        if (status != ATTN_OK)
            flight_fail(bulk, flight, status);
    while (bulk->computed_count > 0) {
        flight = bulk->computed[bulk->computed_first].flight;
        if (!out_step(engine, flight, &status))
            break;
        if (status != ATTN_OK)
            flight_fail(bulk, flight, status);
    }
}

bool attn_cuda_bulk_waits(const attn_cuda_bulk_t *bulk)
{
    return bulk->computed_count > 0 || any_left(bulk);
}

attn_cuda_flight_t *attn_cuda_bulk_ended(const attn_cuda_bulk_t *bulk)
{
    for (uint32_t i = 0; i < bulk->count; i++) {
        attn_cuda_flight_t *flight = bulk->flight[i];
        if (!flight->queued || (flight->done && cudaEventQuery(flight->done) != cudaErrorNotReady))
            return flight;
    }
    return NULL;
}

void attn_cuda_bulk_forget(attn_cuda_bulk_t *bulk, const attn_cuda_flight_t *flight)
{
    uint32_t i = 0;
    while (bulk->flight[i] != flight)
        i++;
    bulk->count--;
    memmove(&bulk->flight[i], &bulk->flight[i + 1], (bulk->count - i) * sizeof(attn_cuda_flight_t *));
}
