/* attn/v1/shm_ring.h: the shared memory of a connection's ring, as both sides see it (socket.proto: OpenRing).
 *
 * Submissions go one way and completions the other, each through an array of `entries` records with free-running
 * counters: record n lies at n % entries. A counter and what is beside it on its line have one writer.
 *
 * Submitting (client; one thread at a time): fill submission[submit_tail % entries], store submit_tail + 1 with
 * release; then, after a full fence, when submit_armed is 1, write 1 (8 bytes) to the doorbell. The daemon copies a
 * record once, checks the copy, and stores submit_head when the record may be used again.
 *
 * Completing (daemon): fills completion[complete_tail % entries], stores complete_tail with release; after a full
 * fence, when complete_armed is not 0, sets it to 0 and wakes the client. The client (one thread at a time) reads the
 * record, then stores complete_head + 1. Completions come in any order; `tag` says whose each is. Every submission
 * that was taken is completed, once.
 *
 * Sleeping (client): store ATTN_SHM_SLEEP_FUTEX or ATTN_SHM_SLEEP_PIPE to complete_armed, full fence, look at
 * complete_tail once more, then
 *   FUTEX: read complete_futex before arming, and futex(FUTEX_WAIT) for that value, without FUTEX_PRIVATE_FLAG
 *   PIPE:  poll the wake-up descriptor for reading; when it is ready read what there is and throw it away
 * A wake-up may be late or for nothing. The end of the connection's socket means that no more will come: a client that
 * sleeps on the futex looks at the socket now and then; one that polls puts both descriptors into its poll.
 *
 * The client keeps at most `entries` submissions that it has not reaped: the daemon takes no submission for which it
 * has no completion record, and it looks again only when the doorbell rings. Everything here is untrusted by the
 * daemon: a tail that runs more than `entries` ahead ends the connection with a sentence on the socket (tag 0).
 *
 * Little-endian, fixed width. A field that is unused or reserved is 0; the daemon refuses anything else, because a
 * newer client may mean something by it. */
#ifndef ATTN_V1_SHM_RING_H
#define ATTN_V1_SHM_RING_H

#include <stdalign.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define ATTN_SHM_MAGIC UINT64_C(0x676e69722f317661) /* "av1/ring" */
#define ATTN_SHM_VERSION 1u
#define ATTN_SHM_ENTRIES_MIN 8u
#define ATTN_SHM_ENTRIES_MAX 1024u
#define ATTN_SHM_NAME_BYTES 48
#define ATTN_SHM_TEXT_BYTES 800

/* What a submission asks. */
enum {
    ATTN_SHM_NOP = 1,   /* completed at once; all else is 0 */
    ATTN_SHM_RUN = 2,   /* o, lse = attention(q, k, v) */
    ATTN_SHM_CANCEL = 3 /* gives up the submission whose tag is in `target`. Completed with OK, or NOT_FOUND */
};

enum { ATTN_SHM_CAUSAL = 1u << 0, ATTN_SHM_RETURN_LSE = 1u << 1 }; /* attn_shm_submission_t.flags */

enum { ATTN_SHM_AWAKE = 0, ATTN_SHM_SLEEP_FUTEX = 1, ATTN_SHM_SLEEP_PIPE = 2 }; /* complete_armed */

typedef struct attn_shm_place {
    uint32_t region; /* RegionRegistered.id; 0 = none */
    uint32_t reserved;
    uint64_t offset; /* a multiple of 16; the length follows from the shape */
} attn_shm_place_t;

