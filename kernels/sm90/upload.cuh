// upload.cuh: brings a launch's problems to device memory as parameters of small kernels. A copy from pinned memory
// would cost 18 us on the way (H100, between two kernels of a stream); parameters travel with the launch.
#ifndef ATTN_SM90_UPLOAD_CUH
#define ATTN_SM90_UPLOAD_CUH

#include <cstdint>
#include <cstring>
#include <cuda_runtime.h>

#include "ptx/barrier.cuh"

namespace attn_sm90 {

template <uint32_t kBytes> struct Parcel {
    alignas(16) unsigned char bytes[kBytes];
};

// 16 bytes at a generic address. The compiler would read parameters through the constant cache, which takes one address
// at a time: 10 us for the problems of a large group.
// https://docs.nvidia.com/cuda/parallel-thread-execution/#data-movement-and-conversion-instructions-ld
__device__ __forceinline__ uint4 load_generic(const void *from)
{
    uint4 x;
    asm volatile("ld.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w) : "l"(from));
    return x;
}

constexpr uint32_t kUnpackThreads = 128; // 16 bytes each

template <uint32_t kBytes>
__global__ void __launch_bounds__(kUnpackThreads)
    unpack(const __grid_constant__ Parcel<kBytes> parcel, uint4 *to, uint32_t count)
{
    grid_release_dependents();
    const uint32_t i = blockIdx.x * kUnpackThreads + threadIdx.x;
    if (i < count) {
        to[i] = load_generic(parcel.bytes + 16 * i);
    }
}

template <uint32_t kBytes>
cudaError_t upload_parcel(unsigned char *to, const unsigned char *from, size_t bytes, cudaStream_t stream)
{
    Parcel<kBytes> parcel;
    memcpy(parcel.bytes, from, bytes);
    const uint32_t count = static_cast<uint32_t>(bytes / 16);
    unpack<kBytes><<<(count + kUnpackThreads - 1) / kUnpackThreads, kUnpackThreads, 0, stream>>>(
        parcel, reinterpret_cast<uint4 *>(to), count);
    return cudaGetLastError();
}

// Queues the upload of `bytes` (a multiple of 16) to 16-byte aligned device memory; `from` is read before it returns.
inline cudaError_t upload(unsigned char *to, const unsigned char *from, size_t bytes, cudaStream_t stream)
{
    constexpr uint32_t kSmall = 8192, kLarge = 32640; // parameters of a kernel are at most 32764 bytes
    cudaError_t rc = cudaSuccess;
    while (rc == cudaSuccess && bytes > 0) {
        const size_t now = bytes < kLarge ? bytes : kLarge;
        rc =
            now <= kSmall ? upload_parcel<kSmall>(to, from, now, stream) : upload_parcel<kLarge>(to, from, now, stream);
        to += now;
        from += now;
        bytes -= now;
    }
    return rc;
}

} // namespace attn_sm90
#endif
