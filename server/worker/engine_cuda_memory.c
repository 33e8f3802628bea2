/* worker/engine_cuda_memory.c: pinned host memory, copies to and from it, and device memory that is kept between
 * groups. Main thread. */
#include "worker/engine_cuda.h"

#include <sys/mman.h>

/* Pinning costs 180 ms/GiB, or 470 where pages must be made first (H200), and stalls launches meanwhile: 64 MiB before
 * the first job, then ATTN_CUDA_PIN_PIECE (2 ms) at a time while there is nothing to do. A copy may not cross from one
 * registration into another. */
#define PIN_FIRST (UINT64_C(32) << 20)

#define SLAB_FIRST (UINT64_C(64) << 20)
#define SLAB_LARGE (UINT64_C(1) << 30)
enum { SLAB_PATIENCE = 64, BATCH_COPIES_MIN = 2 };
#define WORKSPACE_STEP (UINT64_C(4) << 20)

/* Groups see the input arena read-only. Where the driver cannot pin such a mapping, the engine makes a writable one. */
static void arena_open(attn_engine_t *engine, uint32_t region, attn_cuda_range_t *ret)
{
    ret->host = attn_memory_arena(engine->setup.memory, region, &ret->bytes);
    ret->mapped = ret->host;
    ret->first = PIN_FIRST;
    if (!ret->host || ret->bytes == 0) {
        ret->closed = true;
        return;
    }
    if (region == ATTN_REGION_INPUT) {
        void *map = mmap(NULL, ret->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
                         attn_memory_fd(engine->setup.memory, region), 0);
        ret->mapped = map == MAP_FAILED ? NULL : map;
        ret->closed = map == MAP_FAILED;
    }
    attn_cuda_range_pin(ret);
    ret->closed = ret->closed || !attn_cuda_ranges_link(engine->ranges, ret);
}

void attn_cuda_ranges_open(attn_engine_t *engine)
{
    arena_open(engine, ATTN_REGION_INPUT, &engine->input);
    arena_open(engine, ATTN_REGION_OUTPUT, &engine->output);
}

void attn_cuda_ranges_close(attn_engine_t *engine)
{
    attn_cuda_range_unpin(&engine->input);
    attn_cuda_range_unpin(&engine->output);
}

static bool wanted(const attn_cuda_range_t *arena)
{
    return !arena->closed && arena->pinned < arena->reach;
}

/* First what groups have met, then both alike. */
bool attn_cuda_ranges_pin(attn_engine_t *engine)
{
    attn_cuda_range_t *in = &engine->input, *out = &engine->output;
    bool in_open = !in->closed && in->pinned < in->bytes, out_open = !out->closed && out->pinned < out->bytes;
    bool in_first = wanted(in) != wanted(out) ? wanted(in) : in->pinned <= out->pinned;
    attn_cuda_ranges_lock(engine->ranges);
    if (in_open && (!out_open || in_first))
        attn_cuda_range_pin(in);
    else if (out_open)
        attn_cuda_range_pin(out);
    attn_cuda_ranges_unlock(engine->ranges);
    return in_open || out_open;
}

void *attn_cuda_direct(const attn_engine_t *engine, const void *host, uint64_t bytes)
{
    uint64_t offset;
    attn_cuda_ranges_lock(engine->ranges);
    const attn_cuda_range_t *range = attn_cuda_ranges_find(engine->ranges, host, bytes, &offset);
    void *there = range && offset + bytes <= range->pinned ? range->mapped + offset : NULL;
    attn_cuda_ranges_unlock(engine->ranges);
    return there;
}

/* Bytes from `offset` on that one copy may move: up to the end of a registration, or all that is pageable. */
static uint64_t copy_step(const attn_cuda_range_t *range, uint64_t offset, uint64_t bytes)
{
    if (offset >= range->pinned)
        return bytes;
    uint64_t end = offset < range->first
                       ? range->first
                       : range->first + ((offset - range->first) / ATTN_CUDA_PIN_PIECE + 1) * ATTN_CUDA_PIN_PIECE;
    end = end < range->pinned ? end : range->pinned;
    return bytes < end - offset ? bytes : end - offset;
}

void attn_cuda_moves_add(attn_cuda_moves_t *moves, void *device, const void *host, uint64_t bytes, bool in)
{
    if (bytes == 0)
        return;
    moves->bytes += bytes;
    attn_cuda_pair_t *last = moves->count > 0 ? &moves->pair[moves->count - 1] : NULL;
    /* Inputs lie page by page: what is between two of them is the first one's and may be copied along. An answer's
     * place is written to its last byte and no further. */
    uint64_t reach = !last ? 0 : in ? ATTN_WIRE_ROUND(last->bytes) : last->bytes;
    if (last && last->device + reach == (char *)device && last->host + reach == (const char *)host)
        last->bytes = reach + bytes;
    else
        moves->pair[moves->count++] = (attn_cuda_pair_t){device, (char *)(uintptr_t)host, bytes};
}

