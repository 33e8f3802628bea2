/* gpu/reference_test.c: `reference` and the truth on the GPU against the CPU's, which share no code with them.
 *
 * Both round the same fp64 value once, so O may differ by one unit in the last place where the value lies at a tie.
 * Times of large shapes are printed. One command; with the argument `small` only what a memory checker can bear. */
#include <cuda_runtime_api.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "attn/accuracy.h"
#include "attn/engine_variants.h"
#include "cuda/cuda.h"
#include "gpu/check.h"

static attn_device_t gpu, cpu = {.kind = ATTN_DEVICE_CPU};
static cudaStream_t stream;

static void must(cudaError_t rc, const char *what)
{
    if (rc == cudaSuccess)
        return;
    printf("FAILED: %s: %s\n", what, cudaGetErrorString(rc));
    exit(1);
}

static bool go_on(void *arg)
{
    unsigned *calls = arg;
    if (calls)
        ++*calls;
    return true;
}

/* A request with host tensors and guarded device copies of them. */
typedef struct request {
    attn_spec_t spec;
    attn_sizes_t sizes;
    const int32_t *cu_q, *cu_k;
    attn_addresses_t host, device;
    void *o_cpu;
    float *lse_cpu;
    char *memory;
    uint64_t memory_bytes;
} request_t;

enum { GUARD = 4096, GUARD_BYTE = 0x7b };

static void *host_bytes(uint64_t bytes)
{
    void *memory = calloc(1, bytes + 64);
    if (!memory) {
        printf("no memory for a test\n");
        exit(2);
    }
    return memory;
}

/* Large tensors repeat after 2^20 values: device time is dear and one core makes 30 million values a second. */
static void fill(attn_dtype_t dtype, uint64_t seed, uint32_t tensor, char *data, uint64_t elements)
{
    const uint64_t once = elements < (1u << 20) ? elements : (1u << 20), size = attn_dtype_size(dtype);
    attn_fill_normal(dtype, seed, tensor, data, once);
    for (uint64_t at = once; at < elements; at += once)
        memcpy(data + at * size, data, (elements - at < once ? elements - at : once) * size);
}

static void request_open(request_t *r, attn_spec_t spec, attn_sizes_t sizes, const int32_t *cu_q, const int32_t *cu_k,
                         uint64_t seed)
{
    *r = (request_t){.spec = spec, .sizes = sizes, .cu_q = cu_q, .cu_k = cu_k};
    attn_dtype_t dtype = (attn_dtype_t)spec.dtype;
    size_t element = attn_dtype_size(dtype);
    r->host = (attn_addresses_t){host_bytes(sizes.q), host_bytes(sizes.k), host_bytes(sizes.v), host_bytes(sizes.o),
                                 host_bytes(sizes.lse)};
    r->o_cpu = host_bytes(sizes.o);
    r->lse_cpu = host_bytes(sizes.lse);
    fill(dtype, seed, 0, r->host.q, sizes.q / element);
    fill(dtype, seed, 1, r->host.k, sizes.k / element);
    fill(dtype, seed, 2, r->host.v, sizes.v / element);
    const uint64_t bytes[5] = {sizes.q, sizes.k, sizes.v, sizes.o, sizes.lse};
    uint64_t at[5], total = GUARD;
    for (int i = 0; i < 5; i++) {
        at[i] = total;
        total += (bytes[i] + 255) / 256 * 256 + GUARD;
    }
    r->memory_bytes = total;
    must(cudaMalloc((void **)&r->memory, total), "device memory");
    r->device = (attn_addresses_t){r->memory + at[0], r->memory + at[1], r->memory + at[2], r->memory + at[3],
                                   (float *)(void *)(r->memory + at[4])};
}

static void request_close(request_t *r)
{
    cudaFree(r->memory);
    free(r->host.q);
    free(r->host.k);
    free(r->host.v);
    free(r->host.o);
    free(r->host.lse);
    free(r->o_cpu);
    free(r->lse_cpu);
}

