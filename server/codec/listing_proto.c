/* codec/listing_proto.c: the listing in protobuf: see listing.h. */
#include <stdlib.h>

#include "attn/v1/attention.pb-c.h"
#include "base/about.h"
#include "codec/listing.h"

/* protobuf-c's strings are not const, and packing only reads them. */
static char *text(const char *from)
{
    return (char *)(uintptr_t)from;
}

/* One row with everything that its message points to. */
typedef struct variant_message {
    Attn__V1__Variant variant;
    attn_listing_row_t about;
    char *devices[ATTN_DEVICE_CUDA], *dtypes[ATTN_DTYPE_COUNT], *features[32], *available[ATTN_SCHED_DEVICES_MAX];
} variant_message_t;

static void variant_build(const attn_variant_info_t *info, const attn_sched_view_t *view, variant_message_t *to)
{
    Attn__V1__Variant *variant = &to->variant;
    attn__v1__variant__init(variant);
    attn_listing_row(info, view, &to->about);
    for (int kind = ATTN_DEVICE_CPU; kind <= ATTN_DEVICE_CUDA; kind++) {
        if ((info->devices & 1u << kind) != 0) {
            to->devices[variant->n_devices++] = text(attn_listing_kind((attn_device_kind_t)kind));
        }
    }
    for (uint32_t dtype = ATTN_DTYPE_F16; dtype < ATTN_DTYPE_COUNT; dtype++) {
        if ((info->dtypes & 1u << dtype) != 0) {
            to->dtypes[variant->n_dtypes++] = text(attn_dtype_name((attn_dtype_t)dtype));
        }
    }
    for (uint32_t feature = 1; feature <= ATTN_FEATURES_ALL; feature <<= 1) {
        if ((info->features & feature) != 0) {
            to->features[variant->n_features++] = text(attn_feature_name(feature));
        }
    }
    for (uint32_t i = 0; i < to->about.device_count; i++) {
        to->available[variant->n_available_on++] = text(to->about.devices[i]);
    }
    variant->name = text(info->name);
    variant->summary = text(info->summary);
    variant->deprecated_for = text(info->deprecated_for != NULL ? info->deprecated_for : "");
    variant->test_only = info->test_only;
    variant->auto_select = info->auto_select;
    variant->devices = to->devices;
    variant->arch_min = (uint32_t)info->arch_min;
    variant->arch_max = (uint32_t)info->arch_max;
    variant->dtypes = to->dtypes;
    variant->d_min = info->d_min;
    variant->d_max = info->d_max;
    variant->d_multiple = info->d_multiple;
    variant->features = to->features;
    variant->available_on = to->available;
    variant->unavailable = text(to->about.unavailable);
    variant->quarantined = to->about.quarantined;
}

static void device_build(const attn_device_view_t *from, Attn__V1__Device *to)
{
    attn__v1__device__init(to);
    to->uuid = text(from->device.uuid);
    to->name = text(from->device.name);
    to->kind = text(attn_listing_kind(from->device.kind));
    to->arch = (uint32_t)from->device.arch;
    to->state = text(attn_listing_state(from->state));
    to->memory_bytes = from->device.memory_bytes;
}

static bool pack(const Attn__V1__ListVariantsResponse *response, void **ret, size_t *ret_bytes)
{
    size_t bytes = attn__v1__list_variants_response__get_packed_size(response);
    void *data = malloc(bytes > 0 ? bytes : 1);
    if (data == NULL) {
        return false;
    }
    *ret_bytes = attn__v1__list_variants_response__pack(response, data);
    *ret = data;
    return true;
}

bool attn_listing_proto(const attn_listing_t *listing, void **ret, size_t *ret_bytes)
{
    size_t count;
    const attn_variant_info_t *const *table = attn_variant_table(&count);
    variant_message_t *rows = calloc(count, sizeof *rows);
    Attn__V1__Variant **variants = calloc(count, sizeof(Attn__V1__Variant *));
    Attn__V1__Device devices[ATTN_SCHED_DEVICES_MAX], *device_list[ATTN_SCHED_DEVICES_MAX];
    Attn__V1__Limits limits = ATTN__V1__LIMITS__INIT;
    Attn__V1__ListVariantsResponse response = ATTN__V1__LIST_VARIANTS_RESPONSE__INIT;
    bool packed = false;
    if (rows != NULL && variants != NULL) {
        for (size_t i = 0; i < count; i++) {
            if (attn_listing_shows(listing, table[i])) {
                variant_build(table[i], listing->view, &rows[i]);
                variants[response.n_variants++] = &rows[i].variant;
            }
        }
        for (uint32_t i = 0; i < listing->view->device_count; i++) {
            device_build(&listing->view->devices[i], &devices[i]);
            device_list[response.n_devices++] = &devices[i];
        }
        limits.max_request_bytes = listing->max_request_bytes;
        limits.max_metadata_bytes = listing->max_metadata_bytes;
        limits.head_dim_max = ATTN_HEAD_DIM_MAX;
        response.variants = variants;
        response.devices = device_list;
        response.limits = &limits;
        response.version = text(ATTND_VERSION);
        packed = pack(&response, ret, ret_bytes);
    }
    free(rows);
    free(variants);
    return packed;
}
