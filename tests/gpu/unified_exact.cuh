// unified_exact.cuh: what needs no tolerance: the same bits alone and in any group, in every layout, with LSE on and
// off, for GQA and its expanded MHA, over repeats; and one dominating key per row.
#ifndef ATTN_TESTS_UNIFIED_EXACT_CUH
#define ATTN_TESTS_UNIFIED_EXACT_CUH

#include "unified_truth.cuh"

static uint32_t next_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

// Copies elements between tensors of equal shape, head h of `to` from head h / ratio of `from`.
__global__ void copy_kernel(Tensor from, Tensor to, uint32_t ratio, uint64_t count)
{
    for (uint64_t n = blockIdx.x * static_cast<uint64_t>(blockDim.x) + threadIdx.x; n < count;
         n += static_cast<uint64_t>(gridDim.x) * blockDim.x) {
        uint32_t b, h, i;
        int64_t s;
        const int64_t at = element_at(to, n, &b, &s, &h, &i);
        static_cast<uint16_t *>(to.view.data)[at] = static_cast<uint16_t *>(
            from.view.data)[b * from.view.stride_b + s * from.view.stride_s + h / ratio * from.view.stride_h + i];
    }
}

static void tensor_copy(const Tensor &from, const Tensor &to, uint32_t ratio = 1)
{
    const uint64_t count = tensor_elements(to);
    if (count > 0) {
        copy_kernel<<<blocks_for(count), 256>>>(from, to, ratio, count);
    }
}

static void expect_same(const Instance &a, const Instance &b, const char *what)
{
    expect(tensors_differ(a.o, b.o) == 0, "%s: O differs, %s", what, case_name(a.c));
    if (a.c.lse && b.c.lse) {
        expect(tensors_differ(a.lse, b.lse) == 0, "%s: LSE differs, %s", what, case_name(a.c));
    }
}

static void instance_copy_inputs(const Instance &from, const Instance &to)
{
    tensor_copy(from.q, to.q);
    tensor_copy(from.k, to.k, to.c.h_kv / from.c.h_kv);
    tensor_copy(from.v, to.v, to.c.h_kv / from.c.h_kv);
}

static void test_layouts()
{
    for (int i = 0; i < 72; ++i) {
        static const uint32_t dims[] = {128, 64, 256, 96, 192, 72};
        // All rows of the second length and the last 16 of the third share tiles with other heads'; those of the
        // expanded heads do not.
        static const int64_t s_q[] = {333, 50, 400};
        Case c = case_of(i & 1 ? kF16 : kBf16, i & 2, 2, 6, 2, dims[i / 12], s_q[i / 4 % 3], 517);
        pool_used = 0;
        const Instance base = instance_make(c, 300 + i);
        run_alone(base);
        expect_true(base, 4);
        for (int other = 0; other < 3; ++other) {
            Case v = c;
            v.layout = other == 0 ? kBhsd : (other == 1 ? kPadded : kBshd);
            v.lse = other != 2; // the last one: LSE off
            Instance x = instance_make(v, 1);
            instance_copy_inputs(base, x);
            run_alone(x);
            expect_same(base, x, other == 2 ? "LSE off" : "layout");
        }
        Case mha = c;
        mha.h_kv = c.h_q;
        Instance x = instance_make(mha, 1);
        instance_copy_inputs(base, x);
        run_alone(x);
        expect_same(base, x, "expanded heads");
    }
}

static void test_repeats()
{
    for (int i = 0; i < 4; ++i) {
        Case c = case_of(i & 1 ? kF16 : kBf16, i & 2, 2, 8, 2, i < 2 ? 128 : 64, 1500, 1700);
        pool_used = 0;
        const Instance base = instance_make(c, 400 + i);
        run_alone(base);
        expect_true(base, 16);
        Instance again = base;
        again.o = tensor_make(c.batch, c.s_q, c.h_q, c.d, c.layout);
        again.lse = tensor_make(c.batch, c.s_q, c.h_q, 2, kBhsd);
        instance_bind(&again);
        for (int n = 0; n < 20; ++n) {
            outputs_poison(again);
            run_alone(again);
            expect_same(base, again, "repeat");
        }
    }
}

static const uint32_t kGroupMax = 200;
static Instance members_alone[kGroupMax], members[kGroupMax];

// kMixed: problems of any heads, batch and layout. kRagged: of any lengths, else like `like`. kEqual: like `like`. The
// last two have one tensor map for all, and a NaN now and then.
enum Likeness { kMixed, kRagged, kEqual };

