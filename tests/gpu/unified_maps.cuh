// unified_maps.cuh: the tensor maps that the device makes for uploaded problems are those that the driver would encode.
#ifndef ATTN_TESTS_UNIFIED_MAPS_CUH
#define ATTN_TESTS_UNIFIED_MAPS_CUH

#include "kernels.cuh"
#include "maps.cuh"
#include "unified_exact.cuh"

template <int kRank>
static bool map_is_drivers(decltype(&cuTensorMapEncodeTiled) encode_tiled, const CUtensorMap &made, attn_dtype_t dtype,
                           const attn_sm90::Kernel &kernel, const attn_sm90::MapShape<kRank> &shape, int rows_at,
                           int box_rows)
{
    CUtensorMap map;
    cuuint64_t extent[kRank];
    cuuint32_t box[kRank], step[kRank];
    for (int i = 0; i < kRank; ++i) {
        extent[i] = shape.extent[i];
        box[i] = static_cast<cuuint32_t>(i == 0 ? kernel.column : (i == rows_at ? box_rows : 1));
        step[i] = 1;
    }
    const CUresult rc = encode_tiled(
        &map, dtype == kF16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, kRank,
        const_cast<void *>(shape.base), extent, reinterpret_cast<const cuuint64_t *>(shape.stride), box, step,
        CU_TENSOR_MAP_INTERLEAVE_NONE, kernel.column == 64 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B,
        CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    uint64_t a[sizeof(map) / 8], b[sizeof(map) / 8];
    memcpy(a, &map, sizeof(map));
    memcpy(b, &made, sizeof(map));
    // Bit 85 says whether the tensor is large; Hopper does not look at it.
    a[1] &= ~(uint64_t{1} << 21);
    b[1] &= ~(uint64_t{1} << 21);
    return rc == CUDA_SUCCESS && memcmp(a, b, sizeof(map)) == 0;
}

// Groups of one, two and more parcels, their layouts mixed; some without keys, some of one row, head or batch. Head
// dims are up to `head_dim`, and `kernel` is one of theirs.
static void test_maps_of(uint32_t head_dim, const attn_sm90::Kernel &kernel)
{
    static attn_problem_t problems[kGroupMax];
    static attn_sm90::ProblemArgs made[kGroupMax];
    static const uint32_t counts[] = {7, 32, 33, 128, 129, 200};
    void *symbol = nullptr;
    cudaDriverEntryPointQueryResult found;
    CUDA_OK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &symbol, 12000, cudaEnableDefault, &found));
    const auto encode_tiled = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(symbol);
    uint32_t state = 77;
    for (uint32_t count : counts) {
        const Case like = case_of(count & 1 ? kF16 : kBf16, true, 1, 1, 1, head_dim, 1, 1);
        pool_used = 0;
        for (uint32_t i = 0; i < count; ++i) {
            Case c = like;
            c.s_q = 1 + i; // all different: nothing is merged
            c.s_kv = next_random(&state) % 8 == 0 ? 0 : 1 + next_random(&state) % 500;
            c.batch = 1 + next_random(&state) % 2;
            c.h_kv = 1 + next_random(&state) % 2;
            c.h_q = c.h_kv * (1 + next_random(&state) % 2);
            c.d = head_dim - 8 * (next_random(&state) % 4);
            c.layout = static_cast<Layout>(next_random(&state) % 3);
            c.lse = false;
            problems[i] = instance_make(c, 1).problem;
        }
        expect(launch_group(lane0, like, problems, count) == ATTN_OK, "launch of %u problems", count);
        CUDA_OK(cudaMemcpy(made, static_cast<unsigned char *>(lane0.exec.workspace) + ATTN_WORKSPACE_ZEROED,
                           count * sizeof(made[0]), cudaMemcpyDeviceToHost));
        for (uint32_t i = 0; i < count; ++i) {
            const attn_sm90::ProblemArgs &p = made[i];
            uint32_t same = 0;
            for (uint32_t j = 0; j < count; ++j) {
                same += p.own.q == problems[j].q.data && p.own.k == problems[j].k.data &&
                        p.own.v == problems[j].v.data && p.own.o == problems[j].o.data &&
                        p.own.s_q == problems[j].s_q && p.own.s_kv == problems[j].s_kv &&
                        p.layout.batch == problems[j].batch && p.layout.h_q == problems[j].h_q &&
                        p.layout.d == problems[j].d && p.layout.o_stride.s == problems[j].o.stride_s &&
                        p.layout.k_stride.h == problems[j].k.stride_h;
            }
            expect(same == 1, "uploaded problem %u of %u is %u of those that were sent", i, count, same);
            expect(map_is_drivers(encode_tiled, p.q_map, like.dtype, kernel, map_of_q(p), 2, 64) &&
                       map_is_drivers(encode_tiled, p.k_map, like.dtype, kernel,
                                      map_of_kv(p, p.own.k, p.layout.k_stride), 1, kernel.keys) &&
                       map_is_drivers(encode_tiled, p.v_map, like.dtype, kernel,
                                      map_of_kv(p, p.own.v, p.layout.v_stride), 1, kernel.keys),
                   "maps of uploaded problem %u of %u (D = %u) are not the driver's", i, count, head_dim);
        }
    }
}

// Classes whose columns are 64 and 32 elements wide.
static void test_maps()
{
    test_maps_of(128, *attn_sm90::kernels_bf16_d128());
    test_maps_of(96, *attn_sm90::kernels_bf16_d96());
}

#endif
