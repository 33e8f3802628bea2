// naive.cu: instances of the plain fp32 kernel.
#include "kernels.h"
#include "naive.cuh"

namespace attn_cuda {

template <class T, int kHeadDim> static Kernel naive_instance(double step_us)
{
    using Tr = NaiveTraits<kHeadDim>;
    return {
        reinterpret_cast<const void *>(&naive_kernel<T, kHeadDim>), Tr::kSharedBytes, Tr::kRows, Tr::kKeys, 0, step_us};
}

template <class T> static Kernel naive_of_dtype(uint32_t d)
{
    if (d <= 64)
        return naive_instance<T, 64>(80);
    if (d <= 128)
        return naive_instance<T, 128>(140);
    return naive_instance<T, 256>(350);
}

Kernel naive_kernel_for(attn_dtype_t dtype, uint32_t d)
{
    switch (dtype) {
    case ATTN_DTYPE_F16:
        return naive_of_dtype<__half>(d);
    case ATTN_DTYPE_BF16:
        return naive_of_dtype<__nv_bfloat16>(d);
    case ATTN_DTYPE_F32:
        return naive_of_dtype<float>(d);
    case ATTN_DTYPE_INVALID:
        break;
    }
    return {};
}

} // namespace attn_cuda
