/* types.c: names and sizes of the types of attn/kernel.h, and the arithmetic of masks. Pure, any thread. */
#include <stdio.h>
#include <string.h>

#include "attn/kernel.h"
#include "attn/spec.h"

size_t attn_dtype_size(attn_dtype_t dtype)
{
    switch (dtype) {
    case ATTN_DTYPE_F16:
    case ATTN_DTYPE_BF16:
        return 2;
    case ATTN_DTYPE_F32:
        return 4;
    case ATTN_DTYPE_INVALID:
        break;
    }
    return 0;
}

const char *attn_dtype_name(attn_dtype_t dtype)
{
    switch (dtype) {
    case ATTN_DTYPE_F16:
        return "fp16";
    case ATTN_DTYPE_BF16:
        return "bf16";
    case ATTN_DTYPE_F32:
        return "fp32";
    case ATTN_DTYPE_INVALID:
        break;
    }
    return "invalid";
}

const char *attn_layout_name(attn_layout_t layout)
{
    switch (layout) {
    case ATTN_LAYOUT_BSHD:
        return "bshd";
    case ATTN_LAYOUT_BHSD:
        return "bhsd";
    case ATTN_LAYOUT_THD:
        return "thd";
    case ATTN_LAYOUT_INVALID:
        break;
    }
    return "invalid";
}

const char *attn_feature_name(uint32_t one_feature)
{
    switch (one_feature) {
    case ATTN_FEATURE_CAUSAL:
        return "causal";
    case ATTN_FEATURE_NON_CAUSAL:
        return "non_causal";
    case ATTN_FEATURE_SOFTCAP:
        return "softcap";
    case ATTN_FEATURE_LSE:
        return "lse";
    case ATTN_FEATURE_GQA:
        return "gqa";
    case ATTN_FEATURE_RECTANGULAR:
        return "rectangular";
    case ATTN_FEATURE_TALL:
        return "tall";
    case ATTN_FEATURE_VARLEN:
        return "varlen";
    case ATTN_FEATURE_EMPTY:
        return "empty";
    case ATTN_FEATURE_BHSD:
        return "bhsd";
    case ATTN_FEATURE_SCALE:
        return "scale";
    default:
        return "unknown";
    }
}

int64_t attn_visible_pairs(int64_t s_q, int64_t s_kv, bool causal)
{
    if (s_q <= 0 || s_kv <= 0)
        return 0;
    __int128 pairs;
    if (!causal) {
        pairs = (__int128)s_q * s_kv;
    } else {
        /* Row i sees min(s_kv, i + s_kv - s_q + 1) keys: the last `rows` rows, an arithmetic series ending at s_kv. */
        int64_t rows = s_q < s_kv ? s_q : s_kv;
        __int128 first = (__int128)s_kv - rows + 1;
        pairs = (first + s_kv) * rows / 2;
    }
    return pairs > INT64_MAX ? INT64_MAX : (int64_t)pairs;
}

double attn_problem_flops(const attn_problem_t *problem, bool causal)
{
    return 4.0 * problem->batch * problem->h_q * problem->d *
           (double)attn_visible_pairs(problem->s_q, problem->s_kv, causal);
}

void attn_missing_add(attn_missing_t *missing, const char *format, ...)
{
    if (!missing || missing->count >= ATTN_MISSING_MAX)
        return;
    va_list args;
    va_start(args, format);
    if (vsnprintf(missing->item[missing->count], ATTN_MISSING_TEXT, format, args) < 0)
        missing->item[missing->count][0] = '\0';
    va_end(args);
    missing->count++;
}
