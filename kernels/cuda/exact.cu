// exact.cu: instances of the fp64 kernel.
#include "exact.cuh"
#include "kernels.h"

namespace attn_cuda {

template <class T, int kHeadDim> static Kernel exact_instance(double step_us)
{
    using Tr = ExactTraits<kHeadDim>;
    return {reinterpret_cast<const void *>(&exact_kernel<T, kHeadDim>),
            Tr::kSharedBytes,
            Tr::kRows,
            Tr::kKeys,
            sizeof(double) * Tr::kState * kThreads,
            step_us};
}

template <class T> static Kernel exact_of_dtype(uint32_t d)
{
    if (d <= 64)
        return exact_instance<T, 64>(12);
    if (d <= 128)
        return exact_instance<T, 128>(19);
    return exact_instance<T, 256>(16);
}

Kernel exact_kernel_for(attn_dtype_t dtype, uint32_t d)
{
    switch (dtype) {
    case ATTN_DTYPE_F16:
        return exact_of_dtype<__half>(d);
    case ATTN_DTYPE_BF16:
        return exact_of_dtype<__nv_bfloat16>(d);
    case ATTN_DTYPE_F32:
        return exact_of_dtype<float>(d);
    case ATTN_DTYPE_INVALID:
        break;
    }
    return {};
}

} // namespace attn_cuda
