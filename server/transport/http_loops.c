/* transport/http_loops.c: the threads that drive libmicrohttpd, each with a daemon of its own. Owns daemons and
 * threads.
 *
 * libmicrohttpd's own threads sleep in epoll the moment that nothing is there. Waking a core that sleeps costs 10 to
 * 35 us, and a request meets it twice here: when its first bytes come and when its answer is ready. So a thread that
 * had something to do looks for more for a while before it sleeps, where there are cores to spare. It looks into one
 * epoll, of the connections that it reads itself (http_direct.c) and of libmicrohttpd. */
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/cpus.h"
#include "base/fd.h"
#include "base/log.h"
#include "transport/http_internal.h"

/* Of a connection. An upload chunk is about half of it: with 256 KiB, 16 callers of 192 KiB were served 12 to 16 %
 * faster than with 64 and one caller 9 % (libmicrohttpd 0.9.75); beyond it no more is gained. */
#define CONNECTION_MEMORY_MIN (64u * 1024u)
#define CONNECTION_MEMORY_MAX (256u * 1024u)
#define CONNECTIONS_SHARE 64 /* of the machine's memory for all connections, above the least */
#define PROBE_CONNECTIONS 64
#define SPIN_US 200 /* a caller that sends its next request at once is back within that time */
#define SPIN_CORES 8
/* 64 callers with 320 KiB a request on 16 cores: 4 loops 39,000 requests/s, 5 39,000, 6 51,000, 8 56,000. */
#define LOOPS_MOST 16

static void log_library(void *cls, const char *format, va_list args) __attribute__((format(printf, 2, 0)));
static void log_library(void *cls, const char *format, va_list args)
{
    char text[256];
    if (attn_log_enabled(ATTN_LOG_DEBUG)) {
        vsnprintf(text, sizeof text, format, args);
        ATTN_LOG(ATTN_LOG_DEBUG, "libmicrohttpd", attn_log_text("says", text));
    }
}

static unsigned thread_count(const http_door_t *door)
{
    if (door->probes_only) {
        return 1;
    }
    if (door->front->options->http_threads > 0) {
        return door->front->options->http_threads;
    }
    double cores = attn_cpus_usable();
    if (cores < SPIN_CORES) {
        return cores >= 4 ? 4 : cores >= 3 ? 3 : 2;
    }
    unsigned half = (unsigned)(cores / 2);
    return half < HTTP_LOOPS_APART ? HTTP_LOOPS_APART : half < LOOPS_MOST ? half : LOOPS_MOST;
}

static int64_t spin_ns(const http_door_t *door)
{
    uint32_t us = door->front->options->http_spin_us;
    if (us == 0 && attn_cpus_usable() >= SPIN_CORES) {
        us = SPIN_US;
    }
    return door->probes_only ? 0 : us * ATTN_NS_PER_US;
}

void http_loop_hand(http_loop_t *loop, const http_guest_t *guest)
{
    loop->started = false;
    if (MHD_add_connection(loop->daemon, guest->fd, (const struct sockaddr *)&guest->address, guest->size) != MHD_YES &&
        !loop->started) {
        http_loop_left(loop,
                       (const struct sockaddr *)&guest->address); /* closed by libmicrohttpd, which will not tell */
    }
    atomic_store(&loop->due, true);
}

static void guests_take(http_loop_t *loop)
{
    http_guest_t *next, *guest = atomic_exchange(&loop->guests, NULL);
    for (; guest != NULL; guest = next) {
        next = guest->next;
        if (loop->door->probes_only) {
            http_loop_hand(loop, guest);
        } else {
            http_direct_open(loop, guest);
        }
        free(guest);
    }
}

