/* test_client_parsers.c: what libattn reads: addresses of servers and heads of answers. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "conn_head.h"

/* ---- addresses ---- */

static const struct {
    const char *url, *host, *port;
    attn_status_t status;
} addresses[] = {
    {"http://127.0.0.1:8000", "127.0.0.1", "8000", ATTN_OK},
    {"http://box/", "box", "80", ATTN_OK},
    {"http://[::1]:8000", "::1", "8000", ATTN_OK},
    {"http://[fe80::1]", "fe80::1", "80", ATTN_OK},
    {"https://box:1", "", "", ATTN_ERR_UNIMPLEMENTED},
    {"box:8000", "", "", ATTN_ERR_INVALID_ARGUMENT},
    {"http://", "", "", ATTN_ERR_INVALID_ARGUMENT},
    {"http://:80", "", "", ATTN_ERR_INVALID_ARGUMENT},
    {"http://box:", "", "", ATTN_ERR_INVALID_ARGUMENT},
    {"http://box:0", "", "", ATTN_ERR_INVALID_ARGUMENT},
    {"http://box:65536", "", "", ATTN_ERR_INVALID_ARGUMENT},
    {"http://box:80x", "", "", ATTN_ERR_INVALID_ARGUMENT},
    {"http://box:8000/path", "", "", ATTN_ERR_INVALID_ARGUMENT},
    {"http://user@box:8000", "", "", ATTN_ERR_INVALID_ARGUMENT},
    {"http://bo\rx", "", "", ATTN_ERR_INVALID_ARGUMENT},
    {"http://[::1", "", "", ATTN_ERR_INVALID_ARGUMENT},
    {"http://[::1]x", "", "", ATTN_ERR_INVALID_ARGUMENT},
    {"http://[]:80", "", "", ATTN_ERR_INVALID_ARGUMENT},
    {"", "", "", ATTN_ERR_INVALID_ARGUMENT},
    {NULL, "", "", ATTN_ERR_INVALID_ARGUMENT},
};

START_TEST(test_address)
{
    attn_endpoint_t endpoint = {"", ""};
    attn_error_t error;
    ck_assert_int_eq(attn_endpoint_parse(addresses[_i].url, &endpoint, &error), addresses[_i].status);
    ck_assert_str_eq(endpoint.host, addresses[_i].host);
    ck_assert_str_eq(endpoint.port, addresses[_i].port);
}
END_TEST

/* ---- heads ---- */

static const struct {
    const char *text;
    attn_status_t status;
    uint64_t length;
    bool keep_alive;
} heads[] = {
    {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", ATTN_OK, 5, true},
    {"HTTP/1.1 200\r\ncontent-length:5 \r\nConnection: x, Close\r\n\r\n", ATTN_OK, 5, false},
    {"HTTP/1.0 200 OK\nContent-Length: 5\n\n", ATTN_OK, 5, false},
    {"HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n", ATTN_OK, 5, true},
    {"HTTP/1.1 204 No Content\r\n\r\n", ATTN_OK, 0, true},
    {"HTTP/1.1 100 Continue\r\n\r\n", ATTN_OK, 0, true},
    {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", ATTN_OK, 5, true},
    {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", ATTN_ERR_INTERNAL, 0, false},
    {"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", ATTN_ERR_INTERNAL, 0, false},
    {"HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n", ATTN_ERR_INTERNAL, 0, false},
    {"HTTP/1.1 200 OK\r\nContent-Length: 0x10\r\n\r\n", ATTN_ERR_INTERNAL, 0, false},
    {"HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775808\r\n\r\n", ATTN_ERR_INTERNAL, 0, false},
    {"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n", ATTN_ERR_INTERNAL, 0, false},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", ATTN_ERR_INTERNAL, 0, false},
    {"HTTP/1.1 200 OK\r\n\r\n", ATTN_ERR_INTERNAL, 0, false},
    {"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", ATTN_ERR_INTERNAL, 0, false},
    {"HTTP/1.1 200 OK\r\n: no name\r\n\r\n", ATTN_ERR_INTERNAL, 0, false},
    {"HTTP/1.1 20 OK\r\n\r\n", ATTN_ERR_INTERNAL, 0, false},
    {"HTTP/1.1 999 OK\r\n\r\n", ATTN_ERR_INTERNAL, 0, false},
    {"HTTP/2 200 OK\r\n\r\n", ATTN_ERR_INTERNAL, 0, false},
    {"SSH-2.0-OpenSSH\r\n\r\n", ATTN_ERR_INTERNAL, 0, false},
    {"\r\n\r\n", ATTN_ERR_INTERNAL, 0, false},
};

START_TEST(test_head)
{
    attn_conn_head_t head = {0};
    attn_error_t error;
    bool keep_alive = false;
    /* On the heap, so that the sanitizer sees a read past the end. */
    size_t size = strlen(heads[_i].text);
    char *text = malloc(size);
    memcpy(text, heads[_i].text, size);
    ck_assert_msg(attn_conn_head_parse(text, size, &head, &keep_alive, &error) == heads[_i].status, "%s: %s",
                  heads[_i].text, error.message);
    ck_assert_uint_eq(head.content_length, heads[_i].length);
    ck_assert_int_eq(keep_alive, heads[_i].keep_alive);
    free(text);
}
END_TEST

START_TEST(test_head_fields)
{
    const char *text = "HTTP/1.1 202 Accepted\r\nContent-Type: Application/JSON; charset=x\r\nLocation: /v1/jobs/a\r\n"
                       "Content-Length: 1\r\n\r\n";
    attn_conn_head_t head;
    attn_error_t error;
    bool keep_alive;
    ck_assert_int_eq(attn_conn_head_parse(text, strlen(text), &head, &keep_alive, &error), ATTN_OK);
    ck_assert_int_eq(head.status, 202);
    ck_assert_str_eq(head.content_type, "application/json");
    ck_assert_str_eq(head.location, "/v1/jobs/a");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("client_parsers");
    TCase *parsers = tcase_create("parsers");
    tcase_add_loop_test(parsers, test_address, 0, (int)(sizeof addresses / sizeof addresses[0]));
    tcase_add_loop_test(parsers, test_head, 0, (int)(sizeof heads / sizeof heads[0]));
    tcase_add_test(parsers, test_head_fields);
    suite_add_tcase(suite, parsers);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
