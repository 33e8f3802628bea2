// mask.cuh: which scores of a block a row sees. Works on a consumer thread's accumulator (layout in ptx/wgmma.cuh).
#ifndef ATTN_SM90_MASK_CUH
#define ATTN_SM90_MASK_CUH

#include "scheduler.h"
#include "traits.cuh"

namespace attn_sm90 {

// The key limits of this thread's two rows, and the first block of its warp group that needs the mask.
struct Mask {
    int32_t end[2];      // keys that row r sees
    int32_t first_block; // blocks below it are visible to all rows of the warp group
};

template <class T> __device__ __forceinline__ Mask mask_of(const TileInfo &tile, int group, int row_in_group)
{
    const int32_t row = tile.row + group * kRowsPerGroup;
    Mask mask;
    mask.end[0] = attn_sm90_visible_keys(row + row_in_group, tile.s_q, tile.s_kv, T::kCausal);
    mask.end[1] = attn_sm90_visible_keys(row + row_in_group + 8, tile.s_q, tile.s_kv, T::kCausal);
    mask.first_block = attn_sm90_visible_keys(row, tile.s_q, tile.s_kv, T::kCausal) / T::kKeys;
    return mask;
}

// Scores beyond a row's end become -inf. Compares with compile-time columns: two instructions per score.
template <class T>
__device__ __forceinline__ void mask_apply(const Mask &mask, int block, int lane, float (&s)[T::kScoreRegs])
{
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const int end = mask.end[r] - block * T::kKeys - 2 * (lane & 3);
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
