// kernel_bench_ragged.cuh: groups of problems of different lengths at unrelated addresses, beside dense batches of the
// same configuration, interleaved in one run. One thread.
//
// A tile step is one key block of one tile of one head; that short heads may share a tile is the kernel's affair. With
// S the group's steps, L those of its longest tile, C = min(tiles, multiprocessors) blocks that run, and t what one
// block takes for a step:
//   bound = S / C * t + L * t,   t = time of the dense batch * C_dense / S_dense
// which is what a list schedule takes at most. A group may take 1.05 of it, the upload of its problems included.
// The dense batch is 4 x 4096: 20 to 30 tiles for each block, so that the grid is full until nearly the end. Short
// tiles cost more per step, in a dense batch too (Q, O and the memory that they wait for are shared by fewer steps), so
// each row is also held against the rates of dense batches of its problems' own shapes: each problem's steps at the
// rate of its own batch, and the longest tile that so comes out. "memory" is what tensors take once at the rate of a
// device-to-device copy. Groups of equal problems may take 1.03 of the same as one dense batch.
#ifndef ATTN_TESTS_KERNEL_BENCH_RAGGED_CUH
#define ATTN_TESTS_KERNEL_BENCH_RAGGED_CUH

#include <chrono>
#include <cmath>
#include <cstring>
#include <map>
#include <utility>
#include <vector>

#include "kernel_bench_support.cuh"
#include "kernels.cuh"

enum Lengths { kLogUniform, kLongAndShort, kChunks, kEqual };

struct Mix {
    const char *name;
    Lengths lengths;
    uint32_t count;
    int64_t least, most; // tokens; kLongAndShort: of the short ones, beside 8 of 4096; kChunks: s_q, after 256 to 8192
    uint32_t h_q, h_kv, d;
};

static const Mix mixes[] = {
    {"32 of 64-4096", kLogUniform, 32, 64, 4096, 32, 8, 128},
    {"8 of 4096, 24 of 64-512", kLongAndShort, 32, 64, 512, 32, 8, 128},
    {"32 chunks of 64-512", kChunks, 32, 64, 512, 32, 8, 128},
    {"100 of 64-2048", kLogUniform, 100, 64, 2048, 32, 8, 128},
    {"64 of 16-256", kLogUniform, 64, 16, 256, 32, 8, 128},
    {"256 of 16-256", kLogUniform, 256, 16, 256, 32, 8, 128},
    {"7 of 512-4096", kLogUniform, 7, 512, 4096, 32, 8, 128},
    {"64 of 16-256", kLogUniform, 64, 16, 256, 16, 16, 128},
    {"200 of 16-128", kLogUniform, 200, 16, 128, 16, 16, 128},
    {"150 of 32-512", kLogUniform, 150, 32, 512, 32, 8, 128},
    {"30 of 16-64", kLogUniform, 30, 16, 64, 32, 8, 128},
    {"64 chunks of 16-128", kChunks, 64, 16, 128, 32, 8, 128},
    {"32 of 64-4096", kLogUniform, 32, 64, 4096, 32, 8, 64},
    {"256 of 16-256", kLogUniform, 256, 16, 256, 32, 8, 64},
    {"100 of 64-2048", kLogUniform, 100, 64, 2048, 16, 16, 96},
    {"100 of 64-2048", kLogUniform, 100, 64, 2048, 8, 8, 256},
    {"8 equal of 512", kEqual, 8, 512, 512, 32, 8, 128},
    {"32 equal of 512", kEqual, 32, 512, 512, 16, 16, 128},
    {"100 equal of 512", kEqual, 100, 512, 512, 16, 16, 128},
};

static double uniform(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<double>(*state >> 11) / 9007199254740992.0;
}

static int64_t log_uniform(uint64_t *state, int64_t least, int64_t most)
{
    const double low = static_cast<double>(least);
    return std::min(most, static_cast<int64_t>(low * pow(static_cast<double>(most + 1) / low, uniform(state))));
}

