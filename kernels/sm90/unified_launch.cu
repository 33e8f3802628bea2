// unified_launch.cu: the host side of `unified`: checks, tensor maps, tile plan, upload and launch.
// Any thread; keeps nothing but the address of the driver's encoder and which kernels were configured.
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

struct Dimension {
    int64_t extent, stride; // elements
};

// A map of `rank` dimensions; the first is the head dim with stride 1, the third (Q) or second (K, V) the sequence.
// A stride that is never used (extent 1) may be anything and is replaced.
attn_status_t encode(EncodeTiled encode_tiled, CUtensorMap *map, attn_dtype_t dtype, const void *base, int rank,
                     const Dimension *dims, int box_dimension, int box_rows, const char *what, attn_error_t *err)
{
    cuuint64_t extent[5], stride[4];
    cuuint32_t box[5], step[5];
    for (int i = 0; i < rank; ++i) {
        extent[i] = static_cast<cuuint64_t>(dims[i].extent);
        box[i] = i == 0 ? 64 : (i == box_dimension ? static_cast<cuuint32_t>(box_rows) : 1);
        step[i] = 1;
        if (i > 0) {
            stride[i - 1] = dims[i].extent == 1 ? 16 : static_cast<cuuint64_t>(dims[i].stride) * 2;
        }
    }
    const CUresult rc =
        encode_tiled(map, dtype == ATTN_DTYPE_F16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                     static_cast<cuuint32_t>(rank), const_cast<void *>(base), extent, stride, box, step,
                     CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                     CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
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

attn_status_t fill(EncodeTiled encode_tiled, const attn_config_t &config, const attn_problem_t &p, int keys,
                   ProblemArgs *args, attn_error_t *err)
{
    const int64_t ratio = p.h_q / p.h_kv;
    // Without keys the maps of K and V point at one row of Q: every tile reads one block and masks it.
    const attn_view_t &k = p.s_kv > 0 ? p.k : p.q, &v = p.s_kv > 0 ? p.v : p.q;
    const int64_t s_kv = p.s_kv > 0 ? p.s_kv : 1, h_kv = p.s_kv > 0 ? p.h_kv : 1, batch = p.s_kv > 0 ? p.batch : 1;
    const Dimension q_dims[5] = {{p.d, 1},
                                 {ratio, p.q.stride_h},
                                 {p.s_q, p.q.stride_s},
                                 {p.h_kv, p.q.stride_h * ratio},
                                 {p.batch, p.q.stride_b}};
    const Dimension k_dims[4] = {{p.d, 1}, {s_kv, k.stride_s}, {h_kv, k.stride_h}, {batch, k.stride_b}};
    const Dimension v_dims[4] = {{p.d, 1}, {s_kv, v.stride_s}, {h_kv, v.stride_h}, {batch, v.stride_b}};
    attn_status_t st = encode(encode_tiled, &args->q_map, config.dtype, p.q.data, 5, q_dims, 2, 64, "q", err);
    if (st == ATTN_OK) {
        st = encode(encode_tiled, &args->k_map, config.dtype, k.data, 4, k_dims, 1, keys, "k", err);
    }
    if (st == ATTN_OK) {
        st = encode(encode_tiled, &args->v_map, config.dtype, v.data, 4, v_dims, 1, keys, "v", err);
    }
    if (st != ATTN_OK) {
        return st;
    }
    args->q = p.q.data;
    args->k = p.k.data;
    args->v = p.v.data;
    args->o = p.o.data;
    args->q_stride = {p.q.stride_b, p.q.stride_s, p.q.stride_h};
    args->k_stride = {p.k.stride_b, p.k.stride_s, p.k.stride_h};
    args->v_stride = {p.v.stride_b, p.v.stride_s, p.v.stride_h};
    args->o_stride = {p.o.stride_b, p.o.stride_s, p.o.stride_h};
    args->lse = p.lse;
    args->lse_stride_b = p.lse_stride_b;
    args->lse_stride_h = p.lse_stride_h;
    args->s_q = static_cast<int32_t>(p.s_q);
    args->s_kv = static_cast<int32_t>(p.s_kv);
    args->h_q = p.h_q;
    args->ratio = static_cast<uint32_t>(ratio);
    args->d = p.d;
    args->scale = exponent_scale(config, p);
    args->cap_scale = config.softcap ? p.sm_scale / p.softcap : 0.f;
    return ATTN_OK;
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

// Layout of the upload, in device memory behind the counter and in host memory: problems, spans. Host memory has merged
// problems and the plan's entries behind; nothing of it is needed once launch() has returned.
size_t upload_bytes(uint32_t count)
{
    return (count * (sizeof(ProblemArgs) + sizeof(attn_sm90_span_t)) + 15) / 16 * 16;
}

// Of host memory behind the upload, per problem: what merging and planning write.
constexpr size_t kScratchEach = sizeof(attn_problem_t) + sizeof(attn_sm90_plan_entry_t);

attn_workspace_size_t workspace(const attn_group_t *group, const attn_device_t *)
{
    attn_workspace_size_t size = {ATTN_WORKSPACE_ZEROED, 0};
    if (group->count > kInlineProblems) {
        size.device += upload_bytes(group->count);
        size.host = upload_bytes(group->count) + group->count * kScratchEach;
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

// A launch on its way: its parameters, and where problems and spans are written before they are uploaded.
struct Launch {
    const Kernel *kernel;
    GroupArgs args;
    unsigned char *upload; // NULL: they are in `args`
    uint32_t problems;
};

// Merges, numbers the tiles and writes the records of all problems.
attn_status_t describe(const attn_group_t *group, const attn_exec_t *exec, Launch *launch, attn_error_t *err)
{
    attn_problem_t few[kInlineProblems];
    attn_sm90_plan_entry_t few_entries[kInlineProblems];
    unsigned char *const host = static_cast<unsigned char *>(exec->host_workspace);
    const bool many = group->count > kInlineProblems;
    attn_problem_t *const merged = many ? reinterpret_cast<attn_problem_t *>(host + upload_bytes(group->count)) : few;
    const attn_group_t work = {group->config, attn_sm90_merge(group, merged), merged};
    launch->problems = work.count;
    launch->upload = work.count > kInlineProblems ? host : nullptr;
    ProblemArgs *const records =
        launch->upload != nullptr ? reinterpret_cast<ProblemArgs *>(host) : launch->args.problem;
    attn_sm90_plan_t plan = {};
    plan.spans =
        launch->upload != nullptr ? reinterpret_cast<attn_sm90_span_t *>(records + work.count) : launch->args.span;
    plan.entries = many ? reinterpret_cast<attn_sm90_plan_entry_t *>(merged + group->count) : few_entries;
    const Kernel &kernel = *launch->kernel;
    attn_status_t st = attn_sm90_plan(&work, static_cast<uint32_t>(kernel.rows), static_cast<uint32_t>(kernel.keys),
                                      static_cast<uint32_t>(exec->device->units), &plan);
    if (st != ATTN_OK) {
        return attn_error_set(err, st, "the group has more than %u tiles of %d rows", ATTN_SM90_TILES_MAX, kernel.rows);
    }
    launch->args.spans = plan.spans_used;
    launch->args.tiles = plan.tiles;
    EncodeTiled encode_tiled;
    st = encoder(&encode_tiled, err);
    for (uint32_t i = 0; st == ATTN_OK && i < work.count; ++i) {
        st = fill(encode_tiled, work.config, merged[plan.entries[i].problem], kernel.keys, &records[i], err);
    }
    return st;
}

cudaError_t enqueue(Launch *launch, const attn_exec_t *exec)
{
    const cudaStream_t stream = static_cast<cudaStream_t>(exec->stream);
    unsigned char *const device = static_cast<unsigned char *>(exec->workspace) + ATTN_WORKSPACE_ZEROED;
    GroupArgs &args = launch->args;
    args.counter = static_cast<uint32_t *>(exec->workspace);
    args.uploaded = nullptr;
    args.uploaded_spans = nullptr;
    if (launch->upload != nullptr) {
        args.uploaded = reinterpret_cast<const ProblemArgs *>(device);
        args.uploaded_spans = reinterpret_cast<const attn_sm90_span_t *>(args.uploaded + launch->problems);
        const cudaError_t rc = upload(device, launch->upload, upload_bytes(launch->problems), stream);
        if (rc != cudaSuccess) {
            return rc;
        }
    }
    const uint32_t units = static_cast<uint32_t>(exec->device->units);
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(args.tiles < units ? args.tiles : units);
    config.blockDim = dim3(static_cast<unsigned>(launch->kernel->threads));
    config.dynamicSmemBytes = launch->kernel->shared_bytes;
    config.stream = stream;
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    config.attrs = &early;
    config.numAttrs = launch->upload != nullptr ? 1 : 0; // then the kernel waits for the upload itself
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
