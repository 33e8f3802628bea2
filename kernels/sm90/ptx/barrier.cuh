// ptx/barrier.cuh: mbarriers in shared memory and named barriers, one instruction per wrapper.
// Device code; addresses are 32-bit shared-memory addresses. PTX ISA 9.7.13.
#ifndef ATTN_SM90_PTX_BARRIER_CUH
#define ATTN_SM90_PTX_BARRIER_CUH

#include <cstdint>

namespace attn_sm90 {

// Named barriers of the kernel. Order barrier w belongs to consumer warp group w.
enum NamedBarrier : int { kBarrierBlock = 0, kBarrierOrder0 = 1, kBarrierOrder1 = 2, kBarrierOrder2 = 3 };

#ifdef ATTN_SM90_JITTER
// Test build only: a pseudo-random delay of up to about 2 us before every wait and arrive, so that a missing
// barrier shows as a wrong result. The clock seeds it, so that runs differ. Arrivals come from one lane; waits come
// from whole warps, which must stay converged for the instructions that follow.
__device__ __forceinline__ void jitter_lane(uint32_t salt)
{
    uint32_t x = (static_cast<uint32_t>(clock64()) ^ (salt * 2654435761u)) + (threadIdx.x >> 5) * 40503u;
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    if ((x & 3u) == 0) {
        __nanosleep((x >> 8) & 2047u);
    }
}
__device__ __forceinline__ void jitter_warp(uint32_t salt)
{
    __syncwarp();
    jitter_lane(salt);
    __syncwarp();
}
#else
__device__ __forceinline__ void jitter_lane(uint32_t) {}
__device__ __forceinline__ void jitter_warp(uint32_t) {}
#endif

__device__ __forceinline__ uint32_t smem_addr(const void *p)
{
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// A value that all lanes agree on, in a uniform register. Descriptors made of anything else are moved to uniform
// registers one by one, between the wgmma instructions that use them.
// https://docs.nvidia.com/cuda/parallel-thread-execution/#parallel-synchronization-and-communication-instructions-redux-sync
__device__ __forceinline__ uint32_t uniform(uint32_t x)
{
    uint32_t y;
    asm volatile("redux.sync.or.b32 %0, %1, 0xffffffff;" : "=r"(y) : "r"(x));
    return y;
}

// Whether any lane says so.
// https://docs.nvidia.com/cuda/parallel-thread-execution/#parallel-synchronization-and-communication-instructions-vote-sync
__device__ __forceinline__ bool warp_any(bool x)
{
    return __any_sync(0xffffffffu, x);
}

// https://docs.nvidia.com/cuda/parallel-thread-execution/#parallel-synchronization-and-communication-instructions-mbarrier-init
__device__ __forceinline__ void mbarrier_init(uint32_t bar, uint32_t arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(arrivals) : "memory");
}

// https://docs.nvidia.com/cuda/parallel-thread-execution/#parallel-synchronization-and-communication-instructions-membar-fence
__device__ __forceinline__ void fence_mbarrier_init()
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// https://docs.nvidia.com/cuda/parallel-thread-execution/#parallel-synchronization-and-communication-instructions-mbarrier-arrive
__device__ __forceinline__ void mbarrier_arrive(uint32_t bar)
{
    jitter_lane(bar);
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}

// https://docs.nvidia.com/cuda/parallel-thread-execution/#parallel-synchronization-and-communication-instructions-mbarrier-arrive
__device__ __forceinline__ void mbarrier_arrive_expect_tx(uint32_t bar, uint32_t bytes)
{
    jitter_lane(bar);
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}

// Returns when the phase with this parity has completed.
// https://docs.nvidia.com/cuda/parallel-thread-execution/#parallel-synchronization-and-communication-instructions-mbarrier-test-wait-try-wait
__device__ __forceinline__ void mbarrier_wait(uint32_t bar, uint32_t parity)
{
    jitter_warp(bar + 1);
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "again_%=:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again_%=;\n"
                 "}\n" ::"r"(bar),
                 "r"(parity)
                 : "memory");
}

// https://docs.nvidia.com/cuda/parallel-thread-execution/#parallel-synchronization-and-communication-instructions-bar
__device__ __forceinline__ void named_barrier_sync(int id, int threads)
{
    jitter_warp(static_cast<uint32_t>(id));
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// The same for warps that wait at different places in the code.
// https://docs.nvidia.com/cuda/parallel-thread-execution/#parallel-synchronization-and-communication-instructions-bar
__device__ __forceinline__ void named_barrier_sync_apart(int id, int threads)
{
    jitter_warp(static_cast<uint32_t>(id));
    asm volatile("barrier.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// https://docs.nvidia.com/cuda/parallel-thread-execution/#parallel-synchronization-and-communication-instructions-bar
__device__ __forceinline__ void named_barrier_arrive(int id, int threads)
{
    jitter_warp(static_cast<uint32_t>(id) + 16);
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// Lets the next kernel of the stream begin, if it was launched so; it waits with the one below.
// https://docs.nvidia.com/cuda/parallel-thread-execution/#parallel-synchronization-and-communication-instructions-griddepcontrol
__device__ __forceinline__ void grid_release_dependents()
{
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

// Returns when the kernel before this one has ended and its writes are visible.
// https://docs.nvidia.com/cuda/parallel-thread-execution/#parallel-synchronization-and-communication-instructions-griddepcontrol
__device__ __forceinline__ void grid_wait()
{
    asm volatile("griddepcontrol.wait;" ::: "memory");
}

} // namespace attn_sm90
#endif
