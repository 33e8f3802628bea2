/* attn/kernel.h: the C ABI between the daemon and attention kernels.
 *
 * A *problem* is one dense attention call with its addresses; a packed (`thd`) request of n sequences is n
 * problems with batch 1. A *group* is a list of problems of one configuration that a variant runs as one
 * launch. A *variant* is a row in the table of variants: what it is and can do (attn_variant_info_t, pure C,
 * known to the front, which never links CUDA) and how it runs (attn_variant_t, only in workers). */
#ifndef ATTN_KERNEL_H
#define ATTN_KERNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "attn/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- problems --------------------------------------------------------------------------------------- */

typedef enum attn_dtype {
    ATTN_DTYPE_INVALID = 0,
    ATTN_DTYPE_F16 = 1,
    ATTN_DTYPE_BF16 = 2,
    ATTN_DTYPE_F32 = 3
} attn_dtype_t;

#define ATTN_DTYPE_COUNT 4
#define ATTN_HEAD_DIM_MAX 256

size_t attn_dtype_size(attn_dtype_t dtype);      /* bytes per element; 0 for an invalid one */
const char *attn_dtype_name(attn_dtype_t dtype); /* "fp16", "bf16", "fp32"; static storage */

/* A strided view [batch, s, h, d]: element (b, s, h, i) is at data + (b*stride_b + s*stride_s + h*stride_h + i)
 * elements. Strides are in elements, 64-bit, positive or zero where the extent is one. bshd and bhsd differ
 * in strides only. */
typedef struct attn_view {
    void *data;
    int64_t stride_b, stride_s, stride_h;
} attn_view_t;

/* One dense problem. Q and O are [batch, s_q, h_q, d], K and V [batch, s_kv, h_kv, d]; h_q % h_kv == 0 and
 * query head h reads key head h / (h_q / h_kv).
 *   S = softcap > 0 ? softcap * tanh(QK^T * sm_scale / softcap) : QK^T * sm_scale
 *   causal: row i sees key j when j <= i + s_kv - s_q (bottom-right)
 *   O = softmax(S) V;  LSE = ln(sum(exp(S))), float32. A row that sees nothing: O = 0, LSE = -inf.
 * Extents may be 0. Memory belongs to the caller, and outputs overlap nothing. */
typedef struct attn_problem {
    uint32_t batch, h_q, h_kv, d;
    int64_t s_q, s_kv;
    attn_view_t q, k, v, o;
    float *lse; /* NULL when not asked for; (b, h, s) at lse[b*lse_stride_b + h*lse_stride_h + s] */
    int64_t lse_stride_b, lse_stride_h;
    float sm_scale; /* finite, > 0 */
    float softcap;  /* finite, > 0 when the configuration has softcap; else 0 */
} attn_problem_t;

/* What all problems of a group share. */
typedef struct attn_config {
    attn_dtype_t dtype;
    bool causal;
    bool softcap;
} attn_config_t;

typedef struct attn_group {
    attn_config_t config;
    uint32_t count;
    const attn_problem_t *problems; /* host memory, valid until launch() returns */
} attn_group_t;

/* Pairs (query row, key) that the mask leaves, over all rows of one (batch, head). Saturates at INT64_MAX. */
int64_t attn_visible_pairs(int64_t s_q, int64_t s_kv, bool causal);

/* 4 * batch * h_q * d * visible pairs: the FLOPs that rates are quoted in. */
double attn_problem_flops(const attn_problem_t *problem, bool causal);

/* ---- devices ---------------------------------------------------------------------------------------- */

typedef enum attn_device_kind { ATTN_DEVICE_CPU = 1, ATTN_DEVICE_CUDA = 2 } attn_device_kind_t;

typedef struct attn_device {
    attn_device_kind_t kind;
    int arch;              /* CUDA: 10*major + minor (90 on Hopper); CPU: 0 */
    int units;             /* multiprocessors, or cores this process may use */
    uint64_t memory_bytes; /* total device (or host) memory */
    uint64_t l2_bytes;
    char name[96];
    char uuid[48]; /* "GPU-xxxxxxxx-…" or "CPU" */
} attn_device_t;

/* ---- the table of variants: what a variant is and can do -------------------------------------------- */

enum {
    ATTN_FEATURE_CAUSAL = 1u << 0,
    ATTN_FEATURE_NON_CAUSAL = 1u << 1,
    ATTN_FEATURE_SOFTCAP = 1u << 2,
    ATTN_FEATURE_LSE = 1u << 3,
    ATTN_FEATURE_GQA = 1u << 4,         /* h_q != h_kv */
    ATTN_FEATURE_RECTANGULAR = 1u << 5, /* s_q < s_kv */
    ATTN_FEATURE_TALL = 1u << 6,        /* s_q > s_kv */
    ATTN_FEATURE_VARLEN = 1u << 7,      /* packed thd */
    ATTN_FEATURE_EMPTY = 1u << 8,       /* zero-length sequences */
    ATTN_FEATURE_BHSD = 1u << 9,
    ATTN_FEATURE_SCALE = 1u << 10 /* sm_scale other than 1/sqrt(d) */
};
#define ATTN_FEATURES_ALL ((1u << 11) - 1)

const char *attn_feature_name(uint32_t one_feature); /* "causal", "lse", …; static storage */

