// epilogue.cuh: O and LSE of a finished tile, from a consumer thread's registers to global memory.
//
// Four threads of a quad exchange 16-bit pairs so that each holds 8 consecutive columns, and store 16 bytes each:
// full 32-byte sectors, no shared memory, no barrier, and rows and columns beyond the problem's end are predicated
// off, so that a packed neighbour is never touched.
#ifndef ATTN_SM90_EPILOGUE_CUH
#define ATTN_SM90_EPILOGUE_CUH

#include "place.cuh"
#include "ptx/barrier.cuh"
#include "softmax.cuh"
#include "traits.cuh"

namespace attn_sm90 {

// Transposes 4x4 registers over a quad: out[k] of thread c is in[c] of thread k.
__device__ __forceinline__ void quad_transpose(uint32_t &x0, uint32_t &x1, uint32_t &x2, uint32_t &x3, int c)
{
    const bool odd = c & 1, upper = c & 2;
    uint32_t r = __shfl_xor_sync(0xffffffffu, odd ? x0 : x1, 1);
    x0 = odd ? r : x0;
    x1 = odd ? x1 : r;
    r = __shfl_xor_sync(0xffffffffu, odd ? x2 : x3, 1);
    x2 = odd ? r : x2;
    x3 = odd ? x3 : r;
    r = __shfl_xor_sync(0xffffffffu, upper ? x0 : x2, 2);
    x0 = upper ? r : x0;
    x2 = upper ? x2 : r;
    r = __shfl_xor_sync(0xffffffffu, upper ? x1 : x3, 2);
    x1 = upper ? r : x1;
    x3 = upper ? x3 : r;
}

// Returns whether this warp's O needs repair.cuh, the same in all lanes.
template <class T>
__device__ __forceinline__ bool epilogue(const TileInfo &tile, int group, const RowEnds &ends,
                                         const float (&o)[T::kOutRegs])
{
    const int c = lane_id() & 3, first_row = tile.row[group] + row_in_group();
    // Read before the stores below, which might alias them as far as the compiler knows.
    const uint32_t d = tile.d;
    const int s_q = tile.s_q;
    float *const to_lse = tile.lse[group];
    uint32_t spoiled = 0; // two products x*0, each NaN once any x is not finite
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const int row = first_row + 8 * r;
        const bool inside = row < s_q;
        const bool empty = ends.lse[r] == -INFINITY;
        const float inverse = ends.inverse[r];
        uint4 *const out = reinterpret_cast<uint4 *>(static_cast<uint16_t *>(tile.o[group]) + row * tile.o_stride) + c;
#pragma unroll
        for (int j = 0; j < T::kHeadDim / 8; j += 4) {
            uint32_t x[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int at = 4 * (j + i) + 2 * r;
                x[i] = pack2<typename T::E>(o[at] * inverse, o[at + 1] * inverse);
                // A row that sees nothing is zero even where masked values were not finite.
                x[i] = empty ? 0u : x[i];
                if (T::kCausal) {
                    spoiled = fma2_zero<typename T::E>(x[i], spoiled);
                }
            }
            quad_transpose(x[0], x[1], x[2], x[3], c);
            if (inside && static_cast<uint32_t>(8 * (j + c)) < d) {
                out[j] = make_uint4(x[0], x[1], x[2], x[3]);
            }
        }
    }
    // Lane c = r of a quad writes row r. Computed whether asked for or not, so that no branch keeps it from hiding
    // under the stores of O.
    const float lse = (c == 0 ? ends.lse[0] : ends.lse[1]) * kLn2;
    const int row = first_row + 8 * c;
    if (to_lse != nullptr && c < 2 && row < s_q) {
        to_lse[row] = lse;
    }
    return T::kCausal && uniform(spoiled & 0x7fff7fffu) != 0;
}

} // namespace attn_sm90
#endif
