/* transport/http_direct.c: connections that a loop reads and writes itself, for as long as they bring nothing but
 * requests with tensors in the plainest form (http_plain.c). The loop's thread; owns their sockets.
 *
 * libmicrohttpd reads into a buffer of the connection, from which a body is copied to its place, and clears the buffer
 * after each request. Here a body goes from the socket to its place. A head is looked at before it is taken, so that
 * any other one is still there for libmicrohttpd to read, to which the connection then belongs. */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "transport/http_internal.h"

#define EVENTS 64
#define STEP_BYTES (UINT64_C(512) << 10) /* of one body, before others are looked at */
#define DISCARDED_AT_ONCE (16u * 1024u)

typedef enum stage {
    STAGE_HEAD, /* no request is under way */
    STAGE_BODY,
    STAGE_PARKED, /* whoever answers calls http_direct_resume() */
    STAGE_SENDING
} stage_t;

struct http_direct {
    http_conn_t *conn;
    http_guest_t guest;
    attn_http_call_t *call;
    stage_t stage;
    bool unfinished, watches_room; /* unfinished: in the list */
    http_direct_t *before, *after, *next_unfinished, *next_resumed;
    http_plain_t plain;
    char head[HTTP_PLAIN_BYTES + 1];
    size_t seen; /* bytes that were looked at and made use of, and are still to be taken from the socket */

    char answer_head[HTTP_ANSWER_HEAD_MAX];
    struct iovec answer[2 + HTTP_PARTS_MAX];
    uint32_t answer_next, answer_count;
    bool closes;
};

typedef enum verdict {
    AGAIN, /* a step was made, and another may follow */
    WAIT,  /* for the socket, or for the answer */
    LATER, /* others' turn */
    OVER,
    HAND_OVER
} verdict_t;

static verdict_t of_error(void)
{
    return errno == EAGAIN || errno == EWOULDBLOCK ? WAIT : errno == EINTR ? AGAIN : OVER;
}

static verdict_t of_result(enum MHD_Result result)
{
    return result == MHD_YES ? AGAIN : OVER;
}

/* ---- opening and closing ---- */

static void unlink_direct(http_loop_t *loop, http_direct_t *direct)
{
    http_direct_t **at = &loop->unfinished;
    while (direct->unfinished && *at != direct) {
        at = &(*at)->next_unfinished;
    }
    if (direct->unfinished) {
        *at = direct->next_unfinished;
    }
    if (direct->before != NULL) {
        direct->before->after = direct->after;
    } else {
        loop->open = direct->after;
    }
    if (direct->after != NULL) {
        direct->after->before = direct->before;
    }
}

/* The descriptor stays open. */
static void let_go(http_loop_t *loop, http_direct_t *direct)
{
    unlink_direct(loop, direct);
    epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, direct->guest.fd, NULL);
    http_conn_close(direct->conn);
    free(direct);
}

static void end(http_loop_t *loop, http_direct_t *direct)
{
    const int fd = direct->guest.fd;
    if (direct->call != NULL) {
        http_call_end(direct->call, false);
    }
    http_loop_left(loop, (const struct sockaddr *)&direct->guest.address);
    let_go(loop, direct);
    close(fd);
}

static void hand_over(http_loop_t *loop, http_direct_t *direct)
{
    const http_guest_t guest = direct->guest;
    let_go(loop, direct);
    http_loop_hand(loop, &guest);
}

void http_direct_open(http_loop_t *loop, const http_guest_t *guest)
{
    const struct sockaddr *address = (const struct sockaddr *)&guest->address;
    const int one = 1;
    http_direct_t *direct = calloc(1, sizeof *direct);
    http_conn_t *conn = NULL;
    if (direct != NULL && http_on_connect(loop, address, guest->size) == MHD_YES) {
        conn = http_conn_open(loop, guest->fd, address);
    }
    if (conn == NULL) {
        free(direct);
        close(guest->fd);
        http_loop_left(loop, address);
        return;
    }
    direct->conn = conn;
    direct->guest = *guest;
    pthread_mutex_lock(&conn->lock);
    conn->direct = direct;
    pthread_mutex_unlock(&conn->lock);
    direct->after = loop->open;
    if (loop->open != NULL) {
        loop->open->before = direct;
    }
    loop->open = direct;
    setsockopt(guest->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.ptr = direct};
    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, guest->fd, &event) != 0) {
        end(loop, direct);
    }
}

void http_direct_close_all(http_loop_t *loop)
{
    while (loop->open != NULL) {
        end(loop, loop->open);
    }
}

