// variants/unified_bf16_d128.cu: the four kernels (causal, softcap) of one dtype and head-dim class.
#include "../unified.cuh"

namespace attn_sm90 {

const Kernel *kernels_bf16_d128()
{
    return KernelSet<__nv_bfloat16, 128>::kKernels;
}

} // namespace attn_sm90
