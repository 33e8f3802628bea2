/* sm90/unified_info.c: the rows of `unified` and of the two names that it replaces. Pure; owns nothing. */
#include "unified_info.h"

#include <inttypes.h>

#include "scheduler.h"

/* Measured on an H200 (NOTES.md): rates at long lengths; short ones are dominated by the fixed part. */
#define FLOPS_PER_US_PER_UNIT 4.2e6 /* 550 TFLOP/s on 132 units */
#define BYTES_PER_US_PER_UNIT 20e3  /* 2.6 TB/s */
#define FIXED_US 6.0

static double cost_us(const attn_need_t *need, const attn_device_t *device)
{
    double units = device->units > 0 ? device->units : 132;
    double rate = FLOPS_PER_US_PER_UNIT;
    double compute, memory;

    if (need->d <= 64)
        rate *= 0.75; /* the exponent unit is as busy as the tensor cores */
    if (need->features & ATTN_FEATURE_SOFTCAP)
        rate *= need->d <= 64 ? 0.55 : 0.8;
    compute = need->flops / (rate * units);
    memory = need->bytes / (BYTES_PER_US_PER_UNIT * units);
    return FIXED_US + (compute > memory ? compute : memory);
}

/* Lengths are 32-bit inside the kernel; tile arithmetic adds a tile to them. */
static void supports_lengths(const attn_variant_info_t *info, const attn_need_t *need, const attn_device_t *device,
                             attn_missing_t *missing)
{
    const int64_t limit = INT64_C(1) << 30;

    (void)info;
    (void)device;
    if (need->max_s_q > limit || need->max_s_kv > limit)
        attn_missing_add(missing, "sequence length: %" PRId64 " x %" PRId64 " asked, at most %" PRId64, need->max_s_q,
                         need->max_s_kv, limit);
}

#define UNIFIED_FEATURES ATTN_FEATURES_ALL

const attn_variant_info_t attn_variant_info_unified = {
    .name = "unified",
    .summary = "FlashAttention-3-class forward for Hopper: any lengths, GQA, softcap, LSE, packed sequences",
    .deprecated_for = NULL,
    .devices = 1u << ATTN_DEVICE_CUDA,
    .run_class = ATTN_CLASS_SERVE,
    .test_only = false,
    .auto_select = true,
    .arch_min = 90,
    .arch_max = 90,
    .dtypes = (1u << ATTN_DTYPE_F16) | (1u << ATTN_DTYPE_BF16),
    .d_min = 8,
    .d_max = 256,
    .d_multiple = 8,
    .features = UNIFIED_FEATURES,
    .alignment = 16,
    .stride_alignment = 16,
    .supports_extra = supports_lengths,
    .cost_us = cost_us,
};

/* The kernels that `unified` replaces took fp16, d = 128, causal or not, no LSE; one square, one causal with
 * s_q <= s_kv. Their names keep these limits. */
const attn_variant_info_t attn_variant_info_gqa_fwd_ws = {
    .name = "gqa_fwd_ws",
    .summary = "deprecated name of `unified`, limited to square attention, fp16, d = 128",
    .deprecated_for = "unified",
    .devices = 1u << ATTN_DEVICE_CUDA,
    .run_class = ATTN_CLASS_SERVE,
    .test_only = false,
    .auto_select = false,
    .arch_min = 90,
    .arch_max = 90,
    .dtypes = 1u << ATTN_DTYPE_F16,
    .d_min = 128,
    .d_max = 128,
    .d_multiple = 128,
    .features =
        ATTN_FEATURE_CAUSAL | ATTN_FEATURE_NON_CAUSAL | ATTN_FEATURE_GQA | ATTN_FEATURE_BHSD | ATTN_FEATURE_SCALE,
    .alignment = 16,
    .stride_alignment = 16,
    .supports_extra = supports_lengths,
    .cost_us = cost_us,
};

const attn_variant_info_t attn_variant_info_gqa_prefill_fwd_ws = {
    .name = "gqa_prefill_fwd_ws",
    .summary = "deprecated name of `unified`, limited to causal attention with s_q <= s_kv, fp16, d = 128",
    .deprecated_for = "unified",
    .devices = 1u << ATTN_DEVICE_CUDA,
    .run_class = ATTN_CLASS_SERVE,
    .test_only = false,
    .auto_select = false,
    .arch_min = 90,
    .arch_max = 90,
    .dtypes = 1u << ATTN_DTYPE_F16,
    .d_min = 128,
    .d_max = 128,
    .d_multiple = 128,
    .features =
        ATTN_FEATURE_CAUSAL | ATTN_FEATURE_GQA | ATTN_FEATURE_RECTANGULAR | ATTN_FEATURE_BHSD | ATTN_FEATURE_SCALE,
    .alignment = 16,
    .stride_alignment = 16,
    .supports_extra = supports_lengths,
    .cost_us = cost_us,
};
