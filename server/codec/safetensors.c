/* codec/safetensors.c: see safetensors.h. */
#include "codec/safetensors_header.h"

#include <endian.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "codec/json.h"

const char *const attn_safetensors_names[ATTN_TENSOR_COUNT] = {"q", "k", "v", "cu_seqlens_q", "cu_seqlens_k"};

typedef attn_safetensors_entry_t entry_t;

const char *attn_safetensors_dtype(uint32_t dtype)
{
    static const char *const texts[ATTN_DTYPE_COUNT] = {"", "F16", "BF16", "F32"};
    return dtype < ATTN_DTYPE_COUNT ? texts[dtype] : "";
}

static attn_status_t read_entry(const char *name, const json_t *value, entry_t *ret, attn_error_t *err)
{
    const json_t *dtype = json_object_get(value, "dtype"), *shape = json_object_get(value, "shape"),
                 *offsets = json_object_get(value, "data_offsets");
    if (!json_is_object(value) || json_object_size(value) != 3 || !json_is_string(dtype) || !json_is_array(shape) ||
        !json_is_array(offsets) || json_array_size(offsets) != 2) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "safetensors: tensor %s must be {\"dtype\": text, \"shape\": [numbers], "
                              "\"data_offsets\": [begin, end]} and nothing more",
                              name);
    }
    ret->present = true;
    ret->rank = json_array_size(shape);
    attn_text_quote(ret->dtype, sizeof ret->dtype, json_string_value(dtype), json_string_length(dtype));
    if (ret->rank > ATTN_SAFETENSORS_RANK_MAX) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "safetensors: tensor %s has %zu dimensions; 3 or 4 are "
                              "meant",
                              name, ret->rank);
    }
    for (size_t i = 0; i < ret->rank; i++) {
        if (!attn_json_u64(json_array_get(shape, i), &ret->shape[i])) {
            return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                                  "safetensors: dimension %zu of tensor %s is not a whole number of 0 or more", i,
                                  name);
        }
    }
    if (!attn_json_u64(json_array_get(offsets, 0), &ret->begin) ||
        !attn_json_u64(json_array_get(offsets, 1), &ret->end) || ret->begin > ret->end) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "safetensors: data_offsets of tensor %s must be two whole numbers, begin before end",
                              name);
    }
    return ATTN_OK;
}

static attn_status_t read_entries(const json_t *root, entry_t entries[ATTN_TENSOR_COUNT], attn_error_t *err)
{
    if (!json_is_object(root)) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "safetensors: the header must be a JSON object");
    }
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)root, key, value)
    {
        if (strcmp(key, "__metadata__") == 0) {
            const char *pair_key;
            json_t *pair_value;
            bool strings = json_is_object(value);
            json_object_foreach(value, pair_key, pair_value)
            {
                strings = strings && json_is_string(pair_value);
            }
            if (!strings) {
                return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                                      "safetensors: __metadata__ must map strings to strings");
            }
            continue;
        }
        unsigned i = 0;
        while (i < ATTN_TENSOR_COUNT && strcmp(key, attn_safetensors_names[i]) != 0) {
            i++;
        }
        if (i == ATTN_TENSOR_COUNT) {
            attn_status_t status = attn_reserved_name_check(key, err);
            if (status != ATTN_OK) {
                return status;
            }
            char quoted[80];
            attn_text_quote(quoted, sizeof quoted, key, strlen(key));
            return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                                  "safetensors: unknown tensor \"%s\"; a request has q, k, v and, when packed, "
                                  "cu_seqlens_q and cu_seqlens_k",
                                  quoted);
        }
        attn_status_t status = read_entry(attn_safetensors_names[i], value, &entries[i], err);
        if (status != ATTN_OK) {
            return status;
        }
    }
    return ATTN_OK;
}

attn_status_t attn_safetensors_parse(const char *header, size_t bytes, entry_t ret[ATTN_TENSOR_COUNT],
                                     attn_error_t *err)
{
    json_t *root;
    attn_status_t status = attn_json_parse("safetensors header", header, bytes, &root, err);
    if (status == ATTN_OK) {
        status = read_entries(root, ret, err);
        json_decref(root);
    }
    return status;
}

static attn_status_t check_present(const entry_t *entries, attn_error_t *err)
{
    for (unsigned i = ATTN_TENSOR_Q; i <= ATTN_TENSOR_V; i++) {
        if (!entries[i].present) {
            return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                                  "safetensors: tensor %s is missing; q, k and v are needed",
                                  attn_safetensors_names[i]);
        }
    }
    return ATTN_OK;
}

