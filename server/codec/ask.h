/* codec/ask.h: what a caller asks, after every check that needs no scheduler. Each framing and each door fills the
 * same record, so that nothing behind the codec knows how a request arrived. */
#ifndef ATTND_CODEC_ASK_H
#define ATTND_CODEC_ASK_H

#include <stdbool.h>
#include <stdint.h>

#include "attn/spec.h"
#include "attn/status.h"
#include "sched/compare.h"

#define ATTN_NAME_MAX 63 /* bytes of a variant's name and of a request id */
#define ATTN_COMPARE_VARIANTS_MAX ATTN_COMPARE_ROWS_MAX

typedef struct attn_ask {
    char variant[ATTN_NAME_MAX + 1]; /* "" = auto */
    char id[ATTN_NAME_MAX + 1];      /* "" = the door makes one */
    attn_spec_t spec;                /* measured: sm_scale is resolved */
    attn_sizes_t sizes;
    int32_t *cu_seqlens_q, *cu_seqlens_k; /* malloc, batch + 1 entries, owned; NULL unless thd */
    bool has_deadline;
    uint64_t deadline_ms;
    int32_t priority;
} attn_ask_t;

/* Where a tensor lies that is not in the body. */
enum { ATTN_ASK_Q, ATTN_ASK_K, ATTN_ASK_V, ATTN_ASK_O, ATTN_ASK_LSE, ATTN_ASK_PLACES };
typedef struct attn_ask_place {
    bool given;
    char region[ATTN_NAME_MAX + 1]; /* its name; "" when it is given by number */
    uint32_t number;
    uint64_t offset, bytes;
} attn_ask_place_t;

/* What a compare adds. */
typedef struct attn_compare_ask {
    uint32_t variant_count; /* 0: all that support the request */
    char variants[ATTN_COMPARE_VARIANTS_MAX][ATTN_NAME_MAX + 1];
    char reference[ATTN_NAME_MAX + 1]; /* "" = "reference" */
    bool has_seed, has_warmup, has_rounds;
    uint64_t seed; /* the daemon fills q, k, v: there are no tensors in the body */
    uint32_t warmup, rounds;
    uint32_t wait_ms; /* ?wait= */
} attn_compare_ask_t;

/* Frees what the ask owns and clears it. NULL is fine. */
void attn_ask_clear(attn_ask_t *ask);

/* Steps that the framings share; each says what is wrong in a sentence. */

/* A name of a variant or reference: 1..63 of [A-Za-z0-9_.-]; "auto" becomes "" where `auto_allowed`. */
attn_status_t attn_ask_set_name(const char *what, const char *text, bool auto_allowed, char ret[ATTN_NAME_MAX + 1],
                                attn_error_t *err);
/* 1..63 bytes of printable ASCII without quotes and backslashes. */
attn_status_t attn_ask_set_id(attn_ask_t *ask, const char *text, attn_error_t *err);
attn_status_t attn_ask_set_priority(attn_ask_t *ask, int64_t priority, attn_error_t *err);

/* Fills extents of ask->spec from the shapes (`rank` entries each, in the order of spec.layout) and checks that k and v
 * agree and that q and k fit together. For thd the batch comes from `cu_entries` (entries of cu_seqlens_q). Then
 * attn_spec_measure(). dtype, layout, flags, sm_scale and softcap are already in the spec. */
attn_status_t attn_ask_set_shapes(attn_ask_t *ask, const uint64_t *q, size_t q_rank, const uint64_t *k, size_t k_rank,
                                  const uint64_t *v, size_t v_rank, uint64_t cu_entries, attn_error_t *err);

/* thd: checks both cu_seqlens against the spec. Others: there must be none. */
attn_status_t attn_ask_check_seqlens(const attn_ask_t *ask, uint64_t q_entries, uint64_t k_entries, attn_error_t *err);

/* A feature that has a reserved place and does not exist yet: its sentence (UNIMPLEMENTED), or ATTN_OK when the name
 * or protobuf field number is not one of them. */
attn_status_t attn_reserved_name_check(const char *name, attn_error_t *err);
attn_status_t attn_reserved_field_check(uint32_t field_number, attn_error_t *err);

#endif