// Problems without addresses.
static std::vector<attn_problem_t> mix_problems(const Mix &mix)
{
    std::vector<attn_problem_t> problems(mix.count);
    uint64_t state = 20260701 + mix.count * mix.d;
    for (uint32_t i = 0; i < mix.count; ++i) {
        attn_problem_t &p = problems[i];
        memset(&p, 0, sizeof(p));
        p.batch = 1;
        p.h_q = mix.h_q;
        p.h_kv = mix.h_kv;
        p.d = mix.d;
        p.s_q = mix.lengths == kLongAndShort && i % 4 == 1 ? 4096 : log_uniform(&state, mix.least, mix.most);
        p.s_kv = mix.lengths == kChunks ? p.s_q + log_uniform(&state, 256, 8192) : p.s_q;
        p.sm_scale = 1.f / sqrtf(static_cast<float>(p.d));
    }
    return problems;
}

static const attn_sm90::Kernel &kernel_for(const attn_config_t &config, uint32_t d)
{
    using namespace attn_sm90;
    const bool bf16 = config.dtype == ATTN_DTYPE_BF16;
    const Kernel *const kernels = d == 64    ? (bf16 ? kernels_bf16_d64() : kernels_fp16_d64())
                                  : d == 96  ? (bf16 ? kernels_bf16_d96() : kernels_fp16_d96())
                                  : d == 128 ? (bf16 ? kernels_bf16_d128() : kernels_fp16_d128())
                                             : (bf16 ? kernels_bf16_d256() : kernels_fp16_d256());
    return kernels[2 * config.causal + config.softcap];
}

struct Work {
    uint64_t tiles, steps;
    int64_t longest;     // steps
    double flops, bytes; // bytes of q, k, v and o
};

static Work work_of(const attn_config_t &config, const std::vector<attn_problem_t> &problems,
                    const attn_sm90::Kernel &kernel)
{
    Work work = {};
    for (const attn_problem_t &p : problems) {
        const int32_t s_q = static_cast<int32_t>(p.s_q), s_kv = static_cast<int32_t>(p.s_kv);
        const uint32_t m_blocks = static_cast<uint32_t>((s_q + kernel.rows - 1) / kernel.rows);
        const bool shared = attn_sm90_together(s_q, p.h_q / p.h_kv, static_cast<uint32_t>(kernel.rows)) > 1;
        const uint64_t heads = static_cast<uint64_t>(p.batch) * p.h_q;
        for (uint32_t m = 0; m < m_blocks; ++m) {
            const int32_t row = attn_sm90_tile_row(m, m_blocks - shared, kernel.rows, s_q, config.causal);
            const int64_t blocks = attn_sm90_key_blocks(row, kernel.rows, s_q, s_kv, config.causal, kernel.keys);
            work.steps += heads * static_cast<uint64_t>(blocks);
            work.longest = std::max(work.longest, blocks);
        }
        work.tiles += heads * m_blocks;
        work.flops += attn_problem_flops(&p, config.causal);
        work.bytes += 4.0 * p.batch * p.d * (static_cast<double>(p.s_q) * p.h_q + static_cast<double>(p.s_kv) * p.h_kv);
    }
    return work;
}

static double blocks_of(const Work &work)
{
    return static_cast<double>(std::min<uint64_t>(work.tiles, static_cast<uint64_t>(device.units)));
}

