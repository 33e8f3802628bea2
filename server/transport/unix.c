/* transport/unix.c: the Unix socket's door: start, the thread's loop, end. See unix.h.
 *
 * A turn: take submissions from every ring, then events; then spin on the rings for a moment where there is a core to
 * spin on, and sleep in epoll with the bells armed. Without spinning the bells stay armed but for a ring that has just
 * been busy. */
#include "transport/unix.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/cpus.h"
#include "base/fd.h"
#include "base/log.h"
#include "transport/unix_internal.h"

/* Submissions of one ring per turn: beyond them the others have theirs first. */
enum { SUBMISSIONS_AT_ONCE = 32, EVENTS_AT_ONCE = 64 };
#define LOOK_NS (5 * ATTN_NS_PER_US)  /* between two looks at the sockets while the rings are spun on */
#define HELLO_NS (10 * ATTN_NS_PER_S) /* for a connection to say hello */
#define TICK_NS (1 * ATTN_NS_PER_S)
#define TICK_WAITS_NS (2 * ATTN_NS_PER_MS) /* while runs wait for events: their deadlines */
#define STOP_NS (3 * ATTN_NS_PER_S)        /* for requests and workers to let go, at the end */

/* ---- the thread ---- */

static uint32_t rings_turn(attn_unix_t *door)
{
    uint32_t taken = 0;
    for (unix_conn_t *conn = door->ringing; conn != NULL; conn = conn->ring->next) {
        uint32_t here = unix_ring_turn(conn, SUBMISSIONS_AT_ONCE);
        if (here > 0) {
            unix_ring_arm(conn, false);
            taken += here;
        }
    }
    return taken;
}

static bool rings_waiting(const attn_unix_t *door)
{
    for (const unix_conn_t *conn = door->ringing; conn != NULL; conn = conn->ring->next) {
        if (unix_ring_waiting(conn)) {
            return true;
        }
    }
    return false;
}

static void rings_arm(attn_unix_t *door)
{
    for (unix_conn_t *conn = door->ringing; conn != NULL; conn = conn->ring->next) {
        unix_ring_arm(conn, true);
    }
}

static void mail_take(attn_unix_t *door)
{
    pthread_mutex_lock(&door->mail_lock);
    unix_conn_t *conn = door->mail, *next;
    door->mail = NULL;
    pthread_mutex_unlock(&door->mail_lock);
    for (; conn != NULL; conn = next) {
        next = conn->next_mail;
        /* What comes from here on is mailed again. */
        atomic_store(&conn->mailed, false);
        unix_wait_look(conn, attn_clock_ns());
        unix_conn_flush(conn);
        unix_conn_reap(conn);
    }
}

static void event_handle(attn_unix_t *door, const struct epoll_event *event)
{
    if (event->data.ptr == &door->listener) {
        unix_conn_accept(door);
    } else if (event->data.ptr == &door->wake || (event->data.u64 & UNIX_WATCH_BELL) != 0) {
        return; /* mail and rings are looked at on every turn */
    } else {
        unix_conn_t *conn = event->data.ptr;
        if (!conn->closing && (event->events & EPOLLOUT) != 0) {
            unix_conn_flush(conn);
        }
        if (!conn->closing && (event->events & (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP)) != 0) {
            unix_conn_read(conn);
        }
    }
}

/* Returns whether anything came. Connections are freed only by the mail, after all events of a round. */
static bool events_take(attn_unix_t *door, int timeout_ms)
{
    struct epoll_event events[EVENTS_AT_ONCE];
    int count = epoll_wait(door->epoll, events, EVENTS_AT_ONCE, timeout_ms);
    for (int i = 0; i < count; i++) {
        event_handle(door, &events[i]);
    }
    mail_take(door);
    return count > 0;
}

static void tick(attn_unix_t *door, int64_t now_ns)
{
    for (unix_conn_t *conn = door->conns; conn != NULL; conn = conn->next) {
        unix_wait_look(conn, now_ns);
        if (!conn->greeted && !conn->closing && now_ns - conn->accepted_ns > HELLO_NS) {
            unix_conn_close(conn, "it did not say hello");
        }
    }
}

