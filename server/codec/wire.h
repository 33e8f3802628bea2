/* codec/wire.h: protobuf from strangers. The bytes are walked against the message's descriptor before protobuf-c sees
 * them, because protobuf-c keeps unknown fields, lets the last of two values win, and passes invalid UTF-8, embedded
 * NUL and unknown enum values. What is left is unpacked into one block with a cap: 3 MiB of empty submessages would
 * otherwise become 117 MB of heap. Any thread. */
#ifndef ATTND_CODEC_WIRE_H
#define ATTND_CODEC_WIRE_H

#include <protobuf-c/protobuf-c.h>
#include <stdint.h>

#include "attn/status.h"

/* A block that grows only forwards. Zero it before use. */
typedef struct attn_bump {
    unsigned char *base;
    size_t used, size;
    ProtobufCAllocator allocator;
} attn_bump_t;

/* Unpacks a message; it lies in *bump, and attn_bump_close() frees both. Errors: INVALID_ARGUMENT and UNIMPLEMENTED
 * (a reserved feature) with the field's name; NO_MEMORY. */
attn_status_t attn_wire_unpack(const ProtobufCMessageDescriptor *descriptor, const uint8_t *data, size_t bytes,
                               attn_bump_t *bump, ProtobufCMessage **ret, attn_error_t *err);
void attn_bump_close(attn_bump_t *bump);

#endif
