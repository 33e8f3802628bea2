// ptx/load.cuh: a load by address, one instruction. Device code.
#ifndef ATTN_SM90_PTX_LOAD_CUH
#define ATTN_SM90_PTX_LOAD_CUH

#include <cstdint>

namespace attn_sm90 {

// 16 bytes at a generic address. The compiler would read parameters through the constant cache, which takes one address
// at a time: 10 us for the problems of a large group.
// https://docs.nvidia.com/cuda/parallel-thread-execution/#data-movement-and-conversion-instructions-ld
__device__ __forceinline__ uint4 load_generic(const void *from)
{
    uint4 x;
    asm volatile("ld.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w) : "l"(from));
    return x;
}

} // namespace attn_sm90
#endif
