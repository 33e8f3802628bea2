/* conn.c: one HTTP/1.1 connection: sending a call, reading its answer. One thread at a time; owns the socket and the
 * head buffer. */
#include "conn.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "conn_head.h"
#include "socket.h"

#define HEAD_MAX 16384
#define IOV_MAX_USED 16
#define LOOK_EVERY (UINT64_C(4) << 20) /* bytes sent between looks for an early answer: 1 ms of a fast loopback */

struct attn_conn {
    int fd;
    char authority[300]; /* what Host says */
    bool sent_all;       /* of the last call */
    bool answered;       /* at least one byte of the last answer came */
    bool keep_alive, failed;
    uint64_t remaining; /* bytes of the answer's body that the caller has not read */
    uint64_t body_total;
    size_t buffered, taken; /* bytes in head[], and how many of them have been used */
    char head[HEAD_MAX];
};

attn_status_t attn_conn_connect(const attn_endpoint_t *endpoint, const attn_conn_options_t *options, attn_conn_t **ret,
                                attn_error_t *err)
{
    attn_conn_t *conn = malloc(sizeof(*conn)); /* head[] needs no clearing */
    if (conn == NULL) {
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for a connection");
    }
    memset(conn, 0, offsetof(attn_conn_t, head));
    attn_status_t status = attn_socket_connect(endpoint, options->connect_timeout_ms, &conn->fd, err);
    if (status != ATTN_OK) {
        free(conn);
        return status;
    }
    bool bracket = strchr(endpoint->host, ':') != NULL;
    snprintf(conn->authority, sizeof(conn->authority), "%s%s%s:%s", bracket ? "[" : "", endpoint->host,
             bracket ? "]" : "", endpoint->port);
    *ret = conn;
    return ATTN_OK;
}

void attn_conn_close(attn_conn_t *conn)
{
    if (conn == NULL) {
        return;
    }
    close(conn->fd);
    free(conn);
}

bool attn_conn_unanswered(const attn_conn_t *conn)
{
    return conn->failed && !conn->answered;
}

uint64_t attn_conn_remaining(const attn_conn_t *conn)
{
    return conn->remaining;
}

bool attn_conn_reusable(const attn_conn_t *conn)
{
    return !conn->failed && conn->sent_all && conn->keep_alive && conn->remaining == 0 && conn->taken == conn->buffered;
}

static attn_status_t connection_lost(const char *when, int code, attn_error_t *err)
{
    return attn_error_set(err, ATTN_ERR_CONNECTION, "the server closed the connection %s%s%s", when,
                          code != 0 ? ": " : "", code != 0 ? strerror(code) : "");
}

static attn_status_t call_text(const attn_conn_t *conn, const attn_conn_call_t *call, uint64_t body_size,
                               char *ret_text, size_t capacity, size_t *ret_size, attn_error_t *err)
{
    char length[40] = "";
    if (call->content_type != NULL) {
        snprintf(length, sizeof(length), "Content-Length: %llu\r\n", (unsigned long long)body_size);
    }
    int size = snprintf(
        ret_text, capacity, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: libattn/" ATTND_VERSION "\r\n%s%s%s%s%s%s%s\r\n",
        call->method, call->target, conn->authority, call->accept != NULL ? "Accept: " : "",
        call->accept != NULL ? call->accept : "", call->accept != NULL ? "\r\n" : "",
        call->content_type != NULL ? "Content-Type: " : "", call->content_type != NULL ? call->content_type : "",
        call->content_type != NULL ? "\r\n" : "", length);
    if (size < 0 || (size_t)size >= capacity) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "the request's path and query are %zu bytes too long for one request line",
                              (size_t)size - capacity + 1);
    }
    *ret_size = (size_t)size;
    return ATTN_OK;
}

/* Where sending stands: the request's head, then the body's pieces. */
typedef struct cursor {
    const char *text;
    size_t text_size;
    const struct iovec *body;
    size_t body_count;
    size_t skip; /* bytes of body[0] that are sent */
} cursor_t;

static size_t cursor_window(const cursor_t *cursor, struct iovec *window)
{
    size_t count = 0;
    if (cursor->text_size > 0) {
        window[count++] = (struct iovec){(void *)(uintptr_t)cursor->text, cursor->text_size};
    }
    for (size_t i = 0; i < cursor->body_count && count < IOV_MAX_USED; i++) {
        size_t skip = i == 0 ? cursor->skip : 0;
        if (cursor->body[i].iov_len > skip) {
            window[count++] = (struct iovec){(char *)cursor->body[i].iov_base + skip, cursor->body[i].iov_len - skip};
        }
    }
    return count;
}

