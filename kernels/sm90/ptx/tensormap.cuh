// ptx/tensormap.cuh: changes to a tensor map in shared memory, one instruction per wrapper. One thread at a time: a map
// packs its fields. Device code; `map` is a 32-bit shared-memory address. PTX ISA 9.7.9.27.
#ifndef ATTN_SM90_PTX_TENSORMAP_CUH
#define ATTN_SM90_PTX_TENSORMAP_CUH

#include <cstdint>

namespace attn_sm90 {

// https://docs.nvidia.com/cuda/parallel-thread-execution/#data-movement-and-conversion-instructions-tensormap-replace
__device__ __forceinline__ void tensormap_replace_address(uint32_t map, const void *address)
{
    asm volatile("tensormap.replace.tile.global_address.shared::cta.b1024.b64 [%0], %1;" ::"r"(map), "l"(address)
                 : "memory");
}

// https://docs.nvidia.com/cuda/parallel-thread-execution/#data-movement-and-conversion-instructions-tensormap-replace
template <int kDimension> __device__ __forceinline__ void tensormap_replace_extent(uint32_t map, uint32_t extent)
{
    asm volatile("tensormap.replace.tile.global_dim.shared::cta.b1024.b32 [%0], %1, %2;" ::"r"(map), "n"(kDimension),
                 "r"(extent)
                 : "memory");
}

// The stride in bytes of dimension kDimension + 1.
// https://docs.nvidia.com/cuda/parallel-thread-execution/#data-movement-and-conversion-instructions-tensormap-replace
template <int kDimension> __device__ __forceinline__ void tensormap_replace_stride(uint32_t map, uint64_t bytes)
{
    asm volatile("tensormap.replace.tile.global_stride.shared::cta.b1024.b64 [%0], %1, %2;" ::"r"(map), "n"(kDimension),
                 "l"(bytes)
                 : "memory");
}

// Makes tensor maps that this thread wrote to global memory visible to whoever acquires them (ptx/tma.cuh).
// https://docs.nvidia.com/cuda/parallel-thread-execution/#parallel-synchronization-and-communication-instructions-membar-fence
__device__ __forceinline__ void fence_tensormap_release()
{
    asm volatile("fence.proxy.tensormap::generic.release.gpu;" ::: "memory");
}

} // namespace attn_sm90
#endif
