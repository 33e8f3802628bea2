/* codec/ask_shm.c: see ask_shm.h. */
#include "codec/ask_shm.h"

#include <stdio.h>
#include <string.h>

static attn_status_t check_unused(const attn_shm_submission_t *submission, attn_error_t *err)
{
    const attn_shm_place_t *places[] = {&submission->q,           &submission->k,   &submission->v,
                                        &submission->o,           &submission->lse, &submission->cu_seqlens_q,
                                        &submission->cu_seqlens_k};
    uint64_t used = submission->target;
    for (size_t i = 0; i < sizeof submission->reserved / sizeof submission->reserved[0]; i++) {
        used |= submission->reserved[i];
    }
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        used |= places[i]->reserved;
    }
    if (used != 0 || (submission->flags & ~(ATTN_SHM_CAUSAL | ATTN_SHM_RETURN_LSE)) != 0) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "a submission has a flag or a reserved field that this daemon does not know; it would "
                              "change the meaning, so it is refused");
    }
    return ATTN_OK;
}

static attn_status_t take_place(const char *name, const attn_shm_place_t *place, uint64_t bytes, bool needed,
                                attn_ask_place_t *ret, attn_error_t *err)
{
    if (!needed) {
        return place->region == 0 && place->offset == 0
                   ? ATTN_OK
                   : attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "%s has a place and the request has no use for it",
                                    name);
    }
    if (place->region == 0) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "%s has no place: give a region and an offset", name);
    }
    *ret = (attn_ask_place_t){.given = true, .number = place->region, .offset = place->offset, .bytes = bytes};
    return ATTN_OK;
}

static attn_status_t take_spec(const attn_shm_submission_t *submission, attn_ask_t *ask, attn_error_t *err)
{
    /* The enums of the schema, and so of the ring, count like those of attn/kernel.h and attn/spec.h. */
    attn_spec_t spec = {
        .dtype = submission->dtype,
        .layout = submission->layout,
        .batch = submission->batch,
        .h_q = submission->h_q,
        .h_kv = submission->h_kv,
        .d = submission->d,
        .s_q = submission->s_q > (uint64_t)ATTN_EXTENT_MAX ? -1 : (int64_t)submission->s_q,
        .s_kv = submission->s_kv > (uint64_t)ATTN_EXTENT_MAX ? -1 : (int64_t)submission->s_kv,
        .sm_scale = submission->sm_scale,
        .softcap = submission->softcap,
        .causal = (submission->flags & ATTN_SHM_CAUSAL) != 0,
        .return_lse = (submission->flags & ATTN_SHM_RETURN_LSE) != 0,
    };
    if (spec.layout == ATTN_LAYOUT_INVALID) {
        spec.layout = submission->cu_seqlens_q.region != 0 ? ATTN_LAYOUT_THD : ATTN_LAYOUT_BSHD;
    }
    attn_sizes_t sizes;
    attn_status_t status = attn_spec_measure(&spec, &sizes, err);
    if (status == ATTN_OK) {
        ask->spec = spec;
        ask->sizes = sizes;
        status = attn_ask_set_priority(ask, submission->priority, err);
    }
    if (status == ATTN_OK && memchr(submission->variant, '\0', sizeof submission->variant) == NULL) {
        status = attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "the variant's name does not end");
    }
    if (status == ATTN_OK && submission->variant[0] != '\0') {
        status = attn_ask_set_name("variant", submission->variant, true, ask->variant, err);
    }
    return status;
}

attn_status_t attn_ask_from_submission(const attn_shm_submission_t *submission, attn_ask_t *ask,
                                       attn_ask_place_t ret_places[ATTN_ASK_PLACES], attn_ask_place_t ret_seqlens[2],
                                       attn_error_t *err)
{
    attn_status_t status = check_unused(submission, err);
    if (status == ATTN_OK) {
        status = take_spec(submission, ask, err);
    }
    if (status != ATTN_OK) {
        return status;
    }
    const attn_sizes_t *sizes = &ask->sizes;
    bool lse = ask->spec.return_lse, packed = ask->spec.layout == ATTN_LAYOUT_THD;
    uint64_t entries = ((uint64_t)ask->spec.batch + 1) * sizeof(int32_t);
    const struct {
        const char *name;
        const attn_shm_place_t *place;
        uint64_t bytes;
        bool needed;
        attn_ask_place_t *ret;
    } rows[] = {
        {"q", &submission->q, sizes->q, true, &ret_places[ATTN_ASK_Q]},
        {"k", &submission->k, sizes->k, true, &ret_places[ATTN_ASK_K]},
        {"v", &submission->v, sizes->v, true, &ret_places[ATTN_ASK_V]},
        {"o", &submission->o, sizes->o, true, &ret_places[ATTN_ASK_O]},
        {"lse", &submission->lse, sizes->lse, lse, &ret_places[ATTN_ASK_LSE]},
        {"cu_seqlens_q", &submission->cu_seqlens_q, entries, packed, &ret_seqlens[0]},
        {"cu_seqlens_k", &submission->cu_seqlens_k, entries, packed, &ret_seqlens[1]},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0] && status == ATTN_OK; i++) {
        *rows[i].ret = (attn_ask_place_t){0};
        status = take_place(rows[i].name, rows[i].place, rows[i].bytes, rows[i].needed, rows[i].ret, err);
    }
    return status;
}

static void add_text(attn_shm_completion_t *completion, size_t *used, const char *text)
{
    size_t bytes = strlen(text) + 1;
    if (bytes <= sizeof completion->text - *used) {
        memcpy(completion->text + *used, text, bytes);
        *used += bytes;
        completion->text_items++;
    }
}

void attn_completion_fill(uint64_t tag, const attn_outcome_t *outcome, attn_shm_completion_t *ret)
{
    size_t used = 0;
    *ret = (attn_shm_completion_t){
        .tag = tag,
        .status = outcome->error.status,
        .batch_size = outcome->batch_size,
        .attempts = outcome->attempts,
        .kernel_us = outcome->timing.kernel_us,
        .kernel_min_us = outcome->timing.kernel_min_us,
        .queue_us = outcome->timing.queue_us,
        .copy_in_us = outcome->timing.copy_in_us,
        .copy_out_us = outcome->timing.copy_out_us,
        .total_us = outcome->timing.total_us,
    };
    if (outcome->variant != NULL) {
        snprintf(ret->variant, sizeof ret->variant, "%s", outcome->variant->name);
    }
    snprintf(ret->device, sizeof ret->device, "%s", outcome->device);
    if (outcome->error.status == ATTN_OK) {
        add_text(ret, &used, outcome->reason);
        return;
    }
    add_text(ret, &used, outcome->error.message);
    for (uint32_t i = 0; i < outcome->missing.count && i < ATTN_MISSING_MAX; i++) {
        add_text(ret, &used, outcome->missing.item[i]);
    }
}
