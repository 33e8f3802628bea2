// unified_truth.cuh: attention in fp64 beside the plain formula in the request's dtype, and the rules of
// design section 6 applied to a result. One block of threads per query row; the device does the judging.
#ifndef ATTN_TESTS_UNIFIED_TRUTH_CUH
#define ATTN_TESTS_UNIFIED_TRUTH_CUH

#include "unified_support.cuh"

struct Verdict {
    double error, naive, fudge; // max |O - O64|, max |Onaive - O64|, max |(O64 + 0.3 - 0.3) - O64|
    double lse;                 // max |LSE - LSE64| / tolerance
    double square_error, square_naive, count;
    unsigned long long bad_rows; // row norm above twice the plain formula's
    unsigned long long bad_nans; // NaN where there is none, or none where there is
    unsigned long long bad_empty;
};

__device__ inline void max_to(double *at, double x)
{
    atomicMax(reinterpret_cast<unsigned long long *>(at), static_cast<unsigned long long>(__double_as_longlong(x)));
}

// What reduces over the block: fp64 sums or maxima, by warp shuffles and one shared array.
template <bool kMax> __device__ double block_reduce(double x)
{
    __shared__ double part[8];
    for (int m = 16; m > 0; m >>= 1) {
        const double y = __shfl_xor_sync(0xffffffffu, x, m);
        x = kMax ? fmax(x, y) : x + y;
    }
    __syncthreads();
    if ((threadIdx.x & 31) == 0) {
        part[threadIdx.x >> 5] = x;
    }
    __syncthreads();
    x = part[0];
    for (unsigned w = 1; w < blockDim.x / 32; ++w) {
        x = kMax ? fmax(x, part[w]) : x + part[w];
    }
    return x;
}

__device__ inline double rounded(attn_dtype_t dtype, double x)
{
    return from_bits(dtype, to_bits(dtype, static_cast<float>(x)));
}

__global__ void __launch_bounds__(256) truth_kernel(attn_problem_t p, attn_dtype_t dtype, bool causal, int64_t row_step,
                                                    Verdict *verdict)
{
    extern __shared__ double score[]; // s_kv of fp64, then s_kv floats of the plain formula
    float *const plain = reinterpret_cast<float *>(score + p.s_kv);
    const int64_t rows = (p.s_q + row_step - 1) / row_step;
    const int64_t row = blockIdx.x % rows * row_step;
    const uint32_t h = static_cast<uint32_t>(blockIdx.x / rows) % p.h_q, b = static_cast<uint32_t>(blockIdx.x / rows) / p.h_q;
    const uint32_t h_kv = h / (p.h_q / p.h_kv);
    const uint16_t *const q = static_cast<const uint16_t *>(p.q.data) + b * p.q.stride_b + row * p.q.stride_s + h * p.q.stride_h;
    const uint16_t *const k = static_cast<const uint16_t *>(p.k.data) + b * p.k.stride_b + h_kv * p.k.stride_h;
    const uint16_t *const v = static_cast<const uint16_t *>(p.v.data) + b * p.v.stride_b + h_kv * p.v.stride_h;
    const uint16_t *const o = static_cast<const uint16_t *>(p.o.data) + b * p.o.stride_b + row * p.o.stride_s + h * p.o.stride_h;
    int64_t keys = p.s_kv;
    if (causal) {
        keys = row + p.s_kv - p.s_q + 1;
        keys = keys < 0 ? 0 : (keys < p.s_kv ? keys : p.s_kv);
    }
    const float lse = p.lse ? p.lse[b * p.lse_stride_b + h * p.lse_stride_h + row] : 0.f;
    if (keys == 0) {
        bool bad = p.lse && !(isinf(lse) && lse < 0);
        for (uint32_t c = threadIdx.x; c < p.d; c += blockDim.x) {
            bad |= (o[c] & 0x7FFF) != 0;
        }
        if (bad) {
            atomicAdd(&verdict->bad_empty, 1ull);
        }
        return;
    }
    __shared__ float q_row[ATTN_HEAD_DIM_MAX];
    for (uint32_t c = threadIdx.x; c < p.d; c += blockDim.x) {
        q_row[c] = from_bits(dtype, q[c]);
    }
    __syncthreads();
    double top = -INFINITY, plain_top = -INFINITY, nan = 0;
    for (int64_t j = threadIdx.x; j < keys; j += blockDim.x) {
        double dot = 0;
        for (uint32_t c = 0; c < p.d; ++c) {
            dot += static_cast<double>(q_row[c]) * from_bits(dtype, k[j * p.k.stride_s + c]);
        }
        double x = dot * p.sm_scale, y = rounded(dtype, x);
        if (p.softcap > 0) {
            x = p.softcap * tanh(x / p.softcap);
            y = rounded(dtype, p.softcap * rounded(dtype, tanh(rounded(dtype, y / p.softcap))));
        }
        score[j] = x;
        plain[j] = static_cast<float>(y);
        nan += isnan(x);
        top = fmax(top, x);
        plain_top = fmax(plain_top, y);
    }
    top = block_reduce<true>(top);
    plain_top = block_reduce<true>(plain_top);
    const bool row_nan = block_reduce<false>(nan) > 0;
    double sum = 0, plain_sum = 0;
    for (int64_t j = threadIdx.x; j < keys; j += blockDim.x) {
        score[j] = exp(score[j] - top);
        plain[j] = expf(plain[j] - static_cast<float>(plain_top));
        sum += score[j];
        plain_sum += plain[j];
    }
    sum = block_reduce<false>(sum);
    plain_sum = block_reduce<false>(plain_sum);
    double error2 = 0, naive2 = 0, round2 = 0, truth2 = 0, error = 0, naive = 0, fudge = 0;
    unsigned long long bad_nans = 0;
    for (uint32_t c = threadIdx.x; c < p.d; c += blockDim.x) {
        double acc = 0, plain_acc = 0;
        for (int64_t j = 0; j < keys; ++j) {
            const double x = from_bits(dtype, v[j * p.v.stride_s + c]);
            acc += score[j] * x;
            plain_acc += rounded(dtype, plain[j] / plain_sum) * x;
        }
        const double truth = acc / sum, ours = from_bits(dtype, o[c]), formula = rounded(dtype, plain_acc);
        if (isnan(truth) || isnan(ours) || row_nan) {
            bad_nans += (isnan(truth) || row_nan) != isnan(ours);
            continue;
        }
        const double e = fabs(ours - truth), n = fabs(formula - truth), r = fabs(rounded(dtype, truth) - truth);
        error = fmax(error, e);
        naive = fmax(naive, n);
        fudge = fmax(fudge, fabs(rounded(dtype, rounded(dtype, rounded(dtype, truth) + 0.3) - 0.3) - truth));
        error2 += e * e;
        naive2 += n * n;
        round2 += r * r;
        truth2 += truth * truth;
    }
    error2 = block_reduce<false>(error2);
    naive2 = block_reduce<false>(naive2);
    round2 = block_reduce<false>(round2);
    truth2 = block_reduce<false>(truth2);
    max_to(&verdict->error, error);
    max_to(&verdict->naive, naive);
    max_to(&verdict->fudge, fudge);
    if (bad_nans) {
        atomicAdd(&verdict->bad_nans, bad_nans);
    }
    if (threadIdx.x == 0) {
        atomicAdd(&verdict->square_error, error2);
        atomicAdd(&verdict->square_naive, naive2);
        atomicAdd(&verdict->count, static_cast<double>(p.d));
        // The plain formula can be lucky, but no result is better than the rounded truth. A logit's fp32 error is
        // the exponential's relative error. With few columns the two norms are far from their expected ratio.
        const double allowed = (p.d < 64 ? 3 : 2) * fmax(sqrt(naive2), sqrt(round2));
        if (sqrt(error2) > allowed + fabs(top) * 2.4e-7 * sqrt(truth2) + 1e-7) {
            atomicAdd(&verdict->bad_rows, 1ull);
        }
        if (p.lse && !row_nan) {
            const double truth = top + log(sum);
            const double tolerance = 1e-5 * fmax(1.0, fabs(truth)) + p.softcap / 2048;
            const double ratio = fabs(lse - truth) / tolerance;
            max_to(&verdict->lse, isnan(ratio) ? 1e30 : ratio);
        } else if (p.lse && !isnan(lse)) {
            atomicAdd(&verdict->bad_nans, 1ull);
        }
    }
}

