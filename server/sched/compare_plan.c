/* sched/compare_plan.c: which variants a comparison runs, before anything is reserved. Pure but for a look at the
 * scheduler's devices; any thread; owns nothing. */
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "sched/compare_job.h"

/* The device whose costs count: the first that is up, else the first that is known at all. NULL when none is known. */
static const attn_device_t *device_choose(const attn_sched_view_t *view)
{
    const attn_device_t *known = NULL;
    for (uint32_t i = 0; i < view->device_count; i++) {
        const attn_device_view_t *device = &view->devices[i];
        if (device->state == ATTN_DEVICE_LOST || device->device.kind == 0) {
            continue;
        }
        if (device->state == ATTN_DEVICE_READY) {
            return &device->device;
        }
        known = known != NULL ? known : &device->device;
    }
    return known;
}

static bool supported_somewhere(const attn_sched_view_t *view, const attn_variant_info_t *info, const attn_need_t *need)
{
    for (uint32_t i = 0; i < view->device_count; i++) {
        const attn_device_view_t *device = &view->devices[i];
        if (device->state != ATTN_DEVICE_LOST && device->device.kind != 0 &&
            attn_variant_supports(info, need, &device->device, NULL) == ATTN_OK) {
            return true;
        }
    }
    return false;
}

static attn_status_t rows_default(const attn_sched_view_t *view, const attn_need_t *need,
                                  const attn_variant_info_t **ret_rows, uint32_t *ret_count, attn_error_t *err)
{
    size_t size = 0;
    uint32_t count = 0;
    const attn_variant_info_t *const *table = attn_variant_table(&size);
    for (size_t i = 0; i < size && count < ATTN_COMPARE_ROWS_MAX; i++) {
        if (!table[i]->test_only && table[i]->deprecated_for == NULL && supported_somewhere(view, table[i], need)) {
            ret_rows[count++] = table[i];
        }
    }
    if (count == 0) {
        return attn_error_set(err, ATTN_ERR_FAILED_PRECONDITION,
                              "no variant supports this request on the daemon's devices; GET /v1/variants lists what "
                              "each supports");
    }
    *ret_count = count;
    return ATTN_OK;
}

static attn_status_t rows_named(const attn_compare_options_t *options, const attn_compare_plan_t *plan,
                                const attn_variant_info_t **ret_rows, attn_error_t *err)
{
    for (uint32_t i = 0; i < plan->variant_count; i++) {
        const attn_variant_info_t *info = attn_variant_find(plan->variants[i]);
        if (info == NULL || (info->test_only && !options->test_variants)) {
            return attn_error_set(err, ATTN_ERR_NOT_FOUND,
                                  "there is no variant '%.64s'; GET /v1/variants lists them, and without any the "
                                  "comparison runs all that support the request",
                                  plan->variants[i]);
        }
        for (uint32_t j = 0; j < i; j++) {
            if (ret_rows[j] == info) {
                return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "variant '%.64s' is listed twice; once is enough",
                                      plan->variants[i]);
            }
        }
        ret_rows[i] = info;
    }
    return ATTN_OK;
}

static attn_status_t plan_check(const attn_compare_plan_t *plan, attn_error_t *err)
{
    if (plan->reference != NULL && plan->reference[0] != '\0' && strcmp(plan->reference, "reference") != 0) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "variants are judged against 'reference' (fp64), not against '%.64s'; leave it out",
                              plan->reference);
    }
    if (plan->variant_count > ATTN_COMPARE_ROWS_MAX) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "%u variants are listed; one comparison takes up to %d",
                              plan->variant_count, ATTN_COMPARE_ROWS_MAX);
    }
    if (plan->has_rounds && (plan->rounds == 0 || plan->rounds > ATTN_COMPARE_ROUNDS_MAX)) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "%u timed rounds are asked for; 1 to %d can be had",
                              plan->rounds, ATTN_COMPARE_ROUNDS_MAX);
    }
    if (plan->has_warmup && plan->warmup > ATTN_COMPARE_ROUNDS_MAX) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "%u warm-up rounds are asked for; 0 to %d can be had",
                              plan->warmup, ATTN_COMPARE_ROUNDS_MAX);
    }
    return ATTN_OK;
}

attn_status_t attn_compare_plan_resolve(const attn_compare_options_t *options, const attn_compare_plan_t *plan,
                                        const attn_variant_info_t *ret_rows[ATTN_COMPARE_ROWS_MAX], uint32_t *ret_count,
                                        attn_device_t *ret_device, attn_error_t *err)
{
    attn_status_t status = plan_check(plan, err);
    if (status != ATTN_OK) {
        return status;
    }
    attn_sched_view_t *view = malloc(sizeof(*view));
    if (view == NULL) {
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for a comparison");
    }
    attn_sched_view(options->sched, view);
    const attn_device_t *device = device_choose(view);
    attn_need_t need;
    attn_spec_need(&plan->spec, plan->cu_seqlens_q, plan->cu_seqlens_k, ATTN_ARENA_PAGE, &need);
    uint32_t count = plan->variant_count;
    if (device == NULL) {
        status = attn_error_set(err, ATTN_ERR_UNAVAILABLE, "no device is ready yet; try again in a moment");
    } else if (count > 0) {
        status = rows_named(options, plan, ret_rows, err);
    } else {
        status = rows_default(view, &need, ret_rows, &count, err);
    }
    if (status == ATTN_OK) {
        *ret_count = count;
        *ret_device = *device;
    }
    free(view);
    return status;
}
