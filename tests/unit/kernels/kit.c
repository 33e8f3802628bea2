/* kernels/kit.c: see kit.h. */
#include "kernels/kit.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "attn/engine_variants.h"
#include "cpu/convert.h"

const char *const kit_isas[] = {"base", "avx2", "avx512"};

static void *kit_memory(uint64_t bytes)
{
    void *memory = malloc(bytes ? bytes : 1);
    ck_assert_ptr_nonnull(memory);
    return memory;
}

static uint64_t kit_elements(const kit_t *kit, uint64_t bytes)
{
    return bytes / attn_dtype_size((attn_dtype_t)kit->spec.dtype);
}

void kit_open(kit_t *kit, attn_spec_t spec, const int32_t *cu_q, const int32_t *cu_k, uint64_t seed)
{
    *kit = (kit_t){.spec = spec, .cu_q = cu_q, .cu_k = cu_k};
    attn_error_t err = {0};
    ck_assert_msg(attn_spec_measure(&kit->spec, &kit->sizes, &err) == ATTN_OK, "%s", err.message);
    kit->at = (attn_addresses_t){.q = kit_memory(kit->sizes.q),
                                 .k = kit_memory(kit->sizes.k),
                                 .v = kit_memory(kit->sizes.v),
                                 .o = kit_memory(kit->sizes.o),
                                 .lse = kit->sizes.lse ? kit_memory(kit->sizes.lse) : NULL};
    const attn_dtype_t dtype = (attn_dtype_t)kit->spec.dtype;
    attn_fill_normal(dtype, seed, 0, kit->at.q, kit_elements(kit, kit->sizes.q));
    attn_fill_normal(dtype, seed, 1, kit->at.k, kit_elements(kit, kit->sizes.k));
    attn_fill_normal(dtype, seed, 2, kit->at.v, kit_elements(kit, kit->sizes.v));
}

void kit_close(kit_t *kit)
{
    free(kit->at.q);
    free(kit->at.k);
    free(kit->at.v);
    free(kit->at.o);
    free(kit->at.lse);
    free(kit->truth);
}

void kit_scale(kit_t *kit, void *tensor, uint64_t bytes, double factor)
{
    const attn_dtype_t dtype = (attn_dtype_t)kit->spec.dtype;
    for (uint64_t i = 0; i < kit_elements(kit, bytes); i++)
        attn_element_store(dtype, tensor, (int64_t)i, attn_element_load(dtype, tensor, (int64_t)i) * factor);
}

static bool kit_checkpoint(void *arg)
{
    int *left = arg;
    if (*left == 0)
        return false;
    if (*left > 0)
        --*left;
    return true;
}

attn_status_t kit_launch(const char *name, const attn_group_t *group, int units, int checkpoints, attn_error_t *err)
{
    const attn_variant_t *variant = attn_cpu_variant_find(name);
    ck_assert_ptr_nonnull(variant);
    const attn_device_t device = {.kind = ATTN_DEVICE_CPU, .units = units};
    const attn_workspace_size_t size = variant->workspace(group, &device);
    char *workspace = kit_memory(size.device);
    memset(workspace, 0, ATTN_WORKSPACE_ZEROED);
    const attn_exec_t exec = {.device = &device,
                              .workspace = workspace,
                              .workspace_bytes = size.device,
                              .checkpoint = kit_checkpoint,
                              .checkpoint_arg = &checkpoints};
    const attn_status_t status = variant->launch(group, &exec, err);
    for (int i = 0; i < ATTN_WORKSPACE_ZEROED; i++)
        ck_assert_int_eq(workspace[i], 0);
    free(workspace);
    return status;
}

attn_status_t kit_run(kit_t *kit, const char *variant, int units, attn_error_t *err)
{
    const uint32_t count = attn_spec_problem_count(&kit->spec);
    attn_problem_t *problems = calloc(count ? count : 1, sizeof *problems);
    ck_assert_ptr_nonnull(problems);
    attn_spec_problems(&kit->spec, kit->cu_q, kit->cu_k, &kit->at, problems);
    const attn_group_t group = {.config = {.dtype = (attn_dtype_t)kit->spec.dtype,
                                           .causal = kit->spec.causal != 0,
                                           .softcap = kit->spec.softcap > 0},
                                .count = count,
                                .problems = problems};
    memset(kit->at.o, 0xff, kit->sizes.o);
    if (kit->at.lse)
        memset(kit->at.lse, 0xff, kit->sizes.lse);
    const attn_status_t status = kit_launch(variant, &group, units, -1, err);
    free(problems);
    return status;
}

attn_judgement_t kit_judge(kit_t *kit)
{
    attn_error_t err = {0};
    if (!kit->truth) {
        kit->truth = kit_memory(attn_truth_bytes(&kit->spec));
        const attn_device_t device = {.kind = ATTN_DEVICE_CPU, .units = 2};
        int never = -1;
        const attn_exec_t exec = {.device = &device, .checkpoint = kit_checkpoint, .checkpoint_arg = &never};
        ck_assert_msg(attn_truth_compute(&kit->spec, kit->cu_q, kit->cu_k, &kit->at, kit->truth, &exec, &err) ==
                          ATTN_OK,
                      "%s", err.message);
    }
    attn_judgement_t judgement;
    ck_assert_msg(attn_truth_judge(&kit->spec, kit->cu_q, kit->cu_k, &kit->at, kit->truth, 2, NULL, &judgement, &err) ==
                      ATTN_OK,
                  "%s", err.message);
    return judgement;
}

void kit_expect_pass(kit_t *kit, const char *who)
{
    const attn_judgement_t j = kit_judge(kit);
    const attn_spec_t *s = &kit->spec;
    ck_assert_msg(j.pass,
                  "%s, %s %s batch %u, %" PRId64 " x %" PRId64 ", heads %u/%u, d %u, causal %u, softcap %g, scale %g: "
                  "max %g of %g, row %g of %g (excess %g), lse %g of %g, %" PRIu64 " special",
                  who, attn_dtype_name((attn_dtype_t)s->dtype), attn_layout_name((attn_layout_t)s->layout), s->batch,
                  s->s_q, s->s_kv, s->h_q, s->h_kv, s->d, s->causal, (double)s->softcap, (double)s->sm_scale, j.max_abs,
                  j.max_abs_allowed, j.row_rel, j.row_rel_allowed, j.row_excess, j.lse_err, j.lse_allowed,
                  j.special_mismatch);
}
