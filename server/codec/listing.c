/* codec/listing.c: see listing.h: what is said of variants and devices, and the JSON of it. */
#include "codec/listing.h"

#include "base/about.h"

const char *attn_listing_state(attn_device_state_t state)
{
    static const char *const names[] = {"starting", "ready", "restarting", "lost"};
    return names[state];
}

const char *attn_listing_kind(attn_device_kind_t kind)
{
    return kind == ATTN_DEVICE_CUDA ? "cuda" : "cpu";
}

bool attn_listing_shows(const attn_listing_t *listing, const attn_variant_info_t *info)
{
    return !info->test_only || listing->test_variants;
}

static bool runs_on(const attn_variant_info_t *info, const attn_device_t *device)
{
    return (info->devices & 1u << device->kind) != 0 &&
           (device->kind != ATTN_DEVICE_CUDA || (device->arch >= info->arch_min && device->arch <= info->arch_max));
}

static const attn_quarantine_view_t *quarantine_of(const attn_sched_view_t *view, const attn_variant_info_t *info)
{
    for (uint32_t i = 0; i < view->quarantine_count; i++) {
        if (view->quarantine[i].variant == info) {
            return &view->quarantine[i];
        }
    }
    return NULL;
}

void attn_listing_row(const attn_variant_info_t *info, const attn_sched_view_t *view, attn_listing_row_t *ret)
{
    *ret = (attn_listing_row_t){.quarantine = quarantine_of(view, info)};
    bool fits = false;
    for (uint32_t i = 0; i < view->device_count; i++) {
        bool here = runs_on(info, &view->devices[i].device);
        fits = fits || here;
        if (here && view->devices[i].state != ATTN_DEVICE_LOST) {
            ret->devices[ret->device_count++] = view->devices[i].device.uuid;
        }
    }
    ret->quarantined = ret->quarantine != NULL && ret->quarantine->active;
    ret->unavailable = ret->quarantined          ? "quarantined"
                       : ret->device_count > 0   ? ""
                       : fits                    ? "its device is lost"
                       : view->device_count == 0 ? "no device is up"
                                                 : "no device here can run it";
}

static void add_names(json_t *row, const attn_variant_info_t *info)
{
    json_t *dtypes = json_array(), *features = json_array(), *devices = json_array();
    for (uint32_t dtype = ATTN_DTYPE_F16; dtype < ATTN_DTYPE_COUNT; dtype++) {
        if ((info->dtypes & 1u << dtype) != 0) {
            json_array_append_new(dtypes, json_string(attn_dtype_name((attn_dtype_t)dtype)));
        }
    }
    for (uint32_t feature = 1; feature <= ATTN_FEATURES_ALL; feature <<= 1) {
        if ((info->features & feature) != 0) {
            json_array_append_new(features, json_string(attn_feature_name(feature)));
        }
    }
    for (int kind = ATTN_DEVICE_CPU; kind <= ATTN_DEVICE_CUDA; kind++) {
        if ((info->devices & 1u << kind) != 0) {
            json_array_append_new(devices, json_string(attn_listing_kind((attn_device_kind_t)kind)));
        }
    }
    json_object_set_new(row, "dtypes", dtypes);
    json_object_set_new(row, "features", features);
    json_object_set_new(row, "devices", devices);
}

static json_t *variant_row(const attn_variant_info_t *info, const attn_sched_view_t *view)
{
    attn_listing_row_t about;
    attn_listing_row(info, view, &about);
    json_t *available = json_array();
    for (uint32_t i = 0; i < about.device_count; i++) {
        json_array_append_new(available, json_string(about.devices[i]));
    }
    json_t *row = json_pack(
        "{s:s, s:s, s:s, s:b, s:b, s:s, s:i, s:i, s:i, s:i, s:i, s:o, s:s, s:b}", "name", info->name, "summary",
        info->summary, "deprecated_for", info->deprecated_for != NULL ? info->deprecated_for : "", "test_only",
        info->test_only, "auto_select", info->auto_select, "class", info->run_class == ATTN_CLASS_LAB ? "lab" : "serve",
        "arch_min", info->arch_min, "arch_max", info->arch_max, "d_min", (int)info->d_min, "d_max", (int)info->d_max,
        "d_multiple", (int)info->d_multiple, "available_on", available, "unavailable", about.unavailable, "quarantined",
        about.quarantined);
    add_names(row, info);
    const attn_quarantine_view_t *quarantine = about.quarantine;
    if (quarantine != NULL) {
        json_object_set_new(row, "quarantine",
                            json_pack("{s:i, s:b, s:I, s:s}", "strikes", (int)quarantine->strikes, "active",
                                      quarantine->active, "expires_in_ms", (json_int_t)quarantine->expires_in_ms, "why",
                                      quarantine->why));
    }
    return row;
}

static json_t *device_row(const attn_sched_view_t *view, uint32_t i)
{
    const attn_device_view_t *device = &view->devices[i];
    return json_pack("{s:s, s:s, s:s, s:i, s:s, s:I, s:i, s:i, s:s, s:s, s:i, s:I}", "uuid", device->device.uuid,
                     "name", device->device.name, "kind", attn_listing_kind(device->device.kind), "arch",
                     device->device.arch, "state", attn_listing_state(device->state), "memory_bytes",
                     (json_int_t)device->device.memory_bytes, "restarts", (int)device->restarts, "serve_pid",
                     device->serve_pid, "driver", device->driver, "why", device->why, "groups", (int)view->groups[i],
                     "load_us", (json_int_t)view->load_us[i]);
}

json_t *attn_listing_devices(const attn_sched_view_t *view)
{
    json_t *devices = json_array();
    for (uint32_t i = 0; i < view->device_count; i++) {
        json_array_append_new(devices, device_row(view, i));
    }
    return devices;
}

json_t *attn_listing_json(const attn_listing_t *listing)
{
    size_t count;
    const attn_variant_info_t *const *table = attn_variant_table(&count);
    json_t *variants = json_array();
    for (size_t i = 0; i < count; i++) {
        if (attn_listing_shows(listing, table[i])) {
            json_array_append_new(variants, variant_row(table[i], listing->view));
        }
    }
    json_t *limits =
        json_pack("{s:I, s:I, s:i}", "max_request_bytes", (json_int_t)listing->max_request_bytes, "max_metadata_bytes",
                  (json_int_t)listing->max_metadata_bytes, "head_dim_max", ATTN_HEAD_DIM_MAX);
    return json_pack("{s:o, s:o, s:o, s:s}", "variants", variants, "devices", attn_listing_devices(listing->view),
                     "limits", limits, "version", ATTND_VERSION);
}
