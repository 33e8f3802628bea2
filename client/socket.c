/* socket.c: a connected, non-blocking TCP socket and waiting on it. Owns nothing; the caller's thread. */
#include "socket.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PROGRESS_EVERY_MS 200

int64_t attn_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

attn_status_t attn_progress_tell(const attn_wait_t *wait, const attn_conn_options_t *options, attn_error_t *err)
{
    if (options->progress != NULL && !options->progress(options->progress_arg, wait->phase, wait->done, wait->total)) {
        return attn_error_set(err, ATTN_ERR_CANCELLED, "cancelled by the caller");
    }
    return ATTN_OK;
}

static attn_status_t wait_took_too_long(const attn_wait_t *wait, attn_error_t *err)
{
    if (wait->phase == ATTN_CONN_WAITING) {
        return attn_error_set(err, ATTN_ERR_TIMEOUT, "the server did not answer within %.1f s",
                              wait->timeout_ms / 1000.0);
    }
    return attn_error_set(err, ATTN_ERR_TIMEOUT, "no byte moved for %.1f s after %llu of %llu bytes %s",
                          wait->timeout_ms / 1000.0, (unsigned long long)wait->done, (unsigned long long)wait->total,
                          wait->phase == ATTN_CONN_SENDING ? "were sent" : "had come");
}

attn_status_t attn_socket_wait(int fd, short events, const attn_wait_t *wait, const attn_conn_options_t *options,
                               short *ret_events, attn_error_t *err)
{
    int64_t end = wait->timeout_ms > 0 ? attn_now_ms() + wait->timeout_ms : INT64_MAX;
    for (;;) {
        int64_t left = end - attn_now_ms();
        if (left <= 0) {
            return wait_took_too_long(wait, err);
        }
        int step = options->progress != NULL ? PROGRESS_EVERY_MS : 60000;
        struct pollfd poll_fd = {.fd = fd, .events = events};
        int count = poll(&poll_fd, 1, left < step ? (int)left : step);
        if (count < 0 && errno != EINTR) {
            return attn_error_set(err, ATTN_ERR_SYSTEM, "poll failed: %s", strerror(errno));
        }
        if (count > 0) {
            *ret_events = poll_fd.revents;
            return ATTN_OK;
        }
        attn_status_t status = attn_progress_tell(wait, options, err);
        if (status != ATTN_OK) {
            return status;
        }
    }
}

/* A connection to one address; gives 0 or errno. */
static int address_connect(const struct addrinfo *address, int timeout_ms, int *ret_fd)
{
    int fd = socket(address->ai_family, address->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, address->ai_protocol);
    if (fd < 0) {
        return errno;
    }
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    /* Finds a server that vanished without a word while its answer is waited for, however long that takes. */
    int idle_s = 30, probe_s = 10;
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &probe_s, sizeof(probe_s));

    int code = connect(fd, address->ai_addr, address->ai_addrlen) == 0 ? 0 : errno;
    if (code == EINPROGRESS || code == EINTR) {
        struct pollfd poll_fd = {.fd = fd, .events = POLLOUT};
        int64_t end = attn_now_ms() + timeout_ms;
        int count;
        do {
            int64_t left = end - attn_now_ms();
            count = poll(&poll_fd, 1, left > 0 ? (int)left : 0);
        } while (count < 0 && errno == EINTR);
        socklen_t size = sizeof(code);
        if (count < 0) {
            code = errno;
        } else if (count == 0) {
            code = ETIMEDOUT;
        } else if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &size) != 0) {
            code = errno;
        }
    }
    if (code != 0) {
        close(fd);
        return code;
    }
    *ret_fd = fd;
    return 0;
}

attn_status_t attn_socket_connect(const attn_endpoint_t *endpoint, int timeout_ms, int *ret_fd, attn_error_t *err)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    struct addrinfo *addresses = NULL;
    int code = getaddrinfo(endpoint->host, endpoint->port, &hints, &addresses);
    if (code != 0) {
        return attn_error_set(err, ATTN_ERR_CONNECTION, "the server's name '%s' cannot be resolved: %s", endpoint->host,
                              code == EAI_SYSTEM ? strerror(errno) : gai_strerror(code));
    }
    int last = EADDRNOTAVAIL;
    for (const struct addrinfo *address = addresses; address != NULL; address = address->ai_next) {
        last = address_connect(address, timeout_ms, ret_fd);
        if (last == 0) {
            break;
        }
    }
    freeaddrinfo(addresses);
    if (last != 0) {
        return attn_error_set(err, ATTN_ERR_CONNECTION, "cannot connect to %s port %s: %s", endpoint->host,
                              endpoint->port, strerror(last));
    }
    return ATTN_OK;
}