/* Whether there is more to do at once. */
static bool work(http_loop_t *loop)
{
    MHD_UNSIGNED_LONG_LONG ms;
    bool due = false;
    if (atomic_load(&loop->guests) != NULL) {
        guests_take(loop);
    }
    bool busy = false;
    bool more = http_direct_run(loop, &due, &busy);
    if ((atomic_load(&loop->due) && atomic_exchange(&loop->due, false)) || due) {
        MHD_run_wait(loop->daemon, 0);
        if (MHD_get_timeout(loop->daemon, &ms) == MHD_YES && ms == 0) {
            atomic_store(&loop->due, true); /* no connection has a timeout: it means that there is more to do */
            more = true;
        }
    }
    if (loop->turns.waiting != NULL) {
        more = more || busy || due;
        more = http_turns_pass(&loop->turns, !more, attn_clock_ns()) || more;
    }
    return more;
}

static void *loop_main(void *arg)
{
    http_loop_t *loop = arg;
    struct pollfd wait[2] = {{.fd = loop->epoll_fd, .events = POLLIN}, {.fd = loop->bell, .events = POLLIN}};
    const int64_t spin = spin_ns(loop->door);
    int64_t until = 0;
    uint64_t seen = 0;
    bool armed = false;
    prctl(PR_SET_NAME, "http");
    while (!atomic_load_explicit(&loop->stopping, memory_order_relaxed)) {
        if (work(loop)) {
            continue;
        }
        if (spin > 0) {
            int64_t now = attn_clock_ns();
            until = loop->events != seen ? now + spin : until;
            seen = loop->events;
            if (now < until) {
                attn_cpu_relax();
                continue;
            }
        }
        if (!armed) {
            armed = true;
            atomic_store(&loop->armed, true); /* and one look more, for what was resumed before */
            continue;
        }
        poll(wait, 2, -1);
        armed = false;
        atomic_store(&loop->armed, false);
        if (wait[1].revents != 0) {
            attn_fd_bell_wait(loop->bell);
        }
    }
    return NULL;
}

static void wake(http_loop_t *loop)
{
    if (atomic_load(&loop->armed) && atomic_exchange(&loop->armed, false)) {
        attn_fd_bell_ring(loop->bell);
    }
}

void http_conn_resume(http_conn_t *conn)
{
    if (conn->direct != NULL) {
        http_direct_resume(conn->direct);
    } else {
        MHD_resume_connection(conn->mhd);
        atomic_store(&conn->loop->due, true);
    }
    wake(conn->loop);
}

void http_loop_give(http_loop_t *loop, const http_guest_t *guest)
{
    http_guest_t *copy = malloc(sizeof *copy);
    if (copy == NULL) {
        close(guest->fd);
        return;
    }
    *copy = *guest;
    copy->next = atomic_load_explicit(&loop->guests, memory_order_relaxed);
    atomic_fetch_add(&loop->connections, 1);
    atomic_fetch_add(http_loop_of_peer(loop, (const struct sockaddr *)&guest->address), 1);
    while (!atomic_compare_exchange_weak(&loop->guests, &copy->next, copy)) {
    }
    wake(loop);
}

void http_loop_left(http_loop_t *loop, const struct sockaddr *address)
{
    atomic_fetch_sub(&loop->connections, 1);
    atomic_fetch_sub(http_loop_of_peer(loop, address), 1);
}

atomic_uint *http_loop_of_peer(http_loop_t *loop, const struct sockaddr *address)
{
    return &loop->of_peer[http_peer_of(address) % HTTP_PEER_CELLS];
}

uint32_t http_connections_max(const http_door_t *door)
{
    return door->probes_only ? PROBE_CONNECTIONS : door->front->options->max_connections;
}

static size_t connection_memory(uint32_t connections)
{
    uint64_t bytes = attn_memory_usable() / CONNECTIONS_SHARE / connections;
    return bytes >= CONNECTION_MEMORY_MAX   ? CONNECTION_MEMORY_MAX
           : bytes <= CONNECTION_MEMORY_MIN ? CONNECTION_MEMORY_MIN
                                            : (size_t)bytes & ~(size_t)4095;
}

