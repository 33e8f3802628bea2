/* transport/http_watch.c: one thread that watches connections for what libmicrohttpd does not: clients that leave while
 * their connection is suspended, senders and readers below the minimum rate, heads that never end; it accepts new ones
 * too (http_accept.c). Owns the list of connections.
 *
 * It sleeps in epoll, without a timer while no connection is open. The sockets are watched edge-triggered for the end
 * of the peer's side alone, so that data wakes nobody here. */
#include <errno.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "transport/http_internal.h"

#define TICK_MS 100
#define BELL UINT64_MAX
#define SPARE_SLOTS 256 /* the probes' port, and connections that libmicrohttpd has not yet let go */

uint64_t http_peer_of(const struct sockaddr *address)
{
    const unsigned char *bytes = NULL;
    size_t count = 0;
    if (address != NULL && address->sa_family == AF_INET) {
        bytes = (const unsigned char *)&((const struct sockaddr_in *)address)->sin_addr;
        count = 4;
    } else if (address != NULL && address->sa_family == AF_INET6) {
        bytes = (const unsigned char *)&((const struct sockaddr_in6 *)address)->sin6_addr;
        count = 8; /* the network: a host has 2^64 addresses of its own */
    }
    uint64_t hash = UINT64_C(0xcbf29ce484222325); /* FNV-1a */
    for (size_t i = 0; i < count; i++) {
        hash = (hash ^ bytes[i]) * UINT64_C(0x100000001b3);
    }
    return hash;
}

void http_conn_release(http_conn_t *conn)
{
    if (atomic_fetch_sub(&conn->holds, 1) == 1) {
        pthread_mutex_destroy(&conn->lock);
        free(conn);
    }
}

http_conn_t *http_conn_open(http_loop_t *loop, int fd, const struct sockaddr *address)
{
    attn_http_t *http = loop->door->http;
    http_conn_t *conn = calloc(1, sizeof *conn);
    if (conn == NULL) {
        return NULL;
    }
    conn->fd = fd;
    conn->peer = http_peer_of(address);
    conn->door = loop->door;
    conn->loop = loop;
    conn->free_since_ns = attn_clock_ns();
    conn->seen_fresh = true;
    atomic_init(&conn->holds, 1);
    pthread_mutex_init(&conn->lock, NULL);
    pthread_mutex_lock(&http->lock);
    bool listed = http->free_count > 0;
    bool was_empty = http->open_conns == 0;
    uint64_t tag = 0;
    if (listed) {
        conn->slot = http->free_slots[--http->free_count];
        http->slots[conn->slot] = conn;
        http->open_conns++;
        tag = (uint64_t)http->generation[conn->slot] << 32 | conn->slot;
    }
    pthread_mutex_unlock(&http->lock);
    if (!listed) {
        pthread_mutex_destroy(&conn->lock);
        free(conn);
        return NULL;
    }
    struct epoll_event event = {.events = EPOLLRDHUP | EPOLLET, .data.u64 = tag};
    epoll_ctl(http->epoll_fd, EPOLL_CTL_ADD, conn->fd, &event);
    if (was_empty) {
        attn_fd_bell_ring(http->bell_fd); /* the tick begins */
    }
    return conn;
}

void http_conn_close(http_conn_t *conn)
{
    attn_http_t *http = conn->door->http;
    pthread_mutex_lock(&http->lock);
    http->slots[conn->slot] = NULL;
    http->generation[conn->slot]++;
    http->free_slots[http->free_count++] = conn->slot;
    http->open_conns--;
    pthread_mutex_unlock(&http->lock);
    epoll_ctl(http->epoll_fd, EPOLL_CTL_DEL, conn->fd, NULL);
    http_conn_release(conn);
}

/* libmicrohttpd counts the connections of a peer for each of its daemons alone. */
enum MHD_Result http_on_connect(void *cls, const struct sockaddr *address, socklen_t size)
{
    const http_loop_t *loop = cls;
    const http_door_t *door = loop->door;
    attn_http_t *http = door->http;
    const uint32_t limit = door->front->options->max_connections_per_peer;
    const uint64_t peer = http_peer_of(address);
    uint32_t count = 0;
    if (limit == 0) {
        return MHD_YES;
    }
    pthread_mutex_lock(&http->lock);
    for (uint32_t i = 0, left = http->open_conns; i < http->slot_count && left > 0; i++) {
        const http_conn_t *conn = http->slots[i];
        left -= conn != NULL;
        count += conn != NULL && conn->door == door && conn->peer == peer;
    }
    pthread_mutex_unlock(&http->lock);
    return count < limit ? MHD_YES : MHD_NO;
}

