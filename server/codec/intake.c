/* codec/intake.c: see intake.h. Owned by the thread that feeds it. */
#include "codec/intake.h"

#include <endian.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "attn/accuracy.h"
#include "base/text.h"
#include "codec/ask_proto.h"
#include "codec/safetensors.h"
#include "codec/xattn.h"

attn_status_t attn_framing_of_media(const char *content_type, attn_framing_t *ret, attn_error_t *err)
{
    static const struct {
        const char *name;
        attn_framing_t framing;
    } media[] = {{"application/x-attn", ATTN_FRAMING_XATTN}, {"application/safetensors", ATTN_FRAMING_SAFETENSORS}};
    size_t length = content_type != NULL ? strcspn(content_type, "; \t") : 0;
    for (size_t i = 0; i < sizeof media / sizeof media[0]; i++) {
        if (length == strlen(media[i].name) && strncasecmp(content_type, media[i].name, length) == 0) {
            *ret = media[i].framing;
            return ATTN_OK;
        }
    }
    char quoted[80];
    attn_text_quote(quoted, sizeof quoted, content_type != NULL ? content_type : "", length);
    return attn_error_set(err, ATTN_ERR_UNSUPPORTED_MEDIA,
                          "Content-Type %s is not taken here; send application/x-attn or application/safetensors",
                          length > 0 ? quoted : "(none)");
}

attn_status_t attn_intake_open(attn_intake_t *intake, const attn_intake_options_t *options, const attn_ask_t *ask,
                               const attn_compare_ask_t *compare, attn_error_t *err)
{
    *intake = (attn_intake_t){.options = *options};
    if (ask != NULL) {
        intake->ask = *ask;
    }
    if (compare != NULL) {
        intake->compare = *compare;
    }
    /* Outputs: O is a third of the body when heads are equal. What the metadata needs beyond that is asked for then,
     * at once or not at all: nobody waits while holding credit. */
    return attn_admit_open(options->admit, options->peer, options->body_bytes, options->body_bytes / 3, &intake->ticket,
                           err);
}

static attn_status_t place_input(attn_intake_t *intake, uint64_t bytes, attn_place_t *place, void **address,
                                 attn_error_t *err)
{
    return attn_admit_place(intake->ticket, false, bytes, place, address, err);
}

/* O's place, with a page before it where it can be: head and O are sent as one piece then. Nothing follows O when LSE
 * is returned too, because each tensor that a worker writes begins a page of its own. */
static attn_status_t place_o(attn_intake_t *intake, uint64_t room, attn_error_t *err)
{
    const uint64_t bytes = intake->ask.sizes.o;
    attn_status_t status = attn_admit_place(intake->ticket, true, bytes + room, &intake->o, &intake->o_address, err);
    if (status == ATTN_OK && room > 0) {
        intake->o_room = (size_t)room;
        intake->o_address = (char *)intake->o_address + room;
        intake->o.offset += room;
        intake->o.bytes = bytes;
    }
    return status;
}

/* Exact credit and places, once the metadata is known. */
static attn_status_t place_all(attn_intake_t *intake, bool has_inputs, attn_error_t *err)
{
    const attn_sizes_t *sizes = &intake->ask.sizes;
    uint64_t inputs = sizes->q + sizes->k + sizes->v, outputs = sizes->o + sizes->lse; /* each below 2^62: measured */
    if (intake->options.compare) {
        uint64_t truth = attn_truth_bytes(&intake->ask.spec);
        if (truth == 0 || truth > INT64_MAX - outputs) {
            return attn_error_set(err, ATTN_ERR_TOO_LARGE, "the problem is too large to be judged against fp64");
        }
        outputs += truth;
    }
    const uint64_t room = intake->options.compare || sizes->lse > 0 || sizes->o == 0 ? 0 : ATTN_WIRE_PAGE;
    /* Inputs that the daemon makes get their credit from the compare job. */
    attn_status_t status = has_inputs ? attn_admit_resize(intake->ticket, inputs, outputs + room, err) : ATTN_OK;
    if (status == ATTN_OK && has_inputs) {
        status = place_input(intake, sizes->q, &intake->q, &intake->q_address, err);
    }
    if (status == ATTN_OK && has_inputs) {
        status = place_input(intake, sizes->k, &intake->k, &intake->k_address, err);
    }
    if (status == ATTN_OK && has_inputs) {
        status = place_input(intake, sizes->v, &intake->v, &intake->v_address, err);
    }
    if (status == ATTN_OK && !intake->options.compare) {
        status = place_o(intake, room, err);
    }
    if (status == ATTN_OK && !intake->options.compare && intake->ask.spec.return_lse) {
        status = attn_admit_place(intake->ticket, true, sizes->lse, &intake->lse, &intake->lse_address, err);
    }
    return status;
}

