/* worker/engine.h: the seam between the worker program and a kind of device: null, CPU, CUDA.
 *
 * One engine per process, used by the worker's main thread only. It is handed groups (submit), several at a time, and
 * hands them back when they have ended (poll). An engine owns its device's context, streams, pools and pinning. It
 * never exits, never prints; what fails is a status and a sentence. */
#ifndef ATTND_WORKER_ENGINE_H
#define ATTND_WORKER_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "attn/accuracy.h"
#include "attn/kernel.h"
#include "attn/spec.h"
#include "worker/memory.h"
#include "worker/wire.h"

typedef struct attn_engine attn_engine_t; /* each engine defines its own */

/* What an engine starts from. Everything in it outlives the engine. */
typedef struct attn_engine_setup {
    attn_variant_class_t run_class; /* LAB: maps and pins nothing beyond the job in hand */
    const char *device;             /* "cpu", "null", or a GPU's UUID ("GPU-…", "MIG-…") */
    attn_memory_t *memory;          /* the arenas; see worker/memory.h */
} attn_engine_setup_t;

/* What open() found. Zeroed before the call. */
typedef struct attn_engine_about {
    attn_device_t device;
    char driver[32];                      /* "580.65.06 CUDA 13.0"; "" when there is none */
    uint32_t sm_clock_mhz, mem_clock_mhz; /* 0 = not known */
} attn_engine_about_t;

/* Tensors of a request, as bits. */
enum {
    ATTN_TENSOR_Q = 1u << 0,
    ATTN_TENSOR_K = 1u << 1,
    ATTN_TENSOR_V = 1u << 2,
    ATTN_TENSOR_O = 1u << 3,
    ATTN_TENSOR_LSE = 1u << 4
};

/* One request of a group, with addresses of this process. */
typedef struct attn_engine_request {
    attn_spec_t spec;                           /* measured and valid */
    attn_sizes_t sizes;                         /* of the tensors, from attn_spec_measure() */
    const int32_t *cu_seqlens_q, *cu_seqlens_k; /* thd: spec.batch + 1 entries each, valid offsets; else NULL */
    /* Page-aligned, NULL where the job has none. RUN: q, k, v are read-only, o and lse are written. FILL: q, k, v are
     * written. TRUTH: q, k, v are read-only, `truth` is written (layout of attn/accuracy.h). JUDGE: o, lse and truth
     * are read. Addresses are the host's, but for the tensors in `on_device`: theirs are the device's own, read and
     * written in place and never copied.
     * In the serve class host tensors lie inside the two arena mappings (attn_memory_arena()) or in memory that was
     * mapped and pinned beforehand, so an engine finds by address what it has pinned; FILL's q, k, v and everything in
     * the lab class lie in mappings made for this job only, with unmapped pages around each. */
    attn_addresses_t at;
    uint32_t on_device; /* ATTN_TENSOR_… */
    /* The client's region that each tensor lies in, by the order of the bits; NULL = in an arena. Of host memory in the
     * serve class: what of it is pinned (worker/client_memory.h). */
    attn_client_region_t *client[ATTN_MEMORY_TENSORS];
    void *truth;
    uint64_t truth_bytes;
    uint64_t seed; /* FILL: attn_fill_normal(dtype, seed, tensor, …) or the same numbers */
    const char *id;
    /* RUN with tensors on the device: an event of the engine's kind that the request's group records when its work on
     * this request has been queued, for others to wait for; NULL = none. What has to come *before* has happened when
     * a group is submitted: nothing foreign is ever waited for in the engine's streams. */
    void *after;
} attn_engine_request_t;

/* What happened to a group. Zeroed before submit. */
typedef struct attn_engine_result {
    uint64_t copy_in_us, copy_out_us;
    double kernel_us, kernel_min_us; /* median and least over `repeat` rounds: attn_engine_rounds(). Of a large job that
                                        a GPU ran in slices under its copies: their sum, more than in one piece */
    uint32_t launches;               /* of attention: one, or one per slice or round */
    uint32_t helpers;                /* other kernels, which only move bytes */
    uint64_t link_in_bytes, link_out_bytes; /* moved between host and device memory */
    uint64_t unpinned_bytes;                /* of these, from or to host memory that was not pinned */
    uint32_t sm_clock_mhz, mem_clock_mhz;   /* 0 = not read */
    attn_judgement_t judgement;             /* JUDGE */
    bool idle_wanted; /* groups like this one wait for background work: a piece of it is to follow at once */
    bool unusable;    /* the context is broken (a sticky CUDA error): the worker reports this group and ends, a new one
                         starts */
} attn_engine_result_t;

/* Requests that run as one launch. Everything in it stays as it is, and stays where it is, from submit() until poll()
 * hands it back. */
