/* worker/engine_cuda.h: the parts of the CUDA engine among each other. Main thread only. */
#ifndef ATTND_WORKER_ENGINE_CUDA_H
#define ATTND_WORKER_ENGINE_CUDA_H

#include <cuda_runtime_api.h>

#include "worker/engine.h"

/* Rounds that are queued at a time: behind the first, no launch is waited for, so that a round of a few microseconds
 * is timed without the time that a launch takes. */
enum { ATTN_CUDA_ROUNDS = 32 };

/* One arena as the GPU can reach it: pinned from its start on, in pieces. */
typedef struct attn_cuda_arena {
    char *host;   /* as jobs see it (worker/memory.h); NULL in the lab class */
    char *mapped; /* the same memory where it is pinned: `host`, or a writable mapping of the engine's own */
    uint64_t bytes;
    uint64_t pinned; /* bytes from the start; grows in idle() */
    bool closed;     /* pinning failed once: the rest stays pageable, which is slower and still right */
} attn_cuda_arena_t;

typedef struct attn_cuda_nvml attn_cuda_nvml_t;

/* One request with what its group says. */
typedef struct attn_cuda_job {
    uint32_t op;
    const char *variant;
    attn_spec_t spec;
    attn_sizes_t sizes;
    const int32_t *cu_seqlens_q, *cu_seqlens_k;
    attn_addresses_t host;
    void *truth;
    uint32_t warmup, repeat;
    bool (*checkpoint)(void *checkpoint_arg);
    void *checkpoint_arg;
} attn_cuda_job_t;

/* Slices of one large job: while one is computed, the next is copied in and the last copied out. */
enum { ATTN_CUDA_SLICES = 8 };
typedef struct attn_cuda_span {
    uint64_t offset, bytes; /* of a tensor */
} attn_cuda_span_t;
typedef struct attn_cuda_slice {
    attn_problem_t problem;   /* of a job in several slices */
    attn_cuda_span_t q, k, v; /* to be copied in before it; what earlier slices brought is not repeated */
    attn_cuda_span_t o, lse;  /* to be copied out after it */
} attn_cuda_slice_t;

struct attn_engine {
    attn_engine_setup_t setup;
    attn_device_t device;
    uint32_t spin_us;
    attn_cuda_nvml_t *nvml; /* NULL where there is none */

    cudaStream_t compute, in, out;
    cudaEvent_t began, copied_out;
    cudaEvent_t copied_in[ATTN_CUDA_SLICES];
    cudaEvent_t round[2 * ATTN_CUDA_ROUNDS];

    attn_cuda_arena_t input, output;

    char *slab; /* device memory of the job in hand; grows, and shrinks after a while */
    uint64_t slab_bytes;
    uint32_t slab_jobs_small; /* jobs in a row that needed little of a large slab */
    char *workspace;          /* device; its first ATTN_WORKSPACE_ZEROED bytes are zero between launches */
    uint64_t workspace_bytes;
    char *staging; /* pinned */
    uint64_t staging_bytes;

    attn_engine_queue_t queue;
    attn_problem_t *problems;
    uint32_t problem_room;
    double rounds[ATTN_WIRE_REPEAT_MAX];

    /* Outputs up to this size are written by the kernel to pinned memory rather than copied there. */
    uint64_t direct_bytes;
};

/* engine_cuda_device.c: makes `setup->device` the only GPU of this process and fills in what it is. */
attn_status_t attn_cuda_device_open(const char *uuid, attn_device_t *ret, attn_error_t *err);
/* NVML is loaded at run time. Clocks are 0 where it is absent. */
attn_cuda_nvml_t *attn_cuda_nvml_open(const char *uuid, char *ret_driver, size_t driver_size);
void attn_cuda_nvml_close(attn_cuda_nvml_t *nvml); /* NULL is fine */
void attn_cuda_nvml_clocks(const attn_cuda_nvml_t *nvml, uint32_t *ret_sm_mhz, uint32_t *ret_mem_mhz);

/* engine_cuda_slices.c: cuts a job (dense, one round) whose tensors lie at `device` into up to ATTN_CUDA_SLICES slices
 * by batch, or by query rows where the batch is one. Returns 1 for a job that is better left whole, with the spans of
 * all of it and no problem. Every row's bits are those of the job left whole. Pure. */
uint32_t attn_cuda_slices(const attn_cuda_job_t *job, const attn_addresses_t *device,
                          attn_cuda_slice_t ret[ATTN_CUDA_SLICES]);

/* engine_cuda_memory.c */
void attn_cuda_arenas_open(attn_engine_t *engine); /* pins the first extent of each; never fails, see `closed` */
void attn_cuda_arenas_close(attn_engine_t *engine);
bool attn_cuda_arenas_pin(attn_engine_t *engine); /* one more piece; whether there is more */
/* Where the GPU reads and writes `bytes` of an arena directly; NULL when they are not all pinned. */
void *attn_cuda_arena_direct(const attn_cuda_arena_t *arena, const void *host, uint64_t bytes);
cudaError_t attn_cuda_copy_in(const attn_engine_t *engine, void *device, const void *host, uint64_t bytes,
                              cudaStream_t stream);
cudaError_t attn_cuda_copy_out(const attn_engine_t *engine, void *host, const void *device, uint64_t bytes,
                               cudaStream_t stream);
/* Each makes at least `bytes` available; contents are lost. */
attn_status_t attn_cuda_slab(attn_engine_t *engine, uint64_t bytes, attn_error_t *err);
attn_status_t attn_cuda_workspace(attn_engine_t *engine, uint64_t bytes, attn_error_t *err);
attn_status_t attn_cuda_staging(attn_engine_t *engine, uint64_t bytes, attn_error_t *err);
void attn_cuda_memory_close(attn_engine_t *engine);

#endif
