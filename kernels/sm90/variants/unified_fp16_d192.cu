// variants/unified_fp16_d192.cu: the four kernels (causal, softcap) of one dtype and head-dim class.
#include "../unified.cuh"

namespace attn_sm90 {

const Kernel *kernels_fp16_d192()
{
    return KernelSet<__half, 192>::kKernels;
}

} // namespace attn_sm90
