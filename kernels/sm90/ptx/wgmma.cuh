// ptx/wgmma.cuh: warp-group matrix products m64nNk16, fp32 accumulators, one instruction per wrapper.
// WgmmaSs: D[64xN] (+)= A * B^T with A and B K-major in shared memory. WgmmaRs: A in registers, B MN-major in
// shared memory. All operands swizzled over 64 or 128 bytes. Accumulator element (row, col) of thread t of the warp
// group: row = 16*(t/32) + (t%32)/4 + 8*r, col = 8*j + 2*(t%4) + e at index 4*j + 2*r + e.
// https://docs.nvidia.com/cuda/parallel-thread-execution/#asynchronous-warpgroup-level-matrix-instructions
#ifndef ATTN_SM90_PTX_WGMMA_CUH
#define ATTN_SM90_PTX_WGMMA_CUH

#include <cstdint>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace attn_sm90 {

// Orders register writes before the warp group's next wgmma.
// #asynchronous-warpgroup-level-matrix-instructions-wgmma-fence
__device__ __forceinline__ void wgmma_fence()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

// #asynchronous-warpgroup-level-matrix-instructions-wgmma-commit-group
__device__ __forceinline__ void wgmma_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Returns when at most kPending groups are in flight.
// #asynchronous-warpgroup-level-matrix-instructions-wgmma-wait-group
template <int kPending> __device__ __forceinline__ void wgmma_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// No instruction: keeps the compiler from moving accesses to these registers across this point.
template <int kCount> __device__ __forceinline__ void hold(float (&r)[kCount])
{
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
        asm volatile("" : "+f"(r[i])::"memory");
    }
}
template <int kCount> __device__ __forceinline__ void hold(uint32_t (&r)[kCount])
{
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
        asm volatile("" : "+r"(r[i])::"memory");
    }
}

// Shared-memory matrix descriptor, kRowBytes-byte swizzle: groups of 8 rows of kRowBytes follow each other. `leading`
// is the distance in bytes of columns, one row wide, of an MN-major operand (ignored when K-major).
// #asynchronous-warpgroup-level-matrix-shared-memory-layout-matrix-descriptor
template <int kRowBytes> __device__ __forceinline__ uint64_t matrix_descriptor(uint32_t address, uint32_t leading)
{
    static_assert(kRowBytes == 128 || kRowBytes == 64, "swizzles that are used");
    constexpr uint64_t kSwizzle = kRowBytes == 128 ? 1 : 2, kGroupBytes = 8 * kRowBytes;
    return kSwizzle << 62 | kGroupBytes >> 4 << 32 | static_cast<uint64_t>(leading >> 4) << 16 |
           ((address & 0x3FFFF) >> 4);
}

template <class E, int kN> struct WgmmaSs;
template <class E, int kN> struct WgmmaRs;

// Operand lists of 8 registers, and lists of n such groups.
#define ATTN_R0 "%0, %1, %2, %3, %4, %5, %6, %7"
#define ATTN_R1 "%8, %9, %10, %11, %12, %13, %14, %15"
#define ATTN_R2 "%16, %17, %18, %19, %20, %21, %22, %23"
#define ATTN_R3 "%24, %25, %26, %27, %28, %29, %30, %31"
#define ATTN_R4 "%32, %33, %34, %35, %36, %37, %38, %39"
#define ATTN_R5 "%40, %41, %42, %43, %44, %45, %46, %47"
#define ATTN_R6 "%48, %49, %50, %51, %52, %53, %54, %55"
#define ATTN_R7 "%56, %57, %58, %59, %60, %61, %62, %63"
#define ATTN_R8 "%64, %65, %66, %67, %68, %69, %70, %71"
#define ATTN_R9 "%72, %73, %74, %75, %76, %77, %78, %79"
#define ATTN_R10 "%80, %81, %82, %83, %84, %85, %86, %87"
#define ATTN_R11 "%88, %89, %90, %91, %92, %93, %94, %95"
#define ATTN_R12 "%96, %97, %98, %99, %100, %101, %102, %103"
#define ATTN_R13 "%104, %105, %106, %107, %108, %109, %110, %111"
#define ATTN_R14 "%112, %113, %114, %115, %116, %117, %118, %119"
#define ATTN_R15 "%120, %121, %122, %123, %124, %125, %126, %127"
#define ATTN_F(d, g)                                                                                                   \
    "+f"(d[8 * g]), "+f"(d[8 * g + 1]), "+f"(d[8 * g + 2]), "+f"(d[8 * g + 3]), "+f"(d[8 * g + 4]),                    \
        "+f"(d[8 * g + 5]), "+f"(d[8 * g + 6]), "+f"(d[8 * g + 7])
