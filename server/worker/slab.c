/* worker/slab.c: see slab.h. */
#include "worker/slab.h"

static void *tensor_place(const attn_engine_request_t *request, uint32_t tensor, void *own, char *slab,
                          uint64_t *offset, uint64_t bytes)
{
    if (!own || (request->on_device & tensor))
        return own;
    uint64_t at = *offset;
    *offset += ATTN_WIRE_ROUND(bytes);
    return slab ? slab + at : NULL;
}

static uint64_t inputs_place(const attn_engine_request_t *request, char *slab, uint64_t offset, attn_addresses_t *ret)
{
    const attn_addresses_t *own = &request->at;
    *ret = *own;
    ret->q = tensor_place(request, ATTN_TENSOR_Q, own->q, slab, &offset, request->sizes.q);
    ret->k = tensor_place(request, ATTN_TENSOR_K, own->k, slab, &offset, request->sizes.k);
    ret->v = tensor_place(request, ATTN_TENSOR_V, own->v, slab, &offset, request->sizes.v);
    return offset;
}

static uint64_t outputs_place(const attn_engine_request_t *request, char *slab, uint64_t offset, attn_addresses_t *ret)
{
    const attn_addresses_t *own = &request->at;
    ret->o = tensor_place(request, ATTN_TENSOR_O, own->o, slab, &offset, request->sizes.o);
    ret->lse = tensor_place(request, ATTN_TENSOR_LSE, own->lse, slab, &offset, request->sizes.lse);
    return offset;
}

uint64_t attn_slab_place(const attn_engine_request_t *request, char *slab, uint64_t offset, bool outputs,
                         attn_addresses_t *ret)
{
    offset = inputs_place(request, slab, offset, ret);
    return outputs ? outputs_place(request, slab, offset, ret) : offset;
}

uint64_t attn_slab_place_group(const attn_engine_request_t *requests, uint32_t count, const attn_slab_order_t *order,
                               char *slab, bool outputs, attn_addresses_t *ret)
{
    uint64_t offset = 0;
    for (uint32_t i = 0; i < count; i++)
        offset = inputs_place(&requests[order->in[i]], slab, offset, &ret[order->in[i]]);
    for (uint32_t i = 0; i < count && outputs; i++)
        offset = outputs_place(&requests[order->out[i]], slab, offset, &ret[order->out[i]]);
    return offset;
}

/* They mostly come in order, or nearly. */
void attn_slab_sort(const attn_engine_request_t *requests, uint32_t count, attn_slab_order_t *ret)
{
    for (uint32_t i = 0; i < count; i++) {
        uint32_t in = i, out = i;
        for (; in > 0 && (uintptr_t)requests[ret->in[in - 1]].at.q > (uintptr_t)requests[i].at.q; in--)
            ret->in[in] = ret->in[in - 1];
        for (; out > 0 && (uintptr_t)requests[ret->out[out - 1]].at.o > (uintptr_t)requests[i].at.o; out--)
            ret->out[out] = ret->out[out - 1];
        ret->in[in] = ret->out[out] = (uint8_t)i;
    }
}
