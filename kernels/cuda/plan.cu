// plan.cu: see plan.h.
#include "plan.h"

#include <cuda_runtime.h>

#include "cuda.h"

namespace attn_cuda {

constexpr double kPieceUs = 25e3; // half of what the watchdog and a caller's cancellation allow, since it is estimated
constexpr int kResident = 2;      // blocks of a multiprocessor that `step_us` supposes
constexpr int64_t kBlocksMax = 1 << 20;

struct Plan {
    const Kernel *kernel;
    const attn_exec_t *exec;
    attn_error_t *err;
    int64_t slots; // tiles that run at a time
    int64_t steps; // of a tile, that a launch may take in all its waves
    Launch launch; // being filled
    uint32_t count;
    int64_t blocks;
    int64_t work, longest; // steps in `launch`: of all its tiles, of its longest tile
    cudaEvent_t mark;      // of the piece before the one being queued
    bool marked;
    int64_t queued; // steps per slot since the mark
};

static int64_t round_up_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

// Lets at most two pieces queue up.
static attn_status_t plan_pace(Plan *plan, int64_t steps)
{
    plan->queued += steps;
    if (plan->queued < plan->steps)
        return ATTN_OK;
    plan->queued = 0;
    cudaStream_t stream = static_cast<cudaStream_t>(plan->exec->stream);
    cudaError_t rc = cudaSuccess;
    if (!plan->marked)
        rc = cudaEventCreateWithFlags(&plan->mark, cudaEventDisableTiming | cudaEventBlockingSync);
    else
        rc = cudaEventSynchronize(plan->mark);
    plan->marked = plan->marked || rc == cudaSuccess;
    if (rc == cudaSuccess)
        rc = cudaEventRecord(plan->mark, stream);
    if (rc != cudaSuccess)
        return attn_cuda_error(plan->err, rc, "a piece of the work failed");
    if (plan->exec->checkpoint && !plan->exec->checkpoint(plan->exec->checkpoint_arg))
        return attn_error_set(plan->err, ATTN_ERR_CANCELLED, "cancelled between two pieces of the work");
    return ATTN_OK;
}

static attn_status_t plan_flush(Plan *plan)
{
    if (plan->count == 0)
        return ATTN_OK;
    void *args[] = {&plan->launch};
    const cudaError_t rc = cudaLaunchKernel(plan->kernel->entry, dim3(static_cast<unsigned>(plan->blocks)),
                                            dim3(kThreads), args, static_cast<size_t>(plan->kernel->shared_bytes),
                                            static_cast<cudaStream_t>(plan->exec->stream));
    if (rc != cudaSuccess)
        return attn_cuda_error(plan->err, rc, "a launch failed");
    const int64_t spread = round_up_div(plan->work, plan->slots);
    const int64_t steps = spread > plan->longest ? spread : plan->longest;
    plan->count = 0;
    plan->blocks = plan->work = plan->longest = 0;
    return plan_pace(plan, steps);
}

static void plan_add(Plan *plan, const Problem &problem, int64_t tile_first, int64_t tiles, int64_t steps)
{
    Problem *slot = &plan->launch.problems[plan->count++];
    *slot = problem;
    slot->tile_first = tile_first;
    plan->blocks += tiles;
    slot->block_end = static_cast<uint32_t>(plan->blocks);
    plan->work += tiles * steps;
    plan->longest = steps > plan->longest ? steps : plan->longest;
}

// A problem whose tiles are short enough for one launch each.
static attn_status_t plan_tiles(Plan *plan, const Problem &problem, int64_t tiles, int64_t steps)
{
    const int64_t budget = plan->steps * plan->slots;
    attn_status_t status = ATTN_OK;
    for (int64_t tile = 0; tile < tiles && status == ATTN_OK;) {
        int64_t room = (budget - plan->work) / steps;
        if (plan->count > 0 && (room < 1 || plan->count == kProblemsMax || plan->blocks >= kBlocksMax)) {
            status = plan_flush(plan);
            continue;
        }
        room = room < 1 ? 1 : room > kBlocksMax - plan->blocks ? kBlocksMax - plan->blocks : room;
        const int64_t take = tiles - tile < room ? tiles - tile : room;
        plan_add(plan, problem, tile, take, steps);
        tile += take;
    }
    return status;
}

// A problem whose tiles are not: a few tiles at a time, and their keys in turns.
static attn_status_t plan_turns(Plan *plan, const Problem &problem, int64_t tiles)
{
    attn_status_t status = plan_flush(plan);
    const int64_t keys = plan->steps * plan->kernel->keys;
    plan->launch.state = reinterpret_cast<double *>(static_cast<char *>(plan->exec->workspace) + ATTN_WORKSPACE_ZEROED);
    for (int64_t tile = 0; tile < tiles && status == ATTN_OK; tile += plan->slots)
        for (int64_t key = 0; key < problem.s_kv && status == ATTN_OK; key += keys) {
            plan->launch.key_begin = key;
            plan->launch.key_end = key + keys;
            plan_add(plan, problem, tile, tiles - tile < plan->slots ? tiles - tile : plan->slots, plan->steps);
            status = plan_flush(plan);
        }
    plan->launch.state = nullptr;
    plan->launch.key_begin = 0;
    plan->launch.key_end = INT64_MAX;
    return status;
}

static Tensor tensor_of(const attn_view_t &view)
{
    return {view.data, view.stride_b, view.stride_s, view.stride_h};
}

static Problem problem_of(const attn_problem_t &p, const Truth &truth, int64_t first_row)
{
    Problem problem = {};
    problem.q = tensor_of(p.q);
    problem.k = tensor_of(p.k);
    problem.v = tensor_of(p.v);
    problem.o = truth.o64 ? nullptr : p.o.data;
    problem.o_stride_b = p.o.stride_b;
    problem.o_stride_s = p.o.stride_s;
    problem.o_stride_h = p.o.stride_h;
    problem.lse = truth.o64 ? nullptr : p.lse;
    problem.lse_stride_b = p.lse_stride_b;
    problem.lse_stride_h = p.lse_stride_h;
    if (truth.o64) {
        problem.o64 = truth.o64 + first_row * p.d;
        problem.lse64 = truth.lse64 + first_row;
        problem.row_err = truth.row_err + first_row;
    }
    problem.s_q = p.s_q;
    problem.s_kv = p.s_kv;
    problem.batch = p.batch;
    problem.h_q = p.h_q;
    problem.h_kv = p.h_kv;
    problem.d = p.d;
    problem.sm_scale = p.sm_scale;
    problem.softcap = p.softcap;
    return problem;
}

static int64_t steps_per_piece(const Kernel &kernel)
{
    return static_cast<int64_t>(kPieceUs / kernel.step_us);
}

static int64_t slots_of(const attn_device_t *device)
{
    return static_cast<int64_t>(kResident) * (device->units > 0 ? device->units : 1);
}

size_t plan_state_bytes(const Kernel &kernel, int64_t s_kv, const attn_device_t *device)
{
    if (kernel.state_bytes == 0 || round_up_div(s_kv, kernel.keys) <= steps_per_piece(kernel))
        return 0;
    return kernel.state_bytes * static_cast<size_t>(slots_of(device));
}

attn_status_t plan_run(const Kernel &kernel, const attn_group_t *group, const Truth &truth, const attn_exec_t *exec,
                       attn_error_t *err)
{
    const cudaError_t rc =
        cudaFuncSetAttribute(kernel.entry, cudaFuncAttributeMaxDynamicSharedMemorySize, kernel.shared_bytes);
    if (rc != cudaSuccess)
        return attn_cuda_error(err, rc, "the kernel cannot have its shared memory");
    Plan plan = {};
    plan.kernel = &kernel;
    plan.exec = exec;
    plan.err = err;
    plan.slots = slots_of(exec->device);
    plan.steps = steps_per_piece(kernel);
    plan.launch.key_end = INT64_MAX;
    plan.launch.causal = group->config.causal;
    plan.launch.max_abs = truth.max_abs;

    attn_status_t status = ATTN_OK;
    int64_t row = 0;
    for (uint32_t i = 0; i < group->count && status == ATTN_OK; i++) {
        const attn_problem_t &p = group->problems[i];
        const int64_t heads = static_cast<int64_t>(p.batch) * p.h_q;
        if (heads == 0 || p.s_q == 0)
            continue;
        const Problem problem = problem_of(p, truth, row);
        row += heads * p.s_q;
        const int64_t tiles = heads * round_up_div(p.s_q, kernel.rows);
        const int64_t steps = p.s_kv > 0 ? round_up_div(p.s_kv, kernel.keys) : 1;
        status = plan_state_bytes(kernel, p.s_kv, exec->device) > 0 ? plan_turns(&plan, problem, tiles)
                                                                    : plan_tiles(&plan, problem, tiles, steps);
    }
    if (status == ATTN_OK)
        status = plan_flush(&plan);
    if (plan.marked)
        cudaEventDestroy(plan.mark);
    return status;
}

} // namespace attn_cuda
