// gather.cu: copies of many small pieces by one kernel. Over PCIe a copy engine needs about a microsecond between two
// pieces and another to hand over to the compute engine; a kernel on the same stream needs neither.
#include <cuda_runtime.h>

#include "cuda.h"

namespace {

// Descriptors in the kernel's parameters: of a lone request, and of a group, as many as 4 KiB hold. Parameters cost
// time by the kilobyte.
constexpr uint32_t kFewMoves = 4, kManyMoves = 100;
constexpr int kThreads = 256;
// Bytes that a block moves at a time. Small, so that the 192 KiB of a tiny request are read by 48 multiprocessors: each
// has only so many reads under way over PCIe.
constexpr size_t kChunk = kThreads * 16;

template <uint32_t kMoves> struct Moves {
    attn_cuda_move_t move[kMoves];
    uint32_t chunk_end[kMoves]; // chunks of this move and all before it
    uint32_t count, reserved;
};
static_assert(sizeof(Moves<kManyMoves>) <= 4096, "kernel parameters");

__device__ __forceinline__ uint64_t clock_ns()
{
    uint64_t ns;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(ns));
    return ns;
}

template <uint32_t kMoves>
__global__ void __launch_bounds__(kThreads)
    gather_kernel(const __grid_constant__ Moves<kMoves> moves, attn_cuda_gather_times_t *times, bool first)
{
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    if (times != nullptr && first && blockIdx.x == 0 && threadIdx.x == 0) {
        times->began = clock_ns();
    }
    const uint32_t chunks = moves.chunk_end[moves.count - 1];
    uint32_t index = 0;
    for (uint32_t chunk = blockIdx.x; chunk < chunks; chunk += gridDim.x) {
        while (chunk >= moves.chunk_end[index])
            ++index;
        const uint32_t first = index == 0 ? 0 : moves.chunk_end[index - 1];
        const attn_cuda_move_t &move = moves.move[index];
        const size_t begin = (chunk - first) * kChunk;
        const uint4 *from = reinterpret_cast<const uint4 *>(static_cast<const char *>(move.from) + begin);
        uint4 *to = reinterpret_cast<uint4 *>(static_cast<char *>(move.to) + begin);
        const size_t words = (move.bytes - begin < kChunk ? move.bytes - begin : kChunk) / 16;
        if (threadIdx.x < words) {
            to[threadIdx.x] = from[threadIdx.x];
        }
    }
    if (times != nullptr) {
        __syncthreads();
        if (threadIdx.x == 0) {
            times->ended[blockIdx.x] = clock_ns();
        }
    }
}

struct Gather {
    attn_cuda_gather_times_t *times;
    uint32_t blocks; // of the largest launch so far
    cudaStream_t stream;
};

template <uint32_t kMoves> cudaError_t launch(const attn_cuda_move_t *list, uint32_t count, bool first, Gather *gather)
{
    Moves<kMoves> moves;
    uint32_t chunks = 0;
    moves.count = count;
    for (uint32_t i = 0; i < count; ++i) {
        moves.move[i] = list[i];
        chunks += static_cast<uint32_t>((list[i].bytes + kChunk - 1) / kChunk);
        moves.chunk_end[i] = chunks;
    }
    if (chunks == 0)
        return cudaSuccess;
    const uint32_t most = ATTN_CUDA_GATHER_BLOCKS, blocks = chunks < most ? chunks : most;
    gather->blocks = blocks > gather->blocks ? blocks : gather->blocks;
    gather_kernel<kMoves><<<blocks, kThreads, 0, gather->stream>>>(moves, gather->times, first);
    return cudaGetLastError();
}

} // namespace

extern "C" int attn_cuda_gather(const attn_cuda_move_t *moves, uint32_t count, attn_cuda_gather_times_t *times,
                                uint32_t *ret_blocks, void *stream)
{
    Gather gather = {times, 0, static_cast<cudaStream_t>(stream)};
    cudaError_t rc = cudaSuccess;
    if (count <= kFewMoves) {
        rc = launch<kFewMoves>(moves, count, true, &gather);
    } else {
        for (uint32_t done = 0; done < count && rc == cudaSuccess; done += kManyMoves) {
            const uint32_t part = count - done < kManyMoves ? count - done : kManyMoves;
            rc = launch<kManyMoves>(moves + done, part, done == 0, &gather);
        }
    }
    *ret_blocks = gather.blocks;
    return rc;
}
