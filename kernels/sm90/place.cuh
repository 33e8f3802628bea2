// place.cuh: a consumer thread's place among its warp group's 64 rows.
#ifndef ATTN_SM90_PLACE_CUH
#define ATTN_SM90_PLACE_CUH

namespace attn_sm90 {

__device__ __forceinline__ int lane_id()
{
    return threadIdx.x & 31;
}

// The first of the two rows, 8 apart, that this thread's accumulators hold.
__device__ __forceinline__ int row_in_group()
{
    return (threadIdx.x & 96) / 2 + (threadIdx.x & 31) / 4;
}

} // namespace attn_sm90
#endif
