/* worker/engine_cuda_memory.c: pinned host memory, and device memory that is kept between groups. Main thread. */
#include "worker/engine_cuda.h"

#include <sys/mman.h>

/* Pinning costs 180 ms/GiB, or 470 where pages must be made first (H200), and stalls launches meanwhile: 64 MiB before
 * the first job, then ATTN_CUDA_PIN_PIECE (2 ms) at a time while there is nothing to do. */
#define SLAB_FIRST (UINT64_C(64) << 20)
#define SLAB_LARGE (UINT64_C(1) << 30)
enum { SLAB_PATIENCE = 64 };
#define WORKSPACE_STEP (UINT64_C(4) << 20)

/* Groups see the input arena read-only. Where the driver cannot pin such a mapping, the engine makes a writable one. */
static void arena_open(attn_engine_t *engine, uint32_t region, attn_cuda_range_t *ret)
{
    ret->host = attn_memory_arena(engine->setup.memory, region, &ret->bytes);
    ret->mapped = ret->host;
    ret->first = ATTN_CUDA_PIN_FIRST;
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

bool attn_cuda_ranges_wanted(const attn_engine_t *engine)
{
    return wanted(&engine->input) || wanted(&engine->output);
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

/* ---- device memory, and staging ---- */

static void give_up(attn_engine_t *engine, void *memory, bool host)
{
    if (!memory)
        return;
    while (engine->outgrown_count == ATTN_CUDA_OUTGROWN)
        attn_cuda_outgrown_free(engine);
    engine->outgrown[engine->outgrown_count++] = (attn_cuda_outgrown_t){memory, host};
}

bool attn_cuda_outgrown_free(attn_engine_t *engine)
{
    if (engine->outgrown_count == 0)
        return false;
    const attn_cuda_outgrown_t *last = &engine->outgrown[--engine->outgrown_count];
    if (last->host)
        cudaFreeHost(last->memory);
    else
        cudaFree(last->memory);
    return engine->outgrown_count > 0;
}

/* What is kept for later is worth less than a group that has no room now. */
static void spare_free(attn_engine_t *engine)
{
    for (uint32_t i = 0; i < ATTN_WIRE_GROUPS; i++)
        if (!engine->flight[i].group) {
            give_up(engine, engine->flight[i].slab, false);
            engine->flight[i].slab = NULL;
            engine->flight[i].slab_bytes = 0;
        }
    while (attn_cuda_outgrown_free(engine))
        ;
}

/* `generous` bytes, or at least `bytes`. */
static attn_status_t device_alloc(attn_engine_t *engine, char **at, uint64_t *at_bytes, uint64_t generous,
                                  uint64_t bytes, const char *what, attn_error_t *err)
{
    give_up(engine, *at, false);
    *at = NULL;
    *at_bytes = 0;
    void *memory = NULL;
    uint64_t got = generous;
    cudaError_t rc = cudaMalloc(&memory, got);
    if (rc == cudaErrorMemoryAllocation) {
        cudaGetLastError(); /* not sticky */
        spare_free(engine);
        got = bytes;
        rc = cudaMalloc(&memory, got);
    }
    if (rc == cudaErrorMemoryAllocation) {
        cudaGetLastError();
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
    *at_bytes = got;
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
    return device_alloc(engine, &flight->slab, &flight->slab_bytes, generous, bytes, "tensors", err);
}

/* Launches that still run use the old workspace. */
static attn_status_t workspace_grow(attn_engine_t *engine, char **at, uint64_t *at_bytes, cudaStream_t stream,
                                    uint64_t bytes, attn_error_t *err)
{
    if (bytes <= *at_bytes)
        return ATTN_OK;
    uint64_t generous = (bytes + WORKSPACE_STEP - 1) / WORKSPACE_STEP * WORKSPACE_STEP;
    attn_status_t status = device_alloc(engine, at, at_bytes, generous, bytes, "workspace", err);
    if (status != ATTN_OK)
        return status;
    cudaError_t rc = cudaMemsetAsync(*at, 0, ATTN_WORKSPACE_ZEROED, stream);
    return rc == cudaSuccess ? ATTN_OK : attn_cuda_error(err, (int)rc, "the workspace cannot be cleared");
}

attn_status_t attn_cuda_workspace(attn_engine_t *engine, uint64_t bytes, attn_error_t *err)
{
    return workspace_grow(engine, &engine->workspace, &engine->workspace_bytes, engine->compute, bytes, err);
}

attn_status_t attn_cuda_bulk_workspace(attn_engine_t *engine, uint64_t bytes, attn_error_t *err)
{
    attn_cuda_bulk_t *bulk = &engine->bulk;
    return workspace_grow(engine, &bulk->workspace, &bulk->workspace_bytes, bulk->compute, bytes, err);
}

attn_status_t attn_cuda_staging(attn_engine_t *engine, attn_cuda_flight_t *flight, uint64_t bytes, attn_error_t *err)
{
    if (bytes <= flight->staging_bytes)
        return ATTN_OK;
    give_up(engine, flight->staging, true);
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
