/* sched/dispatch.c: requests on their way through the scheduler: accepted, a variant and devices chosen, given to a
 * worker, collected, completed. The scheduler's thread; owns nothing beyond attn_sched_t. */
#include <stdio.h>
#include <string.h>

#include "attn/select.h"
#include "base/clock.h"
#include "sched/batcher.h"
#include "sched/internal.h"
#include "sched/places.h"

/* A timed job keeps the other class of workers off its device for at most this long, and waits at most this long for
 * the other class to come to rest before nothing new is given to it. */
#define LEASE_NS (1 * ATTN_NS_PER_S)
#define LEASE_WANTED_NS (200 * ATTN_NS_PER_MS)
#define TICK_BUSY_NS (100 * ATTN_NS_PER_MS)

void attn_sched_finish(attn_sched_t *sched, attn_request_t *request)
{
    request->outcome.timing.total_us = (uint64_t)((attn_clock_ns() - request->sched.submitted_ns) / ATTN_NS_PER_US);
    request->outcome.attempts = request->sched.attempts;
    /* The request may be gone once `complete` returns. */
    request->complete(request, request->complete_arg);
    if (atomic_fetch_sub(&sched->outstanding, 1) == 1 && atomic_load(&sched->drain) >= 2) {
        pthread_mutex_lock(&sched->lock);
        pthread_cond_broadcast(&sched->drained);
        pthread_mutex_unlock(&sched->lock);
    }
}

void attn_sched_fail(attn_sched_t *sched, attn_request_t *request, attn_status_t status, const char *format, ...)
{
    attn_error_t *err = &request->outcome.error;
    va_list args;
    va_start(args, format);
    err->status = status;
    vsnprintf(err->message, sizeof err->message, format, args);
    va_end(args);
    attn_sched_finish(sched, request);
}

bool attn_sched_expire(attn_sched_t *sched, attn_request_t *request, int64_t now_ns)
{
    if (atomic_load_explicit(&request->cancelled, memory_order_relaxed))
        attn_sched_fail(sched, request, ATTN_ERR_CANCELLED, "the caller cancelled the request");
    else if (request->deadline_ns && now_ns >= request->deadline_ns)
        attn_sched_fail(sched, request, ATTN_ERR_DEADLINE_EXCEEDED, "the request's deadline passed after %lld ms",
                        (long long)((now_ns - request->sched.submitted_ns) / ATTN_NS_PER_MS));
    else
        return false;
    return true;
}

/* ---- choosing ---- */

static const attn_sched_device_t *device_of(const attn_sched_t *sched, const attn_device_t *about)
{
    for (uint32_t i = 0; i < sched->device_count; i++)
        if (&sched->device[i].about == about)
            return &sched->device[i];
    return NULL;
}

static bool runs_there(const attn_sched_t *sched, const attn_sched_device_t *device, const attn_variant_info_t *info)
{
    for (size_t i = 0; i < sched->table_count && i < 64; i++)
        if (sched->table[i] == info)
            return device->variants >> i & 1;
    return false;
}

static bool blocked(const attn_variant_info_t *info, const attn_device_t *about, void *arg, char *detail, size_t size)
{
    attn_sched_t *sched = arg;
    if (!runs_there(sched, device_of(sched, about), info)) {
        snprintf(detail, size, "the worker of this device was built without it");
        return true;
    }
    bool active;
    attn_quarantine_look(&sched->quarantine, info, attn_clock_ns(), &active, detail, size);
    return active;
}

/* Devices that may be asked: known, and not lost. */
static size_t devices_offered(const attn_sched_t *sched, const attn_device_t *ret[ATTN_SCHED_DEVICES_MAX])
{
    size_t count = 0;
    for (uint32_t i = 0; i < sched->device_count; i++)
        if (sched->device[i].known && sched->device[i].state != ATTN_DEVICE_LOST)
            ret[count++] = &sched->device[i].about;
    return count;
}

/* Devices share work when they are about as fast for it: beside a GPU, the CPU is not a place to wait less. */
static bool as_fast(const attn_variant_info_t *info, const attn_need_t *need, const attn_device_t *about,
                    double best_us)
{
    return info->cost_us(need, about) <= 2 * best_us;
}

