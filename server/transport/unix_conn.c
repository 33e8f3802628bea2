/* transport/unix_conn.c: connections of the Unix socket's door and the packets on them. The door's thread; sending also
 * from the scheduler's, under conn->lock. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "transport/unix_internal.h"

/* Packets of one connection per turn of the loop, so that none has to wait for another's flood. */
enum { PACKETS_AT_ONCE = 16, ACCEPTS_AT_ONCE = 16, HANG_UP_PACKETS = 1024 };

void unix_conn_mail(unix_conn_t *conn)
{
    attn_unix_t *door = conn->door;
    if (!atomic_exchange(&conn->mailed, true)) {
        pthread_mutex_lock(&door->mail_lock);
        conn->next_mail = door->mail;
        door->mail = conn;
        pthread_mutex_unlock(&door->mail_lock);
        attn_fd_bell_ring(door->wake);
    }
}

/* ---- sending ---- */

static bool packet_send(int fd, const void *data, size_t bytes, const int *fds, uint32_t fd_count)
{
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(UNIX_FDS_MAX * sizeof(int))];
    } control = {0};
    struct iovec part = {(void *)(uintptr_t)data, bytes};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (fd_count > 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
        struct cmsghdr *head = CMSG_FIRSTHDR(&message);
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(fd_count * sizeof(int));
        memcpy(CMSG_DATA(head), fds, fd_count * sizeof(int));
    }
    ssize_t sent;
    do {
        sent = sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    /* A client that is gone has had its answer; its end is seen by the door's thread. */
    return sent >= 0 || (errno != EAGAIN && errno != ENOBUFS && errno != ENOMEM && errno != ETOOMANYREFS);
}

static size_t pack(const Attn__V1__SocketAnswer *answer, unsigned char data[UNIX_ANSWER_BYTES])
{
    size_t bytes = attn__v1__socket_answer__get_packed_size(answer);
    return bytes <= UNIX_ANSWER_BYTES ? attn__v1__socket_answer__pack(answer, data) : 0;
}

bool unix_conn_send(unix_conn_t *conn, const Attn__V1__SocketAnswer *answer, const int *fds, uint32_t fd_count)
{
    unsigned char data[UNIX_ANSWER_BYTES];
    if (conn->shut) {
        return true;
    }
    return packet_send(conn->fd, data, pack(answer, data), fds, fd_count);
}

static void watch_writing(unix_conn_t *conn, bool on)
{
    struct epoll_event event = {.events = on ? EPOLLOUT : EPOLLIN, .data.ptr = conn};
    epoll_ctl(conn->door->epoll, EPOLL_CTL_MOD, conn->fd, &event);
}

static void pending_free(unix_conn_t *conn)
{
    if (conn->pending != NULL) {
        for (uint32_t i = 0; i < conn->pending->fd_count; i++) {
            attn_fd_close(&conn->pending->fds[i]);
        }
        free(conn->pending);
        conn->pending = NULL;
    }
}

void unix_conn_answer(unix_conn_t *conn, const Attn__V1__SocketAnswer *answer, const int *fds, uint32_t fd_count)
{
    pthread_mutex_lock(&conn->lock);
    bool sent = conn->pending == NULL && unix_conn_send(conn, answer, fds, fd_count);
    bool lost = false;
    if (!sent && conn->pending != NULL) {
        lost = true; /* answers that come by themselves (a region's) while the client reads none */
    } else if (!sent) {
        conn->pending = calloc(1, sizeof *conn->pending);
        lost = conn->pending == NULL;
        if (!lost) {
            conn->pending->bytes = pack(answer, conn->pending->data);
            for (uint32_t i = 0; i < fd_count; i++) {
                conn->pending->fds[i] = attn_fd_raise(dup(fds[i]));
            }
            conn->pending->fd_count = fd_count;
            watch_writing(conn, true);
        }
    }
    pthread_mutex_unlock(&conn->lock);
    if (lost) {
        unix_conn_close(conn, "it does not read its answers");
    }
}

void unix_conn_refuse(unix_conn_t *conn, uint64_t tag, const attn_error_t *err)
{
    Attn__V1__SocketAnswer answer = ATTN__V1__SOCKET_ANSWER__INIT;
    Attn__V1__Error error = ATTN__V1__ERROR__INIT;
    error.error = (char *)(uintptr_t)err->message;
    error.code = (char *)(uintptr_t)attn_status_name(err->status);
    error.retryable = attn_status_retryable(err->status);
    answer.tag = tag;
    answer.what_case = ATTN__V1__SOCKET_ANSWER__WHAT_ERROR;
    answer.error = &error;
    unix_conn_answer(conn, &answer, NULL, 0);
}

