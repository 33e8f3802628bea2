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
#include "ptx/load.cuh"
#include "ptx/tma.cuh"

namespace attn_sm90 {

// The span of a tile: the last one that begins at or before it. All lanes of a warp. `span` is that of an earlier tile
// and becomes this one's: a block's tiles have ascending numbers.
__device__ __forceinline__ const attn_sm90_span_t *span_of(const GroupArgs &args, uint32_t tile, uint32_t &span,
                                                           int lane)
{
    if (args.uploaded_spans == nullptr || tile < args.tiles_listed) {
        const uint32_t spans = min(args.spans, kInlineProblems);
        while (span + 1 < spans && args.span[span + 1].tile_begin <= tile) {
            ++span;
        }
        return &args.span[span];
    }
    for (uint32_t n = 32; n == 32; span += n) {
        const uint32_t at = span + 1 + lane;
        const uint32_t begin = at < args.spans ? args.uploaded_spans[at].tile_begin : 0xffffffffu;
        n = __popc(__ballot_sync(0xffffffffu, begin <= tile));
    }
    return &args.uploaded_spans[span];
}

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
                const int32_t row = tile.q_row + g * kRowsPerGroup;
                mbarrier_arrive_expect_tx(bar, T::kQBytes);
#pragma unroll
                for (int c = 0; c < T::kColumns; ++c) {
                    tma_load_5d(smem_addr(sm.q[q.index()][g]) + c * T::kQColumnBytes, map, bar, c * T::kColumn,
                                tile.member, row, tile.kv_head, tile.place[0]);
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

__device__ __forceinline__ const CUtensorMap *map_number(const ProblemArgs *p, uint32_t i)
{
    return i == 0 ? &p->q_map : i == 1 ? &p->k_map : &p->v_map;
}

// Copies a problem to where it can be read without waiting once for every line: one read by all lanes. All lanes of a
// warp.
__device__ __forceinline__ void record_fetch(ProblemRecord *record, const Own *own, const Layout *layout, int lane)
{
    constexpr int kOwn = sizeof(Own) / sizeof(uint4), kLayout = sizeof(Layout) / sizeof(uint4);
    static_assert(sizeof(Own) % sizeof(uint4) == 0 && sizeof(Layout) % sizeof(uint4) == 0 && kOwn + kLayout <= 32,
                  "one piece for a lane at most");
    const uint4 *const from = lane < kOwn ? reinterpret_cast<const uint4 *>(own) + lane
                                          : reinterpret_cast<const uint4 *>(layout) + (lane - kOwn);
    __syncwarp(); // the record before has been read
    if (lane < kOwn + kLayout) {
        reinterpret_cast<uint4 *>(record)[lane] = load_generic(from);
    }
    __syncwarp();
}

// The same of a span.
__device__ __forceinline__ void span_fetch(attn_sm90_span_t *span, const attn_sm90_span_t *from, int lane)
{
    constexpr int kPieces = sizeof(attn_sm90_span_t) / sizeof(uint4);
    static_assert(sizeof(attn_sm90_span_t) % sizeof(uint4) == 0 && kPieces <= 32, "one piece for a lane at most");
    __syncwarp();
    if (lane < kPieces) {
        reinterpret_cast<uint4 *>(span)[lane] = load_generic(reinterpret_cast<const uint4 *>(from) + lane);
    }
    __syncwarp();
}

// For the load warp, which would wait for them otherwise: a tile of another problem has maps of its own. All lanes of a
// warp.
__device__ __forceinline__ void maps_fetch(const GroupArgs &args, const ProblemArgs *p, int lane)
{
    if (lane < 3) {
        const CUtensorMap *const map = map_number(p, lane);
        if (args.early_maps == 0) {
            fence_tensormap_acquire(map);
        }
        tma_prefetch_map(map);
    }
    __syncwarp();
}

// Copies problem number `at` of a launch to `record`, and says in the tile's record where it is. All lanes of a warp.
__device__ __forceinline__ void problem_fetch(ProblemRecord *record, const GroupArgs &args, uint32_t at, int lane,
                                              TileInfo *info)
{
    const bool listed = at < args.listed;
    const ProblemArgs *const p = listed                  ? &args.problem[0]
                                 : args.place == kInline ? &args.problem[at]
                                                         : &args.uploaded[at];
    const Own *const own = listed ? problems_listed(args) + at : &p->own;
    if (lane == 0) {
        info->maps = args.has_arenas != 0 ? &args.problem[0] : p;
        info->own = own;
        info->layout = &p->layout;
    }
    record_fetch(record, own, &p->layout, lane);
    if (maps_are_uploaded(args)) {
        maps_fetch(args, p, lane);
    }
}

// The place of a batch in the launch's map number `i`: of q, k, v.
__device__ __forceinline__ int32_t place_of(const GroupArgs &args, const ProblemRecord &p, uint32_t batch, int i)
{
    if (args.has_arenas == 0) {
        return static_cast<int32_t>(batch);
    }
    const int64_t stride = 2 * (&p.layout.q_stride)[i].b;
    return p.own.place[i] + static_cast<int32_t>(stride >> args.origin[i].step_log) * static_cast<int32_t>(batch);
}

// Announces tile number `tile`, which is in the span at `from`, in `slot`: to the load warp as soon as it can load, then
// to the consumers. The end when there is no span. The first one waits until there are barriers; all lanes of a warp.
template <class T>
__device__ __forceinline__ void announce(typename T::Shared &sm, const GroupArgs &args, Ring<kTileSlots> &slot,
                                         uint32_t tile, const attn_sm90_span_t *from, bool first, int lane)
{
    TileInfo &info = sm.tile[slot.index()];
    uint32_t m_block, problem_head, problem;
    if (from != nullptr) {
        span_fetch(&sm.span, from, lane);
        attn_sm90_tile_locate(&sm.span, tile, T::kCausal, &m_block, &problem_head);
        const uint32_t member = attn_sm90_divide(problem_head, sm.span.by_problem_heads);
        problem_head -= member * sm.span.problem_heads;
        problem = sm.span.problem_begin + member;
    }
    if (first) {
        pipeline_wait_init<T>();
    } else {
        wait_empty(sm.tile_empty[slot.index()], slot.parity());
    }
    if (from == nullptr) {
        if (lane == 0) {
            info.key_blocks = 0;
            mbarrier_arrive(smem_addr(&sm.tile_full[slot.index()]));
            mbarrier_arrive(smem_addr(&sm.tile_ready[slot.index()]));
        }
        return;
    }
    problem_fetch(&sm.record, args, problem, lane, &info);
    const ProblemRecord &p = sm.record;
    const int32_t row = attn_sm90_tile_row(m_block, sm.span.m_blocks, T::kRows, p.own.s_q, T::kCausal);
    const int32_t live = attn_sm90_live_blocks(row + lane * kRowsPerGroup, kRowsPerGroup, p.own.s_q, p.own.s_kv,
                                               T::kCausal, T::kKeys);
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
        const uint32_t batch = attn_sm90_divide(problem_head, p.layout.by_h_q);
        const uint32_t head = problem_head - batch * p.layout.h_q;
        const uint32_t kv_head = attn_sm90_divide(head, p.layout.by_ratio);
        info.key_blocks = most;
        info.row = row;
        info.kv_head = static_cast<int32_t>(kv_head);
        info.member = static_cast<int32_t>(head - kv_head * p.layout.ratio);
        info.q_row = args.has_arenas == 0 ? row : row + static_cast<int32_t>(args.origin[0].rows) - p.own.s_q;
        info.kv_row = args.has_arenas == 0 ? 0 : static_cast<int32_t>(args.origin[1].rows) - p.own.s_kv;
#pragma unroll
        for (int i = 0; i < 3; ++i) {
            info.place[i] = place_of(args, p, batch, i);
        }
        mbarrier_arrive(smem_addr(&sm.tile_full[slot.index()]));
        info.s_q = p.own.s_q;
        info.s_kv = p.own.s_kv;
        info.scale = p.own.scale;
        info.cap_scale = p.own.cap_scale;
        info.d = p.layout.d;
        info.batch = batch;
        info.o = static_cast<uint16_t *>(p.own.o) + (batch * p.layout.o_stride.b + head * p.layout.o_stride.h);
        info.o_stride = p.layout.o_stride.s;
        float *const lse = p.own.lse;
        info.lse = lse == nullptr ? nullptr : lse + (batch * p.own.lse_stride_b + head * p.own.lse_stride_h);
        mbarrier_arrive(smem_addr(&sm.tile_ready[slot.index()]));
    }
    __syncwarp();
    slot.advance();
}

// The scheduler warp: finds and announces the next tile while the load warp waits for its last buffers. Earlier would
// tie tiles to blocks that are still busy; later would leave divisions and an atomic between two tiles' loads. With
// uploaded problems it reads device memory as well, which takes as long as the atomic: so there the number is fetched
// one tile further ahead. Where maps must be prefetched, and perhaps acquired, and where all tiles are brief, tiles are
// announced further ahead instead.
template <class T> __device__ __forceinline__ void schedule(typename T::Shared &sm, const GroupArgs &args)
{
    const int lane = threadIdx.x & 31;
    Ring<kTileSlots> slot;
    Ring<kTilesAhead> wanted;
    uint32_t tile = blockIdx.x, found = 0, next; // found: the span; next: of lane 0
    if (maps_are_uploaded(args)) {
        grid_wait();
        for (uint32_t i = lane; i < 3 * args.early_maps; i += 32) {
            fence_tensormap_acquire(map_number(&args.uploaded[i / 3], i % 3));
        }
        __syncwarp();
    }
    while (true) {
        if (records_are_uploaded(args) && tile >= args.tiles_listed) {
            grid_wait(); // for what is uploaded; costs nothing once it is there
        }
        const attn_sm90_span_t *const span = tile < args.tiles ? span_of(args, tile, found, lane) : nullptr;
        if (span != nullptr && records_are_uploaded(args) && lane == 0) {
            next = atomicInc(args.counter, args.tiles - 1);
        }
        const bool first = tile == blockIdx.x;
        announce<T>(sm, args, slot, tile, span, first, lane);
        if (span == nullptr) {
            break;
        }
        if (!first || args.far_ahead == 0) {
            wait_full(sm.tile_wanted[wanted.index()], wanted.parity());
            wanted.advance();
        }
        if (!records_are_uploaded(args) && lane == 0) {
            next = atomicInc(args.counter, args.tiles - 1);
        }
        tile = gridDim.x + __shfl_sync(0xffffffffu, next, 0);
    }
}

// The load warp.
template <class T> __device__ __forceinline__ void produce(typename T::Shared &sm, const GroupArgs &args)
{
    if (args.place != kUploaded) {
        grid_wait(); // where launched early: for inputs that are being fetched. An upload began after they were
    }
    Producer<T> io{sm, {}, {}, {}, (threadIdx.x & 31) == 0};
    Ring<kTileSlots> slot;
    Ring<kTilesAhead> wanted;
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
        const ProblemArgs *const maps = static_cast<const ProblemArgs *>(tile.maps);
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
