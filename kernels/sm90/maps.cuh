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
    const uint32_t h_kv = p.h_q / p.ratio, s_q = static_cast<uint32_t>(p.s_q);
    return {p.q,
            {p.d, p.ratio, s_q, h_kv, p.batch},
            {map_stride(p.ratio, p.q_stride.h), map_stride(s_q, p.q_stride.s), map_stride(h_kv, p.q_stride.h * p.ratio),
             map_stride(p.batch, p.q_stride.b)}};
}

// Of K or V. Without keys it is one row of Q: every tile reads one block and masks it.
ATTN_SM90_BOTH MapShape<kKvRank> map_of_kv(const ProblemArgs &p, const void *base, const Strides &stride)
{
    if (p.s_kv == 0) {
        return {p.q, {p.d, 1, 1, 1}, {16, 16, 16}};
    }
    const uint32_t h_kv = p.h_q / p.ratio, s_kv = static_cast<uint32_t>(p.s_kv);
    return {base,
            {p.d, s_kv, h_kv, p.batch},
            {map_stride(s_kv, stride.s), map_stride(h_kv, stride.h), map_stride(p.batch, stride.b)}};
}

} // namespace attn_sm90
#endif
