/* workload.h: what a load consists of: classes of requests with weights, from a text file or from options. */
#ifndef ATTNCTL_BENCH_WORKLOAD_H
#define ATTNCTL_BENCH_WORKLOAD_H

#include "ctl.h"

#define BENCH_CLASS_MAX 64
#define BENCH_CLASS_NAME_MAX 32

typedef struct bench_class {
    char name[BENCH_CLASS_NAME_MAX];
    double weight; /* > 0; relative to the other classes */
    attn_spec_t spec;
    attn_sizes_t sizes;
    char variant[ATTN_CLIENT_NAME_MAX]; /* "" = auto */
    int32_t priority;
    uint64_t deadline_ms;
} bench_class_t;

typedef struct bench_workload {
    uint32_t count;
    bench_class_t classes[BENCH_CLASS_MAX];
} bench_workload_t;

/* Reads a workload: one class per line, "NAME key=value …", '#' begins a comment; a line "default key=value …" sets
 * what the lines after it begin with. Keys: shape (needed), weight, dtype, layout, variant, causal, sm-scale, softcap,
 * return-lse, priority, deadline-ms. `name` of the file is for sentences, which give the line. Pure. */
attn_status_t bench_workload_parse(const char *name, const char *text, size_t size, bench_workload_t *ret,
                                   attn_error_t *err);

/* From the command's options: the file that they name, or --shape and what goes with it as the one class "all". */
attn_status_t bench_workload_open(const ctl_options_t *options, bench_workload_t *ret, attn_error_t *err);

/* 4 * h_q * d * visible pairs * batch: what rates in FLOP/s are quoted in. */
double bench_class_flops(const bench_class_t *class);

#endif