// Gives every tensor a place of its own. Spread: in random order with random gaps, each tensor of a problem apart from
// the others, so that no two problems lie at the distance of two others; else one after the other as in a dense batch.
static uint16_t *place(std::vector<attn_problem_t> *problems, attn_dtype_t dtype, bool spread)
{
    struct Slot {
        attn_view_t *view;
        int64_t length;
        uint32_t heads;
        size_t at;
    };
    std::vector<Slot> slots;
    uint64_t state = 7;
    for (attn_problem_t &p : *problems) {
        const Slot of_problem[] = {
            {&p.q, p.s_q, p.h_q, 0}, {&p.k, p.s_kv, p.h_kv, 0}, {&p.v, p.s_kv, p.h_kv, 0}, {&p.o, p.s_q, p.h_q, 0}};
        slots.insert(slots.end(), of_problem, of_problem + 4);
    }
    for (size_t i = slots.size() - 1; spread && i > 0; --i) {
        std::swap(slots[i], slots[static_cast<size_t>(uniform(&state) * static_cast<double>(i + 1))]);
    }
    const attn_problem_t &first = problems->front();
    size_t elements = 0;
    for (Slot &slot : slots) {
        elements +=
            spread ? 128 * static_cast<size_t>(1 + uniform(&state) * 64) : 0; // of 256 bytes, as allocators give
        slot.at = elements;
        elements += (first.batch * static_cast<size_t>(slot.length) * slot.heads * first.d + 127) / 128 * 128;
    }
    uint16_t *memory;
    CUDA_OK(cudaMalloc(&memory, elements * 2));
    fill<<<1024, 256, 0, stream>>>(memory, elements, dtype == ATTN_DTYPE_BF16, 1);
    CUDA_OK(cudaGetLastError());
    for (const Slot &slot : slots) {
        *slot.view = view_of(memory + slot.at, slot.length, slot.heads, first.d);
    }
    return memory;
}

// A group or a dense batch that is being timed.
struct Subject {
    std::vector<attn_problem_t> problems;
    Work work;
    uint16_t *memory;
    Timer timer;
    float us[kMaxRounds];
};

static void subject_open(Subject *x, const attn_config_t &config, const attn_sm90::Kernel &kernel, bool spread)
{
    x->work = work_of(config, x->problems, kernel);
    x->memory = place(&x->problems, config.dtype, spread);
    x->timer =
        timer_make(config, x->problems.data(), static_cast<uint32_t>(x->problems.size()), x->work.flops / 500e6 + 5);
}

static void subject_close(Subject *x)
{
    CUDA_OK(cudaGraphExecDestroy(x->timer.graph));
    CUDA_OK(cudaFree(x->memory));
}

// What a block takes for a step when all are busy, in us.
static double step_us(Subject *dense, int rounds)
{
    return static_cast<double>(median(dense->us, rounds)) * blocks_of(dense->work) /
           static_cast<double>(dense->work.steps);
}

// A dense batch of square problems with the heads of the mix.
static std::vector<attn_problem_t> dense_batch(const Mix &mix, int64_t length, uint32_t batch)
{
    std::vector<attn_problem_t> one = {mix_problems(mix)[0]};
    one[0].s_q = one[0].s_kv = length;
    one[0].batch = batch;
    return one;
}

// The bound with the rates of dense batches of the problems' own shapes, over what the group takes. The clock moves
// meanwhile, so each batch is held against the group next to it.
static double own_rates(const attn_config_t &config, const attn_sm90::Kernel &kernel, const Subject &group, int rounds)
{
    double bound = 0, longest = 0;
    const double blocks = blocks_of(group.work);
    std::map<std::pair<int64_t, int64_t>, double> known;
    for (const attn_problem_t &p : group.problems) {
        const Work work = work_of(config, {p}, kernel);
        double &rate = known[{p.s_q, p.s_kv}];
        if (rate == 0) {
            Subject dense = {};
            float beside[kMaxRounds];
            dense.problems = {p};
            const uint64_t units = static_cast<uint64_t>(device.units);
            dense.problems[0].batch = std::max(static_cast<uint32_t>((32768 + p.s_kv - 1) / p.s_kv),
                                               static_cast<uint32_t>((8 * units + work.tiles - 1) / work.tiles));
            subject_open(&dense, config, kernel, false);
            for (int i = 0; i < rounds; ++i) {
                beside[i] = timer_run(group.timer);
                dense.us[i] = timer_run(dense.timer);
            }
            rate = step_us(&dense, rounds) / static_cast<double>(median(beside, rounds));
            subject_close(&dense);
        }
        bound += rate * static_cast<double>(work.steps) / blocks;
        longest = std::max(longest, rate * static_cast<double>(work.longest));
    }
    return bound + longest;
}

