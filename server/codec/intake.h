/* codec/intake.h: takes a body in as it arrives: metadata into a small capped buffer, then every tensor byte once to
 * its final place in the input arena. Serves /v1/attention and /v1/compare in both framings, over any byte stream.
 *
 * One thread at a time owns an intake. A failure is final: what arrives later is not looked at. */
#ifndef ATTND_CODEC_INTAKE_H
#define ATTND_CODEC_INTAKE_H

#include <stddef.h>
#include <sys/uio.h>

#include "codec/ask.h"
#include "sched/admit.h"

typedef enum attn_framing { ATTN_FRAMING_XATTN = 1, ATTN_FRAMING_SAFETENSORS = 2 } attn_framing_t;

/* "application/x-attn", …: ATTN_OK, or UNSUPPORTED_MEDIA with what is taken. Parameters after ';' are ignored. */
attn_status_t attn_framing_of_media(const char *content_type, attn_framing_t *ret, attn_error_t *err);

typedef struct attn_intake_options {
    attn_admit_t *admit;
    uint64_t peer;
    attn_framing_t framing;
    bool compare;                /* metadata is a CompareRequest; outputs are not placed, but the credit covers o, lse
                                    and the truth */
    uint64_t body_bytes;         /* Content-Length */
    uint64_t max_metadata_bytes; /* protobuf or safetensors header */
} attn_intake_options_t;

typedef struct attn_segment {
    uint64_t offset, bytes; /* within the tensors' part of the body */
    void *address;
    bool is_tensor; /* Q, K or V, not the offsets of sequences */
} attn_segment_t;
#define ATTN_INTAKE_SEGMENTS 5

typedef struct attn_intake {
    attn_intake_options_t options;
    attn_ask_t ask; /* complete after the metadata; cu_seqlens of a safetensors body at the end of the body */
    attn_compare_ask_t compare;
    attn_ticket_t *ticket;
    attn_place_t q, k, v, o, lse;
    void *q_address, *k_address, *v_address, *o_address, *lse_address; /* NULL when not placed */
    size_t o_room;       /* bytes in front of O that belong to it: the head of the answer may be written there */
    uint64_t copied;     /* bytes of Q, K and V that were fed, and so copied to their places, so far */
    bool metadata_known; /* ask.id and the spec may be used (for logs) */

    /* The intake's own. */
    uint64_t received, tensors_begin;
    unsigned char prefix[16];
    unsigned char *metadata;
    uint64_t metadata_bytes;
    attn_segment_t segments[ATTN_INTAKE_SEGMENTS];
    uint32_t segment_count, segment;
    uint64_t cu_q_entries, cu_k_entries;
} attn_intake_t;

/* Takes credit for the announced body or refuses (TOO_LARGE, UNAVAILABLE). `query` (may be NULL) has already been
 * parsed into *ask and *compare, which are copied in; for x-attn the metadata says everything and the query only
 * `wait`. */
attn_status_t attn_intake_open(attn_intake_t *intake, const attn_intake_options_t *options, const attn_ask_t *ask,
                               const attn_compare_ask_t *compare, attn_error_t *err);

/* The next bytes of the body, in order. */
attn_status_t attn_intake_feed(attn_intake_t *intake, const void *data, size_t bytes, attn_error_t *err);

/* Instead, for who can write them where they belong: places of the next bytes, at most `max` of them, and in how many;
 * never beyond the body's end. Before the metadata is in, one: what is not known yet has no place. */
uint32_t attn_intake_room(attn_intake_t *intake, struct iovec *ret, uint32_t max);
/* So many bytes have been written there, at most what there was room for. */
attn_status_t attn_intake_filled(attn_intake_t *intake, size_t bytes, attn_error_t *err);

/* The body has ended. After ATTN_OK the ask is complete, tensors are in place and the ticket counts as arrived. */
attn_status_t attn_intake_end(attn_intake_t *intake, attn_error_t *err);

/* The ticket becomes the caller's. */
attn_ticket_t *attn_intake_take_ticket(attn_intake_t *intake);

/* Gives back everything that the intake still owns; may be called twice, and on a zeroed record. */
void attn_intake_close(attn_intake_t *intake);

#endif
