/* worker/engine_cuda_memory.c: pinned pieces of the arenas, copies to and from them, and device memory that is kept
 * between jobs. Main thread. */
#include "worker/engine_cuda.h"

#include <sys/mman.h>

#include "cuda/cuda.h"

/* Pinning costs 180 ms/GiB, or 470 where pages must be made first (H200), and stalls launches meanwhile: 64 MiB before
 * the first job, then 4 MiB (2 ms) at a time while there is nothing to do. A copy may not cross from one registration
 * into another. */
#define PIN_FIRST (UINT64_C(32) << 20)
#define PIN_PIECE (UINT64_C(4) << 20)

#define SLAB_FIRST (UINT64_C(64) << 20)
#define SLAB_LARGE (UINT64_C(1) << 30)
enum { SLAB_PATIENCE = 64 };
#define WORKSPACE_STEP (UINT64_C(4) << 20)

static uint64_t pin_step(const attn_cuda_arena_t *arena)
{
    uint64_t step = arena->pinned == 0 ? PIN_FIRST : PIN_PIECE;
    return step < arena->bytes - arena->pinned ? step : arena->bytes - arena->pinned;
}

static void pin_next(attn_cuda_arena_t *arena, unsigned flags)
{
    uint64_t bytes = pin_step(arena);
    if (arena->closed || bytes == 0)
        return;
    if (cudaHostRegister(arena->mapped + arena->pinned, bytes, flags) == cudaSuccess) {
        arena->pinned += bytes;
    } else {
        cudaGetLastError(); /* not sticky */
        arena->closed = true;
    }
}

/* Jobs see the input arena read-only. Where the driver cannot pin such a mapping, the engine makes a writable one. */
static void arena_open(attn_engine_t *engine, uint32_t region, attn_cuda_arena_t *ret)
{
    ret->host = attn_memory_arena(engine->setup.memory, region, &ret->bytes);
    ret->mapped = ret->host;
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
    pin_next(ret, cudaHostRegisterMapped);
}

void attn_cuda_arenas_open(attn_engine_t *engine)
{
    arena_open(engine, ATTN_REGION_INPUT, &engine->input);
    arena_open(engine, ATTN_REGION_OUTPUT, &engine->output);
}

static void arena_close(attn_cuda_arena_t *arena)
{
    for (uint64_t at = 0; at < arena->pinned; at += at == 0 ? PIN_FIRST : PIN_PIECE)
        cudaHostUnregister(arena->mapped + at);
    if (arena->mapped && arena->mapped != arena->host)
        munmap(arena->mapped, arena->bytes);
    *arena = (attn_cuda_arena_t){.closed = true};
}

void attn_cuda_arenas_close(attn_engine_t *engine)
{
    arena_close(&engine->input);
    arena_close(&engine->output);
}

bool attn_cuda_arenas_pin(attn_engine_t *engine)
{
    attn_cuda_arena_t *in = &engine->input, *out = &engine->output;
    bool in_open = !in->closed && in->pinned < in->bytes, out_open = !out->closed && out->pinned < out->bytes;
    if (in_open && (!out_open || in->pinned <= out->pinned))
        pin_next(in, cudaHostRegisterMapped);
    else if (out_open)
        pin_next(out, cudaHostRegisterMapped);
    return in_open || out_open;
}

static bool arena_holds(const attn_cuda_arena_t *arena, const void *host, uint64_t bytes)
{
    const char *at = host;
    return arena->host && at >= arena->host && bytes <= arena->bytes &&
           (uint64_t)(at - arena->host) <= arena->bytes - bytes;
}

void *attn_cuda_arena_direct(const attn_cuda_arena_t *arena, const void *host, uint64_t bytes)
{
    if (!arena_holds(arena, host, bytes))
        return NULL;
    uint64_t offset = (uint64_t)((const char *)host - arena->host);
    return offset + bytes <= arena->pinned ? arena->mapped + offset : NULL;
}

/* Bytes from `offset` on that one copy may move: up to the end of a registration, or all that is pageable. */
static uint64_t copy_step(const attn_cuda_arena_t *arena, uint64_t offset, uint64_t bytes)
{
    if (offset >= arena->pinned)
        return bytes;
    uint64_t end = offset < PIN_FIRST ? PIN_FIRST : PIN_FIRST + ((offset - PIN_FIRST) / PIN_PIECE + 1) * PIN_PIECE;
    end = end < arena->pinned ? end : arena->pinned;
    return bytes < end - offset ? bytes : end - offset;
}

