/* cpu/cpu_info.c: what `cpu` is and can do. Pure, linked into the front too. */
#include "cpu/cpu_info.h"

/* Conservative, because the watchdog's budget is a multiple of this: 10 GFLOP/s per core is what scalar code gives on
 * a ten-year-old machine; the vector paths give 5 to 15 times that. 2 GB/s per core for moving the tensors. */
static double cpu_cost_us(const attn_need_t *need, const attn_device_t *device)
{
    const double units = device->units > 0 ? device->units : 1;
    return 50.0 + need->flops / (10e3 * units) + need->bytes / (2e3 * units);
}

const attn_variant_info_t attn_cpu_info = {
    .name = "cpu",
    .summary = "blocked online softmax with vector micro-kernels on all cores; the embedded default without a GPU",
    .devices = 1u << ATTN_DEVICE_CPU,
    .run_class = ATTN_CLASS_SERVE,
    .auto_select = true,
    .arch_min = 0,
    .arch_max = 0,
    .dtypes = (1u << ATTN_DTYPE_F16) | (1u << ATTN_DTYPE_BF16) | (1u << ATTN_DTYPE_F32),
    .d_min = 1,
    .d_max = ATTN_HEAD_DIM_MAX,
    .d_multiple = 1,
    .features = ATTN_FEATURES_ALL,
    .alignment = 1,
    .stride_alignment = 1,
    .cost_us = cpu_cost_us,
};
