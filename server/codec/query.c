/* codec/query.c: see query.h. One table of parameters. */
#include "codec/query.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

#define QUERY_BYTES_MAX 4096

typedef struct target {
    attn_ask_t *ask;
    attn_compare_ask_t *compare;
} target_t;

static attn_status_t bad(const char *name, const char *value, const char *right, attn_error_t *err)
{
    char quoted[80];
    attn_text_quote(quoted, sizeof quoted, value, strlen(value));
    return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "query parameter %s: \"%s\" is not valid; %s", name, quoted,
                          right);
}

static attn_status_t read_bool(const char *name, const char *value, uint8_t *ret, attn_error_t *err)
{
    if (strcmp(value, "true") == 0 || strcmp(value, "1") == 0) {
        *ret = 1;
    } else if (strcmp(value, "false") == 0 || strcmp(value, "0") == 0) {
        *ret = 0;
    } else {
        return bad(name, value, "give true or false", err);
    }
    return ATTN_OK;
}

/* Decimal notation only: strtof also takes hexadecimal, "inf" and leading space. Nor what is too small and becomes 0,
 * which may mean something else. */
static attn_status_t read_float(const char *name, const char *value, const char *right, float *ret, attn_error_t *err)
{
    char *end = NULL;
    size_t length = strlen(value);
    float number = length > 0 && strspn(value, "0123456789+-.eE") == length ? strtof(value, &end) : NAN;
    bool vanished = number == 0 && strcspn(value, "123456789") < strcspn(value, "eE");
    if (end != value + length || !isfinite(number) || vanished) {
        return bad(name, value, right, err);
    }
    *ret = number;
    return ATTN_OK;
}

static attn_status_t read_u64(const char *name, const char *value, uint64_t max, uint64_t *ret, attn_error_t *err)
{
    char *end = NULL;
    errno = 0;
    unsigned long long number = isdigit((unsigned char)value[0]) ? strtoull(value, &end, 10) : 0;
    if (end == NULL || *end != '\0' || errno != 0 || number > max) {
        char right[80];
        snprintf(right, sizeof right, "give a whole number from 0 to %" PRIu64, max);
        return bad(name, value, right, err);
    }
    *ret = number;
    return ATTN_OK;
}

static attn_status_t set_variant(const char *name, const char *value, target_t *target, attn_error_t *err)
{
    return attn_ask_set_name(name, value, true, target->ask->variant, err);
}

static attn_status_t set_causal(const char *name, const char *value, target_t *target, attn_error_t *err)
{
    return read_bool(name, value, &target->ask->spec.causal, err);
}

static attn_status_t set_return_lse(const char *name, const char *value, target_t *target, attn_error_t *err)
{
    return read_bool(name, value, &target->ask->spec.return_lse, err);
}

static attn_status_t set_sm_scale(const char *name, const char *value, target_t *target, attn_error_t *err)
{
    static const char right[] = "give a finite number above 0, or leave it out for 1/sqrt(d)";
    float scale;
    attn_status_t status = read_float(name, value, right, &scale, err);
    if (status == ATTN_OK && !(scale > 0)) {
        return bad(name, value, right, err);
    }
    if (status == ATTN_OK) {
        target->ask->spec.sm_scale = scale;
    }
    return status;
}

static attn_status_t set_softcap(const char *name, const char *value, target_t *target, attn_error_t *err)
{
    static const char right[] = "give 0 (off) or a finite number above it that a float can hold";
    float softcap;
    attn_status_t status = read_float(name, value, right, &softcap, err);
    if (status == ATTN_OK && !(softcap >= 0)) {
        return bad(name, value, right, err);
    }
    if (status == ATTN_OK) {
        target->ask->spec.softcap = softcap;
    }
    return status;
}

static attn_status_t set_layout(const char *name, const char *value, target_t *target, attn_error_t *err)
{
    for (uint32_t layout = ATTN_LAYOUT_BSHD; layout <= ATTN_LAYOUT_THD; layout++) {
        if (strcmp(value, attn_layout_name((attn_layout_t)layout)) == 0) {
            target->ask->spec.layout = layout;
            return ATTN_OK;
        }
    }
    return bad(name, value, "give bshd, bhsd or thd", err);
}

static attn_status_t set_deadline(const char *name, const char *value, target_t *target, attn_error_t *err)
{
    attn_status_t status = read_u64(name, value, UINT64_MAX, &target->ask->deadline_ms, err);
    target->ask->has_deadline = status == ATTN_OK;
    return status;
}

