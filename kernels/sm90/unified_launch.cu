// unified_launch.cu: the host side of `unified`: checks, tile plan, tensor maps, upload and launch.
// Any thread; keeps nothing but the address of the driver's encoder and which kernels were configured.
#include <cstring>
#include <cuda.h>
#include <cuda_runtime.h>

#include "kernels.cuh"
#include "merge.h"
#include "unified.h"
#include "unified_info.h"
#include "upload.cuh"

using namespace attn_sm90;

namespace {

constexpr double kLog2E = 1.44269504088896340736;
constexpr float kScaleMax = 1.0e38f; // keeps scale * -inf = -inf and scale * 0 = 0
constexpr int64_t kLengthMax = int64_t{1} << 30;
constexpr int64_t kStrideMax = int64_t{1} << 39; // elements: 2^40 bytes
constexpr int kMaxDevices = 64;

using EncodeTiled = decltype(&cuTensorMapEncodeTiled);

// The driver's encoder, looked up at run time so that nothing links libcuda. Lookups may race; they agree.
attn_status_t encoder(EncodeTiled *ret_encode, attn_error_t *err)
{
    static EncodeTiled cached;
    EncodeTiled found = __atomic_load_n(&cached, __ATOMIC_ACQUIRE);
    if (found == nullptr) {
        void *symbol = nullptr;
        cudaDriverEntryPointQueryResult result;
        const cudaError_t rc =
            cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &symbol, 12000, cudaEnableDefault, &result);
        if (rc != cudaSuccess || result != cudaDriverEntryPointSuccess || symbol == nullptr) {
            return attn_error_set(err, ATTN_ERR_DEVICE, "the CUDA driver has no cuTensorMapEncodeTiled: %s",
                                  cudaGetErrorString(rc));
        }
        found = reinterpret_cast<EncodeTiled>(symbol);
        __atomic_store_n(&cached, found, __ATOMIC_RELEASE);
    }
    *ret_encode = found;
    return ATTN_OK;
}

// A map of one of the kernel's columns by `box_rows` rows of the sequence, which is dimension `rows_at`.
template <int kRank>
attn_status_t encode(EncodeTiled encode_tiled, CUtensorMap *map, attn_dtype_t dtype, const Kernel &kernel,
                     const MapShape<kRank> &shape, int rows_at, int box_rows, const char *what, attn_error_t *err)
{
    cuuint64_t extent[kRank], stride[kRank - 1];
    cuuint32_t box[kRank], step[kRank];
    for (int i = 0; i < kRank; ++i) {
        extent[i] = shape.extent[i];
        box[i] = static_cast<cuuint32_t>(i == 0 ? kernel.column : (i == rows_at ? box_rows : 1));
        step[i] = 1;
        if (i > 0) {
            stride[i - 1] = shape.stride[i - 1];
        }
    }
    const CUresult rc =
        encode_tiled(map, dtype == ATTN_DTYPE_F16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                     kRank, const_cast<void *>(shape.base), extent, stride, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
                     kernel.column == 64 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B,
                     CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (rc != CUDA_SUCCESS) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "%s cannot be addressed by TMA (driver error %d): extents and strides are out of range",
                              what, static_cast<int>(rc));
    }
    return ATTN_OK;
}

bool strides_aligned(const attn_view_t &v, uint32_t batch, uint32_t heads, int64_t length)
{
    return reinterpret_cast<uintptr_t>(v.data) % 16 == 0 && (batch <= 1 || v.stride_b % 8 == 0) &&
           (heads <= 1 || v.stride_h % 8 == 0) && (length <= 1 || v.stride_s % 8 == 0);
}

// Whether TMA can take the strides; those of dimensions of extent 1 are not used. `step` heads are one dimension.
bool strides_in_range(const attn_view_t &v, uint32_t batch, uint32_t heads, uint32_t step, int64_t length)
{
    return (batch <= 1 || (v.stride_b >= 0 && v.stride_b < kStrideMax)) &&
           (heads <= 1 || (v.stride_h >= 0 && v.stride_h < kStrideMax / step)) &&
           (length <= 1 || (v.stride_s >= 0 && v.stride_s < kStrideMax));
}

