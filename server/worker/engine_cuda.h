/* worker/engine_cuda.h: the parts of the CUDA engine among each other. Main thread only, unless said otherwise. */
#ifndef ATTND_WORKER_ENGINE_CUDA_H
#define ATTND_WORKER_ENGINE_CUDA_H

#include <cuda_runtime_api.h>
#include <pthread.h>

#include "cuda/cuda.h"
#include "worker/engine.h"

/* Rounds that are queued at a time: behind the first, no launch is waited for, so that a round of a few microseconds
 * is timed without the time that a launch takes. */
enum { ATTN_CUDA_ROUNDS = 32 };

/* Host memory as the GPU can reach it: pinned from its start on, in pieces. */
typedef struct attn_cuda_range {
    char *host;   /* as groups see it; NULL in the lab class */
    char *mapped; /* the same memory where it is pinned: `host`, or a writable mapping of the engine's own */
    uint64_t bytes;
    uint64_t first;  /* bytes of the first piece; the others are alike */
    uint64_t pinned; /* bytes from the start; grows piece by piece */
    uint64_t reach;  /* of an arena: the farthest end of a copy that met memory not pinned */
    bool read_only;  /* the GPU may not write it either */
    bool closed;     /* pinning failed once: the rest stays pageable, which is slower and still right */
} attn_cuda_range_t;

/* Pieces in which memory is pinned, 2 ms each on an H200, and the first of an arena. A copy may not cross from one into
 * another. */
#define ATTN_CUDA_PIN_FIRST (UINT64_C(32) << 20)
#define ATTN_CUDA_PIN_PIECE (UINT64_C(4) << 20)

/* All of them, by address. The pieces of a range grow under the lock too. */
typedef struct attn_cuda_ranges {
    pthread_mutex_t turn, lock; /* attn_cuda_ranges_lock() */
    attn_cuda_range_t **range;
    uint32_t count, room;
} attn_cuda_ranges_t;

/* Memory that something larger has taken the place of. cudaFree() and cudaFreeHost() wait for all that the device has
 * been given (H100, a mix of lengths: up to 1.3 ms for a place that grows, 0.4 without that): so they are put off until
 * it has nothing. */
enum { ATTN_CUDA_OUTGROWN = 64 };
typedef struct attn_cuda_outgrown {
    void *memory;
    bool host;
} attn_cuda_outgrown_t;

typedef struct attn_cuda_nvml attn_cuda_nvml_t;

/* Slices of one large request: while one is computed, the next is copied in and the last copied out. */
enum { ATTN_CUDA_SLICES = 8 };
typedef struct attn_cuda_span {
    uint64_t offset, bytes; /* of a tensor */
} attn_cuda_span_t;
typedef struct attn_cuda_slice {
    attn_problem_t problem;   /* of a request in several slices */
    attn_cuda_span_t q, k, v; /* to be copied in before it; what earlier slices brought is not repeated */
    attn_cuda_span_t o, lse;  /* to be copied out after it */
} attn_cuda_slice_t;

/* What a link is reckoned with. */
#define ATTN_CUDA_LINK_BYTES_PER_US 50e3

/* Copies of large requests go in pieces that are handed to the device a few at a time: a copy engine takes what it has
 * been given one after the other, whatever the priority of a stream, and what a small group adds stands behind AHEAD at
 * most, 250 us of the link. With fewer bytes ahead the link would stand still whenever the main thread queues a group
 * of 64 in between. Between two copies a copy engine rests for 1.3 us: 48 MiB in and 32 MiB out at once took 0.97 ms
 * whole, 0.99 in pieces of 4 MiB, 1.03 of 2 MiB (H100). */
#define ATTN_CUDA_PIECE (UINT64_C(4) << 20)
#define ATTN_CUDA_AHEAD (3 * ATTN_CUDA_PIECE)
enum { ATTN_CUDA_PIECES = 8 }; /* at most, where slices are smaller than a piece */

/* Pieces of one direction that the device has, oldest first. */
typedef struct attn_cuda_line {
    cudaEvent_t copied[ATTN_CUDA_PIECES];
    uint64_t size[ATTN_CUDA_PIECES], bytes;
    uint32_t first, count;
} attn_cuda_line_t;

/* How far the copies of a large request in one direction have been queued. */
typedef struct attn_cuda_cursor {
    uint32_t slice, tensor;
    uint64_t done; /* of the tensor's span in that slice */
    bool begun;    /* out: its stream waits for the kernel */
} attn_cuda_cursor_t;

