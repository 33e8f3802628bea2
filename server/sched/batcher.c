/* sched/batcher.c: see batcher.h. Costs of push and of form are linear in what waits of the peers concerned. */
#include "sched/batcher.h"

#include <math.h>
#include <string.h>

#include "base/clock.h"

/* Deadlines and arrival decide between requests that fair queueing would let finish within the same so many
 * microseconds of each other: about one small group. */
#define ROUND_US 200.0

/* A cost of zero would give a flow all there is. */
#define COST_MIN_US 1.0

/* A caller that is back within two of these is one that sends again and again. */
#define PERIOD_NS (5 * ATTN_NS_PER_MS)

/* Among many connections an expensive request gets at least this part of its peer's share, so that it is overtaken by
 * cheap ones for at most so many times its own cost. */
#define SHARE_LEAST (1.0 / 8)

static double cost_of(const attn_request_t *request)
{
    return request->sched.cost_us > COST_MIN_US ? request->sched.cost_us : COST_MIN_US;
}

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 31) * UINT64_C(0x9e3779b97f4a7c15);
    return x ^ x >> 29;
}

static attn_batch_peer_t *peer_of(attn_batcher_t *batcher, const attn_request_t *request)
{
    return &batcher->peer[mix(request->peer) % ATTN_BATCH_PEERS];
}

static attn_batch_flow_t *flow_of(attn_batcher_t *batcher, const attn_request_t *request)
{
    uint64_t owner = mix(mix(request->peer) + request->connection);
    attn_batch_flow_t *flow = &batcher->flow[owner % ATTN_BATCH_FLOWS];
    if (flow->owner != owner)
        *flow = (attn_batch_flow_t){.owner = owner};
    return flow;
}

static int32_t priority_of(const attn_request_t *request)
{
    int32_t priority = request->priority;
    if (priority > ATTN_PRIORITY_MAX)
        return ATTN_PRIORITY_MAX;
    return priority < -ATTN_PRIORITY_MAX ? -ATTN_PRIORITY_MAX : priority;
}

/* Whether `a` goes before `b`, given the virtual times at which their turns end. */
static bool before(const attn_request_t *a, double a_ends, const attn_request_t *b, double b_ends)
{
    if (priority_of(a) != priority_of(b))
        return priority_of(a) > priority_of(b);
    if (a->sched.replay != b->sched.replay)
        return a->sched.replay;
    double a_round = floor(a_ends / ROUND_US), b_round = floor(b_ends / ROUND_US);
    if (a_round != b_round && !a->sched.replay)
        return a_round < b_round;
    if (a->deadline_ns != b->deadline_ns && !(a->deadline_ns && b->deadline_ns))
        return a->deadline_ns != 0;
    if (a->deadline_ns != b->deadline_ns)
        return a->deadline_ns < b->deadline_ns;
    return a->sched.arrival < b->sched.arrival;
}

void attn_batcher_init(attn_batcher_t *batcher, const attn_batcher_limits_t *limits)
{
    memset(batcher, 0, sizeof *batcher);
    batcher->limits = *limits;
}

/* Nobody waits: what was served before is forgotten. */
static void forget(attn_batcher_t *batcher)
{
    batcher->cost_us = 0;
    if (batcher->finish_last > batcher->now)
        batcher->now = batcher->finish_last;
}

static void flow_count(attn_batcher_t *batcher, attn_batch_flow_t *flow, int64_t now_ns)
{
    int64_t period = now_ns / PERIOD_NS;
    if (period != batcher->period) {
        batcher->flows_before = period == batcher->period + 1 ? batcher->flows : 0;
        batcher->flows = 0;
        batcher->period = period;
    }
    batcher->flows += flow->seen_in != period;
    flow->seen_in = period;
}

uint32_t attn_batcher_flows(const attn_batcher_t *batcher, int64_t now_ns)
{
    int64_t ago = now_ns / PERIOD_NS - batcher->period;
    if (ago > 1)
        return 0;
    return ago == 1 || batcher->flows > batcher->flows_before ? batcher->flows : batcher->flows_before;
}

void attn_batcher_push(attn_batcher_t *batcher, attn_request_t *request)
{
    attn_batch_peer_t *peer = peer_of(batcher, request);
    attn_batch_flow_t *flow = flow_of(batcher, request);
    request->sched.tag = (flow->finish > peer->now ? flow->finish : peer->now) + cost_of(request);
    flow->finish = request->sched.tag;
    flow_count(batcher, flow, request->sched.submitted_ns);
    if (request->sched.arrival == 0)
        request->sched.arrival = ++batcher->arrivals;
    request->sched.waits = peer;
    if (peer->count++ == 0) {
        /* Its turn is counted from now on; it has saved nothing up. */
        if (peer->finish < batcher->now)
            peer->finish = batcher->now;
        peer->prev = NULL;
        peer->next = batcher->first;
        if (peer->next)
            peer->next->prev = peer;
        batcher->first = peer;
    }
    attn_request_t *at = peer->last;
    while (at && before(request, request->sched.tag, at, at->sched.tag))
        at = at->sched.prev;
    request->sched.prev = at;
    request->sched.next = at ? at->sched.next : peer->first;
    *(request->sched.prev ? &request->sched.prev->sched.next : &peer->first) = request;
    *(request->sched.next ? &request->sched.next->sched.prev : &peer->last) = request;
    batcher->count++;
    batcher->cost_us += cost_of(request);
}