attn_status_t check(const attn_config_t &config, const attn_problem_t &p, int head_dim_class, attn_error_t *err)
{
    if (p.batch == 0 || p.h_q == 0 || p.s_q == 0) {
        return ATTN_OK; // no output: skipped
    }
    if (p.h_kv == 0 || p.h_q % p.h_kv != 0) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "h_q = %u is not a multiple of h_kv = %u", p.h_q, p.h_kv);
    }
    if (p.s_q < 0 || p.s_kv < 0 || p.s_q > kLengthMax || p.s_kv > kLengthMax) {
        return attn_error_set(err, ATTN_ERR_TOO_LARGE, "sequence lengths must be within 0 and %lld",
                              static_cast<long long>(kLengthMax));
    }
    if (!(p.sm_scale > 0.f) || p.sm_scale > 3.0e38f) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "sm_scale must be finite and positive");
    }
    if (config.softcap ? !(p.softcap > 0.f) || p.softcap > 3.0e38f : p.softcap != 0.f) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "softcap must be finite and positive in a group with softcap and 0 in one without");
    }
    if (!strides_aligned(p.q, p.batch, p.h_q, p.s_q) || !strides_aligned(p.o, p.batch, p.h_q, p.s_q) ||
        (p.s_kv > 0 &&
         (!strides_aligned(p.k, p.batch, p.h_kv, p.s_kv) || !strides_aligned(p.v, p.batch, p.h_kv, p.s_kv)))) {
        return attn_error_set(err, ATTN_ERR_FAILED_PRECONDITION,
                              "unified needs tensors whose address and strides are multiples of 16 bytes");
    }
    if (!strides_in_range(p.q, p.batch, p.h_q, p.h_q / p.h_kv, p.s_q) ||
        (p.s_kv > 0 &&
         (!strides_in_range(p.k, p.batch, p.h_kv, 1, p.s_kv) || !strides_in_range(p.v, p.batch, p.h_kv, 1, p.s_kv)))) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "q, k or v cannot be addressed by TMA: strides must be within 0 and 2^40 bytes");
    }
    if (p.d % 8 != 0 || p.d == 0 || static_cast<int>(p.d) > head_dim_class) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "head dim %u is not a multiple of 8 or not of the group's class (up to %d)", p.d,
                              head_dim_class);
    }
    return ATTN_OK;
}

float exponent_scale(const attn_config_t &config, const attn_problem_t &p)
{
    const double scale = (config.softcap ? p.softcap : p.sm_scale) * kLog2E;
    return scale > kScaleMax ? kScaleMax : static_cast<float>(scale);
}

// Everything but the maps. A batch stride that is never used is written as 0, so that layouts are the same.
void fill(const attn_config_t &config, const attn_problem_t &p, ProblemArgs *args)
{
    const auto strides = [&p](const attn_view_t &v) {
        return Strides{p.batch > 1 ? v.stride_b : 0, v.stride_s, v.stride_h};
    };
    Own &own = args->own;
    own.q = p.q.data;
    own.k = p.k.data;
    own.v = p.v.data;
    own.o = p.o.data;
    own.lse = p.lse;
    own.lse_stride_b = p.lse_stride_b;
    own.lse_stride_h = p.lse_stride_h;
    own.s_q = static_cast<int32_t>(p.s_q);
    own.s_kv = static_cast<int32_t>(p.s_kv);
    own.scale = exponent_scale(config, p);
    own.cap_scale = config.softcap ? p.sm_scale / p.softcap : 0.f;
    own.place[0] = own.place[1] = own.place[2] = 0;
    own.layout_at = 0;
    own.unused = 0;
    args->layout = {strides(p.q), strides(p.k), strides(p.v), strides(p.o), p.batch, p.h_q, p.h_q / p.h_kv, p.d};
}

attn_status_t fill_maps(EncodeTiled encode_tiled, attn_dtype_t dtype, const Kernel &kernel, ProblemArgs *args,
                        attn_error_t *err)
{
    attn_status_t st = encode(encode_tiled, &args->q_map, dtype, kernel, map_of_q(*args), 2, 64, "q", err);
    if (st == ATTN_OK) {
        st = encode(encode_tiled, &args->k_map, dtype, kernel, map_of_kv(*args, args->own.k, args->layout.k_stride), 1,
                    kernel.keys, "k", err);
    }
    if (st == ATTN_OK) {
        st = encode(encode_tiled, &args->v_map, dtype, kernel, map_of_kv(*args, args->own.v, args->layout.v_stride), 1,
                    kernel.keys, "v", err);
    }
    return st;
}

