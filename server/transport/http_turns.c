/* transport/http_turns.c: which bodies a loop reads at a time. The loop's thread; owns the loop's lists of calls that
 * read and that wait.
 *
 * Each reader, libmicrohttpd and http_direct.c, reads all that have sent something chunk by chunk in turn. With 64
 * bodies of one peer under way, one of somebody else's takes as long as all of them, every body's memory is in use for
 * as long as all of them, and nothing is found in a cache again. So of a peer one large body is read at a time, for at
 * most TURN_NS; the peer's others wait, suspended, before anything of them was taken. A loop that has nothing else to
 * do lets the next go on whoever has the turn: a slow sender keeps nobody waiting. */
#include "base/clock.h"
#include "transport/http_internal.h"

/* Smaller bodies come in one or two reads. */
#define TURN_BYTES (UINT64_C(512) << 10)
/* About 10 MiB. What takes longer shares the loop with the peer's next. */
#define TURN_NS (5 * ATTN_NS_PER_MS)

static void reads(http_turns_t *turns, attn_http_call_t *call, int64_t now_ns)
{
    call->turn = HTTP_TURN_READS;
    call->turn_ns = now_ns;
    call->turn_next = turns->reading;
    turns->reading = call;
}

static bool peer_reads(const http_turns_t *turns, uint64_t peer)
{
    const attn_http_call_t *call = turns->reading;
    while (call != NULL && call->conn->peer != peer) {
        call = call->turn_next;
    }
    return call != NULL;
}

static void list_remove(attn_http_call_t **at, const attn_http_call_t *call)
{
    while (*at != call) {
        at = &(*at)->turn_next;
    }
    *at = call->turn_next;
}

/* The call goes on: libmicrohttpd hands its data to http_on_access() again, or its loop reads them. */
static void resume(http_turns_t *turns, attn_http_call_t *call, int64_t now_ns)
{
    list_remove(&turns->waiting, call);
    reads(turns, call, now_ns);
    atomic_store_explicit(&call->waits, false, memory_order_relaxed);
    if (call->conn->direct != NULL) {
        http_direct_continue(call->conn->direct);
    } else {
        MHD_resume_connection(call->conn->mhd);
        atomic_store(&call->conn->loop->due, true);
    }
}

static attn_http_call_t *waiting_of(const http_turns_t *turns, uint64_t peer)
{
    attn_http_call_t *call = turns->waiting;
    while (call != NULL && call->conn->peer != peer) {
        call = call->turn_next;
    }
    return call;
}

bool http_turn_take(http_turns_t *turns, attn_http_call_t *call, int64_t now_ns)
{
    if (call->turn != HTTP_TURN_NONE) {
        return call->turn != HTTP_TURN_WAITS;
    }
    if (call->body_bytes < TURN_BYTES) {
        call->turn = HTTP_TURN_OVER;
        return true;
    }
    if (!peer_reads(turns, call->conn->peer)) {
        reads(turns, call, now_ns);
        return true;
    }
    attn_http_call_t **end = &turns->waiting;
    while (*end != NULL) {
        end = &(*end)->turn_next;
    }
    call->turn = HTTP_TURN_WAITS;
    call->turn_next = NULL;
    *end = call;
    atomic_store_explicit(&call->waits, true, memory_order_relaxed);
    if (call->conn->direct == NULL) {
        MHD_suspend_connection(call->conn->mhd);
    }
    return false;
}

void http_turn_end(http_turns_t *turns, attn_http_call_t *call, int64_t now_ns)
{
    const bool held = call->turn == HTTP_TURN_READS;
    if (held) {
        list_remove(&turns->reading, call);
    } else if (call->turn == HTTP_TURN_WAITS) {
        list_remove(&turns->waiting, call);
    }
    call->turn = HTTP_TURN_OVER;
    attn_http_call_t *next = held ? waiting_of(turns, call->conn->peer) : NULL;
    if (next != NULL && !peer_reads(turns, call->conn->peer)) {
        resume(turns, next, now_ns);
    }
}

bool http_turns_pass(http_turns_t *turns, bool idle, int64_t now_ns)
{
    attn_http_call_t *next;
    bool any = false;
    for (attn_http_call_t *call = turns->reading; call != NULL && turns->waiting != NULL; call = next) {
        next = call->turn_next;
        if (now_ns - call->turn_ns > TURN_NS) {
            any = any || waiting_of(turns, call->conn->peer) != NULL;
            http_turn_end(turns, call, now_ns); /* it reads on */
        }
    }
    if (idle && !any && turns->waiting != NULL) {
        resume(turns, turns->waiting, now_ns);
        any = true;
    }
    return any;
}

void http_turns_stop(http_turns_t *turns)
{
    while (turns->waiting != NULL) {
        resume(turns, turns->waiting, 0);
    }
}
