// unified_sweep.cuh: results against fp64 over lengths, ratios, head dims, dtypes, masks, scales and caps.
#ifndef ATTN_TESTS_UNIFIED_SWEEP_CUH
#define ATTN_TESTS_UNIFIED_SWEEP_CUH

#include "unified_truth.cuh"

static void test_smoke()
{
    for (int i = 0; i < 8; ++i) {
        const attn_dtype_t dtype = i & 1 ? kF16 : kBf16;
        const bool causal = i & 2;
        const int64_t s = i & 4 ? 384 : 128;
        check_case(case_of(dtype, causal, 1, 2, 1, 128, s, s), 1 + i);
    }
}

// Lengths around tile and block edges; s_q below, at and above s_kv; all ratios.
static void test_sweep()
{
    static const int64_t lengths[][2] = {
        {1, 1},     {1, 2},       {2, 1},       {1, 63},     {1, 129},     {2, 2},      {63, 63},     {64, 64},
        {65, 65},   {65, 127},    {127, 65},    {127, 127},  {128, 128},   {129, 129},  {129, 1},     {239, 239},
        {239, 799}, {799, 239},   {1, 1023},    {64, 1024},  {128, 1025},  {129, 2047}, {192, 193},   {193, 192},
        {320, 80},  {256, 112},   {512, 512},   {799, 799},  {1023, 1023}, {1024, 1024}, {1025, 1025}, {1025, 1024},
        {1024, 1025}, {2047, 2047}, {2048, 239}, {239, 2048}, {17, 4224},   {4224, 17},  {300, 0},     {0, 300},
        {0, 0},     {1, 0},       {1023, 64},   {385, 640}};
    static const uint32_t heads[][2] = {{1, 1}, {4, 4}, {4, 2}, {6, 2}, {8, 1}, {5, 5}};
    uint64_t seed = 100;
    for (const auto &length : lengths) {
        for (int i = 0; i < 4; ++i) {
            const auto &h = heads[seed % 6];
            Case c = case_of(i & 1 ? kF16 : kBf16, i & 2, 1 + seed % 3, h[0], h[1], 128, length[0], length[1]);
            c.layout = static_cast<Layout>(seed / 2 % 3);
            c.lse = seed % 5 != 0;
            const int64_t rows = c.s_q * c.h_q * c.batch;
            check_case(c, seed++, rows > 4000 ? rows / 4000 + 1 : 1);
        }
    }
}

// Every head dim by 8 with each mask, dtype and cap, at lengths that leave tails.
static void test_dims()
{
    uint64_t seed = 5000;
    for (uint32_t d = 8; d <= 256; d += 8) {
        const bool native = d == 64 || d == 96 || d == 128 || d == 192 || d == 256;
        for (int i = 0; i < 8; ++i) {
            const int lengths = native ? 5 : 2;
            for (int n = 0; n < lengths; ++n) {
                // The second one's heads share tiles.
                static const int64_t s_q[] = {211, 37, 513, 640, 64}, s_kv[] = {467, 300, 513, 640, 64};
                Case c = case_of(i & 1 ? kF16 : kBf16, i & 2, 1, 4, 2, d, s_q[n], s_kv[n]);
                c.softcap = i & 4 ? 15.f : 0.f;
                c.layout = static_cast<Layout>(seed % 3);
                check_case(c, seed++, 2);
            }
        }
    }
}

// Scales, caps and logits far from the usual.
static void test_values()
{
    uint64_t seed = 9000;
    static const float scales[] = {1e-30f, 1e-4f, 0.01f, 0.5f, 1.f, 30.f, 2000.f};
    for (float scale : scales) {
        for (int i = 0; i < 4; ++i) {
            Case c = case_of(i & 1 ? kF16 : kBf16, i & 2, 1, 2, 2, 128, 300, 400);
            c.sm_scale = scale;
            check_case(c, seed++);
        }
    }
    static const float caps[] = {1e-3f, 1.f, 30.f, 50.f, 1000.f};
    for (float cap : caps) {
        for (int i = 0; i < 4; ++i) {
            Case c = case_of(i & 1 ? kF16 : kBf16, i & 2, 1, 2, 1, i & 1 ? 128 : 64, 300, 400);
            c.softcap = cap;
            c.sm_scale = 0.1f;
            check_case(c, seed++);
        }
    }
    // Logits around +-1e5: inputs of 30 give products of 1e4 to 1e5.
    for (int i = 0; i < 4; ++i) {
        Case c = case_of(i & 1 ? kF16 : kBf16, i & 2, 1, 2, 2, 128, 257, 515);
        c.input_scale = 100.f;
        c.sm_scale = 1.f;
        check_case(c, seed++);
    }
}

// Scores of many standard deviations: rows hang on one key, or two, that may come in any block. Whatever of a P's
// rounding is not in the sum as well is the row's error.
static void test_peaked()
{
    uint64_t seed = 9500;
    static const float sigmas[] = {2.f, 3.f, 6.f, 12.f, 40.f};
    static const uint32_t dims[] = {64, 96, 128, 192, 256};
    for (float sigma : sigmas) {
        for (uint32_t d : dims) {
            for (int i = 0; i < 4; ++i) {
                Case c = case_of(i & 1 ? kF16 : kBf16, i & 2, 1, 4, 2, d, 1024, 1024);
                c.sm_scale = sigma / sqrtf(static_cast<float>(d));
                check_case(c, seed++);
            }
        }
    }
}

// FA3's outlier inputs: RMSE of fp16 no worse than 1.9e-4.
static void test_outliers()
{
    pool_used = 0;
    Case c = case_of(kF16, false, 1, 4, 4, 128, 2048, 2048);
    const Instance x = instance_make(c, 77, kOutliers);
    tensor_fill(x.v, c.dtype, kOutliers, 1.f, 78);
    run_alone(x);
    const Verdict v = truth_compare(x, 3);
    const double rmse = sqrt(v.square_error / v.count), plain = sqrt(v.square_naive / v.count);
    printf("outliers: RMSE %.3g, plain formula %.3g\n", rmse, plain);
    expect(rmse <= 1.9e-4 && verdict_good(v), "outliers: RMSE %.3g", rmse);
}

#endif
