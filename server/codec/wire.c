/* codec/wire.c: see wire.h. Pure but for the block of memory; any thread. */
#include "codec/wire.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "codec/ask.h"

enum { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };

#define FIELDS_MAX 64 /* fields of a message of the schema; bits of the set of those seen */
#define DEPTH_MAX 8   /* the schema is 5 deep and not recursive: a guard for later schemas */

typedef struct reader {
    const uint8_t *at, *end;
} reader_t;

static bool read_varint(reader_t *reader, uint64_t *ret)
{
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 70; shift += 7) {
        if (reader->at == reader->end) {
            return false;
        }
        uint8_t byte = *reader->at++;
        if (shift == 63 && byte > 1) {
            return false;
        }
        value |= (uint64_t)(byte & 0x7f) << shift;
        if ((byte & 0x80) == 0) {
            *ret = value;
            return true;
        }
    }
    return false;
}

static bool skip(reader_t *reader, uint64_t bytes)
{
    if (bytes > (uint64_t)(reader->end - reader->at)) {
        return false;
    }
    reader->at += bytes;
    return true;
}

static unsigned wire_type(ProtobufCType type)
{
    switch (type) {
    case PROTOBUF_C_TYPE_SFIXED32:
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_FLOAT:
        return WIRE_32;
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_DOUBLE:
        return WIRE_64;
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_BYTES:
    case PROTOBUF_C_TYPE_MESSAGE:
        return WIRE_BYTES;
    default:
        return WIRE_VARINT;
    }
}

static attn_status_t broken(attn_error_t *err, const char *where)
{
    return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "the metadata is not a valid protobuf message: %s is broken",
                          where);
}

/* Well-formed UTF-8 without NUL. */
static bool text_valid(const uint8_t *text, size_t bytes)
{
    for (size_t i = 0, length; i < bytes; i += length) {
        length = attn_text_utf8((const char *)text + i, bytes - i);
        if (length == 0 || text[i] == '\0') {
            return false;
        }
    }
    return true;
}

static attn_status_t check_number(const ProtobufCFieldDescriptor *field, uint64_t value, attn_error_t *err)
{
    if (field->type == PROTOBUF_C_TYPE_ENUM &&
        (value > INT32_MAX || protobuf_c_enum_descriptor_get_value(field->descriptor, (int)value) == NULL)) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "field %s: %lld is not a known value", field->name,
                              (long long)value);
    }
    if (field->type == PROTOBUF_C_TYPE_BOOL && value > 1) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "field %s: a bool is 0 or 1", field->name);
    }
    bool narrow = field->type == PROTOBUF_C_TYPE_UINT32 || field->type == PROTOBUF_C_TYPE_SINT32;
    bool wide_negative = field->type == PROTOBUF_C_TYPE_INT32 && (int64_t)value >= INT32_MIN && (int64_t)value < 0;
    if ((narrow && value > UINT32_MAX) ||
        (field->type == PROTOBUF_C_TYPE_INT32 && value > INT32_MAX && !wide_negative)) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "field %s: a value does not fit 32 bits", field->name);
    }
    return ATTN_OK;
}

static attn_status_t walk(const ProtobufCMessageDescriptor *message, reader_t reader, unsigned depth,
                          attn_error_t *err);

/* One value with its length in front. */
static attn_status_t walk_bytes(const ProtobufCFieldDescriptor *field, reader_t value, unsigned depth,
                                attn_error_t *err)
{
    if (field->type == PROTOBUF_C_TYPE_MESSAGE) {
        return walk(field->descriptor, value, depth + 1, err);
    }
    if (field->type == PROTOBUF_C_TYPE_STRING) {
        if (!text_valid(value.at, (size_t)(value.end - value.at))) {
            return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "field %s: text must be UTF-8 without NUL",
                                  field->name);
        }
        return ATTN_OK;
    }
    if (field->type == PROTOBUF_C_TYPE_BYTES) {
        return ATTN_OK;
    }
    /* Packed numbers. */
    unsigned type = wire_type(field->type);
    while (value.at < value.end) {
        uint64_t number = 0;
        if (type == WIRE_VARINT ? !read_varint(&value, &number) : !skip(&value, type == WIRE_32 ? 4 : 8)) {
            return broken(err, field->name);
        }
        attn_status_t status = type == WIRE_VARINT ? check_number(field, number, err) : ATTN_OK;
        if (status != ATTN_OK) {
            return status;
        }
    }
    return ATTN_OK;
}

