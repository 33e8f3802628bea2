// consumer.cuh: the body that every consumer warp group runs, 64 query rows each.
//
// One step issues S = Q K^T of the next block, then O += P V of the current one, and does the softmax of the next
// block while the second product runs. With two Q buffers the next block may belong to the next tile, so that
// neither the first product nor the last one of a tile is exposed; the epilogue then runs beside the other warp
// groups' products. Key blocks that none of a warp group's rows sees are skipped; a tile that begins with such blocks
// is begun on its own.
#ifndef ATTN_SM90_CONSUMER_CUH
#define ATTN_SM90_CONSUMER_CUH

#include "epilogue.cuh"
#include "mask.cuh"
#include "pipeline.cuh"
#include "ptx/wgmma.cuh"
#include "repair.cuh"
#include "softmax.cuh"

namespace attn_sm90 {

template <class T> struct Consumer {
    using E = typename T::E;
    typename T::Shared &sm;
    int group;
    Ring<T::kStages> k, v;
    Ring<T::kQBuffers> q;

    // Ping-pong: a warp group issues its products when the one before it has issued its own.
    __device__ __forceinline__ void order_wait()
    {
        if (T::kOrdered) {
            named_barrier_sync(kBarrierOrder0 + group, 2 * kWarpGroup);
        }
    }
    __device__ __forceinline__ void order_pass()
    {
        if (T::kOrdered) {
            const int next = group + 1 == T::kGroups ? 0 : group + 1;
            named_barrier_arrive(kBarrierOrder0 + next, 2 * kWarpGroup);
        }
    }

    // S = Q K^T: both K-major; 16 elements are 32 bytes of a column's rows.
    __device__ __forceinline__ void issue_qk(float (&s)[T::kScoreRegs])
    {
        constexpr int kSteps = T::kColumn / 16; // in a column
        const uint64_t a = matrix_descriptor<T::kRowBytes>(smem_addr(sm.q[q.index()][group]), 0);
        const uint64_t b = matrix_descriptor<T::kRowBytes>(smem_addr(sm.k[k.index()]), 0);
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < T::kHeadDim / 16; ++i) {
            const uint32_t a_at = (i / kSteps) * T::kQColumnBytes + (i % kSteps) * 32;
            const uint32_t b_at = (i / kSteps) * T::kKvColumnBytes + (i % kSteps) * 32;
            WgmmaSs<E, T::kKeys>::run(s, a + (a_at >> 4), b + (b_at >> 4), i != 0);
        }
        wgmma_commit();
    }

    // O += P V: V is MN-major, 16 keys are 16 rows.
    __device__ __forceinline__ void issue_pv(float (&o)[T::kOutRegs], const uint32_t (&p)[T::kProbRegs])
    {
        const uint64_t b = matrix_descriptor<T::kRowBytes>(smem_addr(sm.v[v.index()]), T::kKvColumnBytes);
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < T::kKeys / 16; ++i) {
            WgmmaRs<E, T::kHeadDim>::run(o, &p[4 * i], b + (i * 16 * T::kRowBytes >> 4));
        }
        wgmma_commit();
    }

    __device__ __forceinline__ void wait_k()
    {
        wait_full(sm.k_full[k.index()], k.parity());
    }
    __device__ __forceinline__ void wait_v()
    {
        wait_full(sm.v_full[v.index()], v.parity());
    }
    __device__ __forceinline__ void wait_q()
    {
        wait_full(sm.q_full[q.index()][group], q.parity());
    }
    __device__ __forceinline__ void release_k()
    {
        release(sm.k_empty[k.index()]);
        k.advance();
    }
    __device__ __forceinline__ void release_v()
    {
        release(sm.v_empty[v.index()]);
        v.advance();
    }
    __device__ __forceinline__ void release_q()
    {
        release(sm.q_empty[q.index()][group]);
        q.advance();
    }

    // A block whose keys no row of this warp group sees: its buffers must still be filled before they can be released.
    __device__ __forceinline__ void skip_block()
    {
        wait_k();
        release_k();
        wait_v();
        release_v();
    }
    // A turn with nothing to issue: all warp groups take one per block of a tile.
    __device__ __forceinline__ void skip_turn()
    {
        order_wait();
        order_pass();
    }
    // Takes the turn of a tile's first block if it is to be skipped: before what is left of the tile before, for which
    // the others need not wait.
    __device__ __forceinline__ void skip_first_turn(const TileInfo &tile)
    {
        if (T::kOrdered && uniform(tile.live_blocks[group] != tile.key_blocks) != 0) {
            skip_turn();
        }
    }

    // What comes before the softmax: cap and mask.
    __device__ __forceinline__ void shape_scores(const Mask &mask, int block, float cap_scale,
                                                 float (&s)[T::kScoreRegs])
    {
        if (T::kSoftcap) {
            softcap_apply<T>(cap_scale, s);
        }
        if (mask.applies(block)) {
            mask_apply<T>(mask, block, s);
        }
    }
};

