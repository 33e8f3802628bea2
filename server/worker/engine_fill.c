/* worker/engine_fill.c: inputs made from a seed, for engines of any kind, on all cores. Main thread and the pool. */
#include "worker/engine.h"

#include "cpu/pool.h"

/* About 20 ns per element and core: 5 ms per piece. */
enum { FILL_PIECE = 1 << 18 };

typedef struct fill {
    const attn_engine_request_t *request;
    uint32_t tensor;
    void *data;
    uint64_t elements;
} fill_t;

static void fill_piece(void *arg, uint64_t item, attn_pool_thread_t *thread)
{
    const fill_t *fill = arg;
    if (!attn_pool_continue(thread))
        return;
    attn_dtype_t dtype = (attn_dtype_t)fill->request->spec.dtype;
    uint64_t first = item * FILL_PIECE, left = fill->elements - first;
    attn_fill_normal_at(dtype, fill->request->seed, fill->tensor, first,
                        (char *)fill->data + first * attn_dtype_size(dtype), left < FILL_PIECE ? left : FILL_PIECE);
}

attn_status_t attn_engine_fill(const attn_engine_group_t *group, unsigned threads, attn_error_t *err)
{
    const attn_engine_request_t *request = &group->requests[0];
    void *data[3] = {request->at.q, request->at.k, request->at.v};
    const uint64_t bytes[3] = {request->sizes.q, request->sizes.k, request->sizes.v};
    const attn_exec_t exec = {.checkpoint = group->checkpoint, .checkpoint_arg = group->checkpoint_arg};
    attn_status_t status = ATTN_OK;
    for (uint32_t tensor = 0; tensor < 3 && status == ATTN_OK; tensor++) {
        uint64_t element = attn_dtype_size((attn_dtype_t)request->spec.dtype);
        fill_t fill = {request, tensor, data[tensor], bytes[tensor] / element};
        uint64_t pieces = (fill.elements + FILL_PIECE - 1) / FILL_PIECE;
        status = attn_pool_run(threads, pieces, fill_piece, &fill, &exec, err);
    }
    return status;
}