void unix_conn_flush(unix_conn_t *conn)
{
    pthread_mutex_lock(&conn->lock);
    bool full = false;
    if (conn->pending != NULL) {
        const unix_pending_t *pending = conn->pending;
        full = !conn->shut && !packet_send(conn->fd, pending->data, pending->bytes, pending->fds, pending->fd_count);
        if (!full) {
            pending_free(conn);
        }
    }
    while (!full && conn->unsent_first != NULL) {
        unix_run_t *run = conn->unsent_first;
        full = !unix_run_send(run);
        if (!full) {
            conn->unsent_first = run->next;
            unix_run_put(run);
        }
    }
    if (!conn->shut) {
        watch_writing(conn, full);
    }
    pthread_mutex_unlock(&conn->lock);
    unix_region_look(conn);
}

/* ---- receiving ---- */

typedef struct packet {
    ssize_t bytes;
    int fds[UNIX_FDS_MAX];
    uint32_t fd_count;
    bool cut; /* it was longer, or had more descriptors */
} packet_t;

static packet_t packet_receive(unix_conn_t *conn)
{
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(UNIX_FDS_MAX * sizeof(int))];
    } control;
    attn_unix_t *door = conn->door;
    packet_t packet = {0};
    struct iovec part = {door->message, sizeof door->message};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    packet.bytes = recvmsg(conn->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (packet.bytes < 0) {
        return packet;
    }
    for (struct cmsghdr *head = CMSG_FIRSTHDR(&message); head != NULL; head = CMSG_NXTHDR(&message, head)) {
        if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        uint32_t count = (uint32_t)((head->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        for (uint32_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(head) + i * sizeof fd, sizeof fd);
            if (packet.fd_count < UNIX_FDS_MAX) {
                packet.fds[packet.fd_count++] = attn_fd_raise(fd);
            } else {
                attn_fd_close(&fd);
                packet.cut = true;
            }
        }
    }
    packet.cut = packet.cut || (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0;
    return packet;
}

static void refuse_and_close(unix_conn_t *conn, const attn_error_t *err)
{
    unix_conn_refuse(conn, 0, err);
    unix_conn_close(conn, err->message);
}

void unix_conn_read(unix_conn_t *conn)
{
    attn_error_t err;
    for (int i = 0; i < PACKETS_AT_ONCE && !conn->closing && conn->pending == NULL; i++) {
        packet_t packet = packet_receive(conn);
        if (packet.bytes < 0 && (errno == EAGAIN || errno == EINTR)) {
            return;
        }
        if (packet.bytes <= 0) {
            unix_conn_close(conn, NULL);
        } else if (packet.cut || (size_t)packet.bytes > UNIX_MESSAGE_BYTES) {
            attn_error_set(&err, ATTN_ERR_TOO_LARGE,
                           "a packet is too large, or has too many descriptors: send at most %u bytes and one "
                           "descriptor",
                           UNIX_MESSAGE_BYTES);
            refuse_and_close(conn, &err);
        } else {
            unix_message_handle(conn, conn->door->message, (size_t)packet.bytes, packet.fds, packet.fd_count);
        }
        for (uint32_t n = 0; n < packet.fd_count; n++) {
            attn_fd_close(&packet.fds[n]);
        }
    }
}

/* ---- beginning and end ---- */

/* Nothing is taken any more. What lies unread is thrown away: closed with it, the socket would give the client an error
 * before the last answer. */
static void hang_up(int fd)
{
    char byte;
    shutdown(fd, SHUT_RDWR);
    for (int i = 0; i < HANG_UP_PACKETS && recv(fd, &byte, sizeof byte, MSG_DONTWAIT) > 0; i++) {
    }
}

static void turn_away(int fd, const attn_error_t *err)
{
    unsigned char data[UNIX_ANSWER_BYTES];
    Attn__V1__SocketAnswer answer = ATTN__V1__SOCKET_ANSWER__INIT;
    Attn__V1__Error error = ATTN__V1__ERROR__INIT;
    error.error = (char *)(uintptr_t)err->message;
    error.code = (char *)(uintptr_t)attn_status_name(err->status);
    error.retryable = attn_status_retryable(err->status);
    answer.what_case = ATTN__V1__SOCKET_ANSWER__WHAT_ERROR;
    answer.error = &error;
    packet_send(fd, data, pack(&answer, data), NULL, 0);
    hang_up(fd);
    close(fd);
}

static attn_status_t conn_open(attn_unix_t *door, int fd, attn_error_t *err)
{
    struct ucred peer = {0};
    socklen_t bytes = sizeof peer;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) != 0 ||
        !unix_peer_allowed(door->front->options, fd, peer.uid, peer.gid)) {
        return attn_error_set(err, ATTN_ERR_PERMISSION,
                              "user %u with group %u may not use this socket; --socket-users and --socket-groups say "
                              "who may",
                              peer.uid, peer.gid);
    }
    if (atomic_load(&door->refusing)) {
        return attn_error_set(err, ATTN_ERR_UNAVAILABLE, "the daemon is shutting down");
    }
    if (atomic_load(&door->conn_count) >= door->connections_max) {
        return attn_error_set(err, ATTN_ERR_UNAVAILABLE, "%u connections are open already; try again later",
                              door->connections_max);
    }
    unix_conn_t *conn = calloc(1, sizeof *conn);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = conn};
    if (conn == NULL || epoll_ctl(door->epoll, EPOLL_CTL_ADD, fd, &event) != 0) {
        free(conn);
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for a connection");
    }
    conn->door = door;
    conn->fd = fd;
    conn->number = ++door->accepted;
    conn->pid = peer.pid;
    conn->uid = peer.uid;
    conn->accepted_ns = attn_clock_ns();
    pthread_mutex_init(&conn->lock, NULL);
    conn->next = door->conns;
    if (door->conns != NULL) {
        door->conns->prev = conn;
    }
    door->conns = conn;
    atomic_fetch_add(&door->conn_count, 1);
    return ATTN_OK;
}

