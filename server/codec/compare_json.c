/* codec/compare_json.c: comparisons in JSON: see compare_json.h. Pure; any thread; owns nothing. */
#include "codec/compare_json.h"

#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "codec/json.h"

/* What is read so far. */
typedef struct reading {
    attn_ask_t *ask;
    attn_compare_ask_t *compare;
    bool have_shape, have_s_kv, have_h_kv, have_s_q, have_h_q, have_d, have_batch;
    uint64_t cu_q_entries, cu_k_entries;
    attn_error_t *err;
} reading_t;

typedef struct member {
    const char *name;
    attn_status_t (*read)(reading_t *reading, const char *name, const json_t *value);
} member_t;

static attn_status_t not_right(reading_t *reading, const char *name, const char *right)
{
    return attn_error_set(reading->err, ATTN_ERR_INVALID_ARGUMENT, "compare: \"%s\" must be %s", name, right);
}

/* Reads every member of an object by its row; a member without one is refused. */
static attn_status_t members_read(reading_t *reading, const char *what, const json_t *object, const member_t *rows,
                                  size_t count)
{
    const char *name;
    const json_t *value;
    json_object_foreach((json_t *)(uintptr_t)object, name, value)
    {
        size_t i = 0;
        while (i < count && strcmp(rows[i].name, name) != 0) {
            i++;
        }
        attn_status_t status;
        if (i < count) {
            status = rows[i].read(reading, name, value);
        } else {
            status = attn_reserved_name_check(name, reading->err);
            if (status == ATTN_OK) {
                char quoted[80];
                attn_text_quote(quoted, sizeof(quoted), name, strlen(name));
                status = attn_error_set(reading->err, ATTN_ERR_INVALID_ARGUMENT,
                                        "compare: %s has an unknown member \"%s\"; remove it", what, quoted);
            }
        }
        if (status != ATTN_OK) {
            return status;
        }
    }
    return ATTN_OK;
}

/* ---- members of the shape ---- */

static attn_status_t extent_read(reading_t *reading, const char *name, const json_t *value)
{
    attn_spec_t *spec = &reading->ask->spec;
    struct {
        const char *name;
        uint32_t *narrow;
        int64_t *wide;
        bool *have;
    } extents[] = {{"batch", &spec->batch, NULL, &reading->have_batch}, {"s_q", NULL, &spec->s_q, &reading->have_s_q},
                   {"s_kv", NULL, &spec->s_kv, &reading->have_s_kv},    {"h_q", &spec->h_q, NULL, &reading->have_h_q},
                   {"h_kv", &spec->h_kv, NULL, &reading->have_h_kv},    {"d", &spec->d, NULL, &reading->have_d}};
    uint64_t number = 0;
    for (size_t i = 0; i < sizeof(extents) / sizeof(extents[0]); i++) {
        if (strcmp(extents[i].name, name) != 0) {
            continue;
        }
        if (!attn_json_u64(value, &number) || number > (extents[i].narrow != NULL ? UINT32_MAX : INT64_MAX)) {
            return not_right(reading, name, "a whole number of 0 or more, within the limits of GET /v1/variants");
        }
        if (extents[i].narrow != NULL) {
            *extents[i].narrow = (uint32_t)number;
        } else {
            *extents[i].wide = (int64_t)number;
        }
        *extents[i].have = true;
    }
    return ATTN_OK;
}

static attn_status_t shape_read(reading_t *reading, const char *name, const json_t *value)
{
    static const member_t rows[] = {{"batch", extent_read}, {"s_q", extent_read},  {"s_kv", extent_read},
                                    {"h_q", extent_read},   {"h_kv", extent_read}, {"d", extent_read}};
    if (!json_is_object(value)) {
        return not_right(reading, name,
                         "an object like {\"batch\": 1, \"s_q\": 1024, \"s_kv\": 1024, \"h_q\": 32, "
                         "\"h_kv\": 8, \"d\": 128}");
    }
    reading->have_shape = true;
    return members_read(reading, "the shape", value, rows, sizeof(rows) / sizeof(rows[0]));
}

/* ---- members of the request ---- */

