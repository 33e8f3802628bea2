/* tests/fuzz/entries_local.c: the parsers of the Unix socket's door: a packet, and a submission of the ring. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attn/v1/socket.pb-c.h"
#include "codec/ask_proto.h"
#include "codec/ask_shm.h"
#include "codec/wire.h"
#include "fuzz/entries.h"

#define MUST(condition)                                                                                                \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition);                              \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

static void check_ask(const attn_ask_t *ask, const attn_ask_place_t places[ATTN_ASK_PLACES])
{
    const uint64_t sizes[ATTN_ASK_PLACES] = {ask->sizes.q, ask->sizes.k, ask->sizes.v, ask->sizes.o, ask->sizes.lse};
    MUST(ask->spec.h_q % ask->spec.h_kv == 0 && ask->spec.sm_scale > 0);
    MUST(ask->priority >= -100 && ask->priority <= 100);
    for (uint32_t i = 0; i < ATTN_ASK_PLACES; i++) {
        MUST(places[i].given == (i != ATTN_ASK_LSE || ask->spec.return_lse));
        MUST(!places[i].given || places[i].bytes == sizes[i]);
    }
}

void fuzz_socket_run(const uint8_t *data, size_t size)
{
    attn_bump_t bump = {0};
    attn_error_t err = {0};
    ProtobufCMessage *unpacked;
    if (attn_wire_unpack(&attn__v1__socket_request__descriptor, data, size, &bump, &unpacked, &err) != ATTN_OK) {
        MUST(strlen(err.message) > 10);
        return;
    }
    const Attn__V1__SocketRequest *message = (const Attn__V1__SocketRequest *)unpacked;
    if (message->what_case == ATTN__V1__SOCKET_REQUEST__WHAT_SUBMIT && message->submit->request != NULL) {
        attn_ask_t ask = {0};
        attn_ask_place_t places[ATTN_ASK_PLACES];
        if (attn_ask_from_placed(message->submit->request, &ask, places, &err) == ATTN_OK) {
            check_ask(&ask, places);
        } else {
            MUST(strlen(err.message) > 10);
        }
        attn_ask_clear(&ask);
    }
    attn_bump_close(&bump);
}

uint8_t *fuzz_socket_seed(unsigned which, size_t *ret_size)
{
    Attn__V1__SocketRequest request = ATTN__V1__SOCKET_REQUEST__INIT;
    Attn__V1__Hello hello = ATTN__V1__HELLO__INIT;
    Attn__V1__RegisterRegion region = ATTN__V1__REGISTER_REGION__INIT;
    Attn__V1__CudaIpc ipc = ATTN__V1__CUDA_IPC__INIT;
    Attn__V1__Submit submit = ATTN__V1__SUBMIT__INIT;
    Attn__V1__AttentionRequest asked = ATTN__V1__ATTENTION_REQUEST__INIT;
    Attn__V1__Tensor q = ATTN__V1__TENSOR__INIT, k = ATTN__V1__TENSOR__INIT;
    Attn__V1__Output o = ATTN__V1__OUTPUT__INIT;
    Attn__V1__RegionSlice slice = ATTN__V1__REGION_SLICE__INIT;
    static uint64_t shape[4] = {1, 3, 2, 4};
    static uint8_t handle[64];
    request.tag = 7;
    hello.version_min = hello.version_max = 1;
    region.name = (char *)"r";
    region.access = ATTN__V1__REGION_ACCESS__REGION_ACCESS_READ;
    region.memory_case = ATTN__V1__REGISTER_REGION__MEMORY_CUDA_IPC;
    region.cuda_ipc = &ipc;
    ipc.device = (char *)"GPU-1";
    ipc.handle = (ProtobufCBinaryData){sizeof handle, handle};
    ipc.bytes = 4096;
    slice.region = (char *)"r";
    slice.length = 96; /* fp32 */
    q.n_shape = k.n_shape = 4;
    q.shape = k.shape = shape;
    q.where_case = k.where_case = ATTN__V1__TENSOR__WHERE_REGION;
    q.region = k.region = o.region = &slice;
    asked.dtype = ATTN__V1__DTYPE__DTYPE_F32;
    asked.q = &q;
    asked.k = asked.v = &k;
    asked.o = &o;
    submit.request = &asked;
    switch (which) {
    case 0:
        request.what_case = ATTN__V1__SOCKET_REQUEST__WHAT_HELLO;
        request.hello = &hello;
        break;
    case 1:
        request.what_case = ATTN__V1__SOCKET_REQUEST__WHAT_REGISTER_REGION;
        request.register_region = &region;
        break;
    case 2:
        request.what_case = ATTN__V1__SOCKET_REQUEST__WHAT_SUBMIT;
        request.submit = &submit;
        break;
    default:
        return NULL;
    }
    uint8_t *packed = malloc(attn__v1__socket_request__get_packed_size(&request));
    MUST(packed != NULL);
    *ret_size = attn__v1__socket_request__pack(&request, packed);
    return packed;
}

void fuzz_submission_run(const uint8_t *data, size_t size)
{
    attn_shm_submission_t submission = {0};
    attn_ask_t ask = {0};
    attn_ask_place_t places[ATTN_ASK_PLACES], seqlens[2];
    attn_error_t err = {0};
    memcpy(&submission, data, size < sizeof submission ? size : sizeof submission);
    if (attn_ask_from_submission(&submission, &ask, places, seqlens, &err) != ATTN_OK) {
        MUST(strlen(err.message) > 10);
        return;
    }
    check_ask(&ask, places);
    for (int i = 0; i < 2; i++) {
        MUST(seqlens[i].given == (ask.spec.layout == ATTN_LAYOUT_THD));
        MUST(!seqlens[i].given || seqlens[i].bytes == (ask.spec.batch + UINT64_C(1)) * sizeof(int32_t));
    }
}

uint8_t *fuzz_submission_seed(unsigned which, size_t *ret_size)
{
    attn_shm_submission_t submission = {.tag = 1,
                                        .op = ATTN_SHM_RUN,
                                        .dtype = 1,
                                        .flags = which == 1 ? ATTN_SHM_CAUSAL | ATTN_SHM_RETURN_LSE : 0,
                                        .batch = 2,
                                        .h_q = 4,
                                        .h_kv = 2,
                                        .d = 64,
                                        .s_q = 16,
                                        .s_kv = 16,
                                        .variant = "cpu",
                                        .q = {.region = 1},
                                        .k = {.region = 1, .offset = 64},
                                        .v = {.region = 2},
                                        .o = {.region = 3}};
    if (which > 2) {
        return NULL;
    }
    submission.lse.region = which == 1 ? 3 : 0;
    submission.layout = which == 2 ? 3 : 0;
    submission.cu_seqlens_q.region = submission.cu_seqlens_k.region = which == 2 ? 4 : 0;
    uint8_t *bytes = malloc(sizeof submission);
    MUST(bytes != NULL);
    memcpy(bytes, &submission, sizeof submission);
    *ret_size = sizeof submission;
    return bytes;
}