/* ---- steps ---- */

const char *http_direct_header(const http_direct_t *direct, const char *name)
{
    for (uint32_t i = 0; i < direct->plain.header_count; i++) {
        if (strcasecmp(direct->plain.headers[i].name, name) == 0) {
            return direct->plain.headers[i].value;
        }
    }
    return NULL;
}

static verdict_t head_step(http_direct_t *direct)
{
    const int fd = direct->guest.fd;
    if (atomic_load(&direct->conn->door->http->closed)) {
        return OVER; /* what the handlers use is about to end */
    }
    ssize_t seen = recv(fd, direct->head, HTTP_PLAIN_BYTES, MSG_PEEK);
    if (seen <= 0) {
        return seen < 0 ? of_error() : OVER;
    }
    if (!http_plain_read(direct->head, (size_t)seen, &direct->plain)) {
        return HAND_OVER;
    }
    const http_plain_t *plain = &direct->plain;
    attn_http_call_t *call = direct->call = http_call_begin(direct->conn, plain->uri);
    if (call == NULL || call->uri == NULL) {
        return OVER;
    }
    call->body_bytes = plain->body_bytes;
    direct->stage = STAGE_BODY;
    enum MHD_Result result = http_call_head(call, "POST", "HTTP/1.1");
    const size_t more = (size_t)seen - plain->bytes;
    size_t fed = more < plain->body_bytes ? more : (size_t)plain->body_bytes;
    fed = http_turn_take(&direct->conn->loop->turns, call, call->arrived_ns) ? fed : 0;
    if (result == MHD_YES && fed > 0) {
        result = http_call_feed(call, direct->head + plain->bytes, fed);
    }
    direct->seen = plain->bytes + fed;
    return of_result(result);
}

/* The handler has run, or somebody has answered: what is next? */
static verdict_t go_on(http_direct_t *direct)
{
    direct->stage = STAGE_PARKED;
    return of_result(http_call_go_on(direct->call)); /* http_direct_answer() makes it SENDING */
}

static verdict_t body_step(http_direct_t *direct, uint64_t *room_left)
{
    attn_http_call_t *call = direct->call;
    const uint64_t left = call->body_bytes - atomic_load_explicit(&call->received, memory_order_relaxed);
    if (left == 0 && direct->seen == 0) {
        return go_on(direct);
    }
    if (call->turn == HTTP_TURN_WAITS) {
        return WAIT;
    }
    if (*room_left == 0) {
        return LATER;
    }
    /* What was seen comes once more in front. */
    char again[HTTP_PLAIN_BYTES], discarded[DISCARDED_AT_ONCE];
    struct iovec vector[2 + ATTN_INTAKE_SEGMENTS] = {{again, direct->seen}}, *const room = vector + 1;
    pthread_mutex_lock(&call->conn->lock);
    bool cut = call->phase == HTTP_CUT, refused = call->refused;
    pthread_mutex_unlock(&call->conn->lock);
    if (cut) {
        return OVER;
    }
    int count = refused ? 0 : (int)attn_intake_room(&call->intake, room, 1 + ATTN_INTAKE_SEGMENTS);
    const bool placed = count > 0;
    if (!placed && left > 0) {
        room[0] = (struct iovec){discarded, left < sizeof discarded ? (size_t)left : sizeof discarded};
        count = 1;
    }
    const ssize_t got = readv(direct->guest.fd, vector, 1 + count);
    if (got <= 0) {
        return got < 0 ? of_error() : OVER;
    }
    const size_t known = (size_t)got < direct->seen ? (size_t)got : direct->seen, bytes = (size_t)got - known;
    direct->seen -= known;
    *room_left -= bytes < *room_left ? bytes : *room_left;
    if (bytes == 0) {
        return AGAIN;
    }
    return of_result(placed ? http_call_filled(call, bytes) : http_call_feed(call, discarded, bytes));
}

enum MHD_Result http_direct_answer(attn_http_call_t *call)
{
    http_direct_t *direct = call->conn->direct;
    const http_reply_t *reply = &call->reply;
    direct->closes = atomic_load(&call->door->http->draining);
    direct->answer_next = 0;
    direct->answer_count = 1;
    direct->answer[0].iov_base = direct->answer_head;
    direct->answer[0].iov_len = http_reply_head(call, call->sent_bytes, direct->closes, direct->answer_head);
    if (reply->bytes > 0) {
        direct->answer[direct->answer_count++] = (struct iovec){reply->data, reply->bytes};
    }
    for (uint32_t i = 0; i < reply->part_count; i++) {
        direct->answer[direct->answer_count++] =
            (struct iovec){(void *)(uintptr_t)reply->parts[i].data, (size_t)reply->parts[i].bytes};
    }
    direct->stage = STAGE_SENDING;
    return MHD_YES;
}

