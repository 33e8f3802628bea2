// unified.cuh: the kernel, composed of its roles: warp group 0 schedules and loads, the others consume.
#ifndef ATTN_SM90_UNIFIED_CUH
#define ATTN_SM90_UNIFIED_CUH

#include "announce.cuh"
#include "consumer.cuh"
#include "kernels.cuh"
#include "producer.cuh"

namespace attn_sm90 {

template <class T> __global__ void __launch_bounds__(T::kThreads, 1) unified(const __grid_constant__ GroupArgs args)
{
    extern __shared__ __align__(1024) unsigned char memory[];
    typename T::Shared &sm = *reinterpret_cast<typename T::Shared *>(memory);

    // Launched early: for what is uploaded waits who reads it first (schedule()), for inputs who loads them
    // (produce()).
    if (threadIdx.x >= kWarpGroup) {
        pipeline_wait_init<T>();
        registers_raise<T::kTile.consumer_registers>();
        consume<T>(sm);
        return;
    }
    registers_drop<T::kTile.producer_registers>();
    switch (threadIdx.x / 32) {
    case 0:
        if (threadIdx.x == 0) {
            pipeline_init<T>(sm);
        }
        pipeline_wait_init<T>();
        produce<T>(sm, args);
        break;
    case 1:
    case 2:
        schedule<T>(sm, args, static_cast<int>(threadIdx.x / 32) - 1);
        break;
    default:
        if (threadIdx.x == 96 && !maps_are_uploaded(args)) {
            // The first loads would wait for these.
            tma_prefetch_map(&args.problem[0].q_map);
            tma_prefetch_map(&args.problem[0].k_map);
            tma_prefetch_map(&args.problem[0].v_map);
        }
        first_problem_fetch<T>(sm, args);
        pipeline_wait_init<T>();
    }
}

template <class T> constexpr Kernel kernel_of()
{
    return {unified<T>, static_cast<uint32_t>(sizeof(typename T::Shared)), T::kThreads, T::kRows, T::kKeys, T::kColumn};
}

// Indexed by 2*causal + softcap.
template <class E, int kHeadDim> struct KernelSet {
    static constexpr Kernel kKernels[4] = {
        kernel_of<Traits<E, kHeadDim, false, false>>(), kernel_of<Traits<E, kHeadDim, false, true>>(),
        kernel_of<Traits<E, kHeadDim, true, false>>(), kernel_of<Traits<E, kHeadDim, true, true>>()};
};

} // namespace attn_sm90
#endif
