/* cmd_compare.c: attnctl compare: several variants against fp64, as a table. One thread. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "ctl.h"

static void head_print(const attn_spec_t *spec, const attn_client_comparison_t *comparison)
{
    printf("%s %s, %u x %" PRId64 " x %" PRId64 ", %u/%u heads, d %u%s", attn_dtype_name((attn_dtype_t)spec->dtype),
           attn_layout_name((attn_layout_t)spec->layout), spec->batch, spec->s_q, spec->s_kv, spec->h_q, spec->h_kv,
           spec->d, spec->causal ? ", causal" : "");
    if (spec->softcap > 0) {
        printf(", softcap %g", (double)spec->softcap);
    }
    printf("\n%s %s", comparison->device, comparison->device_name);
    if (comparison->sm_clock_mhz > 0) {
        printf(", %u/%u MHz", comparison->sm_clock_mhz, comparison->mem_clock_mhz);
    }
    if (comparison->driver[0] != '\0') {
        printf(", driver %s", comparison->driver);
    }
    printf("; attnd %s\n\n", comparison->build);
}

static void row_print(const attn_client_row_t *row, bool lse)
{
    if (row->error.error.status != ATTN_OK) {
        printf("%-20s did not run: %s\n", row->variant, row->error.error.message);
        ctl_missing_print(stdout, "                       ", &row->error);
        return;
    }
    printf("%-20s %-4s %9.2e %9.2e %9.2e %9.2e", row->variant, row->pass ? "pass" : "FAIL", row->max_abs,
           row->max_abs_allowed, row->rmse, row->row_rel);
    if (lse) {
        printf(" %9.2e", row->lse_err);
    }
    printf(" %5" PRIu64 " %12.1f %12.1f %9.3f\n", row->special_mismatch, row->median_us, row->min_us, row->tflops);
}

static int comparison_print(const ctl_options_t *options, const attn_spec_t *spec,
                            const attn_client_comparison_t *comparison)
{
    int code = CTL_OK;
    for (uint32_t i = 0; i < comparison->row_count; i++) {
        if (!comparison->rows[i].pass) {
            code = CTL_BAD_NEWS;
        }
    }
    if (options->json) {
        puts(comparison->json);
        return code;
    }
    head_print(spec, comparison);
    printf("%-20s %-4s %9s %9s %9s %9s%s %5s %12s %12s %9s\n", "variant", "", "max abs", "allowed", "rmse", "row rel",
           spec->return_lse ? "   lse err" : "", "inf", "median us", "min us", "TFLOP/s");
    for (uint32_t i = 0; i < comparison->row_count; i++) {
        row_print(&comparison->rows[i], spec->return_lse);
    }
    return code;
}

/* Splits --variants in place; false when there are too many. */
static bool names_split(char *text, const char *ret[CTL_VARIANTS_MAX], uint32_t *ret_count)
{
    char *rest = NULL;
    uint32_t count = 0;
    for (char *name = strtok_r(text, ",", &rest); name != NULL; name = strtok_r(NULL, ",", &rest)) {
        if (count == CTL_VARIANTS_MAX) {
            return false;
        }
        ret[count++] = name;
    }
    *ret_count = count;
    return true;
}

static int comparison_run(const ctl_options_t *options, attn_client_t *client, const ctl_tensors_t *tensors,
                          const char *const *names, uint32_t name_count)
{
    attn_client_error_t error;
    attn_client_comparison_t *comparison = NULL;
    attn_client_compare_t compare = {
        .request = {.spec = tensors->spec,
                    .q = tensors->q,
                    .k = tensors->k,
                    .v = tensors->v,
                    .cu_seqlens_q = tensors->cu_seqlens_q,
                    .cu_seqlens_k = tensors->cu_seqlens_k},
        .seeded = options->shape != NULL,
        .seed = options->seed,
        .variants = names,
        .variant_count = name_count,
        .has_warmup = options->has_warmup,
        .has_rounds = options->has_rounds,
        .warmup = (uint32_t)options->warmup,
        .rounds = (uint32_t)options->rounds,
    };
    attn_client_compare_progress_t progress = {.transfer = ctl_progress, .step = ctl_progress_step};
    if (attn_client_compare(client, &compare, &progress, &comparison, &error) != ATTN_OK) {
        return ctl_fail(options, &error);
    }
    ctl_progress_erase();
    int code = comparison_print(options, &tensors->spec, comparison);
    attn_client_comparison_free(comparison);
    return code;
}

int ctl_compare(const ctl_options_t *options)
{
    attn_error_t error;
    ctl_tensors_t tensors;
    attn_client_t *client = NULL;
    const char *names[CTL_VARIANTS_MAX];
    uint32_t name_count = 0;
    int code = CTL_USAGE;
    char *list = strdup(options->variants != NULL ? options->variants : "");
    if (list == NULL || !names_split(list, names, &name_count) || options->rounds > UINT32_MAX ||
        options->warmup > UINT32_MAX) {
        free(list);
        attn_error_set(&error, ATTN_ERR_INVALID_ARGUMENT,
                       "--variants takes up to %d names, and --rounds and --warmup take up to 1000", CTL_VARIANTS_MAX);
        return ctl_fail_local(options, &error);
    }
    if (!ctl_open(options, &client, &code)) {
        free(list);
        return code;
    }
    if (ctl_tensors_open(options, false, &tensors, &error) != ATTN_OK) {
        code = ctl_fail_local(options, &error);
    } else {
        code = comparison_run(options, client, &tensors, names, name_count);
        ctl_tensors_close(&tensors);
    }
    attn_client_close(client);
    free(list);
    return code;
}