// Maps of arenas, which serve all problems, in the first one. Its strides from row to row become the arenas': they were
// anything if it has a single row.
attn_status_t fill_arena_maps(EncodeTiled encode_tiled, attn_dtype_t dtype, const Kernel &kernel,
                              const attn_sm90_arenas_t &arenas, GroupArgs *group, attn_error_t *err)
{
    ProblemArgs *const args = &group->problem[0];
    Layout &l = args->layout;
    attn_status_t st = encode(encode_tiled, &args->q_map, dtype, kernel, map_of_q_arena(l, arenas.q), 2, 64, "q", err);
    if (st == ATTN_OK) {
        st = encode(encode_tiled, &args->k_map, dtype, kernel, map_of_kv_arena(l, arenas.k, l.k_stride), 1, kernel.keys,
                    "k", err);
    }
    if (st == ATTN_OK) {
        st = encode(encode_tiled, &args->v_map, dtype, kernel, map_of_kv_arena(l, arenas.v, l.v_stride), 1, kernel.keys,
                    "v", err);
    }
    if (st == ATTN_OK) {
        l.q_stride.s = arenas.q.stride / 2;
        l.k_stride.s = arenas.k.stride / 2;
        l.v_stride.s = arenas.v.stride / 2;
        group->origin[0] = arenas.q.origin;
        group->origin[1] = arenas.k.origin;
        group->origin[2] = arenas.v.origin;
        group->has_arenas = 1;
    }
    return st;
}

// Where a problem lies in the arenas of its group.
void fill_places(const GroupArgs &group, Own *own)
{
    const Layout &l = group.problem[0].layout;
    const auto place = [&](int i, const void *data, int64_t stride_s, int32_t length) {
        own->place[i] = attn_sm90_arena_place(&group.origin[i], 2 * stride_s, reinterpret_cast<int64_t>(data), length);
    };
    place(0, own->q, l.q_stride.s, own->s_q);
    place(1, own->k, l.k_stride.s, own->s_kv);
    place(2, own->v, l.v_stride.s, own->s_kv);
}

struct KernelClass {
    int head_dim;
    const Kernel *(*fp16)();
    const Kernel *(*bf16)();
};
constexpr KernelClass kClasses[] = {{64, kernels_fp16_d64, kernels_bf16_d64},
                                    {96, kernels_fp16_d96, kernels_bf16_d96},
                                    {128, kernels_fp16_d128, kernels_bf16_d128},
                                    {192, kernels_fp16_d192, kernels_bf16_d192},
                                    {256, kernels_fp16_d256, kernels_bf16_d256}};

const KernelClass *class_of(uint32_t d)
{
    for (const KernelClass &c : kClasses) {
        if (static_cast<int>(d) <= c.head_dim) {
            return &c;
        }
    }
    return nullptr;
}

// Raises the kernel's shared-memory limit, once per kernel and device.
attn_status_t configure(const Kernel &kernel, attn_error_t *err)
{
    static uint64_t configured[2][5][4]; // one bit per device
    int device = 0;
    cudaError_t rc = cudaGetDevice(&device);
    uint64_t *bits = nullptr;
    for (int c = 0; c < 5; ++c) {
        for (int i = 0; i < 4; ++i) {
            if (&kernel == &kClasses[c].fp16()[i]) {
                bits = &configured[0][c][i];
            } else if (&kernel == &kClasses[c].bf16()[i]) {
                bits = &configured[1][c][i];
            }
        }
    }
    const uint64_t bit = device < kMaxDevices ? uint64_t{1} << device : 0;
    if (rc == cudaSuccess && (bits == nullptr || (__atomic_load_n(bits, __ATOMIC_ACQUIRE) & bit) == 0)) {
        rc = cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel.entry),
                                  cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(kernel.shared_bytes));
        if (rc == cudaSuccess && bits != nullptr) {
            __atomic_fetch_or(bits, bit, __ATOMIC_RELEASE);
        }
    }
    if (rc != cudaSuccess) {
        return attn_error_set(err, ATTN_ERR_DEVICE, "unified cannot be configured on this device: %s",
                              cudaGetErrorString(rc));
    }
    return ATTN_OK;
}

// Of device memory behind the counter: problems, spans.
size_t upload_bytes(uint32_t count)
{
    return (count * (sizeof(ProblemArgs) + ATTN_SM90_SPANS_EACH * sizeof(attn_sm90_span_t)) + 15) / 16 * 16;
}

// Of host memory, per problem: what merging and planning write. Nothing of it is needed once launch() has returned.
constexpr size_t kScratchEach =
    sizeof(attn_problem_t) + ATTN_SM90_SPANS_EACH * sizeof(attn_sm90_span_t) + 2 * sizeof(attn_sm90_plan_entry_t);

