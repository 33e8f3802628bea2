/* sched/device.c: devices: their workers start, say hello, end and are replaced. The scheduler's thread.
 *
 * A place of a dead worker is written again, answered from or replayed only after the worker has been reaped: the
 * kernel may go on writing for it until then (274 ms were measured after SIGKILL on a GPU). */
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/clock.h"
#include "base/log.h"
#include "sched/internal.h"
#include "sched/stats.h"
#include "sched/watch.h"

#define HELLO_NS (60 * ATTN_NS_PER_S)     /* the first start after a driver update can take half a minute */
#define REAP_NS (10 * ATTN_NS_PER_S)      /* then the device is lost */
#define ASKED_NS (1 * ATTN_NS_PER_S)      /* to end when asked, before SIGKILL */
#define LAB_IDLE_NS (5 * ATTN_NS_PER_S)   /* then a lab worker ends */
#define ABANDON_NS (250 * ATTN_NS_PER_MS) /* for a lab job that nobody waits for to notice */
#define GRACE_NS (5 * ATTN_NS_PER_S)      /* ready while a serve worker restarts */
#define SHORT_LIFE_NS (100 * ATTN_NS_PER_MS)
#define BACK_OFF_NS (25 * ATTN_NS_PER_MS)
#define BACK_OFF_MAX_NS (5 * ATTN_NS_PER_S)
#define LOST_RETRY_NS (30 * ATTN_NS_PER_S)
enum { FAILURES_MAX = 10, LAB_FAILURES_MAX = 3 };

static void ready_update(attn_sched_t *sched)
{
    int64_t until = 0;
    for (uint32_t i = 0; i < sched->device_count; i++) {
        const attn_sched_device_t *device = &sched->device[i];
        int64_t this_until = 0;
        if (device->state == ATTN_DEVICE_READY)
            this_until = INT64_MAX;
        else if (device->state == ATTN_DEVICE_RESTARTING)
            this_until = device->down_ns + GRACE_NS;
        until = this_until > until ? this_until : until;
    }
    atomic_store(&sched->ready_until_ns, until);
}

static void state_set(attn_sched_t *sched, attn_sched_device_t *device, attn_device_state_t state, int64_t now_ns)
{
    if (device->state == ATTN_DEVICE_READY && state != ATTN_DEVICE_READY)
        device->down_ns = now_ns;
    device->state = device->gone ? ATTN_DEVICE_LOST : state;
    ready_update(sched);
    attn_sched_publish(sched, now_ns);
}

/* A start that came to nothing: wait longer before each further one. In the end the device is lost: nothing waits for
 * it any longer, but every half minute it is tried again, for what failed may have been the machine's. */
static void failed_to_start(attn_sched_t *sched, attn_sched_device_t *device, attn_lane_t lane, int64_t now_ns)
{
    uint32_t failures = ++device->failures[lane];
    int64_t wait = failures > 8 ? BACK_OFF_MAX_NS : BACK_OFF_NS << (failures - 1);
    device->start_ns[lane] = now_ns + (wait > BACK_OFF_MAX_NS ? BACK_OFF_MAX_NS : wait);
    if (lane == ATTN_LANE_SERVE && failures >= FAILURES_MAX)
        device->start_ns[lane] = now_ns + LOST_RETRY_NS;
    if (lane == ATTN_LANE_SERVE && failures == FAILURES_MAX) {
        state_set(sched, device, ATTN_DEVICE_LOST, now_ns);
        ATTN_LOG(ATTN_LOG_ERROR, "device lost", attn_log_text("device", device->argument),
                 attn_log_text("why", device->why));
        attn_sched_reconsider(sched);
    }
    if (lane == ATTN_LANE_LAB && failures >= LAB_FAILURES_MAX) {
        attn_request_t *request;
        while ((request = attn_batcher_peek(&sched->batcher[lane], device->index, ATTN_BATCH_ANY)) != NULL) {
            attn_batcher_remove(&sched->batcher[lane], request);
            attn_sched_fail(sched, request, ATTN_ERR_UNAVAILABLE, "no lab worker starts on this device: %s",
                            device->why);
        }
        device->failures[lane] = 0;
    }
}

void attn_sched_worker_start(attn_sched_t *sched, attn_sched_device_t *device, attn_lane_t lane, int64_t now_ns)
{
    attn_worker_start_t start = {
        .path = sched->worker_path,
        .device = device->argument,
        .run_class = lane == ATTN_LANE_LAB ? ATTN_CLASS_LAB : ATTN_CLASS_SERVE,
        .input_fd = attn_admit_input_fd(sched->admit),
        .output_fd = attn_admit_output_fd(sched->admit),
        .spin_us = sched->spin_us,
    };
    attn_error_t err;
    attn_worker_t *worker = &device->worker[lane];
    attn_status_t status = attn_worker_start(worker, &start, &err);
    if (status == ATTN_OK && (status = attn_watch_worker(sched, device, lane, &err)) != ATTN_OK)
        attn_worker_end(worker, ATTN_END_STUCK, now_ns);
    if (status == ATTN_OK)
        return;
    snprintf(device->why, sizeof device->why, "%.255s", err.message);
    failed_to_start(sched, device, lane, now_ns);
}

