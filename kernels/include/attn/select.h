/* attn/select.h: which variant runs a request, on which device, and why. Pure, any thread. */
#ifndef ATTN_SELECT_H
#define ATTN_SELECT_H

#include "attn/kernel.h"

#ifdef __cplusplus
extern "C" {
#endif

#define ATTN_REASON_MAX 192

typedef struct attn_choice {
    const attn_variant_info_t *variant;
    size_t device;  /* index into the devices that were offered */
    double cost_us; /* what the row expects on that device */
    char reason[ATTN_REASON_MAX];
} attn_choice_t;

/* Whether a variant must not be chosen on a device: quarantined there, or the device is down. `detail` is where a
 * sentence fragment ("quarantined: SIGABRT twice") may go. */
typedef bool (*attn_select_blocked_fn)(const attn_variant_info_t *info, const attn_device_t *device, void *arg,
                                       char *detail, size_t detail_size);

/* Chooses among `devices`. `named` NULL is auto: of the auto_select rows that support `need` and are not blocked, the
 * lowest cost. A named variant is never replaced by another: the device on which it is cheapest, or an error.
 * `blocked` may be NULL. Errors: FAILED_PRECONDITION with what is missing in *ret_missing (may be NULL; of auto, the
 * reasons of the row that lacks least); UNAVAILABLE when only blocking stands in the way or there is no device. */
attn_status_t attn_variant_select(const attn_variant_info_t *named, const attn_need_t *need,
                                  const attn_device_t *const *devices, size_t device_count,
                                  attn_select_blocked_fn blocked, void *blocked_arg, attn_choice_t *ret_choice,
                                  attn_missing_t *ret_missing, attn_error_t *err);

#ifdef __cplusplus
}
#endif
#endif
