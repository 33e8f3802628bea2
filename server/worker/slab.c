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

uint64_t attn_slab_place(const attn_engine_request_t *request, char *slab, uint64_t offset, bool outputs,
                         attn_addresses_t *ret)
{
    const attn_addresses_t *own = &request->at;
    *ret = *own;
    ret->q = tensor_place(request, ATTN_TENSOR_Q, own->q, slab, &offset, request->sizes.q);
    ret->k = tensor_place(request, ATTN_TENSOR_K, own->k, slab, &offset, request->sizes.k);
    ret->v = tensor_place(request, ATTN_TENSOR_V, own->v, slab, &offset, request->sizes.v);
    if (!outputs)
        return offset;
    ret->o = tensor_place(request, ATTN_TENSOR_O, own->o, slab, &offset, request->sizes.o);
    ret->lse = tensor_place(request, ATTN_TENSOR_LSE, own->lse, slab, &offset, request->sizes.lse);
    return offset;
}
