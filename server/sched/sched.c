/* sched/sched.c: the scheduler's interface and its thread. Owns attn_sched_t.
 *
 * The thread turns: take what arrived, collect completions, look at the time, give jobs; then it spins for a moment
 * where there is a core to spin on, and sleeps in epoll with the bells armed. */
#include "sched/sched.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/cpus.h"
#include "base/fd.h"
#include "sched/internal.h"
#include "sched/stats.h"
#include "sched/watch.h"

#define SLEEP_MAX_NS (1 * ATTN_NS_PER_S) /* so that "live" can be told from the last turn */
#define LIVE_NS (5 * ATTN_NS_PER_S)
#define LOOK_NS (1 * ATTN_NS_PER_MS) /* between two looks at epoll while there is no time to sleep */
#define REGIONS_RETRY_NS (1 * ATTN_NS_PER_MS)
#define SKIPPED_NS (3 * ATTN_NS_PER_S)

/* ---- the thread ---- */

static bool arrivals_take(attn_sched_t *sched, int64_t now_ns)
{
    attn_request_t *next, *request = attn_inbox_take(&sched->inbox);
    bool any = request != NULL;
    for (; request; request = next) {
        next = request->sched.next;
        attn_sched_accept(sched, request, now_ns);
    }
    return any;
}

static void regions_tell(attn_sched_t *sched, int64_t now_ns)
{
    attn_region_link_t *links[ATTN_SCHED_DEVICES_MAX * ATTN_LANES];
    uint32_t count = 0;
    for (uint32_t i = 0; i < sched->device_count; i++)
        for (int lane = 0; lane < ATTN_LANES; lane++)
            if (sched->device[i].worker[lane].state == ATTN_WORKER_READY)
                links[count++] = &sched->device[i].worker[lane].regions;
    sched->regions_left = attn_regions_sync(sched->regions, links, count);
    if (sched->regions_left && sched->tick_ns > now_ns + REGIONS_RETRY_NS)
        sched->tick_ns = now_ns + REGIONS_RETRY_NS;
}

static void tick(attn_sched_t *sched, int64_t now_ns)
{
    int64_t next = now_ns + SLEEP_MAX_NS;
    for (uint32_t i = 0; i < sched->device_count; i++) {
        int64_t at = attn_sched_device_tick(sched, &sched->device[i], now_ns);
        next = at < next ? at : next;
    }
    int64_t at = attn_sched_wait_tick(sched, now_ns);
    sched->tick_ns = at < next ? at : next;
    if (sched->regions_left)
        regions_tell(sched, now_ns);
}

/* This process stood still (stopped, or its machine was): time that passed meanwhile is nobody's. */
static void time_skip(attn_sched_t *sched, int64_t skipped_ns)
{
    for (uint32_t i = 0; i < sched->device_count; i++)
        for (int lane = 0; lane < ATTN_LANES; lane++) {
            attn_worker_t *worker = &sched->device[i].worker[lane];
            worker->started_ns += skipped_ns;
            worker->turn_ns += skipped_ns;
            worker->beat_ns += skipped_ns;
            worker->progress_ns += skipped_ns;
            worker->ended_ns += skipped_ns;
        }
}

static bool anything_waiting(attn_sched_t *sched)
{
    if (attn_inbox_waiting(&sched->inbox) || attn_regions_changed(sched->regions) ||
        atomic_load_explicit(&sched->sweep, memory_order_relaxed))
        return true;
    for (uint32_t i = 0; i < sched->device_count; i++)
        for (int lane = 0; lane < ATTN_LANES; lane++) {
            const attn_worker_t *worker = &sched->device[i].worker[lane];
            if (worker->state == ATTN_WORKER_READY && attn_ring_done_waiting(&worker->ring))
                return true;
        }
    return false;
}

static void bells_arm(attn_sched_t *sched, bool armed)
{
    attn_inbox_arm(&sched->inbox, armed);
    for (uint32_t i = 0; i < sched->device_count; i++)
        for (int lane = 0; lane < ATTN_LANES; lane++)
            if (sched->device[i].worker[lane].state == ATTN_WORKER_READY)
                attn_ring_done_arm(&sched->device[i].worker[lane].ring, armed);
}