/* Copies of one direction that belong together; neighbours on both sides become one. */
enum { ATTN_CUDA_MOVES = 3 * ATTN_WIRE_GROUP_MAX };
typedef struct attn_cuda_pair {
    char *device, *host;
    uint64_t bytes;
    const void *space; /* whose memory: copies of different ones stay apart */
} attn_cuda_pair_t;
typedef struct attn_cuda_moves {
    uint32_t count;
    uint64_t bytes; /* of tensors */
    attn_cuda_pair_t pair[ATTN_CUDA_MOVES];
} attn_cuda_moves_t;

/* Inputs that a kernel fetches, with the launch begun under it. */
typedef struct attn_cuda_fetch {
    attn_cuda_gather_times_t *times; /* pinned */
    uint32_t blocks;                 /* of the kernel; 0: the inputs came by copies */
} attn_cuda_fetch_t;

/* A group on its way, with all that must not be shared with another. */
typedef struct attn_cuda_flight {
    attn_engine_group_t *group; /* NULL: free */
    bool queued;                /* on the device; else it ended in submit() */
    uint64_t range;             /* a profiler's */
    char *slab;                 /* device memory of its tensors; grows, and shrinks after a while */
    uint64_t slab_bytes;
    uint32_t slab_small; /* groups in a row that needed little of a large slab */
    char *staging;       /* pinned: what launches upload */
    uint64_t staging_bytes;
    attn_problem_t *problems;
    uint32_t problem_room;

    cudaEvent_t began, copied_in[ATTN_CUDA_SLICES], launched[ATTN_CUDA_SLICES], computed[ATTN_CUDA_SLICES], copied_out;
    cudaEvent_t done; /* one of these: after it nothing touches the group's memory; NULL while not all is queued */
    uint32_t slices;
    attn_cuda_slice_t slice[ATTN_CUDA_SLICES];
    /* What its launches have in common. */
    const attn_variant_t *variant;
    attn_group_t whole;
    attn_exec_t exec;
    uint64_t launch_staging; /* bytes of staging of each */

    bool large;                  /* by itself in its group, its copies in pieces: engine_cuda_bulk.c */
    int64_t came_ns;             /* of a large one, and so is what follows */
    uint64_t in_bytes, in_left;  /* to be copied to the device; of these, what has not been queued */
    attn_cuda_cursor_t in, back; /* copies in, copies out */
    bool direct;                 /* the kernel writes the answers to their places itself */
    bool in_place;               /* nothing to fetch: all inputs are in device memory */
    bool apart;                  /* copies have streams of their own */
    attn_cuda_fetch_t fetch;     /* on one stream only */
    attn_addresses_t device[ATTN_WIRE_GROUP_MAX];
} attn_cuda_flight_t;

/* Large requests in hand. Their kernels have a stream of lower priority, so that a small group's goes next; and so they
 * have a workspace of their own. */
typedef struct attn_cuda_bulk {
    cudaStream_t compute, out;
    char *workspace;
    uint64_t workspace_bytes;
    attn_cuda_flight_t *flight[ATTN_WIRE_GROUPS];
    uint32_t count;
    attn_cuda_line_t ahead_in, ahead_out;
    /* Slices whose answers are to be copied out, in the order of their kernels. */
    struct {
        attn_cuda_flight_t *flight;
        uint32_t slice;
    } computed[ATTN_WIRE_GROUPS * ATTN_CUDA_SLICES];
    uint32_t computed_first, computed_count;
} attn_cuda_bulk_t;

struct attn_engine {
    attn_engine_setup_t setup;
    attn_device_t device;
    attn_cuda_nvml_t *nvml; /* NULL where there is none */
    bool annotate;          /* a profiler listens */
    unsigned threads;       /* for what the CPU does */

    cudaStream_t compute, in, out;
    attn_cuda_range_t input, output;
    attn_cuda_ranges_t *ranges; /* these two and those of clients */
    char *workspace;            /* device; its first ATTN_WORKSPACE_ZEROED bytes are zero between launches, which follow
                                   each other on one stream */
    uint64_t workspace_bytes;
    attn_cuda_outgrown_t outgrown[ATTN_CUDA_OUTGROWN];
    uint32_t outgrown_count;

    attn_cuda_flight_t flight[ATTN_WIRE_GROUPS];
    attn_engine_queue_t order; /* small groups in hand, and what is waited for in submit() */
    attn_cuda_bulk_t bulk;
    attn_cuda_moves_t moves_in, moves_out;

    /* What runs its rounds with nothing else: engine_cuda_alone.c. */
    cudaEvent_t round[2 * ATTN_CUDA_ROUNDS];
    double rounds[ATTN_WIRE_REPEAT_MAX];

    /* Answers of a group up to this size in all are written by the kernel to pinned memory rather than copied there. */
    uint64_t direct_bytes;
    /* Inputs of a lone group up to this size in all are fetched by a kernel rather than by copies. */
    uint64_t gather_bytes;
    bool gather_apart; /* also beside other groups: for tests and measurements */
    bool row_copies;   /* copies at even distances are one with rows */
    bool batch_copies; /* the other copies of a group are queued by one call */
};