static attn_status_t unknown_field(const ProtobufCMessageDescriptor *message, uint32_t number, attn_error_t *err)
{
    if (strcmp(message->short_name, "AttentionRequest") == 0) {
        attn_status_t status = attn_reserved_field_check(number, err);
        if (status != ATTN_OK) {
            return status;
        }
    }
    return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                          "%s has a field number %u that this daemon does not know; it would change the meaning, so it "
                          "is refused",
                          message->short_name, number);
}

static attn_status_t walk(const ProtobufCMessageDescriptor *message, reader_t reader, unsigned depth, attn_error_t *err)
{
    if (depth > DEPTH_MAX || message->n_fields > FIELDS_MAX) {
        return broken(err, message->short_name);
    }
    uint64_t seen = 0;
    while (reader.at < reader.end) {
        uint64_t key;
        if (!read_varint(&reader, &key) || key >> 3 == 0 || key >> 3 > 536870911u) {
            return broken(err, message->short_name);
        }
        uint32_t number = (uint32_t)(key >> 3);
        unsigned type = (unsigned)(key & 7);
        const ProtobufCFieldDescriptor *field = protobuf_c_message_descriptor_get_field(message, number);
        if (field == NULL) {
            return unknown_field(message, number, err);
        }
        bool repeated = field->label == PROTOBUF_C_LABEL_REPEATED;
        bool packed = repeated && type == WIRE_BYTES && wire_type(field->type) != WIRE_BYTES;
        if (type != wire_type(field->type) && !packed) {
            return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "field %s has the wrong wire type", field->name);
        }
        uint64_t bit = UINT64_C(1) << (field - message->fields);
        if (!repeated && (seen & bit) != 0) {
            return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "field %s is given twice", field->name);
        }
        if ((field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0) {
            /* Members of one oneof share the place of their case. */
            for (unsigned i = 0; i < message->n_fields; i++) {
                const ProtobufCFieldDescriptor *other = &message->fields[i];
                if ((other->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0 && (seen >> i & 1) != 0 &&
                    other->quantifier_offset == field->quantifier_offset) {
                    return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "fields %s and %s exclude each other",
                                          other->name, field->name);
                }
            }
        }
        seen |= bit;
        attn_status_t status = ATTN_OK;
        uint64_t value;
        if (type == WIRE_VARINT) {
            if (!read_varint(&reader, &value)) {
                return broken(err, field->name);
            }
            status = check_number(field, value, err);
        } else if (type == WIRE_BYTES) {
            reader_t inner = reader;
            if (!read_varint(&reader, &value) || (inner.at = reader.at, !skip(&reader, value))) {
                return broken(err, field->name);
            }
            inner.end = reader.at;
            status = walk_bytes(field, inner, depth, err);
        } else if (!skip(&reader, type == WIRE_32 ? 4 : 8)) {
            return broken(err, field->name);
        }
        if (status != ATTN_OK) {
            return status;
        }
    }
    return ATTN_OK;
}

static void *bump_alloc(void *data, size_t bytes)
{
    attn_bump_t *bump = data;
    size_t rounded = (bytes + 15) & ~(size_t)15;
    if (rounded < bytes || rounded > bump->size - bump->used) {
        return NULL;
    }
    void *place = bump->base + bump->used;
    bump->used += rounded;
    return place;
}

static void bump_free(void *data, void *place) {}

attn_status_t attn_wire_unpack(const ProtobufCMessageDescriptor *descriptor, const uint8_t *data, size_t bytes,
                               attn_bump_t *bump, ProtobufCMessage **ret, attn_error_t *err)
{
    attn_status_t status = walk(descriptor, (reader_t){data, data + bytes}, 0, err);
    if (status != ATTN_OK) {
        return status;
    }
    /* The walk has bounded what comes: packed one-byte varints grow eightfold (a shape's uint64), and a string of two
     * bytes with its pointer and rounding takes 40 of them. */
    attn_bump_t block = {.size = 8192 + 24 * bytes};
    block.base = malloc(block.size);
    if (block.base == NULL) {
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for the metadata");
    }
    *bump = block;
    bump->allocator = (ProtobufCAllocator){bump_alloc, bump_free, bump};
    ProtobufCMessage *message = protobuf_c_message_unpack(descriptor, &bump->allocator, bytes, data);
    if (message == NULL) {
        attn_bump_close(bump);
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "the metadata is not a valid %s, or has far too many parts", descriptor->short_name);
    }
    *ret = message;
    return ATTN_OK;
}

void attn_bump_close(attn_bump_t *bump)
{
    if (bump != NULL) {
        free(bump->base);
        *bump = (attn_bump_t){0};
    }
}