// A group of `count` random problems against each of them alone; twice with the order reversed.
static void check_group(const Case &like, uint32_t count, uint32_t seed, Likeness likeness = kMixed)
{
    static attn_problem_t problems[kGroupMax];
    uint32_t state = seed;
    pool_used = 0;
    for (uint32_t i = 0; i < count; ++i) {
        Case c = like;
        if (likeness != kEqual) {
            static const int64_t edges[] = {0, 1, 64, 127, 128, 129, 256, 500, 1024};
            c.s_q = next_random(&state) % 4 == 0 ? edges[next_random(&state) % 9] : next_random(&state) % 700;
            c.s_kv = next_random(&state) % 3 == 0 ? c.s_q : static_cast<int64_t>(next_random(&state) % 900);
            c.batch = 1 + next_random(&state) % 2;
        }
        if (likeness == kMixed) {
            c.h_kv = 1 + next_random(&state) % 2;
            c.h_q = c.h_kv * (1 + next_random(&state) % 3);
            c.layout = static_cast<Layout>(next_random(&state) % 3);
        } else {
            c.s_kv = c.s_kv < 1 ? 1 : c.s_kv;
            pool_used += 1024 * (next_random(&state) % 16); // at no even distances
        }
        c.lse = next_random(&state) % 2;
        c.sm_scale = 0.05f + static_cast<float>(next_random(&state) % 100) * 0.002f;
        if (like.softcap > 0) {
            c.softcap = 5.f + static_cast<float>(next_random(&state) % 50);
        }
        members_alone[i] = instance_make(c, seed * 1000 + i);
        if (likeness != kMixed && i % 5 == 2) {
            poke(members_alone[i].v, c.s_kv - 1, 0, 3, 0x7FFF);
        }
        run_alone(members_alone[i]);
        members[i] = members_alone[i];
        members[i].o = tensor_make(c.batch, c.s_q, c.h_q, c.d, c.layout);
        members[i].lse = tensor_make(c.batch, c.s_q, c.h_q, 2, kBhsd);
        instance_bind(&members[i]);
    }
    for (int order = 0; order < 2; ++order) {
        for (uint32_t i = 0; i < count; ++i) {
            outputs_poison(members[i]);
            problems[order == 0 ? i : count - 1 - i] = members[i].problem;
        }
        expect(launch_group(lane0, like, problems, count) == ATTN_OK, "launch of a group of %u", count);
        for (uint32_t i = 0; i < count; ++i) {
            expect_same(members_alone[i], members[i], "group");
        }
    }
    for (uint32_t i = 0; i < count; i += 7) {
        expect_true(members_alone[i], 8);
    }
    for (uint32_t i = 0; i < count; ++i) {
        expect(tensor_strays(members[i].o) == 0, "group member %u wrote outside O", i);
    }
}

static void test_groups()
{
    static const uint32_t counts[] = {1, 2, 5, 6, 7, 32, 33, 200};
    int i = 0;
    for (uint32_t count : counts) {
        Case c = case_of(i & 1 ? kF16 : kBf16, i % 3 != 0, 1, 1, 1, 128, 1, 1);
        c.softcap = i % 4 == 3 ? 20.f : 0.f;
        check_group(c, count, 900 + i++);
    }
    static const uint32_t dims[] = {64, 96, 192, 256};
    for (uint32_t d : dims) {
        check_group(case_of(d % 128 ? kF16 : kBf16, true, 1, 1, 1, d, 1, 1), 20, 1000 + d);
    }
    // In the launch's parameters as far as they go, and uploaded; equal ones of few rows have key blocks that nobody
    // sees.
    static const uint32_t alike[] = {7, 12, 40, 41, 130};
    static const uint32_t all_dims[] = {128, 64, 96, 192, 256};
    for (uint32_t d : all_dims) {
        for (uint32_t n : alike) {
            Case c = case_of(n & 1 ? kF16 : kBf16, (d + n) % 3 != 0, 1, 4, 2, d, 70 + n, 300);
            c.layout = n == 12 ? kBhsd : (n == 40 ? kPadded : kBshd);
            c.softcap = n == 41 ? 20.f : 0.f;
            check_group(c, n, 1400 + d + n, kEqual);
            c.layout = n == 41 ? kPadded : kBshd; // padded: places of 16 bytes
            check_group(c, n, 1700 + d + n, kRagged);
        }
    }
}