static void unlink_request(attn_batcher_t *batcher, attn_request_t *request)
{
    attn_batch_peer_t *peer = request->sched.waits;
    *(request->sched.prev ? &request->sched.prev->sched.next : &peer->first) = request->sched.next;
    *(request->sched.next ? &request->sched.next->sched.prev : &peer->last) = request->sched.prev;
    request->sched.prev = request->sched.next = NULL;
    request->sched.waits = NULL;
    batcher->cost_us -= cost_of(request);
    if (--peer->count == 0) {
        *(peer->prev ? &peer->prev->next : &batcher->first) = peer->next;
        if (peer->next)
            peer->next->prev = peer->prev;
        peer->next = peer->prev = NULL;
    }
    if (--batcher->count == 0)
        forget(batcher);
}

void attn_batcher_remove(attn_batcher_t *batcher, attn_request_t *request)
{
    /* Its connection is not charged for what does not run. */
    attn_batch_flow_t *flow = flow_of(batcher, request);
    if (flow->finish == request->sched.tag)
        flow->finish -= cost_of(request);
    unlink_request(batcher, request);
}

attn_request_t *attn_batcher_first(const attn_batcher_t *batcher)
{
    return batcher->first ? batcher->first->first : NULL;
}

attn_request_t *attn_batcher_next(const attn_request_t *request)
{
    const attn_batch_peer_t *peer = request->sched.waits;
    if (request->sched.next)
        return request->sched.next;
    return peer->next ? peer->next->first : NULL;
}

attn_request_t *attn_batcher_crowded_out(const attn_batcher_t *batcher, const attn_request_t *request)
{
    const attn_batch_peer_t *own = &batcher->peer[mix(request->peer) % ATTN_BATCH_PEERS], *most = NULL;
    for (const attn_batch_peer_t *peer = batcher->first; peer; peer = peer->next)
        if (!most || peer->count > most->count)
            most = peer;
    return most && most != own && most->count > own->count + 1 ? most->last : NULL;
}

/* ---- groups ---- */

static double turn_ends(const attn_batch_peer_t *peer, const attn_request_t *request)
{
    return peer->finish + cost_of(request);
}

static bool is_of(const attn_request_t *request, uint32_t kinds)
{
    return kinds & (request->sched.large ? ATTN_BATCH_LARGE : ATTN_BATCH_SMALL);
}

/* The first in order that may run on the device, is of these kinds and was submitted by then. */
static attn_request_t *leader(const attn_batcher_t *batcher, uint32_t device_index, uint32_t kinds,
                              int64_t submitted_by_ns)
{
    attn_request_t *best = NULL;
    double best_ends = 0;
    for (const attn_batch_peer_t *peer = batcher->first; peer; peer = peer->next) {
        attn_request_t *request = peer->first;
        while (request && !((request->sched.devices & 1u << device_index) && is_of(request, kinds) &&
                            request->sched.submitted_ns <= submitted_by_ns))
            request = request->sched.next;
        if (!request)
            continue;
        double ends = turn_ends(peer, request);
        if (!best || before(request, ends, best, best_ends)) {
            best = request;
            best_ends = ends;
        }
    }
    return best;
}

attn_request_t *attn_batcher_peek(const attn_batcher_t *batcher, uint32_t device_index, uint32_t kinds)
{
    return leader(batcher, device_index, kinds, INT64_MAX);
}

/* Kernels are compiled for these head dims; what is smaller runs in the next one. */
static uint32_t head_dim_class(uint32_t d)
{
    static const uint32_t classes[] = {64, 96, 128, 192, 256};
    for (size_t i = 0; i < sizeof classes / sizeof classes[0]; i++)
        if (d <= classes[i])
            return classes[i];
    return d;
}

static bool joins(const attn_request_t *request, const attn_request_t *led_by, uint32_t device_index)
{
    const attn_spec_t *a = &request->spec, *b = &led_by->spec;
    return (request->sched.devices & 1u << device_index) && !request->sched.alone && !request->sched.large &&
           request != led_by && request->outcome.variant == led_by->outcome.variant && a->dtype == b->dtype &&
           a->h_q == b->h_q && a->h_kv == b->h_kv && a->causal == b->causal && (a->softcap > 0) == (b->softcap > 0) &&
           head_dim_class(a->d) == head_dim_class(b->d);
}