static attn_status_t variants_read(reading_t *reading, const char *name, const json_t *value)
{
    if (!json_is_array(value) || json_array_size(value) > ATTN_COMPARE_VARIANTS_MAX) {
        return not_right(reading, name, "a list of at most 16 names");
    }
    for (size_t i = 0; i < json_array_size(value); i++) {
        const char *text = json_string_value(json_array_get(value, i));
        if (text == NULL) {
            return not_right(reading, name, "a list of names");
        }
        attn_status_t status = attn_ask_set_name("variant", text, false, reading->compare->variants[i], reading->err);
        if (status != ATTN_OK) {
            return status;
        }
        reading->compare->variant_count++;
    }
    return ATTN_OK;
}

static attn_status_t reference_read(reading_t *reading, const char *name, const json_t *value)
{
    const char *text = json_string_value(value);
    if (text == NULL) {
        return not_right(reading, name, "a name");
    }
    return attn_ask_set_name(name, text, false, reading->compare->reference, reading->err);
}

static attn_status_t seed_read(reading_t *reading, const char *name, const json_t *value)
{
    return attn_json_u64(value, &reading->compare->seed) ? ATTN_OK
                                                         : not_right(reading, name, "a whole number from 0 to 2^63-1");
}

static attn_status_t dtype_read(reading_t *reading, const char *name, const json_t *value)
{
    const char *text = json_string_value(value);
    for (uint32_t dtype = 1; text != NULL && dtype < ATTN_DTYPE_COUNT; dtype++) {
        if (strcmp(text, attn_dtype_name((attn_dtype_t)dtype)) == 0) {
            reading->ask->spec.dtype = dtype;
            return ATTN_OK;
        }
    }
    return not_right(reading, name, "\"fp16\", \"bf16\" or \"fp32\"");
}

static attn_status_t layout_read(reading_t *reading, const char *name, const json_t *value)
{
    const char *text = json_string_value(value);
    for (uint32_t layout = ATTN_LAYOUT_BSHD; text != NULL && layout <= ATTN_LAYOUT_THD; layout++) {
        if (strcmp(text, attn_layout_name((attn_layout_t)layout)) == 0) {
            reading->ask->spec.layout = layout;
            return ATTN_OK;
        }
    }
    return not_right(reading, name, "\"bshd\", \"bhsd\" or \"thd\"");
}

static attn_status_t flag_read(reading_t *reading, const char *name, const json_t *value)
{
    if (!json_is_boolean(value)) {
        return not_right(reading, name, "true or false");
    }
    uint8_t *flag = strcmp(name, "causal") == 0 ? &reading->ask->spec.causal : &reading->ask->spec.return_lse;
    *flag = json_is_true(value);
    return ATTN_OK;
}

static attn_status_t sm_scale_read(reading_t *reading, const char *name, const json_t *value)
{
    reading->ask->spec.sm_scale = (float)json_number_value(value);
    return reading->ask->spec.sm_scale > 0 ? ATTN_OK
                                           : not_right(reading, name, "a number above 0; left out it is 1/sqrt(d)");
}

static attn_status_t softcap_read(reading_t *reading, const char *name, const json_t *value)
{
    const double softcap = json_number_value(value);
    reading->ask->spec.softcap = (float)softcap;
    bool vanished = softcap != 0 && reading->ask->spec.softcap == 0;
    return json_is_number(value) && !vanished
               ? ATTN_OK
               : not_right(reading, name, "0 (off) or a number above it that a float can hold");
}

static attn_status_t rounds_read(reading_t *reading, const char *name, const json_t *value)
{
    uint64_t number = 0;
    if (!attn_json_u64(value, &number) || number > ATTN_COMPARE_ROUNDS_MAX) {
        return not_right(reading, name, "a whole number from 0 (rounds: 1) to 1000");
    }
    if (strcmp(name, "warmup") == 0) {
        reading->compare->has_warmup = true;
        reading->compare->warmup = (uint32_t)number;
    } else {
        reading->compare->has_rounds = true;
        reading->compare->rounds = (uint32_t)number;
    }
    return ATTN_OK;
}