attn_workspace_size_t workspace(const attn_group_t *group, const attn_device_t *)
{
    attn_workspace_size_t size = {ATTN_WORKSPACE_ZEROED, 0};
    if (group->count > kInlineProblems) {
        size.device += upload_bytes(group->count);
        size.host = group->count * kScratchEach;
    }
    return size;
}

// Everything that a group can be refused for before anything is made of it.
attn_status_t refuse(const attn_group_t *group, const attn_exec_t *exec, const KernelClass *head_dims,
                     attn_error_t *err)
{
    const attn_config_t &config = group->config;
    if (config.dtype != ATTN_DTYPE_F16 && config.dtype != ATTN_DTYPE_BF16) {
        return attn_error_set(err, ATTN_ERR_FAILED_PRECONDITION, "unified takes fp16 and bf16, not %s",
                              attn_dtype_name(config.dtype));
    }
    if (head_dims == nullptr) {
        return attn_error_set(err, ATTN_ERR_FAILED_PRECONDITION, "unified takes head dims up to %d, not %u",
                              ATTN_HEAD_DIM_MAX, group->problems[0].d);
    }
    const attn_workspace_size_t need = workspace(group, exec->device);
    if (exec->workspace == nullptr || exec->workspace_bytes < need.device || exec->host_workspace_bytes < need.host) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "the workspace has %zu + %zu bytes, this group needs %zu + %zu", exec->workspace_bytes,
                              exec->host_workspace_bytes, need.device, need.host);
    }
    for (uint32_t i = 0; i < group->count; ++i) {
        const attn_status_t st = check(config, group->problems[i], head_dims->head_dim, err);
        if (st != ATTN_OK) {
            return st;
        }
        if (class_of(group->problems[i].d) != head_dims) {
            return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                                  "problem %u has head dim %u, which is not of the group's class (up to %d)", i,
                                  group->problems[i].d, head_dims->head_dim);
        }
    }
    return ATTN_OK;
}

// A launch on its way: its parameters, and its problems and their order.
struct Launch {
    const Kernel *kernel;
    GroupArgs args;
    attn_group_t work;
    attn_sm90_plan_t plan;
    attn_problem_t few[kInlineProblems];
    attn_sm90_plan_entry_t few_entries[2 * kInlineProblems];
};

const attn_problem_t &problem_at(const Launch &launch, uint32_t at)
{
    return launch.work.problems[launch.plan.entries[at].problem];
}

uint32_t units_of(const attn_exec_t *exec)
{
    return static_cast<uint32_t>(exec->device->units);
}

// Key blocks of a tile that lasts no longer than it takes to find and announce the next one. If the longest one is
// such, tiles that are tied to blocks ahead leave no block without work for long at the end; with four, 512 causal
// takes 8 % longer (H100).
constexpr int32_t kBriefBlocks = 2;
// The same where both a tile's span and its problem must be read from device memory (H100, 150 problems of 32 to 512
// rows: 3 % causal, 6 % full; 100 of 512, which are one span, would take 8 % longer causal).
constexpr int32_t kShortBlocks = 8;

// Merges and numbers the tiles.
attn_status_t describe(const attn_group_t *group, const attn_exec_t *exec, Launch *launch, attn_error_t *err)
{
    const bool many = group->count > kInlineProblems;
    attn_problem_t *const merged = many ? static_cast<attn_problem_t *>(exec->host_workspace) : launch->few;
    launch->work = {group->config, attn_sm90_merge(group, merged), merged};
    launch->plan.spans = launch->args.span;
    launch->plan.entries = launch->few_entries;
    if (launch->work.count > kInlineProblems) {
        launch->plan.spans = reinterpret_cast<attn_sm90_span_t *>(merged + group->count);
        launch->plan.entries =
            reinterpret_cast<attn_sm90_plan_entry_t *>(launch->plan.spans + ATTN_SM90_SPANS_EACH * group->count);
    }
    const Kernel &kernel = *launch->kernel;
    const attn_status_t st = attn_sm90_plan(&launch->work, static_cast<uint32_t>(kernel.rows),
                                            static_cast<uint32_t>(kernel.keys), units_of(exec), &launch->plan);
    if (st != ATTN_OK) {
        return attn_error_set(err, st, "the group has more than %u tiles of %d rows", ATTN_SM90_TILES_MAX, kernel.rows);
    }
    GroupArgs &args = launch->args;
    args.spans = launch->plan.spans_used;
    args.tiles = launch->plan.tiles;
    args.uploaded = nullptr;
    args.uploaded_spans = nullptr;
    args.has_arenas = args.early_maps = 0;
    args.early = launch->plan.entries[0].longest <= kBriefBlocks;
    args.listed = args.tiles_listed = 0;
    if (launch->plan.spans != args.span) {
        const uint32_t spans = args.spans < kInlineSpans ? args.spans : kInlineSpans;
        memcpy(args.span, launch->plan.spans, spans * sizeof(args.span[0]));
    }
    return ATTN_OK;
}

