/* link.c: the packets of a connection to the daemon's Unix socket. See link.h for threads; owns the socket, the buffers
 * and, through ring.c, the ring. */
#include "link.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "wire.h"

int64_t attn_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static attn_status_t ended(const char *when, int code, attn_client_error_t *err)
{
    return attn_client_fail(err, ATTN_ERR_CONNECTION, "the daemon ended the connection %s%s%s", when,
                            code != 0 ? ": " : "", code != 0 ? strerror(code) : "");
}

void attn_link_close(attn_link_t *link)
{
    attn_link_ring_close(link);
    if (link->fd >= 0) {
        close(link->fd);
    }
    free(link->buffers);
    *link = ATTN_LINK_NONE;
}

attn_status_t attn_link_send(attn_link_t *link, const Attn__V1__SocketRequest *message, int fd,
                             attn_client_error_t *err)
{
    size_t size = attn__v1__socket_request__get_packed_size(message);
    if (size > ATTN_LINK_MESSAGE_MAX) {
        return attn_client_fail(err, ATTN_ERR_TOO_LARGE,
                                "the request takes %zu bytes as a message; the Unix socket takes %d. Put cu_seqlens of "
                                "many sequences into a region of host memory",
                                size, ATTN_LINK_MESSAGE_MAX);
    }
    attn__v1__socket_request__pack(message, link->buffers);
    struct iovec part = {link->buffers, size};
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    struct msghdr packet = {.msg_iov = &part, .msg_iovlen = 1};
    if (fd >= 0) {
        memset(&control, 0, sizeof(control));
        packet.msg_control = control.space;
        packet.msg_controllen = sizeof(control.space);
        struct cmsghdr *head = CMSG_FIRSTHDR(&packet);
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(head), &fd, sizeof(int));
    }
    for (;;) {
        if (sendmsg(link->fd, &packet, MSG_NOSIGNAL) >= 0) {
            return ATTN_OK;
        }
        if (errno == EAGAIN) {
            struct pollfd room = {.fd = link->fd, .events = POLLOUT};
            (void)poll(&room, 1, 1000);
        } else if (errno != EINTR) {
            return ended("while a request was sent", errno, err);
        }
    }
}

/* Takes the descriptors of a packet; false, with all of them closed, when it had too many. */
static bool descriptors_take(struct msghdr *packet, int ret_fds[ATTN_LINK_FDS], int *ret_count)
{
    int count = 0;
    bool good = (packet->msg_flags & MSG_CTRUNC) == 0;
    for (struct cmsghdr *head = CMSG_FIRSTHDR(packet); head != NULL; head = CMSG_NXTHDR(packet, head)) {
        if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        size_t here = (head->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < here; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(head) + i * sizeof(int), sizeof(int));
            if (count < ATTN_LINK_FDS) {
                ret_fds[count++] = fd;
            } else {
                close(fd);
                good = false;
            }
        }
    }
    for (int i = 0; !good && i < count; i++) {
        close(ret_fds[i]);
    }
    *ret_count = good ? count : 0;
    return good;
}

void attn_link_answer_free(Attn__V1__SocketAnswer *answer)
{
    attn__v1__socket_answer__free_unpacked(answer, NULL);
}

void attn_link_answer_drop(Attn__V1__SocketAnswer *answer, const int *fds, int fd_count)
{
    for (int i = 0; i < fd_count; i++) {
        close(fds[i]);
    }
    attn_link_answer_free(answer);
}

attn_status_t attn_link_receive(attn_link_t *link, int timeout_ms, Attn__V1__SocketAnswer **ret,
                                int ret_fds[ATTN_LINK_FDS], int *ret_fd_count, attn_client_error_t *err)
{
    uint8_t *buffer = link->buffers + ATTN_LINK_MESSAGE_MAX;
    int64_t until = attn_now_ns() + timeout_ms * INT64_C(1000000);
    *ret = NULL;
    *ret_fd_count = 0;
    for (;;) {
        union {
            struct cmsghdr align;
            char space[CMSG_SPACE(sizeof(int) * ATTN_LINK_FDS)];
        } control;
        struct iovec part = {buffer, ATTN_LINK_MESSAGE_MAX};
        struct msghdr packet = {
            .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.space, .msg_controllen = sizeof(control.space)};
        ssize_t size = recvmsg(link->fd, &packet, MSG_CMSG_CLOEXEC);
        if (size > 0) {
            bool good = descriptors_take(&packet, ret_fds, ret_fd_count) && (packet.msg_flags & MSG_TRUNC) == 0;
            *ret = good ? attn__v1__socket_answer__unpack(NULL, (size_t)size, buffer) : NULL;
            if (*ret == NULL) {
                for (int i = 0; i < *ret_fd_count; i++) {
                    close(ret_fds[i]);
                }
                *ret_fd_count = 0;
                return attn_client_fail(err, ATTN_ERR_INTERNAL,
                                        "what the daemon sent is not an answer of this protocol");
            }
            return ATTN_OK;
        }
        if (size == 0 || (errno != EAGAIN && errno != EINTR)) {
            return ended("without a word", size == 0 ? 0 : errno, err);
        }
        int64_t left = until - attn_now_ns();
        if (left <= 0) {
            return ATTN_OK;
        }
        struct pollfd ready = {.fd = link->fd, .events = POLLIN};
        (void)poll(&ready, 1, (int)(left / 1000000) + 1);
    }
}

