/* worker/client_memory.c: see client_memory.h. */
#include "worker/client_memory.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"

/* Pinning stalls launches (54 to 214 ms per GiB on H100 machines): it may take a quarter of the time beside jobs, and
 * all of it when none came for QUIET_NS. */
enum { PIN_REST = 3 };
#define QUIET_NS (50 * ATTN_NS_PER_MS)
/* Events are asked without a pause for as long as this after the last one came, then every millisecond: a foreign
 * stream that stands still must not cost a core. */
#define AWAIT_SPIN_NS (500 * ATTN_NS_PER_US)
#define FIND_NS (5 * ATTN_NS_PER_S)

struct attn_client_memory {
    attn_variant_class_t run_class;
    int fd;
    const attn_client_memory_ops_t *ops;
    struct attn_engine *engine;
    _Atomic int64_t used_ns; /* when a job came last */
    pthread_mutex_t lock;    /* of the table */
    pthread_cond_t arrived;
    uint32_t high; /* slots below have been used */
    attn_client_region_t *table[ATTN_REGIONS_MAX];
    /* The thread's own: regions with something left to pin. */
    uint32_t unpinned_count, unpinned[ATTN_REGIONS_MAX];
    uint32_t awaited_count, awaited[ATTN_REGIONS_MAX]; /* events that the front waits for */
    int64_t awaited_ns;                                /* when the last of them came */
};

attn_status_t attn_client_memory_open(attn_variant_class_t run_class, int fd, attn_client_memory_t **ret,
                                      attn_error_t *err)
{
    attn_client_memory_t *memory = calloc(1, sizeof *memory);
    if (!memory)
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for the table of client regions");
    memory->run_class = run_class;
    memory->fd = fd;
    pthread_mutex_init(&memory->lock, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&memory->arrived, &attributes);
    pthread_condattr_destroy(&attributes);
    *ret = memory;
    return ATTN_OK;
}

/* With a page without access behind it: regions never touch each other, so no copy runs from one into the next. */
static uint64_t map_bytes(const attn_client_region_t *region)
{
    return ATTN_WIRE_ROUND(region->about.bytes) + ATTN_WIRE_PAGE;
}

static attn_status_t host_map(const attn_client_memory_t *memory, attn_client_region_t *region, attn_error_t *err)
{
    struct stat about;
    if (region->fd < 0 || fstat(region->fd, &about) != 0 || (uint64_t)about.st_size < region->about.bytes)
        return attn_error_set(err, ATTN_ERR_INTERNAL, "a region's memory did not come with it");
    if (memory->run_class != ATTN_CLASS_SERVE)
        return ATTN_OK;
    int protection = region->about.writable ? PROT_READ | PROT_WRITE : PROT_READ;
    char *map = mmap(NULL, map_bytes(region), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map != MAP_FAILED && mmap(map, region->about.bytes, protection, MAP_SHARED | MAP_NORESERVE | MAP_FIXED,
                                  region->fd, 0) == MAP_FAILED) {
        munmap(map, map_bytes(region));
        map = MAP_FAILED;
    }
    if (map == MAP_FAILED)
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "a region of %llu bytes cannot be mapped: %s",
                              (unsigned long long)region->about.bytes, strerror(errno));
    region->host = map;
    return ATTN_OK;
}

static attn_status_t region_open(const attn_client_memory_t *memory, attn_client_region_t *region, attn_error_t *err)
{
    attn_status_t status = ATTN_OK;
    if (region->about.kind == ATTN_REGION_HOST)
        status = host_map(memory, region, err);
    else if (!memory->ops->add)
        status = attn_error_set(err, ATTN_ERR_FAILED_PRECONDITION, "this device has no CUDA memory");
    if (status == ATTN_OK && memory->ops->add)
        status = memory->ops->add(memory->engine, region, err);
    return status;
}

static void region_free(const attn_client_memory_t *memory, attn_client_region_t *region)
{
    if (region->error.status == ATTN_OK && memory->ops->drop)
        memory->ops->drop(memory->engine, region);
    if (region->host)
        munmap(region->host, map_bytes(region));
    attn_fd_close(&region->fd);
    free(region);
}

static bool report_send(const attn_client_memory_t *memory, const attn_region_report_t *report)
{
    return send(memory->fd, report, sizeof *report, MSG_NOSIGNAL) == (ssize_t)sizeof *report;
}

