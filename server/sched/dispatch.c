/* sched/dispatch.c: groups on their way to workers and back: formed, given to the least loaded device, collected. The
 * scheduler's thread; owns nothing beyond attn_sched_t. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "sched/internal.h"
#include "sched/places.h"
#include "sched/room.h"
#include "sched/stats.h"

/* A timed job keeps the other class of workers off its device for at most this long, and waits at most this long for
 * the other class to come to rest before nothing new is given to it. */
#define LEASE_NS (1 * ATTN_NS_PER_S)
#define LEASE_WANTED_NS (200 * ATTN_NS_PER_MS)
#define TICK_BUSY_NS (100 * ATTN_NS_PER_MS)

/* Behind other small groups in flight, one is worth a launch of its own when it is full or has this much to do. Less is
 * better kept to grow: what is in flight will be back in about that time (a tiny group takes 40 to 80 us). Large
 * requests are no reason to wait: they give way on the device. */
#define WORTH_US 150.0

#define CROWD_NS (10 * ATTN_NS_PER_MS)

void attn_sched_load_note(attn_sched_device_t *device)
{
    const attn_worker_t *serve = &device->worker[ATTN_LANE_SERVE];
    atomic_store_explicit(&device->groups_seen, serve->groups, memory_order_relaxed);
    atomic_store_explicit(&device->load_seen_us, (uint64_t)attn_worker_load_us(serve), memory_order_relaxed);
}

/* ---- giving ---- */

static void request_given(attn_sched_device_t *device, attn_request_t *request, uint32_t batch_size, int64_t now_ns)
{
    attn_outcome_t *outcome = &request->outcome;
    if (request->sched.attempts++ == 0)
        outcome->timing.queue_us = (uint64_t)((now_ns - request->sched.submitted_ns) / ATTN_NS_PER_US);
    request->sched.started_ns = now_ns;
    outcome->batch_size = batch_size;
    memcpy(outcome->device, device->about.uuid, sizeof outcome->device);
    _Static_assert(sizeof outcome->device == sizeof device->about.uuid, "one length of device names");
}

static void give(attn_sched_t *sched, attn_sched_device_t *device, attn_lane_t lane, attn_batch_t *batch,
                 int64_t now_ns)
{
    bool timed = attn_sched_timed(batch->request[0]);
    for (uint32_t i = 0; i < batch->count; i++)
        request_given(device, batch->request[i], batch->count, now_ns);
    if (timed) {
        device->lease_until_ns = now_ns + LEASE_NS;
        device->lease_lane = lane;
        device->lease_wanted_ns = 0;
    }
    double budget_ns = batch->cost_us * sched->watchdog_factor * 1000.0;
    int64_t bounded = budget_ns < 1e15 ? (int64_t)budget_ns : (int64_t)1e15;
    attn_worker_order_t order = {.requests = batch->request,
                                 .count = batch->count,
                                 .timed = timed,
                                 .large = batch->request[0]->sched.large,
                                 .work_us = batch->work_us,
                                 .budget_ns = bounded + sched->watchdog_floor_ns};
    for (uint32_t i = 0; i < batch->count; i++)
        attn_places_announce(sched->regions, &device->worker[lane].regions, batch->request[i]);
    atomic_fetch_add_explicit(&sched->running, batch->count, memory_order_relaxed);
    attn_worker_give(&device->worker[lane], &order, &sched->serial, now_ns);
    attn_stats_given(device->stats, batch->count);
    attn_sched_load_note(device);
    if (sched->tick_ns > now_ns + TICK_BUSY_NS)
        sched->tick_ns = now_ns + TICK_BUSY_NS;
}

/* Whether the two classes' claims to the device allow this request to begin now. */
static bool lease_allows(attn_sched_device_t *device, attn_lane_t lane, const attn_request_t *request, int64_t now_ns)
{
    attn_lane_t other = lane == ATTN_LANE_SERVE ? ATTN_LANE_LAB : ATTN_LANE_SERVE;
    const attn_worker_t *own = &device->worker[lane];
    bool other_runs = device->worker[other].groups > 0;
    if (other_runs && device->lease_lane == other && now_ns < device->lease_until_ns)
        return false;
    if (own->groups > 0 && own->group[own->groups - 1].timed)
        return false;
    if (attn_sched_timed(request)) {
        if (other_runs && device->lease_wanted_ns == 0)
            device->lease_wanted_ns = now_ns;
        return !other_runs && own->groups == 0;
    }
    return device->lease_wanted_ns == 0 || now_ns - device->lease_wanted_ns < LEASE_WANTED_NS;
}

/* Whether a timed job is still next somewhere: the one that wanted a lease may have been cancelled. */
static bool timed_waits(const attn_sched_t *sched, const attn_sched_device_t *device)
{
    for (attn_lane_t lane = 0; lane < ATTN_LANES; lane++) {
        const attn_request_t *next = attn_batcher_peek(&sched->batcher[lane], device->index, ATTN_BATCH_ANY);
        if (next && attn_sched_timed(next))
            return true;
    }
    return false;
}

