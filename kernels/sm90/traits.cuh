// traits.cuh: everything about one instantiation that is known at compile time, and its shared memory.
#ifndef ATTN_SM90_TRAITS_CUH
#define ATTN_SM90_TRAITS_CUH

#include <cstddef>
#include <cstdint>

#include "args.cuh"
#include "tiles.cuh"

namespace attn_sm90 {

constexpr int kWarpGroup = 128;                     // threads
constexpr int kRowsPerGroup = ATTN_SM90_GROUP_ROWS; // of a consumer warp group: the M of wgmma
constexpr int kMostGroups = 3;                      // consumer warp groups of the largest tile
constexpr int kTileSlots = 4;                       // tiles announced and not yet finished
constexpr int kSchedulers = 2;                      // scheduler warps; tile n of a block is that of warp n modulo 2
constexpr int kSharedMax = 227 * 1024;

// The parts of a problem but its maps.
struct ProblemRecord {
    Own own;
    Layout layout;
};
static_assert(offsetof(ProblemArgs, layout) - offsetof(ProblemArgs, own) == offsetof(ProblemRecord, layout),
              "a record is copied as it is");

// Copies of what a tile belongs to.
struct alignas(16) Found {
    attn_sm90_span_t span;
    ProblemRecord record;
};

// A tile, as a scheduler warp announces it: first what the load warp must know, then the rest. Arrays of kMostGroups
// are indexed by consumer warp group, each of which has rows of its own, perhaps of its own head.
struct TileInfo {
    int32_t key_blocks;               // 0: no more tiles
    int32_t live_blocks[kMostGroups]; // of these the first ones, which the warp group's rows see
    int32_t member[kMostGroups];      // query head among those that share the key head
    int32_t q_row[kMostGroups];       // coordinate of the first query row in the map
    int32_t kv_row;                   // of the first key
    int32_t kv_head;                  // key head
    int32_t place[3];                 // of the batch in the maps of q, k and v
    uint32_t problem;                 // its number
    // For the consumers.
    int32_t row[kMostGroups]; // first query row
    int32_t s_q, s_kv;
    float scale, cap_scale;
    uint32_t d, batch;
    void *o[kMostGroups];     // row 0 of the head
    float *lse[kMostGroups];  // row 0 of the head, or NULL
    int64_t o_stride;         // elements from row to row
    const void *own, *layout; // of the problem, for repair.cuh
    uint64_t unused;          // so that the size is no multiple of 16
};

template <class E_, int kHeadDim_, bool kCausal_, bool kSoftcap_> struct Traits {
    using E = E_;
    static constexpr int kHeadDim = kHeadDim_;
    static constexpr bool kCausal = kCausal_;
    static constexpr bool kSoftcap = kSoftcap_;
    static constexpr Tile kTile = tile_of<kHeadDim>();
    static constexpr int kRows = kTile.rows;
    static constexpr int kKeys = kTile.keys;
    static constexpr int kStages = kTile.stages;
    static constexpr int kQBuffers = kTile.q_buffers;
    static constexpr bool kTwoP = kTile.p_buffers == 2;
    static constexpr bool kSeamless = kQBuffers == 2; // tiles flow into each other without draining
    static constexpr bool kOrdered = kTile.ordered;
    static constexpr int kGroups = kRows / kRowsPerGroup; // consumer warp groups
    static constexpr int kThreads = (kGroups + 1) * kWarpGroup;
    // Q, K and V lie in shared memory as columns of the head dim. A column's rows are as long as the swizzle is wide:
    // 128 bytes or, where those would not come out even and TMA would fill the rest with zeros, 64.
    static constexpr int kColumn = kHeadDim % 64 == 0 ? 64 : 32; // elements
    static constexpr int kColumns = kHeadDim / kColumn;
    static constexpr int kRowBytes = 2 * kColumn;
    static constexpr int kQColumnBytes = kRowsPerGroup * kRowBytes;
    static constexpr int kKvColumnBytes = kKeys * kRowBytes;
    static constexpr int kQBytes = kColumns * kQColumnBytes;   // of one warp group
    static constexpr int kKvBytes = kColumns * kKvColumnBytes; // K or V of one block
    static constexpr int kScoreRegs = kKeys / 2;
    static constexpr int kProbRegs = kKeys / 4;
    static constexpr int kOutRegs = kHeadDim / 2;

    struct Shared {
        alignas(1024) unsigned char q[kQBuffers][kGroups][kQBytes];
        alignas(1024) unsigned char k[kStages][kKvBytes];
        alignas(1024) unsigned char v[kStages][kKvBytes];
        uint64_t q_full[kQBuffers][kGroups], q_empty[kQBuffers][kGroups];
        uint64_t k_full[kStages], k_empty[kStages];
        uint64_t v_full[kStages], v_empty[kStages];
        uint64_t tile_full[kTileSlots], tile_empty[kTileSlots]; // full: for the load warp
        uint64_t tile_ready[kTileSlots];                        // full for the consumers
        uint64_t tile_wanted[kSchedulers];                      // tile n: the load warp wants the next one announced
        uint64_t tile_numbered[kSchedulers];                    // its number is fetched, the next one's may be
        uint32_t ended;                                         // to the other scheduler warp: there is no next one
        TileInfo tile[kTileSlots];
        Found found[kSchedulers];
    };
    static_assert(kGroups <= kMostGroups, "TileInfo");
    static_assert(sizeof(TileInfo) % 16 == 8, "reads of 16 bytes would need registers that the epilogue has not");
    static_assert(sizeof(Shared) <= kSharedMax, "shared memory");
    static_assert(kRows % kRowsPerGroup == 0 && kKeys % 16 == 0 && kKeys <= 256, "shape of wgmma and TMA box");
    static_assert(kColumns * kColumn == kHeadDim && kColumn % 16 == 0, "whole columns of whole steps of wgmma");
    static_assert(kQColumnBytes % (8 * kRowBytes) == 0 && kKvColumnBytes % (8 * kRowBytes) == 0,
                  "the swizzle repeats every 8 rows: columns begin where it does");
    static_assert(kTile.producer_registers + kGroups * kTile.consumer_registers <=
                      65536 / kThreads / 8 * 8 * (kGroups + 1),
                  "setmaxnreg cannot hand out more registers than the launch took");
};

} // namespace attn_sm90
#endif