/* FILL, TRUTH and JUDGE run on every device that is about as fast as the fastest, by what `reference` costs there. */
static void choose_for_operation(attn_sched_t *sched, attn_request_t *request, const attn_need_t *need,
                                 const attn_device_t *const *offered, size_t count)
{
    const attn_variant_info_t *reference = attn_variant_find("reference");
    double best_us = reference->cost_us(need, offered[0]);
    for (size_t i = 1; i < count; i++)
        if (reference->cost_us(need, offered[i]) < best_us)
            best_us = reference->cost_us(need, offered[i]);
    for (size_t i = 0; i < count; i++)
        if (as_fast(reference, need, offered[i], best_us))
            request->sched.devices |= 1u << device_of(sched, offered[i])->index;
    request->sched.cost_us = need->bytes / 100.0 + (request->op == ATTN_OP_TRUTH ? 8 * best_us : 0); /* 100 MB/s */
    request->sched.lab = request->force_lab || request->sched.faults > 0;
}

static attn_status_t choose_variant(attn_sched_t *sched, attn_request_t *request, const attn_need_t *need,
                                    const attn_device_t *const *offered, size_t count)
{
    attn_choice_t choice;
    attn_status_t status = attn_variant_select(request->variant, need, offered, count, blocked, sched, &choice,
                                               &request->outcome.missing, &request->outcome.error);
    if (status != ATTN_OK)
        return status;
    for (size_t i = 0; i < count; i++)
        if (i == choice.device || (attn_variant_supports(choice.variant, need, offered[i], NULL) == ATTN_OK &&
                                   as_fast(choice.variant, need, offered[i], choice.cost_us) &&
                                   !blocked(choice.variant, offered[i], sched, (char[160]){0}, 160)))
            request->sched.devices |= 1u << device_of(sched, offered[i])->index;
    request->outcome.variant = choice.variant;
    memcpy(request->outcome.reason, choice.reason, sizeof choice.reason);
    _Static_assert(sizeof choice.reason == sizeof request->outcome.reason, "one length of reasons");
    request->sched.cost_us = choice.cost_us * (double)(request->warmup + (request->repeat ? request->repeat : 1));
    /* A variant that has killed a worker of late does not get at the shared one. */
    request->sched.lab = request->force_lab || choice.variant->run_class == ATTN_CLASS_LAB ||
                         request->sched.faults > 0 ||
                         attn_quarantine_look(&sched->quarantine, choice.variant, attn_clock_ns(), NULL, NULL, 0) > 0;
    return ATTN_OK;
}

/* Chooses a variant, devices and a lane. Leaves `devices` zero when no device is known yet. */
static attn_status_t choose(attn_sched_t *sched, attn_request_t *request)
{
    const attn_device_t *offered[ATTN_SCHED_DEVICES_MAX];
    size_t count = devices_offered(sched, offered);
    request->sched.devices = 0;
    if (count == 0) {
        for (uint32_t i = 0; i < sched->device_count; i++)
            if (sched->device[i].state != ATTN_DEVICE_LOST)
                return ATTN_OK;
        return attn_error_set(&request->outcome.error, ATTN_ERR_UNAVAILABLE, "no device is left: %s",
                              sched->device[0].why);
    }
    attn_need_t need;
    attn_spec_need(&request->spec, request->cu_seqlens_q, request->cu_seqlens_k, ATTN_WIRE_PAGE, &need);
    need.outputs_overlap = attn_places_overlap(request);
    if (request->op == ATTN_OP_RUN)
        return choose_variant(sched, request, &need, offered, count);
    choose_for_operation(sched, request, &need, offered, count);
    return ATTN_OK;
}

/* ---- accepting ---- */

