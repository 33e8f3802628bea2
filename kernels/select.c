/* select.c: chooses a variant and a device for a request, and says why. Pure, any thread. */
#include "attn/select.h"

#include <stdio.h>
#include <string.h>

/* What a walk over rows and devices has found so far. */
typedef struct select_state {
    const attn_need_t *need;
    const attn_device_t *const *devices;
    size_t device_count;
    attn_select_blocked_fn blocked;
    void *blocked_arg;
    attn_choice_t best;
    size_t capable; /* rows that support the request somewhere and are not blocked there */
    attn_missing_t least_missing;
    const attn_variant_info_t *least_missing_row;
    const attn_variant_info_t *blocked_row;
    char blocked_detail[160];
} select_state_t;

static void select_consider(select_state_t *state, const attn_variant_info_t *info)
{
    bool capable = false;
    for (size_t i = 0; i < state->device_count; i++) {
        const attn_device_t *device = state->devices[i];
        attn_missing_t missing;
        if (attn_variant_supports(info, state->need, device, &missing) != ATTN_OK) {
            if (!state->least_missing_row || missing.count < state->least_missing.count) {
                state->least_missing = missing;
                state->least_missing_row = info;
            }
            continue;
        }
        char detail[sizeof state->blocked_detail] = "";
        if (state->blocked && state->blocked(info, device, state->blocked_arg, detail, sizeof detail)) {
            state->blocked_row = info;
            memcpy(state->blocked_detail, detail, sizeof detail);
            continue;
        }
        capable = true;
        const double cost = info->cost_us(state->need, device);
        if (!state->best.variant || cost < state->best.cost_us)
            state->best = (attn_choice_t){.variant = info, .device = i, .cost_us = cost};
    }
    state->capable += capable;
}

/* "a; b; c" of what is missing, as much as fits. */
static void select_join(const attn_missing_t *missing, char *ret, size_t size)
{
    size_t used = 0;
    ret[0] = '\0';
    for (uint32_t i = 0; i < missing->count && used < size; i++) {
        int n = snprintf(ret + used, size - used, "%s%s", i ? "; " : "", missing->item[i]);
        used += n > 0 ? (size_t)n : 0;
    }
}

static attn_status_t select_failure(const select_state_t *state, const attn_variant_info_t *named,
                                    attn_missing_t *ret_missing, attn_error_t *err)
{
    if (state->device_count == 0)
        return attn_error_set(err, ATTN_ERR_UNAVAILABLE, "no device is up; try again shortly");
    if (state->blocked_row)
        return attn_error_set(err, ATTN_ERR_UNAVAILABLE, "variant '%s' cannot run now%s%s", state->blocked_row->name,
                              state->blocked_detail[0] ? ": " : "", state->blocked_detail);
    if (ret_missing)
        *ret_missing = state->least_missing;
    char reasons[360];
    select_join(&state->least_missing, reasons, sizeof reasons);
    if (named)
        return attn_error_set(err, ATTN_ERR_FAILED_PRECONDITION, "variant '%s' cannot do this request: %s", named->name,
                              reasons);
    if (!state->least_missing_row)
        return attn_error_set(err, ATTN_ERR_FAILED_PRECONDITION, "no variant may be chosen automatically; name one");
    return attn_error_set(err, ATTN_ERR_FAILED_PRECONDITION,
                          "no variant can do this request; the nearest, '%s', lacks %s", state->least_missing_row->name,
                          reasons);
}

attn_status_t attn_variant_select(const attn_variant_info_t *named, const attn_need_t *need,
                                  const attn_device_t *const *devices, size_t device_count,
                                  attn_select_blocked_fn blocked, void *blocked_arg, attn_choice_t *ret_choice,
                                  attn_missing_t *ret_missing, attn_error_t *err)
{
    select_state_t state = {
        .need = need, .devices = devices, .device_count = device_count, .blocked = blocked, .blocked_arg = blocked_arg};
    if (named) {
        select_consider(&state, named);
    } else {
        size_t count;
        const attn_variant_info_t *const *rows = attn_variant_table(&count);
        for (size_t i = 0; i < count; i++)
            if (rows[i]->auto_select)
                select_consider(&state, rows[i]);
    }
    if (!state.best.variant)
        return select_failure(&state, named, ret_missing, err);

    attn_choice_t *best = &state.best;
    if (!named)
        snprintf(best->reason, sizeof best->reason, "auto: lowest expected time (%.4g us) of %zu variant%s that can",
                 best->cost_us, state.capable, state.capable == 1 ? "" : "s");
    else if (named->deprecated_for)
        snprintf(best->reason, sizeof best->reason, "named by the request; deprecated, use '%s'",
                 named->deprecated_for);
    else
        snprintf(best->reason, sizeof best->reason, "named by the request");
    *ret_choice = *best;
    return ATTN_OK;
}
