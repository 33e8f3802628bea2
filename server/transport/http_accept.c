/* transport/http_accept.c: new connections. On the watch thread, under http->lock; owns the sockets that are listened
 * on while they are.
 *
 * Each connection goes to the loop that has fewest. Left to the loops themselves, the one that was awake took them all:
 * of 16 connections that came at once a loop of four had 10, another none, and a loop that spins always wins.
 *
 * Where there are loops enough, a peer gets no connection into its last one: whoever floods the door leaves a loop to
 * others, one that somebody is in already if there is such. */
#include <errno.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "transport/http_internal.h"

#define SERIES 64 /* so that a flood of connections does not keep the thread from its other work */

static uint32_t open_connections(const http_door_t *door)
{
    uint32_t open = 0;
    for (unsigned i = 0; i < door->loop_count; i++) {
        open += atomic_load_explicit(&door->loops[i].connections, memory_order_relaxed);
    }
    return open;
}

static http_loop_t *idlest(http_door_t *door, const struct sockaddr *address)
{
    unsigned with_peer = 0;
    for (unsigned i = 0; i < door->loop_count; i++) {
        with_peer += atomic_load_explicit(http_loop_of_peer(&door->loops[i], address), memory_order_relaxed) > 0;
    }
    const bool apart = door->loop_count >= HTTP_LOOPS_APART && with_peer + 1 >= door->loop_count;
    http_loop_t *best = NULL;
    for (unsigned i = 0; i < door->loop_count; i++) {
        http_loop_t *loop = &door->loops[i];
        if (apart && atomic_load_explicit(http_loop_of_peer(loop, address), memory_order_relaxed) == 0) {
            continue;
        }
        if (best == NULL || atomic_load_explicit(&loop->connections, memory_order_relaxed) <
                                atomic_load_explicit(&best->connections, memory_order_relaxed)) {
            best = loop;
        }
    }
    return best;
}

static void listening_set(http_door_t *door, bool listening)
{
    struct epoll_event event = {.events = listening ? EPOLLIN : 0, .data.u64 = http_accept_tag(door)};
    epoll_ctl(door->http->epoll_fd, EPOLL_CTL_MOD, door->listen_fd, &event);
    door->paused = !listening;
}

attn_status_t http_accept_begin(http_door_t *door, attn_error_t *err)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = http_accept_tag(door)};
    if (epoll_ctl(door->http->epoll_fd, EPOLL_CTL_ADD, door->listen_fd, &event) != 0) {
        return attn_error_set(err, ATTN_ERR_SYSTEM, "cannot wait for connections: error %d", errno);
    }
    return ATTN_OK;
}

void http_accept_end(http_door_t *door)
{
    pthread_mutex_lock(&door->http->lock);
    attn_fd_close(&door->listen_fd);
    door->paused = false;
    pthread_mutex_unlock(&door->http->lock);
}

void http_accept(http_door_t *door)
{
    for (int i = 0; i < SERIES && door->listen_fd >= 0; i++) {
        if (open_connections(door) >= http_connections_max(door)) {
            listening_set(door, false); /* the others wait in the backlog */
            return;
        }
        http_guest_t guest = {.size = sizeof guest.address};
        guest.fd =
            accept4(door->listen_fd, (struct sockaddr *)&guest.address, &guest.size, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (guest.fd < 0) {
            if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
                listening_set(door, false);
            }
            return; /* EAGAIN; or one that has gone again, and the next event tells of others */
        }
        http_loop_give(idlest(door, (const struct sockaddr *)&guest.address), &guest);
    }
}

void http_accept_again(http_door_t *door)
{
    if (door->paused && open_connections(door) < http_connections_max(door)) {
        listening_set(door, true);
    }
}