/* Edges of room to send are asked for from the first answer on that does not fit: each costs a look. */
static verdict_t room_wait(http_direct_t *direct)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = direct};
    if (!direct->watches_room &&
        epoll_ctl(direct->conn->loop->epoll_fd, EPOLL_CTL_MOD, direct->guest.fd, &event) != 0) {
        return OVER;
    }
    direct->watches_room = true;
    return WAIT;
}

static verdict_t send_step(http_direct_t *direct)
{
    struct msghdr message = {.msg_iov = direct->answer + direct->answer_next,
                             .msg_iovlen = direct->answer_count - direct->answer_next};
    ssize_t sent = sendmsg(direct->guest.fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0) {
        verdict_t verdict = of_error();
        return verdict == WAIT ? room_wait(direct) : verdict;
    }
    for (size_t left = (size_t)sent; direct->answer_next < direct->answer_count; direct->answer_next++) {
        struct iovec *part = &direct->answer[direct->answer_next];
        if (left < part->iov_len) {
            part->iov_base = (char *)part->iov_base + left;
            part->iov_len -= left;
            return AGAIN;
        }
        left -= part->iov_len;
    }
    http_call_end(direct->call, true);
    direct->call = NULL;
    direct->stage = STAGE_HEAD;
    return direct->closes ? OVER : AGAIN;
}

/* ---- the loop ---- */

void http_direct_continue(http_direct_t *direct)
{
    http_loop_t *loop = direct->conn->loop;
    if (!direct->unfinished) {
        direct->unfinished = true;
        direct->next_unfinished = loop->unfinished;
        loop->unfinished = direct;
    }
}

static void step(http_loop_t *loop, http_direct_t *direct)
{
    uint64_t room_left = STEP_BYTES;
    verdict_t verdict = AGAIN;
    loop->events++;
    while (verdict == AGAIN) {
        switch (direct->stage) {
        case STAGE_HEAD:
            verdict = head_step(direct);
            break;
        case STAGE_BODY:
            verdict = body_step(direct, &room_left);
            break;
        case STAGE_PARKED:
            verdict = WAIT;
            break;
        case STAGE_SENDING:
            verdict = send_step(direct);
        }
    }
    if (verdict == LATER) {
        http_direct_continue(direct);
    } else if (verdict == OVER) {
        end(loop, direct);
    } else if (verdict == HAND_OVER) {
        hand_over(loop, direct);
    }
}

void http_direct_resume(http_direct_t *direct)
{
    http_loop_t *loop = direct->conn->loop;
    direct->next_resumed = atomic_load_explicit(&loop->resumed, memory_order_relaxed);
    while (!atomic_compare_exchange_weak(&loop->resumed, &direct->next_resumed, direct)) {
    }
}

static void resumed_run(http_loop_t *loop)
{
    if (atomic_load(&loop->resumed) == NULL) {
        return;
    }
    http_direct_t *next, *direct = atomic_exchange(&loop->resumed, NULL);
    for (; direct != NULL; direct = next) {
        next = direct->next_resumed;
        if (go_on(direct) == OVER) {
            end(loop, direct);
        } else {
            step(loop, direct);
        }
    }
}

static void unfinished_run(http_loop_t *loop)
{
    http_direct_t *next, *direct = loop->unfinished;
    loop->unfinished = NULL; /* those that have still not finished come back, for the next time */
    for (; direct != NULL; direct = next) {
        next = direct->next_unfinished;
        direct->unfinished = false;
        step(loop, direct);
    }
}

bool http_direct_run(http_loop_t *loop, bool *ret_mhd, bool *ret_busy)
{
    struct epoll_event events[EVENTS];
    const uint64_t before = loop->events;
    resumed_run(loop);
    unfinished_run(loop);
    int count = epoll_wait(loop->epoll_fd, events, EVENTS, 0);
    for (int i = 0; i < count; i++) {
        if (events[i].data.ptr == NULL) {
            *ret_mhd = true;
        } else {
            step(loop, events[i].data.ptr);
        }
    }
    *ret_busy = loop->events != before;
    return count == EVENTS || loop->unfinished != NULL;
}