static attn_status_t check(const attn_sched_t *sched, attn_request_t *request)
{
    attn_error_t *err = &request->outcome.error;
    if (request->sched.refused)
        return attn_error_set(err, ATTN_ERR_UNAVAILABLE, "the daemon is shutting down; try again elsewhere or later");
    if (sched->queue[ATTN_LANE_SERVE].count + sched->queue[ATTN_LANE_LAB].count >= sched->queue_limit)
        return attn_error_set(err, ATTN_ERR_UNAVAILABLE, "%u requests are waiting already; try again shortly",
                              sched->queue_limit);
    if (request->repeat > ATTN_WIRE_REPEAT_MAX || request->warmup > ATTN_WIRE_REPEAT_MAX)
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "a job has at most %u rounds", ATTN_WIRE_REPEAT_MAX);
    if (request->variant && request->variant->test_only && !sched->test_variants)
        return attn_error_set(err, ATTN_ERR_NOT_FOUND, "variant '%s' is for tests; start attnd with test variants",
                              request->variant->name);
    return ATTN_OK;
}

void attn_sched_accept(attn_sched_t *sched, attn_request_t *request, int64_t now_ns)
{
    attn_outcome_t *outcome = &request->outcome;
    outcome->error = (attn_error_t){.status = ATTN_OK};
    outcome->missing.count = 0;
    outcome->variant = NULL;
    outcome->reason[0] = outcome->device[0] = '\0';
    outcome->batch_size = 0;
    outcome->timing = (attn_timing_t){0};
    request->sched.attempts = request->sched.faults = request->sched.kills = 0;
    if (attn_sched_expire(sched, request, now_ns))
        return;
    if (check(sched, request) != ATTN_OK || choose(sched, request) != ATTN_OK) {
        attn_sched_finish(sched, request);
        return;
    }
    attn_queue_push(&sched->queue[request->sched.lab], request, false);
    if (request->deadline_ns && request->deadline_ns < sched->tick_ns)
        sched->tick_ns = request->deadline_ns;
}

void attn_sched_requeue(attn_sched_t *sched, attn_request_t *request)
{
    request->sched.lab = request->sched.lab || request->sched.faults > 0;
    attn_queue_push(&sched->queue[request->sched.lab], request, true);
}

void attn_sched_reconsider(attn_sched_t *sched)
{
    attn_queue_t waiting[ATTN_LANES];
    memcpy(waiting, sched->queue, sizeof waiting);
    memset(sched->queue, 0, sizeof sched->queue);
    for (int lane = 0; lane < ATTN_LANES; lane++) {
        attn_request_t *next;
        for (attn_request_t *request = attn_queue_first(&waiting[lane]); request; request = next) {
            next = attn_queue_next(&waiting[lane], request);
            if (choose(sched, request) == ATTN_OK)
                attn_queue_push(&sched->queue[request->sched.lab], request, false);
            else
                attn_sched_finish(sched, request);
        }
    }
}

/* ---- giving ---- */

static bool is_timed(const attn_request_t *request)
{
    return request->op == ATTN_OP_RUN && (request->repeat > 1 || request->warmup > 0);
}

static void give(attn_sched_t *sched, attn_sched_device_t *device, attn_lane_t lane, attn_request_t *request,
                 int64_t now_ns)
{
    if (request->sched.attempts++ == 0)
        request->outcome.timing.queue_us = (uint64_t)((now_ns - request->sched.submitted_ns) / ATTN_NS_PER_US);
    request->sched.started_ns = now_ns;
    request->outcome.batch_size = 1;
    memcpy(request->outcome.device, device->about.uuid, sizeof request->outcome.device);
    _Static_assert(sizeof request->outcome.device == sizeof device->about.uuid, "one length of device names");
    if (is_timed(request)) {
        device->lease_until_ns = now_ns + LEASE_NS;
        device->lease_lane = lane;
        device->lease_wanted_ns = 0;
    }
    double budget_ns = request->sched.cost_us * sched->watchdog_factor * 1000.0;
    int64_t bounded = budget_ns < 1e15 ? (int64_t)budget_ns : (int64_t)1e15;
    atomic_fetch_add_explicit(&sched->running, 1, memory_order_relaxed);
    attn_worker_give(&device->worker[lane], request, ++sched->serial, now_ns, bounded + sched->watchdog_floor_ns);
    if (sched->tick_ns > now_ns + TICK_BUSY_NS)
        sched->tick_ns = now_ns + TICK_BUSY_NS;
}

