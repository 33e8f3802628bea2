/* faults/faults_info.c: the rows of faults_info.h. Pure data, linked into the front too; what they do is in faults.c.
 */
#include "faults/faults_info.h"

/* One microsecond: the watchdog's floor alone decides how long a fault may hold a device. */
static double fault_cost_us(const attn_need_t *need, const attn_device_t *device)
{
    (void)need;
    (void)device;
    return 1.0;
}

#define FAULT_ROW(row_name, row_class, row_summary)                                                                    \
    {                                                                                                                  \
        .name = (row_name), .summary = (row_summary), .devices = (1u << ATTN_DEVICE_CPU) | (1u << ATTN_DEVICE_CUDA),   \
        .run_class = (row_class), .test_only = true, .auto_select = false, .arch_min = 0, .arch_max = 9999,            \
        .dtypes = (1u << ATTN_DTYPE_F16) | (1u << ATTN_DTYPE_BF16) | (1u << ATTN_DTYPE_F32), .d_min = 1,               \
        .d_max = ATTN_HEAD_DIM_MAX, .d_multiple = 1, .features = ATTN_FEATURES_ALL, .alignment = 1,                    \
        .stride_alignment = 1, .cost_us = fault_cost_us                                                                \
    }

const attn_variant_info_t attn_fault_infos[ATTN_FAULT_COUNT] = {
    [ATTN_FAULT_NULL] = FAULT_ROW("null", ATTN_CLASS_SERVE, "test: no kernel; O and LSE are zero"),
    [ATTN_FAULT_SLEEP] =
        FAULT_ROW("test_sleep", ATTN_CLASS_SERVE, "test: sleeps sm_scale seconds in pieces of 5 ms, O is zero"),
    [ATTN_FAULT_ERROR] = FAULT_ROW("test_error", ATTN_CLASS_SERVE, "test: returns INTERNAL"),
    [ATTN_FAULT_SPIN] = FAULT_ROW("test_spin", ATTN_CLASS_LAB, "test: never returns"),
    [ATTN_FAULT_SPIN_SERVE] =
        FAULT_ROW("test_spin_serve", ATTN_CLASS_SERVE, "test: never returns, in the shared worker"),
    [ATTN_FAULT_ABORT] = FAULT_ROW("test_abort", ATTN_CLASS_LAB, "test: writes a line to stderr and aborts"),
    [ATTN_FAULT_ABORT_SERVE] = FAULT_ROW("test_abort_serve", ATTN_CLASS_SERVE, "test: aborts in the shared worker"),
    [ATTN_FAULT_ABORT_ONCE] =
        FAULT_ROW("test_abort_once", ATTN_CLASS_SERVE, "test: aborts on the first attempt, then O is zero (CPU)"),
    [ATTN_FAULT_EXIT] = FAULT_ROW("test_exit", ATTN_CLASS_LAB, "test: ends its process with exit status 7"),
    [ATTN_FAULT_KILL_SERVE] =
        FAULT_ROW("test_kill_serve", ATTN_CLASS_SERVE, "test: SIGKILLs its own process, as the OOM killer would"),
    [ATTN_FAULT_OOB] = FAULT_ROW("test_oob", ATTN_CLASS_LAB, "test: writes past the end of O"),
    [ATTN_FAULT_WRITE_INPUT] = FAULT_ROW("test_write_input", ATTN_CLASS_LAB, "test: writes to its input K"),
    [ATTN_FAULT_GARBAGE] =
        FAULT_ROW("test_garbage", ATTN_CLASS_LAB, "test: fills its worker's completion ring with garbage"),
    [ATTN_FAULT_GARBAGE_SERVE] =
        FAULT_ROW("test_garbage_serve", ATTN_CLASS_SERVE, "test: the same in the shared worker"),
    [ATTN_FAULT_POISON_SERVE] = FAULT_ROW("test_poison_serve", ATTN_CLASS_SERVE,
                                          "test: a request with sm_scale 101 aborts, 102 fails, 103 never returns; "
                                          "others sleep sm_scale ms, O is zero"),
};
