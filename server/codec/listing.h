/* codec/listing.h: GET /v1/variants: the table of variants, the devices and the limits, in JSON and in protobuf.
 * Pure; any thread. */
#ifndef ATTND_CODEC_LISTING_H
#define ATTND_CODEC_LISTING_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sched/sched.h"

typedef struct attn_listing {
    const attn_sched_view_t *view;
    bool test_variants;
    uint64_t max_request_bytes, max_metadata_bytes;
} attn_listing_t;

/* NULL without memory. */
json_t *attn_listing_json(const attn_listing_t *listing);
json_t *attn_listing_devices(const attn_sched_view_t *view); /* its part about devices */

/* attn.v1.ListVariantsResponse, malloc'ed; false without memory. */
bool attn_listing_proto(const attn_listing_t *listing, void **ret, size_t *ret_bytes);

/* ---- what both forms say of one variant ---- */

typedef struct attn_listing_row {
    uint32_t device_count;
    const char *devices[ATTN_SCHED_DEVICES_MAX]; /* UUIDs of those that run it now */
    const char *unavailable;                     /* why it runs nowhere here, or "" */
    bool quarantined;
    const attn_quarantine_view_t *quarantine; /* strikes, or NULL */
} attn_listing_row_t;

void attn_listing_row(const attn_variant_info_t *info, const attn_sched_view_t *view, attn_listing_row_t *ret);
bool attn_listing_shows(const attn_listing_t *listing, const attn_variant_info_t *info);
const char *attn_listing_state(attn_device_state_t state);
const char *attn_listing_kind(attn_device_kind_t kind);

#endif