static void request_upload(request_t *r)
{
    must(cudaMemset(r->memory, GUARD_BYTE, r->memory_bytes), "poison");
    must(cudaMemcpy(r->device.q, r->host.q, r->sizes.q, cudaMemcpyHostToDevice), "copy");
    must(cudaMemcpy(r->device.k, r->host.k, r->sizes.k, cudaMemcpyHostToDevice), "copy");
    must(cudaMemcpy(r->device.v, r->host.v, r->sizes.v, cudaMemcpyHostToDevice), "copy");
}

static void guards_check(const request_t *r, const char *name)
{
    unsigned char *all = host_bytes(r->memory_bytes);
    must(cudaMemcpy(all, r->memory, r->memory_bytes, cudaMemcpyDeviceToHost), "copy");
    const uint64_t from[2] = {(uint64_t)((char *)r->device.o - r->memory) + r->sizes.o,
                              (uint64_t)((char *)r->device.lse - r->memory) + r->sizes.lse};
    bool intact = true;
    for (int i = 0; i < 2; i++)
        for (uint64_t b = 0; b < GUARD; b++)
            intact = intact && all[from[i] + b] == GUARD_BYTE;
    intact = intact && memcmp(all + ((char *)r->device.q - r->memory), r->host.q, r->sizes.q) == 0 &&
             memcmp(all + ((char *)r->device.k - r->memory), r->host.k, r->sizes.k) == 0;
    check(intact, "%s: writes outside its outputs", name);
    free(all);
}

static attn_status_t launch(const attn_variant_t *variant, const request_t *r, const attn_addresses_t *at,
                            const attn_device_t *device, unsigned *ret_checkpoints)
{
    uint32_t count = attn_spec_problem_count(&r->spec);
    attn_problem_t *problems = calloc(count ? count : 1, sizeof *problems);
    attn_spec_problems(&r->spec, r->cu_q, r->cu_k, at, problems);
    attn_group_t group = {{(attn_dtype_t)r->spec.dtype, r->spec.causal != 0, r->spec.softcap > 0}, count, problems};
    attn_workspace_size_t size = {ATTN_WORKSPACE_ZEROED, 0};
    if (variant->workspace)
        size = variant->workspace(&group, device);
    void *workspace = NULL;
    bool on_gpu = device->kind == ATTN_DEVICE_CUDA;
    if (on_gpu)
        must(cudaMalloc(&workspace, size.device), "workspace");
    else
        workspace = host_bytes(size.device);
    attn_exec_t exec = {.device = device,
                        .stream = on_gpu ? (void *)stream : NULL,
                        .workspace = workspace,
                        .workspace_bytes = size.device,
                        .checkpoint = go_on,
                        .checkpoint_arg = ret_checkpoints};
    attn_error_t err = {0};
    attn_status_t status = variant->launch(&group, &exec, &err);
    if (status != ATTN_OK)
        printf("%s: %s\n", variant->info->name, err.message);
    if (on_gpu) {
        must(cudaStreamSynchronize(stream), "the kernel");
        cudaFree(workspace);
    } else {
        free(workspace);
    }
    free(problems);
    return status;
}

/* Runs both and compares; the first GPU answer stays in r->host.o. */
static void request_compare(request_t *r, const char *name)
{
    const attn_variant_t *on_gpu = attn_cuda_variant_find("reference"), *on_cpu = attn_cpu_variant_find("reference");
    request_upload(r);
    unsigned checkpoints = 0;
    if (!check(launch(on_gpu, r, &r->device, &gpu, &checkpoints) == ATTN_OK, "%s: launch", name))
        return;
    must(cudaMemcpy(r->host.o, r->device.o, r->sizes.o, cudaMemcpyDeviceToHost), "copy");
    must(cudaMemcpy(r->host.lse, r->device.lse, r->sizes.lse, cudaMemcpyDeviceToHost), "copy");
    guards_check(r, name);
    attn_addresses_t at = r->host;
    at.o = r->o_cpu;
    at.lse = r->lse_cpu;
    launch(on_cpu, r, &at, &cpu, NULL);
    size_t element = attn_dtype_size((attn_dtype_t)r->spec.dtype);
    double ulps = check_ulps(r->spec.dtype, r->host.o, r->o_cpu, r->sizes.o / element);
    double lse_ulps = check_ulps(ATTN_DTYPE_F32, r->host.lse, r->lse_cpu, r->sizes.lse / 4);
    check(ulps <= 1, "%s: O differs from the CPU's by %g units in the last place", name, ulps);
    check(lse_ulps <= 1, "%s: LSE differs from the CPU's by %g units in the last place", name, lse_ulps);
    /* Again: the same bits. */
    request_upload(r);
    launch(on_gpu, r, &r->device, &gpu, NULL);
    void *again = host_bytes(r->sizes.o);
    must(cudaMemcpy(again, r->device.o, r->sizes.o, cudaMemcpyDeviceToHost), "copy");
    check(memcmp(again, r->host.o, r->sizes.o) == 0, "%s: a second run gave other bits", name);
    free(again);
}

