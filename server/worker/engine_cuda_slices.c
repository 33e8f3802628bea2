/* worker/engine_cuda_slices.c: cuts a large request so that its copies run under its computation: over PCIe the tensors
 * of (1,4096,4096,32/8,128) take 0.9 ms in and 0.6 ms out, its kernel 0.25 ms. Pure, any thread. */
#include "worker/engine_cuda.h"

#include <string.h>

/* A slice moves at least this much, 80 us each way: below, launches and events cost more than the overlap saves. */
#define SLICE_BYTES (UINT64_C(4) << 20)

/* A multiple of every kernel's query rows per tile (64, 128, 192), so that a slice begins a tile where the whole
 * would, and its bits are the same. */
#define SLICE_ROWS INT64_C(384)

static uint32_t slices_wanted(const attn_engine_request_t *request, uint32_t most)
{
    const attn_spec_t *spec = &request->spec;
    if (spec->layout == ATTN_LAYOUT_THD)
        return 1;
    uint64_t slices = (request->sizes.q + request->sizes.k + request->sizes.v) / SLICE_BYTES;
    uint64_t parts = spec->batch;
    if (spec->batch == 1)
        parts = spec->layout == ATTN_LAYOUT_BSHD ? ((uint64_t)spec->s_q + SLICE_ROWS - 1) / SLICE_ROWS : 1;
    slices = slices < parts ? slices : parts;
    slices = slices < most ? slices : most;
    return slices < 1 ? 1 : (uint32_t)slices;
}

static attn_cuda_span_t span(uint64_t from, uint64_t to)
{
    return (attn_cuda_span_t){from, to > from ? to - from : 0};
}

static void *advance(void *data, uint64_t bytes)
{
    return (char *)data + bytes;
}

static void slice_batches(const attn_engine_request_t *request, const attn_problem_t *whole, uint64_t first,
                          uint64_t end, attn_cuda_slice_t *ret)
{
    uint64_t batch = whole->batch;
    uint64_t q = request->sizes.q / batch, kv = request->sizes.k / batch, lse = request->sizes.lse / batch;
    attn_cuda_slice_t slice = {.problem = *whole,
                               .q = span(first * q, end * q),
                               .k = span(first * kv, end * kv),
                               .v = span(first * kv, end * kv),
                               .o = span(first * q, end * q),
                               .lse = span(first * lse, end * lse)};
    slice.problem.batch = (uint32_t)(end - first);
    slice.problem.q.data = advance(whole->q.data, slice.q.offset);
    slice.problem.k.data = advance(whole->k.data, slice.k.offset);
    slice.problem.v.data = advance(whole->v.data, slice.v.offset);
    slice.problem.o.data = advance(whole->o.data, slice.o.offset);
    if (whole->lse)
        slice.problem.lse = advance(whole->lse, slice.lse.offset);
    *ret = slice;
}

/* Query rows [first, end). Bottom-right: they see the first s_kv - s_q + end keys, so causal slices need only as much
 * of K and V. LSE is [h_q, s_q]: its rows are not together, it goes out with the last slice. */
static void slice_rows(const attn_engine_request_t *request, const attn_problem_t *whole, int64_t first, int64_t end,
                       uint64_t *keys_before, attn_cuda_slice_t *ret)
{
    uint64_t q_row = request->sizes.q / (uint64_t)whole->s_q;
    uint64_t kv_row = whole->s_kv ? request->sizes.k / (uint64_t)whole->s_kv : 0;
    int64_t keys = request->spec.causal ? whole->s_kv - whole->s_q + end : whole->s_kv;
    keys = keys < 0 ? 0 : keys;
    attn_cuda_slice_t slice = {.problem = *whole,
                               .q = span((uint64_t)first * q_row, (uint64_t)end * q_row),
                               .k = span(*keys_before * kv_row, (uint64_t)keys * kv_row),
                               .v = span(*keys_before * kv_row, (uint64_t)keys * kv_row),
                               .o = span((uint64_t)first * q_row, (uint64_t)end * q_row),
                               .lse = span(0, end == whole->s_q ? request->sizes.lse : 0)};
    slice.problem.s_q = end - first;
    slice.problem.s_kv = keys;
    slice.problem.q.data = advance(whole->q.data, slice.q.offset);
    slice.problem.o.data = advance(whole->o.data, slice.o.offset);
    if (whole->lse)
        slice.problem.lse = whole->lse + first;
    *keys_before = (uint64_t)keys;
    *ret = slice;
}

attn_cuda_slice_t attn_cuda_slice_whole(const attn_engine_request_t *request)
{
    const attn_sizes_t *sizes = &request->sizes;
    return (attn_cuda_slice_t){
        .q = {0, sizes->q}, .k = {0, sizes->k}, .v = {0, sizes->v}, .o = {0, sizes->o}, .lse = {0, sizes->lse}};
}

uint32_t attn_cuda_slices(const attn_engine_request_t *request, const attn_addresses_t *device, uint32_t most,
                          attn_cuda_slice_t ret[ATTN_CUDA_SLICES])
{
    uint32_t slices = slices_wanted(request, most);
    if (slices == 1) {
        ret[0] = attn_cuda_slice_whole(request);
        return 1;
    }
    attn_problem_t whole;
    attn_spec_problems(&request->spec, NULL, NULL, device, &whole);
    uint64_t keys = 0;
    int64_t unit = whole.batch > 1 ? 1 : SLICE_ROWS;
    int64_t extent = whole.batch > 1 ? whole.batch : whole.s_q;
    int64_t units = (extent + unit - 1) / unit, first = 0;
    for (uint32_t i = 0; i < slices; i++) {
        int64_t end = units * (i + 1) / slices * unit;
        end = end < extent ? end : extent;
        if (whole.batch > 1)
            slice_batches(request, &whole, (uint64_t)first, (uint64_t)end, &ret[i]);
        else
            slice_rows(request, &whole, first, end, &keys, &ret[i]);
        first = end;
    }
    return slices;
}
