/* codec/ask_proto.h: attn.v1 messages and what a caller asks. Pure but for cu_seqlens; any thread. */
#ifndef ATTND_CODEC_ASK_PROTO_H
#define ATTND_CODEC_ASK_PROTO_H

#include <stdbool.h>

#include "codec/ask.h"
#include "codec/tiling.h"

struct Attn__V1__AttentionRequest;

/* Both read serialised metadata (codec/wire.h). ret_slices are q, k and v in the body; *ret_count is 3, or 0 for a
 * compare whose inputs the daemon makes. The ask is checked whole; on failure it may hold cu_seqlens for
 * attn_ask_clear(). Errors: INVALID_ARGUMENT, UNIMPLEMENTED, NOT_FOUND (a region), TOO_LARGE, NO_MEMORY. */
attn_status_t attn_ask_from_request(const uint8_t *data, size_t bytes, attn_ask_t *ask, attn_slice_t ret_slices[3],
                                    uint32_t *ret_count, attn_error_t *err);
attn_status_t attn_ask_from_compare(const uint8_t *data, size_t bytes, attn_ask_t *ask, attn_compare_ask_t *compare,
                                    attn_slice_t ret_slices[3], uint32_t *ret_count, attn_error_t *err);

/* An unpacked request (attn_wire_unpack) whose tensors all lie in regions; lse's place is not given unless it is asked
 * for. Whether the regions exist, and hold that much, is the door's to find out. Errors and cu_seqlens as above. */
attn_status_t attn_ask_from_placed(const struct Attn__V1__AttentionRequest *message, attn_ask_t *ask,
                                   attn_ask_place_t ret_places[ATTN_ASK_PLACES], attn_error_t *err);

#endif