/* Spins until there is something or the time is over; returns whether there is something. */
static bool spin(attn_sched_t *sched, int64_t until_ns)
{
    do {
        for (int i = 0; i < 32; i++) {
            if (anything_waiting(sched))
                return true;
            attn_cpu_relax();
        }
    } while (attn_clock_ns() < until_ns);
    return false;
}

/* A group whose delay ends within the spin is not slept over. */
static int64_t spin_until(const attn_sched_t *sched, int64_t now_ns)
{
    int64_t until_ns = now_ns + sched->spin_us * ATTN_NS_PER_US;
    return sched->due_ns < until_ns ? sched->due_ns : until_ns;
}

static void rest(attn_sched_t *sched, int64_t now_ns)
{
    bells_arm(sched, true);
    if (!anything_waiting(sched)) {
        /* Ticks are about supervision: whole milliseconds do. A group's delay is counted in microseconds. */
        int64_t tick_ns = (sched->tick_ns - now_ns + ATTN_NS_PER_MS - 1) / ATTN_NS_PER_MS * ATTN_NS_PER_MS;
        int64_t due_ns = sched->due_ns - now_ns;
        attn_watch_wait(sched, due_ns < tick_ns ? due_ns : tick_ns);
    }
    bells_arm(sched, false);
}

static void *sched_main(void *arg)
{
    attn_sched_t *sched = arg;
    prctl(PR_SET_NAME, "sched");
    int64_t looked_ns = 0, turned_ns = attn_clock_ns();
    while (!(atomic_load(&sched->stop) && attn_sched_workers_gone(sched) && atomic_load(&sched->outstanding) == 0)) {
        int64_t now_ns = attn_clock_ns();
        if (now_ns - turned_ns > SKIPPED_NS)
            time_skip(sched, now_ns - turned_ns);
        turned_ns = now_ns;
        atomic_store_explicit(&sched->turned_ns, now_ns, memory_order_relaxed);
        bool any = arrivals_take(sched, now_ns);
        any = attn_sched_collect(sched, now_ns) || any;
        if (atomic_load_explicit(&sched->sweep, memory_order_relaxed) && atomic_exchange(&sched->sweep, false)) {
            attn_sched_sweep(sched, now_ns);
            sched->tick_ns = now_ns;
        }
        if (now_ns >= sched->tick_ns)
            tick(sched, now_ns);
        if (attn_regions_changed(sched->regions))
            regions_tell(sched, now_ns);
        any = attn_sched_dispatch(sched, now_ns) || any;
        if (any && now_ns - looked_ns < LOOK_NS)
            continue;
        looked_ns = now_ns;
        if (any)
            attn_watch_wait(sched, 0);
        else if (sched->spin_us == 0 || !spin(sched, spin_until(sched, now_ns)))
            rest(sched, attn_clock_ns());
    }
    return NULL;
}

/* ---- the interface ---- */

static attn_status_t worker_path(const char *option, char *ret, size_t size, attn_error_t *err)
{
    if (option) {
        if (snprintf(ret, size, "%s", option) >= (int)size)
            return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "the worker's path is too long");
    } else {
        ssize_t length = readlink("/proc/self/exe", ret, size - sizeof "attn-worker");
        if (length < 0)
            return attn_error_set(err, ATTN_ERR_SYSTEM, "cannot find this program: %s", strerror(errno));
        ret[length] = '\0';
        char *slash = strrchr(ret, '/');
        memcpy(slash ? slash + 1 : ret, "attn-worker", sizeof "attn-worker");
    }
    if (access(ret, X_OK) != 0)
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "%s cannot be run: %s", ret, strerror(errno));
    return ATTN_OK;
}

