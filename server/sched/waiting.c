/* sched/waiting.c: what time, cancellation and a drain do to requests that wait. The scheduler's thread. */
#include "base/clock.h"
#include "sched/internal.h"

/* How long a request waits while no worker of its devices is up. */
#define GRACE_NS (5 * ATTN_NS_PER_S)
#define GRACE_TICK_NS (100 * ATTN_NS_PER_MS)

void attn_sched_sweep(attn_sched_t *sched, int64_t now_ns)
{
    for (attn_lane_t lane = 0; lane < ATTN_LANES; lane++) {
        attn_request_t *next;
        for (attn_request_t *request = attn_batcher_first(&sched->batcher[lane]); request; request = next) {
            next = attn_batcher_next(request);
            if (!atomic_load_explicit(&request->cancelled, memory_order_relaxed) &&
                !(request->deadline_ns && now_ns >= request->deadline_ns))
                continue;
            attn_batcher_remove(&sched->batcher[lane], request);
            attn_sched_expire(sched, request, now_ns);
        }
    }
    for (uint32_t i = 0; i < sched->device_count; i++)
        for (attn_lane_t lane = 0; lane < ATTN_LANES; lane++) {
            attn_worker_t *worker = &sched->device[i].worker[lane];
            for (uint32_t slot = 0; worker->jobs > 0 && slot < ATTN_WIRE_SLOTS; slot++) {
                const attn_request_t *request = worker->job[slot].request;
                if (request && atomic_load_explicit(&request->cancelled, memory_order_relaxed))
                    attn_worker_cancel(worker, slot);
            }
        }
}

static const char *why_down(const attn_sched_t *sched)
{
    for (uint32_t i = 0; i < sched->device_count; i++)
        if (sched->device[i].why[0])
            return sched->device[i].why;
    return "its worker has not started yet";
}

/* Whether the request has waited out the grace without any of its devices coming up. */
static bool out_of_grace(const attn_sched_t *sched, const attn_request_t *request, int64_t now_ns)
{
    int64_t since = request->sched.submitted_ns;
    for (uint32_t i = 0; i < sched->device_count; i++) {
        const attn_sched_device_t *device = &sched->device[i];
        if (request->sched.devices && !(request->sched.devices & (1u << i)))
            continue;
        if (device->state == ATTN_DEVICE_READY)
            return false;
        if (device->down_ns > since)
            since = device->down_ns;
    }
    return now_ns - since >= GRACE_NS;
}

static bool all_ready(const attn_sched_t *sched)
{
    for (uint32_t i = 0; i < sched->device_count; i++)
        if (sched->device[i].state != ATTN_DEVICE_READY)
            return false;
    return true;
}

int64_t attn_sched_wait_tick(attn_sched_t *sched, int64_t now_ns)
{
    int64_t look_again = INT64_MAX;
    bool give_up = atomic_load(&sched->drain) >= 3, down = !all_ready(sched);
    for (attn_lane_t lane = 0; lane < ATTN_LANES; lane++) {
        attn_request_t *next;
        for (attn_request_t *request = attn_batcher_first(&sched->batcher[lane]); request; request = next) {
            next = attn_batcher_next(request);
            bool late = request->deadline_ns && now_ns >= request->deadline_ns;
            bool stranded = down && out_of_grace(sched, request, now_ns);
            if (late || give_up || stranded) {
                attn_batcher_remove(&sched->batcher[lane], request);
                if (attn_sched_expire(sched, request, now_ns))
                    continue;
                if (give_up)
                    attn_sched_fail(sched, request, ATTN_ERR_UNAVAILABLE, "the daemon is shutting down");
                else
                    attn_sched_fail(sched, request, ATTN_ERR_UNAVAILABLE, "no device is ready: %s; try again",
                                    why_down(sched));
                continue;
            }
            if (request->deadline_ns && request->deadline_ns < look_again)
                look_again = request->deadline_ns;
        }
    }
    if (down && sched->batcher[0].count + sched->batcher[1].count > 0 && look_again > now_ns + GRACE_TICK_NS)
        look_again = now_ns + GRACE_TICK_NS;
    return look_again;
}