static void cursor_advance(cursor_t *cursor, size_t bytes)
{
    size_t of_text = bytes < cursor->text_size ? bytes : cursor->text_size;
    cursor->text += of_text;
    cursor->text_size -= of_text;
    bytes -= of_text;
    while (cursor->body_count > 0 && bytes >= cursor->body[0].iov_len - cursor->skip) {
        bytes -= cursor->body[0].iov_len - cursor->skip;
        cursor->skip = 0;
        cursor->body++;
        cursor->body_count--;
    }
    cursor->skip += bytes;
}

static bool answer_waits(const attn_conn_t *conn)
{
    struct pollfd poll_fd = {.fd = conn->fd, .events = POLLIN};
    return poll(&poll_fd, 1, 0) > 0;
}

/* Sends head and body. Stops early, without an error, when the server answers or closes before it has everything:
 * what it says then is in the answer. */
static attn_status_t call_send(attn_conn_t *conn, cursor_t *cursor, attn_wait_t *wait,
                               const attn_conn_options_t *options, attn_error_t *err)
{
    struct iovec window[IOV_MAX_USED];
    uint64_t text_left = cursor->text_size, look_at = LOOK_EVERY;
    for (;;) {
        size_t count = cursor_window(cursor, window);
        if (count == 0) {
            conn->sent_all = true;
            return ATTN_OK;
        }
        struct msghdr message = {.msg_iov = window, .msg_iovlen = count};
        ssize_t sent = sendmsg(conn->fd, &message, MSG_NOSIGNAL);
        if (sent > 0) {
            uint64_t of_text = (uint64_t)sent < text_left ? (uint64_t)sent : text_left;
            text_left -= of_text;
            wait->done += (uint64_t)sent - of_text;
            cursor_advance(cursor, (size_t)sent);
            attn_status_t status = attn_progress_tell(wait, options, err);
            if (status != ATTN_OK) {
                return status;
            }
            if (wait->done >= look_at) {
                look_at = wait->done + LOOK_EVERY;
                if (answer_waits(conn)) {
                    conn->sent_all = wait->done == wait->total;
                    return ATTN_OK;
                }
            }
            continue;
        }
        if (sent < 0 && (errno == EPIPE || errno == ECONNRESET)) {
            return ATTN_OK; /* an answer may still lie in the receive buffer */
        }
        if (sent < 0 && errno != EAGAIN && errno != EINTR) {
            return connection_lost("while the request was sent", errno, err);
        }
        short events = 0;
        attn_status_t status = attn_socket_wait(conn->fd, POLLIN | POLLOUT, wait, options, &events, err);
        if (status != ATTN_OK) {
            return status;
        }
        if ((events & (POLLIN | POLLHUP | POLLERR)) != 0) {
            return ATTN_OK;
        }
    }
}

/* Bytes of the head that ends within head[0..size); 0 when it is not complete. A line may end in a bare LF. */
static size_t head_end(const char *head, size_t size)
{
    for (size_t i = 0; i + 1 < size; i++) {
        if (head[i] == '\n' && (head[i + 1] == '\n' || (i + 2 < size && head[i + 1] == '\r' && head[i + 2] == '\n'))) {
            return head[i + 1] == '\n' ? i + 2 : i + 3;
        }
    }
    return 0;
}

/* Receives until head[] holds a whole head, and gives its size. */
static attn_status_t head_receive(attn_conn_t *conn, attn_wait_t *wait, const attn_conn_options_t *options,
                                  size_t *ret_size, attn_error_t *err)
{
    for (;;) {
        size_t size = head_end(conn->head + conn->taken, conn->buffered - conn->taken);
        if (size > 0) {
            *ret_size = size;
            return ATTN_OK;
        }
        if (conn->buffered == sizeof(conn->head)) {
            return attn_error_set(err, ATTN_ERR_INTERNAL, "the server's answer has a head of more than %d bytes",
                                  HEAD_MAX);
        }
        ssize_t got = recv(conn->fd, conn->head + conn->buffered, sizeof(conn->head) - conn->buffered, 0);
        if (got > 0) {
            conn->answered = true;
            conn->buffered += (size_t)got;
            wait->timeout_ms = options->stall_timeout_ms;
            continue;
        }
        if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
            const char *when = conn->answered    ? "in the middle of the answer's head"
                               : !conn->sent_all ? "before it had the whole request"
                                                 : "without an answer";
            return connection_lost(when, got == 0 ? 0 : errno, err);
        }
        short events = 0;
        attn_status_t status = attn_socket_wait(conn->fd, POLLIN, wait, options, &events, err);
        if (status != ATTN_OK) {
            return status;
        }
    }
}