// Few problems: they are in the launch's parameters, with maps by the driver.
attn_status_t fill_inline(Launch *launch, attn_error_t *err)
{
    EncodeTiled encode_tiled;
    attn_status_t st = encoder(&encode_tiled, err);
    launch->args.place = kInline;
    for (uint32_t i = 0; st == ATTN_OK && i < launch->work.count; ++i) {
        fill(launch->work.config, problem_at(*launch, i), &launch->args.problem[i]);
        st = fill_maps(encode_tiled, launch->work.config.dtype, *launch->kernel, &launch->args.problem[i], err);
    }
    return st;
}

// Acquiring a problem's three maps takes a block 0.08 us before its first load and 0.5 us between its tiles, where the
// TMA unit has loads under way (H100). Before, that is for all problems; between, for no more than the block has tiles.
bool maps_are_early(uint32_t tiles, uint32_t units, uint32_t problems)
{
    return problems <= 6 * static_cast<uint64_t>(tiles) / units;
}

// Fills the first problem's place in the parameters, with maps of arenas where all problems have them and with its own
// else.
attn_status_t fill_first(Launch *launch, attn_error_t *err)
{
    GroupArgs &args = launch->args;
    EncodeTiled encode_tiled = nullptr;
    const attn_status_t st = encoder(&encode_tiled, err);
    if (st != ATTN_OK) {
        return st;
    }
    const attn_dtype_t dtype = launch->work.config.dtype;
    const Kernel &kernel = *launch->kernel;
    fill(launch->work.config, problem_at(*launch, 0), &args.problem[0]);
    attn_sm90_arenas_t arenas;
    attn_error_t no_arena_maps; // no error: problems get maps of their own
    if (attn_sm90_arenas_find(&launch->work, &arenas) &&
        fill_arena_maps(encode_tiled, dtype, kernel, arenas, &args, &no_arena_maps) == ATTN_OK) {
        return ATTN_OK;
    }
    return fill_maps(encode_tiled, dtype, kernel, &args.problem[0], err);
}

// Lists the problems in the parameters as far as they can be: those of the first spans.
void fill_listed(Launch *launch)
{
    GroupArgs &args = launch->args;
    const uint32_t count = launch->work.count, most = count < kListedProblems ? count : kListedProblems;
    Own *const own = const_cast<Own *>(problems_listed(args));
    uint32_t fit = 0;
    for (; args.has_arenas != 0 && fit < most; ++fit) {
        ProblemArgs problem;
        fill(launch->work.config, problem_at(*launch, fit), &problem);
        if (memcmp(&problem.layout, &args.problem[0].layout, sizeof(Layout)) != 0) {
            break;
        }
        fill_places(args, &problem.own);
        own[fit] = problem.own;
    }
    for (uint32_t i = 0; i < args.spans && i < kInlineSpans; ++i) {
        const bool last = i + 1 == args.spans;
        const attn_sm90_span_t *const span = &launch->plan.spans[i], *const next = span + 1;
        if (!last && next->problem_begin == span->problem_begin) {
            continue; // of the same problems
        }
        const uint32_t end = last ? count : next->problem_begin;
        if (end > fit) {
            break;
        }
        args.listed = end;
        args.tiles_listed = last ? args.tiles : next->tile_begin;
    }
}

