/* registry.c: the one table of variants, and what a row supports. Pure, any thread; the table is made once. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "attn/kernel.h"
#include "cpu/cpu_info.h"
#include "faults/faults_info.h"
#include "reference/reference_info.h"
#include "sm90/unified_info.h"

/* Rows in the order in which a listing shows them; the test variants follow. */
static const attn_variant_info_t *const registry_named[] = {
    &attn_variant_info_unified,
    &attn_cpu_info,
    &attn_reference_info,
    &attn_variant_info_gqa_fwd_ws,
    &attn_variant_info_gqa_prefill_fwd_ws,
};

enum { REGISTRY_NAMED = sizeof registry_named / sizeof registry_named[0] };

static const attn_variant_info_t *registry_rows[REGISTRY_NAMED + ATTN_FAULT_COUNT];
static pthread_once_t registry_once = PTHREAD_ONCE_INIT;

static void registry_make(void)
{
    for (size_t i = 0; i < REGISTRY_NAMED; i++)
        registry_rows[i] = registry_named[i];
    for (size_t i = 0; i < ATTN_FAULT_COUNT; i++)
        registry_rows[REGISTRY_NAMED + i] = &attn_fault_infos[i];
}

const attn_variant_info_t *const *attn_variant_table(size_t *ret_count)
{
    pthread_once(&registry_once, registry_make);
    *ret_count = REGISTRY_NAMED + ATTN_FAULT_COUNT;
    return registry_rows;
}

const attn_variant_info_t *attn_variant_find(const char *name)
{
    size_t count;
    const attn_variant_info_t *const *rows = attn_variant_table(&count);
    for (size_t i = 0; name && i < count; i++)
        if (strcmp(rows[i]->name, name) == 0)
            return rows[i];
    return NULL;
}

static void supports_device(const attn_variant_info_t *info, const attn_device_t *device, attn_missing_t *missing)
{
    if (!(info->devices & (1u << device->kind)))
        attn_missing_add(missing, "device: asked %s, has %s", device->kind == ATTN_DEVICE_CUDA ? "cuda" : "cpu",
                         device->kind == ATTN_DEVICE_CUDA ? "cpu" : "cuda");
    else if (device->kind == ATTN_DEVICE_CUDA && (device->arch < info->arch_min || device->arch > info->arch_max))
        attn_missing_add(missing, "arch: asked sm_%d, has sm_%d to sm_%d", device->arch, info->arch_min,
                         info->arch_max);
}

static bool spans_overlap(const attn_span_t *a, const attn_span_t *b)
{
    if (a->space != b->space || a->bytes == 0 || b->bytes == 0)
        return false;
    return a->begin <= b->begin ? b->begin - a->begin < a->bytes : a->begin - b->begin < b->bytes;
}

bool attn_outputs_overlap(const attn_span_t *inputs, size_t input_count, const attn_span_t *outputs,
                          size_t output_count)
{
    for (size_t i = 0; i < output_count; i++) {
        for (size_t j = 0; j < input_count; j++)
            if (spans_overlap(&outputs[i], &inputs[j]))
                return true;
        for (size_t j = 0; j < i; j++)
            if (spans_overlap(&outputs[i], &outputs[j]))
                return true;
    }
    return false;
}

attn_status_t attn_variant_supports(const attn_variant_info_t *info, const attn_need_t *need,
                                    const attn_device_t *device, attn_missing_t *ret_missing)
{
    attn_missing_t missing = {0};
    supports_device(info, device, &missing);
    if (!(info->dtypes & (1u << need->dtype))) {
        char has[64] = "";
        for (uint32_t t = 1; t < ATTN_DTYPE_COUNT; t++)
            if (info->dtypes & (1u << t)) {
                strcat(has, has[0] ? ", " : "");
                strcat(has, attn_dtype_name((attn_dtype_t)t));
            }
        attn_missing_add(&missing, "dtype: asked %s, has %s", attn_dtype_name(need->dtype), has);
    }
    if (need->d < info->d_min || need->d > info->d_max)
        attn_missing_add(&missing, "head_dim: asked %u, has %u to %u", need->d, info->d_min, info->d_max);
    else if (info->d_multiple > 1 && need->d % info->d_multiple != 0)
        attn_missing_add(&missing, "head_dim: asked %u, has multiples of %u", need->d, info->d_multiple);
    for (uint32_t bit = 1; bit & ATTN_FEATURES_ALL; bit <<= 1)
        if (need->features & ~info->features & bit)
            attn_missing_add(&missing, "%s: asked, not supported", attn_feature_name(bit));
    if (need->alignment < info->alignment)
        attn_missing_add(&missing, "alignment: tensors start at multiples of %u bytes, %u are needed", need->alignment,
                         info->alignment);
    if (need->stride_alignment < info->stride_alignment)
        attn_missing_add(&missing, "alignment: strides are multiples of %u bytes, %u are needed",
                         need->stride_alignment, info->stride_alignment);
    if (need->outputs_overlap)
        attn_missing_add(&missing, "overlap: an output lies over an input or another output, each needs its own bytes");
    if (info->supports_extra)
        info->supports_extra(info, need, device, &missing);
    if (ret_missing)
        *ret_missing = missing;
    return missing.count == 0 ? ATTN_OK : ATTN_ERR_FAILED_PRECONDITION;
}
