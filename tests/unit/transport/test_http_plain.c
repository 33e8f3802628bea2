/* tests/unit/transport/test_http_plain.c: which heads are read without libmicrohttpd, and what is read from them. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "transport/http_internal.h"

#define LINE "POST /v1/attention HTTP/1.1\r\n"
#define REST "Host: x\r\nContent-Type: application/safetensors\r\nContent-Length: 12\r\n\r\n"

/* In memory of exactly its size, so that a sanitizer sees a step beyond. */
static bool plain(const char *head, size_t bytes, http_plain_t *ret, char **ret_copy)
{
    *ret_copy = malloc(bytes > 0 ? bytes : 1);
    memcpy(*ret_copy, head, bytes);
    return http_plain_read(*ret_copy, bytes, ret);
}

static bool taken(const char *head, size_t bytes)
{
    http_plain_t ignored;
    char *copy;
    bool good = plain(head, bytes, &ignored, &copy);
    free(copy);
    return good;
}

START_TEST(what_is_read)
{
    static const char head[] =
        "POST /v1/attention?causal=true&id=%41 HTTP/1.1\r\nhost: x:1\r\nX-Request-Id: \t mine \r\n"
        "Accept:\r\nCONNECTION: Keep-Alive\r\ncontent-type:application/x-attn\r\n"
        "Content-Length: 0123456789\r\n\r\nbody\r\n\r\n";
    http_plain_t got;
    char *copy;
    ck_assert(plain(head, sizeof head - 1, &got, &copy));
    ck_assert_str_eq(got.uri, "/v1/attention?causal=true&id=%41");
    ck_assert_uint_eq(got.bytes, sizeof head - 1 - 8);
    ck_assert_uint_eq(got.body_bytes, 123456789);
    ck_assert_uint_eq(got.header_count, 6);
    ck_assert_str_eq(got.headers[1].name, "X-Request-Id");
    ck_assert_str_eq(got.headers[1].value, "mine");
    ck_assert_str_eq(got.headers[2].value, "");
    ck_assert_str_eq(got.headers[4].value, "application/x-attn");
    free(copy);
}
END_TEST

START_TEST(no_part_of_a_head_is_taken)
{
    static const char head[] = LINE REST;
    for (size_t bytes = 0; bytes < sizeof head - 1; bytes++) {
        ck_assert_msg(!taken(head, bytes), "%zu bytes", bytes);
    }
    ck_assert(taken(head, sizeof head - 1));
}
END_TEST

static const char *const others[] = {
    "GET /v1/attention HTTP/1.1\r\n" REST,
    "post /v1/attention HTTP/1.1\r\n" REST,
    "POST  /v1/attention HTTP/1.1\r\n" REST,
    "POST /v1/attention  HTTP/1.1\r\n" REST,
    "POST /v1/attention HTTP/1.0\r\n" REST,
    "POST /v1/attention\r\n" REST,
    "POST /v1/attentions HTTP/1.1\r\n" REST,
    "POST /v1/attention/ HTTP/1.1\r\n" REST,
    "POST /v1/compare HTTP/1.1\r\n" REST,
    "POST http://x/v1/attention HTTP/1.1\r\n" REST,
    "POST /v1/attention?a=\x80 HTTP/1.1\r\n" REST,
    "POST /v1/attention?a b HTTP/1.1\r\n" REST,
    "POST /v1/attention#a HTTP/1.1\r\n" REST,
    "\r\n" LINE REST,
    LINE "Transfer-Encoding: chunked\r\n" REST,
    LINE "transfer-encoding: identity\r\n" REST,
    LINE "Content-Encoding: gzip\r\n" REST,
    LINE "Expect: 100-continue\r\n" REST,
    LINE "Upgrade: h2c\r\n" REST,
    LINE "TE: trailers\r\n" REST,
    LINE "Trailer: a\r\n" REST,
    LINE "Connection: close\r\n" REST,
    LINE "Connection: keep-alive, upgrade\r\n" REST,
    LINE "Host: y\r\n" REST,
    LINE "Content-Length: 12\r\n" REST,
    LINE "Content-Type: a/b\r\n" REST,
    LINE " folded: x\r\n" REST,
    LINE "X: y\r\n z\r\n" REST,
    LINE "X : y\r\n" REST,
    LINE "X\r\n" REST,
    LINE ": y\r\n" REST,
    LINE "X(: y\r\n" REST,
    LINE "X: a\x01\r\n" REST,
    LINE "X: a\nY: b\r\n" REST,
    LINE "X: a\rY: b\r\n" REST,
    LINE "Content-Type: a/b\r\nContent-Length: 12\r\n\r\n",
    LINE "Host: x\r\nContent-Length: 12\r\n\r\n",
    LINE "Host: x\r\nContent-Type: a/b\r\n\r\n",
    LINE "Host: x\r\nContent-Type: a/b\r\nContent-Length: 0\r\n\r\n",
    LINE "Host: x\r\nContent-Type: a/b\r\nContent-Length: \r\n\r\n",
    LINE "Host: x\r\nContent-Type: a/b\r\nContent-Length: +12\r\n\r\n",
    LINE "Host: x\r\nContent-Type: a/b\r\nContent-Length: 12, 12\r\n\r\n",
    LINE "Host: x\r\nContent-Type: a/b\r\nContent-Length: 0x12\r\n\r\n",
    LINE "Host: x\r\nContent-Type: a/b\r\nContent-Length: 9223372036854775808\r\n\r\n",
    LINE "\r\n\r\n",
};