static void hello_take(attn_sched_t *sched, attn_sched_device_t *device, const attn_wire_hello_t *hello)
{
    device->about = hello->device;
    memcpy(device->driver, hello->driver, sizeof device->driver);
    device->sm_clock_mhz = hello->sm_clock_mhz;
    device->mem_clock_mhz = hello->mem_clock_mhz;
    device->variants = 0;
    for (size_t i = 0; i < sched->table_count && i < 64; i++)
        for (uint32_t j = 0; j < hello->variant_count; j++)
            if (strcmp(sched->table[i]->name, hello->variants[j]) == 0)
                device->variants |= UINT64_C(1) << i;
}

void attn_sched_worker_hello(attn_sched_t *sched, attn_sched_device_t *device, attn_lane_t lane, int64_t now_ns)
{
    attn_worker_t *worker = &device->worker[lane];
    attn_wire_hello_t hello;
    if (worker->state != ATTN_WORKER_STARTING)
        return;
    attn_ring_pop_t popped = attn_worker_hello(worker, &hello);
    if (popped == ATTN_RING_EMPTY)
        return;
    if (popped == ATTN_RING_GARBAGE || strcmp(hello.build, ATTND_VERSION) != 0) {
        snprintf(device->why, sizeof device->why, "attn-worker is not of attnd's build " ATTND_VERSION);
        attn_worker_end(worker, ATTN_END_STUCK, now_ns);
        return;
    }
    if (hello.status != ATTN_OK) {
        snprintf(device->why, sizeof device->why, "%.255s", hello.message);
        attn_worker_end(worker, ATTN_END_STUCK, now_ns);
        return;
    }
    worker->state = ATTN_WORKER_READY;
    worker->ready_ns = worker->idle_since_ns = now_ns;
    worker->regions.device = device->about.uuid;
    attn_regions_link_begin(sched->regions, &worker->regions);
    if (lane == ATTN_LANE_LAB)
        return;
    bool first = !device->known || device->state == ATTN_DEVICE_LOST;
    hello_take(sched, device, &hello);
    device->known = true;
    if (!device->stats)
        device->stats = attn_stats_device(device->about.uuid, device->index);
    state_set(sched, device, ATTN_DEVICE_READY, now_ns);
    ATTN_LOG(ATTN_LOG_INFO, "device ready", attn_log_text("device", device->about.uuid),
             attn_log_text("name", device->about.name), attn_log_integer("pid", worker->process.pid),
             attn_log_integer("start_ms", (now_ns - worker->started_ns) / ATTN_NS_PER_MS));
    if (first)
        attn_sched_reconsider(sched);
}

void attn_sched_worker_reaped(attn_sched_t *sched, attn_sched_device_t *device, attn_lane_t lane, int64_t now_ns)
{
    attn_worker_t *worker = &device->worker[lane];
    attn_death_t death;
    if (worker->state == ATTN_WORKER_NONE || !attn_worker_reap(worker, &death))
        return;
    /* A hello that says why, sent just before the end. */
    if (worker->state == ATTN_WORKER_STARTING)
        attn_sched_worker_hello(sched, device, lane, now_ns);
    bool was_ready = worker->ready_ns != 0, stuck = worker->end == ATTN_END_STUCK;
    /* Dying of a job says nothing about starting. */
    bool lived = was_ready && (worker->jobs > 0 || now_ns - worker->ready_ns >= SHORT_LIFE_NS);
    bool from_outside = was_ready && worker->end == ATTN_END_NONE && attn_death_from_outside(&death);
    if (!stuck)
        attn_sched_judge_death(sched, device, lane, &death, now_ns);
    attn_worker_end_t end = worker->end;
    attn_regions_link_end(sched->regions, &worker->regions);
    attn_worker_close(worker);
    if (atomic_load(&sched->stop) || device->gone)
        return;
    if (lane == ATTN_LANE_SERVE) {
        device->restarts++;
        if (device->state != ATTN_DEVICE_LOST)
            state_set(sched, device, device->known ? ATTN_DEVICE_RESTARTING : ATTN_DEVICE_STARTING, now_ns);
    }
    if (lived || from_outside || (was_ready && end != ATTN_END_NONE))
        device->failures[lane] = 0;
    else
        failed_to_start(sched, device, lane, now_ns);
}

static void worker_lost(attn_sched_t *sched, attn_sched_device_t *device, attn_lane_t lane, int64_t now_ns)
{
    if (device->gone && device->worker[lane].jobs == 0)
        return;
    device->gone = true;
    attn_sched_judge_lost(sched, device, lane);
    state_set(sched, device, ATTN_DEVICE_LOST, now_ns);
    attn_sched_reconsider(sched);
}

