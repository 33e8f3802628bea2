// kernels.h: the plain CUDA kernels by dtype and head dim, as what a planner needs to cut work into launches. Host
// code.
#ifndef ATTN_CUDA_KERNELS_H
#define ATTN_CUDA_KERNELS_H

#include <cstddef>

#include "attn/kernel.h"
#include "problem.cuh"

namespace attn_cuda {

struct Kernel {
    const void *entry; // void (Launch)
    int shared_bytes;
    int rows, keys;     // of a tile, and of one step of its loop over the keys
    size_t state_bytes; // of a tile whose keys come in several launches; 0: cannot
    double step_us;     // of a step when every multiprocessor has its two blocks, on an H200 at 1980 MHz
};

// The kernel for head dims up to `d`. NULL entry for an invalid dtype.
Kernel exact_kernel_for(attn_dtype_t dtype, uint32_t d);
Kernel naive_kernel_for(attn_dtype_t dtype, uint32_t d);

} // namespace attn_cuda
#endif