static double relative(double a, double b)
{
    if (a == b || (isnan(a) && isnan(b)))
        return 0;
    double scale = fabs(b) > 1e-3 ? fabs(b) : 1e-3;
    double error = fabs(a - b) / scale;
    return isfinite(error) ? error : 1e30;
}

static void truth_compare(request_t *r, const char *name)
{
    uint64_t bytes = attn_truth_bytes(&r->spec);
    void *of_gpu = host_bytes(bytes), *of_cpu = host_bytes(bytes), *blob, *workspace;
    size_t workspace_bytes = attn_cuda_truth_workspace(&r->spec, &gpu);
    must(cudaMalloc(&blob, bytes), "device memory");
    must(cudaMemset(blob, 0xff, bytes), "poison");
    must(cudaMalloc(&workspace, workspace_bytes), "workspace");
    request_upload(r);
    attn_error_t err = {0};
    attn_exec_t exec = {.device = &gpu,
                        .stream = (void *)stream,
                        .workspace = workspace,
                        .workspace_bytes = workspace_bytes,
                        .checkpoint = go_on};
    attn_status_t status = attn_cuda_truth_compute(&r->spec, r->cu_q, r->cu_k, &r->device, blob, &exec, &err);
    check(status == ATTN_OK, "%s: truth: %s", name, err.message);
    must(cudaStreamSynchronize(stream), "the truth");
    must(cudaMemcpy(of_gpu, blob, bytes, cudaMemcpyDeviceToHost), "copy");
    attn_exec_t cpu_exec = {.device = &cpu, .checkpoint = go_on};
    attn_truth_compute(&r->spec, r->cu_q, r->cu_k, &r->host, of_cpu, &cpu_exec, &err);

    attn_truth_view_t a, b;
    attn_truth_open(&r->spec, of_gpu, &a);
    attn_truth_open(&r->spec, of_cpu, &b);
    double o = 0, lse = 0, sum_a = 0, sum_b = 0;
    for (uint64_t i = 0; i < a.rows * r->spec.d; i++)
        o = fmax(o, relative(a.o[i], b.o[i]));
    for (uint64_t i = 0; i < a.rows; i++) {
        lse = fmax(lse, relative(a.lse[i], b.lse[i]));
        sum_a += a.naive_row_err[i];
        sum_b += b.naive_row_err[i];
    }
    check(o <= 1e-11, "%s: O64 differs from the CPU's by %g", name, o);
    check(lse <= 1e-12, "%s: LSE64 differs from the CPU's by %g", name, lse);
    /* The same formula with fp32 sums in another grouping: not the same bits, the same size. */
    bool fp32 = r->spec.dtype == ATTN_DTYPE_F32; /* where the CPU's has the floor of attn/accuracy.h */
    double slack = fp32 ? 1.5 : 1.05;
    check(sum_a <= slack * sum_b && (fp32 || sum_b <= slack * sum_a),
          "%s: plain formula's mean row error %g, the CPU's %g", name, sum_a / (double)a.rows, sum_b / (double)a.rows);
    check(*a.naive_max_abs <= 2 * *b.naive_max_abs && *b.naive_max_abs <= 2 * *a.naive_max_abs,
          "%s: plain formula's worst error %g, the CPU's %g", name, *a.naive_max_abs, *b.naive_max_abs);

    /* The GPU's own answer passes by that truth, and one with a key block left out does not. */
    attn_judgement_t judgement;
    attn_truth_judge(&r->spec, r->cu_q, r->cu_k, &r->host, of_gpu, 4, NULL, &judgement, &err);
    check(judgement.pass, "%s: reference fails its own truth: max %g of %g, row %g, lse %g, special %llu", name,
          judgement.max_abs, judgement.max_abs_allowed, judgement.row_excess, judgement.lse_err,
          (unsigned long long)judgement.special_mismatch);
    cudaFree(blob);
    cudaFree(workspace);
    free(of_gpu);
    free(of_cpu);
}