#define ATTN_RL1 ATTN_R0
#define ATTN_FL1(d) ATTN_F(d, 0)
#define ATTN_RL2 ATTN_RL1 ", " ATTN_R1
#define ATTN_FL2(d) ATTN_FL1(d), ATTN_F(d, 1)
#define ATTN_RL3 ATTN_RL2 ", " ATTN_R2
#define ATTN_FL3(d) ATTN_FL2(d), ATTN_F(d, 2)
#define ATTN_RL4 ATTN_RL3 ", " ATTN_R3
#define ATTN_FL4(d) ATTN_FL3(d), ATTN_F(d, 3)
#define ATTN_RL5 ATTN_RL4 ", " ATTN_R4
#define ATTN_FL5(d) ATTN_FL4(d), ATTN_F(d, 4)
#define ATTN_RL6 ATTN_RL5 ", " ATTN_R5
#define ATTN_FL6(d) ATTN_FL5(d), ATTN_F(d, 5)
#define ATTN_RL7 ATTN_RL6 ", " ATTN_R6
#define ATTN_FL7(d) ATTN_FL6(d), ATTN_F(d, 6)
#define ATTN_RL8 ATTN_RL7 ", " ATTN_R7
#define ATTN_FL8(d) ATTN_FL7(d), ATTN_F(d, 7)
#define ATTN_RL9 ATTN_RL8 ", " ATTN_R8
#define ATTN_FL9(d) ATTN_FL8(d), ATTN_F(d, 8)
#define ATTN_RL10 ATTN_RL9 ", " ATTN_R9
#define ATTN_FL10(d) ATTN_FL9(d), ATTN_F(d, 9)
#define ATTN_RL11 ATTN_RL10 ", " ATTN_R10
#define ATTN_FL11(d) ATTN_FL10(d), ATTN_F(d, 10)
#define ATTN_RL12 ATTN_RL11 ", " ATTN_R11
#define ATTN_FL12(d) ATTN_FL11(d), ATTN_F(d, 11)
#define ATTN_RL13 ATTN_RL12 ", " ATTN_R12
#define ATTN_FL13(d) ATTN_FL12(d), ATTN_F(d, 12)
#define ATTN_RL14 ATTN_RL13 ", " ATTN_R13
#define ATTN_FL14(d) ATTN_FL13(d), ATTN_F(d, 13)
#define ATTN_RL15 ATTN_RL14 ", " ATTN_R14
#define ATTN_FL15(d) ATTN_FL14(d), ATTN_F(d, 14)
#define ATTN_RL16 ATTN_RL15 ", " ATTN_R15
#define ATTN_FL16(d) ATTN_FL15(d), ATTN_F(d, 15)

#define ATTN_WGMMA_SS(E, TYPE, N, G, A, B, P)                                                                          \
    template <> struct WgmmaSs<E, N> {                                                                                 \
        static __device__ __forceinline__ void run(float (&d)[N / 2], uint64_t a, uint64_t b, int accumulate)          \
        {                                                                                                              \
            asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #P ", 0;\n"                                              \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" ATTN_RL##G               \
                         "}, %" #A ", %" #B ", p, 1, 1, 0, 0;\n}\n"                                                    \
                         : ATTN_FL##G(d)                                                                               \
                         : "l"(a), "l"(b), "r"(accumulate));                                                           \
        }                                                                                                              \
    }