/* What a request needs, without addresses: supports() and cost() judge this. */
typedef struct attn_need {
    attn_dtype_t dtype;
    uint32_t d;
    uint32_t features;         /* the features that this request uses */
    int64_t max_s_q, max_s_kv; /* over its problems */
    double flops;              /* over its problems */
    double bytes;              /* tensors in and out */
    uint32_t alignment;        /* largest power of two (at most 4096) that divides every base address */
    uint32_t stride_alignment; /* the same for every stride in bytes */
    bool outputs_overlap;      /* an output shares bytes with an input or with the other output: nothing can do that */
} attn_need_t;

/* Bytes of one space of addresses (a region, a process). */
typedef struct attn_span {
    uint64_t space, begin, bytes;
} attn_span_t;

/* For attn_need_t.outputs_overlap. A span of 0 bytes overlaps nothing. */
bool attn_outputs_overlap(const attn_span_t *inputs, size_t input_count, const attn_span_t *outputs,
                          size_t output_count);

#define ATTN_MISSING_MAX 12
#define ATTN_MISSING_TEXT 112
/* The reasons why a variant cannot do a request; each "what it lacks: what was asked, what it has". */
typedef struct attn_missing {
    uint32_t count;
    char item[ATTN_MISSING_MAX][ATTN_MISSING_TEXT];
} attn_missing_t;

void attn_missing_add(attn_missing_t *missing, const char *format, ...) __attribute__((format(printf, 2, 3)));

typedef enum attn_variant_class {
    ATTN_CLASS_SERVE = 1, /* trusted: runs in the worker that keeps its context */
    ATTN_CLASS_LAB = 2    /* may misbehave: runs in a worker of its own that maps only its job */
} attn_variant_class_t;

typedef struct attn_variant_info attn_variant_info_t;
struct attn_variant_info {
    const char *name;
    const char *summary;        /* one line */
    const char *deprecated_for; /* the variant to use instead, or NULL */
    uint32_t devices;           /* bit (1u << attn_device_kind_t) for each kind it runs on */
    attn_variant_class_t run_class;
    bool test_only;         /* listed and runnable only when the daemon runs with test variants enabled */
    bool auto_select;       /* may be chosen by `auto` */
    int arch_min, arch_max; /* inclusive, of CUDA devices; not looked at on the CPU */
    uint32_t dtypes;        /* bit (1u << attn_dtype_t) */
    uint32_t d_min, d_max, d_multiple;
    uint32_t features;
    uint32_t alignment, stride_alignment; /* bytes; 1 = any */
    /* Limits that the fields above cannot say; may be NULL. Adds to *missing what it lacks. */
    void (*supports_extra)(const attn_variant_info_t *info, const attn_need_t *need, const attn_device_t *device,
                           attn_missing_t *missing);
    /* Expected microseconds on the device; drives selection, the watchdog and load balancing. Never NULL. */
    double (*cost_us)(const attn_need_t *need, const attn_device_t *device);
};

/* The built-in table, aliases and test variants included. Static storage. */
const attn_variant_info_t *const *attn_variant_table(size_t *ret_count);
const attn_variant_info_t *attn_variant_find(const char *name); /* NULL when unknown */

/* ATTN_OK, or ATTN_ERR_FAILED_PRECONDITION with every reason in *ret_missing (may be NULL). Pure. */
attn_status_t attn_variant_supports(const attn_variant_info_t *info, const attn_need_t *need,
                                    const attn_device_t *device, attn_missing_t *ret_missing);

/* ---- how a variant runs: only in workers ------------------------------------------------------------ */

/* The first bytes of every workspace: zero before a launch and zero again after it, so that counters need no
 * memset. The rest has no defined contents. */
#define ATTN_WORKSPACE_ZEROED 4096

typedef struct attn_workspace_size {
    size_t device; /* bytes, ATTN_WORKSPACE_ZEROED included; 256-byte aligned */
    size_t host;   /* bytes of pinned staging that stay untouched until the launch has finished */
} attn_workspace_size_t;

/* Where and with what a launch runs. */
typedef struct attn_exec {
    const attn_device_t *device;
    void *stream; /* cudaStream_t; NULL on the CPU */
    void *workspace;
    size_t workspace_bytes;
    void *host_workspace;
    size_t host_workspace_bytes;
    /* CUDA: what is on the stream before the launch lets it begin early (griddepcontrol.launch_dependents). A variant
     * that waits for it in its kernel, before it touches a tensor, may be launched so; others need not look. */
    bool early;
    /* CPU work is done in pieces of at most 50 ms; between pieces it calls this (never NULL on the CPU) and
     * stops with ATTN_ERR_CANCELLED when it returns false. Called from one thread at a time. */
    bool (*checkpoint)(void *checkpoint_arg);
    void *checkpoint_arg;
} attn_exec_t;

typedef struct attn_variant {
    const attn_variant_info_t *info;
    /* Bytes that launch() needs for this group. NULL: none beyond ATTN_WORKSPACE_ZEROED. */
    attn_workspace_size_t (*workspace)(const attn_group_t *group, const attn_device_t *device);
    /* Runs the group: asynchronously on exec->stream for CUDA, to completion on the CPU. Problems with an empty
     * output are skipped. Returns a status and a sentence; never exits, never prints. */
    attn_status_t (*launch)(const attn_group_t *group, const attn_exec_t *exec, attn_error_t *err);
} attn_variant_t;

#ifdef __cplusplus
}
#endif
#endif