attn_status_t attn_link_error(const Attn__V1__Error *error, attn_client_error_t *err)
{
    attn_client_error_t parsed;
    memset(&parsed, 0, sizeof(parsed));
    attn_status_t status = attn_client_status_of(error->code);
    if (status == ATTN_OK) {
        status = ATTN_ERR_INTERNAL;
    }
    attn_error_set(&parsed.error, status, "%s", error->error);
    parsed.retryable = error->retryable != 0;
    attn_wire_text(parsed.request_id, sizeof(parsed.request_id), error->request_id);
    for (size_t i = 0; i < error->n_missing && i < ATTN_MISSING_MAX; i++) {
        attn_missing_add(&parsed.missing, "%s", error->missing[i]);
    }
    if (err != NULL) {
        *err = parsed;
    }
    return status;
}

attn_status_t attn_link_exchange(attn_link_t *link, const Attn__V1__SocketRequest *message, int fd, int timeout_ms,
                                 Attn__V1__SocketAnswer **ret, int ret_fds[ATTN_LINK_FDS], int *ret_fd_count,
                                 attn_client_error_t *err)
{
    Attn__V1__SocketAnswer *answer = NULL;
    attn_status_t status = attn_link_send(link, message, fd, err);
    if (status == ATTN_OK ||
        status == ATTN_ERR_CONNECTION) { /* a refusal may lie in the socket of a closed connection */
        attn_status_t heard = attn_link_receive(link, timeout_ms, &answer, ret_fds, ret_fd_count, err);
        status = answer != NULL ? ATTN_OK : heard != ATTN_OK ? heard : status;
    }
    if (status != ATTN_OK) {
        return status;
    }
    if (answer == NULL) {
        return attn_client_fail(err, ATTN_ERR_TIMEOUT, "the daemon did not answer within %d ms", timeout_ms);
    }
    if (answer->what_case == ATTN__V1__SOCKET_ANSWER__WHAT_ERROR) {
        status = attn_link_error(answer->error, err);
    } else if (answer->tag != message->tag) {
        status = attn_client_fail(err, ATTN_ERR_INTERNAL, "the daemon answered what was not asked");
    }
    if (status != ATTN_OK) {
        attn_link_answer_drop(answer, ret_fds, *ret_fd_count);
        *ret_fd_count = 0;
        return status;
    }
    *ret = answer;
    return ATTN_OK;
}

static attn_status_t hello(attn_link_t *link, int timeout_ms, attn_client_error_t *err)
{
    Attn__V1__Hello hello = ATTN__V1__HELLO__INIT;
    Attn__V1__SocketRequest message = ATTN__V1__SOCKET_REQUEST__INIT;
    Attn__V1__SocketAnswer *answer = NULL;
    int fds[ATTN_LINK_FDS], fd_count = 0;
    hello.version_min = hello.version_max = 1;
    hello.client = (char *)(uintptr_t) "libattn " ATTND_VERSION;
    message.tag = 1;
    message.what_case = ATTN__V1__SOCKET_REQUEST__WHAT_HELLO;
    message.hello = &hello;
    attn_status_t status = attn_link_exchange(link, &message, -1, timeout_ms, &answer, fds, &fd_count, err);
    if (status != ATTN_OK) {
        return status;
    }
    if (answer->what_case != ATTN__V1__SOCKET_ANSWER__WHAT_WELCOME || answer->welcome->version != 1) {
        status = attn_client_fail(err, ATTN_ERR_INTERNAL, "the daemon does not welcome version 1 of the protocol");
    } else {
        const Attn__V1__Welcome *welcome = answer->welcome;
        link->alignment = welcome->alignment > 0 ? welcome->alignment : 16;
        link->ring_entries_max = welcome->max_ring_entries;
        link->max_in_flight = welcome->max_in_flight;
        for (size_t i = 0; i < welcome->n_devices; i++) {
            link->any_ready = link->any_ready || welcome->devices[i]->ready;
        }
    }
    attn_link_answer_drop(answer, fds, fd_count);
    return status;
}

attn_status_t attn_link_open(const char *path, int timeout_ms, attn_link_t *ret, attn_client_error_t *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    attn_link_t link = ATTN_LINK_NONE;
    strncpy(address.sun_path, path, sizeof(address.sun_path) - 1); /* attn_client_open() has looked at the length */
    link.buffers = malloc((size_t)2 * ATTN_LINK_MESSAGE_MAX);
    if (link.buffers == NULL) {
        return attn_client_fail(err, ATTN_ERR_NO_MEMORY, "no memory for a connection");
    }
    link.fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    attn_status_t status = ATTN_OK;
    if (link.fd < 0 || connect(link.fd, (struct sockaddr *)&address, sizeof(address)) != 0) {
        status = attn_client_fail(err, ATTN_ERR_CONNECTION, "cannot connect to unix:%s: %s", path, strerror(errno));
    } else {
        status = hello(&link, timeout_ms, err);
    }
    if (status != ATTN_OK) {
        attn_link_close(&link);
        return status;
    }
    *ret = link;
    return ATTN_OK;
}
