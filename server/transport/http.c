/* transport/http.c: the HTTP door as a whole: its sockets, start, drain and end. Called by main alone. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "transport/http_internal.h"

#define BACKLOG 1024

static attn_status_t listen_on(const char *bind_to, uint16_t port, int *ret_fd, uint16_t *ret_port, attn_error_t *err)
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } address = {0};
    socklen_t size = sizeof address.v4;
    if (inet_pton(AF_INET, bind_to, &address.v4.sin_addr) == 1) {
        address.v4.sin_family = AF_INET;
        address.v4.sin_port = htons(port);
    } else if (inet_pton(AF_INET6, bind_to, &address.v6.sin6_addr) == 1) {
        address.v6.sin6_family = AF_INET6;
        address.v6.sin6_port = htons(port);
        size = sizeof address.v6;
    } else {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "\"%.80s\" is not an address to listen on", bind_to);
    }
    int fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    const int one = 1;
    if (fd >= 0) {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    }
    if (fd < 0 || bind(fd, &address.any, size) != 0 || listen(fd, BACKLOG) != 0) {
        int error = errno;
        attn_fd_close(&fd);
        return attn_error_set(err, ATTN_ERR_SYSTEM, "cannot listen on port %u of %s: %s%s", port, bind_to,
                              error == EADDRINUSE ? "it is already in use" : strerror(error),
                              error == EADDRINUSE ? "; stop the other program or choose another port"
                              : error == EACCES   ? "; ports below 1024 need a privilege"
                                                  : "");
    }
    getsockname(fd, &address.any, &size);
    *ret_port = ntohs(address.any.sa_family == AF_INET ? address.v4.sin_port : address.v6.sin6_port);
    *ret_fd = fd;
    return ATTN_OK;
}

static attn_status_t door_open(http_door_t *door, uint16_t port, attn_error_t *err)
{
    attn_status_t status = listen_on(door->front->options->bind, port, &door->listen_fd, &door->port, err);
    if (status == ATTN_OK) {
        status = http_loops_start(door, err);
    }
    return status == ATTN_OK ? http_accept_begin(door, err) : status;
}

static void door_close(http_door_t *door)
{
    http_accept_end(door);
    http_loops_stop(door);
}

attn_status_t attn_http_start(attn_front_t *front, attn_http_t **ret, attn_error_t *err)
{
    const attn_options_t *options = front->options;
    attn_http_t *http = calloc(1, sizeof *http);
    if (http == NULL) {
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for the HTTP door");
    }
    http->front = front;
    http->started_ns = attn_clock_ns();
    http->started_s = (int64_t)time(NULL);
    http->epoll_fd = http->bell_fd = -1;
    pthread_mutex_init(&http->lock, NULL);
    http->main = (http_door_t){.front = front, .http = http, .listen_fd = -1};
    http->probes = (http_door_t){.front = front, .http = http, .probes_only = true, .listen_fd = -1};
    if (getrandom(&http->id_seed, sizeof http->id_seed, GRND_NONBLOCK) != sizeof http->id_seed) {
        http->id_seed = (uint64_t)attn_clock_ns() ^ (uint64_t)time(NULL) << 20;
    }
    attn_status_t status = http_watch_start(http, err);
    if (status == ATTN_OK) {
        status = door_open(&http->main, (uint16_t)options->http_port, err);
    }
    if (status == ATTN_OK && options->metrics_port != 0) {
        status = door_open(&http->probes, (uint16_t)options->metrics_port, err);
    }
    if (status != ATTN_OK) {
        attn_http_stop(http);
        return status;
    }
    *ret = http;
    return ATTN_OK;
}

uint16_t attn_http_port(const attn_http_t *http)
{
    return http->main.port;
}

uint16_t attn_http_metrics_port(const attn_http_t *http)
{
    return http->probes.port;
}

void attn_http_drain_begin(attn_http_t *http)
{
    atomic_store(&http->draining, true);
}

static bool calls_end(attn_http_t *http, int64_t until_ns)
{
    while (atomic_load(&http->open_calls) > 0) {
        if (attn_clock_ns() >= until_ns) {
            return false;
        }
        nanosleep(&(struct timespec){.tv_nsec = 2 * ATTN_NS_PER_MS}, NULL);
    }
    return true;
}

void attn_http_drain_refuse(attn_http_t *http)
{
    atomic_store(&http->draining, true);
    atomic_store(&http->refusing, true);
    http_accept_end(&http->main);
    http_watch_refuse_bodies(http);
}

uint32_t attn_http_calls(const attn_http_t *http)
{
    return atomic_load(&http->open_calls);
}

void attn_http_drain_finish(attn_http_t *http, int timeout_ms)
{
    bool ended = calls_end(http, attn_clock_ns() + timeout_ms * ATTN_NS_PER_MS);
    atomic_store(&http->closed, true);
    http_watch_cut_all(http);
    if (!ended) {
        calls_end(http, attn_clock_ns() + 2 * ATTN_NS_PER_S);
    }
}

bool attn_http_stop(attn_http_t *http)
{
    if (http == NULL) {
        return true;
    }
    atomic_store(&http->closed, true);
    if (!calls_end(http, attn_clock_ns() + 5 * ATTN_NS_PER_S)) {
        return false;
    }
    door_close(&http->probes);
    door_close(&http->main);
    http_watch_stop(http);
    pthread_mutex_destroy(&http->lock);
    free(http);
    return true;
}
