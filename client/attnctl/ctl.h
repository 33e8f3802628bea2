/* ctl.h: what the commands of attnctl share. One thread. */
#ifndef ATTNCTL_CTL_H
#define ATTNCTL_CTL_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "attn.h"

/* What attnctl exits with. */
enum {
    CTL_OK = 0,
    CTL_REFUSED = 1,     /* the server refused the request, or failed at it */
    CTL_USAGE = 2,       /* wrong options, or a file that cannot be read or written */
    CTL_UNREACHABLE = 3, /* no server, or it went away */
    CTL_BAD_NEWS = 4     /* compare: a variant is wrong or did not run; health: not live or not ready */
};

#define CTL_VARIANTS_MAX 16

/* Everything that an option can set; a command knows some of them. */
typedef struct ctl_options {
    const char *server; /* may point to socket_address: the record stays where it is */
    const char *socket;
    char socket_address[160];
    bool json, help;
    const char *input;                                   /* the positional argument: a safetensors file */
    const char *q, *k, *v, *cu_seqlens_q, *cu_seqlens_k; /* .npy files */
    const char *output;
    const char *shape;
    uint64_t seed;
    bool has_seed;
    const char *dtype, *layout;
    const char *variant, *variants;
    bool causal, return_lse;
    double sm_scale, softcap;
    uint64_t deadline_ms;
    int64_t priority;
    const char *id;
    uint64_t rounds, warmup;
    bool has_rounds, has_warmup;
    bool verbose;
    /* bench and top */
    const char *door, *rate, *connections, *arrivals;
    uint64_t depth, requests, count, spin_us;
    double seconds, warmup_seconds, interval;
    bool has_warmup_seconds, has_spin_us, csv, verify;
} ctl_options_t;

typedef struct ctl_command {
    const char *name, *summary;
    const char *usage;   /* what follows "attnctl NAME" */
    const char *options; /* names of its options, separated by spaces; "server socket json help" come on their own */
    const char *notes;   /* the end of its help; may be NULL */
    int (*run)(const ctl_options_t *options);
} ctl_command_t;

/* Reads the command's options. INVALID_ARGUMENT with what would be right. */
attn_status_t ctl_options_parse(const ctl_command_t *command, int argc, char *const *argv, ctl_options_t *ret,
                                attn_error_t *err);
void ctl_options_help(const ctl_command_t *command, FILE *out);

/* ---- commands ---- */

int ctl_run(const ctl_options_t *options);
int ctl_compare(const ctl_options_t *options);
int ctl_bench(const ctl_options_t *options);
int ctl_variants(const ctl_options_t *options);
int ctl_stats(const ctl_options_t *options);
int ctl_top(const ctl_options_t *options);
int ctl_health(const ctl_options_t *options);

/* ---- telling the user ---- */

/* Prints the sentence (with --json the record, on standard output) and gives the exit code. */
int ctl_fail(const ctl_options_t *options, const attn_client_error_t *error);
int ctl_fail_local(const ctl_options_t *options, const attn_error_t *error);
int ctl_exit_code(attn_status_t status); /* of a call to the server that failed */

/* What the variant lacks and the sentence does not say, a line each. */
void ctl_missing_print(FILE *out, const char *indent, const attn_client_error_t *error);

/* Opens the server; on failure prints why and gives an exit code in *ret_exit. */
bool ctl_open(const ctl_options_t *options, attn_client_t **ret, int *ret_exit);

/* Progress on standard error when that is a terminal; notices SIGINT in any case. Erase before printing results. */
extern const attn_client_progress_t ctl_progress;
bool ctl_progress_step(void *arg, uint32_t done, uint32_t total, const char *step);
void ctl_progress_erase(void);
void ctl_progress_line(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Whether SIGINT came; any thread. ctl_interruptible says nothing and stops a call then; any thread. */
bool ctl_interrupted(void);
extern const attn_client_progress_t ctl_interruptible;

/* ---- inputs and outputs ---- */

/* Tensors of a request: mapped from files or made from a seed. */
typedef struct ctl_tensors {
    attn_spec_t spec; /* measured */
    attn_sizes_t sizes;
    const void *q, *k, *v; /* NULL when only the shape is known */
    const int32_t *cu_seqlens_q, *cu_seqlens_k;
    struct {
        void *base;
        size_t size;
    } maps[5];
    size_t map_count;
    void *made;          /* malloc'ed q, k and v */
    int32_t *seqlens[2]; /* malloc'ed copies: offsets in a file may be unaligned */
} ctl_tensors_t;

/* From the options: a safetensors file, .npy files, or a shape; `fill`: a shape's tensors are made here. The tensors
 * are freed with ctl_tensors_close(). */
attn_status_t ctl_tensors_open(const ctl_options_t *options, bool fill, ctl_tensors_t *ret, attn_error_t *err);
void ctl_tensors_close(ctl_tensors_t *tensors);

/* "1,1024,1024,32/8,128": batch, s_q, s_kv, h_q/h_kv (or h_q alone), d. */
attn_status_t ctl_shape_parse(const char *text, attn_spec_t *spec, attn_error_t *err);

attn_status_t ctl_dtype_parse(const char *text, uint32_t *ret, attn_error_t *err);
attn_status_t ctl_layout_parse(const char *text, uint32_t *ret, attn_error_t *err);
attn_status_t ctl_priority_check(const ctl_options_t *options, attn_error_t *err);

/* The header of a .npy file. */
typedef struct ctl_npy {
    char kind; /* 'f', 'i', 'V', … */
    uint32_t item_bytes;
    uint32_t rank;
    uint64_t shape[4];
    size_t data_offset;
} ctl_npy_t;

/* Pure. `name` is for sentences; `bytes` is the whole file. The data fill the rest of the file exactly. */
attn_status_t ctl_npy_read(const char *name, const void *file, size_t bytes, ctl_npy_t *ret, attn_error_t *err);

/* Writes O (and LSE) as a safetensors file, in place of an old one only when it is complete. */
attn_status_t ctl_answer_write(const char *path, const attn_spec_t *spec, const attn_sizes_t *sizes, const void *o,
                               const float *lse, const attn_client_answer_t *answer, attn_error_t *err);

#endif
