// ptx/math.cuh: exponent, tanh, packing and register-budget instructions, one per wrapper. Device code.
#ifndef ATTN_SM90_PTX_MATH_CUH
#define ATTN_SM90_PTX_MATH_CUH

#include <cstdint>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace attn_sm90 {

// 2^x in one MUFU operation (exp2f is four instructions). ex2(-inf) = +0.
// https://docs.nvidia.com/cuda/parallel-thread-execution/#floating-point-instructions-ex2
__device__ __forceinline__ float ex2(float x)
{
    float y;
    asm volatile("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Absolute error up to 2^-22 for x in [1/2, 2], relative error up to 2^-22 elsewhere.
// https://docs.nvidia.com/cuda/parallel-thread-execution/#floating-point-instructions-lg2
__device__ __forceinline__ float lg2(float x)
{
    float y;
    asm volatile("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// 1/x, relative error up to 2^-23. https://docs.nvidia.com/cuda/parallel-thread-execution/#floating-point-instructions-rcp
__device__ __forceinline__ float rcp(float x)
{
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Relative error up to 2^-11. https://docs.nvidia.com/cuda/parallel-thread-execution/#floating-point-instructions-tanh
__device__ __forceinline__ float tanh_approx(float x)
{
    float y;
    asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Two floats to one register of 16-bit elements, `lo` in the low half.
// https://docs.nvidia.com/cuda/parallel-thread-execution/#data-movement-and-conversion-instructions-cvt
template <class E> __device__ __forceinline__ uint32_t pack2(float lo, float hi);
template <> __device__ __forceinline__ uint32_t pack2<__half>(float lo, float hi)
{
    uint32_t r;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
}
template <> __device__ __forceinline__ uint32_t pack2<__nv_bfloat16>(float lo, float hi)
{
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
}

// Nearest value of E.
template <class E> __device__ __forceinline__ float rounded(float x);
template <> __device__ __forceinline__ float rounded<__half>(float x)
{
    return __half2float(__float2half_rn(x));
}
template <> __device__ __forceinline__ float rounded<__nv_bfloat16>(float x)
{
    return __bfloat162float(__float2bfloat16_rn(x));
}

// x * 0 + y on pairs of 16-bit elements: 0 stays 0 while every x is finite, and becomes NaN otherwise.
// https://docs.nvidia.com/cuda/parallel-thread-execution/#half-precision-floating-point-instructions-fma
template <class E> __device__ __forceinline__ uint32_t fma2_zero(uint32_t x, uint32_t y);
template <> __device__ __forceinline__ uint32_t fma2_zero<__half>(uint32_t x, uint32_t y)
{
    asm("fma.rn.f16x2 %0, %1, %2, %0;" : "+r"(y) : "r"(x), "r"(0));
    return y;
}
template <> __device__ __forceinline__ uint32_t fma2_zero<__nv_bfloat16>(uint32_t x, uint32_t y)
{
    asm("fma.rn.bf16x2 %0, %1, %2, %0;" : "+r"(y) : "r"(x), "r"(0));
    return y;
}

// https://docs.nvidia.com/cuda/parallel-thread-execution/#miscellaneous-instructions-setmaxnreg
template <int kRegisters> __device__ __forceinline__ void registers_raise()
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters> __device__ __forceinline__ void registers_drop()
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

} // namespace attn_sm90
#endif
