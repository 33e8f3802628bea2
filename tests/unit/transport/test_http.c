/* tests/unit/transport/test_http.c: the HTTP door with a scheduler that only waits: answers, clients that leave at
 * every stage, parked calls and streams, slow ones, drain. Afterwards no ticket may be left. */
#include <arpa/inet.h>
#include <check.h>
#include <endian.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "fake.h"
#include "transport/http_internal.h"

static attn_options_t options;
static attn_front_t front;
static attn_http_t *http;
static char body[1024];
static size_t body_bytes;
static const char *special = ""; /* a header that makes a head one for libmicrohttpd */

/* ---- routes of the test in place of those of the jobs ---- */

static _Atomic unsigned gone_calls;
static pthread_t helper;

static void on_gone(attn_http_call_t *call, void *arg)
{
    atomic_fetch_add(&gone_calls, 1);
}

static void *answer_later(void *arg)
{
    usleep(20000);
    attn_http_reply_json(arg, 200, strdup("{\"parked\":true}"));
    return NULL;
}

static void park(attn_http_call_t *call)
{
    attn_http_park(call, on_gone, NULL);
    pthread_create(&helper, NULL, answer_later, call);
}

static void *write_events(void *arg)
{
    attn_http_call_t *call = arg;
    char event[64];
    for (int i = 0; i < 200; i++) {
        int bytes = snprintf(event, sizeof event, "data: %d\n\n", i);
        if (!attn_http_stream_write(call, event, (size_t)bytes)) {
            break;
        }
        if (i % 16 == 0) {
            usleep(1000);
        }
    }
    attn_http_stream_end(call);
    return NULL;
}

static void stream(attn_http_call_t *call)
{
    attn_http_stream_begin(call, "text/event-stream", on_gone, NULL);
    pthread_create(&helper, NULL, write_events, call);
}

static void echo(attn_http_call_t *call)
{
    const char *wait = attn_http_query(call, "wait");
    char text[512];
    snprintf(text, sizeof text, "%s|%s|%s", attn_http_capture(call), wait != NULL ? wait : "-", attn_http_id(call));
    attn_http_reply_header(call, "X-Test", "yes");
    attn_http_reply_bytes(call, 202, "text/plain", strdup(text), strlen(text));
}

static void silent(attn_http_call_t *call) {}

const attn_http_route_t attn_http_job_routes[] = {
    {"GET", "/test/park", ATTN_HTTP_BODY_NONE, false, park, NULL},
    {"GET", "/test/stream", ATTN_HTTP_BODY_NONE, false, stream, NULL},
    {"DELETE", "/test/{name}/echo", ATTN_HTTP_BODY_NONE, false, echo, "wait"},
    {"GET", "/test/silent", ATTN_HTTP_BODY_NONE, false, silent, NULL},
};
const size_t attn_http_job_route_count = sizeof attn_http_job_routes / sizeof attn_http_job_routes[0];

/* ---- the door and its clients ---- */

static void make_body(void)
{
    static const char header[] =
        "{\"q\":{\"dtype\":\"F16\",\"shape\":[1,3,2,4],\"data_offsets\":[0,48]},\"k\":{\"dtype\":\"F16\",\"shape\":[1,"
        "3,2,"
        "4],\"data_offsets\":[48,96]},\"v\":{\"dtype\":\"F16\",\"shape\":[1,3,2,4],\"data_offsets\":[96,144]}}";
    uint64_t length = htole64(sizeof header - 1);
    memcpy(body, &length, 8);
    memcpy(body + 8, header, sizeof header - 1);
    body_bytes = 8 + sizeof header - 1 + 144;
}

static void start(const char *const *arguments)
{
    attn_error_t err;
    int count = 0;
    while (arguments[count] != NULL) {
        count++;
    }
    make_body();
    ck_assert_int_eq(attn_options_parse(count, (char *const *)(uintptr_t)arguments, NULL, &options, &err), ATTN_OK);
    const attn_admit_options_t admit = {.arena_bytes = 64u << 20};
    ck_assert_int_eq(attn_admit_create(&admit, &front.admit, &err), ATTN_OK);
    front.options = &options;
    fake_start(front.admit);
    ck_assert_msg(attn_http_start(&front, &http, &err) == ATTN_OK, "%s", err.message);
}
/* Tests in a loop of four: with threads that spin and that do not, on any machine, and as libmicrohttpd's requests. */
#define START(...)                                                                                                     \
    (special = _i / 2 ? "TE: trailers\r\n" : "",                                                                       \
     start((const char *const[]){"attnd", "--http-port", "0", "--metrics-port", "0", "--http-spin-us",                 \
                                 _i % 2 == 0 ? "1" : "200", __VA_ARGS__, NULL}))