static attn_status_t take_dtype(const entry_t *entries, attn_ask_t *ask, attn_error_t *err)
{
    uint32_t dtype = ATTN_DTYPE_F16;
    while (dtype < ATTN_DTYPE_COUNT && strcmp(entries[ATTN_TENSOR_Q].dtype, attn_safetensors_dtype(dtype)) != 0) {
        dtype++;
    }
    if (dtype == ATTN_DTYPE_COUNT) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "safetensors: q has dtype %s; F16, BF16 and F32 are taken", entries[ATTN_TENSOR_Q].dtype);
    }
    for (unsigned i = ATTN_TENSOR_K; i <= ATTN_TENSOR_V; i++) {
        if (strcmp(entries[i].dtype, entries[ATTN_TENSOR_Q].dtype) != 0) {
            return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                                  "safetensors: q has dtype %s and %s %s; q, k and v must have the same",
                                  entries[ATTN_TENSOR_Q].dtype, attn_safetensors_names[i], entries[i].dtype);
        }
    }
    ask->spec.dtype = dtype;
    return ATTN_OK;
}

/* Entries of a cu_seqlens tensor; 0 when there is none. */
static attn_status_t take_seqlens(const entry_t *entry, const char *name, uint64_t *ret, attn_error_t *err)
{
    *ret = 0;
    if (!entry->present) {
        return ATTN_OK;
    }
    if (strcmp(entry->dtype, "I32") != 0 || entry->rank != 1 || entry->shape[0] < 1 ||
        entry->shape[0] > (uint64_t)ATTN_BATCH_MAX + 1) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "safetensors: %s must be an I32 tensor of one dimension with 1 to %u entries", name,
                              ATTN_BATCH_MAX + 1);
    }
    *ret = entry->shape[0];
    return ATTN_OK;
}

static attn_status_t take_entries(const entry_t entries[ATTN_TENSOR_COUNT], uint64_t total, attn_ask_t *ask,
                                  attn_slice_t ret_slices[ATTN_TENSOR_COUNT], uint32_t *ret_count, attn_error_t *err)
{
    uint64_t cu_q = 0, cu_k = 0;
    attn_status_t status = check_present(entries, err);
    if (status == ATTN_OK) {
        status = take_dtype(entries, ask, err);
    }
    if (status == ATTN_OK) {
        status = take_seqlens(&entries[ATTN_TENSOR_CU_Q], "cu_seqlens_q", &cu_q, err);
    }
    if (status == ATTN_OK) {
        status = take_seqlens(&entries[ATTN_TENSOR_CU_K], "cu_seqlens_k", &cu_k, err);
    }
    if (status != ATTN_OK) {
        return status;
    }
    if (ask->spec.layout == ATTN_LAYOUT_INVALID) {
        ask->spec.layout = cu_q > 0 || cu_k > 0 ? ATTN_LAYOUT_THD : ATTN_LAYOUT_BSHD;
    }
    if ((ask->spec.layout == ATTN_LAYOUT_THD) != (cu_q > 0) || cu_q != cu_k) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "layout %s with %" PRIu64 " entries of cu_seqlens_q and %" PRIu64
                              " of cu_seqlens_k: thd needs both with as many entries, other layouts neither",
                              attn_layout_name((attn_layout_t)ask->spec.layout), cu_q, cu_k);
    }
    const entry_t *q = &entries[ATTN_TENSOR_Q], *k = &entries[ATTN_TENSOR_K], *v = &entries[ATTN_TENSOR_V];
    status = attn_ask_set_shapes(ask, q->shape, q->rank, k->shape, k->rank, v->shape, v->rank, cu_q, err);
    if (status != ATTN_OK) {
        return status;
    }
    const uint64_t sizes[ATTN_TENSOR_COUNT] = {ask->sizes.q, ask->sizes.k, ask->sizes.v, cu_q * 4, cu_k * 4};
    uint32_t count = 0;
    for (uint32_t i = 0; i < ATTN_TENSOR_COUNT; i++) {
        if (!entries[i].present) {
            continue;
        }
        if (entries[i].end - entries[i].begin != sizes[i]) {
            return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                                  "safetensors: data_offsets of %s span %" PRIu64 " bytes; its shape in %s needs "
                                  "%" PRIu64,
                                  attn_safetensors_names[i], entries[i].end - entries[i].begin, entries[i].dtype,
                                  sizes[i]);
        }
        ret_slices[count++] = (attn_slice_t){attn_safetensors_names[i], entries[i].begin, sizes[i], i};
    }
    status = attn_tiling_check(ret_slices, count, total, err);
    if (status == ATTN_OK) {
        *ret_count = count;
    }
    return status;
}