static bool fits(const attn_batcher_limits_t *limits, const attn_batch_t *batch, const attn_request_t *request)
{
    return request->sched.tokens <= limits->tokens && batch->tokens <= limits->tokens - request->sched.tokens &&
           request->sched.bytes <= limits->bytes && batch->bytes <= limits->bytes - request->sched.bytes &&
           batch->cost_us + cost_of(request) <= limits->cost_us;
}

static void add(attn_batch_t *batch, attn_request_t *request)
{
    batch->request[batch->count++] = request;
    batch->tokens += request->sched.tokens;
    batch->bytes += request->sched.bytes;
    batch->cost_us += cost_of(request);
    batch->work_us += request->sched.work_us;
}

/* Moves the peer's cursor on to a request that may join and fits. */
static void cursor_settle(attn_batch_peer_t *peer, const attn_batcher_t *batcher, const attn_batch_t *batch,
                          uint32_t device_index, bool *crowded)
{
    const attn_request_t *led_by = batch->request[0];
    for (; peer->cursor; peer->cursor = peer->cursor->sched.next) {
        if (!joins(peer->cursor, led_by, device_index))
            continue;
        if (fits(&batcher->limits, batch, peer->cursor))
            return;
        *crowded = true;
    }
}

static void followers(attn_batcher_t *batcher, uint32_t device_index, attn_batch_t *batch, bool *crowded)
{
    for (attn_batch_peer_t *peer = batcher->first; peer; peer = peer->next) {
        peer->cursor = peer->first;
        peer->cursor_finish = peer->finish;
        if (peer == batch->request[0]->sched.waits)
            peer->cursor_finish += cost_of(batch->request[0]);
    }
    while (batch->count < batcher->limits.requests) {
        attn_batch_peer_t *best = NULL;
        for (attn_batch_peer_t *peer = batcher->first; peer; peer = peer->next) {
            cursor_settle(peer, batcher, batch, device_index, crowded);
            if (peer->cursor && (!best || before(peer->cursor, peer->cursor_finish + cost_of(peer->cursor),
                                                 best->cursor, best->cursor_finish + cost_of(best->cursor))))
                best = peer;
        }
        if (!best)
            return;
        add(batch, best->cursor);
        best->cursor_finish += cost_of(best->cursor);
        best->cursor = best->cursor->sched.next;
    }
    *crowded = true;
}

static void form_with(attn_batcher_t *batcher, attn_request_t *led_by, uint32_t device_index, attn_batch_t *ret)
{
    bool crowded = false;
    *ret = (attn_batch_t){.count = 0};
    bool alone = led_by->sched.alone || led_by->sched.large || !fits(&batcher->limits, ret, led_by);
    add(ret, led_by);
    if (!alone)
        followers(batcher, device_index, ret, &crowded);
    ret->full = alone || crowded;
}

/* When the group of this leader goes without further company. */
static int64_t due_of(const attn_batcher_t *batcher, const attn_request_t *led_by)
{
    int64_t due = led_by->sched.submitted_ns + batcher->limits.delay_ns;
    int64_t latest = led_by->deadline_ns - (int64_t)(2 * cost_of(led_by) * 1000);
    return led_by->deadline_ns && latest < due ? latest : due;
}

void attn_batcher_form(attn_batcher_t *batcher, uint32_t device_index, uint32_t kinds, bool company, int64_t now_ns,
                       attn_batch_t *ret, int64_t *ret_due_ns)
{
    ret->count = 0;
    *ret_due_ns = INT64_MAX;
    attn_request_t *led_by = leader(batcher, device_index, kinds, INT64_MAX);
    if (!led_by)
        return;
    form_with(batcher, led_by, device_index, ret);
    int64_t due = due_of(batcher, led_by);
    if (batcher->limits.delay_ns == 0 || !company || ret->full || now_ns >= due)
        return;
    /* While it waits, others whose time has come may go. */
    attn_request_t *waited = leader(batcher, device_index, kinds, now_ns - batcher->limits.delay_ns);
    ret->count = 0;
    *ret_due_ns = due;
    if (waited)
        form_with(batcher, waited, device_index, ret);
}

void attn_batcher_take(attn_batcher_t *batcher, const attn_batch_t *batch)
{
    for (uint32_t i = 0; i < batch->count; i++) {
        attn_request_t *request = batch->request[i];
        attn_batch_peer_t *peer = request->sched.waits;
        double ends = turn_ends(peer, request);
        peer->finish = ends;
        if (ends > batcher->finish_last)
            batcher->finish_last = ends;
        peer->now += SHARE_LEAST * cost_of(request);
        if (request->sched.tag > peer->now)
            peer->now = request->sched.tag;
        if (i == 0 && !request->sched.replay && ends > batcher->now)
            batcher->now = ends;
        unlink_request(batcher, request);
    }
}