// What a warp group must know while it works on a tile.
struct Work {
    Mask mask;
    float scale, cap_scale;
};

template <class T> __device__ __forceinline__ Work work_of(const TileInfo &tile, int group)
{
    return {mask_of<T>(tile, group), tile.scale, tile.cap_scale};
}

// S of the next block and, under it, O of the current one: P of the current block is `p`, of the next `p_next`.
template <class T>
__device__ __forceinline__ void consume_block(Consumer<T> &io, const Work &work, int block, Rows &rows,
                                              float (&s)[T::kScoreRegs], float (&o)[T::kOutRegs],
                                              uint32_t (&p)[T::kProbRegs], uint32_t (&p_next)[T::kProbRegs])
{
    float sum[2];
    io.wait_k();
    io.order_wait();
    io.issue_qk(s);
    io.wait_v();
    io.issue_pv(o, p);
    io.order_pass();
    wgmma_wait<1>();
    hold(s);
    io.release_k();
    if (!T::kTwoP) {
        wgmma_wait<0>();
        hold(o);
        hold(p);
        io.release_v();
    }
    float total;
    if (T::kSoftcap && !work.mask.applies(block)) {
        total = softmax_exp<T, true>(work.scale, work.cap_scale, s, rows.base, sum, p_next);
    } else {
        io.shape_scores(work.mask, block, work.cap_scale, s);
        total = softmax_exp<T, false>(work.scale, work.cap_scale, s, rows.base, sum, p_next);
    }
    hold(p_next);
    hold(sum);
    // wgmma's waits are for the whole warp group, so none may stand in a branch that a warp takes alone: O follows
    // below.
    const bool outgrown = !(total < kSumLimit<typename T::E>); // so is a NaN
    bool raised = false;
    float rescale[2];
    if (warp_any(outgrown || softmax_grew(sum[0], rows.sum[0]) || softmax_grew(sum[1], rows.sum[1]))) {
        float most[2];
        softmax_max<T>(s, most);
        raised = warp_any(outgrown);
        if (raised) {
            softmax_raise(work.scale, most, rows, rescale);
            softmax_exp<T, false>(work.scale, work.cap_scale, s, rows.base, sum, p_next);
        }
        softmax_count_excess<T>(work.scale, most, rows);
    }
    rows.sum[0] += sum[0];
    rows.sum[1] += sum[1];
    if (T::kTwoP) {
        hold(s);
        wgmma_wait<0>();
        hold(o);
        hold(p);
        io.release_v();
    }
    if (raised) {
#pragma unroll
        for (int i = 0; i < T::kOutRegs; ++i) {
            o[i] *= rescale[(i >> 1) & 1];
        }
    }
}