static void turn_away_without_room(int fd)
{
    attn_error_t err;
    attn_error_set(&err, ATTN_ERR_UNAVAILABLE, "the daemon has no descriptors left; try again later");
    turn_away(fd, &err);
}

/* A connection that cannot be accepted would wake the loop for ever. */
static void accept_without_room(attn_unix_t *door)
{
    attn_fd_close(&door->spare);
    int fd = accept4(door->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0) {
        turn_away_without_room(fd);
    }
    door->spare = attn_fd_raise(open("/dev/null", O_RDONLY | O_CLOEXEC));
}

void unix_conn_accept(attn_unix_t *door)
{
    for (int i = 0; i < ACCEPTS_AT_ONCE; i++) {
        int fd = accept4(door->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        attn_error_t err;
        if (fd < 0) {
            if (errno == EMFILE || errno == ENFILE) {
                accept_without_room(door);
            }
            return;
        }
        if (!attn_fd_raise_in_place(&fd)) {
            turn_away_without_room(fd);
        } else if (conn_open(door, fd, &err) != ATTN_OK) {
            turn_away(fd, &err);
        }
    }
}

void unix_conn_close(unix_conn_t *conn, const char *why)
{
    if (conn->closing) {
        return;
    }
    conn->closing = true;
    ATTN_LOG(why != NULL ? ATTN_LOG_WARN : ATTN_LOG_INFO, "socket connection ends",
             attn_log_integer("connection", (int64_t)conn->number), attn_log_integer("pid", conn->pid),
             attn_log_integer("uid", conn->uid), attn_log_text("client", conn->client),
             attn_log_integer("submissions", (int64_t)conn->submissions), attn_log_text("why", why));
    epoll_ctl(conn->door->epoll, EPOLL_CTL_DEL, conn->fd, NULL);
    hang_up(conn->fd);
    pthread_mutex_lock(&conn->lock);
    conn->shut = true;
    pending_free(conn);
    pthread_mutex_unlock(&conn->lock);
    unix_conn_flush(conn); /* frees what was to be sent */
    unix_run_cancel_all(conn);
    unix_region_release_all(conn);
    unix_conn_mail(conn);
}

bool unix_conn_reap(unix_conn_t *conn)
{
    if (!conn->closing || conn->region_count > 0) {
        return false;
    }
    /* The last callback of a request mails under this lock. */
    pthread_mutex_lock(&conn->lock);
    bool idle = conn->flying == 0;
    pthread_mutex_unlock(&conn->lock);
    if (!idle || atomic_load(&conn->mailed)) {
        return false;
    }
    attn_unix_t *door = conn->door;
    if (conn->prev != NULL) {
        conn->prev->next = conn->next;
    } else {
        door->conns = conn->next;
    }
    if (conn->next != NULL) {
        conn->next->prev = conn->prev;
    }
    unix_ring_close(conn);
    unix_run_free_all(conn);
    attn_fd_close(&conn->fd);
    pthread_mutex_destroy(&conn->lock);
    free(conn);
    atomic_fetch_sub(&door->conn_count, 1);
    return true;
}