/* Returns whether it is to be pinned; then the report follows when it is. */
static bool region_add(attn_client_memory_t *memory, const attn_region_order_t *order, int fd,
                       attn_region_report_t *report)
{
    uint32_t i = order->number - ATTN_REGION_CLIENT_FIRST;
    attn_client_region_t *region = calloc(1, sizeof *region);
    attn_error_t err = {0};
    if (!region) {
        attn_fd_close(&fd);
        report->status = attn_error_set(&err, ATTN_ERR_NO_MEMORY, "no memory for a region");
    } else {
        region->about = *order;
        region->fd = fd;
        report->status = region_open(memory, region, &err);
        if (report->status != ATTN_OK)
            region->error = err;
        pthread_mutex_lock(&memory->lock);
        memory->table[i] = region;
        memory->high = i >= memory->high ? i + 1 : memory->high;
        pthread_cond_broadcast(&memory->arrived);
        pthread_mutex_unlock(&memory->lock);
        if (report->status == ATTN_OK && region->host && memory->ops->pin) {
            memory->unpinned[memory->unpinned_count++] = i;
            return true;
        }
    }
    if (report->status != ATTN_OK)
        snprintf(report->message, sizeof report->message, "%.*s", (int)sizeof report->message - 1, err.message);
    return false;
}

static void list_remove(uint32_t *list, uint32_t *count, uint32_t value)
{
    for (uint32_t n = 0; n < *count; n++)
        if (list[n] == value)
            list[n--] = list[--*count];
}

static void region_drop(attn_client_memory_t *memory, uint32_t number)
{
    uint32_t i = number - ATTN_REGION_CLIENT_FIRST;
    list_remove(memory->unpinned, &memory->unpinned_count, i);
    list_remove(memory->awaited, &memory->awaited_count, i);
    pthread_mutex_lock(&memory->lock);
    attn_client_region_t *region = memory->table[i];
    memory->table[i] = NULL;
    pthread_mutex_unlock(&memory->lock);
    if (region)
        region_free(memory, region);
}

