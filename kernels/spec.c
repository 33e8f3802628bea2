/* spec.c: validates what a request says about its tensors and does every multiplication of extents, overflow-checked.
 * Pure, any thread. */
#include "attn/spec.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

/* Elements of [batch, s, h, d] times the element size. Extents of zero count as one, so that strides, which are
 * products of some of the extents, cannot overflow either. */
static bool spec_bytes(uint64_t batch, int64_t s, uint64_t h, uint64_t d, uint64_t element, int64_t *ret)
{
    int64_t bytes = (int64_t)element;
    const int64_t extents[] = {(int64_t)batch, s, (int64_t)h, (int64_t)d};
    bool empty = false;
    for (size_t i = 0; i < sizeof extents / sizeof extents[0]; i++) {
        empty |= extents[i] == 0;
        if (__builtin_mul_overflow(bytes, extents[i] == 0 ? 1 : extents[i], &bytes))
            return false;
    }
    *ret = empty ? 0 : bytes;
    return true;
}

static attn_status_t spec_check_extents(const attn_spec_t *spec, attn_error_t *err)
{
    if (spec->h_q == 0 || spec->h_kv == 0)
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "h_q is %" PRIu32 " and h_kv is %" PRIu32 "; both must be at least 1", spec->h_q,
                              spec->h_kv);
    if (spec->h_q % spec->h_kv != 0)
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "h_q (%" PRIu32 ") is not divisible by h_kv (%" PRIu32
                              "); each key head must serve the same number of query heads",
                              spec->h_q, spec->h_kv);
    if (spec->d == 0 || spec->d > ATTN_HEAD_DIM_MAX)
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "head dim is %" PRIu32 "; it must be 1 to %d", spec->d,
                              ATTN_HEAD_DIM_MAX);
    if (spec->batch > ATTN_BATCH_MAX)
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "batch is %" PRIu32 "; the limit is %u", spec->batch,
                              ATTN_BATCH_MAX);
    if (spec->s_q < 0 || spec->s_q > ATTN_EXTENT_MAX || spec->s_kv < 0 || spec->s_kv > ATTN_EXTENT_MAX)
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "s_q is %" PRId64 " and s_kv is %" PRId64 "; both must be 0 to %" PRId64, spec->s_q,
                              spec->s_kv, ATTN_EXTENT_MAX);
    return ATTN_OK;
}

attn_status_t attn_spec_measure(attn_spec_t *spec, attn_sizes_t *ret, attn_error_t *err)
{
    size_t element = attn_dtype_size((attn_dtype_t)spec->dtype);
    if (element == 0)
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "unknown dtype %" PRIu32 "; fp16, bf16 or fp32 is needed",
                              spec->dtype);
    if (spec->layout != ATTN_LAYOUT_BSHD && spec->layout != ATTN_LAYOUT_BHSD && spec->layout != ATTN_LAYOUT_THD)
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "unknown layout %" PRIu32 "; bshd, bhsd or thd is needed",
                              spec->layout);
    attn_status_t status = spec_check_extents(spec, err);
    if (status != ATTN_OK)
        return status;
    if (!isfinite(spec->sm_scale) || spec->sm_scale < 0)
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "sm_scale is %g; it must be finite and positive, or 0 for the default 1/sqrt(d)",
                              (double)spec->sm_scale);
    if (!isfinite(spec->softcap) || spec->softcap < 0)
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "softcap is %g; it must be finite and positive, or 0 for none", (double)spec->softcap);
    if (spec->causal > 1 || spec->return_lse > 1)
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "causal is %u and return_lse is %u; both must be 0 or 1",
                              spec->causal, spec->return_lse);
    for (size_t i = 0; i < sizeof spec->reserved; i++)
        if (spec->reserved[i] != 0)
            return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "a reserved field of the request is not zero");

    const bool packed = spec->layout == ATTN_LAYOUT_THD;
    const uint64_t batch = packed ? 1 : spec->batch; /* thd: s is already the total over sequences */
    int64_t q, kv, lse;
    int64_t total;
    if (!spec_bytes(batch, spec->s_q, spec->h_q, spec->d, element, &q) ||
        !spec_bytes(batch, spec->s_kv, spec->h_kv, spec->d, element, &kv) ||
        !spec_bytes(batch, spec->s_q, spec->h_q, 1, sizeof(float), &lse) || __builtin_add_overflow(q, q, &total) ||
        __builtin_add_overflow(total, kv, &total) || __builtin_add_overflow(total, kv, &total) ||
        __builtin_add_overflow(total, lse, &total))
        return attn_error_set(err, ATTN_ERR_TOO_LARGE,
                              "tensors of batch %" PRIu32 ", s_q %" PRId64 ", s_kv %" PRId64 ", h_q %" PRIu32
                              ", h_kv %" PRIu32 ", d %" PRIu32 " exceed 2^63 bytes",
                              spec->batch, spec->s_q, spec->s_kv, spec->h_q, spec->h_kv, spec->d);

    if (spec->sm_scale == 0)
        spec->sm_scale = (float)(1.0 / sqrt((double)spec->d));
    if (spec->softcap == 0)
        spec->softcap = 0; /* -0 becomes 0 */
    *ret = (attn_sizes_t){.q = (uint64_t)q,
                          .k = (uint64_t)kv,
                          .v = (uint64_t)kv,
                          .o = (uint64_t)q,
                          .lse = spec->return_lse ? (uint64_t)lse : 0};
    return ATTN_OK;
}

