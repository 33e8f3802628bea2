// tiles.cuh: the one table of tile sizes.
//
// rows: query rows per tile, 64 per consumer warp group. keys: keys per block. stages: K and V buffers each.
// q_buffers: 2 when shared memory allows; then the first product of the next tile runs under the last of this one.
// p_buffers: 2 when registers allow; then exponentials of a block run under the product of the block before.
// Shared memory is at most 227 KB; a consumer thread holds keys/2 (scores) + keys/4 (each P) + D/2 (O)
// registers, of which ptxas takes no more than about 200 of 232 without serialising wgmma (C7512).
#ifndef ATTN_SM90_TILES_CUH
#define ATTN_SM90_TILES_CUH

namespace attn_sm90 {

struct Tile {
    int rows, keys, stages, q_buffers, p_buffers;
    bool ordered; // ping-pong: warp groups issue their products in turn
    int producer_registers, consumer_registers;
};

template <int kHeadDim> constexpr Tile tile_of()
{
    static_assert(kHeadDim == 64 || kHeadDim == 96 || kHeadDim == 128 || kHeadDim == 192 || kHeadDim == 256, "class");
    if (kHeadDim == 64) {
        // Bound by the exponent unit: a third warp group gives it work while two wait. 64+32+32 registers.
        return {192, 128, 2, 2, 1, true, 32, 160};
    }
    if (kHeadDim == 96) {
        // Bound by the exponent unit as well. 72 + 4*21 = 156 KB. 56+28+48 registers.
        return {192, 112, 2, 2, 1, true, 32, 160};
    }
    if (kHeadDim == 128) {
        // Two Q and two stages are 192 KB. 64+2*32+64 registers.
        return {128, 128, 2, 2, 2, true, 40, 232};
    }
    if (kHeadDim == 192) {
        // 48 + 4*42 = 216 KB. 56+28+96 registers.
        return {128, 112, 2, 1, 1, true, 40, 232};
    }
    // 64 + 4*40 = 224 KB. 40+20+128 registers.
    return {128, 80, 2, 1, 1, true, 40, 232};
}

} // namespace attn_sm90
#endif