/* The kinds of requests that the worker can take now. */
static uint32_t room_for(const attn_sched_t *sched, const attn_sched_device_t *device, attn_lane_t lane)
{
    const attn_worker_t *worker = &device->worker[lane];
    if (device->state == ATTN_DEVICE_LOST || worker->state != ATTN_WORKER_READY)
        return 0;
    if (lane == ATTN_LANE_LAB) /* what may misbehave is alone */
        return worker->groups == 0 ? ATTN_BATCH_ANY : 0;
    return attn_room_kinds(device->about.kind == ATTN_DEVICE_CUDA, sched->pipeline_depth, worker->groups,
                           attn_worker_large(worker));
}

/* Lab workers start when there is something for them. */
static void lab_start(attn_sched_t *sched, attn_sched_device_t *device, int64_t now_ns)
{
    if (device->worker[ATTN_LANE_LAB].state != ATTN_WORKER_NONE)
        return;
    if (now_ns >= device->start_ns[ATTN_LANE_LAB])
        attn_sched_worker_start(sched, device, ATTN_LANE_LAB, now_ns);
    if (sched->tick_ns > device->start_ns[ATTN_LANE_LAB])
        sched->tick_ns = device->start_ns[ATTN_LANE_LAB];
}

/* Takes out of the batch who is no longer waited for. */
static void batch_expire(attn_sched_t *sched, attn_batch_t *batch, int64_t now_ns)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < batch->count; i++)
        if (!attn_sched_expire(sched, batch->request[i], now_ns))
            batch->request[kept++] = batch->request[i];
    batch->count = kept;
}

/* Whether some may soon wait beside those that wait now: more requests were in the daemon at once within the last
 * moments, or more connections have been sending. */
static bool company_expected(const attn_sched_t *sched, int64_t now_ns)
{
    uint32_t crowd = sched->crowd > sched->crowd_before ? sched->crowd : sched->crowd_before;
    uint32_t flows = attn_batcher_flows(&sched->batcher[ATTN_LANE_SERVE], now_ns);
    uint32_t here = sched->batcher[ATTN_LANE_SERVE].count + sched->batcher[ATTN_LANE_LAB].count +
                    atomic_load_explicit(&sched->running, memory_order_relaxed);
    return crowd > here || flows > here;
}

static void crowd_note(attn_sched_t *sched, int64_t now_ns)
{
    uint32_t here = atomic_load_explicit(&sched->outstanding, memory_order_relaxed);
    if (now_ns - sched->crowd_ns > CROWD_NS) {
        sched->crowd_before = sched->crowd;
        sched->crowd = here;
        sched->crowd_ns = now_ns;
    }
    sched->crowd = here > sched->crowd ? here : sched->crowd;
}

/* Gives the device its next group, if there is one for it now. */
static bool dispatch_next(attn_sched_t *sched, attn_sched_device_t *device, attn_lane_t lane, int64_t now_ns)
{
    const attn_worker_t *worker = &device->worker[lane];
    attn_batcher_t *batcher = &sched->batcher[lane];
    bool small_in_flight = worker->groups > attn_worker_large(worker);
    attn_batch_t batch;
    for (uint32_t kinds = room_for(sched, device, lane); kinds != 0;) {
        const attn_request_t *next = attn_batcher_peek(batcher, device->index, kinds);
        if (!next || !lease_allows(device, lane, next, now_ns))
            return false;
        int64_t due_ns;
        attn_batcher_form(batcher, device->index, kinds, company_expected(sched, now_ns), now_ns, &batch, &due_ns);
        if (due_ns < sched->due_ns)
            sched->due_ns = due_ns;
        if (batch.count == 0 || (small_in_flight && !batch.full && batch.work_us < WORTH_US)) {
            /* It is kept to grow. Meanwhile a large one may go. */
            kinds = (kinds & ATTN_BATCH_SMALL) ? kinds & ATTN_BATCH_LARGE : 0;
            continue;
        }
        attn_batcher_take(batcher, &batch);
        batch_expire(sched, &batch, now_ns);
        if (batch.count == 0)
            continue;
        give(sched, device, lane, &batch, now_ns);
        return true;
    }
    return false;
}

/* The device with the least to do by expectation that has room and has not been tried in this round. Of equals the one
 * that has had nothing for longest. */
static attn_sched_device_t *least_loaded(attn_sched_t *sched, attn_lane_t lane, uint32_t tried)
{
    attn_sched_device_t *best = NULL;
    double best_us = 0;
    for (uint32_t i = 0; i < sched->device_count; i++) {
        attn_sched_device_t *device = &sched->device[i];
        if ((tried & 1u << i) || room_for(sched, device, lane) == 0)
            continue;
        double load_us = attn_worker_load_us(&device->worker[lane]);
        if (!best || load_us < best_us ||
            (load_us == best_us && device->worker[lane].idle_since_ns < best->worker[lane].idle_since_ns)) {
            best = device;
            best_us = load_us;
        }
    }
    return best;
}