/* The copies as the driver takes them all at once: only when each lies in one registration. */
static bool moves_resolve(const attn_engine_t *engine, const attn_cuda_moves_t *moves, bool in,
                          attn_cuda_move_t ret[ATTN_CUDA_MOVES])
{
    for (uint32_t i = 0; i < moves->count; i++) {
        const attn_cuda_pair_t *pair = &moves->pair[i];
        uint64_t offset;
        const attn_cuda_range_t *range = attn_cuda_ranges_find(engine->ranges, pair->host, pair->bytes, &offset);
        if (!range || offset + pair->bytes > range->pinned || copy_step(range, offset, pair->bytes) != pair->bytes)
            return false;
        char *there = range->mapped + offset;
        ret[i] = in ? (attn_cuda_move_t){pair->device, there, pair->bytes}
                    : (attn_cuda_move_t){there, pair->device, pair->bytes};
    }
    return true;
}

/* A copy may not cross from one registration into another. */
static cudaError_t pair_copy(const attn_engine_t *engine, const attn_cuda_pair_t *pair, bool in, cudaStream_t stream)
{
    cudaError_t rc = cudaSuccess;
    uint64_t offset = 0;
    const attn_cuda_range_t *range = attn_cuda_ranges_find(engine->ranges, pair->host, pair->bytes, &offset);
    for (uint64_t done = 0; done < pair->bytes && rc == cudaSuccess;) {
        uint64_t step = range ? copy_step(range, offset + done, pair->bytes - done) : pair->bytes;
        char *there = range && offset + done < range->pinned ? range->mapped + offset + done : pair->host + done;
        rc = in ? cudaMemcpyAsync(pair->device + done, there, step, cudaMemcpyHostToDevice, stream)
                : cudaMemcpyAsync(there, pair->device + done, step, cudaMemcpyDeviceToHost, stream);
        done += step;
    }
    return rc;
}

/* Counts what of the copies is not pinned. What lies in an arena is to be, soon. */
static void moves_look(attn_engine_t *engine, const attn_cuda_moves_t *moves, bool in, attn_engine_result_t *result)
{
    attn_cuda_range_t *arena = in ? &engine->input : &engine->output;
    for (uint32_t i = 0; i < moves->count; i++) {
        const attn_cuda_pair_t *pair = &moves->pair[i];
        uint64_t offset = 0;
        const attn_cuda_range_t *range = attn_cuda_ranges_find(engine->ranges, pair->host, pair->bytes, &offset);
        const uint64_t end = offset + pair->bytes, pinned = range ? range->pinned : 0;
        result->unpinned_bytes += end <= pinned ? 0 : offset < pinned ? end - pinned : pair->bytes;
        if (range == arena && end > pinned) {
            arena->reach = end > arena->reach ? end : arena->reach;
            result->idle_wanted = true;
        }
    }
}

static cudaError_t moves_batch(const attn_cuda_move_t *moves, uint32_t count, cudaStream_t stream)
{
    void *to[ATTN_CUDA_MOVES];
    const void *from[ATTN_CUDA_MOVES];
    size_t bytes[ATTN_CUDA_MOVES], first = 0;
    struct cudaMemcpyAttributes attributes = {.srcAccessOrder = cudaMemcpySrcAccessOrderStream};
    for (uint32_t i = 0; i < count; i++) {
        to[i] = moves[i].to;
        from[i] = moves[i].from;
        bytes[i] = moves[i].bytes;
    }
    return cudaMemcpyBatchAsync(to, from, bytes, count, &attributes, &first, 1, stream);
}

static bool multiples_of_16(const attn_cuda_moves_t *moves)
{
    for (uint32_t i = 0; i < moves->count; i++)
        if (moves->pair[i].bytes % 16 != 0)
            return false;
    return true;
}

cudaError_t attn_cuda_moves_queue(attn_engine_t *engine, attn_cuda_moves_t *moves, bool in, bool gather,
                                  cudaStream_t stream, attn_engine_result_t *result)
{
    attn_cuda_move_t resolved[ATTN_CUDA_MOVES];
    cudaError_t rc = cudaSuccess;
    gather = gather && moves->count > 0 && multiples_of_16(moves);
    /* What is pinned stays as it is while copies are queued. */
    attn_cuda_ranges_lock(engine->ranges);
    bool batch = engine->batch_copies && moves->count >= BATCH_COPIES_MIN;
    bool together = (gather || batch) && moves_resolve(engine, moves, in, resolved);
    if (!together)
        moves_look(engine, moves, in, result);
    if (together && gather) {
        result->helpers++;
        rc = (cudaError_t)attn_cuda_gather(resolved, moves->count, stream);
    } else if (together && moves_batch(resolved, moves->count, stream) != cudaSuccess) {
        /* A driver that cannot, or an error that the copies below meet again. */
        cudaGetLastError();
        engine->batch_copies = together = false;
    }
    for (uint32_t i = 0; i < moves->count && rc == cudaSuccess && !together; i++)
        rc = pair_copy(engine, &moves->pair[i], in, stream);
    attn_cuda_ranges_unlock(engine->ranges);
    moves->count = 0;
    moves->bytes = 0;
    return rc;
}