attn_status_t attn_safetensors_read(const char *header, size_t bytes, uint64_t total, attn_ask_t *ask,
                                    attn_slice_t ret_slices[ATTN_TENSOR_COUNT], uint32_t *ret_count, attn_error_t *err)
{
    entry_t entries[ATTN_TENSOR_COUNT] = {{0}};
    if (!attn_safetensors_plain(header, bytes, entries)) {
        memset(entries, 0, sizeof entries);
        attn_status_t status = attn_safetensors_parse(header, bytes, entries, err);
        if (status != ATTN_OK) {
            return status;
        }
    }
    return take_entries(entries, total, ask, ret_slices, ret_count, err);
}

/* A text that grows in a buffer of fixed size. Written by hand because an answer of a few microseconds of kernel time
 * should not wait 12 us for a tree of JSON values to be built and walked (measured; 1.4 this way). */
typedef struct head {
    char *text;
    size_t used, size;
    bool full;
} head_t;

static void put_bytes(head_t *head, const char *text, size_t bytes)
{
    if (bytes > head->size - head->used) {
        head->full = true;
        return;
    }
    memcpy(head->text + head->used, text, bytes);
    head->used += bytes;
}

static void put(head_t *head, const char *text)
{
    put_bytes(head, text, strlen(text));
}

static void put_number(head_t *head, uint64_t number)
{
    char digits[20];
    size_t first = sizeof digits;
    do {
        digits[--first] = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    put_bytes(head, digits + first, sizeof digits - first);
}

static void put_string(head_t *head, const char *text)
{
    put(head, "\"");
    while (*text != '\0') {
        size_t plain = 0; /* printable ASCII goes in one piece */
        while (text[plain] >= 0x20 && text[plain] < 0x7f && text[plain] != '"' && text[plain] != '\\') {
            plain++;
        }
        put_bytes(head, text, plain);
        text += plain;
        size_t length = *text != '\0' ? attn_text_utf8(text, 4) : 0;
        char escape[8];
        if (length > 1) {
            put_bytes(head, text, length);
        } else if (length == 1) {
            int written = snprintf(escape, sizeof escape, "\\u%04x", (unsigned)*text);
            put_bytes(head, escape, (size_t)written);
        } else if (*text != '\0') { /* cut within a character */
            put(head, "?");
            length = 1;
        }
        text += length;
    }
    put(head, "\"");
}

attn_status_t attn_safetensors_write(const attn_safetensors_tensor_t *tensors, uint32_t tensor_count,
                                     const attn_safetensors_pair_t *metadata, uint32_t pair_count, void **ret,
                                     size_t *ret_bytes, attn_error_t *err)
{
    /* Every character may become an escape of 6; a tensor has 6 numbers of at most 20 digits. */
    size_t size = 64;
    for (uint32_t i = 0; i < pair_count; i++) {
        size += 6 * (strlen(metadata[i].key) + strlen(metadata[i].value)) + 8;
    }
    for (uint32_t i = 0; i < tensor_count; i++) {
        size += 6 * strlen(tensors[i].name) + strlen(tensors[i].dtype) + 6 * 21 + 64;
    }
    char *file = malloc(8 + size);
    if (file == NULL) {
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for the head of the answer");
    }
    head_t head = {.text = file + 8, .size = size};
    put(&head, "{\"__metadata__\":{");
    for (uint32_t i = 0; i < pair_count; i++) {
        put(&head, i > 0 ? "," : "");
        put_string(&head, metadata[i].key);
        put(&head, ":");
        put_string(&head, metadata[i].value);
    }
    put(&head, "}");
    uint64_t offset = 0;
    for (uint32_t i = 0; i < tensor_count; i++) {
        put(&head, ",");
        put_string(&head, tensors[i].name);
        put(&head, ":{\"dtype\":");
        put_string(&head, tensors[i].dtype);
        put(&head, ",\"shape\":[");
        for (uint32_t k = 0; k < tensors[i].rank; k++) {
            put(&head, k > 0 ? "," : "");
            put_number(&head, tensors[i].shape[k]);
        }
        put(&head, "],\"data_offsets\":[");
        put_number(&head, offset);
        put(&head, ",");
        put_number(&head, offset + tensors[i].bytes);
        put(&head, "]}");
        offset += tensors[i].bytes;
    }
    put(&head, "}");
    while (head.used % 8 != 0) {
        put(&head, " ");
    }
    if (head.full) {
        free(file);
        return attn_error_set(err, ATTN_ERR_INTERNAL, "the head of the answer is longer than was reckoned");
    }
    uint64_t prefix = htole64(head.used);
    memcpy(file, &prefix, 8);
    *ret = file;
    *ret_bytes = 8 + head.used;
    return ATTN_OK;
}