typedef struct attn_engine_group {
    uint64_t number;
    uint32_t op;             /* attn_op_t */
    const char *variant;     /* RUN: a name that has() knows */
    uint32_t warmup, repeat; /* rounds before and with timing; repeat >= 1, at most ATTN_WIRE_REPEAT_MAX */
    uint32_t count;          /* 1 unless op is RUN with one round and no warm-up */
    bool large;     /* one request that takes long enough to hold others up: it may give way to them on the device */
    double cost_us; /* what its kernel is expected to take */
    attn_engine_request_t *requests; /* of one configuration: dtype, head-dim class, causal, softcap on or off */
    /* Cancellation and progress, in the manner of attn_exec_t: called on the main thread at least every 50 ms of work
     * done in pieces and between rounds; false = nobody wants any of the requests: stop with ATTN_ERR_CANCELLED once
     * the device no longer touches their memory. */
    bool (*checkpoint)(void *checkpoint_arg);
    void *checkpoint_arg;
    /* The engine's, from submit() on. */
    attn_engine_result_t result;
    attn_error_t error; /* of all requests: CANCELLED, NO_MEMORY, DEVICE, INTERNAL, UNIMPLEMENTED (an op that this
                           engine lacks). Who was to blame is for the front to find out, by running each alone */
    void *lane;         /* for the engine's use */
} attn_engine_group_t;

typedef struct attn_engine_ops {
    const char *name; /* "null", "cpu", "cuda" */
    bool runs_alone;  /* groups that were submitted run and end by themselves; else poll() runs them, and never returns
                         NULL while there is one */
    /* Opens the device. Errors: INVALID_ARGUMENT, NO_MEMORY, DEVICE. */
    attn_status_t (*open)(const attn_engine_setup_t *setup, attn_engine_t **ret, attn_engine_about_t *ret_about,
                          attn_error_t *err);
    void (*close)(attn_engine_t *engine); /* NULL is fine */
    /* Whether RUN can be asked for a variant of this name here. */
    bool (*has)(const attn_engine_t *engine, const char *variant);
    /* Takes a group, at most ATTN_WIRE_GROUPS at a time, and begins it as soon as it can. What fails is told by poll().
     * RUN includes copies in and out. */
    void (*submit)(attn_engine_t *engine, attn_engine_group_t *group);
    /* Hands back a group that has ended: nothing touches its memory any more. NULL when none has. An engine without
     * anything that works by itself runs the oldest group in here. */
    attn_engine_group_t *(*poll)(attn_engine_t *engine);
    /* Whether poll() has something to hand to the device within tens of microseconds: a worker that may spin does not
     * sleep then. May be NULL. */
    bool (*urgent)(const attn_engine_t *engine);
    /* One piece of background work (pinning, prefaulting, freeing) of at most about 3 ms, if now is the time for it;
     * returns whether there is more. Called when the worker has had nothing to do for a while, and after a group that
     * wanted it. May be NULL. */
    bool (*idle)(attn_engine_t *engine);
    attn_client_memory_ops_t client_memory; /* not on the main thread */
} attn_engine_ops_t;

extern const attn_engine_ops_t attn_engine_null, attn_engine_cpu;
#ifdef ATTN_HAVE_CUDA
extern const attn_engine_ops_t attn_engine_cuda; /* worker/engine_cuda.c */

/* For --list-devices: calls `each` once per GPU that this process may use, in CUDA's order; nothing when there is no
 * driver or no GPU. Creates no context. */
void attn_engine_cuda_list(void (*each)(const char *uuid, int index, const char *name, void *arg), void *arg);
#endif

/* FILL for any engine: q, k, v of the group's request from its seed on up to `threads` threads, in pieces. Errors:
 * CANCELLED. */
attn_status_t attn_engine_fill(const attn_engine_group_t *group, unsigned threads, attn_error_t *err);

/* Problems that the group's requests expand to. */
uint32_t attn_engine_problem_count(const attn_engine_group_t *group);

/* Those of a request whose tensors lie `at`, into ret; returns how many. */
uint32_t attn_engine_problems(const attn_engine_request_t *request, const attn_addresses_t *at, attn_problem_t *ret);

attn_config_t attn_engine_config(const attn_engine_group_t *group);

/* Groups that wait in the order of submit(). */
typedef struct attn_engine_queue {
    attn_engine_group_t *group[ATTN_WIRE_GROUPS];
    uint32_t first, count;
} attn_engine_queue_t;
void attn_engine_queue_push(attn_engine_queue_t *queue, attn_engine_group_t *group);
attn_engine_group_t *attn_engine_queue_take(attn_engine_queue_t *queue); /* NULL when empty */

/* Median and minimum of n >= 1 rounds in microseconds, into ret. Sorts `rounds`. */
void attn_engine_rounds(double *rounds, uint32_t n, attn_engine_result_t *ret);

#endif
