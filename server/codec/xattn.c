/* codec/xattn.c: see xattn.h. */
#include "codec/xattn.h"

#include <endian.h>
#include <string.h>

attn_status_t attn_xattn_prefix_read(const unsigned char prefix[ATTN_XATTN_PREFIX], uint32_t *ret_metadata_bytes,
                                     attn_error_t *err)
{
    uint32_t words[4];
    memcpy(words, prefix, sizeof words);
    if (memcmp(prefix, "ATTN", 4) != 0) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "the body does not begin with ATTN; application/x-attn is a prefix of 16 bytes, protobuf "
                              "metadata, then the tensors");
    }
    if (le32toh(words[1]) != ATTN_XATTN_VERSION) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "x-attn version %u is not known; this daemon speaks %u",
                              le32toh(words[1]), ATTN_XATTN_VERSION);
    }
    if (words[2] != 0) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "x-attn flags %#x are not known; send 0",
                              le32toh(words[2]));
    }
    *ret_metadata_bytes = le32toh(words[3]);
    return ATTN_OK;
}

void attn_xattn_prefix_write(uint32_t metadata_bytes, unsigned char ret[ATTN_XATTN_PREFIX])
{
    const uint32_t words[3] = {htole32(ATTN_XATTN_VERSION), 0, htole32(metadata_bytes)};
    memcpy(ret, "ATTN", 4);
    memcpy(ret + 4, words, sizeof words);
}