// Packed sequences: one buffer, neighbours in front and behind, the same bits as dense.
static void test_packed()
{
    static attn_problem_t problems[kGroupMax];
    for (int i = 0; i < 6; ++i) {
        pool_used = 0;
        static const uint32_t dims[] = {128, 64, 256, 128, 96, 192};
        const uint32_t d = dims[i], h_q = 4, h_kv = 2, count = i < 3 ? 5 : 40;
        const Case like = case_of(i & 1 ? kF16 : kBf16, i != 4, 1, h_q, h_kv, d, 1, 1);
        uint32_t state = 50 + i;
        int64_t q_at[kGroupMax + 1] = {0}, k_at[kGroupMax + 1] = {0};
        for (uint32_t n = 0; n < count; ++n) {
            q_at[n + 1] = q_at[n] + next_random(&state) % 300;
            k_at[n + 1] = k_at[n] + next_random(&state) % 400;
        }
        const Tensor q = tensor_make(1, q_at[count], h_q, d, kBshd), k = tensor_make(1, k_at[count], h_kv, d, kBshd);
        const Tensor v = tensor_make(1, k_at[count], h_kv, d, kBshd), o = tensor_make(1, q_at[count], h_q, d, kBshd);
        tensor_fill(q, like.dtype, kNormal, 1.f, 600 + i);
        tensor_fill(k, like.dtype, kNormal, 1.f, 610 + i);
        tensor_fill(v, like.dtype, kNormal, 1.f, 620 + i);
        CUDA_OK(cudaMemset(o.memory, 0xFF, o.bytes));
        for (uint32_t n = 0; n < count; ++n) {
            Instance &x = members[n];
            x.c = like;
            x.c.lse = false;
            x.c.s_q = q_at[n + 1] - q_at[n];
            x.c.s_kv = k_at[n + 1] - k_at[n];
            x.q = q;
            x.k = k;
            x.v = v;
            x.o = o;
            Tensor *const parts[] = {&x.q, &x.k, &x.v, &x.o};
            for (int t = 0; t < 4; ++t) {
                const bool keys = t == 1 || t == 2;
                parts[t]->length = keys ? x.c.s_kv : x.c.s_q;
                parts[t]->view.data =
                    static_cast<uint16_t *>(parts[t]->view.data) + (keys ? k_at[n] : q_at[n]) * parts[t]->view.stride_s;
            }
            instance_bind(&x);
            problems[n] = x.problem;
        }
        expect(launch_group(lane0, like, problems, count) == ATTN_OK, "launch of packed sequences");
        for (uint32_t n = 0; n < count; ++n) {
            expect_true(members[n], 8);
            Case dense = members[n].c;
            dense.layout = kBhsd;
            const Instance x = instance_make(dense, 1);
            instance_copy_inputs(members[n], x);
            run_alone(x);
            expect_same(members[n], x, "packed");
        }
        expect(tensor_strays(o) == 0, "packed sequences wrote outside O");
    }
}

// One key dominates each row by a margin that makes all others vanish: O must be that V row, bit for bit.
__global__ void needle_kernel(Instance x, uint32_t step)
{
    const int64_t row = blockIdx.x;
    const int64_t visible = x.c.causal ? row + x.c.s_kv - x.c.s_q + 1 : x.c.s_kv;
    const int64_t key = static_cast<int64_t>(hash32(row * 31 + step) % static_cast<uint32_t>(visible));
    for (uint32_t i = threadIdx.x; i < x.c.d; i += blockDim.x) {
        // Q row = 64 * K row of its key: the products of different random rows are far smaller.
        const uint16_t bits = static_cast<uint16_t *>(x.k.view.data)[key * x.k.view.stride_s + i];
        static_cast<uint16_t *>(x.q.view.data)[row * x.q.view.stride_s + i] =
            to_bits(x.c.dtype, 64.f * from_bits(x.c.dtype, bits));
    }
}

__global__ void needle_check_kernel(Instance x, uint32_t step, unsigned long long *ret)
{
    const int64_t row = blockIdx.x;
    const int64_t visible = x.c.causal ? row + x.c.s_kv - x.c.s_q + 1 : x.c.s_kv;
    const int64_t key = static_cast<int64_t>(hash32(row * 31 + step) % static_cast<uint32_t>(visible));
    for (uint32_t i = threadIdx.x; i < x.c.d; i += blockDim.x) {
        if (static_cast<uint16_t *>(x.o.view.data)[row * x.o.view.stride_s + i] !=
            static_cast<uint16_t *>(x.v.view.data)[key * x.v.view.stride_s + i]) {
            atomicAdd(ret, 1ull);
        }
    }
}

static void test_needles()
{
    for (int i = 0; i < 20; ++i) {
        static const uint32_t dims[] = {64, 96, 128, 192, 256};
        pool_used = 0;
        Case c = case_of(i & 1 ? kF16 : kBf16, i & 2, 1, 1, 1, dims[i / 4], 1100, 1900);
        // The needle's logit is about 150, the others' below 75. Much larger and fp32 cannot say exp(top - top) = 1.
        c.sm_scale = 150.f / (64.f * static_cast<float>(c.d));
        const Instance x = instance_make(c, 800 + i);
        for (uint32_t step = 0; step < 4; ++step) {
            needle_kernel<<<1100, 128>>>(x, step);
            outputs_poison(x);
            run_alone(x);
            CUDA_OK(cudaMemset(counter_device, 0, sizeof(*counter_device)));
            needle_check_kernel<<<1100, 128>>>(x, step, counter_device);
            const unsigned long long wrong = counter_read();
            expect(wrong == 0, "needles: %llu elements wrong, %s", wrong, case_name(c));
        }
    }
}

#endif
