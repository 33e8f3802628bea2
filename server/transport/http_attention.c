/* transport/http_attention.c: POST /v1/attention: the ask becomes a request to the scheduler, its outcome an answer.
 * The door's threads until it is submitted, the scheduler's thread in `complete`, the watch thread in `gone`. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "codec/answer.h"
#include "transport/http_internal.h"

/* Owned by the scheduler from submit to complete. The intake, and with it every place, lives in the call, which
 * outlives the request: a parked call is freed only after its answer. */
typedef struct run {
    attn_request_t request;
    attn_http_call_t *call;
} run_t;

static void run_complete(attn_request_t *request, void *arg)
{
    run_t *run = arg;
    attn_http_call_t *call = run->call;
    attn_intake_t *intake = &call->intake;
    const attn_outcome_t *outcome = &request->outcome;
    attn_error_t err;
    void *head;
    size_t head_bytes;
    attn_front_tally(ATTN_DOOR_HTTP, request);
    if (outcome->variant != NULL) {
        snprintf(call->variant, sizeof call->variant, "%s", outcome->variant->name);
    }
    if (outcome->error.status == ATTN_ERR_CANCELLED && atomic_load(&call->door->http->refusing)) {
        /* Not by the caller: the time to drain is over. */
        http_refusing(&err);
        attn_http_reply_error(call, &err, NULL);
    } else if (outcome->error.status != ATTN_OK) {
        attn_http_reply_error(call, &outcome->error, &outcome->missing);
    } else if (attn_answer_head(intake->options.framing, request, &intake->ask.sizes, &head, &head_bytes, &err) !=
               ATTN_OK) {
        attn_http_reply_error(call, &err, NULL);
    } else if (head_bytes <= intake->o_room) {
        /* One piece, so one system call: as head and vector it is two, and the client wakes for each. */
        char *begin = (char *)intake->o_address - head_bytes;
        memcpy(begin, head, head_bytes);
        free(head);
        const attn_http_part_t whole = {begin, head_bytes + intake->ask.sizes.o};
        attn_http_reply_parts(call, attn_framing_media(intake->options.framing), NULL, 0, &whole, 1,
                              attn_intake_take_ticket(intake));
    } else {
        const attn_http_part_t parts[2] = {{intake->o_address, intake->ask.sizes.o},
                                           {intake->lse_address, intake->ask.sizes.lse}};
        const char *media = attn_framing_media(intake->options.framing);
        attn_http_reply_parts(call, media, head, head_bytes, parts, 2, attn_intake_take_ticket(intake));
    }
    free(run);
}

/* Under the connection's lock, which the answer needs too: so the request has not completed yet. */
static void run_gone(attn_http_call_t *call, void *arg)
{
    run_t *run = arg;
    attn_sched_cancel(attn_http_front(call)->sched, &run->request);
}

static int64_t deadline_of(const attn_http_call_t *call, const attn_ask_t *ask)
{
    /* A deadline of more than 100 years is none. */
    if (!ask->has_deadline || ask->deadline_ms > UINT64_C(3155760000000)) {
        return 0;
    }
    return call->arrived_ns + (int64_t)ask->deadline_ms * ATTN_NS_PER_MS;
}

void http_attention_handle(attn_http_call_t *call)
{
    attn_intake_t *intake = &call->intake;
    attn_ask_t *ask = &intake->ask;
    const attn_variant_info_t *variant = NULL;
    attn_error_t err;
    if (ask->id[0] != '\0') {
        memcpy(call->id, ask->id, sizeof call->id);
    }
    attn_status_t status = attn_front_variant(attn_http_front(call), ask->variant, &variant, &err);
    int64_t deadline_ns = deadline_of(call, ask);
    if (status == ATTN_OK && deadline_ns != 0 && attn_clock_ns() >= deadline_ns) {
        status = attn_error_set(&err, ATTN_ERR_DEADLINE_EXCEEDED,
                                "the deadline of %llu ms passed before the whole body had arrived",
                                (unsigned long long)ask->deadline_ms);
    }
    run_t *run = status == ATTN_OK ? calloc(1, sizeof *run) : NULL;
    if (status == ATTN_OK && run == NULL) {
        status = attn_error_set(&err, ATTN_ERR_NO_MEMORY, "no memory for the request");
    }
    if (status != ATTN_OK) {
        attn_http_reply_error(call, &err, NULL);
        return;
    }
    if (variant != NULL) {
        snprintf(call->variant, sizeof call->variant, "%s", variant->name);
    }
    run->call = call;
    attn_request_t *request = &run->request;
    request->op = ATTN_OP_RUN;
    memcpy(request->id, call->id, sizeof request->id);
    request->spec = ask->spec;
    request->cu_seqlens_q = ask->cu_seqlens_q;
    request->cu_seqlens_k = ask->cu_seqlens_k;
    request->variant = variant;
    request->q = intake->q;
    request->k = intake->k;
    request->v = intake->v;
    request->o = intake->o;
    request->lse = intake->lse;
    request->repeat = 1;
    request->priority = ask->priority;
    request->deadline_ns = deadline_ns;
    request->peer = attn_http_peer(call);
    request->connection = attn_http_connection(call);
    request->complete = run_complete;
    request->complete_arg = run;
    attn_http_park(call, run_gone, run);
    attn_sched_submit(attn_http_front(call)->sched, request);
}
