// upload.cuh: brings a launch's problems to device memory as parameters of a small kernel, which makes their tensor
// maps where they need their own (arena.h).
//
// A copy from pinned memory would cost 18 us on the way (H100, between two kernels of a stream). Parameters travel with
// the launch: 0.5 us for 8 KB where their kernel may begin under the end of the launch before and attention under its
// own, else 1 us. A problem travels as 96 bytes and the layout that it shares with its neighbours, of 640 that the
// kernel reads. Nor does the host encode three maps per problem: they differ from a template in address, extents and
// strides.
#ifndef ATTN_SM90_UPLOAD_CUH
#define ATTN_SM90_UPLOAD_CUH

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <cuda_runtime.h>

#include "maps.cuh"
#include "ptx/barrier.cuh"
#include "ptx/load.cuh"
#include "ptx/tensormap.cuh"

namespace attn_sm90 {

// ProblemArgs in pieces of 16 bytes: maps, what a problem has of its own, its layout.
constexpr uint32_t kPiece = 16, kMapPieces = sizeof(CUtensorMap) / kPiece;
constexpr uint32_t kRecordAt = offsetof(ProblemArgs, own), kLayoutAt = offsetof(ProblemArgs, layout);
constexpr uint32_t kRecordBytes = sizeof(Own), kLayoutBytes = sizeof(Layout);
constexpr uint32_t kRecordPieces = kRecordBytes / kPiece, kLayoutPieces = kLayoutBytes / kPiece;
static_assert(kRecordAt == 3 * sizeof(CUtensorMap) && kLayoutAt == kRecordAt + kRecordBytes &&
                  kRecordBytes % kPiece == 0 && kLayoutBytes % kPiece == 0,
              "ProblemArgs can be put together from pieces");

constexpr uint32_t kParcelProblems = 96;
constexpr uint32_t kParcelBytes = kParcelProblems * (kRecordBytes + kLayoutBytes + sizeof(attn_sm90_span_t));
constexpr uint32_t kSpanPieces = sizeof(attn_sm90_span_t) / kPiece;
static_assert(sizeof(attn_sm90_span_t) % kPiece == 0, "spans are whole pieces");

// Up to kParcelProblems problems of a launch and as many of its spans as there is room for: one for each problem, or
// two where their layouts are the same.
template <uint32_t kBytes> struct Parcel {
    CUtensorMap q_map, kv_map; // templates: any problem's
    uint32_t problems, layouts_at, spans_at, spans;
    uint32_t with_maps;                      // else nobody looks at the problems' maps
    alignas(16) unsigned char bytes[kBytes]; // records, layouts, spans
};

template <int kRank, int kAt = 0>
__device__ __forceinline__ void map_replace(uint32_t map, const MapShape<kRank> &shape)
{
    tensormap_replace_extent<kAt>(map, shape.extent[kAt]);
    if constexpr (kAt + 1 < kRank) {
        tensormap_replace_stride<kAt>(map, shape.stride[kAt]);
        map_replace<kRank, kAt + 1>(map, shape);
    } else {
        tensormap_replace_address(map, shape.base);
    }
}

constexpr uint32_t kExpandWarps = 4; // one problem each

template <uint32_t kBytes>
__global__ void __launch_bounds__(32 * kExpandWarps)
    expand(const __grid_constant__ Parcel<kBytes> parcel, ProblemArgs *problems, uint4 *spans)
{
    __shared__ ProblemArgs made[kExpandWarps];
    const uint32_t lane = threadIdx.x % 32, thread = blockIdx.x * 32 * kExpandWarps + threadIdx.x;
    const uint32_t problem = thread / 32;
    grid_release_dependents();
    const bool has_span = thread < parcel.spans * kSpanPieces;
    const uint4 span = load_generic(parcel.bytes + parcel.spans_at + (has_span ? kPiece * thread : 0));
    if (problem >= parcel.problems) {
        grid_wait();
        if (has_span) {
            spans[thread] = span;
        }
        return;
    }
    ProblemArgs &args = made[threadIdx.x / 32];
    uint4 *const pieces = reinterpret_cast<uint4 *>(&args);
    // All reads at once, from wherever a lane has nothing to read as well. The first layout is most problems': taken
    // before it is known, so that one read does not wait for another.
    const unsigned char *const layouts = parcel.bytes + parcel.layouts_at;
    const uint4 piece =
        load_generic(lane < kRecordPieces ? parcel.bytes + problem * kRecordBytes + kPiece * lane
                                          : layouts + kPiece * ((lane - kRecordPieces) % kLayoutPieces));
    const bool with_maps = parcel.with_maps != 0;
    const CUtensorMap *const map = lane < kMapPieces ? &parcel.q_map : &parcel.kv_map;
    const uint4 map_piece = load_generic(reinterpret_cast<const uint4 *>(map) + lane % kMapPieces);
    if (lane < kRecordPieces + kLayoutPieces) { // the layout lies behind the record
        pieces[kRecordAt / kPiece + lane] = piece;
    }
    if (lane < 3 * kMapPieces) {
        pieces[lane] = map_piece;
    }
    __syncwarp();
    const uint32_t layout = args.own.layout_at;
    if (layout != 0) {
        if (lane < kLayoutPieces) {
            pieces[kLayoutAt / kPiece + lane] = load_generic(layouts + layout * kLayoutBytes + kPiece * lane);
        }
        __syncwarp();
    }
    if (with_maps && lane == 0) {
        map_replace(smem_addr(&args.q_map), map_of_q(args));
    } else if (with_maps && lane < 3) {
        const bool of_v = lane == 2;
        map_replace(
            smem_addr(of_v ? &args.v_map : &args.k_map),
            map_of_kv(args, of_v ? args.own.v : args.own.k, of_v ? args.layout.v_stride : args.layout.k_stride));
    }
    __syncwarp();
    grid_wait(); // for the launch before, which may be reading what is written now
    uint4 *const to = reinterpret_cast<uint4 *>(&problems[problem]);
    constexpr uint32_t kPieces = 3 * kMapPieces + kRecordPieces + kLayoutPieces;
    static_assert(kPieces > 32 && kPieces <= 64, "two pieces for a lane at most");
    to[lane] = pieces[lane];
    if (lane < kPieces - 32) {
        to[32 + lane] = pieces[32 + lane];
    }
    if (has_span) {
        spans[thread] = span;
    }
    if (with_maps) {
        fence_tensormap_release();
    }
}

// A parcel is begun, gets its problems one by one and is ended with its spans. It takes as many of the `problems` that
// are left as it can.
inline void parcel_begin(Parcel<kParcelBytes> *parcel, uint32_t problems)
{
    parcel->problems = problems < kParcelProblems ? problems : kParcelProblems;
    parcel->layouts_at = parcel->spans_at = parcel->problems * kRecordBytes;
}

// Problem number `at` of the parcel; its maps are not looked at. Problems come in an order that keeps equal layouts
// together.
inline void parcel_add(Parcel<kParcelBytes> *parcel, uint32_t at, ProblemArgs *args)
{
    const unsigned char *const from = reinterpret_cast<const unsigned char *>(args);
    unsigned char *const next = parcel->bytes + parcel->spans_at;
    if (at == 0 || memcmp(next - kLayoutBytes, from + kLayoutAt, kLayoutBytes) != 0) {
        memcpy(next, from + kLayoutAt, kLayoutBytes);
        parcel->spans_at += kLayoutBytes;
    }
    args->own.layout_at = (parcel->spans_at - parcel->layouts_at) / kLayoutBytes - 1;
    memcpy(parcel->bytes + at * kRecordBytes, from + kRecordAt, kRecordBytes);
}

// The parcel takes as many of the `count` spans that are left as it can.
inline void parcel_end(Parcel<kParcelBytes> *parcel, const attn_sm90_span_t *spans, uint32_t count)
{
    const uint32_t room = (kParcelBytes - parcel->spans_at) / static_cast<uint32_t>(sizeof(*spans));
    parcel->spans = count < room ? count : room;
    memcpy(parcel->bytes + parcel->spans_at, spans, parcel->spans * sizeof(*spans));
}

template <uint32_t kBytes>
cudaError_t parcel_expand(Parcel<kParcelBytes> *parcel, ProblemArgs *to, attn_sm90_span_t *spans, cudaStream_t stream)
{
    static_assert(kBytes <= kParcelBytes && sizeof(Parcel<kBytes>) + 2 * sizeof(void *) <= 31 * 1024,
                  "parameters of a kernel, and 736 bytes of the driver's, are at most 32 KB");
    cudaLaunchConfig_t config = {};
    const uint32_t span_warps = (parcel->spans * kSpanPieces + 31) / 32;
    const uint32_t warps = parcel->problems > span_warps ? parcel->problems : span_warps;
    config.gridDim = dim3((warps + kExpandWarps - 1) / kExpandWarps);
    config.blockDim = dim3(32 * kExpandWarps);
    config.stream = stream;
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    config.attrs = &early;
    config.numAttrs = 1;
    void *args[] = {parcel, &to, &spans}; // takes the first bytes of the parcel
    return cudaLaunchKernelExC(&config, reinterpret_cast<const void *>(expand<kBytes>), args);
}

// Bytes for a parcel whose kernel has at most `total` bytes of parameters: two pointers stand beside it.
constexpr uint32_t parcel_room(uint32_t total)
{
    constexpr uint32_t kAlign = alignof(Parcel<kParcelBytes>);
    return (total - 2 * sizeof(void *)) / kAlign * kAlign - offsetof(Parcel<kParcelBytes>, bytes);
}

// Queues the kernel that writes the parcel's problems and spans; the parcel is read before it returns. Among kernels
// that take more or fewer parameters it is the one that the parcel just fits.
inline cudaError_t parcel_send(Parcel<kParcelBytes> *parcel, ProblemArgs *to, attn_sm90_span_t *spans,
                               cudaStream_t stream)
{
    const uint32_t bytes = parcel->spans_at + parcel->spans * static_cast<uint32_t>(sizeof(*spans));
    constexpr uint32_t kSmall = parcel_room(1536), kPage = parcel_room(4096), kMiddle = parcel_room(9216),
                       kLarge = parcel_room(16384);
    const auto send = bytes <= kSmall    ? parcel_expand<kSmall>
                      : bytes <= kPage   ? parcel_expand<kPage>
                      : bytes <= kMiddle ? parcel_expand<kMiddle>
                      : bytes <= kLarge  ? parcel_expand<kLarge>
                                         : parcel_expand<kParcelBytes>;
    return send(parcel, to, spans, stream);
}

} // namespace attn_sm90
#endif
