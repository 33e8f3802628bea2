// announce.cuh: the scheduler warps, which fetch tile numbers, find out what they stand for and announce the tiles.
//
// The tile counter hands out tiles from gridDim.x on (a block's first tile is its own index); every block fetches once
// per tile it runs, so `tiles` fetches in all bring a counter that wraps at `tiles` back to zero.
//
// Finding out takes some 1.5 us beside busy tensor cores, as long as a brief tile: mostly waits for instructions, which
// the consumers' code drives out of the caches meanwhile. So two warps take tiles in turn, divisors come from the host,
// and what a warp has read of a span and a problem it keeps.
#ifndef ATTN_SM90_ANNOUNCE_CUH
#define ATTN_SM90_ANNOUNCE_CUH

#include "args.cuh"
#include "pipeline.cuh"
#include "ptx/load.cuh"
#include "ptx/tma.cuh"

namespace attn_sm90 {

__device__ __forceinline__ const CUtensorMap *map_number(const ProblemArgs *p, uint32_t i)
{
    return i == 0 ? &p->q_map : i == 1 ? &p->k_map : &p->v_map;
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

// What a tile's number stands for.
struct TileName {
    uint32_t problem, head, m_block; // head of the problem
};

// A tile, found. Lanes below the number of warp groups have what is their warp group's.
struct FoundTile {
    int32_t row, live; // first query row, and key blocks that the rows see: none in other lanes
    uint32_t batch, kv_head, member;
};

// A scheduler warp. All lanes call its functions.
template <class T> struct Scheduler {
    static constexpr uint32_t kNone = 0xffffffffu;

    typename T::Shared &sm;
    const GroupArgs &args;
    const int me; // its number
    int lane;
    Found &found;
    uint32_t span = 0;                                  // of the last tile
    uint32_t span_there = kNone, problem_there = kNone; // numbers of what `found` holds

    // Goes to the span of a tile: the last one that begins at or before it. A block's tiles have ascending numbers.
    __device__ __forceinline__ void span_find(uint32_t tile)
    {
        if (args.uploaded_spans == nullptr || tile < args.tiles_listed) {
            const uint32_t spans = min(args.spans, kInlineSpans);
            while (span + 1 < spans && args.span[span + 1].tile_begin <= tile) {
                ++span;
            }
            return;
        }
        for (uint32_t n = 32; n == 32; span += n) {
            const uint32_t at = span + 1 + lane;
            const uint32_t begin = at < args.spans ? args.uploaded_spans[at].tile_begin : 0xffffffffu;
            n = __popc(__ballot_sync(0xffffffffu, begin <= tile));
        }
    }

    // Copies `count` pieces of 16 bytes, one for a lane, so that one read's wait is all.
    __device__ __forceinline__ void copy(void *to, const void *from, const void *from_others, int first_others,
                                         int count)
    {
        const bool others = lane >= first_others;
        const void *const at = others ? from_others : from;
        __syncwarp(); // what was there has been read
        if (lane < count) {
            static_cast<uint4 *>(to)[lane] =
                load_generic(static_cast<const uint4 *>(at) + (others ? lane - first_others : lane));
        }
        __syncwarp();
    }

    __device__ __forceinline__ void span_fetch()
    {
        constexpr int kPieces = sizeof(attn_sm90_span_t) / sizeof(uint4);
        static_assert(sizeof(attn_sm90_span_t) % sizeof(uint4) == 0 && kPieces <= 32, "one piece for a lane at most");
        if (span != span_there) {
            const attn_sm90_span_t *const from = span < kInlineSpans ? &args.span[span] : &args.uploaded_spans[span];
            copy(&found.span, from, from, kPieces, kPieces);
            span_there = span;
        }
    }

    __device__ __forceinline__ void problem_fetch(uint32_t problem)
    {
        constexpr int kOwn = sizeof(Own) / sizeof(uint4), kLayout = sizeof(Layout) / sizeof(uint4);
        static_assert(sizeof(ProblemRecord) == (kOwn + kLayout) * sizeof(uint4) && kOwn + kLayout <= 32,
                      "one piece for a lane at most");
        if (problem == problem_there) {
            return;
        }
        problem_there = problem;
        const ProblemArgs *const p = problem_at(args, problem);
        copy(&found.record, own_at(args, problem), &p->layout, kOwn, kOwn + kLayout);
        if (maps_are_uploaded(args)) {
            maps_fetch(args, p, lane);
        }
    }

    __device__ __forceinline__ TileName tile_name(uint32_t number)
    {
        TileName name;
        span_find(number);
        span_fetch();
        attn_sm90_tile_locate(&found.span, number, T::kCausal, &name.m_block, &name.head);
        const uint32_t of_span = attn_sm90_divide(name.head, found.span.by_problem_heads);
        name.problem = found.span.problem_begin + of_span;
        name.head -= of_span * found.span.problem_heads;
        return name;
    }

    __device__ __forceinline__ FoundTile tile_find(const TileName &name)
    {
        problem_fetch(name.problem);
        const ProblemRecord &p = found.record;
        const bool apart = found.span.together == 1;
        FoundTile tile;
        tile.batch = attn_sm90_divide(name.head, found.span.by_batch_heads);
        const uint32_t head = name.head - tile.batch * found.span.batch_heads;
        tile.kv_head = attn_sm90_divide(head, found.span.by_kv_heads);
        tile.member = (head - tile.kv_head * found.span.kv_heads) * found.span.together;
        if (apart) {
            tile.row = attn_sm90_tile_row(name.m_block, found.span.m_blocks, T::kRows, p.own.s_q, T::kCausal) +
                       lane * kRowsPerGroup;
        } else {
            tile.row = static_cast<int32_t>(found.span.row_begin);
            tile.member += lane;
        }
        const int groups = apart ? T::kGroups : static_cast<int>(found.span.together);
        tile.live = lane < groups && tile.member < p.layout.ratio
                        ? attn_sm90_live_blocks(tile.row, kRowsPerGroup, p.own.s_q, p.own.s_kv, T::kCausal, T::kKeys)
                        : 0;
        return tile;
    }

    // Announces a tile in a slot: to the load warp as soon as it can load, then to the consumers. Each lane writes what
    // is its warp group's, and arrives for itself.
    __device__ __forceinline__ void announce(const FoundTile &tile, int slot)
    {
        const ProblemRecord &p = found.record;
        TileInfo &info = sm.tile[slot];
        const int32_t most = __reduce_max_sync(0xffffffffu, tile.live);
        const bool arenas = args.has_arenas != 0;
        if (lane < T::kGroups) {
            info.live_blocks[lane] = tile.live;
            info.member[lane] = static_cast<int32_t>(tile.member);
            info.q_row[lane] = arenas ? tile.row + static_cast<int32_t>(args.origin[0].rows) - p.own.s_q : tile.row;
            if (lane == 0) {
                info.key_blocks = most;
                info.kv_head = static_cast<int32_t>(tile.kv_head);
                info.kv_row = arenas ? static_cast<int32_t>(args.origin[1].rows) - p.own.s_kv : 0;
                info.problem = problem_there;
                places_write(tile.batch, info.place);
            }
            mbarrier_arrive(smem_addr(&sm.tile_full[slot]));
            jitter_lane(static_cast<uint32_t>(slot)); // shows who does not wait for the rest
            const uint32_t head = tile.kv_head * p.layout.ratio + tile.member;
            float *const lse = p.own.lse;
            info.row[lane] = tile.row;
            info.o[lane] =
                static_cast<uint16_t *>(p.own.o) + (tile.batch * p.layout.o_stride.b + head * p.layout.o_stride.h);
            info.lse[lane] =
                lse == nullptr ? nullptr : lse + (tile.batch * p.own.lse_stride_b + head * p.own.lse_stride_h);
            if (lane == 0) {
                info.s_q = p.own.s_q;
                info.s_kv = p.own.s_kv;
                info.scale = p.own.scale;
                info.cap_scale = p.own.cap_scale;
                info.d = p.layout.d;
                info.batch = tile.batch;
                info.o_stride = p.layout.o_stride.s;
                info.own = own_at(args, problem_there);
                info.layout = &problem_at(args, problem_there)->layout;
            }
            mbarrier_arrive(smem_addr(&sm.tile_ready[slot]));
        }
        __syncwarp();
    }

    // Places of a batch in the launch's maps of q, k and v. Lane 0.
    __device__ __forceinline__ void places_write(uint32_t batch, int32_t (&place)[3])
    {
        const ProblemRecord &p = found.record;
        if (args.has_arenas == 0) {
            place[0] = place[1] = place[2] = static_cast<int32_t>(batch);
            return;
        }
#pragma unroll
        for (int i = 0; i < 3; ++i) {
            place[i] = p.own.place[i];
            if (batch != 0) {
                const int64_t stride = 2 * (&p.layout.q_stride)[i].b;
                place[i] += static_cast<int32_t>((stride >> args.origin[i].step_log) * batch);
            }
        }
    }

    __device__ __forceinline__ void announce_end(int slot)
    {
        if (lane == 0) {
            sm.tile[slot].key_blocks = 0;
        }
        if (lane < T::kGroups) {
            mbarrier_arrive(smem_addr(&sm.tile_full[slot]));
            mbarrier_arrive(smem_addr(&sm.tile_ready[slot]));
        }
    }

    // Lets the other scheduler warp fetch the next number, if there can be one.
    __device__ __forceinline__ void pass_on(bool ended)
    {
        if (lane == 0) {
            if (ended) {
                sm.ended = 1;
            }
            mbarrier_arrive(smem_addr(&sm.tile_numbered[me]));
        }
        __syncwarp();
    }
};

// Whether a launch's first problem is in the parameters.
__device__ __forceinline__ bool first_is_there(const GroupArgs &args)
{
    return args.place == kInline || args.listed != 0;
}

// Brings that problem's record to where scheduler warp 0 looks for it, while that one finds out that its first tile is,
// most likely, of this problem. An idle warp, before the barriers are made.
template <class T> __device__ __forceinline__ void first_problem_fetch(typename T::Shared &sm, const GroupArgs &args)
{
    if (first_is_there(args)) {
        Scheduler<T>{sm, args, 0, static_cast<int>(threadIdx.x & 31), sm.found[0]}.problem_fetch(0);
    }
}

// Scheduler warp number `me`. Fetches the number of a tile, and announces it, while the load warp waits for the last
// buffers of the one before: earlier would tie tiles to blocks that are still busy, later would leave an atomic between
// two tiles' loads. Only where finding out takes about as long as a tile, or maps must be prefetched, perhaps acquired,
// the number is fetched and all found out as soon as the other warp has a number, and announced when it is wanted.
template <class T> __device__ __forceinline__ void schedule(typename T::Shared &sm, const GroupArgs &args, int me)
{
    const int other = kSchedulers - 1 - me;
    Scheduler<T> scheduler{sm, args, me, static_cast<int>(threadIdx.x & 31), sm.found[me]};
    Ring<kTileSlots> slot;
    slot.at = me;
    bool first = me == 0;
    if (maps_are_uploaded(args)) {
        grid_wait();
        for (uint32_t i = scheduler.lane; first && i < 3 * args.early_maps; i += 32) {
            fence_tensormap_acquire(map_number(&args.uploaded[i / 3], i % 3));
        }
        __syncwarp();
    }
    if (!first) {
        pipeline_wait_init<T>();
    }
    for (uint32_t parity = 0;; first = false) {
        asm volatile("" : "+r"(scheduler.lane)); // or all that hangs on it would be kept in registers, which are few
        uint32_t number = blockIdx.x;
        if (!first) {
            wait_full(sm.tile_numbered[other], parity);
            if (sm.ended != 0) {
                return;
            }
            if (args.early == 0) {
                wait_full(sm.tile_wanted[other], parity);
            }
            if (scheduler.lane == 0) {
                number = gridDim.x + atomicInc(args.counter, args.tiles - 1);
            }
            number = __shfl_sync(0xffffffffu, number, 0);
            scheduler.pass_on(number >= args.tiles);
            if (number >= args.tiles) {
                break;
            }
        }
        if (records_are_uploaded(args) && number >= args.tiles_listed) {
            grid_wait(); // for what is uploaded; costs nothing once it is there
        }
        const TileName name = scheduler.tile_name(number);
        if (first) {
            pipeline_wait_init<T>();
            scheduler.pass_on(false);
            scheduler.problem_there = first_is_there(args) ? 0 : scheduler.kNone;
        }
        const FoundTile tile = scheduler.tile_find(name);
        if (!first) {
            if (args.early != 0) {
                wait_full(sm.tile_wanted[other], parity);
            }
            wait_empty(sm.tile_empty[slot.index()], slot.parity());
            parity ^= 1;
        }
        scheduler.announce(tile, slot.index());
        slot.advance();
        slot.advance();
    }
    wait_empty(sm.tile_empty[slot.index()], slot.parity());
    scheduler.announce_end(slot.index());
}

} // namespace attn_sm90
#endif