/* engine_cuda_device.c: makes `setup->device` the only GPU of this process and fills in what it is. */
attn_status_t attn_cuda_device_open(const char *uuid, attn_device_t *ret, attn_error_t *err);
/* NVML is loaded at run time. Clocks are 0 where it is absent. */
attn_cuda_nvml_t *attn_cuda_nvml_open(const char *uuid, char *ret_driver, size_t driver_size);
void attn_cuda_nvml_close(attn_cuda_nvml_t *nvml); /* NULL is fine */
void attn_cuda_nvml_clocks(const attn_cuda_nvml_t *nvml, uint32_t *ret_sm_mhz, uint32_t *ret_mem_mhz);

/* engine_cuda.c: whether no group is in hand. */
bool attn_cuda_idle(const attn_engine_t *engine);

/* engine_cuda_slices.c: all of a request, with no problem. Pure. */
attn_cuda_slice_t attn_cuda_slice_whole(const attn_engine_request_t *request);
/* Cuts a request whose tensors lie at `device` into up to `most` (ATTN_CUDA_SLICES) slices by batch, or by query rows
 * where the batch is one. Returns 1 for one that is better left whole, with the spans of all of it and no
 * problem. Every row's bits are those of the request left whole. Pure. */
uint32_t attn_cuda_slices(const attn_engine_request_t *request, const attn_addresses_t *device, uint32_t most,
                          attn_cuda_slice_t ret[ATTN_CUDA_SLICES]);

/* engine_cuda_flight.c: groups that overlap with others. */
attn_status_t attn_cuda_flight_open(attn_engine_t *engine, attn_cuda_flight_t *flight, attn_error_t *err);
void attn_cuda_flight_close(attn_cuda_flight_t *flight);
/* Queues all of the group. After an error, work may be on the streams. */
attn_status_t attn_cuda_flight_queue(attn_engine_t *engine, attn_cuda_flight_t *flight, attn_error_t *err);
/* Times of a flight that has ended well. */
void attn_cuda_flight_times(const attn_cuda_flight_t *flight, attn_engine_result_t *ret);
/* Problems of the group at flight->device, into flight->problems. */
attn_status_t attn_cuda_flight_problems(attn_cuda_flight_t *flight, attn_group_t *ret, attn_error_t *err);
/* Places of a request's tensors in the slab from `offset` on, at the distances that they have in an arena where they
 * were placed in one go. Tensors on the device stay where they are. Returns the end. */
uint64_t attn_cuda_flight_place(attn_cuda_flight_t *flight, uint32_t i, uint64_t offset, bool outputs);

/* What has to be copied to the device of a request's inputs. */
uint64_t attn_cuda_in_bytes(const attn_engine_request_t *request);
/* Puts a launch on the flight's stream, behind its inputs, between its events. */
attn_status_t attn_cuda_flight_launch(attn_cuda_flight_t *flight, uint32_t slice, attn_error_t *err);
/* Records the events that clients wait for. */
attn_status_t attn_cuda_flight_after(const attn_cuda_flight_t *flight, cudaStream_t stream, attn_error_t *err);

/* engine_cuda_bulk.c: large requests. */
attn_status_t attn_cuda_bulk_open(attn_cuda_bulk_t *bulk, attn_error_t *err);
void attn_cuda_bulk_close(attn_cuda_bulk_t *bulk);
/* Takes a flight that is ready to be queued. */
void attn_cuda_bulk_begin(attn_engine_t *engine, attn_cuda_flight_t *flight);
/* Queues what there is room for. What fails is in the group's error, and the flight is no longer `queued`. */
void attn_cuda_bulk_pump(attn_engine_t *engine);
bool attn_cuda_bulk_waits(const attn_cuda_bulk_t *bulk); /* whether something is left to be queued */
/* A flight that has ended, well or not; forget() takes it out. NULL when none has. */
attn_cuda_flight_t *attn_cuda_bulk_ended(const attn_cuda_bulk_t *bulk);
void attn_cuda_bulk_forget(attn_cuda_bulk_t *bulk, const attn_cuda_flight_t *flight);

/* engine_cuda_alone.c: rounds with timing, and the truth: queued and waited for. */
attn_status_t attn_cuda_alone_rounds(attn_engine_t *engine, attn_cuda_flight_t *flight, attn_error_t *err);
attn_status_t attn_cuda_alone_truth(attn_engine_t *engine, attn_cuda_flight_t *flight, attn_error_t *err);

double attn_cuda_elapsed_us(cudaEvent_t from, cudaEvent_t to);

