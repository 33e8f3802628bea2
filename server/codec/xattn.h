/* codec/xattn.h: the 16 bytes in front of application/x-attn: "ATTN", version, flags, length of the metadata, each a
 * little-endian u32. Pure; any thread. */
#ifndef ATTND_CODEC_XATTN_H
#define ATTND_CODEC_XATTN_H

#include <stdint.h>

#include "attn/status.h"

#define ATTN_XATTN_PREFIX 16u
#define ATTN_XATTN_VERSION 1u

attn_status_t attn_xattn_prefix_read(const unsigned char prefix[ATTN_XATTN_PREFIX], uint32_t *ret_metadata_bytes,
                                     attn_error_t *err);
void attn_xattn_prefix_write(uint32_t metadata_bytes, unsigned char ret[ATTN_XATTN_PREFIX]);

#endif