template <class T> __device__ __forceinline__ void consume(typename T::Shared &sm)
{
    const int group = static_cast<int>(uniform(threadIdx.x / kWarpGroup)) - 1;
    Consumer<T> io{sm, group, {}, {}, {}};
    Ring<kTileSlots> slot;
    float o[T::kOutRegs], s[T::kScoreRegs];
    uint32_t p[T::kProbRegs], p_next[T::kProbRegs];
    Rows rows;
    Work work;
    int block;

    wait_full(sm.tile_ready[0], 0);
    if (sm.tile[0].key_blocks == 0) {
        return;
    }
    if (T::kOrdered && group == T::kGroups - 1) {
        io.order_pass();
    }
    io.skip_first_turn(sm.tile[0]);
    // primed: P of the tile's first block is there already.
    for (bool primed = false;;) {
        rings_make_uniform(slot, io.k, io.v, io.q);
        const TileInfo &tile = sm.tile[slot.index()];
        if (!primed) {
            const int live = static_cast<int>(uniform(static_cast<uint32_t>(tile.live_blocks[group])));
            io.wait_q();
#pragma unroll 1
            for (int left = static_cast<int>(uniform(static_cast<uint32_t>(tile.key_blocks))); left > live; --left) {
                io.skip_block();
                if (left - 1 > live) { // else the next block is not skipped and takes its turn itself
                    io.skip_turn();
                }
            }
            block = live - 1;
            if (live != 0) {
                // First product of a tile that nothing of this warp group covers.
                work = work_of<T>(tile, group);
                io.wait_k();
                io.order_wait();
                io.issue_qk(s);
                io.order_pass();
                wgmma_wait<0>();
                hold(s);
                io.release_k();
                io.shape_scores(work.mask, block, work.cap_scale, s);
                softmax_begin<T>(work.scale, s, rows);
                softmax_exp<T, false>(work.scale, work.cap_scale, s, rows.base, rows.sum, p);
            }
        }
        // Not by a first product that does not accumulate: then the compiler would keep O's registers between tiles.
#pragma unroll
        for (int i = 0; i < T::kOutRegs; ++i) {
            o[i] = 0.f;
        }
        rows.excess[0] = rows.excess[1] = 0.f;
        if (T::kTwoP) {
            if (--block >= 0) {
#pragma unroll 1
                while (true) {
                    consume_block<T>(io, work, block, rows, s, o, p, p_next);
                    if (--block < 0) {
#pragma unroll
                        for (int i = 0; i < T::kProbRegs; ++i) {
                            p[i] = p_next[i];
                        }
                        break;
                    }
                    consume_block<T>(io, work, block, rows, s, o, p_next, p);
                    if (--block < 0) {
                        break;
                    }
                }
            }
        } else {
#pragma unroll 1
            for (--block; block >= 0; --block) {
                consume_block<T>(io, work, block, rows, s, o, p, p);
            }
        }
        io.release_q();

        if (T::kSeamless) {
            Ring<kTileSlots> next_slot = slot;
            next_slot.advance();
            wait_full(sm.tile_ready[next_slot.index()], next_slot.parity());
            const TileInfo &next = sm.tile[next_slot.index()];
            const int next_blocks = next.key_blocks;
            // Twice the blocks of the next tile, and one more when the two cannot share a step.
            const bool apart = next.live_blocks[group] != next_blocks || tile.live_blocks[group] == 0;
            const uint32_t after = uniform(next_blocks == 0 ? 0u : static_cast<uint32_t>(next_blocks) << 1 | apart);
            if (after != 0 && (after & 1) == 0) {
                block = static_cast<int>(after >> 1) - 1;
                io.wait_q();
                io.wait_k();
                io.order_wait();
                io.issue_qk(s);
                io.wait_v();
                io.issue_pv(o, p);
                io.order_pass();
                work = work_of<T>(next, group);
                const RowEnds ends = softmax_end(rows);
                Rows next_rows;
                wgmma_wait<1>();
                hold(s);
                io.release_k();
                io.shape_scores(work.mask, block, work.cap_scale, s);
                softmax_begin<T>(work.scale, s, next_rows);
                hold(next_rows.base);
                wgmma_wait<0>();
                hold(o);
                hold(p);
                io.release_v();
                if (epilogue<T>(tile, group, ends, o)) {
                    repair_warp<T>(tile, group, ends);
                }
                release(sm.tile_empty[slot.index()]);
                softmax_exp<T, false>(work.scale, work.cap_scale, s, next_rows.base, next_rows.sum, p);
                rows = next_rows;
                slot = next_slot;
                primed = true;
                continue;
            }
            if (after != 0) {
                io.skip_first_turn(next);
            }
        }
        if (uniform(static_cast<uint32_t>(tile.live_blocks[group])) != 0) {
            io.wait_v();
            io.issue_pv(o, p);
            const RowEnds ends = softmax_end(rows);
            wgmma_wait<0>();
            hold(o);
            hold(p);
            io.release_v();
            if (epilogue<T>(tile, group, ends, o)) {
                repair_warp<T>(tile, group, ends);
            }
        }
        release(sm.tile_empty[slot.index()]);
        slot.advance();
        primed = false;
        wait_full(sm.tile_ready[slot.index()], slot.parity());
        if (sm.tile[slot.index()].key_blocks == 0) {
            break;
        }
        if (!T::kSeamless) {
            io.skip_first_turn(sm.tile[slot.index()]);
        }
    }
    if (T::kOrdered && group == 0) {
        io.order_wait(); // takes the turn that the last warp group passed on, so that no barrier is left half full
    }
}

} // namespace attn_sm90
#endif
