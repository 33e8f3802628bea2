// mask.cuh: which scores of a block a row sees. Works on a consumer thread's accumulator (layout in ptx/wgmma.cuh).
#ifndef ATTN_SM90_MASK_CUH
#define ATTN_SM90_MASK_CUH

#include "place.cuh"
#include "scheduler.h"
#include "traits.cuh"

namespace attn_sm90 {

// The key limit of this thread's first row (its second one is 8 rows below), and the first block of its warp group that
// needs the mask. A causal limit is not clamped to s_kv: only rows beyond s_q, which nobody stores, would need it.
struct Mask {
    int32_t end;         // keys that the row sees, counted from this thread's first column of a block
    int32_t first_block; // blocks below it are visible to all rows of the warp group

    __device__ __forceinline__ bool applies(int block) const { return block >= first_block; }
};

template <class T> __device__ __forceinline__ Mask mask_of(const TileInfo &tile, int group)
{
    const int32_t row = tile.row[group];
    Mask mask;
    mask.end = (T::kCausal ? row + row_in_group() + 1 + tile.s_kv - tile.s_q : tile.s_kv) - 2 * (lane_id() & 3);
    mask.first_block = attn_sm90_visible_keys(row, tile.s_q, tile.s_kv, T::kCausal) / T::kKeys;
    return mask;
}

// Scores beyond a row's end become -inf. Compares with compile-time columns: two instructions per score.
template <class T> __device__ __forceinline__ void mask_apply(const Mask &mask, int block, float (&s)[T::kScoreRegs])
{
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const int end = mask.end + (T::kCausal ? 8 * r : 0) - block * T::kKeys;
#pragma unroll
        for (int j = 0; j < T::kKeys / 8; ++j) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                if (8 * j + e >= end) {
                    s[4 * j + 2 * r + e] = -INFINITY;
                }
            }
        }
    }
}

} // namespace attn_sm90
#endif