static attn_status_t set_priority(const char *name, const char *value, target_t *target, attn_error_t *err)
{
    uint64_t magnitude;
    bool negative = value[0] == '-';
    attn_error_t ignored;
    if (read_u64(name, value + negative, 100, &magnitude, &ignored) != ATTN_OK) {
        return bad(name, value, "give a whole number from -100 to 100", err);
    }
    return attn_ask_set_priority(target->ask, negative ? -(int64_t)magnitude : (int64_t)magnitude, err);
}

static attn_status_t set_id(const char *name, const char *value, target_t *target, attn_error_t *err)
{
    return attn_ask_set_id(target->ask, value, err);
}

static attn_status_t set_variants(const char *name, const char *value, target_t *target, attn_error_t *err)
{
    attn_compare_ask_t *compare = target->compare;
    for (const char *at = value;; at++) {
        size_t length = strcspn(at, ",");
        char one[ATTN_NAME_MAX + 2];
        if (compare->variant_count == ATTN_COMPARE_VARIANTS_MAX || length >= sizeof one) {
            return bad(name, value, "give 1 to 16 names with commas between them", err);
        }
        memcpy(one, at, length);
        one[length] = '\0';
        attn_status_t status = attn_ask_set_name(name, one, false, compare->variants[compare->variant_count], err);
        if (status != ATTN_OK) {
            return status;
        }
        compare->variant_count++;
        at += length;
        if (*at == '\0') {
            return ATTN_OK;
        }
    }
}

static attn_status_t set_reference(const char *name, const char *value, target_t *target, attn_error_t *err)
{
    return attn_ask_set_name(name, value, false, target->compare->reference, err);
}

static attn_status_t set_warmup(const char *name, const char *value, target_t *target, attn_error_t *err)
{
    uint64_t number;
    attn_status_t status = read_u64(name, value, ATTN_COMPARE_ROUNDS_MAX, &number, err);
    if (status == ATTN_OK) {
        target->compare->has_warmup = true;
        target->compare->warmup = (uint32_t)number;
    }
    return status;
}

static attn_status_t set_rounds(const char *name, const char *value, target_t *target, attn_error_t *err)
{
    uint64_t number;
    attn_status_t status = read_u64(name, value, ATTN_COMPARE_ROUNDS_MAX, &number, err);
    if (status == ATTN_OK && number == 0) {
        return bad(name, value, "give at least 1", err);
    }
    if (status == ATTN_OK) {
        target->compare->has_rounds = true;
        target->compare->rounds = (uint32_t)number;
    }
    return status;
}

static attn_status_t set_wait(const char *name, const char *value, target_t *target, attn_error_t *err)
{
    if (!attn_duration_parse(value, &target->compare->wait_ms)) {
        return bad(name, value, "give a time like 30s or 500ms, at most one hour", err);
    }
    return ATTN_OK;
}

enum { BOTH = ATTN_QUERY_ATTENTION | ATTN_QUERY_COMPARE, COMPARES = ATTN_QUERY_COMPARE | ATTN_QUERY_COMPARE_WAIT };

static const struct parameter {
    const char *name;
    unsigned uses;
    attn_status_t (*set)(const char *name, const char *value, target_t *target, attn_error_t *err);
} parameters[] = {
    {"variant", ATTN_QUERY_ATTENTION, set_variant},
    {"causal", BOTH, set_causal},
    {"sm_scale", BOTH, set_sm_scale},
    {"softcap", BOTH, set_softcap},
    {"return_lse", BOTH, set_return_lse},
    {"layout", BOTH, set_layout},
    {"deadline_ms", BOTH, set_deadline},
    {"priority", BOTH, set_priority},
    {"id", BOTH, set_id},
    {"variants", ATTN_QUERY_COMPARE, set_variants},
    {"reference", ATTN_QUERY_COMPARE, set_reference},
    {"warmup", ATTN_QUERY_COMPARE, set_warmup},
    {"rounds", ATTN_QUERY_COMPARE, set_rounds},
    {"wait", COMPARES, set_wait},
};
#define PARAMETERS (sizeof parameters / sizeof parameters[0])

