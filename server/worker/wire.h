/* worker/wire.h: what the front and one incarnation of a worker share: a memfd with two rings, and the hello.
 *
 * One memfd per incarnation, never reused. Three parts: one that only the front writes (the worker maps it read-only),
 * one that only the worker writes, and the sequence offsets of packed jobs (front-written). The front keeps at most
 * ATTN_WIRE_SLOTS jobs in flight, so neither ring can overflow and each side keeps its own read position to itself.
 *
 * A job is one request. Jobs that follow each other with one `group` number are a *group*: they run as one launch and
 * end together. The front publishes a group at once, so a worker that sees its first job sees them all. Several groups
 * are in flight; each job's completion is a record of its own.
 *
 * The front treats the worker's part as hostile: a wild kernel may have written it. The worker trusts the front.
 * Both come from one build; the version is checked because a package upgrade may replace the worker's file under a
 * running front. Fixed width throughout, so that a 64-bit layout is the only assumption. */
#ifndef ATTND_WORKER_WIRE_H
#define ATTND_WORKER_WIRE_H

#include <stdalign.h>
#include <stdatomic.h>
#include <stdint.h>

#include "attn/accuracy.h"
#include "attn/kernel.h"
#include "attn/spec.h"

#define ATTN_WIRE_MAGIC UINT64_C(0x676e69722d6e7474)
#define ATTN_WIRE_VERSION 5u
#define ATTN_WIRE_GROUP_MAX 64u   /* jobs of a group */
#define ATTN_WIRE_GROUPS_SMALL 4u /* groups in flight, */
#define ATTN_WIRE_GROUPS_LARGE 8u /* and large requests beside them, each a group by itself */
#define ATTN_WIRE_GROUPS (ATTN_WIRE_GROUPS_SMALL + ATTN_WIRE_GROUPS_LARGE)
#define ATTN_WIRE_SLOTS (ATTN_WIRE_GROUPS_SMALL * ATTN_WIRE_GROUP_MAX + ATTN_WIRE_GROUPS_LARGE)
#define ATTN_WIRE_NAME_MAX 48
#define ATTN_WIRE_VARIANTS_MAX 64
#define ATTN_WIRE_REPEAT_MAX 4096u /* rounds with timing of one job; also of its warm-up */

/* The worker's descriptors. 2 is a pipe whose last bytes the front quotes. */
enum {
    ATTN_WORKER_FD_CONTROL = 3, /* SOCK_SEQPACKET: the hello; its end is the worker's end */
    ATTN_WORKER_FD_RING = 4,
    ATTN_WORKER_FD_JOB_BELL = 5,  /* eventfd, front to worker */
    ATTN_WORKER_FD_DONE_BELL = 6, /* eventfd, worker to front */
    ATTN_WORKER_FD_INPUT = 7,
    ATTN_WORKER_FD_OUTPUT = 8,
    ATTN_WORKER_FD_REGIONS = 9 /* SOCK_SEQPACKET: memory of colocated clients (worker/region_wire.h) */
};

/* What a job does. */
typedef enum attn_op {
    ATTN_OP_RUN = 1,   /* q, k, v -> o, lse by `variant` */
    ATTN_OP_FILL = 2,  /* writes q, k, v from `seed` (the only op that writes inputs) */
    ATTN_OP_TRUTH = 3, /* q, k, v -> truth */
    ATTN_OP_JUDGE = 4  /* o, lse, truth -> judgement */
} attn_op_t;

/* Where a tensor lies. Regions are numbers of the daemon; their names never reach a caller. */
enum { ATTN_REGION_NONE = 0, ATTN_REGION_INPUT = 1, ATTN_REGION_OUTPUT = 2, ATTN_REGION_CLIENT_FIRST = 16 };
typedef struct attn_place {
    uint32_t region;
    uint32_t reserved;
    uint64_t offset, bytes; /* offset: a multiple of ATTN_WIRE_PAGE */
} attn_place_t;

typedef struct attn_wire_job {
    uint64_t serial;      /* never 0, never twice */
    uint64_t group;       /* one number for the jobs of a group; never 0, never twice */
    uint32_t group_count; /* jobs of the group; 1 unless op is RUN with one round */
    uint32_t op;          /* attn_op_t; with `variant`, warmup and repeat the same for all jobs of a group */
    uint32_t slot;        /* of the cancel word; below ATTN_WIRE_SLOTS, no two jobs in flight have the same */
    uint32_t cu_entries;  /* spec.batch + 1 for thd: cu_seqlens_q, then cu_seqlens_k, at `sequences`; else 0 */
    uint32_t sequences;   /* number of the area in the sequence part: attn_ring_sequences() */
    uint32_t warmup, repeat;
    uint32_t signal;  /* number of a client's event (worker/region_wire.h) to record behind the job; 0 = none */
    uint32_t large;   /* 1: it takes long enough to hold others up, and is a group by itself */
    uint32_t cost_us; /* what its kernel is expected to take */
    uint64_t seed;
    char id[64];                      /* the request's, for profilers */
    char variant[ATTN_WIRE_NAME_MAX]; /* RUN */
    attn_spec_t spec;
    attn_place_t q, k, v, o, lse, truth;
} attn_wire_job_t;
_Static_assert(sizeof(attn_place_t) == 24, "wire layout");
_Static_assert(sizeof(attn_spec_t) == 56, "wire layout");
_Static_assert(sizeof(attn_wire_job_t) == 64 + 64 + ATTN_WIRE_NAME_MAX + 56 + 6 * 24, "wire layout");