static attn_status_t device_alloc(char **at, uint64_t *at_bytes, uint64_t bytes, const char *what, attn_error_t *err)
{
    cudaFree(*at); /* first: there may not be room for both */
    *at = NULL;
    *at_bytes = 0;
    void *memory = NULL;
    cudaError_t rc = cudaMalloc(&memory, bytes);
    if (rc == cudaErrorMemoryAllocation) {
        cudaGetLastError(); /* not sticky */
        size_t free_bytes = 0, total = 0;
        if (cudaMemGetInfo(&free_bytes, &total) != cudaSuccess)
            free_bytes = 0;
        return attn_error_set(err, ATTN_ERR_NO_MEMORY,
                              "the GPU has no %llu MiB for the request's %s: %llu MiB are free; send smaller requests",
                              (unsigned long long)(bytes >> 20), what, (unsigned long long)(free_bytes >> 20));
    }
    if (rc != cudaSuccess)
        return attn_cuda_error(err, (int)rc, "device memory cannot be reserved");
    *at = memory;
    *at_bytes = bytes;
    return ATTN_OK;
}

attn_status_t attn_cuda_slab(attn_engine_t *engine, attn_cuda_flight_t *flight, uint64_t bytes, attn_error_t *err)
{
    bool small = flight->slab_bytes > SLAB_LARGE && bytes < flight->slab_bytes / 4;
    flight->slab_small = small ? flight->slab_small + 1 : 0;
    bool fits = bytes <= flight->slab_bytes;
    if (fits && flight->slab_small < SLAB_PATIENCE)
        return ATTN_OK;
    flight->slab_small = 0;
    /* A quarter more than asked, so that requests which grow slowly do not reserve anew each time. */
    uint64_t generous =
        bytes < SLAB_FIRST ? SLAB_FIRST : (bytes + bytes / 4 + SLAB_FIRST - 1) / SLAB_FIRST * SLAB_FIRST;
    attn_status_t status = device_alloc(&flight->slab, &flight->slab_bytes, generous, "tensors", NULL);
    if (status == ATTN_ERR_NO_MEMORY) {
        /* What other flights keep for later is worth less than this group. Freeing waits for the device. */
        for (uint32_t i = 0; i < ATTN_WIRE_GROUPS; i++)
            if (!engine->flight[i].group) {
                cudaFree(engine->flight[i].slab);
                engine->flight[i].slab = NULL;
                engine->flight[i].slab_bytes = 0;
            }
        status = device_alloc(&flight->slab, &flight->slab_bytes, bytes, "tensors", err);
    } else if (status != ATTN_OK) {
        attn_error_set(err, status, "device memory cannot be reserved");
    }
    return status;
}

/* Launches that still run use the old workspace. */
attn_status_t attn_cuda_workspace(attn_engine_t *engine, uint64_t bytes, attn_error_t *err)
{
    if (bytes <= engine->workspace_bytes)
        return ATTN_OK;
    cudaError_t rc = cudaStreamSynchronize(engine->compute);
    if (rc != cudaSuccess)
        return attn_cuda_error(err, (int)rc, "the workspace cannot grow");
    attn_status_t status =
        device_alloc(&engine->workspace, &engine->workspace_bytes,
                     (bytes + WORKSPACE_STEP - 1) / WORKSPACE_STEP * WORKSPACE_STEP, "workspace", err);
    if (status != ATTN_OK)
        return status;
    rc = cudaMemsetAsync(engine->workspace, 0, ATTN_WORKSPACE_ZEROED, engine->compute);
    return rc == cudaSuccess ? ATTN_OK : attn_cuda_error(err, (int)rc, "the workspace cannot be cleared");
}

attn_status_t attn_cuda_staging(attn_cuda_flight_t *flight, uint64_t bytes, attn_error_t *err)
{
    if (bytes <= flight->staging_bytes)
        return ATTN_OK;
    cudaFreeHost(flight->staging);
    flight->staging = NULL;
    flight->staging_bytes = 0;
    void *memory = NULL;
    bytes = (bytes + 65535) / 65536 * 65536;
    cudaError_t rc = cudaHostAlloc(&memory, bytes, cudaHostAllocDefault);
    if (rc != cudaSuccess) {
        cudaGetLastError();
        return attn_cuda_error(err, (int)rc, "pinned staging memory cannot be reserved");
    }
    flight->staging = memory;
    flight->staging_bytes = bytes;
    return ATTN_OK;
}