void http_on_connection(void *cls, struct MHD_Connection *mhd, void **socket_context,
                        enum MHD_ConnectionNotificationCode code)
{
    http_loop_t *loop = cls;
    loop->events++;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        loop->started = true;
        const union MHD_ConnectionInfo *info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
        const int fd = info != NULL ? info->connect_fd : -1; /* now: libmicrohttpd 1.0 has one place for all that it
                                                                tells of a connection */
        info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
        http_conn_t *conn = fd >= 0 ? http_conn_open(loop, fd, info != NULL ? info->client_addr : NULL) : NULL;
        if (conn != NULL) {
            conn->mhd = mhd;
        }
        *socket_context = conn; /* without one the first request closes the connection */
    } else {
        const union MHD_ConnectionInfo *info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
        http_loop_left(loop, info != NULL ? info->client_addr : NULL);
        if (*socket_context != NULL) {
            http_conn_close(*socket_context);
        }
        *socket_context = NULL;
    }
}

/* libmicrohttpd 0.9.75 takes a short read for the end of what there is. When the last bytes and the end of the peer's
 * side came as one edge of its epoll, it never looks again, and the connection holds its memory (seen: 10 of 12 uploads
 * of 64 MiB that were broken off). Shutting the read side down, of which nothing more can come, makes a new edge and
 * leaves unread bytes readable. Under conn->lock. */
static void nudge(http_conn_t *conn)
{
    const attn_http_call_t *call = conn->call;
    if (conn->gone && (call == NULL || call->phase == HTTP_HEAD || call->phase == HTTP_BODY)) {
        shutdown(conn->fd, SHUT_RD);
    }
}

/* The peer closed its side. Under http->lock. */
static void peer_left(attn_http_t *http, uint64_t tag)
{
    uint32_t slot = (uint32_t)tag;
    http_conn_t *conn = slot < http->slot_count ? http->slots[slot] : NULL;
    if (conn == NULL || http->generation[slot] != (uint32_t)(tag >> 32)) {
        return;
    }
    pthread_mutex_lock(&conn->lock);
    conn->gone = true;
    attn_http_call_t *call = conn->call;
    if (call != NULL && call->armed && !call->gone_called && (call->phase == HTTP_PARKED || call->stream.open)) {
        call->gone_called = true;
        if (call->gone != NULL) {
            call->gone(call, call->gone_arg);
        }
    }
    nudge(conn);
    pthread_mutex_unlock(&conn->lock);
}

static bool tcp_state(const http_conn_t *conn, struct tcp_info *ret)
{
    socklen_t size = sizeof *ret;
    memset(ret, 0, sizeof *ret);
    return getsockopt(conn->fd, IPPROTO_TCP, TCP_INFO, ret, &size) == 0;
}

/* Whether `progress` (bytes so far) grows by less than `rate` per second. Measured over the last while, at least the
 * grace and at most twice as long: a body that began fast and then stands still is found out as soon as one that never
 * moved. */
static bool stalled(http_conn_t *conn, uint64_t progress, int64_t now, uint64_t rate)
{
    int64_t grace_ns = conn->door->front->options->rate_grace_ms * ATTN_NS_PER_MS;
    int64_t ns = now - conn->window_ns;
    uint64_t bytes = progress - conn->window_progress;
    bool begins = conn->window_ns == 0;
    if (!begins && rate > 0 && ns > grace_ns && (double)bytes * 1e9 < (double)rate * (double)ns) {
        return true;
    }
    if (begins || ns > 2 * grace_ns) {
        conn->window_ns = now;
        conn->window_progress = progress;
    }
    return false;
}

static void cut(http_conn_t *conn, attn_http_call_t *call)
{
    if (call != NULL) {
        call->phase = HTTP_CUT;
    }
    shutdown(conn->fd, SHUT_RDWR);
}

