/* bench/cpu_sdpa.c: runs `cpu` in its own process for cpu_sdpa.py: reads q, k and v from a folder, then launches once
 * per line on stdin and answers with microseconds; o lies in the folder after the first.
 *
 *     cpu_sdpa FOLDER DTYPE(1 fp16, 2 bf16, 3 fp32) LAYOUT(1 bshd, 2 bhsd) S_Q S_KV H_Q H_KV D CAUSAL THREADS [ISA] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "attn/engine_variants.h"
#include "attn/spec.h"
#include "cpu/isa.h"

static FILE *bench_open(const char *folder, const char *name, const char *mode)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return fopen(path, mode);
}

static bool bench_read(const char *folder, const char *name, void *data, uint64_t bytes)
{
    FILE *file = bench_open(folder, name, "r");
    if (!file)
        return false;
    const bool done = fread(data, 1, bytes, file) == bytes;
    fclose(file);
    return done;
}

static bool bench_write(const char *folder, const char *name, const void *data, uint64_t bytes)
{
    FILE *file = bench_open(folder, name, "w");
    if (!file)
        return false;
    const bool done = fwrite(data, 1, bytes, file) == bytes;
    return fclose(file) == 0 && done;
}

static double bench_now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec * 1e-3;
}

int main(int argc, char **argv)
{
    if (argc < 11 || (argc > 11 && !attn_cpu_isa_force(argv[11]))) {
        fprintf(stderr, "see cpu_sdpa.py\n");
        return 2;
    }
    attn_spec_t spec = {.dtype = (uint32_t)atoi(argv[2]),
                        .layout = (uint32_t)atoi(argv[3]),
                        .batch = 1,
                        .s_q = atol(argv[4]),
                        .s_kv = atol(argv[5]),
                        .h_q = (uint32_t)atoi(argv[6]),
                        .h_kv = (uint32_t)atoi(argv[7]),
                        .d = (uint32_t)atoi(argv[8]),
                        .causal = (uint8_t)atoi(argv[9])};
    attn_sizes_t sizes;
    attn_error_t err;
    if (attn_spec_measure(&spec, &sizes, &err) != ATTN_OK) {
        fprintf(stderr, "%s\n", err.message);
        return 2;
    }
    const attn_addresses_t at = {
        .q = malloc(sizes.q), .k = malloc(sizes.k), .v = malloc(sizes.v), .o = malloc(sizes.o)};
    if (!at.q || !at.k || !at.v || !at.o || !bench_read(argv[1], "q", at.q, sizes.q) ||
        !bench_read(argv[1], "k", at.k, sizes.k) || !bench_read(argv[1], "v", at.v, sizes.v)) {
        fprintf(stderr, "cannot read q, k and v from %s\n", argv[1]);
        return 2;
    }
    attn_problem_t problem;
    attn_spec_problems(&spec, NULL, NULL, &at, &problem);
    const attn_group_t group = {{(attn_dtype_t)spec.dtype, spec.causal != 0, false}, 1, &problem};
    const attn_device_t device = {.kind = ATTN_DEVICE_CPU, .units = atoi(argv[10])};
    const attn_variant_t *variant = attn_cpu_variant_find("cpu");
    const size_t bytes = variant->workspace(&group, &device).device;
    const attn_exec_t exec = {.device = &device, .workspace = calloc(1, bytes), .workspace_bytes = bytes};

    char line[64];
    for (bool first = true; fgets(line, sizeof line, stdin); first = false) {
        const double start = bench_now_us();
        if (variant->launch(&group, &exec, &err) != ATTN_OK) {
            fprintf(stderr, "%s\n", err.message);
            return 1;
        }
        const double took = bench_now_us() - start;
        if (first && !bench_write(argv[1], "o", at.o, sizes.o))
            return 1;
        printf("%.1f\n", took);
        fflush(stdout);
    }
    return 0;
}
