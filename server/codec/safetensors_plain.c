/* codec/safetensors_plain.c: headers of requests in the form that writers give them. Pure; any thread.
 *
 * A tree of JSON values takes 5 to 8 us to build, walk and free, where 192 KiB take 20 to arrive, and no byte of a
 * tensor has its place before. So what is plain is read where it stands (0.3 to 0.6 us); sentences about anything else
 * are the parser's. */
#include <string.h>

#include "codec/safetensors_header.h"

/* Pairs of __metadata__, each of which is compared with the others. */
#define PAIRS_MAX 8
/* Longer numbers might not fit the parser's. */
#define DIGITS_MAX 18

typedef struct reader {
    const char *at, *end;
} reader_t;

typedef struct text {
    const char *at;
    size_t length;
} text_t;

static bool text_is(const text_t *text, const char *what)
{
    return text->length == strlen(what) && memcmp(text->at, what, text->length) == 0;
}

static void skip_space(reader_t *reader)
{
    while (reader->at < reader->end &&
           (*reader->at == ' ' || *reader->at == '\n' || *reader->at == '\r' || *reader->at == '\t')) {
        reader->at++;
    }
}

/* Takes `c`, if it comes next. */
static bool take(reader_t *reader, char c)
{
    skip_space(reader);
    if (reader->at == reader->end || *reader->at != c) {
        return false;
    }
    reader->at++;
    return true;
}

/* Printable ASCII without an escape. */
static bool take_text(reader_t *reader, text_t *ret)
{
    if (!take(reader, '"')) {
        return false;
    }
    ret->at = reader->at;
    while (reader->at < reader->end && *reader->at >= 0x20 && *reader->at < 0x7f && *reader->at != '"' &&
           *reader->at != '\\') {
        reader->at++;
    }
    ret->length = (size_t)(reader->at - ret->at);
    return reader->at < reader->end && *reader->at++ == '"';
}

static bool take_number(reader_t *reader, uint64_t *ret)
{
    skip_space(reader);
    const char *const first = reader->at;
    uint64_t number = 0;
    while (reader->at < reader->end && *reader->at >= '0' && *reader->at <= '9' && reader->at - first < DIGITS_MAX) {
        number = 10 * number + (uint64_t)(*reader->at++ - '0');
    }
    *ret = number;
    /* What follows, a point or one digit more, is seen by whoever expects a comma. */
    return reader->at > first && (*first != '0' || reader->at - first == 1);
}

/* Up to `max` numbers in brackets. */
static bool take_numbers(reader_t *reader, uint64_t *ret, size_t max, size_t *ret_count)
{
    size_t count = 0;
    if (!take(reader, '[')) {
        return false;
    }
    if (take(reader, ']')) {
        *ret_count = 0;
        return true;
    }
    do {
        if (count == max || !take_number(reader, &ret[count++])) {
            return false;
        }
    } while (take(reader, ','));
    *ret_count = count;
    return take(reader, ']');
}

static bool take_dtype(reader_t *reader, char ret[sizeof((attn_safetensors_entry_t *)0)->dtype])
{
    text_t text;
    if (!take_text(reader, &text) || text.length >= sizeof((attn_safetensors_entry_t *)0)->dtype) {
        return false;
    }
    memcpy(ret, text.at, text.length);
    ret[text.length] = '\0';
    return true;
}

/* {"dtype": …, "shape": …, "data_offsets": …} in any order. */
static bool take_entry(reader_t *reader, attn_safetensors_entry_t *ret)
{
    enum { DTYPE = 1, SHAPE = 2, OFFSETS = 4 };
    unsigned seen = 0;
    uint64_t offsets[2];
    size_t count = 0;
    if (!take(reader, '{')) {
        return false;
    }
    do {
        text_t key;
        if (!take_text(reader, &key) || !take(reader, ':')) {
            return false;
        }
        const unsigned which = text_is(&key, "dtype")          ? DTYPE
                               : text_is(&key, "shape")        ? SHAPE
                               : text_is(&key, "data_offsets") ? OFFSETS
                                                               : 0;
        const bool good = which == DTYPE     ? take_dtype(reader, ret->dtype)
                          : which == SHAPE   ? take_numbers(reader, ret->shape, ATTN_SAFETENSORS_RANK_MAX, &ret->rank)
                          : which == OFFSETS ? take_numbers(reader, offsets, 2, &count)
                                             : false;
        if (!good || (seen & which)) {
            return false;
        }
        seen |= which;
    } while (take(reader, ','));
    if (!take(reader, '}') || seen != (DTYPE | SHAPE | OFFSETS) || count != 2 || offsets[0] > offsets[1]) {
        return false;
    }
    ret->begin = offsets[0];
    ret->end = offsets[1];
    ret->present = true;
    return true;
}

/* {string: string}, with each key once. */
static bool take_metadata(reader_t *reader)
{
    text_t key[PAIRS_MAX], value;
    size_t count = 0;
    if (!take(reader, '{')) {
        return false;
    }
    if (take(reader, '}')) {
        return true;
    }
    do {
        if (count == PAIRS_MAX || !take_text(reader, &key[count]) || !take(reader, ':') || !take_text(reader, &value)) {
            return false;
        }
        for (size_t i = 0; i < count; i++) {
            if (key[i].length == key[count].length && memcmp(key[i].at, key[count].at, key[i].length) == 0) {
                return false;
            }
        }
        count++;
    } while (take(reader, ','));
    return take(reader, '}');
}

bool attn_safetensors_plain(const char *header, size_t bytes, attn_safetensors_entry_t ret[ATTN_TENSOR_COUNT])
{
    reader_t reader = {header, header + bytes};
    bool metadata = false;
    if (!take(&reader, '{')) {
        return false;
    }
    do {
        text_t key;
        if (!take_text(&reader, &key) || !take(&reader, ':')) {
            return false;
        }
        if (text_is(&key, "__metadata__")) {
            if (metadata || !take_metadata(&reader)) {
                return false;
            }
            metadata = true;
            continue;
        }
        unsigned i = 0;
        while (i < ATTN_TENSOR_COUNT && !text_is(&key, attn_safetensors_names[i])) {
            i++;
        }
        if (i == ATTN_TENSOR_COUNT || ret[i].present || !take_entry(&reader, &ret[i])) {
            return false;
        }
    } while (take(&reader, ','));
    if (!take(&reader, '}')) {
        return false;
    }
    skip_space(&reader);
    return reader.at == reader.end;
}