/* engine_cuda_memory.c */
void attn_cuda_ranges_open(attn_engine_t *engine); /* the arenas, with a first extent of each pinned; never fails */
void attn_cuda_ranges_close(attn_engine_t *engine);
/* Whether a copy has met memory that is still to be pinned. */
bool attn_cuda_ranges_wanted(const attn_engine_t *engine);
bool attn_cuda_ranges_pin(attn_engine_t *engine); /* one more piece; whether there is more */
/* Where the GPU reads and writes `bytes` of host memory directly; NULL when they are not all pinned. */
void *attn_cuda_direct(const attn_engine_t *engine, const void *host, uint64_t bytes);

/* engine_cuda_moves.c: adds a copy to the device, or from it; `space`: the client's region, NULL for an arena. */
void attn_cuda_moves_add_of(attn_cuda_moves_t *moves, const void *space, void *device, const void *host, uint64_t bytes,
                            bool in);
void attn_cuda_moves_add(attn_cuda_moves_t *moves, void *device, const void *host, uint64_t bytes, bool in);
/* Queues the copies and empties the list; by a kernel, if `fetch` is there and it can do these. Adds to the result's
 * helpers and unpinned_bytes, and sets idle_wanted when some of these lie in an arena. */
cudaError_t attn_cuda_moves_queue(attn_engine_t *engine, attn_cuda_moves_t *moves, bool in, attn_cuda_fetch_t *fetch,
                                  cudaStream_t stream, attn_engine_result_t *result);
/* engine_cuda_memory.c: each makes at least `bytes` available; contents are lost. What is outgrown stays as it is for
 * the work that has been queued, until outgrown_free(). */
attn_status_t attn_cuda_slab(attn_engine_t *engine, attn_cuda_flight_t *flight, uint64_t bytes, attn_error_t *err);
attn_status_t attn_cuda_workspace(attn_engine_t *engine, uint64_t bytes, attn_error_t *err);
attn_status_t attn_cuda_bulk_workspace(attn_engine_t *engine, uint64_t bytes, attn_error_t *err);
attn_status_t attn_cuda_staging(attn_engine_t *engine, attn_cuda_flight_t *flight, uint64_t bytes, attn_error_t *err);
/* Frees one of what was outgrown, and waits for the device; whether there is more. */
bool attn_cuda_outgrown_free(attn_engine_t *engine);

/* engine_cuda_ranges.c */
attn_status_t attn_cuda_ranges_create(attn_cuda_ranges_t **ret, attn_error_t *err);
void attn_cuda_ranges_destroy(attn_cuda_ranges_t *ranges); /* NULL is fine */
/* In turns: a main thread that queues one group after the other would else never let the regions' thread pin (H100,
 * four requests of 84 MiB in flight from pageable memory: 4 ms each instead of 1). */
void attn_cuda_ranges_lock(attn_cuda_ranges_t *ranges);
void attn_cuda_ranges_unlock(attn_cuda_ranges_t *ranges);
bool attn_cuda_ranges_link(attn_cuda_ranges_t *ranges, attn_cuda_range_t *range); /* false: no memory. Takes the lock */
void attn_cuda_ranges_unlink(attn_cuda_ranges_t *ranges, const attn_cuda_range_t *range); /* takes the lock */
/* The range that holds all of the bytes, with where in it; NULL for memory that is nobody's. Under the lock. */
const attn_cuda_range_t *attn_cuda_ranges_find(const attn_cuda_ranges_t *ranges, const char *host, uint64_t bytes,
                                               uint64_t *ret_offset);
/* Pins the next piece; unpins all. Under the lock while it is in the list. */
void attn_cuda_range_pin(attn_cuda_range_t *range);
void attn_cuda_range_unpin(attn_cuda_range_t *range);

/* engine_cuda_clients.c: for attn_client_memory_ops_t. The regions' thread. */
attn_status_t attn_cuda_client_add(attn_engine_t *engine, attn_client_region_t *region, attn_error_t *err);
bool attn_cuda_client_pin(attn_engine_t *engine, attn_client_region_t *region, int64_t *ret_ns);
attn_status_t attn_cuda_client_ready(attn_engine_t *engine, attn_client_region_t *event, bool *ret, attn_error_t *err);
void attn_cuda_client_drop(attn_engine_t *engine, attn_client_region_t *region);

/* engine_cuda_nvtx.c: ranges for Nsight: one per group from submit to its end, named by variant, size and the ids of
 * its requests. */
bool attn_cuda_nvtx_wanted(void); /* a profiler has been injected into this process */
uint64_t attn_cuda_nvtx_begin(const attn_engine_group_t *group);
void attn_cuda_nvtx_end(uint64_t range);

#endif
