// producer.cuh: the load warp, which keeps Q, K and V loads ahead of the consumers. Lane 0 issues.
//
// Load order is the order of use: K of a block before V of the block before it, across tiles where two Q buffers
// allow it.
#ifndef ATTN_SM90_PRODUCER_CUH
#define ATTN_SM90_PRODUCER_CUH

#include "args.cuh"
#include "pipeline.cuh"
#include "ptx/tma.cuh"

namespace attn_sm90 {

template <class T> struct Producer {
    typename T::Shared &sm;
    Ring<T::kStages> k, v;
    Ring<T::kQBuffers> q;
    bool leader;

    __device__ __forceinline__ void load_q(const CUtensorMap *map, const TileInfo &tile)
    {
#pragma unroll
        for (int g = 0; g < T::kGroups; ++g) {
            wait_empty(sm.q_empty[q.index()][g], q.parity());
            if (leader) {
                const uint32_t bar = smem_addr(&sm.q_full[q.index()][g]);
                // A warp group without rows reads nothing. Nor may it: a box that is all outside of its map makes the
                // TMA unit look at the map's base, where an arena's has no memory (arena.h).
                if (tile.live_blocks[g] == 0) {
                    mbarrier_arrive(bar);
                    continue;
                }
                mbarrier_arrive_expect_tx(bar, T::kQBytes);
#pragma unroll
                for (int c = 0; c < T::kColumns; ++c) {
                    tma_load_5d(smem_addr(sm.q[q.index()][g]) + c * T::kQColumnBytes, map, bar, c * T::kColumn,
                                tile.member[g], tile.q_row[g], tile.kv_head, tile.place[0]);
                }
            }
        }
        q.advance();
    }

    __device__ __forceinline__ void load_kv(Ring<T::kStages> &ring, const CUtensorMap *map, uint64_t *full,
                                            uint64_t *empty, unsigned char (*buffers)[T::kKvBytes], int row,
                                            int kv_head, int batch)
    {
        wait_empty(empty[ring.index()], ring.parity());
        if (leader) {
            const uint32_t bar = smem_addr(&full[ring.index()]);
            mbarrier_arrive_expect_tx(bar, T::kKvBytes);
#pragma unroll
            for (int c = 0; c < T::kColumns; ++c) {
                tma_load_4d(smem_addr(buffers[ring.index()]) + c * T::kKvColumnBytes, map, bar, c * T::kColumn, row,
                            kv_head, batch);
            }
        }
        ring.advance();
    }
};

// The load warp.
template <class T> __device__ __forceinline__ void produce(typename T::Shared &sm, const GroupArgs &args)
{
    grid_wait(); // where launched early: for inputs that are being fetched or for an upload, which waited for them
    Producer<T> io{sm, {}, {}, {}, (threadIdx.x & 31) == 0};
    Ring<kTileSlots> slot;
    Ring<kSchedulers> wanted;
    // V of the last block whose K was loaded.
    const CUtensorMap *v_map = nullptr;
    int v_row = 0, v_head = 0, v_batch = 0;
    auto load_pending_v = [&] {
        if (v_map != nullptr) {
            io.load_kv(io.v, v_map, sm.v_full, sm.v_empty, sm.v, v_row, v_head, v_batch);
            v_map = nullptr;
        }
    };
    while (true) {
        wait_full(sm.tile_full[slot.index()], slot.parity());
        const TileInfo &tile = sm.tile[slot.index()];
        if (tile.key_blocks == 0) {
            break;
        }
        const ProblemArgs *const maps = maps_of(args, tile.problem);
        io.load_q(&maps->q_map, tile);
        const int want_at = tile.key_blocks > 1 ? 1 : 0;
        for (int block = tile.key_blocks - 1; block >= 0; --block) {
            if (block == want_at) {
                if (io.leader) {
                    mbarrier_arrive(smem_addr(&sm.tile_wanted[wanted.index()]));
                }
                wanted.advance();
            }
            const int row = block * T::kKeys + tile.kv_row;
            io.load_kv(io.k, &maps->k_map, sm.k_full, sm.k_empty, sm.k, row, tile.kv_head, tile.place[1]);
            load_pending_v();
            v_map = &maps->v_map;
            v_row = row;
            v_head = tile.kv_head;
            v_batch = tile.place[2];
        }
        if (!T::kSeamless) {
            load_pending_v();
        }
        release(sm.tile_empty[slot.index()]);
        slot.advance();
    }
    load_pending_v();
}

} // namespace attn_sm90
#endif