/* Where the tensors' bytes go, in the order of the body. */
static attn_status_t set_segments(attn_intake_t *intake, const attn_slice_t *slices, uint32_t count, attn_error_t *err)
{
    for (uint32_t i = 0; i < count; i++) {
        void *address = NULL;
        bool is_tensor = true;
        switch (slices[i].tag) {
        case ATTN_TENSOR_Q:
            address = intake->q_address;
            break;
        case ATTN_TENSOR_K:
            address = intake->k_address;
            break;
        case ATTN_TENSOR_V:
            address = intake->v_address;
            break;
        default: {
            is_tensor = false;
            int32_t **entries =
                slices[i].tag == ATTN_TENSOR_CU_Q ? &intake->ask.cu_seqlens_q : &intake->ask.cu_seqlens_k;
            *(slices[i].tag == ATTN_TENSOR_CU_Q ? &intake->cu_q_entries : &intake->cu_k_entries) =
                slices[i].length / sizeof(int32_t);
            address = *entries = malloc(slices[i].length);
            if (address == NULL) {
                return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for %s", slices[i].name);
            }
        }
        }
        intake->segments[intake->segment_count++] = (attn_segment_t){
            .offset = slices[i].offset, .bytes = slices[i].length, .address = address, .is_tensor = is_tensor};
    }
    return ATTN_OK;
}

static attn_status_t take_metadata(attn_intake_t *intake, attn_error_t *err)
{
    attn_slice_t slices[ATTN_TENSOR_COUNT];
    uint32_t count = 0;
    uint64_t total = intake->options.body_bytes - intake->tensors_begin;
    attn_status_t status;
    if (intake->options.framing == ATTN_FRAMING_SAFETENSORS) {
        status = attn_safetensors_read((const char *)intake->metadata, intake->metadata_bytes, total, &intake->ask,
                                       slices, &count, err);
    } else {
        status = intake->options.compare ? attn_ask_from_compare(intake->metadata, intake->metadata_bytes, &intake->ask,
                                                                 &intake->compare, slices, &count, err)
                                         : attn_ask_from_request(intake->metadata, intake->metadata_bytes, &intake->ask,
                                                                 slices, &count, err);
        if (status == ATTN_OK) {
            status = attn_tiling_check(slices, count, total, err);
        }
    }
    free(intake->metadata);
    intake->metadata = NULL;
    if (status == ATTN_OK) {
        intake->metadata_known = true;
        status = place_all(intake, count > 0, err);
    }
    if (status == ATTN_OK) {
        status = set_segments(intake, slices, count, err);
    }
    return status;
}

/* The fixed bytes in front of the metadata are in. */
static attn_status_t take_prefix(attn_intake_t *intake, attn_error_t *err)
{
    uint64_t fixed, bytes;
    if (intake->options.framing == ATTN_FRAMING_SAFETENSORS) {
        uint64_t length;
        memcpy(&length, intake->prefix, sizeof length);
        bytes = le64toh(length);
        fixed = sizeof length;
    } else {
        uint32_t length;
        attn_status_t status = attn_xattn_prefix_read(intake->prefix, &length, err);
        if (status != ATTN_OK) {
            return status;
        }
        bytes = length;
        fixed = ATTN_XATTN_PREFIX;
    }
    if (bytes > intake->options.body_bytes - fixed) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "the length of the metadata is given as %" PRIu64 " bytes but the body has only %" PRIu64
                              " more",
                              bytes, intake->options.body_bytes - fixed);
    }
    if (bytes > intake->options.max_metadata_bytes) {
        return attn_error_set(err, ATTN_ERR_TOO_LARGE,
                              "the metadata has %" PRIu64 " bytes; at most %" PRIu64 " are taken", bytes,
                              intake->options.max_metadata_bytes);
    }
    intake->metadata_bytes = bytes;
    intake->tensors_begin = fixed + bytes;
    intake->metadata = malloc(bytes > 0 ? bytes : 1);
    if (intake->metadata == NULL) {
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for the metadata");
    }
    return bytes == 0 ? take_metadata(intake, err) : ATTN_OK;
}

