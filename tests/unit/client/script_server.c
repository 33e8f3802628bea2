/* script_server.c: see script_server.h. One thread; one connection at a time. */
#include "script_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const script_answer_t *answers;
static size_t answer_count, connections;
static int listener;
static pthread_t thread;
static char request[8192];

/* Reads one request, or `limit` bytes of it; false when the client closed before a byte came. */
static bool request_read(int fd, size_t limit)
{
    size_t got = 0, body = 0, body_seen = 0;
    bool head_done = false;
    memset(request, 0, sizeof request);
    while (got < limit) {
        char byte_buffer[65536];
        size_t want = head_done ? sizeof byte_buffer : 1;
        if (head_done && body_seen == body) {
            return true;
        }
        if (head_done && want > body - body_seen) {
            want = body - body_seen;
        }
        if (want > limit - got) {
            want = limit - got;
        }
        ssize_t count = recv(fd, byte_buffer, want, 0);
        if (count <= 0) {
            return got > 0;
        }
        if (head_done) {
            body_seen += (size_t)count;
        } else if (got < sizeof request - 1) {
            request[got] = byte_buffer[0];
            head_done = strstr(request, "\r\n\r\n") != NULL;
            const char *length = head_done ? strstr(request, "Content-Length: ") : NULL;
            body = length != NULL ? strtoull(length + 16, NULL, 10) : 0;
        }
        got += (size_t)count;
    }
    return true;
}

static void answer_send(int fd, const script_answer_t *answer)
{
    size_t half = answer->pause_ms > 0 ? answer->bytes / 2 : answer->bytes;
    const char *data = answer->data;
    size_t sent = 0;
    while (sent < answer->bytes) {
        size_t end = sent < half ? half : answer->bytes;
        ssize_t count = send(fd, data + sent, end - sent, MSG_NOSIGNAL);
        if (count <= 0) {
            return;
        }
        sent += (size_t)count;
        if (sent == half && sent < answer->bytes) {
            usleep((useconds_t)answer->pause_ms * 1000);
        }
    }
}

static void *server_thread(void *arg)
{
    int fd = -1;
    for (size_t i = 0; i < answer_count;) {
        if (fd < 0) {
            fd = accept(listener, NULL, NULL);
            if (fd < 0) {
                break;
            }
            connections++;
        }
        if (!request_read(fd, answers[i].read_bytes)) {
            close(fd);
            fd = -1;
            continue;
        }
        answer_send(fd, &answers[i]);
        if (answers[i].reset) {
            struct linger linger = {.l_onoff = 1, .l_linger = 0};
            setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
        }
        if (answers[i].close || answers[i].reset) {
            close(fd);
            fd = -1;
        }
        i++;
    }
    if (fd >= 0) {
        char rest[4096];
        while (recv(fd, rest, sizeof rest, 0) > 0) {
        }
        close(fd);
    }
    return NULL;
}

int script_server_start(const script_answer_t *list, size_t count)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    answers = list;
    answer_count = count;
    connections = 0;
    listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bind(listener, (struct sockaddr *)&address, sizeof address);
    listen(listener, 16);
    getsockname(listener, (struct sockaddr *)&address, &size);
    pthread_create(&thread, NULL, server_thread, NULL);
    return ntohs(address.sin_port);
}

void script_server_stop(void)
{
    shutdown(listener, SHUT_RDWR);
    pthread_join(thread, NULL);
    close(listener);
}

size_t script_server_connections(void)
{
    return connections;
}

const char *script_server_request(void)
{
    return request;
}