/* Tells the worker which jobs nobody waits for; returns whether that is all of the oldest group. */
static bool jobs_cancel(attn_worker_t *worker, bool give_up, int64_t now_ns)
{
    bool wanted = false;
    for (uint32_t slot = 0; slot < ATTN_WIRE_SLOTS; slot++) {
        const attn_worker_job_t *job = &worker->job[slot];
        if (!job->request)
            continue;
        if (give_up || (job->request->deadline_ns && now_ns >= job->request->deadline_ns))
            attn_worker_cancel(worker, slot);
        wanted = wanted || (job->group == worker->group[0].number && !job->cancelled);
    }
    return !wanted;
}

/* Gives up on jobs that nobody waits for, or that have run out. */
static void jobs_watch(attn_sched_t *sched, attn_sched_device_t *device, attn_lane_t lane, int64_t now_ns)
{
    attn_worker_t *worker = &device->worker[lane];
    bool give_up = atomic_load(&sched->drain) >= 3;
    if (jobs_cancel(worker, give_up, now_ns) && worker->cancel_ns == 0)
        worker->cancel_ns = now_ns;
    if ((give_up || lane == ATTN_LANE_LAB) && worker->cancel_ns && now_ns - worker->cancel_ns > ABANDON_NS) {
        attn_worker_end(worker, ATTN_END_ABANDONED, now_ns);
        return;
    }
    attn_worker_end_t verdict = attn_worker_watch(worker, now_ns);
    if (verdict != ATTN_END_NONE)
        attn_worker_end(worker, verdict, now_ns);
}

static int64_t worker_tick(attn_sched_t *sched, attn_sched_device_t *device, attn_lane_t lane, int64_t now_ns)
{
    attn_worker_t *worker = &device->worker[lane];
    bool stopping = atomic_load(&sched->stop) || device->gone;
    switch (worker->state) {
    case ATTN_WORKER_NONE:
        if (stopping || lane == ATTN_LANE_LAB)
            return lane == ATTN_LANE_LAB && sched->batcher[lane].count ? device->start_ns[lane] : INT64_MAX;
        if (now_ns < device->start_ns[lane])
            return device->start_ns[lane];
        attn_sched_worker_start(sched, device, lane, now_ns);
        return now_ns + 100 * ATTN_NS_PER_MS;
    case ATTN_WORKER_STARTING:
        if (stopping)
            attn_worker_end(worker, ATTN_END_ASKED, now_ns);
        else if (now_ns - worker->started_ns > HELLO_NS) {
            snprintf(device->why, sizeof device->why, "its worker did not open the device within 60 s");
            attn_worker_end(worker, ATTN_END_STUCK, now_ns);
        }
        return now_ns + 100 * ATTN_NS_PER_MS;
    case ATTN_WORKER_READY:
        if (worker->jobs > 0) {
            jobs_watch(sched, device, lane, now_ns);
            return now_ns + 100 * ATTN_NS_PER_MS;
        }
        if (stopping || (lane == ATTN_LANE_LAB && now_ns - worker->idle_since_ns >= LAB_IDLE_NS)) {
            attn_worker_end(worker, ATTN_END_ASKED, now_ns);
            return now_ns + 100 * ATTN_NS_PER_MS;
        }
        return lane == ATTN_LANE_LAB ? worker->idle_since_ns + LAB_IDLE_NS : INT64_MAX;
    case ATTN_WORKER_ENDING:
        attn_sched_worker_reaped(sched, device, lane, now_ns);
        if (worker->state == ATTN_WORKER_NONE)
            return now_ns;
        if (now_ns - worker->ended_ns > REAP_NS)
            worker_lost(sched, device, lane, now_ns);
        else if (now_ns - worker->ended_ns > ASKED_NS)
            attn_process_kill(&worker->process);
        return now_ns + 100 * ATTN_NS_PER_MS;
    }
    return INT64_MAX;
}

int64_t attn_sched_device_tick(attn_sched_t *sched, attn_sched_device_t *device, int64_t now_ns)
{
    int64_t serve = worker_tick(sched, device, ATTN_LANE_SERVE, now_ns);
    int64_t lab = worker_tick(sched, device, ATTN_LANE_LAB, now_ns);
    return serve < lab ? serve : lab;
}

bool attn_sched_workers_gone(const attn_sched_t *sched)
{
    for (uint32_t i = 0; i < sched->device_count; i++)
        for (int lane = 0; lane < ATTN_LANES; lane++)
            /* One that cannot be reaped is left behind. */
            if (sched->device[i].worker[lane].state != ATTN_WORKER_NONE &&
                (sched->device[i].worker[lane].state != ATTN_WORKER_ENDING || !sched->device[i].gone))
                return false;
    return true;
}
