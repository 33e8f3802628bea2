/* reference/reference_info.c: what `reference` is and can do, on either kind of device. Pure, linked into the front
 * too. */
#include "reference/reference_info.h"

/* Conservative, because the watchdog's budget is a multiple of this. CPU: 0.5 GFLOP/s per core, where scalar libm and
 * fp64 vectors give 1 to 8. GPU: 50 GFLOP/s per multiprocessor, where an H200 gives 107 when it is full, plus 0.4 us
 * per key, because the keys of a row are one chain (12 us per 32), plus 20 us to launch. */
static double reference_cost_us(const attn_need_t *need, const attn_device_t *device)
{
    const double units = device->units > 0 ? device->units : 1;
    if (device->kind == ATTN_DEVICE_CUDA)
        return 20.0 + need->flops / (50e3 * units) + 0.4 * (double)need->max_s_kv + need->bytes / 100e3;
    return 100.0 + need->flops / (0.5e3 * units) + need->bytes / (1e3 * units);
}

const attn_variant_info_t attn_reference_info = {
    .name = "reference",
    .summary = "plain formula with fp64 accumulation; the truth, slow on purpose",
    .devices = (1u << ATTN_DEVICE_CPU) | (1u << ATTN_DEVICE_CUDA),
    .run_class = ATTN_CLASS_SERVE,
    .auto_select = true,
    .arch_min = 0,
    .arch_max = 9999,
    .dtypes = (1u << ATTN_DTYPE_F16) | (1u << ATTN_DTYPE_BF16) | (1u << ATTN_DTYPE_F32),
    .d_min = 1,
    .d_max = ATTN_HEAD_DIM_MAX,
    .d_multiple = 1,
    .features = ATTN_FEATURES_ALL,
    .alignment = 1,
    .stride_alignment = 1,
    .cost_us = reference_cost_us,
};