static uint32_t tickets(void)
{
    attn_admit_view_t view;
    attn_admit_view(front.admit, &view);
    return view.tickets;
}

static bool soon(bool (*condition)(void))
{
    for (int i = 0; i < 1000; i++) {
        if (condition()) {
            return true;
        }
        usleep(10000);
    }
    return false;
}

static bool no_tickets(void)
{
    return tickets() == 0;
}

static void stop(void)
{
    attn_http_drain_refuse(http);
    fake_stop();
    attn_http_drain_finish(http, 500);
    ck_assert(attn_http_stop(http));
    ck_assert_uint_eq(tickets(), 0);
    attn_admit_destroy(front.admit);
}

static int dial_from(uint32_t host)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(attn_http_port(http)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    const struct timeval limit = {.tv_sec = 20};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(host)};
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&own, sizeof own), 0);
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

static int dial(void)
{
    return dial_from(INADDR_LOOPBACK);
}

static void say(int fd, const void *data, size_t bytes)
{
    send(fd, data, bytes, MSG_NOSIGNAL);
}

static size_t post_head(char *ret, size_t size, const char *query)
{
    return (size_t)snprintf(ret, size,
                            "POST /v1/attention%s HTTP/1.1\r\nHost: x\r\nContent-Type: application/safetensors\r\n"
                            "%sContent-Length: %zu\r\n\r\n",
                            query, special, body_bytes);
}

/* Reads up to the end of an answer with a Content-Length; returns its status, 0 when there is none. */
static int answer_of(int fd, char *text, size_t size)
{
    size_t used = 0;
    for (ssize_t got; used < size - 1 && (got = recv(fd, text + used, size - 1 - used, 0)) > 0;) {
        used += (size_t)got;
        text[used] = '\0';
        const char *end = strstr(text, "\r\n\r\n"), *length = strcasestr(text, "Content-Length:");
        if (end != NULL && length != NULL && used >= (size_t)(end + 4 - text) + strtoul(length + 15, NULL, 10)) {
            break;
        }
    }
    text[used] = '\0';
    return strncmp(text, "HTTP/1.1 ", 9) == 0 ? atoi(text + 9) : 0;
}

static int ask(const char *request, char *text, size_t size)
{
    int fd = dial();
    say(fd, request, strlen(request));
    int status = answer_of(fd, text, size);
    close(fd);
    return status;
}

static int post(char *text, size_t size)
{
    char head[256];
    int fd = dial();
    say(fd, head, post_head(head, sizeof head, ""));
    say(fd, body, body_bytes);
    int status = answer_of(fd, text, size);
    close(fd);
    return status;
}

START_TEST(answers)
{
    char text[4096];
    START("--http-threads", "2");
    ck_assert_int_eq(post(text, sizeof text), 200);
    ck_assert_ptr_nonnull(strstr(text, "application/safetensors"));
    ck_assert_int_eq(
        ask("DELETE /test/a%2Fb/echo?wait=30s HTTP/1.1\r\nHost: x\r\nX-Request-Id: mine\r\n\r\n", text, sizeof text),
        202);
    ck_assert_ptr_nonnull(strstr(text, "a/b|30s|mine"));
    ck_assert_ptr_nonnull(strstr(text, "X-Test: yes"));
    ck_assert_int_eq(ask("DELETE /test/a/echo?wai=1 HTTP/1.1\r\nHost: x\r\n\r\n", text, sizeof text), 400);
    ck_assert_int_eq(ask("DELETE /test/a/echo?wait=1&wait=1 HTTP/1.1\r\nHost: x\r\n\r\n", text, sizeof text), 400);
    ck_assert_int_eq(ask("GET /test/a/echo HTTP/1.1\r\nHost: x\r\n\r\n", text, sizeof text), 405);
    ck_assert_ptr_nonnull(strstr(text, "Allow: DELETE"));
    ck_assert_int_eq(ask("GET /test/silent HTTP/1.1\r\nHost: x\r\n\r\n", text, sizeof text), 500);
    ck_assert_int_eq(ask("GET http://h/v2/health/ready?x=y HTTP/1.1\r\nHost: x\r\n\r\n", text, sizeof text), 200);
    ck_assert_int_eq(ask("GET /test/park HTTP/1.1\r\nHost: x\r\n\r\n", text, sizeof text), 200);
    ck_assert_ptr_nonnull(strstr(text, "{\"parked\":true}"));
    pthread_join(helper, NULL);
    stop();
}
END_TEST

