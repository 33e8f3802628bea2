// maps.cuh: what the tensor maps of a problem say, for the driver's encoder on the host and for the kernel that makes
// the maps of uploaded problems. Pure.
#ifndef ATTN_SM90_MAPS_CUH
#define ATTN_SM90_MAPS_CUH

#include "args.cuh"

namespace attn_sm90 {

constexpr int kQRank = 5, kKvRank = 4;

// The first dimension is the head dim, with stride 1.
template <int kRank> struct MapShape {
    const void *base;
    uint32_t extent[kRank];
    uint64_t stride[kRank - 1]; // bytes
};

// A stride that is never used may be anything and is replaced by one that is allowed.
ATTN_SM90_BOTH uint64_t map_stride(uint32_t extent, int64_t elements)
{
    return extent == 1 ? 16 : static_cast<uint64_t>(elements) * 2;
}

ATTN_SM90_BOTH MapShape<kQRank> map_of_q(const ProblemArgs &p)
{
    const Layout &l = p.layout;
    const uint32_t h_kv = l.h_q / l.ratio, s_q = static_cast<uint32_t>(p.own.s_q);
    return {p.own.q,
            {l.d, l.ratio, s_q, h_kv, l.batch},
            {map_stride(l.ratio, l.q_stride.h), map_stride(s_q, l.q_stride.s), map_stride(h_kv, l.q_stride.h * l.ratio),
             map_stride(l.batch, l.q_stride.b)}};
}

// Of K or V. Without keys it is one row of Q: every tile reads one block and masks it.
ATTN_SM90_BOTH MapShape<kKvRank> map_of_kv(const ProblemArgs &p, const void *base, const Strides &stride)
{
    const Layout &l = p.layout;
    if (p.own.s_kv == 0) {
        return {p.own.q, {l.d, 1, 1, 1}, {16, 16, 16}};
    }
    const uint32_t h_kv = l.h_q / l.ratio, s_kv = static_cast<uint32_t>(p.own.s_kv);
    return {base,
            {l.d, s_kv, h_kv, l.batch},
            {map_stride(s_kv, stride.s), map_stride(h_kv, stride.h), map_stride(l.batch, stride.b)}};
}

inline const void *arena_base(const attn_sm90_arena_t &arena)
{
    return reinterpret_cast<const void *>(arena.origin.base);
}

// Of an arena of Q: as map_of_q(), but its rows and batches are the arena's.
inline MapShape<kQRank> map_of_q_arena(const Layout &l, const attn_sm90_arena_t &arena)
{
    const uint32_t h_kv = l.h_q / l.ratio;
    return {arena_base(arena),
            {l.d, l.ratio, arena.origin.rows, h_kv, arena.places},
            {map_stride(l.ratio, l.q_stride.h), static_cast<uint64_t>(arena.stride),
             map_stride(h_kv, l.q_stride.h * l.ratio), uint64_t{1} << arena.origin.step_log}};
}

// Of an arena of K or V.
inline MapShape<kKvRank> map_of_kv_arena(const Layout &l, const attn_sm90_arena_t &arena, const Strides &stride)
{
    const uint32_t h_kv = l.h_q / l.ratio;
    return {arena_base(arena),
            {l.d, arena.origin.rows, h_kv, arena.places},
            {static_cast<uint64_t>(arena.stride), map_stride(h_kv, stride.h), uint64_t{1} << arena.origin.step_log}};
}

} // namespace attn_sm90
#endif