/* Whether the two classes' claims to the device allow this request to begin now. */
static bool lease_allows(attn_sched_device_t *device, attn_lane_t lane, const attn_request_t *request, int64_t now_ns)
{
    attn_lane_t other = lane == ATTN_LANE_SERVE ? ATTN_LANE_LAB : ATTN_LANE_SERVE;
    bool other_runs = device->worker[other].job != NULL;
    if (other_runs && device->lease_lane == other && now_ns < device->lease_until_ns)
        return false;
    if (is_timed(request)) {
        if (other_runs && device->lease_wanted_ns == 0)
            device->lease_wanted_ns = now_ns;
        return !other_runs;
    }
    return device->lease_wanted_ns == 0 || now_ns - device->lease_wanted_ns < LEASE_WANTED_NS;
}

/* Whether a timed job is still next in a queue: the one that wanted a lease may have been cancelled. */
static bool timed_waits(const attn_sched_t *sched, const attn_sched_device_t *device)
{
    for (attn_lane_t lane = 0; lane < ATTN_LANES; lane++) {
        const attn_request_t *next = attn_batcher_peek(&sched->queue[lane], device->index);
        if (next && is_timed(next))
            return true;
    }
    return false;
}

static bool dispatch_lane(attn_sched_t *sched, attn_sched_device_t *device, attn_lane_t lane, int64_t now_ns)
{
    attn_worker_t *worker = &device->worker[lane];
    attn_queue_t *queue = &sched->queue[lane];
    while (queue->count > 0 && worker->job == NULL) {
        const attn_request_t *next = attn_batcher_peek(queue, device->index);
        if (!next)
            return false;
        if (worker->state != ATTN_WORKER_READY) {
            if (lane == ATTN_LANE_LAB && worker->state == ATTN_WORKER_NONE) {
                if (now_ns >= device->start_ns[lane])
                    attn_sched_worker_start(sched, device, lane, now_ns);
                if (sched->tick_ns > device->start_ns[lane])
                    sched->tick_ns = device->start_ns[lane];
            }
            return false;
        }
        if (!lease_allows(device, lane, next, now_ns))
            return false;
        attn_request_t *request = attn_batcher_take(queue, device->index);
        if (!attn_sched_expire(sched, request, now_ns)) {
            give(sched, device, lane, request, now_ns);
            return true;
        }
    }
    return false;
}

bool attn_sched_dispatch(attn_sched_t *sched, int64_t now_ns)
{
    bool any = false;
    for (uint32_t i = 0; i < sched->device_count; i++) {
        attn_sched_device_t *device = &sched->device[i];
        if (device->state == ATTN_DEVICE_LOST)
            continue;
        if (device->lease_wanted_ns && !timed_waits(sched, device))
            device->lease_wanted_ns = 0;
        for (attn_lane_t lane = 0; lane < ATTN_LANES; lane++)
            if (sched->queue[lane].count > 0)
                any = dispatch_lane(sched, device, lane, now_ns) || any;
    }
    return any;
}

/* ---- collecting ---- */

static void completed(attn_sched_t *sched, attn_sched_device_t *device, attn_worker_t *worker,
                      const attn_wire_done_t *done, int64_t now_ns)
{
    attn_request_t *request = worker->job;
    attn_outcome_t *outcome = &request->outcome;
    worker->job = NULL;
    worker->idle_since_ns = now_ns;
    atomic_fetch_sub_explicit(&sched->running, 1, memory_order_relaxed);
    if (done->sm_clock_mhz || done->mem_clock_mhz) {
        device->sm_clock_mhz = done->sm_clock_mhz;
        device->mem_clock_mhz = done->mem_clock_mhz;
    }
    if (attn_sched_expire(sched, request, now_ns))
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
            /* The job stays in hand: it is the suspect when the worker has been reaped. */
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
        for (attn_lane_t lane = 0; lane < ATTN_LANES; lane++) {
            attn_worker_t *worker = &sched->device[i].worker[lane];
            if (worker->state == ATTN_WORKER_READY && attn_ring_done_waiting(&worker->ring)) {
                attn_sched_collect_from(sched, &sched->device[i], lane, now_ns);
                any = true;
            }
        }
    return any;
}