/* Times, launches and link bytes are those of the job's group as a whole, the same in each of its records. */
typedef struct attn_wire_done {
    uint64_t serial;
    uint32_t slot;                          /* the job's */
    int32_t status;                         /* attn_status_t */
    uint32_t unusable;                      /* 1: the device's context is broken; the worker ends after this record */
    uint32_t launches, helpers, unused;     /* of attention kernels; of kernels that only move bytes */
    uint64_t link_in_bytes, link_out_bytes; /* moved between host and device memory */
    uint64_t unpinned_bytes;                /* of these, from or to host memory that was not pinned */
    uint64_t copy_in_us, copy_out_us;
    double kernel_us, kernel_min_us;
    uint32_t sm_clock_mhz, mem_clock_mhz; /* as read near this job; 0 = not known */
    attn_judgement_t judgement;           /* JUDGE */
    char message[ATTN_ERROR_MESSAGE_MAX]; /* when status is not ATTN_OK */
} attn_wire_done_t;
_Static_assert(sizeof(attn_wire_done_t) == 96 + sizeof(attn_judgement_t) + ATTN_ERROR_MESSAGE_MAX, "wire layout");

/* Written by the front only. */
typedef struct attn_wire_front {
    uint64_t magic;
    uint32_t version;
    uint32_t spin_us;                        /* how long a worker without work may spin before it sleeps; 0 = never */
    alignas(64) _Atomic uint64_t job_tail;   /* jobs published so far */
    alignas(64) _Atomic uint32_t done_armed; /* 1: the front sleeps; ring ATTN_WORKER_FD_DONE_BELL */
    alignas(64) _Atomic uint64_t cancel[ATTN_WIRE_SLOTS]; /* the serial that is no longer wanted */
    alignas(64) attn_wire_job_t jobs[ATTN_WIRE_SLOTS];    /* job n lies at n % ATTN_WIRE_SLOTS */
} attn_wire_front_t;

/* Written by the worker only. The guards are set when it attaches and never change: where they differ, something has
 * written over this memory, even if the words between them look sane again. */
#define ATTN_WIRE_GUARD UINT64_C(0xfeedfacecafe7a11)
typedef struct attn_wire_worker {
    alignas(64) _Atomic uint64_t guard_first;
    alignas(64) _Atomic uint64_t done_tail; /* completions published so far */
    alignas(64) _Atomic uint32_t job_armed; /* 1: the worker sleeps; ring ATTN_WORKER_FD_JOB_BELL */
    alignas(64) _Atomic uint64_t beat;      /* by a thread that never calls CUDA: the process gets to run */
    alignas(64) _Atomic uint64_t progress;  /* by checkpoints: the job gets on */
    alignas(64) _Atomic uint64_t begun;     /* number of the latest group that the device may have begun */
    alignas(64) attn_wire_done_t done[ATTN_WIRE_SLOTS];
    _Atomic uint64_t guard_last;
} attn_wire_worker_t;
_Static_assert(sizeof(_Atomic uint64_t) == 8 && sizeof(_Atomic uint32_t) == 4, "atomics must be plain words");

#define ATTN_WIRE_PAGE 4096u
#define ATTN_WIRE_ROUND(bytes) (((uint64_t)(bytes) + ATTN_WIRE_PAGE - 1) / ATTN_WIRE_PAGE * ATTN_WIRE_PAGE)
#define ATTN_WIRE_FRONT_BYTES ATTN_WIRE_ROUND(sizeof(attn_wire_front_t))
#define ATTN_WIRE_WORKER_BYTES ATTN_WIRE_ROUND(sizeof(attn_wire_worker_t))
/* Sequence areas: a small one per slot, for up to 511 sequences, and one per group with room for ATTN_BATCH_MAX, for a
 * job that is its group alone. Sparse, so only what is used costs memory. */
#define ATTN_WIRE_AREA_BYTES ATTN_WIRE_PAGE
#define ATTN_WIRE_AREA_ENTRIES (ATTN_WIRE_AREA_BYTES / 8) /* offsets of one of the two arrays */
#define ATTN_WIRE_LARGE_AREAS ATTN_WIRE_GROUPS
#define ATTN_WIRE_LARGE_AREA_BYTES ATTN_WIRE_ROUND(2 * 4 * (UINT64_C(1) + ATTN_BATCH_MAX))
#define ATTN_WIRE_BYTES                                                                                                \
    (ATTN_WIRE_FRONT_BYTES + ATTN_WIRE_WORKER_BYTES + ATTN_WIRE_SLOTS * ATTN_WIRE_AREA_BYTES +                         \
     ATTN_WIRE_LARGE_AREAS * ATTN_WIRE_LARGE_AREA_BYTES)

/* The first and only message on the control socket, worker to front: the device is open, or why not. */
typedef struct attn_wire_hello {
    uint64_t magic;
    uint32_t version;
    int32_t status; /* attn_status_t: of opening the device */
    char message[ATTN_ERROR_MESSAGE_MAX];
    char build[32]; /* ATTND_VERSION */
    char driver[32];
    attn_device_t device;
    uint32_t sm_clock_mhz, mem_clock_mhz;
    uint32_t variant_count;
    uint32_t reserved;
    char variants[ATTN_WIRE_VARIANTS_MAX][ATTN_WIRE_NAME_MAX]; /* names that this worker can run */
} attn_wire_hello_t;

#endif