#define ATTN_WGMMA_RS(E, TYPE, N, G, A0, A1, A2, A3, B)                                                                \
    template <> struct WgmmaRs<E, N> {                                                                                 \
        static __device__ __forceinline__ void run(float (&d)[N / 2], const uint32_t *a, uint64_t b)                   \
        {                                                                                                              \
            asm volatile("{\n.reg .pred p;\nsetp.eq.b32 p, 0, 0;\n"                                                    \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" ATTN_RL##G               \
                         "}, {%" #A0 ", %" #A1 ", %" #A2 ", %" #A3 "}, %" #B ", p, 1, 1, 1;\n}\n"                      \
                         : ATTN_FL##G(d)                                                                               \
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                        \
        }                                                                                                              \
    }
#define ATTN_WGMMA_SS_BOTH(N, G, A, B, P)                                                                              \
    ATTN_WGMMA_SS(__half, "f16", N, G, A, B, P);                                                                       \
    ATTN_WGMMA_SS(__nv_bfloat16, "bf16", N, G, A, B, P)
#define ATTN_WGMMA_RS_BOTH(N, G, A0, A1, A2, A3, B)                                                                    \
    ATTN_WGMMA_RS(__half, "f16", N, G, A0, A1, A2, A3, B);                                                             \
    ATTN_WGMMA_RS(__nv_bfloat16, "bf16", N, G, A0, A1, A2, A3, B)

// #asynchronous-warpgroup-level-matrix-instructions-wgmma-mma-async; N, register groups, operand numbers
ATTN_WGMMA_SS_BOTH(64, 4, 32, 33, 34);
ATTN_WGMMA_SS_BOTH(80, 5, 40, 41, 42);
ATTN_WGMMA_SS_BOTH(96, 6, 48, 49, 50);
ATTN_WGMMA_SS_BOTH(112, 7, 56, 57, 58);
ATTN_WGMMA_SS_BOTH(128, 8, 64, 65, 66);
ATTN_WGMMA_SS_BOTH(144, 9, 72, 73, 74);
ATTN_WGMMA_SS_BOTH(160, 10, 80, 81, 82);
ATTN_WGMMA_SS_BOTH(176, 11, 88, 89, 90);
ATTN_WGMMA_SS_BOTH(192, 12, 96, 97, 98);
ATTN_WGMMA_RS_BOTH(64, 4, 32, 33, 34, 35, 36);
ATTN_WGMMA_RS_BOTH(96, 6, 48, 49, 50, 51, 52);
ATTN_WGMMA_RS_BOTH(128, 8, 64, 65, 66, 67, 68);
ATTN_WGMMA_RS_BOTH(192, 12, 96, 97, 98, 99, 100);
ATTN_WGMMA_RS_BOTH(256, 16, 128, 129, 130, 131, 132);

#undef ATTN_R0
#undef ATTN_R1
#undef ATTN_R2
#undef ATTN_R3
#undef ATTN_R4
#undef ATTN_R5
#undef ATTN_R6
#undef ATTN_R7
#undef ATTN_R8
#undef ATTN_R9
#undef ATTN_R10
#undef ATTN_R11
#undef ATTN_R12
#undef ATTN_R13
#undef ATTN_R14
#undef ATTN_R15
#undef ATTN_RL1
#undef ATTN_FL1
#undef ATTN_RL2
#undef ATTN_FL2
#undef ATTN_RL3
#undef ATTN_FL3
#undef ATTN_RL4
#undef ATTN_FL4
#undef ATTN_RL5
#undef ATTN_FL5
#undef ATTN_RL6
#undef ATTN_FL6
#undef ATTN_RL7
#undef ATTN_FL7
#undef ATTN_RL8
#undef ATTN_FL8
#undef ATTN_RL9
#undef ATTN_FL9
#undef ATTN_RL10
#undef ATTN_FL10
#undef ATTN_RL11
#undef ATTN_FL11
#undef ATTN_RL12
#undef ATTN_FL12
#undef ATTN_RL13
#undef ATTN_FL13
#undef ATTN_RL14
#undef ATTN_FL14
#undef ATTN_RL15
#undef ATTN_FL15
#undef ATTN_RL16
#undef ATTN_FL16
#undef ATTN_F
#undef ATTN_WGMMA_SS
#undef ATTN_WGMMA_RS
#undef ATTN_WGMMA_SS_BOTH
#undef ATTN_WGMMA_RS_BOTH

} // namespace attn_sm90
#endif