// Queues kernels that write the problems, with maps like the first one's where they need their own, to the workspace.
attn_status_t upload(Launch *launch, const attn_exec_t *exec, attn_error_t *err)
{
    GroupArgs &args = launch->args;
    ProblemArgs *const to =
        reinterpret_cast<ProblemArgs *>(static_cast<unsigned char *>(exec->workspace) + ATTN_WORKSPACE_ZEROED);
    const uint32_t count = launch->work.count;
    attn_sm90_span_t *const spans_to = reinterpret_cast<attn_sm90_span_t *>(to + count);
    const bool few_spans = args.spans <= kInlineSpans; // they are in the parameters
    Parcel<kParcelBytes> parcel;
    parcel.q_map = args.problem[0].q_map;
    parcel.kv_map = args.problem[0].k_map;
    parcel.with_maps = args.has_arenas == 0;
    const uint32_t spans = few_spans ? 0 : args.spans;
    for (uint32_t first = 0, first_span = 0; first < count || first_span < spans;) {
        parcel_begin(&parcel, count - first);
        for (uint32_t i = 0; i < parcel.problems; ++i) {
            ProblemArgs problem;
            fill(launch->work.config, problem_at(*launch, first + i), &problem);
            if (args.has_arenas != 0) {
                fill_places(args, &problem.own);
            }
            parcel_add(&parcel, i, &problem);
        }
        parcel_end(&parcel, launch->plan.spans + first_span, spans - first_span);
        const cudaError_t rc =
            parcel_send(&parcel, to + first, spans_to + first_span, static_cast<cudaStream_t>(exec->stream));
        if (rc != cudaSuccess) {
            return attn_error_set(err, ATTN_ERR_DEVICE, "the group could not be uploaded: %s", cudaGetErrorString(rc));
        }
        first += parcel.problems;
        first_span += parcel.spans;
    }
    args.place = kUploaded;
    args.uploaded = to;
    args.uploaded_spans = few_spans ? nullptr : spans_to;
    args.early_maps = maps_are_uploaded(args) && maps_are_early(args.tiles, units_of(exec), count) ? count : 0;
    args.early |= maps_are_uploaded(args) || (!few_spans && launch->plan.entries[0].longest <= kShortBlocks);
    return ATTN_OK;
}

// More problems than are launched with maps of their own in the parameters.
attn_status_t fill_many(Launch *launch, const attn_exec_t *exec, attn_error_t *err)
{
    const attn_status_t st = fill_first(launch, err);
    if (st != ATTN_OK) {
        return st;
    }
    fill_listed(launch);
    if (launch->args.listed < launch->work.count) {
        return upload(launch, exec, err);
    }
    launch->args.place = kListed;
    return ATTN_OK;
}

cudaError_t enqueue(Launch *launch, const attn_exec_t *exec)
{
    GroupArgs &args = launch->args;
    args.counter = static_cast<uint32_t *>(exec->workspace);
    const uint32_t units = units_of(exec);
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(args.tiles < units ? args.tiles : units);
    config.blockDim = dim3(static_cast<unsigned>(launch->kernel->threads));
    config.dynamicSmemBytes = launch->kernel->shared_bytes;
    config.stream = static_cast<cudaStream_t>(exec->stream);
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    config.attrs = &early;
    config.numAttrs = args.place == kUploaded || exec->early ? 1 : 0;
    void *kernel_args[] = {&args};
    return cudaLaunchKernelExC(&config, reinterpret_cast<const void *>(launch->kernel->entry), kernel_args);
}

attn_status_t launch(const attn_group_t *group, const attn_exec_t *exec, attn_error_t *err)
{
    if (group->count == 0) {
        return ATTN_OK;
    }
    const KernelClass *const head_dims = class_of(group->problems[0].d);
    attn_status_t st = refuse(group, exec, head_dims, err);
    if (st != ATTN_OK) {
        return st;
    }
    const attn_config_t &config = group->config;
    Launch launch;
    launch.kernel =
        (config.dtype == ATTN_DTYPE_F16 ? head_dims->fp16() : head_dims->bf16()) + 2 * config.causal + config.softcap;
    st = describe(group, exec, &launch, err);
    if (st != ATTN_OK || launch.args.tiles == 0) {
        return st;
    }
    st = configure(*launch.kernel, err);
    if (st == ATTN_OK) {
        st = launch.work.count > kInlineProblems ? fill_many(&launch, exec, err) : fill_inline(&launch, err);
    }
    if (st != ATTN_OK) {
        return st;
    }
    const cudaError_t rc = enqueue(&launch, exec);
    return rc == cudaSuccess
               ? ATTN_OK
               : attn_error_set(err, ATTN_ERR_DEVICE, "unified could not be launched: %s", cudaGetErrorString(rc));
}

} // namespace

extern "C" const attn_variant_t attn_variant_unified = {&attn_variant_info_unified, workspace, launch};
extern "C" const attn_variant_t attn_variant_gqa_fwd_ws = {&attn_variant_info_gqa_fwd_ws, workspace, launch};
extern "C" const attn_variant_t attn_variant_gqa_prefill_fwd_ws = {&attn_variant_info_gqa_prefill_fwd_ws, workspace,
                                                                   launch};
