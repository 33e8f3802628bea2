// pipeline.cuh: rings of shared-memory buffers between the producer and the consumers. Every buffer has a barrier
// of its own for full (TMA bytes) and for empty (one arrival per consumer warp).
#ifndef ATTN_SM90_PIPELINE_CUH
#define ATTN_SM90_PIPELINE_CUH

#include "ptx/barrier.cuh"
#include "traits.cuh"

namespace attn_sm90 {

// Position in a ring of a power of two of buffers: the buffer and the parity of its current round, in one register.
template <int kBuffers> struct Ring {
    static_assert(kBuffers == 1 || kBuffers == 2 || kBuffers == 4, "advance and rings_make_uniform");
    uint32_t at = 0;
    __device__ __forceinline__ uint32_t index() const
    {
        return at & (kBuffers - 1);
    }
    __device__ __forceinline__ uint32_t parity() const
    {
        return at / kBuffers;
    }
    __device__ __forceinline__ void advance()
    {
        at = (at + 1) & (2 * kBuffers - 1);
    }
};

// Brings positions into uniform registers (ptx/barrier.cuh), all for the price of one.
template <int... kBuffers> __device__ __forceinline__ void rings_make_uniform(Ring<kBuffers> &...rings)
{
    static_assert(sizeof...(kBuffers) <= 8, "four bits each");
    uint32_t all = 0;
    ((all = all << 4 | rings.at), ...);
    all = uniform(all);
    int low = 4 * sizeof...(kBuffers);
    ((low -= 4, rings.at = all >> low & (2 * kBuffers - 1)), ...);
}

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

// All warps of the block, each where it needs the barriers first.
template <class T> __device__ __forceinline__ void pipeline_wait_init()
{
    named_barrier_sync_apart(kBarrierBlock, T::kThreads);
}

// One thread, before anyone returns from the above.
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
        mbarrier_init(smem_addr(&sm.tile_full[i]), T::kGroups); // lanes of the scheduler warp
        mbarrier_init(smem_addr(&sm.tile_ready[i]), T::kGroups);
        mbarrier_init(smem_addr(&sm.tile_empty[i]), kWarpsPerGroup * T::kGroups + 1); // and the load warp
    }
    for (int i = 0; i < kSchedulers; ++i) {
        mbarrier_init(smem_addr(&sm.tile_wanted[i]), 1);
        mbarrier_init(smem_addr(&sm.tile_numbered[i]), 1);
    }
    sm.ended = 0;
    fence_mbarrier_init();
}

} // namespace attn_sm90
#endif