static void options_take(attn_sched_t *sched, const attn_sched_options_t *options)
{
    sched->admit = options->admit;
    sched->queue_limit = options->queue_limit ? options->queue_limit : 1024;
    sched->test_variants = options->test_variants;
    sched->watchdog_floor_ns = (options->watchdog_floor_ms ? options->watchdog_floor_ms : 2000) * ATTN_NS_PER_MS;
    sched->watchdog_factor = options->watchdog_factor > 0 ? options->watchdog_factor : 10.0;
    sched->spin_us = options->spin_us ? options->spin_us : attn_cpus_spin_us();
    sched->table = attn_variant_table(&sched->table_count);
    uint32_t strikes = options->quarantine_strikes ? options->quarantine_strikes : 3;
    uint32_t window_s = options->quarantine_window_s ? options->quarantine_window_s : 60;
    uint32_t duration_s = options->quarantine_s ? options->quarantine_s : 300;
    attn_batcher_limits_t limits = {
        .requests = options->max_group_requests ? options->max_group_requests : ATTN_WIRE_GROUP_MAX,
        .tokens = options->max_group_tokens ? options->max_group_tokens : 131072,
        .bytes = options->max_group_bytes ? options->max_group_bytes : UINT64_C(64) << 20,
        .cost_us = options->max_group_cost_us ? options->max_group_cost_us : 1000,
        .delay_ns = options->max_queue_delay_us * ATTN_NS_PER_US,
    };
    if (limits.requests > ATTN_WIRE_GROUP_MAX)
        limits.requests = ATTN_WIRE_GROUP_MAX;
    attn_batcher_init(&sched->batcher[ATTN_LANE_SERVE], &limits);
    limits.requests = 1;
    limits.delay_ns = 0;
    attn_batcher_init(&sched->batcher[ATTN_LANE_LAB], &limits);
    sched->pipeline_depth =
        options->pipeline_depth < ATTN_WIRE_GROUPS_SMALL ? options->pipeline_depth : ATTN_WIRE_GROUPS_SMALL;
    attn_quarantine_init(&sched->quarantine, strikes, window_s * ATTN_NS_PER_S, duration_s * ATTN_NS_PER_S);
}

static attn_status_t devices_take(attn_sched_t *sched, const char *option, attn_error_t *err)
{
    attn_device_argument_t names[ATTN_SCHED_DEVICES_MAX];
    attn_status_t status =
        attn_devices_resolve(option ? option : "auto", sched->worker_path, names, &sched->device_count, err);
    if (status != ATTN_OK)
        return status;
    int64_t now_ns = attn_clock_ns();
    for (uint32_t i = 0; i < sched->device_count; i++) {
        attn_sched_device_t *device = &sched->device[i];
        device->index = i;
        device->down_ns = now_ns;
        memcpy(device->argument, names[i], sizeof names[i]);
        for (int lane = 0; lane < ATTN_LANES; lane++)
            device->worker[lane].control = device->worker[lane].job_bell = device->worker[lane].done_bell = -1;
    }
    attn_sched_publish(sched, now_ns);
    return ATTN_OK;
}

static void sched_free(attn_sched_t *sched)
{
    for (uint32_t i = 0; i < sched->device_count; i++)
        attn_stats_free(sched->device[i].stats);
    attn_fd_close(&sched->epoll);
    attn_inbox_close(&sched->inbox);
    attn_regions_destroy(sched->regions);
    attn_quarantine_destroy(&sched->quarantine);
    pthread_cond_destroy(&sched->drained);
    pthread_mutex_destroy(&sched->lock);
    free(sched);
}

static void drained_init(pthread_cond_t *cond)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attributes);
    pthread_condattr_destroy(&attributes);
}

static void wake(void *arg)
{
    attn_sched_t *sched = arg;
    attn_inbox_wake(&sched->inbox);
}

static attn_status_t sched_open(attn_sched_t *sched, const attn_sched_options_t *options, attn_error_t *err)
{
    attn_status_t status = worker_path(options->worker_path, sched->worker_path, sizeof sched->worker_path, err);
    if (status == ATTN_OK)
        status = devices_take(sched, options->devices, err);
    if (status == ATTN_OK)
        status = attn_inbox_open(&sched->inbox, err);
    if (status == ATTN_OK)
        status = attn_regions_create(wake, sched, &sched->regions, err);
    if (status != ATTN_OK)
        return status;
    sched->epoll = attn_fd_raise(epoll_create1(EPOLL_CLOEXEC));
    if (sched->epoll < 0)
        return attn_error_set(err, ATTN_ERR_SYSTEM, "cannot make an epoll descriptor: %s", strerror(errno));
    status = attn_watch_inbox(sched, err);
    if (status != ATTN_OK)
        return status;
    int failed = pthread_create(&sched->thread, NULL, sched_main, sched);
    if (failed)
        return attn_error_set(err, ATTN_ERR_SYSTEM, "cannot start the scheduler's thread: %s", strerror(failed));
    return ATTN_OK;
}

