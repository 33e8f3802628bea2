/* codec/tiling.c: see tiling.h. */
#include "codec/tiling.h"

#include <inttypes.h>

static int before(const attn_slice_t *a, const attn_slice_t *b)
{
    return a->offset < b->offset || (a->offset == b->offset && a->length < b->length);
}

attn_status_t attn_tiling_check(attn_slice_t *slices, uint32_t count, uint64_t total, attn_error_t *err)
{
    for (uint32_t i = 0; i < count; i++) {
        if (slices[i].length > total || slices[i].offset > total - slices[i].length) {
            return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                                  "%s: %" PRIu64 " bytes at offset %" PRIu64 " lie outside the %" PRIu64
                                  " bytes of tensors in the body",
                                  slices[i].name, slices[i].length, slices[i].offset, total);
        }
        attn_slice_t slice = slices[i]; /* insertion sort: there are at most five */
        uint32_t k = i;
        for (; k > 0 && before(&slice, &slices[k - 1]); k--) {
            slices[k] = slices[k - 1];
        }
        slices[k] = slice;
    }
    uint64_t reached = 0;
    const char *last = "the start of the body";
    for (uint32_t i = 0; i < count; i++) {
        if (slices[i].length == 0) {
            continue;
        }
        if (slices[i].offset < reached) {
            return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                                  "%s and %s overlap: %s begins at offset %" PRIu64
                                  ", the bytes before reach to %" PRIu64,
                                  last, slices[i].name, slices[i].name, slices[i].offset, reached);
        }
        if (slices[i].offset > reached) {
            return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                                  "there is a hole between %s and %s: bytes %" PRIu64 " to %" PRIu64
                                  " of the tensors belong to none",
                                  last, slices[i].name, reached, slices[i].offset);
        }
        reached += slices[i].length;
        last = slices[i].name;
    }
    if (reached != total) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "the tensors end after %" PRIu64 " bytes but the body holds %" PRIu64
                              " for them; together they must be exactly Content-Length",
                              reached, total);
    }
    return ATTN_OK;
}