static void test_features(void)
{
    static const struct {
        uint32_t dtype, layout, batch, h_q, h_kv, d;
        int64_t s_q, s_kv;
        bool causal;
        float softcap;
    } cases[] = {
        {ATTN_DTYPE_F16, ATTN_LAYOUT_BSHD, 2, 4, 2, 128, 130, 130, true, 0},
        {ATTN_DTYPE_BF16, ATTN_LAYOUT_BSHD, 1, 8, 2, 128, 64, 200, true, 0},
        {ATTN_DTYPE_F32, ATTN_LAYOUT_BHSD, 2, 4, 4, 64, 100, 77, true, 0}, /* tall: rows that see nothing */
        {ATTN_DTYPE_F32, ATTN_LAYOUT_BSHD, 1, 3, 1, 256, 50, 90, false, 0},
        {ATTN_DTYPE_BF16, ATTN_LAYOUT_BHSD, 1, 2, 1, 192, 70, 70, true, 5},
        {ATTN_DTYPE_F16, ATTN_LAYOUT_BSHD, 1, 2, 2, 1, 33, 35, false, 0},
        {ATTN_DTYPE_F16, ATTN_LAYOUT_BSHD, 1, 2, 1, 37, 65, 129, true, 20},
        {ATTN_DTYPE_BF16, ATTN_LAYOUT_BSHD, 1, 2, 1, 96, 1, 300, true, 0},
        {ATTN_DTYPE_F32, ATTN_LAYOUT_BSHD, 3, 2, 1, 129, 17, 16, true, 0},
        {ATTN_DTYPE_F32, ATTN_LAYOUT_BSHD, 1, 2, 1, 80, 40, 0, false, 0}, /* no keys */
        {ATTN_DTYPE_BF16, ATTN_LAYOUT_BSHD, 1, 1, 1, 255, 31, 47, false, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        attn_sizes_t sizes;
        attn_spec_t spec =
            check_spec(cases[i].dtype, cases[i].layout, cases[i].batch, cases[i].s_q, cases[i].s_kv, cases[i].h_q,
                       cases[i].h_kv, cases[i].d, cases[i].causal, cases[i].softcap, &sizes);
        char name[96];
        snprintf(name, sizeof name, "%s %s b%u %lldx%lld h%u/%u d%u%s cap %g",
                 attn_dtype_name((attn_dtype_t)spec.dtype), attn_layout_name((attn_layout_t)spec.layout), spec.batch,
                 (long long)spec.s_q, (long long)spec.s_kv, spec.h_q, spec.h_kv, spec.d, spec.causal ? " causal" : "",
                 (double)spec.softcap);
        request_t r;
        request_open(&r, spec, sizes, NULL, NULL, 100 + i);
        request_compare(&r, name);
        truth_compare(&r, name);
        request_close(&r);
    }
}

/* 40 sequences are more than one launch takes; among them empty ones on either side. */
static void test_packed(void)
{
    enum { N = 40 };
    int32_t cu_q[N + 1] = {0}, cu_k[N + 1] = {0};
    for (int i = 0; i < N; i++) {
        cu_q[i + 1] = cu_q[i] + (i % 7 == 3 ? 0 : 1 + i * 13 % 90);
        cu_k[i + 1] = cu_k[i] + (i % 11 == 5 ? 0 : 1 + i * 29 % 150);
    }
    attn_sizes_t sizes;
    attn_spec_t spec = check_spec(ATTN_DTYPE_BF16, ATTN_LAYOUT_THD, N, cu_q[N], cu_k[N], 4, 2, 64, true, 0, &sizes);
    request_t r;
    request_open(&r, spec, sizes, cu_q, cu_k, 7);
    request_compare(&r, "packed");
    truth_compare(&r, "packed");

    /* A sequence alone gives the bits that it gave among the others. */
    const int one = 20;
    attn_sizes_t alone_sizes;
    attn_spec_t alone = check_spec(ATTN_DTYPE_BF16, ATTN_LAYOUT_BSHD, 1, cu_q[one + 1] - cu_q[one],
                                   cu_k[one + 1] - cu_k[one], 4, 2, 64, true, 0, &alone_sizes);
    request_t s;
    request_open(&s, alone, alone_sizes, NULL, NULL, 7);
    memcpy(s.host.q, (char *)r.host.q + (size_t)cu_q[one] * 4 * 64 * 2, alone_sizes.q);
    memcpy(s.host.k, (char *)r.host.k + (size_t)cu_k[one] * 2 * 64 * 2, alone_sizes.k);
    memcpy(s.host.v, (char *)r.host.v + (size_t)cu_k[one] * 2 * 64 * 2, alone_sizes.v);
    request_compare(&s, "alone");
    check(memcmp(s.host.o, (char *)r.host.o + (size_t)cu_q[one] * 4 * 64 * 2, alone_sizes.o) == 0,
          "a sequence alone has other bits than in a group");
    request_close(&s);
    request_close(&r);
}

/* NaN and infinity in keys and values: seen rows have them, rows that do not see them are untouched. */
static void test_specials(void)
{
    attn_sizes_t sizes;
    attn_spec_t spec = check_spec(ATTN_DTYPE_F16, ATTN_LAYOUT_BSHD, 1, 100, 100, 2, 1, 64, true, 0, &sizes);
    request_t r;
    request_open(&r, spec, sizes, NULL, NULL, 9);
    check_store(spec.dtype, r.host.v, 70 * 64 + 5, NAN);
    check_store(spec.dtype, r.host.v, 90 * 64 + 6, INFINITY);
    check_store(spec.dtype, r.host.k, 80 * 64, NAN);
    check_store(spec.dtype, r.host.v, 3 * 64 + 9, -INFINITY);
    request_compare(&r, "specials");
    truth_compare(&r, "specials");
    bool before = true, after = true;
    for (uint64_t row = 0; row < 100; row++)
        for (uint64_t h = 0; h < 2; h++) {
            double five = check_value(spec.dtype, r.host.o, (row * 2 + h) * 64 + 5);
            double zero = check_value(spec.dtype, r.host.o, (row * 2 + h) * 64);
            before = before && (row >= 70 || isfinite(five)) && (row >= 80 || isfinite(zero));
            after = after && (row < 70 || isnan(five)) && (row < 80 || isnan(zero));
        }
    check(before, "a NaN reached a row that does not see it");
    check(after, "a NaN did not reach a row that sees it");
    request_close(&r);
}

/* So many keys that they come in several launches with carried state. */
static void test_long_keys(void)
{
    attn_sizes_t sizes;
    attn_spec_t spec = check_spec(ATTN_DTYPE_BF16, ATTN_LAYOUT_BSHD, 1, 70, 150001, 1, 1, 128, true, 0, &sizes);
    check(attn_cuda_truth_workspace(&spec, &gpu) > ATTN_WORKSPACE_ZEROED,
          "150001 keys need no state: test something else");
    request_t r;
    request_open(&r, spec, sizes, NULL, NULL, 11);
    request_compare(&r, "150001 keys");
    request_close(&r);
}

static bool stop(void *arg)
{
    return ++*(unsigned *)arg < 3;
}

/* Times of large shapes, and that they come in pieces which a caller can cancel. */
static void test_large(int64_t s, uint32_t h_q, uint32_t h_kv, bool causal)
{
    attn_sizes_t sizes;
    attn_spec_t spec = check_spec(ATTN_DTYPE_BF16, ATTN_LAYOUT_BSHD, 1, s, s, h_q, h_kv, 128, causal, 0, &sizes);
    request_t r;
    request_open(&r, spec, sizes, NULL, NULL, 13);
    request_upload(&r);
    attn_problem_t problem;
    attn_spec_problems(&spec, NULL, NULL, &r.device, &problem);
    double flops = attn_problem_flops(&problem, causal);
    unsigned checkpoints = 0;
    const attn_variant_t *variant = attn_cuda_variant_find("reference");
    double start = check_now_ms();
    check(launch(variant, &r, &r.device, &gpu, &checkpoints) == ATTN_OK, "large");
    double ms = check_now_ms() - start;
    printf("reference (1,%lld,%lld,%u/%u,128)%s: %.1f ms, %.1f TFLOP/s, %u pieces of about %.1f ms\n", (long long)s,
           (long long)s, h_q, h_kv, causal ? " causal" : "", ms, flops / ms / 1e9, checkpoints + 1,
           ms / (checkpoints + 1));
    check(ms / (checkpoints + 1) <= 50, "pieces take %g ms", ms / (checkpoints + 1));

    void *blob, *workspace;
    must(cudaMalloc(&blob, attn_truth_bytes(&spec)), "device memory");
    must(cudaMalloc(&workspace, attn_cuda_truth_workspace(&spec, &gpu)), "workspace");
    attn_exec_t exec = {.device = &gpu,
                        .stream = (void *)stream,
                        .workspace = workspace,
                        .workspace_bytes = attn_cuda_truth_workspace(&spec, &gpu),
                        .checkpoint = go_on,
                        .checkpoint_arg = &checkpoints};
    checkpoints = 0;
    start = check_now_ms();
    attn_error_t err = {0};
    check(attn_cuda_truth_compute(&spec, NULL, NULL, &r.device, blob, &exec, &err) == ATTN_OK, "truth: %s",
          err.message);
    must(cudaStreamSynchronize(stream), "the truth");
    ms = check_now_ms() - start;
    printf("truth of the same: %.1f ms, %u pieces of about %.1f ms\n", ms, checkpoints + 1, ms / (checkpoints + 1));
    check(ms / (checkpoints + 1) <= 50, "pieces of the truth take %g ms", ms / (checkpoints + 1));

    exec.checkpoint = stop;
    checkpoints = 0;
    start = check_now_ms();
    attn_status_t status = attn_cuda_truth_compute(&spec, NULL, NULL, &r.device, blob, &exec, &err);
    must(cudaStreamSynchronize(stream), "the cancelled truth");
    if (checkpoints >= 3) {
        check(status == ATTN_ERR_CANCELLED, "a cancelled truth says %s", attn_status_name(status));
        check(check_now_ms() - start < 400, "a cancelled truth took %g ms to end", check_now_ms() - start);
    }
    cudaFree(blob);
    cudaFree(workspace);
    request_close(&r);
}

int main(int argc, char **argv)
{
    const bool small = argc > 1 && strcmp(argv[1], "small") == 0;
    int count = 0;
    struct cudaDeviceProp about;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
        printf("skipped: no GPU\n");
        return 77;
    }
    must(cudaGetDeviceProperties(&about, 0), "properties");
    gpu = (attn_device_t){.kind = ATTN_DEVICE_CUDA,
                          .arch = about.major * 10 + about.minor,
                          .units = about.multiProcessorCount,
                          .memory_bytes = about.totalGlobalMem};
    cpu.units = 8;
    printf("%s, %d multiprocessors\n", about.name, gpu.units);
    must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
    test_features();
    test_packed();
    test_specials();
    if (small)
        return check_finish();
    test_long_keys();
    test_large(4096, 32, 8, true);
    test_large(16384, 16, 16, false);
    return check_finish();
}