attn_status_t attn_sched_start(const attn_sched_options_t *options, attn_sched_t **ret, attn_error_t *err)
{
    attn_sched_t *sched = NULL;
    /* The inbox keeps its two words on lines of their own. */
    if (posix_memalign((void **)&sched, 64, sizeof *sched) != 0)
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for the scheduler");
    memset(sched, 0, sizeof *sched);
    sched->epoll = sched->inbox.bell = -1;
    pthread_mutex_init(&sched->lock, NULL);
    drained_init(&sched->drained);
    atomic_store(&sched->turned_ns, attn_clock_ns());
    options_take(sched, options);
    attn_status_t status = sched_open(sched, options, err);
    if (status != ATTN_OK) {
        sched_free(sched);
        return status;
    }
    *ret = sched;
    return ATTN_OK;
}

void attn_sched_submit(attn_sched_t *sched, attn_request_t *request)
{
    request->sched.submitted_ns = attn_clock_ns();
    request->sched.refused = atomic_load(&sched->drain) >= 2;
    atomic_fetch_add(&sched->outstanding, 1);
    attn_inbox_push(&sched->inbox, request);
}

void attn_sched_cancel(attn_sched_t *sched, attn_request_t *request)
{
    atomic_store(&request->cancelled, true);
    atomic_store(&sched->sweep, true);
    attn_inbox_wake(&sched->inbox);
}

attn_regions_t *attn_sched_regions(attn_sched_t *sched)
{
    return sched->regions;
}

bool attn_sched_live(attn_sched_t *sched)
{
    return attn_clock_ns() - atomic_load(&sched->turned_ns) < LIVE_NS;
}

bool attn_sched_ready(attn_sched_t *sched)
{
    return atomic_load(&sched->drain) == 0 && attn_clock_ns() < atomic_load(&sched->ready_until_ns);
}

static void drain_advance(attn_sched_t *sched, int phase)
{
    int now = atomic_load(&sched->drain);
    while (now < phase && !atomic_compare_exchange_weak(&sched->drain, &now, phase)) {
    }
}

void attn_sched_drain_begin(attn_sched_t *sched)
{
    drain_advance(sched, 1);
}

/* Waits until nothing is outstanding; returns whether that came in time. */
static bool drained_wait(attn_sched_t *sched, int64_t timeout_ms)
{
    int64_t until_ns = attn_clock_ns() + timeout_ms * ATTN_NS_PER_MS;
    struct timespec until = {until_ns / ATTN_NS_PER_S, until_ns % ATTN_NS_PER_S};
    int timed_out = 0;
    pthread_mutex_lock(&sched->lock);
    while (atomic_load(&sched->outstanding) > 0 && timed_out == 0)
        timed_out = pthread_cond_timedwait(&sched->drained, &sched->lock, &until);
    pthread_mutex_unlock(&sched->lock);
    return atomic_load(&sched->outstanding) == 0;
}

void attn_sched_drain_finish(attn_sched_t *sched, int timeout_ms)
{
    drain_advance(sched, 2);
    if (drained_wait(sched, timeout_ms))
        return;
    drain_advance(sched, 3);
    atomic_store(&sched->sweep, true);
    attn_inbox_wake(&sched->inbox);
    /* Workers that do not stop are killed after 250 ms; one that cannot be reaped gives its job up after 10 s. */
    drained_wait(sched, 15000);
}

void attn_sched_stop(attn_sched_t *sched)
{
    if (!sched)
        return;
    drain_advance(sched, 3);
    atomic_store(&sched->stop, true);
    atomic_store(&sched->sweep, true);
    attn_inbox_wake(&sched->inbox);
    pthread_join(sched->thread, NULL);
    sched_free(sched);
}
