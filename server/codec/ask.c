/* codec/ask.c: the checks that every framing shares. Pure; any thread. */
#include "codec/ask.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

void attn_ask_clear(attn_ask_t *ask)
{
    if (ask != NULL) {
        free(ask->cu_seqlens_q);
        free(ask->cu_seqlens_k);
        *ask = (attn_ask_t){0};
    }
}

attn_status_t attn_ask_set_name(const char *what, const char *text, bool auto_allowed, char ret[ATTN_NAME_MAX + 1],
                                attn_error_t *err)
{
    size_t length = strlen(text);
    bool good = length >= 1 && length <= ATTN_NAME_MAX;
    for (size_t i = 0; i < length && good; i++) {
        good = isalnum((unsigned char)text[i]) || text[i] == '_' || text[i] == '-' || text[i] == '.';
    }
    if (!good) {
        char quoted[80];
        attn_text_quote(quoted, sizeof quoted, text, length);
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "%s \"%s\" is not a name: give 1 to %d letters, digits, '_', '-' or '.'", what, quoted,
                              ATTN_NAME_MAX);
    }
    memcpy(ret, auto_allowed && strcmp(text, "auto") == 0 ? "" : text,
           auto_allowed && strcmp(text, "auto") == 0 ? 1 : length + 1);
    return ATTN_OK;
}

attn_status_t attn_ask_set_id(attn_ask_t *ask, const char *text, attn_error_t *err)
{
    size_t length = strlen(text);
    bool good = length >= 1 && length <= ATTN_NAME_MAX;
    for (size_t i = 0; i < length && good; i++) {
        good = text[i] > 0x20 && text[i] < 0x7f && text[i] != '"' && text[i] != '\\';
    }
    if (!good) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "id must be 1 to %d printable ASCII characters without spaces, quotes or backslashes",
                              ATTN_NAME_MAX);
    }
    memcpy(ask->id, text, length + 1);
    return ATTN_OK;
}

attn_status_t attn_ask_set_priority(attn_ask_t *ask, int64_t priority, attn_error_t *err)
{
    if (priority < -100 || priority > 100) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "priority %" PRId64 " is out of range: give -100 to 100",
                              priority);
    }
    ask->priority = (int32_t)priority;
    return ATTN_OK;
}

/* "[2, 16, 8, 64]", for sentences. */
typedef struct shape_text {
    char text[128];
} shape_text_t;

static shape_text_t shape_text(const uint64_t *shape, size_t rank)
{
    shape_text_t ret = {"["};
    size_t used = 1;
    for (size_t i = 0; i < rank && i < 6 && used < sizeof ret.text; i++) {
        used += (size_t)snprintf(ret.text + used, sizeof ret.text - used, "%s%" PRIu64, i > 0 ? ", " : "", shape[i]);
    }
    if (used < sizeof ret.text) {
        snprintf(ret.text + used, sizeof ret.text - used, "%s]", rank > 6 ? ", ..." : "");
    }
    return ret;
}

typedef struct extents {
    uint64_t batch, s, h, d;
} extents_t;

static extents_t extents_of(uint32_t layout, const uint64_t *shape)
{
    switch (layout) {
    case ATTN_LAYOUT_THD:
        return (extents_t){0, shape[0], shape[1], shape[2]};
    case ATTN_LAYOUT_BHSD:
        return (extents_t){shape[0], shape[2], shape[1], shape[3]};
    default:
        return (extents_t){shape[0], shape[1], shape[2], shape[3]};
    }
}

static attn_status_t check_rank(const attn_spec_t *spec, const char *name, const uint64_t *shape, size_t rank,
                                attn_error_t *err)
{
    static const char *const forms[] = {"", "[batch, s, heads, d]", "[batch, heads, s, d]", "[total, heads, d]"};
    size_t right = spec->layout == ATTN_LAYOUT_THD ? 3 : 4;
    if (rank != right) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "%s has shape %s with %zu dimensions; layout %s has %zu: %s", name,
                              shape_text(shape, rank).text, rank, attn_layout_name((attn_layout_t)spec->layout), right,
                              forms[spec->layout]);
    }
    for (size_t i = 0; i < rank; i++) {
        if (shape[i] > (uint64_t)ATTN_EXTENT_MAX) {
            return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                                  "%s: dimension %zu is %" PRIu64 "; a dimension is at most %" PRId64, name, i,
                                  shape[i], ATTN_EXTENT_MAX);
        }
    }
    return ATTN_OK;
}