/* Spins while there are rings that were used a moment ago; returns whether there is something to do. */
static bool spin(attn_unix_t *door, int64_t until_ns)
{
    int64_t looked_ns = attn_clock_ns();
    while (door->ringing != NULL) {
        for (int i = 0; i < 32; i++) {
            if (rings_waiting(door)) {
                return true;
            }
            attn_cpu_relax();
        }
        int64_t now_ns = attn_clock_ns();
        if (now_ns >= until_ns) {
            return false;
        }
        if (now_ns - looked_ns >= LOOK_NS) {
            looked_ns = now_ns;
            if (events_take(door, 0)) {
                return true;
            }
        }
    }
    return false;
}

static void *door_main(void *arg)
{
    attn_unix_t *door = arg;
    prctl(PR_SET_NAME, "socket");
    int64_t used_ns = 0, ticked_ns = attn_clock_ns(), stop_ns = INT64_MAX;
    while (stop_ns == INT64_MAX || (atomic_load(&door->conn_count) > 0 && attn_clock_ns() < stop_ns)) {
        bool any = rings_turn(door) > 0;
        int64_t now_ns = attn_clock_ns();
        if (any) {
            used_ns = now_ns;
        }
        if (now_ns - ticked_ns > (door->waits > 0 ? TICK_WAITS_NS : TICK_NS)) {
            ticked_ns = now_ns;
            tick(door, now_ns);
        }
        if (atomic_load(&door->stopping) && stop_ns == INT64_MAX) {
            stop_ns = now_ns + STOP_NS;
            for (unix_conn_t *conn = door->conns; conn != NULL; conn = conn->next) {
                unix_conn_close(conn, "the daemon ends");
            }
        }
        if (any) {
            events_take(door, 0);
            continue;
        }
        if (now_ns - used_ns < (int64_t)door->spin_us * ATTN_NS_PER_US &&
            spin(door, used_ns + (int64_t)door->spin_us * ATTN_NS_PER_US)) {
            continue;
        }
        rings_arm(door);
        bool waits = rings_waiting(door) || atomic_load(&door->stopping) != (stop_ns != INT64_MAX);
        events_take(door, waits                  ? 0
                          : door->waits > 0      ? 2
                          : stop_ns != INT64_MAX ? 10
                          : door->conns != NULL  ? 1000
                                                 : -1);
    }
    return NULL;
}

/* ---- start and end ---- */

static attn_status_t watch_own(attn_unix_t *door, attn_error_t *err)
{
    door->epoll = attn_fd_raise(epoll_create1(EPOLL_CLOEXEC));
    attn_status_t status = attn_fd_event(false, &door->wake, err);
    struct epoll_event listener = {.events = EPOLLIN, .data.ptr = &door->listener};
    struct epoll_event wake = {.events = EPOLLIN | EPOLLET, .data.ptr = &door->wake};
    if (status == ATTN_OK &&
        (door->epoll < 0 || epoll_ctl(door->epoll, EPOLL_CTL_ADD, door->listener, &listener) != 0 ||
         epoll_ctl(door->epoll, EPOLL_CTL_ADD, door->wake, &wake) != 0)) {
        status = attn_error_set(err, ATTN_ERR_SYSTEM, "cannot watch the socket: %s", strerror(errno));
    }
    return status;
}

static void door_free(attn_unix_t *door)
{
    unix_listen_end(door);
    attn_fd_close(&door->epoll);
    attn_fd_close(&door->wake);
    attn_fd_close(&door->spare);
    pthread_mutex_destroy(&door->mail_lock);
    free(door);
}

