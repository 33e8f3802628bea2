// args.cuh: what the host hands to the kernel: one record per problem, and the launch's parameters. Problems whose
// tensors lie in arenas (arena.h) share the launch's first three tensor maps; others have their own.
// Written by unified_launch.cu and, when there are many problems, upload.cuh; read by the warps that
// schedule and load.
#ifndef ATTN_SM90_ARGS_CUH
#define ATTN_SM90_ARGS_CUH

#include <cstdint>
#include <cuda.h>

#include "arena.h"
#include "scheduler.h"

namespace attn_sm90 {

struct Strides {
    int64_t b, s, h; // elements
};

// What a problem has of its own.
struct Own {
    const void *q, *k, *v;
    void *o;
    float *lse; // or NULL
    int64_t lse_stride_b, lse_stride_h;
    int32_t s_q, s_kv;
    float scale;        // factor of the (capped) score in the exponent of 2: sm_scale*log2(e), or softcap*log2(e)
    float cap_scale;    // sm_scale / softcap
    int32_t place[3];   // of q, k and v in the launch's arenas, if it has them: of batch 0
    uint32_t layout_at; // uploads: number of the layout
    uint64_t unused;
};

// What is mostly the same for all problems of a group.
struct Layout {
    Strides q_stride, k_stride, v_stride, o_stride;
    uint32_t batch, h_q, ratio, d;
};

// Tensor maps are (d, ratio, s_q, h_kv, batch) for Q and (d, s_kv, h_kv, batch) for K and V, and end where the
// problem ends: TMA fills what lies beyond with zeros (maps.cuh). Maps of arenas (arena.h) have places for batches.
struct alignas(128) ProblemArgs {
    CUtensorMap q_map, k_map, v_map;
    Own own;
    Layout layout;
};
static_assert(sizeof(ProblemArgs) % 128 == 0, "an array of ProblemArgs keeps tensor maps aligned");

// Problems that fit the launch parameters with maps of their own.
constexpr uint32_t kInlineProblems = 6;
// Spans that fit them, of those problems or the first ones of more.
constexpr uint32_t kInlineSpans = ATTN_SM90_SPANS_EACH * kInlineProblems;
// Problems of one layout whose maps are arenas': they stand behind the first one.
constexpr uint32_t kListedProblems = (kInlineProblems - 1) * sizeof(ProblemArgs) / sizeof(Own);

// Where a launch's problems are.
enum Place : uint32_t {
    kInline,   // in `problem`, with maps of their own
    kListed,   // in `problem` from its second element on, as Own; maps and layout are the first element's
    kUploaded, // in device memory; the first `listed` ones are listed as well, to begin with while the others come
};

struct GroupArgs {
    ProblemArgs problem[kInlineProblems];
    attn_sm90_span_t span[kInlineSpans];
    attn_sm90_origin_t origin[3]; // of the arenas of q, k and v
    const ProblemArgs *uploaded;
    const attn_sm90_span_t *uploaded_spans; // or NULL: `span` has them
    Place place;
    uint32_t has_arenas; // the first element of `problem` has their maps; else every problem has its own
    uint32_t early_maps; // uploaded problems whose maps every block acquires before its first tile: all, or 0
    uint32_t early;      // tile numbers are fetched one tile further ahead
    uint32_t spans, tiles;
    uint32_t listed;       // problems that are listed
    uint32_t tiles_listed; // tiles of these, whose spans are in `span`
    uint32_t *counter;     // zero before and after every launch
};

// Between busy kernels 16 KB cost no more than 1 (H100); on an idle stream the host needs 0.2 us for each KB.
static_assert(sizeof(GroupArgs) <= 5184, "more parameters take longer");

// An uploaded problem's maps must be acquired, and are not in reach of the launch's parameters.
ATTN_SM90_BOTH bool maps_are_uploaded(const GroupArgs &args)
{
    return args.place == kUploaded && args.has_arenas == 0;
}

// Uploaded, but not their maps.
ATTN_SM90_BOTH bool records_are_uploaded(const GroupArgs &args)
{
    return args.place == kUploaded && args.has_arenas != 0;
}

ATTN_SM90_BOTH const Own *problems_listed(const GroupArgs &args)
{
    return reinterpret_cast<const Own *>(&args.problem[1]);
}

// Where problem number `at` of a launch is: its maps, if it has them, and its layout.
ATTN_SM90_BOTH const ProblemArgs *problem_at(const GroupArgs &args, uint32_t at)
{
    return at < args.listed ? &args.problem[0] : args.place == kInline ? &args.problem[at] : &args.uploaded[at];
}

// Whose maps its loads take.
ATTN_SM90_BOTH const ProblemArgs *maps_of(const GroupArgs &args, uint32_t at)
{
    return args.has_arenas != 0 ? &args.problem[0] : problem_at(args, at);
}

// What it has of its own.
ATTN_SM90_BOTH const Own *own_at(const GroupArgs &args, uint32_t at)
{
    return at < args.listed ? problems_listed(args) + at : &problem_at(args, at)->own;
}

} // namespace attn_sm90
#endif
