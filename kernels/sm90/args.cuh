// args.cuh: what the host hands to the kernel: one record per problem, and the launch's parameters.
// Written by unified_launch.cu, read by the producer warp.
#ifndef ATTN_SM90_ARGS_CUH
#define ATTN_SM90_ARGS_CUH

#include <cstdint>
#include <cuda.h>

#include "scheduler.h"

namespace attn_sm90 {

struct Strides {
    int64_t b, s, h; // elements
};

// Tensor maps are (d, ratio, s_q, h_kv, batch) for Q and (d, s_kv, h_kv, batch) for K and V, and end where the
// problem ends: TMA fills what lies beyond with zeros.
struct alignas(128) ProblemArgs {
    CUtensorMap q_map, k_map, v_map;
    const void *q, *k, *v; // only read to repair rows that a masked NaN touched
    void *o;
    Strides q_stride, k_stride, v_stride, o_stride;
    float *lse; // or NULL
    int64_t lse_stride_b, lse_stride_h;
    int32_t s_q, s_kv;
    uint32_t h_q, ratio, d;
    float scale;     // factor of the (capped) score in the exponent of 2: sm_scale*log2(e), or softcap*log2(e)
    float cap_scale; // sm_scale / softcap
};
static_assert(sizeof(ProblemArgs) % 128 == 0, "an array of ProblemArgs keeps tensor maps aligned");

// Problems that fit the launch parameters; more are uploaded. 6 keep the parameters under 4 KB.
constexpr uint32_t kInlineProblems = 6;

struct GroupArgs {
    ProblemArgs problem[kInlineProblems];
    attn_sm90_span_t span[kInlineProblems];
    const ProblemArgs *uploaded; // all problems in device memory, or NULL: `problem` and `span` have them
    const attn_sm90_span_t *uploaded_spans;
    uint32_t *counter; // zero before and after every launch
    uint32_t spans, tiles;
};

} // namespace attn_sm90
#endif
