/* worker/engine.h: the seam between the worker program and a kind of device: null, CPU, CUDA.
 *
 * One engine per process, used by the worker's main thread only, one job at a time. An engine owns its device's
 * context, streams, pools and pinning. It never exits, never prints; what fails is a status and a sentence. */
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

/* One job, with addresses of this process. */
typedef struct attn_engine_job {
    uint32_t op;                                /* attn_op_t */
    const char *variant;                        /* RUN: a name that find() knows */
    attn_spec_t spec;                           /* measured and valid */
    attn_sizes_t sizes;                         /* of the tensors, from attn_spec_measure() */
    const int32_t *cu_seqlens_q, *cu_seqlens_k; /* thd: spec.batch + 1 entries each, valid offsets; else NULL */
    /* Host addresses, page-aligned, NULL where the job has none. RUN: q, k, v are read-only, o and lse are written.
     * FILL: q, k, v are written. TRUTH: q, k, v are read-only, `truth` is written (layout of attn/accuracy.h).
     * JUDGE: o, lse and truth are read. In the serve class they lie inside the two arena mappings
     * (attn_memory_arena()), so an engine that pinned an arena finds its device address by offset; FILL's q, k, v and
     * everything in the lab class lie in mappings made for this job only, with unmapped pages around each. */
    attn_addresses_t host;
    void *truth;
    uint64_t truth_bytes;
    uint64_t seed;           /* FILL: attn_fill_normal(dtype, seed, tensor, …) or the same numbers */
    uint32_t warmup, repeat; /* rounds before and with timing; repeat >= 1, at most ATTN_WIRE_REPEAT_MAX */
    /* Cancellation and progress, in the manner of attn_exec_t: call it at least every 50 ms of work done in pieces and
     * between rounds; false = stop with ATTN_ERR_CANCELLED once the device no longer touches the job's memory. */
    bool (*checkpoint)(void *checkpoint_arg);
    void *checkpoint_arg;
} attn_engine_job_t;

/* What happened. Zeroed before the call. */
typedef struct attn_engine_result {
    uint64_t copy_in_us, copy_out_us;
    double kernel_us, kernel_min_us; /* median and least over `repeat` rounds: attn_engine_rounds(). A large job that a
                                        GPU ran in slices under its copies: their sum, more than in one piece */
    uint32_t sm_clock_mhz, mem_clock_mhz; /* 0 = not read */
    attn_judgement_t judgement;           /* JUDGE */
    bool unusable; /* the context is broken (a sticky CUDA error): the worker reports this job and ends, a new one
                      starts */
} attn_engine_result_t;

typedef struct attn_engine_ops {
    const char *name; /* "null", "cpu", "cuda" */
    /* Opens the device. Errors: INVALID_ARGUMENT, NO_MEMORY, DEVICE. */
    attn_status_t (*open)(const attn_engine_setup_t *setup, attn_engine_t **ret, attn_engine_about_t *ret_about,
                          attn_error_t *err);
    void (*close)(attn_engine_t *engine); /* NULL is fine */
    /* Whether RUN can be asked for a variant of this name here. */
    bool (*has)(const attn_engine_t *engine, const char *variant);
    /* Runs one job to completion: when it returns, nothing touches the job's memory any more. RUN includes copies in
     * and out. Errors: CANCELLED, NO_MEMORY, DEVICE, INTERNAL, UNIMPLEMENTED (an op that this engine lacks). */
    attn_status_t (*run)(attn_engine_t *engine, const attn_engine_job_t *job, attn_engine_result_t *ret,
                         attn_error_t *err);
    /* One piece of background work (pinning, prefaulting) of at most about 3 ms; returns whether there is more. Called
     * when the worker has had nothing to do for a while, and now and then when it never has. May be NULL. */
    bool (*idle)(attn_engine_t *engine);
} attn_engine_ops_t;

extern const attn_engine_ops_t attn_engine_null, attn_engine_cpu;
#ifdef ATTN_HAVE_CUDA
extern const attn_engine_ops_t attn_engine_cuda; /* worker/engine_cuda.c */

/* For --list-devices: calls `each` once per GPU that this process may use, in CUDA's order; nothing when there is no
 * driver or no GPU. Creates no context. */
void attn_engine_cuda_list(void (*each)(const char *uuid, int index, const char *name, void *arg), void *arg);
#endif

/* FILL for any engine: the job's q, k, v from its seed on up to `threads` threads, in pieces. Errors: CANCELLED. */
attn_status_t attn_engine_fill(const attn_engine_job_t *job, unsigned threads, attn_error_t *err);

/* Median and minimum of n >= 1 rounds in microseconds, into ret. Sorts `rounds`. */
void attn_engine_rounds(double *rounds, uint32_t n, attn_engine_result_t *ret);

#endif
