// kernels.cuh: the compiled instantiations, as the host launcher sees them.
#ifndef ATTN_SM90_KERNELS_CUH
#define ATTN_SM90_KERNELS_CUH

#include "args.cuh"

namespace attn_sm90 {

struct Kernel {
    void (*entry)(const GroupArgs);
    uint32_t shared_bytes;
    int threads, rows, keys;
    int column; // elements of the head dim in a row of shared memory, which is as long as the swizzle is wide
};

// Four kernels of a dtype and head-dim class, indexed by 2*causal + softcap; one file under variants/ each.
const Kernel *kernels_fp16_d64();
const Kernel *kernels_fp16_d96();
const Kernel *kernels_fp16_d128();
const Kernel *kernels_fp16_d192();
const Kernel *kernels_fp16_d256();
const Kernel *kernels_bf16_d64();
const Kernel *kernels_bf16_d96();
const Kernel *kernels_bf16_d128();
const Kernel *kernels_bf16_d192();
const Kernel *kernels_bf16_d256();

} // namespace attn_sm90
#endif
