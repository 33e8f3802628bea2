/* tests/bench/http_load.c: an HTTP/1.1 load client that is never the slow side of a comparison.
 *
 * N keep-alive connections on one or more epoll threads, each with one request in flight, all sending the same body.
 * One request is one sendmsg of head and body and as few reads as the kernel gives; latency runs from the first byte
 * sent to the last byte received. With --parts it says where that time went. With --poll it never sleeps, so that
 * waking its own core is no part of what it measures. Prints one JSON object. Owns everything it opens; a thread shares
 * nothing with the others but the body. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "http_samples.h"

#define HEAD_MAX 8192
#define SINK_BYTES (1u << 20)

typedef struct conn {
    int fd;
    bool sending, in_body, want_out;
    uint64_t sent;      /* of head and body */
    uint64_t body_left; /* of the answer */
    size_t head_used;
    char head[HEAD_MAX + 1];
    int status;
    int64_t started_ns, sent_ns, answered_ns; /* first byte sent, last byte sent, first byte received */
    sample_t sample;
} conn_t;

typedef struct load {
    struct sockaddr_storage address;
    socklen_t address_len;
    const char *source; /* IPv4 address to call from; NULL = any */
    char head[HEAD_MAX];
    size_t head_len;
    const char *body;
    uint64_t body_len;
    int epoll_fd;
    char *sink;
    conn_t *conns;
    int connections;
    int64_t begin_ns, end_ns; /* of what is measured */
    samples_t samples;
    uint64_t errors, answered_bytes;
    bool measuring, polls, parts;
    int first_bad_status;
} load_t;

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void die(const char *what)
{
    fprintf(stderr, "http_load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void conn_watch(load_t *load, conn_t *conn, bool out)
{
    if (conn->want_out == out)
        return;
    struct epoll_event event = {.events = out ? EPOLLIN | EPOLLOUT : EPOLLIN, .data.ptr = conn};
    if (epoll_ctl(load->epoll_fd, EPOLL_CTL_MOD, conn->fd, &event) != 0)
        die("epoll_ctl");
    conn->want_out = out;
}

/* Sends what is left of head and body; false when the connection is of no use any more. */
static bool conn_send(load_t *load, conn_t *conn)
{
    uint64_t total = load->head_len + load->body_len;
    while (conn->sent < total) {
        struct iovec parts[2];
        int n = 0;
        if (conn->sent < load->head_len) {
            parts[n++] = (struct iovec){load->head + conn->sent, load->head_len - conn->sent};
            if (load->body_len != 0)
                parts[n++] = (struct iovec){(void *)(uintptr_t)load->body, load->body_len};
        } else {
            uint64_t at = conn->sent - load->head_len;
            parts[n++] = (struct iovec){(void *)(uintptr_t)(load->body + at), load->body_len - at};
        }
        struct msghdr message = {.msg_iov = parts, .msg_iovlen = (size_t)n};
        ssize_t sent = sendmsg(conn->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0) {
            if (errno == EINTR)
                continue;
            if (errno != EAGAIN)
                return false;
            conn_watch(load, conn, true);
            return true;
        }
        conn->sent += (uint64_t)sent;
    }
    conn->sending = false;
    conn->sent_ns = now_ns();
    conn_watch(load, conn, false);
    return true;
}

static bool conn_start(load_t *load, conn_t *conn)
{
    conn->sending = true;
    conn->in_body = false;
    conn->sent = 0;
    conn->head_used = 0;
    conn->started_ns = now_ns();
    return conn_send(load, conn);
}

static void conn_open(load_t *load, conn_t *conn)
{
    conn->fd = socket(load->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (conn->fd < 0)
        die("socket");
    if (load->source) {
        struct sockaddr_in from = {.sin_family = AF_INET};
        if (inet_pton(AF_INET, load->source, &from.sin_addr) != 1 ||
            bind(conn->fd, (struct sockaddr *)&from, sizeof from) != 0)
            die("--source");
    }
    if (connect(conn->fd, (struct sockaddr *)&load->address, load->address_len) != 0)
        die("connect");
    fcntl(conn->fd, F_SETFL, O_NONBLOCK);
    int one = 1;
    setsockopt(conn->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = conn};
    if (epoll_ctl(load->epoll_fd, EPOLL_CTL_ADD, conn->fd, &event) != 0)
        die("epoll_ctl");
    conn->want_out = false;
}

static bool head_parse(conn_t *conn)
{
    conn->head[conn->head_used] = 0;
    if (sscanf(conn->head, "HTTP/1.%*d %d", &conn->status) != 1)
        return false;
    const char *length = strcasestr(conn->head, "\r\nContent-Length:");
    if (length == NULL)
        return false;
    conn->body_left = strtoull(length + 17, NULL, 10);
    return true;
}

static float us_between(int64_t from_ns, int64_t to_ns)
{
    return (float)(to_ns - from_ns) / 1000;
}

static void answer_count(load_t *load, conn_t *conn)
{
    if (!load->measuring)
        return;
    if (conn->status != 200) {
        load->errors++;
        if (load->first_bad_status == 0)
            load->first_bad_status = conn->status;
        return;
    }
    const int64_t now = now_ns();
    sample_t *sample = &conn->sample;
    sample->latency_us = us_between(conn->started_ns, now);
    sample->part[SAMPLE_SENDING] = us_between(conn->started_ns, conn->sent_ns);
    sample->part[SAMPLE_WAITING] = us_between(conn->sent_ns, conn->answered_ns);
    sample->part[SAMPLE_RECEIVING] = us_between(conn->answered_ns, now);
    if (!samples_add(&load->samples, sample))
        die("samples");
}

/* Reads what is there; starts the next request when an answer is complete. False: close it. */
static bool conn_receive(load_t *load, conn_t *conn)
{
    for (;;) {
        ssize_t got;
        if (!conn->in_body) {
            struct iovec parts[2] = {{conn->head + conn->head_used, HEAD_MAX - conn->head_used},
                                     {load->sink, SINK_BYTES}};
            /* Head and body usually come together: one call for both, the overflow of the head goes to the sink. */
            got = readv(conn->fd, parts, 2);
            if (got > 0) {
                size_t room = HEAD_MAX - conn->head_used;
                uint64_t over = (size_t)got > room ? (uint64_t)got - room : 0;
                conn->answered_ns = conn->head_used == 0 ? now_ns() : conn->answered_ns;
                conn->head_used += (size_t)got - over;
                char *end = memmem(conn->head, conn->head_used, "\r\n\r\n", 4);
                if (end == NULL) {
                    if (conn->head_used == HEAD_MAX)
                        return false;
                    continue;
                }
                uint64_t body = (uint64_t)(conn->head + conn->head_used - (end + 4)) + over;
                if (!head_parse(conn) || body > conn->body_left)
                    return false;
                conn->body_left -= body;
                load->answered_bytes += body;
                conn->in_body = true;
                conn->sample.told = false;
                if (load->parts)
                    sample_read_answer(&conn->sample, end, (size_t)(conn->head + conn->head_used - end));
            }
        } else {
            uint64_t want = conn->body_left < SINK_BYTES ? conn->body_left : SINK_BYTES;
            got = read(conn->fd, load->sink, want);
            if (got > 0) {
                conn->body_left -= (uint64_t)got;
                load->answered_bytes += (uint64_t)got;
            }
        }
        if (got == 0)
            return false;
        if (got < 0) {
            if (errno == EINTR)
                continue;
            return errno == EAGAIN;
        }
        if (conn->in_body && conn->body_left == 0) {
            answer_count(load, conn);
            /* An answer before the request was sent in full is a refusal: the rest would be read as a new request. */
            if (conn->sending)
                return false;
            return conn_start(load, conn);
        }
    }
}

static void load_run(load_t *load, int64_t until_ns)
{
    struct epoll_event events[256];
    while (now_ns() < until_ns) {
        int n = epoll_wait(load->epoll_fd, events, 256, load->polls ? 0 : 100);
        for (int i = 0; i < n; i++) {
            conn_t *conn = events[i].data.ptr;
            bool ok = true;
            if (conn->sending && (events[i].events & EPOLLOUT))
                ok = conn_send(load, conn);
            if (ok && (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
                ok = conn_receive(load, conn);
            if (!ok) {
                if (load->measuring)
                    load->errors++;
                close(conn->fd);
                conn_open(load, conn);
                if (!conn_start(load, conn))
                    die("send");
            }
        }
    }
}

static void *load_thread(void *arg)
{
    load_t *load = arg;
    load->sink = malloc(SINK_BYTES);
    load->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    load->conns = calloc((size_t)load->connections, sizeof *load->conns);
    if (load->sink == NULL || load->conns == NULL || load->epoll_fd < 0)
        die("set-up");
    for (int i = 0; i < load->connections; i++) {
        conn_open(load, &load->conns[i]);
        if (!conn_start(load, &load->conns[i]))
            die("send");
    }
    load_run(load, load->begin_ns);
    load->measuring = true;
    load->answered_bytes = 0;
    load_run(load, load->end_ns);
    return NULL;
}

/* Runs the connections of `all` on `threads` threads, and adds up in `all` what they measured. */
static void load_threads(load_t *all, int threads)
{
    load_t *loads = calloc((size_t)threads, sizeof *loads);
    pthread_t *ids = calloc((size_t)threads, sizeof *ids);
    if (loads == NULL || ids == NULL)
        die("set-up");
    for (int i = 0; i < threads; i++) {
        loads[i] = *all;
        loads[i].connections = all->connections / threads + (i < all->connections % threads);
        if (pthread_create(&ids[i], NULL, load_thread, &loads[i]) != 0)
            die("pthread_create");
    }
    for (int i = 0; i < threads; i++) {
        pthread_join(ids[i], NULL);
        for (size_t j = 0; j < loads[i].samples.count; j++)
            if (!samples_add(&all->samples, &loads[i].samples.sample[j]))
                die("samples");
        all->errors += loads[i].errors;
        all->answered_bytes += loads[i].answered_bytes;
        if (all->first_bad_status == 0)
            all->first_bad_status = loads[i].first_bad_status;
    }
}

static void usage(void)
{
    puts(
        "http_load --port N --path PATH --body FILE [--host 127.0.0.1] [--type MEDIA] [--connections 1]\n"
        "          [--threads 1] [--seconds 5] [--warmup 1] [--source ADDRESS] [--poll] [--parts]\n"
        "Posts the body over keep-alive connections, one request in flight on each; prints JSON with requests per\n"
        "second and latency percentiles in microseconds.\n"
        "--threads: how many threads share the connections, so that a client's core is not the limit.\n"
        "--source: call from this IPv4 address, such as 127.0.0.2: another peer to the server.\n"
        "--poll: look for answers without ever sleeping.\n"
        "--parts: also where the time went: sending, waiting and receiving by the client's clock, and what answers of\n"
        "attnd in safetensors say of themselves; each with its percentiles and its mean in the slowest hundredth.");
}

int main(int argc, char **argv)
{
    const char *host = "127.0.0.1", *port = NULL, *path = "/", *body = NULL, *type = "application/octet-stream";
    const char *source = NULL;
    int connections = 1, threads = 1;
    bool polls = false, with_parts = false;
    double seconds = 5, warmup = 1;
    static const struct option options[] = {
        {"host", required_argument, 0, 'h'},    {"port", required_argument, 0, 'p'},
        {"path", required_argument, 0, 'u'},    {"body", required_argument, 0, 'b'},
        {"type", required_argument, 0, 't'},    {"connections", required_argument, 0, 'c'},
        {"threads", required_argument, 0, 'n'}, {"seconds", required_argument, 0, 's'},
        {"warmup", required_argument, 0, 'w'},  {"source", required_argument, 0, 'f'},
        {"poll", no_argument, 0, 'l'},          {"parts", no_argument, 0, 'a'},
        {"help", no_argument, 0, '?'},          {0, 0, 0, 0}};
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (c) {
        case 'h':
            host = optarg;
            break;
        case 'p':
            port = optarg;
            break;
        case 'u':
            path = optarg;
            break;
        case 'b':
            body = optarg;
            break;
        case 't':
            type = optarg;
            break;
        case 'c':
            connections = atoi(optarg);
            break;
        case 'n':
            threads = atoi(optarg);
            break;
        case 's':
            seconds = atof(optarg);
            break;
        case 'l':
            polls = true;
            break;
        case 'a':
            with_parts = true;
            break;
        case 'f':
            source = optarg;
            break;
        case 'w':
            warmup = atof(optarg);
            break;
        default:
            usage();
            return c == '?' ? 0 : 2;
        }
    }
    if (port == NULL || body == NULL || connections < 1 || threads < 1 || threads > connections) {
        usage();
        return 2;
    }

    load_t load = {.source = source, .polls = polls, .parts = with_parts, .connections = connections};
    struct addrinfo *found = NULL, hints = {.ai_socktype = SOCK_STREAM};
    if (getaddrinfo(host, port, &hints, &found) != 0)
        die("getaddrinfo");
    memcpy(&load.address, found->ai_addr, found->ai_addrlen);
    load.address_len = found->ai_addrlen;
    freeaddrinfo(found);

    int fd = open(body, O_RDONLY | O_CLOEXEC);
    struct stat about;
    if (fd < 0 || fstat(fd, &about) != 0)
        die(body);
    load.body_len = (uint64_t)about.st_size;
    load.body = mmap(NULL, load.body_len, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    if (load.body == MAP_FAILED)
        die("mmap");
    load.head_len =
        (size_t)snprintf(load.head, sizeof load.head,
                         "POST %s HTTP/1.1\r\nHost: %s:%s\r\nContent-Type: %s\r\nContent-Length: %llu\r\n\r\n", path,
                         host, port, type, (unsigned long long)load.body_len);
    load.begin_ns = now_ns() + (int64_t)(warmup * 1e9);
    load.end_ns = load.begin_ns + (int64_t)(seconds * 1e9);
    load_threads(&load, threads);
    double took = (double)(now_ns() - load.begin_ns) / 1e9;

    samples_sort(&load.samples);
    const double count = (double)load.samples.count;
    printf("{\"connections\": %d, \"requests\": %zu, \"errors\": %llu, \"first_bad_status\": %d, \"seconds\": %.3f, "
           "\"rps\": %.1f, \"upload_mb_s\": %.1f, \"download_mb_s\": %.1f, \"p50_us\": %.1f, \"p90_us\": %.1f, "
           "\"p99_us\": %.1f, \"max_us\": %.1f",
           connections, load.samples.count, (unsigned long long)load.errors, load.first_bad_status, took, count / took,
           count * (double)load.body_len / took / 1e6, (double)load.answered_bytes / took / 1e6,
           samples_percentile(&load.samples, 0.5), samples_percentile(&load.samples, 0.9),
           samples_percentile(&load.samples, 0.99), samples_percentile(&load.samples, 1.0));
    if (load.parts)
        samples_print_parts(&load.samples);
    puts("}");
    return load.samples.count == 0;
}