static cudaError_t copy(const attn_cuda_arena_t *arena, char *device, char *host, uint64_t bytes,
                        enum cudaMemcpyKind kind, cudaStream_t stream)
{
    cudaError_t rc = cudaSuccess;
    bool inside = arena_holds(arena, host, bytes);
    uint64_t offset = inside ? (uint64_t)(host - arena->host) : 0;
    for (uint64_t done = 0; done < bytes && rc == cudaSuccess;) {
        uint64_t step = inside ? copy_step(arena, offset + done, bytes - done) : bytes;
        char *there = inside && offset + done < arena->pinned ? arena->mapped + offset + done : host + done;
        rc = kind == cudaMemcpyHostToDevice ? cudaMemcpyAsync(device + done, there, step, kind, stream)
                                            : cudaMemcpyAsync(there, device + done, step, kind, stream);
        done += step;
    }
    return rc;
}

cudaError_t attn_cuda_copy_in(const attn_engine_t *engine, void *device, const void *host, uint64_t bytes,
                              cudaStream_t stream)
{
    /* Read only, whatever the pointer says; TRUTH and JUDGE read outputs, so either arena may be the source. */
    return copy(arena_holds(&engine->output, host, bytes) ? &engine->output : &engine->input, device,
                (char *)(uintptr_t)host, bytes, cudaMemcpyHostToDevice, stream);
}

cudaError_t attn_cuda_copy_out(const attn_engine_t *engine, void *host, const void *device, uint64_t bytes,
                               cudaStream_t stream)
{
    return copy(&engine->output, (char *)(uintptr_t)device, host, bytes, cudaMemcpyDeviceToHost, stream);
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

attn_status_t attn_cuda_slab(attn_engine_t *engine, uint64_t bytes, attn_error_t *err)
{
    bool small = engine->slab_bytes > SLAB_LARGE && bytes < engine->slab_bytes / 4;
    engine->slab_jobs_small = small ? engine->slab_jobs_small + 1 : 0;
    bool fits = bytes <= engine->slab_bytes;
    if (fits && engine->slab_jobs_small < SLAB_PATIENCE)
        return ATTN_OK;
    engine->slab_jobs_small = 0;
    /* A quarter more than asked, so that requests which grow slowly do not reserve anew each time. */
    uint64_t generous =
        bytes < SLAB_FIRST ? SLAB_FIRST : (bytes + bytes / 4 + SLAB_FIRST - 1) / SLAB_FIRST * SLAB_FIRST;
    attn_status_t status = device_alloc(&engine->slab, &engine->slab_bytes, generous, "tensors", NULL);
    if (status == ATTN_ERR_NO_MEMORY)
        status = device_alloc(&engine->slab, &engine->slab_bytes, bytes, "tensors", err);
    else if (status != ATTN_OK)
        attn_error_set(err, status, "device memory cannot be reserved");
    return status;
}

attn_status_t attn_cuda_workspace(attn_engine_t *engine, uint64_t bytes, attn_error_t *err)
{
    if (bytes <= engine->workspace_bytes)
        return ATTN_OK;
    attn_status_t status =
        device_alloc(&engine->workspace, &engine->workspace_bytes,
                     (bytes + WORKSPACE_STEP - 1) / WORKSPACE_STEP * WORKSPACE_STEP, "workspace", err);
    if (status != ATTN_OK)
        return status;
    cudaError_t rc = cudaMemsetAsync(engine->workspace, 0, ATTN_WORKSPACE_ZEROED, engine->compute);
    return rc == cudaSuccess ? ATTN_OK : attn_cuda_error(err, (int)rc, "the workspace cannot be cleared");
}

attn_status_t attn_cuda_staging(attn_engine_t *engine, uint64_t bytes, attn_error_t *err)
{
    if (bytes <= engine->staging_bytes)
        return ATTN_OK;
    cudaFreeHost(engine->staging);
    engine->staging = NULL;
    engine->staging_bytes = 0;
    void *memory = NULL;
    bytes = (bytes + 65535) / 65536 * 65536;
    cudaError_t rc = cudaHostAlloc(&memory, bytes, cudaHostAllocDefault);
    if (rc != cudaSuccess) {
        cudaGetLastError();
        return attn_cuda_error(err, (int)rc, "pinned staging memory cannot be reserved");
    }
    engine->staging = memory;
    engine->staging_bytes = bytes;
    return ATTN_OK;
}

void attn_cuda_memory_close(attn_engine_t *engine)
{
    cudaFree(engine->slab);
    cudaFree(engine->workspace);
    cudaFreeHost(engine->staging);
}