attn_status_t attn_ask_set_shapes(attn_ask_t *ask, const uint64_t *q, size_t q_rank, const uint64_t *k, size_t k_rank,
                                  const uint64_t *v, size_t v_rank, uint64_t cu_entries, attn_error_t *err)
{
    attn_spec_t spec = ask->spec;
    if (spec.layout < ATTN_LAYOUT_BSHD || spec.layout > ATTN_LAYOUT_THD) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "layout must be bshd, bhsd or thd");
    }
    attn_status_t status = check_rank(&spec, "q", q, q_rank, err);
    if (status == ATTN_OK) {
        status = check_rank(&spec, "k", k, k_rank, err);
    }
    if (status == ATTN_OK) {
        status = check_rank(&spec, "v", v, v_rank, err);
    }
    if (status != ATTN_OK) {
        return status;
    }
    if (memcmp(k, v, k_rank * sizeof *k) != 0) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "k has shape %s and v %s; they must be the same",
                              shape_text(k, k_rank).text, shape_text(v, v_rank).text);
    }
    extents_t qe = extents_of(spec.layout, q), ke = extents_of(spec.layout, k);
    if (qe.batch != ke.batch || qe.d != ke.d) {
        return attn_error_set(
            err, ATTN_ERR_INVALID_ARGUMENT, "q has shape %s and k %s (layout %s); batch and head dim must be the same",
            shape_text(q, q_rank).text, shape_text(k, k_rank).text, attn_layout_name((attn_layout_t)spec.layout));
    }
    if (spec.layout == ATTN_LAYOUT_THD) {
        if (cu_entries < 1) {
            return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                                  "layout thd needs cu_seqlens_q and cu_seqlens_k with one entry per sequence and one "
                                  "more: 0, ..., total");
        }
        qe.batch = cu_entries - 1;
    }
    if (qe.batch > UINT32_MAX || qe.h > UINT32_MAX || ke.h > UINT32_MAX || qe.d > UINT32_MAX) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "q has shape %s and k %s: batch, heads and head dim must fit 32 bits",
                              shape_text(q, q_rank).text, shape_text(k, k_rank).text);
    }
    spec.batch = (uint32_t)qe.batch;
    spec.h_q = (uint32_t)qe.h;
    spec.h_kv = (uint32_t)ke.h;
    spec.d = (uint32_t)qe.d;
    spec.s_q = (int64_t)qe.s;
    spec.s_kv = (int64_t)ke.s;
    attn_sizes_t sizes;
    status = attn_spec_measure(&spec, &sizes, err);
    if (status == ATTN_OK) {
        ask->spec = spec;
        ask->sizes = sizes;
    }
    return status;
}

attn_status_t attn_ask_check_seqlens(const attn_ask_t *ask, uint64_t q_entries, uint64_t k_entries, attn_error_t *err)
{
    const attn_spec_t *spec = &ask->spec;
    if (spec->layout != ATTN_LAYOUT_THD) {
        if (q_entries != 0 || k_entries != 0) {
            return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                                  "cu_seqlens belong to layout thd; layout %s takes its lengths from the shapes",
                                  attn_layout_name((attn_layout_t)spec->layout));
        }
        return ATTN_OK;
    }
    attn_status_t status =
        attn_cu_seqlens_check("cu_seqlens_q", ask->cu_seqlens_q, q_entries, spec->batch, spec->s_q, err);
    if (status == ATTN_OK) {
        status = attn_cu_seqlens_check("cu_seqlens_k", ask->cu_seqlens_k, k_entries, spec->batch, spec->s_kv, err);
    }
    return status;
}

/* Features with a reserved place (attention.proto: reserved 32 to 47). */
static const struct {
    uint32_t number;
    const char *name, *feature;
} reserved[] = {
    {32, "window_left", "sliding window"}, {33, "window_right", "sliding window"}, {34, "sinks", "attention sinks"},
    {35, "page_table", "paged KV"},        {36, "page_size", "paged KV"},          {37, "kv_lengths", "paged KV"},
    {38, "q_descale", "FP8 scales"},       {39, "k_descale", "FP8 scales"},        {40, "v_descale", "FP8 scales"},
    {41, "o_scale", "FP8 scales"},
};

static attn_status_t reserved_refuse(size_t i, attn_error_t *err)
{
    return attn_error_set(err, ATTN_ERR_UNIMPLEMENTED, "%s (%s) is not implemented; send the request without it",
                          reserved[i].name, reserved[i].feature);
}

attn_status_t attn_reserved_name_check(const char *name, attn_error_t *err)
{
    for (size_t i = 0; i < sizeof reserved / sizeof reserved[0]; i++) {
        if (strcmp(reserved[i].name, name) == 0) {
            return reserved_refuse(i, err);
        }
    }
    return ATTN_OK;
}

attn_status_t attn_reserved_field_check(uint32_t field_number, attn_error_t *err)
{
    for (size_t i = 0; i < sizeof reserved / sizeof reserved[0]; i++) {
        if (reserved[i].number == field_number) {
            return reserved_refuse(i, err);
        }
    }
    return ATTN_OK;
}