static unsigned in_loops(void)
{
    unsigned count = 0;
    for (unsigned i = 0; i < http->main.loop_count; i++) {
        count += atomic_load(&http->main.loops[i].connections);
    }
    return count;
}

static void open_in_loops(unsigned count)
{
    for (int i = 0; i < 2000 && in_loops() != count; i++) {
        usleep(1000);
    }
    ck_assert_uint_eq(in_loops(), count);
}

/* Whoever comes first. */
START_TEST(a_flood_leaves_a_loop_to_others)
{
    enum { FLOOD = 12 };
    int fd[FLOOD], other = -1;
    START("--http-threads", "5");
    if (_i == 0) {
        other = dial_from(INADDR_LOOPBACK + 1);
        open_in_loops(1);
    }
    for (int i = 0; i < FLOOD; i++) {
        fd[i] = dial();
    }
    if (_i == 1) {
        open_in_loops(FLOOD);
        other = dial_from(INADDR_LOOPBACK + 1);
    }
    open_in_loops(FLOOD + 1);
    unsigned with_one = 0;
    for (unsigned i = 0; i < 5; i++) {
        unsigned here = atomic_load(&http->main.loops[i].connections);
        ck_assert_msg(here == 3 || here == 1, "loop %u has %u", i, here);
        with_one += here == 1;
    }
    ck_assert_uint_eq(with_one, 1);
    for (int i = 0; i < FLOOD; i++) {
        close(fd[i]);
    }
    close(other);
    open_in_loops(0);
    for (unsigned i = 0; i < 5; i++) {
        for (unsigned cell = 0; cell < HTTP_PEER_CELLS; cell++) {
            ck_assert_uint_eq(atomic_load(&http->main.loops[i].of_peer[cell]), 0);
        }
    }
    stop();
}
END_TEST

START_TEST(streams)
{
    static char text[16384];
    START("--http-threads", "2");
    int fd = dial();
    const char *request = "GET /test/stream HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    say(fd, request, strlen(request));
    answer_of(fd, text, sizeof text); /* chunked: reads to the end of the connection */
    close(fd);
    pthread_join(helper, NULL);
    ck_assert_ptr_nonnull(strstr(text, "data: 0\n"));
    ck_assert_ptr_nonnull(strstr(text, "data: 199\n"));
    /* A reader that leaves. */
    atomic_store(&gone_calls, 0);
    fd = dial();
    say(fd, request, strlen(request));
    recv(fd, text, 100, 0);
    close(fd);
    pthread_join(helper, NULL);
    ck_assert_uint_le(atomic_load(&gone_calls), 1);
    stop();
}
END_TEST

/* Data segments that an answer to the body came in. */
static uint32_t segments_of_answer(const char *query)
{
    char text[4096];
    struct tcp_info info;
    socklen_t size = sizeof info;
    int fd = dial();
    size_t bytes = post_head(text, sizeof text, query);
    say(fd, text, bytes);
    say(fd, body, body_bytes);
    ck_assert_int_eq(answer_of(fd, text, sizeof text), 200);
    ck_assert_int_eq(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size), 0);
    close(fd);
    return info.tcpi_data_segs_in;
}

START_TEST(an_answer_is_one_piece)
{
    START("--http-threads", "2");
    ck_assert_uint_eq(segments_of_answer(""), 1);
    ck_assert_uint_eq(segments_of_answer("?return_lse=true"), 1 + _i / 2); /* libmicrohttpd: its head, then a vector */
    stop();
}
END_TEST

static bool one_cancelled(void)
{
    return atomic_load(&fake_cancelled) == 1;
}

