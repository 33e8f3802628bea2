/* tests/bench/http_floor.c: what the loopback itself takes of a request, for service_latency.py: a server that looks
 * for no more than the end of the head and its Content-Length, reads the body into memory that was touched before and
 * answers with as many bytes as it was told. One connection at a time, on one thread, which never sleeps with --spin.
 *
 *     http_floor --port 8100 --answer-bytes 131400 [--spin]
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define HEAD_MAX 4096u
#define BODY_MAX (64u << 20)

static char request[HEAD_MAX + BODY_MAX];

/* Bytes of head and body; 0 while the head has not ended. */
static size_t request_bytes(size_t used)
{
    const char *end = memmem(request, used < HEAD_MAX ? used : HEAD_MAX, "\r\n\r\n", 4);
    if (end == NULL) {
        return 0;
    }
    static const char name[] = "\r\nContent-Length:";
    const size_t head = (size_t)(end - request) + 4;
    const char *length = memmem(request, head, name, sizeof name - 1);
    size_t body = length != NULL ? strtoul(length + sizeof name - 1, NULL, 10) : 0;
    return head + (body < BODY_MAX ? body : BODY_MAX);
}

static bool send_all(int fd, const char *data, size_t bytes)
{
    for (ssize_t sent; bytes > 0; data += sent, bytes -= (size_t)sent) {
        if ((sent = send(fd, data, bytes, MSG_NOSIGNAL)) <= 0) {
            return false;
        }
    }
    return true;
}

static void serve(int fd, const char *answer, size_t answer_bytes, bool spin)
{
    size_t used = 0, wanted = 0;
    for (;;) {
        ssize_t got = recv(fd, request + used, sizeof request - used, spin ? MSG_DONTWAIT : 0);
        if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
            continue;
        }
        if (got <= 0) {
            return;
        }
        used += (size_t)got;
        wanted = wanted > 0 ? wanted : request_bytes(used);
        if (wanted > 0 && used >= wanted) {
            if (!send_all(fd, answer, answer_bytes)) {
                return;
            }
            used = wanted = 0;
        }
    }
}

int main(int argc, char **argv)
{
    unsigned long port = 0, bytes = 6;
    bool spin = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--spin") == 0) {
            spin = true;
        } else if (i + 1 < argc && strcmp(argv[i], "--port") == 0) {
            port = strtoul(argv[++i], NULL, 10);
        } else if (i + 1 < argc && strcmp(argv[i], "--answer-bytes") == 0) {
            bytes = strtoul(argv[++i], NULL, 10);
        }
    }
    const int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    char *answer = malloc(256 + bytes);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (port == 0 || port > 65535 || answer == NULL ||
        bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 16) != 0) {
        fprintf(stderr, "http_floor: cannot listen on port %lu: %s\n", port, strerror(errno));
        return 1;
    }
    size_t head =
        (size_t)sprintf(answer, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %lu\r\n\r\n", bytes);
    memset(answer + head, 'x', bytes);
    memset(request, 0, 1 << 20);
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0) {
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            serve(fd, answer, head + bytes, spin);
            close(fd);
        }
    }
}