/* In the middle of a body. What the body was refused with before is what its sender should hear. */
static void answer_and_cut(http_conn_t *conn, attn_http_call_t *call, const attn_error_t *err)
{
    if (!call->refused) {
        http_reply_fill_error(call, err, NULL);
        call->refused = true;
    }
    http_reply_raw(call);
    cut(conn, call);
}

static void check_sender(http_conn_t *conn, attn_http_call_t *call, int64_t now)
{
    const attn_options_t *options = conn->door->front->options;
    uint64_t received = atomic_load_explicit(&call->received, memory_order_relaxed);
    if (atomic_load_explicit(&call->waits, memory_order_relaxed)) {
        conn->window_ns = 0;
        return;
    }
    if (call->refused && now - call->refused_ns > HTTP_DISCARD_NS) {
        http_reply_raw(call); /* it sends on slowly or not at all: it need not wait for its answer until the end */
    }
    /* Nothing can be slow when all has come and only the handler's turn is awaited. */
    if (received >= call->body_bytes || !stalled(conn, received, now, options->min_upload_rate)) {
        return;
    }
    attn_error_t err;
    attn_error_set(&err, ATTN_ERR_TIMEOUT,
                   "the body came in at less than %llu bytes per second; send it faster, or in smaller requests",
                   (unsigned long long)options->min_upload_rate);
    answer_and_cut(conn, call, &err);
}

static void check_reader(http_conn_t *conn, attn_http_call_t *call, int64_t now)
{
    struct tcp_info info;
    if (tcp_state(conn, &info) &&
        stalled(conn, info.tcpi_bytes_acked, now, conn->door->front->options->min_download_rate)) {
        cut(conn, call);
    }
}

/* No request is under way: either nothing comes, or a head that does not end. What has come is looked at only when the
 * time for a head is over; a head that is first seen then may have begun just now, on a connection that was opened in
 * advance, and has as long again. */
static void check_free(http_conn_t *conn, int64_t now)
{
    const attn_options_t *options = conn->door->front->options;
    const int64_t head_ns = options->header_timeout_ms * ATTN_NS_PER_MS;
    const int64_t idle_ns = options->idle_timeout_ms * ATTN_NS_PER_MS;
    int64_t age = now - conn->free_since_ns;
    if (conn->seen_calls != conn->calls) {
        conn->seen_calls = conn->calls;
        conn->seen_fresh = false;
        conn->begun_ns = 0;
    }
    if (age <= head_ns && age <= idle_ns) {
        return;
    }
    struct tcp_info info;
    uint64_t received = tcp_state(conn, &info) ? info.tcpi_bytes_received : 0;
    if (age > idle_ns || (conn->begun_ns != 0 && now - conn->begun_ns > head_ns)) {
        cut(conn, NULL);
    } else if (!conn->seen_fresh) {
        conn->seen_fresh = true; /* after a request: bytes that come from now on begin a head */
        conn->seen_received = received;
    } else if (received > conn->seen_received && conn->begun_ns == 0) {
        conn->begun_ns = now;
    }
}

static void check(http_conn_t *conn, int64_t now)
{
    pthread_mutex_lock(&conn->lock);
    attn_http_call_t *call = conn->call;
    nudge(conn);
    if (call == NULL) {
        check_free(conn, now);
    } else if (call->phase == HTTP_HEAD) {
        /* The request line is in and the other lines are not. */
        if (now - call->arrived_ns > conn->door->front->options->header_timeout_ms * ATTN_NS_PER_MS) {
            cut(conn, call);
        }
    } else if (call->phase == HTTP_BODY) {
        check_sender(conn, call, now);
    } else if (call->phase == HTTP_SENDING) {
        check_reader(conn, call, now);
    }
    pthread_mutex_unlock(&conn->lock);
}