// Microseconds that the caller's thread spends in launch(), on an idle stream.
static double host_us(const attn_config_t &config, const std::vector<attn_problem_t> &problems)
{
    float times[9];
    for (float &t : times) {
        CUDA_OK(cudaStreamSynchronize(stream));
        const auto start = std::chrono::steady_clock::now();
        launch(config, problems.data(), static_cast<uint32_t>(problems.size()));
        t = std::chrono::duration<float, std::micro>(std::chrono::steady_clock::now() - start).count();
    }
    CUDA_OK(cudaStreamSynchronize(stream));
    return static_cast<double>(median(times, 9));
}

static void bench_mix(const Mix &mix, const char *name, const attn_config_t &config, int rounds, double bytes_per_us)
{
    const attn_sm90::Kernel &kernel = kernel_for(config, mix.d);
    const bool equal = mix.lengths == kEqual;
    Subject group = {}, dense = {};
    group.problems = mix_problems(mix);
    subject_open(&group, config, kernel, true);
    dense.problems = equal ? dense_batch(mix, mix.most, mix.count) : dense_batch(mix, 4096, 4);
    subject_open(&dense, config, kernel, false);
    for (int i = 0; i < rounds; ++i) {
        group.us[i] = timer_run(group.timer);
        dense.us[i] = timer_run(dense.timer);
    }
    const Work &work = group.work;
    const double us = static_cast<double>(median(group.us, rounds)), host = host_us(config, group.problems);
    const double steps = static_cast<double>(work.steps) / blocks_of(work) + static_cast<double>(work.longest);
    const double allowed = equal ? 1.03 : 1.05;
    const auto print_ratio = [&](double bound) {
        printf("%8.1f, ratio %.3f %s %.2f", bound, us / bound, us <= allowed * bound ? "within" : "OVER", allowed);
    };
    printf("%-42s %s %3u problems %6llu tiles %7llu steps, longest %3lld  %8.1f us %4.0f TFLOP/s  memory %7.1f  "
           "bound: ",
           name, config.dtype == ATTN_DTYPE_BF16 ? "bf16" : "fp16", mix.count,
           static_cast<unsigned long long>(work.tiles), static_cast<unsigned long long>(work.steps),
           static_cast<long long>(work.longest), us, work.flops / us / 1e6, work.bytes / bytes_per_us);
    if (equal) {
        print_ratio(static_cast<double>(median(dense.us, rounds)));
        printf(" (the same dense)");
    } else {
        print_ratio(steps * step_us(&dense, rounds));
        printf(" (4 x 4096: %.3f us a step); ", step_us(&dense, rounds));
        print_ratio(us * own_rates(config, kernel, group, std::min(rounds, 3)));
        printf(" (own shapes)");
    }
    printf("  host %.1f us\n", host);
    fflush(stdout);
    subject_close(&group);
    subject_close(&dense);
}

// Rows whose name contains `filter`: "ragged c d128 32/8: 32 of 64-4096" and the like. `bytes_per_us`: what memory
// carries.
static void bench_ragged(const char *filter, attn_dtype_t dtype, int rounds, double bytes_per_us)
{
    for (const Mix &mix : mixes) {
        for (int causal = 1; causal >= 0; --causal) {
            char name[80];
            snprintf(name, sizeof(name), "ragged %s d%u %u/%u: %s", causal ? "c" : "n", mix.d, mix.h_q, mix.h_kv,
                     mix.name);
            if (strstr(name, filter) != nullptr) {
                bench_mix(mix, name, {dtype, causal != 0, false}, rounds, bytes_per_us);
            }
        }
    }
}

#endif
