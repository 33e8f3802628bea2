// repair.cuh: elements of O that a masked NaN or infinity in V spoiled.
//
// P of a masked key is 0, but the product of the block computes 0 * NaN = NaN in rows that do not see that key. Only
// blocks under the causal diagonal have such keys. The epilogue's test costs half an instruction per element; this
// slow path runs only when it fires: a warp recomputes, from global memory, those elements of its 16 rows that are
// not finite although no visible V of their column is NaN. All branches are uniform: a divergent one here would make
// the compiler give up uniform registers, and with them back-to-back wgmma, in the main loop.
#ifndef ATTN_SM90_REPAIR_CUH
#define ATTN_SM90_REPAIR_CUH

#include "args.cuh"
#include "place.cuh"
#include "ptx/barrier.cuh"
#include "softmax.cuh"
#include "traits.cuh"

namespace attn_sm90 {

__device__ __forceinline__ float to_float(__half x)
{
    return __half2float(x);
}
__device__ __forceinline__ float to_float(__nv_bfloat16 x)
{
    return __bfloat162float(x);
}
__device__ __forceinline__ bool finite(float x)
{
    return fabsf(x) < INFINITY;
}

// One row, all lanes of a warp; `lse` is the row's, base 2.
template <class T>
__device__ __forceinline__ void repair_row(const TileInfo &tile, int group, int row, float lse, int lane)
{
    using E = typename T::E;
    constexpr int kEach = (T::kHeadDim + 31) / 32; // columns lane, lane + 32, … of a lane
    const Own *const own = static_cast<const Own *>(tile.own);
    const Layout *const layout = static_cast<const Layout *>(tile.layout);
    const int d = static_cast<int>(tile.d);
    const int64_t head_kv = tile.kv_head, head = head_kv * layout->ratio + tile.member[group], batch = tile.batch;
    const E *const q = static_cast<const E *>(own->q) + batch * layout->q_stride.b + head * layout->q_stride.h +
                       row * layout->q_stride.s;
    const E *const k = static_cast<const E *>(own->k) + batch * layout->k_stride.b + head_kv * layout->k_stride.h;
    const E *const v = static_cast<const E *>(own->v) + batch * layout->v_stride.b + head_kv * layout->v_stride.h;
    E *const o = static_cast<E *>(tile.o[group]) + row * tile.o_stride;
    const int keys =
        static_cast<int>(uniform(static_cast<uint32_t>(attn_sm90_visible_keys(row, tile.s_q, tile.s_kv, T::kCausal))));

    bool wanted[kEach], any = false;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
        const int c = lane + 32 * i;
        wanted[i] = c < d && !finite(to_float(o[c]));
        any |= wanted[i];
    }
#pragma unroll 1
    for (int j = 0; j < keys && uniform(any) != 0; ++j) {
        any = false;
#pragma unroll
        for (int i = 0; i < kEach; ++i) {
            const float x = wanted[i] ? to_float(v[j * layout->v_stride.s + lane + 32 * i]) : 0.f;
            wanted[i] = wanted[i] && x == x;
            any |= wanted[i];
        }
    }
    if (uniform(any) == 0) {
        return;
    }
    float acc[kEach] = {};
#pragma unroll 1
    for (int j = 0; j < keys; ++j) {
        float s = 0.f;
#pragma unroll
        for (int i = 0; i < kEach; ++i) {
            const int c = lane + 32 * i;
            s = c < d ? fmaf(to_float(q[c]), to_float(k[j * layout->k_stride.s + c]), s) : s;
        }
#pragma unroll
        for (int mask = 16; mask > 0; mask >>= 1) {
            s += __shfl_xor_sync(0xffffffffu, s, mask);
        }
        if (T::kSoftcap) {
            s = tanh_approx(s * tile.cap_scale);
        }
        const float p = ex2(fmaf(s, tile.scale, -lse));
#pragma unroll
        for (int i = 0; i < kEach; ++i) {
            acc[i] = wanted[i] ? fmaf(p, to_float(v[j * layout->v_stride.s + lane + 32 * i]), acc[i]) : acc[i];
        }
    }
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
        if (wanted[i]) {
            o[lane + 32 * i] = static_cast<E>(acc[i]);
        }
    }
}

// The 16 rows of a warp.
template <class T> __device__ __forceinline__ void repair_warp(const TileInfo &tile, int group, const RowEnds &ends)
{
    const int first = tile.row[group] + (row_in_group() & ~7);
    __syncwarp(); // rows of O were stored by other lanes
#pragma unroll 1
    for (int i = 0; i < 16; ++i) {
        const int from = (i & 7) * 4;
        const float lse = __shfl_sync(0xffffffffu, i < 8 ? ends.lse[0] : ends.lse[1], from);
        const int row = first + i;
        // A row that sees nothing is zero already; one whose LSE is a NaN sees one itself.
        if (uniform(row < tile.s_q && finite(lse)) != 0) {
            repair_row<T>(tile, group, row, lse, lane_id());
        }
    }
}

} // namespace attn_sm90
#endif