static attn_status_t loop_open(http_door_t *door, http_loop_t *loop, attn_error_t *err)
{
    const uint32_t connections = http_connections_max(door);
    struct MHD_OptionItem items[] = {
        {MHD_OPTION_EXTERNAL_LOGGER, (intptr_t)log_library, NULL},
        {MHD_OPTION_CONNECTION_LIMIT, (intptr_t)connections + 1, NULL}, /* kept where they are accepted */
        {MHD_OPTION_CONNECTION_MEMORY_LIMIT, (intptr_t)connection_memory(connections), NULL},
        {MHD_OPTION_URI_LOG_CALLBACK, (intptr_t)http_on_uri, loop},
        {MHD_OPTION_NOTIFY_COMPLETED, (intptr_t)http_on_completed, loop},
        {MHD_OPTION_NOTIFY_CONNECTION, (intptr_t)http_on_connection, loop},
        {MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1, NULL},
        {MHD_OPTION_END, 0, NULL},
    };
    /* Without libmicrohttpd's own eventfd, which it writes at each resume and takes without looking at what was resumed
     * (0.9.75, MHD_epoll): http_conn_resume() rings a bell here, and only when this thread sleeps. */
    const unsigned flags = MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET |
                           (MHD_ALLOW_SUSPEND_RESUME & ~(unsigned)MHD_USE_ITC) | MHD_USE_ERROR_LOG;
    errno = 0;
    loop->daemon = MHD_start_daemon(flags, 0, http_on_connect, loop, http_on_access, loop, MHD_OPTION_ARRAY, items,
                                    MHD_OPTION_END);
    if (loop->daemon == NULL) {
        return attn_error_set(err, ATTN_ERR_SYSTEM, "cannot start the HTTP door on port %u: %s", door->port,
                              errno != 0 ? strerror(errno)
                                         : "libmicrohttpd refused; is the limit of open files too low?");
    }
    struct epoll_event event = {.events = EPOLLIN};
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    const int library_fd = MHD_get_daemon_info(loop->daemon, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
    if (loop->epoll_fd < 0 || epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, library_fd, &event) != 0) {
        return attn_error_set(err, ATTN_ERR_SYSTEM, "cannot wait for connections: %s", strerror(errno));
    }
    return ATTN_OK;
}

attn_status_t http_loops_start(http_door_t *door, attn_error_t *err)
{
    unsigned count = thread_count(door);
    door->loops = calloc(count, sizeof *door->loops);
    if (door->loops == NULL) {
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for the HTTP door");
    }
    door->loop_count = count;
    for (unsigned i = 0; i < count; i++) {
        door->loops[i].door = door;
        door->loops[i].bell = -1;
        door->loops[i].epoll_fd = -1;
    }
    attn_status_t status = ATTN_OK;
    for (unsigned i = 0; i < count && status == ATTN_OK; i++) {
        status = attn_fd_event(false, &door->loops[i].bell, err);
        if (status == ATTN_OK) {
            status = loop_open(door, &door->loops[i], err);
        }
    }
    for (unsigned i = 0; i < count && status == ATTN_OK; i++) {
        int error = pthread_create(&door->loops[i].thread, NULL, loop_main, &door->loops[i]);
        door->loops[i].runs = error == 0;
        if (error != 0) {
            status = attn_error_set(err, ATTN_ERR_SYSTEM, "cannot start a thread: %s", strerror(error));
        }
    }
    return status;
}

void http_loops_stop(http_door_t *door)
{
    for (unsigned i = 0; i < door->loop_count; i++) {
        http_loop_t *loop = &door->loops[i];
        atomic_store(&loop->stopping, true);
        if (loop->runs) {
            attn_fd_bell_ring(loop->bell);
            pthread_join(loop->thread, NULL);
        }
        http_direct_close_all(loop);
        if (loop->daemon != NULL) {
            http_turns_stop(&loop->turns); /* MHD_stop_daemon() aborts over a suspended connection */
            MHD_stop_daemon(loop->daemon);
        }
        attn_fd_close(&loop->epoll_fd);
        for (http_guest_t *next, *guest = atomic_load(&loop->guests); guest != NULL; guest = next) {
            next = guest->next;
            close(guest->fd);
            free(guest);
        }
        attn_fd_close(&loop->bell);
    }
    free(door->loops);
    door->loops = NULL;
    door->loop_count = 0;
}