attn_status_t attn_cu_seqlens_check(const char *name, const int32_t *cu_seqlens, uint64_t count, uint32_t batch,
                                    int64_t total, attn_error_t *err)
{
    if (!cu_seqlens || count != (uint64_t)batch + 1)
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "%s has %" PRIu64 " entries; %" PRIu64 " are needed for %" PRIu32 " sequences", name,
                              cu_seqlens ? count : 0, (uint64_t)batch + 1, batch);
    if (cu_seqlens[0] != 0)
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "%s starts at %" PRId32 "; it must start at 0", name,
                              cu_seqlens[0]);
    for (uint64_t i = 1; i < count; i++)
        if (cu_seqlens[i] < cu_seqlens[i - 1])
            return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                                  "%s decreases from %" PRId32 " to %" PRId32 " at entry %" PRIu64
                                  "; it must not decrease",
                                  name, cu_seqlens[i - 1], cu_seqlens[i], i);
    if (cu_seqlens[count - 1] != total)
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "%s ends at %" PRId32 "; it must end at the total length %" PRId64, name,
                              cu_seqlens[count - 1], total);
    return ATTN_OK;
}

uint32_t attn_spec_problem_count(const attn_spec_t *spec)
{
    return spec->layout == ATTN_LAYOUT_THD ? spec->batch : 1;
}

/* One tensor as strides; `row` is the first row of a packed sequence. */
static attn_view_t spec_view(const attn_spec_t *spec, void *data, int64_t s, uint32_t heads, int64_t row)
{
    const int64_t d = spec->d;
    const int64_t h = heads;
    attn_view_t view = {.data = data};
    if (spec->layout == ATTN_LAYOUT_BHSD) {
        view.stride_s = d;
        view.stride_h = s * d;
        view.stride_b = h * s * d;
    } else {
        view.stride_h = d;
        view.stride_s = h * d;
        view.stride_b = spec->layout == ATTN_LAYOUT_THD ? 0 : s * h * d;
    }
    if (row != 0)
        view.data = (char *)data + row * view.stride_s * (int64_t)attn_dtype_size((attn_dtype_t)spec->dtype);
    return view;
}

void attn_spec_problems(const attn_spec_t *spec, const int32_t *cu_seqlens_q, const int32_t *cu_seqlens_k,
                        const attn_addresses_t *addresses, attn_problem_t *ret_problems)
{
    const bool packed = spec->layout == ATTN_LAYOUT_THD;
    const uint32_t count = attn_spec_problem_count(spec);
    for (uint32_t p = 0; p < count; p++) {
        const int64_t row_q = packed ? cu_seqlens_q[p] : 0;
        const int64_t row_k = packed ? cu_seqlens_k[p] : 0;
        const int64_t s_q = packed ? cu_seqlens_q[p + 1] - row_q : spec->s_q;
        const int64_t s_kv = packed ? cu_seqlens_k[p + 1] - row_k : spec->s_kv;
        attn_problem_t *problem = &ret_problems[p];
        *problem = (attn_problem_t){.batch = packed ? 1 : spec->batch,
                                    .h_q = spec->h_q,
                                    .h_kv = spec->h_kv,
                                    .d = spec->d,
                                    .s_q = s_q,
                                    .s_kv = s_kv,
                                    .q = spec_view(spec, addresses->q, s_q, spec->h_q, row_q),
                                    .k = spec_view(spec, addresses->k, s_kv, spec->h_kv, row_k),
                                    .v = spec_view(spec, addresses->v, s_kv, spec->h_kv, row_k),
                                    .o = spec_view(spec, addresses->o, s_q, spec->h_q, row_q),
                                    .sm_scale = spec->sm_scale,
                                    .softcap = spec->softcap};
        if (spec->return_lse && addresses->lse) {
            problem->lse = row_q ? addresses->lse + row_q : addresses->lse;
            problem->lse_stride_h = spec->s_q; /* of the whole tensor: total_q when packed */
            problem->lse_stride_b = packed ? 0 : (int64_t)spec->h_q * spec->s_q;
        }
    }
}

