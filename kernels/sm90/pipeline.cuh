// pipeline.cuh: rings of shared-memory buffers between the producer and the consumers. Every buffer has a barrier
// of its own for full (TMA bytes) and for empty (one arrival per consumer warp).
#ifndef ATTN_SM90_PIPELINE_CUH
#define ATTN_SM90_PIPELINE_CUH

#include "ptx/barrier.cuh"
#include "traits.cuh"

namespace attn_sm90 {

// Position in a ring: the buffer and the parity of its current round.
template <int kBuffers> struct Ring {
    uint32_t index = 0, parity = 0;
    __device__ __forceinline__ void make_uniform()
    {
        const uint32_t both = uniform(index << 1 | parity);
        index = both >> 1;
        parity = both & 1;
    }
    __device__ __forceinline__ void advance()
    {
        if (++index == kBuffers) {
            index = 0;
            parity ^= 1;
        }
    }
};

__device__ __forceinline__ void wait_full(const uint64_t &bar, uint32_t parity)
{
    mbarrier_wait(smem_addr(&bar), parity);
}

// The first round of a ring finds every buffer empty: the phase before the first counts as completed.
__device__ __forceinline__ void wait_empty(const uint64_t &bar, uint32_t parity)
{
    mbarrier_wait(smem_addr(&bar), parity ^ 1);
}

// One arrival per warp: wgmma's wait is per warp, so each warp answers for its own reads.
__device__ __forceinline__ void release(uint64_t &bar)
{
    __syncwarp();
    if ((threadIdx.x & 31) == 0) {
        mbarrier_arrive(smem_addr(&bar));
    }
}

template <class T> __device__ __forceinline__ void pipeline_init(typename T::Shared &sm)
{
    constexpr uint32_t kWarpsPerGroup = kWarpGroup / 32;
    for (int b = 0; b < T::kQBuffers; ++b) {
        for (int g = 0; g < T::kGroups; ++g) {
            mbarrier_init(smem_addr(&sm.q_full[b][g]), 1);
            mbarrier_init(smem_addr(&sm.q_empty[b][g]), kWarpsPerGroup);
        }
    }
    for (int i = 0; i < T::kStages; ++i) {
        mbarrier_init(smem_addr(&sm.k_full[i]), 1);
        mbarrier_init(smem_addr(&sm.v_full[i]), 1);
        mbarrier_init(smem_addr(&sm.k_empty[i]), kWarpsPerGroup * T::kGroups);
        mbarrier_init(smem_addr(&sm.v_empty[i]), kWarpsPerGroup * T::kGroups);
    }
    for (int i = 0; i < kTileSlots; ++i) {
        mbarrier_init(smem_addr(&sm.tile_full[i]), 1);
        mbarrier_init(smem_addr(&sm.tile_empty[i]), kWarpsPerGroup * T::kGroups + 1); // and the load warp
    }
    for (int i = 0; i < kTilesAhead; ++i) {
        mbarrier_init(smem_addr(&sm.tile_wanted[i]), 1);
    }
    fence_mbarrier_init();
}

} // namespace attn_sm90
#endif