START_TEST(others_are_left_alone)
{
    ck_assert_msg(!taken(others[_i], strlen(others[_i])), "%s", others[_i]);
}
END_TEST

START_TEST(a_nul_is_not_the_end_of_a_value)
{
    static const char head[] = LINE "X: a\0Transfer-Encoding: chunked\r\n" REST;
    ck_assert(!taken(head, sizeof head - 1));
}
END_TEST

START_TEST(headers_are_counted)
{
    char head[HTTP_PLAIN_BYTES];
    for (int more = 0; more <= HTTP_PLAIN_HEADERS; more++) {
        size_t used = (size_t)snprintf(head, sizeof head, "%s", LINE);
        for (int i = 0; i < more; i++) {
            used += (size_t)snprintf(head + used, sizeof head - used, "X-%d: y\r\n", i);
        }
        used += (size_t)snprintf(head + used, sizeof head - used, "%s", REST);
        ck_assert_int_eq(taken(head, used), more + 3 <= HTTP_PLAIN_HEADERS);
    }
}
END_TEST

/* Bytes changed, lost and doubled: whatever is taken still has what it must have. */
START_TEST(mutations)
{
    unsigned dice = 7;
    for (int i = 0; i < 200000; i++) {
        char head[512] = LINE "X-Request-Id: a\r\n" REST "123456789012";
        size_t bytes = strlen(head);
        for (int changes = 1 + rand_r(&dice) % 4; changes > 0; changes--) {
            size_t at = (size_t)rand_r(&dice) % bytes, other = (size_t)rand_r(&dice) % bytes;
            switch (rand_r(&dice) % 3) {
            case 0:
                head[at] = (char)(rand_r(&dice) % 3 ? head[other] : rand_r(&dice));
                break;
            case 1:
                memmove(head + at, head + at + 1, bytes - at - 1);
                bytes -= bytes > 2;
                break;
            default:
                memmove(head + at + 1, head + at, bytes - at);
                bytes++;
            }
        }
        http_plain_t got;
        char *copy;
        if (plain(head, bytes, &got, &copy)) {
            ck_assert_uint_le(got.bytes, bytes);
            ck_assert_int_eq(strncmp(got.uri, "/v1/attention", 13), 0);
            ck_assert_uint_gt(got.body_bytes, 0);
            for (uint32_t k = 0; k < got.header_count; k++) {
                ck_assert(http_name_valid(got.headers[k].name, strlen(got.headers[k].name)));
                ck_assert_ptr_null(strpbrk(got.headers[k].value, "\r\n"));
            }
        }
        free(copy);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("http_plain");
    TCase *tests = tcase_create("http_plain");
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, what_is_read);
    tcase_add_test(tests, no_part_of_a_head_is_taken);
    tcase_add_loop_test(tests, others_are_left_alone, 0, sizeof others / sizeof others[0]);
    tcase_add_test(tests, a_nul_is_not_the_end_of_a_value);
    tcase_add_test(tests, headers_are_counted);
    tcase_add_test(tests, mutations);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
