/* sched/watch.c: see watch.h. An event carries device, class, kind and incarnation, so that one of a worker that has
 * been replaced in the same round is known as such. */
#include "sched/watch.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/clock.h"
#include "base/fd.h"

typedef enum watched {
    WATCHED_INBOX,
    WATCHED_PROCESS,
    WATCHED_CONTROL,
    WATCHED_ERRORS,
    WATCHED_REGIONS,
    WATCHED_BELL
} watched_t;

static uint64_t tag_of(watched_t kind, uint32_t device, attn_lane_t lane, uint32_t incarnation)
{
    return (uint64_t)incarnation << 32 | (uint64_t)device << 16 | (uint64_t)lane << 8 | (uint64_t)kind;
}

static attn_status_t watch(attn_sched_t *sched, int fd, uint32_t events, uint64_t tag, attn_error_t *err)
{
    struct epoll_event event = {.events = events, .data.u64 = tag};
    if (epoll_ctl(sched->epoll, EPOLL_CTL_ADD, fd, &event) != 0)
        return attn_error_set(err, ATTN_ERR_SYSTEM, "cannot watch a descriptor: %s", strerror(errno));
    return ATTN_OK;
}

/* Bells are edge-triggered: each ring wakes once and need not be read away. */
attn_status_t attn_watch_inbox(attn_sched_t *sched, attn_error_t *err)
{
    return watch(sched, sched->inbox.bell, EPOLLIN | EPOLLET, tag_of(WATCHED_INBOX, 0, 0, 0), err);
}

attn_status_t attn_watch_worker(attn_sched_t *sched, attn_sched_device_t *device, attn_lane_t lane, attn_error_t *err)
{
    const attn_worker_t *worker = &device->worker[lane];
    uint32_t i = device->index, n = worker->incarnation;
    attn_status_t status = watch(sched, worker->process.pidfd, EPOLLIN, tag_of(WATCHED_PROCESS, i, lane, n), err);
    if (status == ATTN_OK)
        status = watch(sched, worker->control, EPOLLIN | EPOLLET, tag_of(WATCHED_CONTROL, i, lane, n), err);
    if (status == ATTN_OK)
        status = watch(sched, worker->process.errors, EPOLLIN, tag_of(WATCHED_ERRORS, i, lane, n), err);
    if (status == ATTN_OK)
        status = watch(sched, worker->regions.fd, EPOLLIN | EPOLLET, tag_of(WATCHED_REGIONS, i, lane, n), err);
    if (status == ATTN_OK)
        status = watch(sched, worker->done_bell, EPOLLIN | EPOLLET, tag_of(WATCHED_BELL, i, lane, n), err);
    return status;
}

static void regions_handle(attn_sched_t *sched, attn_worker_t *worker, int64_t now_ns)
{
    bool garbage = false;
    while (!garbage && worker->regions.fd >= 0 && attn_regions_collect(sched->regions, &worker->regions, &garbage)) {
    }
    if (garbage)
        attn_worker_end(worker, ATTN_END_GARBAGE, now_ns);
}

static void handle(attn_sched_t *sched, uint64_t tag, int64_t now_ns)
{
    uint32_t index = tag >> 16 & 0xffff;
    attn_lane_t lane = (attn_lane_t)(tag >> 8 & 0xff);
    if ((tag & 0xff) == WATCHED_INBOX || index >= sched->device_count)
        return;
    attn_sched_device_t *device = &sched->device[index];
    attn_worker_t *worker = &device->worker[lane];
    if (worker->incarnation != tag >> 32 || worker->state == ATTN_WORKER_NONE)
        return;
    switch ((watched_t)(tag & 0xff)) {
    case WATCHED_PROCESS:
        attn_sched_worker_reaped(sched, device, lane, now_ns);
        break;
    case WATCHED_CONTROL:
        attn_sched_worker_hello(sched, device, lane, now_ns);
        break;
    case WATCHED_ERRORS:
        /* The end of the pipe comes with the end of the process, which is told apart. */
        if (!attn_process_listen(&worker->process))
            attn_fd_close(&worker->process.errors);
        break;
    case WATCHED_REGIONS:
        regions_handle(sched, worker, now_ns);
        break;
    default:
        return; /* the rings are looked at on every turn */
    }
    /* Something changed that time-driven work may have waited for. */
    sched->tick_ns = 0;
}

/* epoll_pwait2 came with Linux 5.11; where it is missing, sleeps end on the next millisecond. */
static int wait_for(int epoll, struct epoll_event *events, int count, int64_t timeout_ns)
{
    static bool missing;
    struct timespec timeout = {timeout_ns / ATTN_NS_PER_S, timeout_ns % ATTN_NS_PER_S};
    if (timeout_ns <= 0)
        return epoll_wait(epoll, events, count, 0);
    if (!missing) {
        int got = epoll_pwait2(epoll, events, count, &timeout, NULL);
        if (got >= 0 || (errno != ENOSYS && errno != EPERM))
            return got;
        missing = true;
    }
    return epoll_wait(epoll, events, count, (int)((timeout_ns + ATTN_NS_PER_MS - 1) / ATTN_NS_PER_MS));
}

void attn_watch_wait(attn_sched_t *sched, int64_t timeout_ns)
{
    struct epoll_event events[32];
    int count = wait_for(sched->epoll, events, sizeof events / sizeof events[0], timeout_ns);
    if (count <= 0)
        return;
    int64_t now_ns = attn_clock_ns();
    for (int i = 0; i < count; i++)
        handle(sched, events[i].data.u64, now_ns);
}
