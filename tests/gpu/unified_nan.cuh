// unified_nan.cuh: a NaN or infinity in an input reaches the rows that see it and no others.
#ifndef ATTN_TESTS_UNIFIED_NAN_CUH
#define ATTN_TESTS_UNIFIED_NAN_CUH

#include "unified_truth.cuh"

static void test_nan()
{
    for (int i = 0; i < 24; ++i) {
        static const uint32_t dims[] = {128, 64, 256, 192};
        pool_used = 0;
        Case c = case_of(i & 1 ? kF16 : kBf16, i & 2, 1, 2, 1, dims[i / 6], 400, 450);
        const Instance x = instance_make(c, 1200 + i);
        const uint16_t nan = 0x7FFF;
        const uint16_t inf = c.dtype == kF16 ? 0x7C00 : 0x7F80;
        switch (i % 6) {
        case 0: poke(x.q, 133, 1, 5, nan); break;
        case 1: poke(x.k, 200, 0, 7, nan); break;
        case 2: poke(x.v, 200, 0, 9, nan); break;
        case 3: poke(x.v, 449, 0, 3, nan); break;
        case 4:
            poke(x.v, 255, 0, 3, nan);
            poke(x.v, 300, 0, 3, nan);
            poke(x.v, 300, 0, 60, nan);
            break;
        default: poke(x.v, 310, 0, 11, inf); break;
        }
        run_alone(x);
        if (i % 6 != 5) {
            expect_true(x);
        } else {
            // Infinity times a rounded-away weight is a matter of rounding; only the rows that do not see it count.
            const Verdict v = truth_compare(x);
            expect(c.causal ? v.lse <= 1 : true, "infinity in V: LSE of %s", case_name(c));
            Instance head = x; // rows below 260 see keys below 310
            if (c.causal) {
                head.c.s_q = 260;
                head.problem.s_q = 260;
                head.problem.s_kv = 310;
                head.c.s_kv = 310;
                expect_true(head);
            }
        }
    }
    // Heads that share a tile: a row of one of them, and a key that their first rows do not see.
    for (int i = 0; i < 48; ++i) {
        static const uint32_t dims[] = {128, 64, 256, 96, 192, 72};
        pool_used = 0;
        const uint32_t d = dims[i / 8];
        const int64_t before = i & 4 ? 0 : d > 96 ? 128 : 192; // rows of tiles that are not shared
        Case c = case_of(i & 1 ? kF16 : kBf16, i & 2, 2, 10, 2, d, before + 40, 200);
        const Instance x = instance_make(c, 1250 + i);
        poke(x.q, before + 33, 4, 5, 0x7FFF);
        poke(x.v, 170, 1, 9, 0x7FFF);
        run_alone(x);
        expect_true(x);
    }
    // Neighbours: poison right behind K and V, in the padding between heads and rows. tensor_fill does that for
    // every test; here the tail of a block is as long as it can be.
    for (int i = 0; i < 8; ++i) {
        Case c = case_of(i & 1 ? kF16 : kBf16, i & 2, 2, 2, 1, i & 4 ? 72 : 128, 129, 129);
        c.layout = kPadded;
        check_case(c, 1300 + i);
    }
}

#endif