START_TEST(a_client_that_leaves_cancels)
{
    char head[256];
    START("--http-threads", "2");
    atomic_store(&fake_delay_us, 4000000000u);
    for (int half = 0; half < 2; half++) {
        atomic_store(&fake_cancelled, 0);
        int fd = dial();
        say(fd, head, post_head(head, sizeof head, ""));
        say(fd, body, body_bytes);
        if (half) {
            shutdown(fd, SHUT_WR); /* at once: perhaps before the request was submitted */
        } else {
            usleep(50000);
            close(fd);
        }
        ck_assert(soon(one_cancelled));
        ck_assert(soon(no_tickets));
        if (half) {
            close(fd);
        }
    }
    stop();
}
END_TEST

/* Each leaves at a place of its own. */
static void *restless(void *arg)
{
    unsigned dice = (unsigned)(uintptr_t)arg;
    char head[256], text[4096];
    for (int i = 0; i < 60; i++) {
        int fd = dial();
        size_t head_bytes = post_head(head, sizeof head, i % 7 == 0 ? "?variant=none" : "");
        switch (rand_r(&dice) % 6) {
        case 0: /* in the head */
            say(fd, head, (size_t)rand_r(&dice) % head_bytes);
            break;
        case 1: /* in the body */
            say(fd, head, head_bytes);
            say(fd, body, (size_t)rand_r(&dice) % body_bytes);
            break;
        case 2: /* while it runs */
            say(fd, head, head_bytes);
            say(fd, body, body_bytes);
            usleep((unsigned)rand_r(&dice) % 2000);
            break;
        case 3: /* two at once, one answer read */
            say(fd, head, head_bytes);
            say(fd, body, body_bytes);
            say(fd, head, head_bytes);
            say(fd, body, body_bytes);
            answer_of(fd, text, sizeof text);
            break;
        default:
            say(fd, head, head_bytes);
            say(fd, body, body_bytes);
            answer_of(fd, text, sizeof text);
        }
        if (rand_r(&dice) % 2) {
            const struct linger reset = {1, 0};
            setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        }
        close(fd);
    }
    return NULL;
}

START_TEST(clients_that_leave_everywhere)
{
    pthread_t clients[8];
    char text[4096];
    START("--http-threads", "3");
    atomic_store(&fake_delay_us, 2000);
    for (uintptr_t i = 0; i < 8; i++) {
        pthread_create(&clients[i], NULL, restless, (void *)(i + 1));
    }
    for (int i = 0; i < 8; i++) {
        pthread_join(clients[i], NULL);
    }
    ck_assert(soon(no_tickets));
    ck_assert_int_eq(post(text, sizeof text), 200);
    stop();
}
END_TEST

/* The head and the header of a body of 4,000,000 bytes. */
static size_t big_head(char *ret, size_t size)
{
    return (size_t)snprintf(ret, size,
                            "POST /v1/attention HTTP/1.1\r\nHost: x\r\nContent-Type: application/safetensors\r\n"
                            "%sContent-Length: 4000000\r\n\r\n",
                            special);
}

static void big_header(void)
{
    static const char text[] =
        "{\"q\":{\"dtype\":\"F16\",\"shape\":[1,1,1,1],\"data_offsets\":[0,2]},\"k\":{\"dtype\":\"F16\",\"shape\":[1,"
        "999900,1,1],\"data_offsets\":[2,1999802]},\"v\":{\"dtype\":\"F16\",\"shape\":[1,999900,1,1],\"data_offsets\":["
        "1999802,3999602]}}";
    uint64_t length = htole64(390);
    memset(body, ' ', sizeof body);
    memcpy(body, &length, 8);
    memcpy(body + 8, text, sizeof text - 1);
    body_bytes = 398;
}

static void *break_off(void *arg)
{
    static const char piece[1 << 16];
    char head[256];
    for (int i = 0; i < 20; i++) {
        int fd = dial();
        say(fd, head, big_head(head, sizeof head));
        say(fd, body, body_bytes);
        for (int k = 0; k < 30; k++) {
            say(fd, piece, sizeof piece);
        }
        close(fd);
    }
    return NULL;
}

START_TEST(uploads_broken_off_are_noticed)
{
    /* The end of the connection comes with the last bytes, which libmicrohttpd overlooks. */
    pthread_t clients[4];
    START("--http-threads", "2", "--min-upload-rate", "0", "--idle-timeout-ms", "3600000");
    big_header();
    for (int i = 0; i < 4; i++) {
        pthread_create(&clients[i], NULL, break_off, NULL);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(clients[i], NULL);
    }
    ck_assert(soon(no_tickets));
    stop();
}
END_TEST

