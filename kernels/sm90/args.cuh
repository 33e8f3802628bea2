// args.cuh: what the host hands to the kernel: one record per problem, and the launch's parameters.
// Written by unified_launch.cu and, when there are many problems, upload.cuh; read by the producer warp.
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
// problem ends: TMA fills what lies beyond with zeros (maps.cuh). The parts behind them travel apart when problems are
// uploaded: `layout` and what comes after it is mostly the same for all problems of a group.
struct alignas(128) ProblemArgs {
    CUtensorMap q_map, k_map, v_map;

    const void *q, *k, *v;
    void *o;
    float *lse; // or NULL
    int64_t lse_stride_b, lse_stride_h;
    int32_t s_q, s_kv;
    float scale;     // factor of the (capped) score in the exponent of 2: sm_scale*log2(e), or softcap*log2(e)
    float cap_scale; // sm_scale / softcap
    uint32_t layout; // uploads: number of the layout
    uint32_t unused;

    Strides q_stride, k_stride, v_stride, o_stride;
    uint32_t batch, h_q, ratio, d;
};
static_assert(sizeof(ProblemArgs) % 128 == 0, "an array of ProblemArgs keeps tensor maps aligned");

// Problems that fit the launch parameters; more are uploaded. 6 keep the parameters under 4 KB.
constexpr uint32_t kInlineProblems = 6;

struct GroupArgs {
    ProblemArgs problem[kInlineProblems];
    attn_sm90_span_t span[kInlineProblems];
    const ProblemArgs *uploaded; // all problems in device memory, or NULL: `problem` and `span` have them
    const attn_sm90_span_t *uploaded_spans;
    uint32_t early_maps; // uploaded problems whose maps every block acquires before its first tile: all, or 0
    uint32_t *counter; // zero before and after every launch
    uint32_t spans, tiles;
};

} // namespace attn_sm90
#endif