static attn_status_t answer_head(attn_conn_t *conn, uint64_t sent, const attn_conn_options_t *options,
                                 attn_conn_head_t *ret, attn_error_t *err)
{
    attn_wait_t wait = {ATTN_CONN_WAITING, sent, sent, options->answer_timeout_ms};
    attn_conn_head_t head;
    do { /* 1xx answers come before the real one */
        size_t size = 0;
        attn_status_t status = head_receive(conn, &wait, options, &size, err);
        if (status != ATTN_OK) {
            return status;
        }
        status = attn_conn_head_parse(conn->head + conn->taken, size, &head, &conn->keep_alive, err);
        if (status != ATTN_OK) {
            return status;
        }
        conn->taken += size;
    } while (head.status < 200);
    conn->remaining = conn->body_total = head.content_length;
    *ret = head;
    return ATTN_OK;
}

attn_status_t attn_conn_exchange(attn_conn_t *conn, const attn_conn_call_t *call, const attn_conn_options_t *options,
                                 attn_conn_head_t *ret, attn_error_t *err)
{
    char text[4096];
    size_t text_size = 0;
    uint64_t body_size = 0;
    conn->failed = true;
    conn->answered = conn->sent_all = false;
    conn->buffered = conn->taken = 0;
    for (size_t i = 0; i < call->body_count; i++) {
        body_size += call->body[i].iov_len;
    }
    attn_status_t status = call_text(conn, call, body_size, text, sizeof(text), &text_size, err);
    if (status != ATTN_OK) {
        return status;
    }
    cursor_t cursor = {text, text_size, call->body, call->body_count, 0};
    attn_wait_t wait = {ATTN_CONN_SENDING, 0, body_size, options->stall_timeout_ms};
    status = call_send(conn, &cursor, &wait, options, err);
    if (status != ATTN_OK) {
        return status;
    }
    status = answer_head(conn, wait.done, options, ret, err);
    conn->failed = status != ATTN_OK;
    return status;
}

attn_status_t attn_conn_read(attn_conn_t *conn, void *ret_data, uint64_t size, const attn_conn_options_t *options,
                             attn_error_t *err)
{
    if (size > conn->remaining) {
        conn->failed = true;
        return attn_error_set(err, ATTN_ERR_INTERNAL,
                              "the server's answer ends after %llu bytes; %llu more were expected",
                              (unsigned long long)conn->body_total, (unsigned long long)(size - conn->remaining));
    }
    char *to = ret_data;
    uint64_t ready = conn->buffered - conn->taken;
    if (ready > size) {
        ready = size;
    }
    if (ready > 0) {
        memcpy(to, conn->head + conn->taken, ready);
        conn->taken += ready;
        conn->remaining -= ready;
        size -= ready;
        to += ready;
    }
    attn_wait_t wait = {ATTN_CONN_RECEIVING, 0, conn->body_total, options->stall_timeout_ms};
    attn_status_t status = ATTN_OK;
    while (size > 0 && status == ATTN_OK) {
        ssize_t got = recv(conn->fd, to, size < (1u << 30) ? size : (1u << 30), 0);
        if (got > 0) {
            size -= (uint64_t)got;
            to += got;
            conn->remaining -= (uint64_t)got;
            wait.done = conn->body_total - conn->remaining;
            status = attn_progress_tell(&wait, options, err);
        } else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
            char when[80];
            snprintf(when, sizeof(when), "after %llu of %llu bytes of its answer",
                     (unsigned long long)(conn->body_total - conn->remaining), (unsigned long long)conn->body_total);
            status = connection_lost(when, got == 0 ? 0 : errno, err);
        } else {
            short events = 0;
            wait.done = conn->body_total - conn->remaining;
            status = attn_socket_wait(conn->fd, POLLIN, &wait, options, &events, err);
        }
    }
    conn->failed = conn->failed || status != ATTN_OK;
    return status;
}