static attn_status_t unknown(const char *name, attn_query_use_t use, attn_error_t *err)
{
    attn_status_t status = attn_reserved_name_check(name, err);
    if (status != ATTN_OK) {
        return status;
    }
    char list[256] = "";
    size_t used = 0;
    for (size_t i = 0; i < PARAMETERS; i++) {
        if ((parameters[i].uses & (unsigned)use) != 0 && used < sizeof list) {
            used += (size_t)snprintf(list + used, sizeof list - used, " %s", parameters[i].name);
        }
    }
    char quoted[80];
    attn_text_quote(quoted, sizeof quoted, name, strlen(name));
    return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "unknown query parameter \"%s\"; known here:%s", quoted,
                          use == ATTN_QUERY_NONE ? " none, the metadata of the body says everything" : list);
}

bool attn_percent_decode(const char *text, size_t length, char *ret)
{
    for (size_t i = 0; i < length; i++) {
        char c = text[i];
        if (c == '%') {
            if (length - i < 3 || !isxdigit((unsigned char)text[i + 1]) || !isxdigit((unsigned char)text[i + 2])) {
                return false;
            }
            c = (char)strtol((const char[]){text[i + 1], text[i + 2], '\0'}, NULL, 16);
            i += 2;
        } else if (c == '+') {
            c = ' ';
        }
        if (c == '\0') {
            return false;
        }
        *ret++ = c;
    }
    *ret = '\0';
    return true;
}

bool attn_duration_parse(const char *text, uint32_t *ret_ms)
{
    char *end = NULL;
    if (!isdigit((unsigned char)text[0]) || strspn(text, "0123456789") > 7) {
        return false;
    }
    unsigned long number = strtoul(text, &end, 10);
    unsigned long unit = strcmp(end, "ms") == 0                  ? 1
                         : *end == '\0' || strcmp(end, "s") == 0 ? 1000
                         : strcmp(end, "m") == 0                 ? 60000
                                                                 : 0;
    if (unit == 0 || number > 3600000ul / unit) {
        return false;
    }
    *ret_ms = (uint32_t)(number * unit);
    return true;
}

static attn_status_t parse_one(const char *text, size_t length, attn_query_use_t use, uint32_t *seen, target_t *target,
                               attn_error_t *err)
{
    char name[QUERY_BYTES_MAX + 1], value[QUERY_BYTES_MAX + 1];
    const char *equals = memchr(text, '=', length);
    size_t name_length = equals != NULL ? (size_t)(equals - text) : length;
    if (!attn_percent_decode(text, name_length, name) ||
        !attn_percent_decode(equals != NULL ? equals + 1 : "", equals != NULL ? length - name_length - 1 : 0, value)) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "the query is broken: after '%%' come two hexadecimal digits, and not 00");
    }
    size_t i = 0;
    while (i < PARAMETERS && ((parameters[i].uses & (unsigned)use) == 0 || strcmp(parameters[i].name, name) != 0)) {
        i++;
    }
    if (i == PARAMETERS) {
        return unknown(name, use, err);
    }
    if (equals == NULL) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "query parameter %s has no value; give %s=...", name,
                              name);
    }
    if ((*seen >> i & 1) != 0) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "query parameter %s is given twice", name);
    }
    *seen |= UINT32_C(1) << i;
    return parameters[i].set(name, value, target, err);
}

attn_status_t attn_query_parse(const char *query, attn_query_use_t use, attn_ask_t *ask, attn_compare_ask_t *compare,
                               attn_error_t *err)
{
    target_t target = {ask, compare};
    uint32_t seen = 0;
    if (query == NULL || *query == '\0') {
        return ATTN_OK;
    }
    if (strlen(query) > QUERY_BYTES_MAX) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "the query has %zu bytes; at most %d are taken",
                              strlen(query), QUERY_BYTES_MAX);
    }
    for (const char *at = query;; at++) {
        size_t length = strcspn(at, "&");
        attn_status_t status = parse_one(at, length, use, &seen, &target, err);
        if (status != ATTN_OK) {
            return status;
        }
        at += length;
        if (*at == '\0') {
            return ATTN_OK;
        }
    }
}

attn_status_t attn_query_check(const char *query, const char *known, attn_error_t *err)
{
    unsigned given = 0;
    for (const char *at = query; *at != '\0'; at += *at == '&') {
        size_t name = strcspn(at, "=&"), length = strcspn(at, "&");
        if (known == NULL || strlen(known) != name || memcmp(known, at, name) != 0 || ++given > 1) {
            char quoted[80];
            attn_text_quote(quoted, sizeof quoted, at, name);
            return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "%s query parameter \"%s\"; known here: %s",
                                  given > 1 ? "twice given" : "unknown", quoted, known != NULL ? known : "none");
        }
        at += length;
    }
    return ATTN_OK;
}
