/* cpu/cpu.c: `cpu`: cuts a group into tiles and runs them on the pool, longest first. Runs on the worker's thread;
 * memory is the launch's workspace. */
#include "cpu/cpu.h"

#include <stdlib.h>

#include "cpu/cpu_info.h"
#include "cpu/isa.h"
#include "cpu/pool.h"
#include "cpu/tile.h"

/* A thread is woken for at least this much work: waking costs about 50 us, which is 5 MFLOP on one AVX-512 core. */
#define CPU_FLOPS_PER_THREAD 5e6

enum { CPU_ALIGNMENT = 64 }; /* of vectors in scratch */

/* One problem's tiles, which are numbered in the order they run: problems by length, then (batch, key head), then rows
 * from the last, which sees most, to the first. */
typedef struct cpu_slice {
    const attn_problem_t *problem;
    uint64_t first_tile;
    uint64_t row_tiles; /* per (batch, key head) */
} cpu_slice_t;

typedef struct cpu_job {
    const attn_group_t *group;
    const attn_cpu_isa_t *isa;
    cpu_slice_t *slices;
    uint64_t slice_count;
    int64_t tile_rows;
    char *scratch;
    size_t scratch_bytes; /* per thread */
} cpu_job_t;

size_t attn_cpu_scratch_bytes(uint32_t d)
{
    const size_t padded = (d + 15u) / 16 * 16 + 4;
    const size_t floats = 2 * ATTN_CPU_KEYS * padded + (size_t)ATTN_CPU_KEYS * ATTN_CPU_LANES_MAX + 4 * padded +
                          2 * padded * ATTN_CPU_LANES_MAX * ATTN_CPU_PANELS_MAX;
    return (floats * sizeof(float) + (4 + 2 * ATTN_CPU_PANELS_MAX) * 64 + 4095) / 4096 * 4096;
}

static int64_t cpu_rows(const attn_problem_t *problem)
{
    return problem->s_q * (problem->h_q / problem->h_kv);
}

static int cpu_slice_compare(const void *left, const void *right)
{
    const cpu_slice_t *a = left, *b = right;
    if (a->problem->s_kv != b->problem->s_kv)
        return a->problem->s_kv < b->problem->s_kv ? 1 : -1;
    return a->problem < b->problem ? -1 : a->problem > b->problem;
}

static void cpu_tile_run(void *arg, uint64_t item, attn_pool_thread_t *thread)
{
    const cpu_job_t *job = arg;
    uint64_t low = 0, high = job->slice_count - 1; /* the last slice that starts at or before item */
    while (low < high) {
        const uint64_t middle = (low + high + 1) / 2;
        if (job->slices[middle].first_tile <= item)
            low = middle;
        else
            high = middle - 1;
    }
    const cpu_slice_t *slice = &job->slices[low];
    const uint64_t local = item - slice->first_tile;
    const uint64_t head = local / slice->row_tiles;
    const int64_t row_tile = (int64_t)(slice->row_tiles - 1 - local % slice->row_tiles);
    const int64_t rows = cpu_rows(slice->problem);
    attn_cpu_tile_t tile = {.problem = slice->problem,
                            .config = &job->group->config,
                            .batch = (uint32_t)(head / slice->problem->h_kv),
                            .h_kv = (uint32_t)(head % slice->problem->h_kv),
                            .row_begin = row_tile * job->tile_rows};
    tile.row_end = rows - tile.row_begin < job->tile_rows ? rows : tile.row_begin + job->tile_rows;
    job->isa->tile_run(&tile, job->scratch + attn_pool_thread_index(thread) * job->scratch_bytes, thread);
}

/* Tiles of the whole group at this many rows per tile; fills the slices. */
static uint64_t cpu_cut(cpu_job_t *job, int64_t tile_rows)
{
    uint64_t tiles = 0;
    job->tile_rows = tile_rows;
    for (uint64_t i = 0; i < job->slice_count; i++) {
        cpu_slice_t *slice = &job->slices[i];
        const attn_problem_t *p = slice->problem;
        slice->first_tile = tiles;
        slice->row_tiles = (uint64_t)((cpu_rows(p) + tile_rows - 1) / tile_rows);
        tiles += slice->row_tiles * p->batch * p->h_kv;
    }
    return tiles;
}

static uint32_t cpu_max_d(const attn_group_t *group)
{
    uint32_t d = 1;
    for (uint32_t i = 0; i < group->count; i++)
        d = group->problems[i].d > d ? group->problems[i].d : d;
    return d;
}

static size_t cpu_slices_bytes(const attn_group_t *group)
{
    return (group->count * sizeof(cpu_slice_t) + 63) / 64 * 64;
}

static attn_workspace_size_t cpu_workspace(const attn_group_t *group, const attn_device_t *device)
{
    const size_t threads = device->units > 0 ? (size_t)device->units : 1;
    const size_t bytes = ATTN_WORKSPACE_ZEROED + CPU_ALIGNMENT + cpu_slices_bytes(group) +
                         threads * attn_cpu_scratch_bytes(cpu_max_d(group));
    return (attn_workspace_size_t){.device = (bytes + 255) / 256 * 256};
}

static attn_status_t cpu_launch(const attn_group_t *group, const attn_exec_t *exec, attn_error_t *err)
{
    const attn_workspace_size_t need = cpu_workspace(group, exec->device);
    if (exec->workspace_bytes < need.device)
        return attn_error_set(err, ATTN_ERR_INTERNAL, "cpu was given %zu bytes of workspace, %zu are needed",
                              exec->workspace_bytes, need.device);
    const uintptr_t start = (uintptr_t)exec->workspace + ATTN_WORKSPACE_ZEROED;
    char *memory = (char *)exec->workspace + ATTN_WORKSPACE_ZEROED + (-start & (CPU_ALIGNMENT - 1));
    cpu_job_t job = {.group = group,
                     .isa = attn_cpu_isa(),
                     .slices = (cpu_slice_t *)memory,
                     .scratch = memory + cpu_slices_bytes(group),
                     .scratch_bytes = attn_cpu_scratch_bytes(cpu_max_d(group))};
    double flops = 0;
    for (uint32_t i = 0; i < group->count; i++) {
        const attn_problem_t *p = &group->problems[i];
        if (p->s_q == 0 || p->batch == 0)
            continue;
        job.slices[job.slice_count++] = (cpu_slice_t){.problem = p};
        flops += attn_problem_flops(p, group->config.causal);
    }
    if (job.slice_count == 0)
        return ATTN_OK;
    qsort(job.slices, job.slice_count, sizeof job.slices[0], cpu_slice_compare);

    const double useful = flops / CPU_FLOPS_PER_THREAD + 1;
    const unsigned units = exec->device->units > 0 ? (unsigned)exec->device->units : 1;
    const unsigned threads = useful < units ? (unsigned)useful : units;
    /* Large tiles convert K and V less often; with fewer than 8 per thread the last ones would leave threads idle. */
    uint64_t tiles = 0;
    for (int64_t panels = ATTN_CPU_PANELS_MAX; panels >= 1; panels /= 2) {
        tiles = cpu_cut(&job, panels * job.isa->lanes);
        if (tiles >= 8ull * threads || threads == 1)
            break;
    }
    return attn_pool_run(threads, tiles, cpu_tile_run, &job, exec, err);
}

const attn_variant_t attn_cpu_variant = {.info = &attn_cpu_info, .workspace = cpu_workspace, .launch = cpu_launch};