START_TEST(slow_ones_are_cut_off)
{
    char head[256], text[4096];
    START("--min-upload-rate", "1M", "--rate-grace-ms", "200", "--header-timeout-ms", "300");
    static const char fast[3 << 20];
    int sender = dial(), header = dial(), stalls = dial();
    /* Three seconds' worth at once, then nothing. */
    big_header();
    say(stalls, head, big_head(head, sizeof head));
    say(stalls, body, body_bytes);
    say(stalls, fast, sizeof fast);
    int64_t began = attn_clock_ns();
    ck_assert_int_eq(answer_of(stalls, text, sizeof text), 408);
    ck_assert_int_lt(attn_clock_ns() - began, 2 * ATTN_NS_PER_S);
    close(stalls);
    make_body();
    say(sender, head, post_head(head, sizeof head, ""));
    say(sender, body, 100);
    say(header, "POST /v1", 8);
    ck_assert_int_eq(answer_of(sender, text, sizeof text), 408);
    ck_assert_ptr_nonnull(strstr(text, "\"TIMEOUT\""));
    ck_assert_int_eq(answer_of(header, text, sizeof text), 0);
    close(sender);
    close(header);
    ck_assert(soon(no_tickets));
    stop();
}
END_TEST

static bool one_waits(void)
{
    return atomic_load(&fake_waiting) == 1;
}

START_TEST(drain_answers_everyone)
{
    char head[256], text[4096];
    START("--http-threads", "2");
    atomic_store(&fake_delay_us, 4000000000u);
    int parked = dial(), arriving = dial(), idle = dial();
    say(parked, head, post_head(head, sizeof head, ""));
    say(parked, body, body_bytes);
    say(arriving, head, post_head(head, sizeof head, ""));
    say(arriving, body, 20);
    ck_assert(soon(one_waits));
    attn_http_drain_begin(http);
    ck_assert_int_eq(ask("GET /v2/health/ready HTTP/1.1\r\nHost: x\r\n\r\n", text, sizeof text), 503);
    ck_assert_int_eq(ask("GET /v1/variants HTTP/1.1\r\nHost: x\r\n\r\n", text, sizeof text), 200);
    ck_assert_ptr_nonnull(strcasestr(text, "Connection: close"));
    attn_http_drain_refuse(http);
    ck_assert_int_eq(answer_of(arriving, text, sizeof text), 503);
    fake_stop();
    ck_assert_int_eq(answer_of(parked, text, sizeof text), 200);
    attn_http_drain_finish(http, 2000);
    ck_assert(attn_http_stop(http));
    ck_assert_uint_eq(tickets(), 0);
    attn_admit_destroy(front.admit);
    close(parked);
    close(arriving);
    close(idle);
}
END_TEST

START_TEST(a_taken_port_is_named)
{
    attn_error_t err;
    attn_http_t *second;
    char port[8];
    START("--http-threads", "2");
    snprintf(port, sizeof port, "%u", attn_http_port(http));
    options.http_port = attn_http_port(http);
    ck_assert_int_eq(attn_http_start(&front, &second, &err), ATTN_ERR_SYSTEM);
    ck_assert_ptr_nonnull(strstr(err.message, port));
    ck_assert_ptr_nonnull(strstr(err.message, "already in use"));
    stop();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("http");
    TCase *tests = tcase_create("http");
    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, answers, 0, 4);
    tcase_add_loop_test(tests, an_answer_is_one_piece, 0, 4);
    tcase_add_loop_test(tests, a_flood_leaves_a_loop_to_others, 0, 2);
    tcase_add_loop_test(tests, streams, 0, 2);
    tcase_add_loop_test(tests, a_client_that_leaves_cancels, 0, 4);
    tcase_add_loop_test(tests, clients_that_leave_everywhere, 0, 4);
    tcase_add_loop_test(tests, uploads_broken_off_are_noticed, 0, 4);
    tcase_add_loop_test(tests, slow_ones_are_cut_off, 0, 4);
    tcase_add_loop_test(tests, drain_answers_everyone, 0, 4);
    tcase_add_test(tests, a_taken_port_is_named);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