/* Bytes in front of the metadata. */
static uint64_t fixed_bytes(const attn_intake_t *intake)
{
    return intake->options.framing == ATTN_FRAMING_SAFETENSORS ? 8 : ATTN_XATTN_PREFIX;
}

static uint64_t segment_end(const attn_intake_t *intake, uint32_t segment)
{
    return intake->tensors_begin + intake->segments[segment].offset + intake->segments[segment].bytes;
}

/* The prefix and the metadata come first, and each says where the next bytes go. */
static bool in_front(const attn_intake_t *intake)
{
    return intake->received < fixed_bytes(intake) || intake->received < intake->tensors_begin;
}

uint32_t attn_intake_room(attn_intake_t *intake, struct iovec *ret, uint32_t max)
{
    const uint64_t fixed = fixed_bytes(intake), body = intake->options.body_bytes;
    uint64_t at = intake->received;
    uint32_t count = 0;
    if (max > 0 && at < fixed && at < body) {
        ret[count++] = (struct iovec){intake->prefix + at, (size_t)((fixed < body ? fixed : body) - at)};
    } else if (max > 0 && at < intake->tensors_begin) {
        ret[count++] = (struct iovec){intake->metadata + (at - fixed), (size_t)(intake->tensors_begin - at)};
    }
    for (uint32_t i = intake->segment; !in_front(intake) && i < intake->segment_count && count < max; i++) {
        uint64_t end = segment_end(intake, i);
        if (at < end) {
            char *address = intake->segments[i].address;
            ret[count++] = (struct iovec){address + (intake->segments[i].bytes - (end - at)), (size_t)(end - at)};
            at = end;
        }
    }
    return count;
}

attn_status_t attn_intake_filled(attn_intake_t *intake, size_t bytes, attn_error_t *err)
{
    const bool front = in_front(intake);
    attn_status_t status = ATTN_OK;
    intake->received += bytes;
    if (front && intake->received == fixed_bytes(intake)) {
        status = take_prefix(intake, err);
    } else if (front && intake->received == intake->tensors_begin) {
        status = take_metadata(intake, err);
    }
    /* Past what is full, or empty from the start. */
    while (status == ATTN_OK && !in_front(intake) && intake->segment < intake->segment_count &&
           intake->received >= segment_end(intake, intake->segment)) {
        intake->segment++;
    }
    return status;
}

attn_status_t attn_intake_feed(attn_intake_t *intake, const void *data, size_t bytes, attn_error_t *err)
{
    struct iovec room;
    if (bytes > intake->options.body_bytes - intake->received) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "the body is longer than its Content-Length");
    }
    while (bytes > 0) {
        if (attn_intake_room(intake, &room, 1) == 0) {
            return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "the body is longer than its tensors");
        }
        size_t taken = bytes < room.iov_len ? bytes : room.iov_len;
        memcpy(room.iov_base, data, taken);
        intake->copied += !in_front(intake) && intake->segments[intake->segment].is_tensor ? taken : 0;
        attn_status_t status = attn_intake_filled(intake, taken, err);
        if (status != ATTN_OK) {
            return status;
        }
        data = (const char *)data + taken;
        bytes -= taken;
    }
    return ATTN_OK;
}

attn_status_t attn_intake_end(attn_intake_t *intake, attn_error_t *err)
{
    if (intake->received != intake->options.body_bytes || !intake->metadata_known) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "the body ended after %" PRIu64 " bytes, before its metadata and tensors were complete",
                              intake->received);
    }
    if (intake->options.framing == ATTN_FRAMING_SAFETENSORS) {
        attn_status_t status = attn_ask_check_seqlens(&intake->ask, intake->cu_q_entries, intake->cu_k_entries, err);
        if (status != ATTN_OK) {
            return status;
        }
    }
    attn_admit_arrived(intake->ticket);
    return ATTN_OK;
}

attn_ticket_t *attn_intake_take_ticket(attn_intake_t *intake)
{
    attn_ticket_t *ticket = intake->ticket;
    intake->ticket = NULL;
    return ticket;
}

void attn_intake_close(attn_intake_t *intake)
{
    attn_admit_close(intake->ticket);
    attn_ask_clear(&intake->ask);
    free(intake->metadata);
    *intake = (attn_intake_t){0};
}
