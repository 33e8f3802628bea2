/* accuracy/truth.c: computes a truth blob on the CPU. Runs on the caller's thread and the pool; scratch is its own. */
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "attn/accuracy.h"
#include "cpu/convert.h"
#include "cpu/isa.h"
#include "cpu/pool.h"
#include "reference/rows.h"

typedef struct truth_job {
    const attn_problem_t *problem;
    const attn_config_t *config;
    const attn_cpu_isa_t *isa;
    attn_truth_view_t view; /* from this problem's first row on */
    char *scratch;
    size_t scratch_bytes; /* per thread */
    double *max_abs;      /* per thread, a cache line apart */
} truth_job_t;

enum { TRUTH_LINE_DOUBLES = 8 };

static void truth_block_run(void *arg, uint64_t item, attn_pool_thread_t *thread)
{
    const truth_job_t *job = arg;
    const attn_problem_t *p = job->problem;
    const unsigned index = attn_pool_thread_index(thread);
    attn_reference_scratch_t scratch;
    attn_reference_scratch_open(job->scratch + index * job->scratch_bytes, p->d, p->s_kv, true, &scratch);
    attn_reference_block_t block = attn_reference_block_at(p, job->config, item);
    block.naive = true;
    if (!job->isa->reference_rows(&block, &scratch, thread))
        return;
    const int64_t heads = p->h_q / p->h_kv;
    for (int64_t i = 0; i < block.rows; i++) {
        const int64_t query = (block.row + i) / heads;
        const int64_t head = block.h_kv * heads + (block.row + i) % heads;
        const int64_t row = ((int64_t)block.batch * p->h_q + head) * p->s_q + query;
        const double *o = scratch.o + i * p->d;
        double square = 0, size_square = 0;
        for (uint32_t x = 0; x < p->d; x++) {
            const double error = fabs((double)scratch.naive[i * p->d + x] - o[x]);
            if (!isfinite(error))
                continue; /* judged by position; a plain formula that overflows earns nobody an allowance */
            const double size = (double)scratch.size[i * p->d + x];
            square += error * error;
            size_square += isfinite(size) ? size * size : 0;
            double *max = &job->max_abs[index * TRUTH_LINE_DOUBLES];
            *max = error > *max ? error : *max;
        }
        memcpy(job->view.o + row * p->d, o, p->d * sizeof(double));
        job->view.lse[row] = scratch.lse[i];
        const double scores = isfinite(scratch.lse[i]) && fabs(scratch.lse[i]) > 1 ? fabs(scratch.lse[i]) : 1;
        const double least = 0x1p-20 * scores * sqrt(size_square);
        job->view.naive_row_err[row] = sqrt(square) > least ? sqrt(square) : least;
    }
}

attn_status_t attn_truth_compute(const attn_spec_t *spec, const int32_t *cu_seqlens_q, const int32_t *cu_seqlens_k,
                                 const attn_addresses_t *tensors, void *truth, const attn_exec_t *exec,
                                 attn_error_t *err)
{
    attn_truth_view_t view;
    attn_truth_open(spec, truth, &view);
    *view.naive_max_abs = 0;
    if (view.rows == 0)
        return ATTN_OK;
    const uint32_t count = attn_spec_problem_count(spec);
    const attn_config_t config = {
        .dtype = (attn_dtype_t)spec->dtype, .causal = spec->causal != 0, .softcap = spec->softcap > 0};
    int64_t longest = 0;
    attn_problem_t *problems = calloc(count, sizeof *problems);
    if (problems) {
        attn_spec_problems(spec, cu_seqlens_q, cu_seqlens_k, tensors, problems);
        for (uint32_t i = 0; i < count; i++)
            longest = problems[i].s_kv > longest ? problems[i].s_kv : longest;
    }
    const size_t scratch_bytes = attn_reference_scratch_bytes(spec->d, longest, true);
    const unsigned threads =
        attn_reference_threads(exec->device->units > 0 ? (unsigned)exec->device->units : 1, scratch_bytes);
    char *scratch = aligned_alloc(4096, threads * scratch_bytes);
    double *max_abs = calloc(threads, TRUTH_LINE_DOUBLES * sizeof *max_abs);

    attn_status_t status = ATTN_OK;
    if (!problems || !scratch || !max_abs)
        status = attn_error_set(err, ATTN_ERR_NO_MEMORY, "no %zu bytes of memory for the truth of this request",
                                threads * scratch_bytes);
    truth_job_t job = {.config = &config,
                       .isa = attn_cpu_isa(),
                       .view = view,
                       .scratch = scratch,
                       .scratch_bytes = scratch_bytes,
                       .max_abs = max_abs};
    for (uint32_t i = 0; i < count && status == ATTN_OK; i++) {
        const attn_problem_t *p = job.problem = &problems[i];
        status = attn_pool_run(threads, attn_reference_block_count(p), truth_block_run, &job, exec, err);
        const uint64_t rows = (uint64_t)p->batch * p->h_q * (uint64_t)p->s_q;
        job.view.o += rows * p->d;
        job.view.lse += rows;
        job.view.naive_row_err += rows;
    }
    for (unsigned t = 0; t < threads && status == ATTN_OK; t++)
        if (max_abs[t * TRUTH_LINE_DOUBLES] > *view.naive_max_abs)
            *view.naive_max_abs = max_abs[t * TRUTH_LINE_DOUBLES];
    free(max_abs);
    free(scratch);
    free(problems);
    return status;
}