static Verdict *verdict_device;

// Judges every row_step-th row of an instance that has run.
static Verdict truth_compare(const Instance &x, int64_t row_step = 1)
{
    Verdict v;
    memset(&v, 0, sizeof(v));
    if (verdict_device == nullptr) {
        CUDA_OK(cudaMalloc(&verdict_device, sizeof(v)));
        CUDA_OK(cudaFuncSetAttribute(truth_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 220 * 1024));
    }
    const int64_t rows = (x.c.s_q + row_step - 1) / row_step * x.c.h_q * x.c.batch;
    if (rows == 0) {
        return v;
    }
    CUDA_OK(cudaMemset(verdict_device, 0, sizeof(v)));
    truth_kernel<<<static_cast<unsigned>(rows), 256, static_cast<size_t>(x.c.s_kv) * 12>>>(
        x.problem, x.c.dtype, x.c.causal, row_step, verdict_device);
    CUDA_OK(cudaGetLastError());
    CUDA_OK(cudaMemcpy(&v, verdict_device, sizeof(v), cudaMemcpyDeviceToHost));
    return v;
}

static bool verdict_good(const Verdict &v)
{
    return v.error <= 2 * v.naive + 2 * v.fudge && v.lse <= 1 && v.bad_rows == 0 && v.bad_nans == 0 && v.bad_empty == 0;
}

static void expect_true(const Instance &x, int64_t row_step = 1)
{
    const Verdict v = truth_compare(x, row_step);
    expect(verdict_good(v),
           "%s: error %.3g, plain %.3g, fudge %.3g, lse %.3g, bad rows %llu, NaN %llu, empty %llu", case_name(x.c),
           v.error, v.naive, v.fudge, v.lse, v.bad_rows, v.bad_nans, v.bad_empty);
}

// Runs a case alone, judges it and looks for writes outside the outputs.
static void check_case(const Case &c, uint64_t seed, int64_t row_step = 1, Fill fill = kNormal)
{
    pool_used = 0;
    const Instance x = instance_make(c, seed, fill);
    run_alone(x);
    expect_true(x, row_step);
    expect(tensor_strays(x.o) == 0, "%s wrote outside O", case_name(c));
    if (c.lse) {
        expect(tensor_strays(x.lse) == 0, "%s wrote outside LSE", case_name(c));
    }
}

#endif
