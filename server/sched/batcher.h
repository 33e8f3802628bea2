/* sched/batcher.h: requests that wait, and which of them become the next group of a device. Pure: no clock, no thread,
 * no allocation; times are handed in. Owned by the scheduler's thread; one batcher per class of workers.
 *
 * Order. Higher priority first, and replays before others. Then fair queueing on two levels, by expected cost: peers
 * share a device equally, and so do the connections of a peer (self-clocked fair queueing; Golestani 1994: what would
 * finish first under equal shares goes first, so a sparse or cheap flow is not held up by a flood or by huge requests,
 * and nobody starves). Among what is due within the same ROUND_US of virtual time the earliest deadline goes first,
 * then the earliest arrival.
 *
 * Groups. The first in that order leads; others of its configuration follow in the same order while the limits last.
 * One that is large, or exceeds a limit by itself, leads a group of its own and holds up nobody else's: where a device
 * has no room for a large one, the first in order of the others goes before it. Within max_delay a leader
 * waits for company as long as some may come. */
#ifndef ATTND_SCHED_BATCHER_H
#define ATTND_SCHED_BATCHER_H

#include <stdbool.h>

#include "sched/request.h"

enum { ATTN_PRIORITY_MAX = 100, ATTN_BATCH_PEERS = 256, ATTN_BATCH_FLOWS = 1024 };

/* Of one group. */
typedef struct attn_batcher_limits {
    uint32_t requests; /* at most ATTN_WIRE_GROUP_MAX */
    uint64_t tokens;   /* query and key rows */
    uint64_t bytes;    /* tensors in and out */
    double cost_us;
    int64_t delay_ns; /* how long a leader may wait for company; 0 = never */
} attn_batcher_limits_t;

/* Kinds of requests, by what they do to others on a device: it may have room for one and not for the other. A large one
 * (attn_request_t.sched.large) runs by itself. */
enum { ATTN_BATCH_SMALL = 1u << 0, ATTN_BATCH_LARGE = 1u << 1, ATTN_BATCH_ANY = ATTN_BATCH_SMALL | ATTN_BATCH_LARGE };

/* One peer's requests, in their order. Peers are cells of a table by hash: two that meet in one share its turn. */
typedef struct attn_batch_peer {
    struct attn_batch_peer *next, *prev; /* peers with requests */
    attn_request_t *first, *last;
    uint32_t count;
    double finish; /* virtual time at which what it was given ends */
    double now;    /* the peer's own virtual time: the tag of what it was given last */
    /* While a group is put together. */
    attn_request_t *cursor;
    double cursor_finish;
} attn_batch_peer_t;

/* A connection: a cell that the latest to use it owns. */
typedef struct attn_batch_flow {
    uint64_t owner;
    double finish;   /* the tag of its latest request */
    int64_t seen_in; /* period of that */
} attn_batch_flow_t;

typedef struct attn_batcher {
    attn_batcher_limits_t limits;
    uint32_t count;
    double cost_us;     /* of all that wait */
    double now;         /* virtual time, in microseconds of cost */
    double finish_last; /* the greatest `finish` given out */
    uint64_t arrivals;
    attn_batch_peer_t *first; /* peers with requests */
    attn_batch_peer_t peer[ATTN_BATCH_PEERS];
    attn_batch_flow_t flow[ATTN_BATCH_FLOWS];
    /* Connections that had a request in this period of a few milliseconds, and in the one before. */
    int64_t period;
    uint32_t flows, flows_before;
} attn_batcher_t;

void attn_batcher_init(attn_batcher_t *batcher, const attn_batcher_limits_t *limits);

/* `request->sched` says what it costs and whether it is alone or a replay. */
void attn_batcher_push(attn_batcher_t *batcher, attn_request_t *request);
void attn_batcher_remove(attn_batcher_t *batcher, attn_request_t *request);

/* Every waiting request, peer by peer; NULL at the end. Take next before removing. */
attn_request_t *attn_batcher_first(const attn_batcher_t *batcher);
attn_request_t *attn_batcher_next(const attn_request_t *request);

/* Connections that have sent something within the last milliseconds: as many requests may be about to come. */
uint32_t attn_batcher_flows(const attn_batcher_t *batcher, int64_t now_ns);

/* Whom to refuse when the queue is full: the last request of the peer with most of them, if that is not the peer of
 * `request`, which then may come in; else NULL. */
attn_request_t *attn_batcher_crowded_out(const attn_batcher_t *batcher, const attn_request_t *request);

/* The first in order that may run on the device, of these kinds. */
attn_request_t *attn_batcher_peek(const attn_batcher_t *batcher, uint32_t device_index, uint32_t kinds);

typedef struct attn_batch {
    attn_request_t *request[ATTN_WIRE_GROUP_MAX];
    uint32_t count;
    bool full; /* no other request would fit, or none may join */
    uint64_t tokens, bytes;
    double cost_us, work_us; /* sums of the requests' */
} attn_batch_t;

/* Puts the next group of a device together, of these kinds, without taking it: count is 0 when none may run there now;
 * *ret_due_ns is then when one that waits for company will go (INT64_MAX: none does). `company`: whether more requests
 * are likely to come soon. */
void attn_batcher_form(attn_batcher_t *batcher, uint32_t device_index, uint32_t kinds, bool company, int64_t now_ns,
                       attn_batch_t *ret, int64_t *ret_due_ns);

/* Takes what form() returned, before anything else changed. */
void attn_batcher_take(attn_batcher_t *batcher, const attn_batch_t *batch);

#endif