/* The meaning, the defaults and the checks of AttentionRequest. */
typedef struct attn_shm_submission {
    uint64_t tag;    /* comes back with the completion */
    uint64_t target; /* CANCEL */
    uint8_t op;
    uint8_t dtype;  /* attn.v1.DType */
    uint8_t layout; /* attn.v1.Layout */
    uint8_t flags;
    int32_t priority;
    uint32_t batch; /* thd: sequences, entries of cu_seqlens less one */
    uint32_t h_q, h_kv, d;
    uint64_t s_q, s_kv;                /* thd: total_q, total_kv */
    float sm_scale;                    /* 0 = 1/sqrt(d) */
    float softcap;                     /* 0 = off */
    uint64_t deadline_us;              /* from when the daemon takes the record; 0 = none */
    uint32_t wait_event, signal_event; /* Submit */
    char variant[ATTN_SHM_NAME_BYTES]; /* ends with NUL; "" = auto */
    attn_shm_place_t q, k, v, o, lse;
    attn_shm_place_t cu_seqlens_q, cu_seqlens_k; /* thd: int32, in host memory; read once, when the record is taken */
    uint64_t reserved[2];
} attn_shm_submission_t;

typedef struct attn_shm_completion {
    uint64_t tag;
    int32_t status;      /* attn_status_t: 0, or negative */
    uint32_t batch_size; /* requests merged into the launch */
    uint32_t attempts;
    uint32_t text_items; /* strings in `text` */
    double kernel_us, kernel_min_us;
    uint64_t queue_us, copy_in_us, copy_out_us, total_us;
    char variant[ATTN_SHM_NAME_BYTES]; /* what ran */
    char device[ATTN_SHM_NAME_BYTES];
    uint64_t reserved[7];
    /* Strings with their NUL, one behind the other. OK: why the variant was chosen. Otherwise the sentence, then one
     * for each thing that the variant lacks (FAILED_PRECONDITION), as many as fit. */
    char text[ATTN_SHM_TEXT_BYTES];
} attn_shm_completion_t;

typedef struct attn_shm_header {
    /* Written once, before the client sees it. The client checks magic, version and the two sizes. */
    uint64_t magic;
    uint32_t version;
    uint32_t entries;
    uint32_t submission_bytes, completion_bytes; /* of one record */
    uint64_t submissions, completions;           /* offsets of the arrays in this memory */

    alignas(64) _Atomic uint64_t submit_tail;    /* client: submissions published */
    alignas(64) _Atomic uint64_t submit_head;    /* daemon: submissions taken */
    _Atomic uint32_t submit_armed;               /* daemon: 1 = ring the doorbell */
    alignas(64) _Atomic uint64_t complete_tail;  /* daemon: completions published */
    _Atomic uint32_t complete_futex;             /* daemon: changes with every futex wake-up */
    alignas(64) _Atomic uint64_t complete_head;  /* client: completions reaped */
    alignas(64) _Atomic uint32_t complete_armed; /* client arms, daemon disarms */
} attn_shm_header_t;

#ifndef __cplusplus
_Static_assert(sizeof(_Atomic uint64_t) == 8 && sizeof(_Atomic uint32_t) == 4, "atomics must be plain words");
_Static_assert(sizeof(attn_shm_place_t) == 16, "ring layout");
_Static_assert(sizeof(attn_shm_submission_t) == 256, "ring layout");
_Static_assert(offsetof(attn_shm_submission_t, variant) == 80, "ring layout");
_Static_assert(offsetof(attn_shm_submission_t, q) == 128, "ring layout");
_Static_assert(sizeof(attn_shm_completion_t) == 1024, "ring layout");
_Static_assert(offsetof(attn_shm_completion_t, text) == 224, "ring layout");
_Static_assert(sizeof(attn_shm_header_t) == 384, "ring layout");
_Static_assert(offsetof(attn_shm_header_t, submit_tail) == 64, "ring layout");
_Static_assert(offsetof(attn_shm_header_t, submit_head) == 128, "ring layout");
_Static_assert(offsetof(attn_shm_header_t, complete_tail) == 192, "ring layout");
_Static_assert(offsetof(attn_shm_header_t, complete_head) == 256, "ring layout");
_Static_assert(offsetof(attn_shm_header_t, complete_armed) == 320, "ring layout");
#endif

#endif
