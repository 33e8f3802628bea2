// producer.cuh: the scheduler warp, which fetches tile numbers and announces tiles, and the load warp, which keeps Q,
// K and V loads ahead of the consumers. Lane 0 issues.
//
// Load order is the order of use: K of a block before V of the block before it, across tiles where two Q buffers
// allow it. The tile counter hands out tiles from gridDim.x on (a block's first tile is its own index); every block
// fetches once per tile it runs, so `tiles` fetches in all bring a counter that wraps at `tiles` back to zero.
#ifndef ATTN_SM90_PRODUCER_CUH
#define ATTN_SM90_PRODUCER_CUH

#include "args.cuh"
#include "pipeline.cuh"
#include "ptx/tma.cuh"

namespace attn_sm90 {

// The span of a tile: the last one that begins at or before it. All lanes of a warp.
__device__ __forceinline__ const attn_sm90_span_t *span_of(const GroupArgs &args, uint32_t tile, int lane)
{
    if (args.uploaded == nullptr) {
        uint32_t i = 0;
        while (i + 1 < args.spans && args.span[i + 1].tile_begin <= tile) {
            ++i;
        }
        return &args.span[i];
    }
    uint32_t before = 0;
    for (uint32_t i = 0; i < args.spans; i += 32) {
        const uint32_t begin = i + lane < args.spans ? args.uploaded_spans[i + lane].tile_begin : 0xffffffffu;
        const uint32_t n = __popc(__ballot_sync(0xffffffffu, begin <= tile));
        before += n;
        if (n < 32) {
            break;
        }
    }
    return &args.uploaded_spans[before - 1];
}

template <class T> struct Producer {
    typename T::Shared &sm;
    Ring<T::kStages> k, v;
    Ring<T::kQBuffers> q;
    bool leader;

    __device__ __forceinline__ void load_q(const ProblemArgs *p, const TileInfo &tile)
    {
        const int kv_head = tile.kv_head, member = static_cast<int>(tile.head) - kv_head * static_cast<int>(p->ratio);
#pragma unroll
        for (int g = 0; g < T::kGroups; ++g) {
            wait_empty(sm.q_empty[q.index()][g], q.parity());
            if (leader) {
                const uint32_t bar = smem_addr(&sm.q_full[q.index()][g]);
                mbarrier_arrive_expect_tx(bar, T::kQBytes);
#pragma unroll
                for (int c = 0; c < T::kColumns; ++c) {
                    tma_load_5d(smem_addr(sm.q[q.index()][g]) + c * kRowsPerGroup * 128, &p->q_map, bar, c * kColumn,
                                member, tile.row + g * kRowsPerGroup, kv_head, static_cast<int>(tile.batch));
                }
            }
        }
        q.advance();
    }

    __device__ __forceinline__ void load_kv(Ring<T::kStages> &ring, const CUtensorMap *map, uint64_t *full,
                                            uint64_t *empty, unsigned char (*buffers)[T::kKvBytes], int block,
                                            int kv_head, int batch)
    {
        wait_empty(empty[ring.index()], ring.parity());
        if (leader) {
            const uint32_t bar = smem_addr(&full[ring.index()]);
            mbarrier_arrive_expect_tx(bar, T::kKvBytes);
#pragma unroll
            for (int c = 0; c < T::kColumns; ++c) {
                tma_load_4d(smem_addr(buffers[ring.index()]) + c * T::kKeys * 128, map, bar, c * kColumn,
                            block * T::kKeys, kv_head, batch);
            }
        }
        ring.advance();
    }
};

__device__ __forceinline__ const CUtensorMap *map_number(const ProblemArgs *p, uint32_t i)
{
    return i == 0 ? &p->q_map : i == 1 ? &p->k_map : &p->v_map;
}

// Finds tile number `tile` and announces it in `slot`; key_blocks = 0 announces the end. Returns whether there is one.
template <class T>
__device__ __forceinline__ bool announce(typename T::Shared &sm, const GroupArgs &args, Ring<kTileSlots> &slot,
                                         uint32_t tile, int lane)
{
    TileInfo &info = sm.tile[slot.index()];
    const bool valid = tile < args.tiles;
    wait_empty(sm.tile_empty[slot.index()], slot.parity());
    if (valid) {
        const attn_sm90_span_t *const span = span_of(args, tile, lane);
        uint32_t m_block, span_head;
        attn_sm90_tile_locate(span, tile, T::kCausal, &m_block, &span_head);
        const uint32_t member = span_head / span->problem_heads, at = span->problem_begin + member;
        const ProblemArgs *const p = args.uploaded == nullptr ? &args.problem[at] : &args.uploaded[at];
        if (args.uploaded != nullptr) {
            if (lane < 3) {
                // For the load warp, which would wait for them otherwise: a tile of another problem has maps of its
                // own.
                const CUtensorMap *const map = map_number(p, lane);
                if (args.early_maps == 0) {
                    fence_tensormap_acquire(map);
                }
                tma_prefetch_map(map);
            }
            __syncwarp();
        }
        // Reads before writes that might alias them, so that their latencies pass together.
        const int32_t s_q = p->s_q, s_kv = p->s_kv;
        const int32_t row = attn_sm90_tile_row(m_block, span->m_blocks, T::kRows, s_q, T::kCausal);
        const int32_t live =
            attn_sm90_live_blocks(row + lane * kRowsPerGroup, kRowsPerGroup, s_q, s_kv, T::kCausal, T::kKeys);
        int32_t most = 0;
#pragma unroll
        for (int g = 0; g < T::kGroups; ++g) {
            const int32_t of_group = __shfl_sync(0xffffffffu, live, g);
            most = max(most, of_group);
            if (lane == 0) {
                info.live_blocks[g] = of_group;
            }
        }
        if (lane == 0) {
            const uint32_t h_q = p->h_q, ratio = p->ratio, d = p->d;
            const float scale = p->scale, cap_scale = p->cap_scale;
            const uint32_t problem_head = span_head - member * span->problem_heads;
            const uint32_t batch = problem_head / h_q, head = problem_head - batch * h_q;
            info.row = row;
            info.key_blocks = most;
            info.s_q = s_q;
            info.s_kv = s_kv;
            info.scale = scale;
            info.cap_scale = cap_scale;
            info.d = d;
            info.head = head;
            info.batch = batch;
            info.kv_head = static_cast<int>(head / ratio);
            uint16_t *const o = static_cast<uint16_t *>(p->o);
            const Strides o_stride = p->o_stride;
            float *const lse = p->lse;
            const int64_t lse_at = batch * p->lse_stride_b + head * p->lse_stride_h;
            info.o = o + (batch * o_stride.b + head * o_stride.h);
            info.o_stride = o_stride.s;
            info.lse = lse == nullptr ? nullptr : lse + lse_at;
            info.problem = p;
        }
    } else if (lane == 0) {
        info.key_blocks = 0;
    }
    if (lane == 0) {
        mbarrier_arrive(smem_addr(&sm.tile_full[slot.index()]));
    }
    __syncwarp();
    slot.advance();
    return valid;
}

// The scheduler warp: finds and announces the next tile while the load warp waits for its last buffers. Earlier would
// tie tiles to blocks that are still busy; later would leave divisions and an atomic between two tiles' loads. With
// uploaded problems it takes several reads of device memory as well, so there it stays one tile further ahead.
template <class T> __device__ __forceinline__ void schedule(typename T::Shared &sm, const GroupArgs &args)
{
    const int lane = threadIdx.x & 31;
    Ring<kTileSlots> slot;
    Ring<kTilesAhead> wanted;
    uint32_t tile = blockIdx.x;
    if (args.uploaded != nullptr) {
        for (uint32_t i = lane; i < 3 * args.early_maps; i += 32) {
            fence_tensormap_acquire(map_number(&args.uploaded[i / 3], i % 3));
        }
        __syncwarp();
    }
    bool ahead = args.uploaded != nullptr;
    while (announce<T>(sm, args, slot, tile, lane)) {
        if (!ahead) {
            wait_full(sm.tile_wanted[wanted.index()], wanted.parity());
            wanted.advance();
        }
        ahead = false;
        if (lane == 0) {
            tile = gridDim.x + atomicInc(args.counter, args.tiles - 1);
        }
        tile = __shfl_sync(0xffffffffu, tile, 0);
    }
}

// The load warp.
template <class T> __device__ __forceinline__ void produce(typename T::Shared &sm, const GroupArgs &args)
{
    Producer<T> io{sm, {}, {}, {}, (threadIdx.x & 31) == 0};
    Ring<kTileSlots> slot;
    Ring<kTilesAhead> wanted;
    // V of the last block whose K was loaded.
    const CUtensorMap *v_map = nullptr;
    int v_block = 0, v_head = 0, v_batch = 0;
    auto load_pending_v = [&] {
        if (v_map != nullptr) {
            io.load_kv(io.v, v_map, sm.v_full, sm.v_empty, sm.v, v_block, v_head, v_batch);
            v_map = nullptr;
        }
    };
    while (true) {
        wait_full(sm.tile_full[slot.index()], slot.parity());
        const TileInfo &tile = sm.tile[slot.index()];
        if (tile.key_blocks == 0) {
            break;
        }
        const ProblemArgs *const p = static_cast<const ProblemArgs *>(tile.problem);
        io.load_q(p, tile);
        const int want_at = tile.key_blocks > 1 ? 1 : 0;
        for (int block = tile.key_blocks - 1; block >= 0; --block) {
            if (block == want_at) {
                if (io.leader) {
                    mbarrier_arrive(smem_addr(&sm.tile_wanted[wanted.index()]));
                }
                wanted.advance();
            }
            io.load_kv(io.k, &p->k_map, sm.k_full, sm.k_empty, sm.k, block, tile.kv_head, static_cast<int>(tile.batch));
            load_pending_v();
            v_map = &p->v_map;
            v_block = block;
            v_head = tile.kv_head;
            v_batch = static_cast<int>(tile.batch);
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
