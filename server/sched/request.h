/* sched/request.h: one unit of work on its way through the daemon: what to run, where its tensors lie, and what
 * happened. A door fills it, attn_sched_submit() takes it, `complete` hands it back; one stage owns it at a time. */
#ifndef ATTND_SCHED_REQUEST_H
#define ATTND_SCHED_REQUEST_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "attn/accuracy.h"
#include "attn/kernel.h"
#include "attn/spec.h"
#include "worker/wire.h" /* attn_op_t, attn_place_t */

typedef struct attn_timing {
    uint64_t queue_us, copy_in_us, copy_out_us, total_us;
    double kernel_us; /* median over `repeat` rounds; CUDA events, or the monotonic clock on the CPU */
    double kernel_min_us;
} attn_timing_t; /* copies and kernel: of the group that the request ran in, as a whole */

typedef struct attn_outcome {
    attn_error_t error;                 /* error.status is the outcome's status; its sentence is for the caller */
    attn_missing_t missing;             /* with FAILED_PRECONDITION */
    const attn_variant_info_t *variant; /* what ran */
    char reason[192];                   /* why it was chosen */
    char device[48];                    /* UUID, or "CPU" */
    uint32_t batch_size;                /* requests merged into the launch */
    uint32_t attempts;                  /* 1 unless it was replayed */
    attn_timing_t timing;
    attn_judgement_t judgement; /* ATTN_OP_JUDGE */
} attn_outcome_t;

typedef struct attn_request attn_request_t;
typedef void (*attn_request_complete_fn)(attn_request_t *request, void *arg);

struct attn_request {
    /* Set by the door before submit, then read-only. */
    attn_op_t op;
    char id[64]; /* request id: the caller's, or made by the door */
    attn_spec_t spec;
    int32_t *cu_seqlens_q, *cu_seqlens_k; /* owned by the door; daemon memory no client can write; NULL unless thd */
    const attn_variant_info_t *variant;   /* NULL = auto */
    attn_place_t q, k, v, o, lse, truth;  /* offsets are multiples of the page size; of 16 in clients' regions */
    uint32_t signal_event;                /* a client's event to record behind the work (sched/regions.h); 0 = none */
    struct attn_ticket *ticket; /* whose places these are, so that the scheduler can leak them; NULL = nobody's */
    uint64_t seed;
    uint32_t warmup, repeat;           /* rounds before and with timing; 0, 1 for a plain request */
    bool force_lab;                    /* run in the lab class whatever the variant says */
    int32_t priority;                  /* -100..100; higher first */
    int64_t deadline_ns;               /* CLOCK_MONOTONIC; 0 = none */
    uint64_t peer;                     /* hash of the peer's address: fairness */
    uint64_t connection;               /* the peer's connection, for fairness within it; 0 = not told apart */
    attn_request_complete_fn complete; /* once, on the scheduler's thread; must not block */
    void *complete_arg;

    /* Set by anyone, seen by every stage when it takes the request. */
    atomic_bool cancelled;

    /* Written by the scheduler, read in and after `complete`. */
    attn_outcome_t outcome;

    /* The scheduler's own. */
    struct attn_request_sched {
        attn_request_t *next, *prev;
        int64_t submitted_ns, started_ns;
        uint32_t attempts;
        uint32_t faults;  /* workers that died of this request, as far as can be told */
        uint32_t kills;   /* workers that something else ended while they ran it */
        uint32_t devices; /* bit per device of the scheduler that may run it; 0 = not chosen yet */
        bool refused;     /* submitted while the daemon was shutting down */
        bool lab;         /* runs in the lab class */
        bool alone;       /* never merged: timed, another operation than RUN, or a group with it has failed */
        bool replay;      /* has run before, without having been answered: goes first */
        bool large;       /* takes long enough on a GPU to hold others up: by itself, and only so many at once */
        double cost_us;   /* expected, over all rounds */
        double work_us;   /* the same with its copies, one after the other */
        double flops;     /* of one round */
        uint64_t tokens, bytes;
        /* The batcher's. */
        struct attn_batch_peer *waits; /* where it waits; NULL = not waiting */
        double tag;                    /* virtual time at which its connection's turn for it ends */
        uint64_t arrival;              /* number of its first push; 0 before */
    } sched;
};

#endif
