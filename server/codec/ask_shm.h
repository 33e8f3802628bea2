/* codec/ask_shm.h: a submission of the ring (attn/v1/shm_ring.h) and what a caller asks; an outcome and a completion.
 * Pure, no heap; any thread. */
#ifndef ATTND_CODEC_ASK_SHM_H
#define ATTND_CODEC_ASK_SHM_H

#include "attn/v1/shm_ring.h"
#include "codec/ask.h"
#include "sched/request.h"

/* `submission` is a copy that nobody else can write. The ask gets no id, no deadline and no cu_seqlens: their places
 * are in ret_seqlens (thd: batch + 1 entries each), for the door to read and to check by attn_ask_check_seqlens().
 * Errors: INVALID_ARGUMENT, TOO_LARGE. */
attn_status_t attn_ask_from_submission(const attn_shm_submission_t *submission, attn_ask_t *ask,
                                       attn_ask_place_t ret_places[ATTN_ASK_PLACES], attn_ask_place_t ret_seqlens[2],
                                       attn_error_t *err);

/* Writes every byte of the record. */
void attn_completion_fill(uint64_t tag, const attn_outcome_t *outcome, attn_shm_completion_t *ret);

#endif