static attn_status_t seqlens_read(reading_t *reading, const char *name, const json_t *value)
{
    bool is_q = strcmp(name, "cu_seqlens_q") == 0;
    size_t count = json_array_size(value);
    if (!json_is_array(value) || count == 0) {
        return not_right(reading, name, "a list of whole numbers that begins with 0");
    }
    int32_t *entries = malloc(count * sizeof(*entries));
    if (entries == NULL) {
        return attn_error_set(reading->err, ATTN_ERR_NO_MEMORY, "no memory for %s", name);
    }
    *(is_q ? &reading->ask->cu_seqlens_q : &reading->ask->cu_seqlens_k) = entries;
    *(is_q ? &reading->cu_q_entries : &reading->cu_k_entries) = count;
    for (size_t i = 0; i < count; i++) {
        uint64_t number = 0;
        if (!attn_json_u64(json_array_get(value, i), &number) || number > INT32_MAX) {
            return not_right(reading, name, "a list of whole numbers from 0 to 2^31-1");
        }
        entries[i] = (int32_t)number;
    }
    return ATTN_OK;
}

/* Fills in what was left out, and checks the whole. */
static attn_status_t request_complete(reading_t *reading)
{
    attn_ask_t *ask = reading->ask;
    attn_spec_t *spec = &ask->spec;
    bool packed = spec->layout == ATTN_LAYOUT_THD;
    if (!reading->have_shape || !reading->have_h_q || !reading->have_d || (!packed && !reading->have_s_q)) {
        return attn_error_set(
            reading->err, ATTN_ERR_INVALID_ARGUMENT,
            "compare: \"shape\" is needed with %s h_q and d; or send tensors as application/x-attn or "
            "application/safetensors",
            packed ? "(packed)" : "s_q,");
    }
    if (packed) {
        if (reading->have_batch || reading->have_s_q || reading->have_s_kv || reading->cu_q_entries == 0 ||
            reading->cu_k_entries == 0) {
            return attn_error_set(reading->err, ATTN_ERR_INVALID_ARGUMENT,
                                  "compare: layout thd takes cu_seqlens_q and cu_seqlens_k in place of batch, s_q and "
                                  "s_kv");
        }
        spec->batch = (uint32_t)(reading->cu_q_entries - 1);
        spec->s_q = ask->cu_seqlens_q[reading->cu_q_entries - 1];
        spec->s_kv = ask->cu_seqlens_k[reading->cu_k_entries - 1];
    } else {
        spec->batch = reading->have_batch ? spec->batch : 1;
        spec->s_kv = reading->have_s_kv ? spec->s_kv : spec->s_q;
    }
    spec->h_kv = reading->have_h_kv ? spec->h_kv : spec->h_q;
    attn_status_t status = attn_spec_measure(spec, &ask->sizes, reading->err);
    if (status != ATTN_OK) {
        return status;
    }
    return attn_ask_check_seqlens(ask, reading->cu_q_entries, reading->cu_k_entries, reading->err);
}

attn_status_t attn_compare_json_read(const char *text, size_t bytes, attn_ask_t *ask, attn_compare_ask_t *compare,
                                     attn_error_t *err)
{
    static const member_t rows[] = {
        {"shape", shape_read},         {"seed", seed_read},           {"variants", variants_read},
        {"dtype", dtype_read},         {"layout", layout_read},       {"causal", flag_read},
        {"sm_scale", sm_scale_read},   {"softcap", softcap_read},     {"return_lse", flag_read},
        {"warmup", rounds_read},       {"rounds", rounds_read},       {"cu_seqlens_q", seqlens_read},
        {"reference", reference_read}, {"cu_seqlens_k", seqlens_read}};
    json_t *root = NULL;
    attn_status_t status = attn_json_parse("compare", text, bytes, &root, err);
    if (status != ATTN_OK) {
        return status;
    }
    reading_t reading = {.ask = ask, .compare = compare, .err = err};
    ask->spec.dtype = ATTN_DTYPE_BF16;
    ask->spec.layout = ATTN_LAYOUT_BSHD;
    compare->has_seed = true;
    if (!json_is_object(root)) {
        status = attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "compare: the JSON must be an object");
    } else {
        status = members_read(&reading, "the request", root, rows, sizeof(rows) / sizeof(rows[0]));
    }
    json_decref(root);
    return status == ATTN_OK ? request_complete(&reading) : status;
}
