// producer.cuh: the producer warp. Fetches tile numbers, announces tiles to the consumers and keeps Q, K and V
// loads ahead of them. One warp; lane 0 issues.
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

// The problem of a tile: the last one that begins at or before it. Problems of a launch are never empty.
__device__ __forceinline__ const ProblemArgs *problem_of(const GroupArgs &args, uint32_t tile, int lane)
{
    if (args.uploaded == nullptr) {
        uint32_t p = 0;
        while (p + 1 < args.count && args.problem[p + 1].span.tile_begin <= tile) {
            ++p;
        }
        return &args.problem[p];
    }
    uint32_t before = 0;
    for (uint32_t i = 0; i < args.count; i += 32) {
        const uint32_t begin = i + lane < args.count ? args.tile_begin[i + lane] : 0xffffffffu;
        const uint32_t n = __popc(__ballot_sync(0xffffffffu, begin <= tile));
        before += n;
        if (n < 32) {
            break;
        }
    }
    return &args.uploaded[before - 1];
}

template <class T> struct Producer {
    typename T::Shared &sm;
    Ring<T::kStages> k, v;
    Ring<T::kQBuffers> q;
    bool leader;

    __device__ __forceinline__ void load_q(const ProblemArgs *p, int row, uint32_t head, uint32_t batch)
    {
        const int kv_head = static_cast<int>(head / p->ratio), member = static_cast<int>(head % p->ratio);
#pragma unroll
        for (int g = 0; g < T::kGroups; ++g) {
            wait_empty(sm.q_empty[q.index][g], q.parity);
            if (leader) {
                const uint32_t bar = smem_addr(&sm.q_full[q.index][g]);
                mbarrier_arrive_expect_tx(bar, T::kQBytes);
#pragma unroll
                for (int c = 0; c < T::kColumns; ++c) {
                    tma_load_5d(smem_addr(sm.q[q.index][g]) + c * kRowsPerGroup * 128, &p->q_map, bar, c * kColumn,
                                member, row + g * kRowsPerGroup, kv_head, static_cast<int>(batch));
                }
            }
        }
        q.advance();
    }

    __device__ __forceinline__ void load_kv(Ring<T::kStages> &ring, const CUtensorMap *map, uint64_t *full,
                                            uint64_t *empty, unsigned char (*buffers)[T::kKvBytes], int block,
                                            int kv_head, int batch)
    {
        wait_empty(empty[ring.index], ring.parity);
        if (leader) {
            const uint32_t bar = smem_addr(&full[ring.index]);
            mbarrier_arrive_expect_tx(bar, T::kKvBytes);
#pragma unroll
            for (int c = 0; c < T::kColumns; ++c) {
                tma_load_4d(smem_addr(buffers[ring.index]) + c * T::kKeys * 128, map, bar, c * kColumn,
                            block * T::kKeys, kv_head, batch);
            }
        }
        ring.advance();
    }
};

template <class T> __device__ __forceinline__ void produce(typename T::Shared &sm, const GroupArgs &args)
{
    const int lane = threadIdx.x & 31;
    Producer<T> io{sm, {}, {}, {}, lane == 0};
    Ring<kTileSlots> slot;
    uint32_t tile = blockIdx.x;

    // V of the last block whose K was loaded.
    const CUtensorMap *v_map = nullptr;
    int v_block = 0, v_head = 0, v_batch = 0;
    auto load_pending_v = [&] {
        if (v_map != nullptr) {
            io.load_kv(io.v, v_map, sm.v_full, sm.v_empty, sm.v, v_block, v_head, v_batch);
            v_map = nullptr;
        }
    };

    while (tile < args.tiles) {
        const ProblemArgs *p = problem_of(args, tile, lane);
        if (args.uploaded != nullptr && io.leader) {
            fence_tensormap_acquire(&p->q_map);
            fence_tensormap_acquire(&p->k_map);
            fence_tensormap_acquire(&p->v_map);
        }
        uint32_t next = 0;
        if (io.leader) {
            next = gridDim.x + atomicInc(args.counter, args.tiles - 1);
        }
        uint32_t m_block, heads;
        attn_sm90_tile_locate(&p->span, tile, T::kCausal, &m_block, &heads);
        const int row = static_cast<int>(m_block) * T::kRows;
        const uint32_t batch = heads / p->h_q, head = heads % p->h_q;
        const int blocks = attn_sm90_key_blocks(row, T::kRows, p->s_q, p->s_kv, T::kCausal, T::kKeys);

        wait_empty(sm.tile_empty[slot.index], slot.parity);
        if (io.leader) {
            TileInfo &info = sm.tile[slot.index];
            info.key_blocks = blocks;
            info.row = row;
            info.s_q = p->s_q;
            info.s_kv = p->s_kv;
            info.scale = p->scale;
            info.cap_scale = p->cap_scale;
            info.d = p->d;
            info.head = head;
            info.batch = batch;
            info.o = static_cast<uint16_t *>(p->o) + (batch * p->o_stride.b + head * p->o_stride.h);
            info.o_stride = p->o_stride.s;
            info.lse = p->lse == nullptr ? nullptr : p->lse + (batch * p->lse_stride_b + head * p->lse_stride_h);
            info.problem = p;
            mbarrier_arrive(smem_addr(&sm.tile_full[slot.index]));
        }
        slot.advance();

        io.load_q(p, row, head, batch);
        const int kv_head = static_cast<int>(head / p->ratio);
        for (int block = blocks - 1; block >= 0; --block) {
            io.load_kv(io.k, &p->k_map, sm.k_full, sm.k_empty, sm.k, block, kv_head, static_cast<int>(batch));
            load_pending_v();
            v_map = &p->v_map;
            v_block = block;
            v_head = kv_head;
            v_batch = static_cast<int>(batch);
        }
        if (!T::kSeamless) {
            load_pending_v();
        }
        tile = __shfl_sync(0xffffffffu, next, 0);
    }
    wait_empty(sm.tile_empty[slot.index], slot.parity);
    if (io.leader) {
        sm.tile[slot.index].key_blocks = 0;
        mbarrier_arrive(smem_addr(&sm.tile_full[slot.index]));
    }
    load_pending_v();
}

} // namespace attn_sm90
#endif