/* Returns the descriptor that came, or -1. */
static int order_receive(int fd, attn_region_order_t *ret, ssize_t *ret_bytes)
{
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec part = {ret, sizeof *ret};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    *ret_bytes = recvmsg(fd, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    struct cmsghdr *head = *ret_bytes > 0 ? CMSG_FIRSTHDR(&message) : NULL;
    int came = -1;
    if (head && head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_RIGHTS)
        memcpy(&came, CMSG_DATA(head), sizeof came);
    return came;
}

/* Whether the wait for an event is over; then *ret says how. */
static bool event_over(attn_client_memory_t *memory, uint32_t i, attn_region_report_t *ret)
{
    attn_client_region_t *event = memory->table[i];
    attn_error_t err = {0};
    bool ready = false;
    if (!event || event->about.kind != ATTN_REGION_EVENT || !memory->ops->ready)
        attn_error_set(&err, ATTN_ERR_INTERNAL, "what should be an event is not one");
    else if (event->error.status != ATTN_OK)
        err = event->error;
    else
        err.status = memory->ops->ready(memory->engine, event, &ready, &err);
    if (err.status == ATTN_OK && !ready)
        return false;
    *ret =
        (attn_region_report_t){.op = ATTN_REGION_AWAIT, .number = ATTN_REGION_CLIENT_FIRST + i, .status = err.status};
    if (err.status != ATTN_OK)
        snprintf(ret->message, sizeof ret->message, "%.*s", (int)sizeof ret->message - 1, err.message);
    return true;
}

static void events_look(attn_client_memory_t *memory)
{
    attn_region_report_t report;
    for (uint32_t n = 0; n < memory->awaited_count; n++)
        if (event_over(memory, memory->awaited[n], &report)) {
            memory->awaited[n--] = memory->awaited[--memory->awaited_count];
            report_send(memory, &report);
        }
}

/* Returns false when the front is gone; the heartbeat ends the process then. */
static bool order_obey(attn_client_memory_t *memory)
{
    attn_region_order_t order;
    ssize_t got;
    int fd = order_receive(memory->fd, &order, &got);
    if (got < 0)
        return errno == EAGAIN || errno == EINTR;
    if (got != (ssize_t)sizeof order || order.number < ATTN_REGION_CLIENT_FIRST ||
        order.number - ATTN_REGION_CLIENT_FIRST >= ATTN_REGIONS_MAX) {
        attn_fd_close(&fd);
        return got > 0;
    }
    attn_region_report_t report = {.op = order.op, .number = order.number};
    if (order.op == ATTN_REGION_ADD) {
        if (region_add(memory, &order, fd, &report))
            return true;
    } else {
        attn_fd_close(&fd);
    }
    if (order.op == ATTN_REGION_AWAIT && memory->awaited_count < ATTN_REGIONS_MAX) {
        memory->awaited[memory->awaited_count++] = order.number - ATTN_REGION_CLIENT_FIRST;
        memory->awaited_ns = attn_clock_ns();
        return true;
    }
    if (order.op == ATTN_REGION_DROP)
        region_drop(memory, order.number);
    return report_send(memory, &report);
}

/* Pins one piece of the region that came last; returns for how long to rest. One that cannot be pinned is still good.
 */
static int64_t pin_one(attn_client_memory_t *memory)
{
    attn_client_region_t *region = memory->table[memory->unpinned[memory->unpinned_count - 1]];
    int64_t took_ns = 0;
    if (!memory->ops->pin(memory->engine, region, &took_ns)) {
        memory->unpinned_count--;
        report_send(memory, &(attn_region_report_t){.op = ATTN_REGION_ADD, .number = region->about.number});
    }
    int64_t quiet_ns = attn_clock_ns() - atomic_load_explicit(&memory->used_ns, memory_order_relaxed);
    return quiet_ns < QUIET_NS ? PIN_REST * took_ns : 0;
}

static void *memory_main(void *arg)
{
    attn_client_memory_t *memory = arg;
    prctl(PR_SET_NAME, "regions");
    int64_t pin_ns = 0; /* when the next piece may be pinned */
    for (;;) {
        int64_t now = attn_clock_ns();
        if (memory->unpinned_count > 0 && now >= pin_ns) {
            int64_t rest = pin_one(memory);
            pin_ns = rest > 0 ? attn_clock_ns() + rest : 0;
        }
        events_look(memory);
        struct pollfd orders = {.fd = memory->fd, .events = POLLIN};
        int64_t rest_ms = (pin_ns - now + ATTN_NS_PER_MS - 1) / ATTN_NS_PER_MS;
        int timeout = memory->unpinned_count == 0 ? -1 : rest_ms > 0 ? (int)rest_ms : 0;
        if (memory->awaited_count > 0)
            timeout = now - memory->awaited_ns > AWAIT_SPIN_NS && timeout != 0 ? 1 : 0;
        if (poll(&orders, 1, timeout) > 0 && !order_obey(memory))
            return NULL;
    }
}

attn_status_t attn_client_memory_start(attn_client_memory_t *memory, const attn_client_memory_ops_t *ops,
                                       struct attn_engine *engine, attn_error_t *err)
{
    pthread_t thread;
    memory->ops = ops;
    memory->engine = engine;
    int failed = pthread_create(&thread, NULL, memory_main, memory);
    if (failed)
        return attn_error_set(err, ATTN_ERR_SYSTEM, "cannot start the regions' thread: %s", strerror(failed));
    pthread_detach(thread);
    return ATTN_OK;
}

void attn_client_memory_used(attn_client_memory_t *memory)
{
    atomic_store_explicit(&memory->used_ns, attn_clock_ns(), memory_order_relaxed);
}

attn_status_t attn_client_memory_find(attn_client_memory_t *memory, uint32_t number, attn_client_region_t **ret,
                                      attn_error_t *err)
{
    uint32_t i = number - ATTN_REGION_CLIENT_FIRST;
    if (number < ATTN_REGION_CLIENT_FIRST || i >= ATTN_REGIONS_MAX)
        return attn_error_set(err, ATTN_ERR_INTERNAL, "a tensor's region has a number that no region has");
    pthread_mutex_lock(&memory->lock);
    if (!memory->table[i]) {
        int64_t until_ns = attn_clock_ns() + FIND_NS;
        struct timespec until = {until_ns / ATTN_NS_PER_S, until_ns % ATTN_NS_PER_S};
        int late = 0;
        while (!memory->table[i] && !late)
            late = pthread_cond_timedwait(&memory->arrived, &memory->lock, &until);
    }
    attn_client_region_t *region = memory->table[i];
    pthread_mutex_unlock(&memory->lock);
    if (!region)
        return attn_error_set(err, ATTN_ERR_INTERNAL, "a tensor's region was not announced");
    if (region->error.status != ATTN_OK)
        return attn_error_set(err, region->error.status, "%s", region->error.message);
    *ret = region;
    return ATTN_OK;
}