static bool dispatch_lane(attn_sched_t *sched, attn_lane_t lane, int64_t now_ns)
{
    bool any = false;
    uint32_t tried = 0;
    while (sched->batcher[lane].count > 0) {
        attn_sched_device_t *device = least_loaded(sched, lane, tried);
        if (!device)
            break;
        if (dispatch_next(sched, device, lane, now_ns))
            any = true;
        else
            tried |= 1u << device->index;
    }
    return any;
}

bool attn_sched_dispatch(attn_sched_t *sched, int64_t now_ns)
{
    sched->due_ns = INT64_MAX;
    crowd_note(sched, now_ns);
    for (uint32_t i = 0; i < sched->device_count; i++) {
        attn_sched_device_t *device = &sched->device[i];
        if (device->state == ATTN_DEVICE_LOST)
            continue;
        if (device->lease_wanted_ns && !timed_waits(sched, device))
            device->lease_wanted_ns = 0;
        if (sched->batcher[ATTN_LANE_LAB].count > 0 &&
            attn_batcher_peek(&sched->batcher[ATTN_LANE_LAB], i, ATTN_BATCH_ANY))
            lab_start(sched, device, now_ns);
    }
    bool any = dispatch_lane(sched, ATTN_LANE_SERVE, now_ns);
    return dispatch_lane(sched, ATTN_LANE_LAB, now_ns) || any;
}

/* ---- collecting ---- */

/* A group of several has failed: who is to blame shows when each runs alone. */
static bool try_alone(attn_sched_t *sched, attn_request_t *request, const attn_wire_done_t *done)
{
    if (done->status == ATTN_OK || done->status == ATTN_ERR_CANCELLED || request->outcome.batch_size <= 1)
        return false;
    request->sched.alone = true;
    attn_sched_requeue(sched, request);
    return true;
}

static void answer(attn_sched_t *sched, attn_request_t *request, const attn_wire_done_t *done, int64_t now_ns)
{
    attn_outcome_t *outcome = &request->outcome;
    if (attn_sched_expire(sched, request, now_ns) || try_alone(sched, request, done))
        return;
    outcome->timing.copy_in_us = done->copy_in_us;
    outcome->timing.copy_out_us = done->copy_out_us;
    outcome->timing.kernel_us = done->kernel_us;
    outcome->timing.kernel_min_us = done->kernel_min_us;
    outcome->judgement = done->judgement;
    if (done->status == ATTN_OK)
        attn_sched_finish(sched, request);
    else if (outcome->variant)
        attn_sched_fail(sched, request, (attn_status_t)done->status, "variant %s: %.440s", outcome->variant->name,
                        done->message);
    else
        attn_sched_fail(sched, request, (attn_status_t)done->status, "%s", done->message);
}

static void completed(attn_sched_t *sched, attn_sched_device_t *device, attn_worker_t *worker,
                      const attn_wire_done_t *done, int64_t now_ns)
{
    attn_request_t *request = worker->job[done->slot].request;
    const attn_worker_group_t *group = attn_worker_group_of(worker, done->slot);
    if (done->status == ATTN_OK)
        attn_stats_ran(device->stats, request);
    if (group->left == group->count)
        attn_stats_group_ran(device->stats, done,
                             now_ns - (worker->turn_ns > group->given_ns ? worker->turn_ns : group->given_ns));
    if (done->sm_clock_mhz || done->mem_clock_mhz) {
        device->sm_clock_mhz = done->sm_clock_mhz;
        device->mem_clock_mhz = done->mem_clock_mhz;
    }
    attn_worker_release(worker, done->slot, now_ns);
    attn_sched_load_note(device);
    atomic_fetch_sub_explicit(&sched->running, 1, memory_order_relaxed);
    answer(sched, request, done, now_ns);
}

void attn_sched_collect_from(attn_sched_t *sched, attn_sched_device_t *device, attn_lane_t lane, int64_t now_ns)
{
    attn_worker_t *worker = &device->worker[lane];
    attn_wire_done_t done;
    for (;;) {
        attn_ring_pop_t popped = attn_worker_collect(worker, &done);
        if (popped == ATTN_RING_EMPTY)
            return;
        if (popped == ATTN_RING_GARBAGE) {
            attn_worker_end(worker, ATTN_END_GARBAGE, now_ns);
            return;
        }
        if (done.unusable) {
            /* The jobs stay in hand: they are the suspects when the worker has been reaped. */
            snprintf(worker->complaint, sizeof worker->complaint, "%.255s", done.message);
            attn_worker_end(worker, ATTN_END_UNUSABLE, now_ns);
            return;
        }
        completed(sched, device, worker, &done, now_ns);
    }
}

bool attn_sched_collect(attn_sched_t *sched, int64_t now_ns)
{
    bool any = false;
    for (uint32_t i = 0; i < sched->device_count; i++)
        for (int lane = 0; lane < ATTN_LANES; lane++) {
            attn_worker_t *worker = &sched->device[i].worker[lane];
            if (worker->state == ATTN_WORKER_READY && attn_ring_done_waiting(&worker->ring)) {
                attn_sched_collect_from(sched, &sched->device[i], lane, now_ns);
                any = true;
            }
        }
    return any;
}