static void *watch_main(void *arg)
{
    attn_http_t *http = arg;
    struct epoll_event events[64];
    int64_t next = 0;
    prctl(PR_SET_NAME, "watch");
    while (!atomic_load(&http->stopping)) {
        pthread_mutex_lock(&http->lock);
        bool any = http->open_conns > 0 || http->main.paused || http->probes.paused;
        pthread_mutex_unlock(&http->lock);
        int count = epoll_wait(http->epoll_fd, events, 64, any ? TICK_MS : -1);
        int64_t now = attn_clock_ns();
        pthread_mutex_lock(&http->lock);
        for (int i = 0; i < count; i++) {
            if (events[i].data.u64 == BELL) {
                attn_fd_bell_wait(http->bell_fd);
            } else if (events[i].data.u64 == http_accept_tag(&http->main)) {
                http_accept(&http->main);
            } else if (events[i].data.u64 == http_accept_tag(&http->probes)) {
                http_accept(&http->probes);
            } else {
                peer_left(http, events[i].data.u64);
            }
        }
        if (now >= next) {
            next = now + TICK_MS * ATTN_NS_PER_MS;
            http_accept_again(&http->main);
            http_accept_again(&http->probes);
            for (uint32_t i = 0, left = http->open_conns; i < http->slot_count && left > 0; i++) {
                if (http->slots[i] != NULL) {
                    check(http->slots[i], now);
                    left--;
                }
            }
        }
        pthread_mutex_unlock(&http->lock);
    }
    return NULL;
}

void http_watch_cut_all(attn_http_t *http)
{
    pthread_mutex_lock(&http->lock);
    for (uint32_t i = 0; i < http->slot_count; i++) {
        if (http->slots[i] != NULL) {
            shutdown(http->slots[i]->fd, SHUT_RDWR);
        }
    }
    pthread_mutex_unlock(&http->lock);
}

attn_status_t http_refusing(attn_error_t *err)
{
    return attn_error_set(err, ATTN_ERR_UNAVAILABLE, "the daemon is ending and takes no new work; try again");
}

void http_watch_refuse_bodies(attn_http_t *http)
{
    attn_error_t err;
    http_refusing(&err);
    pthread_mutex_lock(&http->lock);
    for (uint32_t i = 0; i < http->slot_count; i++) {
        http_conn_t *conn = http->slots[i];
        if (conn == NULL) {
            continue;
        }
        pthread_mutex_lock(&conn->lock);
        attn_http_call_t *call = conn->call;
        if (call != NULL && call->phase == HTTP_BODY &&
            atomic_load_explicit(&call->received, memory_order_relaxed) < call->body_bytes) {
            answer_and_cut(conn, call, &err);
        }
        pthread_mutex_unlock(&conn->lock);
    }
    pthread_mutex_unlock(&http->lock);
}

attn_status_t http_watch_start(attn_http_t *http, attn_error_t *err)
{
    http->slot_count = http->front->options->max_connections + SPARE_SLOTS;
    http->slots = calloc(http->slot_count, sizeof *http->slots);
    http->generation = calloc(http->slot_count, sizeof *http->generation);
    http->free_slots = calloc(http->slot_count, sizeof *http->free_slots);
    if (http->slots == NULL || http->generation == NULL || http->free_slots == NULL) {
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for %u connections", http->slot_count);
    }
    for (uint32_t i = 0; i < http->slot_count; i++) {
        http->free_slots[http->free_count++] = http->slot_count - 1 - i;
    }
    http->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (http->epoll_fd < 0) {
        return attn_error_set(err, ATTN_ERR_SYSTEM, "epoll_create1: %s", strerror(errno));
    }
    attn_status_t status = attn_fd_event(false, &http->bell_fd, err);
    if (status != ATTN_OK) {
        return status;
    }
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = BELL};
    epoll_ctl(http->epoll_fd, EPOLL_CTL_ADD, http->bell_fd, &event);
    int error = pthread_create(&http->watch, NULL, watch_main, http);
    if (error != 0) {
        return attn_error_set(err, ATTN_ERR_SYSTEM, "cannot start a thread: %s", strerror(error));
    }
    http->watch_runs = true;
    return ATTN_OK;
}

void http_watch_stop(attn_http_t *http)
{
    if (http->watch_runs) {
        atomic_store(&http->stopping, true);
        attn_fd_bell_ring(http->bell_fd);
        pthread_join(http->watch, NULL);
        http->watch_runs = false;
    }
    attn_fd_close(&http->epoll_fd);
    attn_fd_close(&http->bell_fd);
    free(http->slots);
    free(http->generation);
    free(http->free_slots);
    http->slots = NULL;
    http->generation = http->free_slots = NULL;
}