static void limits_take(attn_unix_t *door)
{
    const attn_options_t *options = door->front->options;
    uint64_t memory = attn_memory_usable();
    door->spin_us = options->socket_spin_us == ATTN_NUMBER_AUTO ? attn_cpus_spin_us() : options->socket_spin_us;
    door->connections_max = options->socket_connections;
    /* A region has a descriptor here and in every worker: all of them may have a quarter of those there are, and one
     * connection a quarter of that. */
    struct rlimit files = {.rlim_cur = 1024};
    getrlimit(RLIMIT_NOFILE, &files);
    door->regions_all_max = files.rlim_cur / 4 < ATTN_REGIONS_MAX ? (uint32_t)(files.rlim_cur / 4) : ATTN_REGIONS_MAX;
    door->regions_max = door->regions_all_max / 4 < UNIX_REGIONS_MAX ? door->regions_all_max / 4 : UNIX_REGIONS_MAX;
    /* Half of the memory for all clients together; one has half of that, unless it is said otherwise. */
    door->region_bytes_all_max = memory / 2;
    door->region_bytes_max = options->socket_region_bytes != 0 ? options->socket_region_bytes : memory / 4;
    if (door->region_bytes_all_max < door->region_bytes_max) {
        door->region_bytes_all_max = door->region_bytes_max;
    }
}

static attn_status_t door_open(attn_unix_t *door, attn_error_t *err)
{
    attn_status_t status = unix_listen(door, err);
    if (status == ATTN_OK) {
        status = watch_own(door, err);
    }
    int failed = status == ATTN_OK ? pthread_create(&door->thread, NULL, door_main, door) : 0;
    if (failed != 0) {
        status = attn_error_set(err, ATTN_ERR_SYSTEM, "cannot start the socket's thread: %s", strerror(failed));
    }
    return status;
}

attn_status_t attn_unix_start(attn_front_t *front, attn_unix_t **ret, attn_error_t *err)
{
    const char *path = front->options->socket;
    *ret = NULL;
    if (strcmp(path, "none") == 0) {
        return ATTN_OK;
    }
    attn_unix_t *door = calloc(1, sizeof *door);
    if (door == NULL) {
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for the socket's door");
    }
    door->front = front;
    door->regions = attn_sched_regions(front->sched);
    door->listener = door->epoll = door->wake = -1;
    door->spare = attn_fd_raise(open("/dev/null", O_RDONLY | O_CLOEXEC));
    pthread_mutex_init(&door->mail_lock, NULL);
    limits_take(door);
    attn_error_t failure;
    attn_status_t status = door_open(door, &failure);
    if (status == ATTN_OK) {
        *ret = door;
        return ATTN_OK;
    }
    door_free(door);
    if (strcmp(path, ATTN_SOCKET_DEFAULT) == 0) {
        ATTN_LOG(ATTN_LOG_WARN, "serving without a Unix socket; --socket PATH names another, none turns it off",
                 attn_log_text("error", failure.message));
        return ATTN_OK;
    }
    return attn_error_set(err, status, "%s", failure.message);
}

void attn_unix_drain_refuse(attn_unix_t *door)
{
    if (door != NULL) {
        atomic_store(&door->refusing, true);
    }
}

uint32_t attn_unix_calls(const attn_unix_t *door)
{
    return door != NULL ? atomic_load(&door->calls) : 0;
}

void attn_unix_stop(attn_unix_t *door)
{
    if (door == NULL) {
        return;
    }
    atomic_store(&door->refusing, true);
    atomic_store(&door->stopping, true);
    attn_fd_bell_ring(door->wake);
    pthread_join(door->thread, NULL);
    if (atomic_load(&door->conn_count) > 0) {
        /* Callbacks of a worker that cannot be reaped may still come for these: they are left as they are. */
        ATTN_LOG(ATTN_LOG_WARN, "connections of the socket were not let go in time",
                 attn_log_integer("connections", atomic_load(&door->conn_count)));
        unix_listen_end(door);
        return;
    }
    door_free(door);
}

void attn_unix_metrics(attn_unix_t *door, FILE *out)
{
    const struct {
        const char *name, *help;
        double value;
    } rows[] = {
        {"attnd_socket_connections", "Open connections of the Unix socket", atomic_load(&door->conn_count)},
        {"attnd_socket_in_flight", "Submissions of the Unix socket that are not answered", atomic_load(&door->calls)},
        {"attnd_socket_regions", "Regions and events that clients have registered",
         (double)atomic_load(&door->region_count)},
        {"attnd_socket_region_bytes", "Host memory that clients have registered",
         (double)atomic_load(&door->region_bytes)},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        attn_metrics_write_head(out, rows[i].name, "gauge", rows[i].help);
        attn_metrics_write_value(out, rows[i].name, "", rows[i].value);
    }
}