/* The largest power of two, at most 4096, that divides `bytes`; 4096 for 0. */
static uint32_t spec_power_of_two(uint64_t bytes)
{
    return bytes % 4096 == 0 ? 4096 : (uint32_t)(bytes & -bytes);
}

void attn_spec_need(const attn_spec_t *spec, const int32_t *cu_seqlens_q, const int32_t *cu_seqlens_k,
                    uint32_t placement_alignment, attn_need_t *ret)
{
    const bool packed = spec->layout == ATTN_LAYOUT_THD;
    const uint64_t element = attn_dtype_size((attn_dtype_t)spec->dtype);
    const uint64_t row_bytes_q = (uint64_t)spec->h_q * spec->d * element;
    const uint64_t row_bytes_k = (uint64_t)spec->h_kv * spec->d * element;
    const uint32_t count = attn_spec_problem_count(spec);
    attn_need_t need = {.dtype = (attn_dtype_t)spec->dtype,
                        .d = spec->d,
                        .alignment = placement_alignment < 4096 ? placement_alignment : 4096,
                        .stride_alignment = spec_power_of_two(spec->d * element)};
    need.features |= spec->causal ? ATTN_FEATURE_CAUSAL : ATTN_FEATURE_NON_CAUSAL;
    need.features |= spec->softcap > 0 ? ATTN_FEATURE_SOFTCAP : 0;
    need.features |= spec->return_lse ? ATTN_FEATURE_LSE : 0;
    need.features |= spec->h_q != spec->h_kv ? ATTN_FEATURE_GQA : 0;
    need.features |= packed ? ATTN_FEATURE_VARLEN : 0;
    need.features |= spec->layout == ATTN_LAYOUT_BHSD ? ATTN_FEATURE_BHSD : 0;
    need.features |= spec->sm_scale != (float)(1.0 / sqrt((double)spec->d)) ? ATTN_FEATURE_SCALE : 0;
    need.features |= spec->batch == 0 ? ATTN_FEATURE_EMPTY : 0;

    double pairs = 0;
    for (uint32_t p = 0; p < count; p++) {
        const int64_t s_q = packed ? cu_seqlens_q[p + 1] - cu_seqlens_q[p] : spec->s_q;
        const int64_t s_kv = packed ? cu_seqlens_k[p + 1] - cu_seqlens_k[p] : spec->s_kv;
        need.features |= s_q < s_kv ? ATTN_FEATURE_RECTANGULAR : 0;
        need.features |= s_q > s_kv ? ATTN_FEATURE_TALL : 0;
        need.features |= s_q == 0 || s_kv == 0 ? ATTN_FEATURE_EMPTY : 0;
        need.max_s_q = s_q > need.max_s_q ? s_q : need.max_s_q;
        need.max_s_kv = s_kv > need.max_s_kv ? s_kv : need.max_s_kv;
        pairs += (double)attn_visible_pairs(s_q, s_kv, spec->causal != 0);
        if (packed) {
            const uint32_t at_q = spec_power_of_two((uint64_t)cu_seqlens_q[p] * row_bytes_q);
            const uint32_t at_k = spec_power_of_two((uint64_t)cu_seqlens_k[p] * row_bytes_k);
            need.alignment = at_q < need.alignment ? at_q : need.alignment;
            need.alignment = at_k < need.alignment ? at_k : need.alignment;
        }
    }
    const double batch = packed ? 1 : spec->batch;
    need.flops = 4.0 * batch * spec->h_q * spec->d * pairs;
    need.bytes = batch * 2.0 * ((double)spec->s_q * (double)row_bytes_q + (double)spec->s_kv * (double)row_bytes_k);
    if (spec->return_lse)
        need.bytes += batch * spec->h_q * (double)spec->s_q * sizeof(float);
    *ret = need;
}
