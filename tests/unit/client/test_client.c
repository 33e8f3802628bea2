/* test_client.c: libattn against servers that cut off, lie about lengths, send garbage or vanish. */
#include <check.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "attn.h"
#include "attn/v1/attention.pb-c.h"
#include "script_server.h"

/* ---- a client against a script ---- */

#define ROWS 16
#define HEADS 4
#define DIM 8
#define O_BYTES (ROWS * HEADS * DIM * 4)
#define LSE_BYTES (ROWS * HEADS * 4)

static float q[ROWS * HEADS * DIM], k[ROWS * HEADS * DIM], v[ROWS * HEADS * DIM], o[ROWS * HEADS * DIM];
static float lse[ROWS * HEADS];
static attn_client_t *client;
static attn_client_error_t error;

static attn_client_request_t request_of(bool with_lse)
{
    return (attn_client_request_t){.spec = {.dtype = ATTN_DTYPE_F32,
                                            .layout = ATTN_LAYOUT_BSHD,
                                            .batch = 1,
                                            .s_q = ROWS,
                                            .s_kv = ROWS,
                                            .h_q = HEADS,
                                            .h_kv = HEADS,
                                            .d = DIM,
                                            .return_lse = with_lse},
                                   .q = q,
                                   .k = k,
                                   .v = v,
                                   .o = o,
                                   .lse = lse};
}

static void client_open(int port)
{
    char url[64];
    snprintf(url, sizeof url, "http://127.0.0.1:%d", port);
    attn_client_options_t options = {.stall_timeout_ms = 300, .answer_timeout_ms = 1000};
    ck_assert_int_eq(attn_client_open(url, &options, &client, &error), ATTN_OK);
}

static void client_end(void)
{
    attn_client_close(client);
    client = NULL;
    script_server_stop();
}

/* A right answer, in parts that a test can make wrong. */
typedef struct answer_parts {
    uint64_t o_length, lse_length, lse_offset, o_offset;
    uint64_t shape[4];
    uint32_t dtype;
    bool with_lse;
    size_t tensor_bytes;
    int64_t content_length_more; /* than there is */
    char magic;
    uint32_t metadata_more;
} answer_parts_t;

static answer_parts_t parts_good(bool with_lse)
{
    return (answer_parts_t){.o_length = O_BYTES,
                            .lse_length = LSE_BYTES,
                            .lse_offset = O_BYTES,
                            .shape = {1, ROWS, HEADS, DIM},
                            .dtype = ATTN_DTYPE_F32,
                            .with_lse = with_lse,
                            .tensor_bytes = O_BYTES + (with_lse ? LSE_BYTES : 0),
                            .magic = 'A'};
}

static char *answer_make(const answer_parts_t *parts, size_t *ret_bytes)
{
    Attn__V1__AttentionResponse response = ATTN__V1__ATTENTION_RESPONSE__INIT;
    Attn__V1__Outcome outcome = ATTN__V1__OUTCOME__INIT;
    Attn__V1__Tensor o_tensor = ATTN__V1__TENSOR__INIT, lse_tensor = ATTN__V1__TENSOR__INIT;
    Attn__V1__BodySlice o_slice = ATTN__V1__BODY_SLICE__INIT, lse_slice = ATTN__V1__BODY_SLICE__INIT;
    uint64_t shape[4], lse_shape[3] = {1, HEADS, ROWS};
    memcpy(shape, parts->shape, sizeof shape);
    outcome.variant = (char *)"cpu";
    outcome.batch_size = 1;
    o_slice.offset = parts->o_offset;
    o_slice.length = parts->o_length;
    lse_slice.offset = parts->lse_offset;
    lse_slice.length = parts->lse_length;
    o_tensor.n_shape = 4;
    o_tensor.shape = shape;
    o_tensor.where_case = lse_tensor.where_case = ATTN__V1__TENSOR__WHERE_BODY;
    o_tensor.body = &o_slice;
    lse_tensor.n_shape = 3;
    lse_tensor.shape = lse_shape;
    lse_tensor.body = &lse_slice;
    response.id = (char *)"x";
    response.outcome = &outcome;
    response.dtype = (Attn__V1__DType)parts->dtype;
    response.layout = ATTN__V1__LAYOUT__LAYOUT_BSHD;
    response.o = &o_tensor;
    response.lse = parts->with_lse ? &lse_tensor : NULL;
    uint32_t metadata = (uint32_t)attn__v1__attention_response__get_packed_size(&response);
    size_t body = 16 + metadata + parts->tensor_bytes;
    char *text = calloc(1, body + 256);
    size_t used =
        (size_t)sprintf(text, "HTTP/1.1 200 OK\r\nContent-Type: application/x-attn\r\nContent-Length: %lld\r\n\r\n",
                        (long long)body + (long long)parts->content_length_more);
    uint32_t prefix[4] = {0, 1, 0, metadata + parts->metadata_more};
    memcpy(prefix, "ATTN", 4);
    memcpy(text + used, prefix, 16);
    text[used] = parts->magic;
    attn__v1__attention_response__pack(&response, (uint8_t *)text + used + 16);
    memset(text + used + 16 + metadata, 0x3F, parts->tensor_bytes);
    *ret_bytes = used + body;
    return text;
}

/* One run against one answer. */
static attn_status_t run_against(const script_answer_t *script, size_t count, bool with_lse)
{
    attn_client_request_t request = request_of(with_lse);
    attn_client_answer_t answer;
    memset(o, 0, sizeof o);
    memset(lse, 0, sizeof lse);
    client_open(script_server_start(script, count));
    attn_status_t status = attn_client_run(client, &request, NULL, &answer, &error);
    if (status == ATTN_OK) {
        ck_assert_str_eq(answer.variant, "cpu");
    } else {
        ck_assert_int_eq(status, error.error.status);
        ck_assert_uint_gt(strlen(error.error.message), 10);
    }
    client_end();
    return status;
}

START_TEST(test_run_good)
{
    for (int with_lse = 0; with_lse < 2; with_lse++) {
        size_t bytes;
        answer_parts_t parts = parts_good(with_lse);
        char *text = answer_make(&parts, &bytes);
        script_answer_t script = {SIZE_MAX, text, bytes, 20, true, false};
        ck_assert_msg(run_against(&script, 1, with_lse) == ATTN_OK, "%s", error.error.message);
        unsigned char byte;
        memcpy(&byte, (char *)o + O_BYTES - 1, 1);
        ck_assert_uint_eq(byte, 0x3F);
        memcpy(&byte, (char *)lse + LSE_BYTES - 1, 1);
        ck_assert_uint_eq(byte, with_lse ? 0x3F : 0);
        ck_assert_ptr_nonnull(strstr(script_server_request(), "POST /v1/attention HTTP/1.1\r\n"));
        ck_assert_ptr_nonnull(strstr(script_server_request(), "Content-Type: application/x-attn\r\n"));
        free(text);
    }
}
END_TEST

/* LSE may come before O. */
START_TEST(test_run_other_order)
{
    size_t bytes;
    answer_parts_t parts = parts_good(true);
    parts.lse_offset = 0;
    parts.o_offset = LSE_BYTES;
    char *text = answer_make(&parts, &bytes);
    script_answer_t script = {SIZE_MAX, text, bytes, 0, true, false};
    ck_assert_msg(run_against(&script, 1, true) == ATTN_OK, "%s", error.error.message);
    free(text);
}
END_TEST

START_TEST(test_run_lies)
{
    answer_parts_t wrong[12];
    size_t count = sizeof wrong / sizeof wrong[0];
    for (size_t i = 0; i < count; i++) {
        wrong[i] = parts_good(true);
    }
    wrong[0].o_length = O_BYTES * 2;                 /* more than O has room for */
    wrong[1].o_length = UINT64_MAX;                  /* overflow */
    wrong[2].lse_offset = 0;                         /* overlap */
    wrong[3].shape[1] = ROWS - 1;                    /* another shape */
    wrong[4].dtype = ATTN_DTYPE_F16;                 /* another type */
    wrong[5].with_lse = false;                       /* LSE was asked for */
    wrong[6].tensor_bytes = O_BYTES + LSE_BYTES + 8; /* bytes left over */
    wrong[7].tensor_bytes = 8;                       /* the body ends early */
    wrong[8].magic = 'B';                            /* not the framing */
    wrong[9].metadata_more = 5;                      /* metadata run into the tensors */
    wrong[10].metadata_more = 1u << 30;              /* metadata of a GiB */
    wrong[11].lse_offset = O_BYTES + 4;              /* a gap */
    for (size_t i = 0; i < count; i++) {
        size_t bytes;
        char *text = answer_make(&wrong[i], &bytes);
        script_answer_t script = {SIZE_MAX, text, bytes, 0, true, false};
        ck_assert_msg(run_against(&script, 1, true) == ATTN_ERR_INTERNAL, "lie %zu: %s", i, error.error.message);
        free(text);
    }
}
END_TEST

START_TEST(test_run_truncated)
{
    size_t bytes;
    answer_parts_t parts = parts_good(true);
    char *text = answer_make(&parts, &bytes);
    static const size_t cuts[] = {1, 15, 40, 80, 90, 100, 200, 1000};
    for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++) {
        ck_assert_uint_lt(cuts[i], bytes);
        script_answer_t script = {SIZE_MAX, text, cuts[i], 0, true, false};
        ck_assert_msg(run_against(&script, 1, true) == ATTN_ERR_CONNECTION, "cut %zu: %s", cuts[i],
                      error.error.message);
        ck_assert(error.retryable);
    }
    free(text);
}
END_TEST

START_TEST(test_run_stalls)
{
    size_t bytes;
    answer_parts_t parts = parts_good(false);
    char *text = answer_make(&parts, &bytes);
    script_answer_t slow = {SIZE_MAX, text, bytes, 2000, true, false}; /* the client waits for 300 ms */
    ck_assert_int_eq(run_against(&slow, 1, false), ATTN_ERR_TIMEOUT);
    parts.content_length_more = 100;
    free(text);
    text = answer_make(&parts, &bytes);
    script_answer_t longer = {SIZE_MAX, text, bytes, 0, true, false};
    ck_assert_int_eq(run_against(&longer, 1, false), ATTN_ERR_INTERNAL); /* announces more than the tensors */
    free(text);
}
END_TEST

START_TEST(test_garbage)
{
    static const char garbage[] = "\x00\xff\x13\x37 garbage \n\n more";
    script_answer_t script = {SIZE_MAX, garbage, sizeof garbage, 0, true, false};
    ck_assert_int_eq(run_against(&script, 1, false), ATTN_ERR_INTERNAL);
    /* A head without an end. */
    size_t size = 40000;
    char *head = malloc(size);
    memset(head, 'x', size);
    memcpy(head, "HTTP/1.1 200 OK\r\nA: ", 20);
    script_answer_t endless = {SIZE_MAX, head, size, 0, true, false};
    ck_assert_int_eq(run_against(&endless, 1, false), ATTN_ERR_INTERNAL);
    ck_assert_ptr_nonnull(strstr(error.error.message, "head"));
    free(head);
}
END_TEST

static const char refusal[] =
    "HTTP/1.1 422 Unprocessable\r\nContent-Type: application/json\r\nContent-Length: 121\r\n\r\n"
    "{\"error\":\"cpu cannot do this\",\"code\":\"FAILED_PRECONDITION\",\"request_id\":\"r1\","
    "\"retryable\":false,\"missing\":[\"dtype\",\"lse\"]}";

START_TEST(test_refusal_word_for_word)
{
    ck_assert_uint_eq(strlen(strstr(refusal, "\r\n\r\n") + 4), 121);
    script_answer_t script = {SIZE_MAX, refusal, strlen(refusal), 0, true, false};
    ck_assert_int_eq(run_against(&script, 1, false), ATTN_ERR_FAILED_PRECONDITION);
    ck_assert_str_eq(error.error.message, "cpu cannot do this");
    ck_assert_str_eq(error.request_id, "r1");
    ck_assert_int_eq(error.http_status, 422);
    ck_assert(!error.retryable);
    ck_assert_uint_eq(error.missing.count, 2);
    ck_assert_str_eq(error.missing.item[1], "lse");
}
END_TEST

START_TEST(test_refusal_of_a_proxy)
{
    static const char text[] = "HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>";
    script_answer_t script = {SIZE_MAX, text, sizeof text - 1, 0, true, false};
    ck_assert_int_eq(run_against(&script, 1, false), ATTN_ERR_UNAVAILABLE);
    ck_assert_int_eq(error.http_status, 502);
    ck_assert_ptr_nonnull(strstr(error.error.message, "502"));
}
END_TEST

/* The refusal comes while megabytes are still to be sent; the server then resets the connection. */
START_TEST(test_refusal_in_mid_upload)
{
    enum { MANY = 1 << 18 };
    float *large = calloc(MANY * 4, 64);
    attn_client_request_t request = request_of(false);
    request.spec.s_q = request.spec.s_kv = MANY / 4;
    request.spec.d = 64;
    request.q = request.k = request.v = large;
    request.o = large;
    script_answer_t script = {4096, refusal, strlen(refusal), 0, true, false};
    client_open(script_server_start(&script, 1));
    ck_assert_int_eq(attn_client_run(client, &request, NULL, NULL, &error), ATTN_ERR_FAILED_PRECONDITION);
    ck_assert_str_eq(error.error.message, "cpu cannot do this");
    client_end();
    free(large);
}
END_TEST

START_TEST(test_vanishing_server)
{
    script_answer_t at_once = {64, "", 0, 0, true, false};
    ck_assert_int_eq(run_against(&at_once, 1, false), ATTN_ERR_CONNECTION);
    script_answer_t reset = {SIZE_MAX, "", 0, 0, false, true};
    ck_assert_int_eq(run_against(&reset, 1, false), ATTN_ERR_CONNECTION);
    ck_assert(error.retryable);
    /* Nobody listens. */
    ck_assert_int_eq(attn_client_open("http://127.0.0.1:1", NULL, &client, &error), ATTN_OK);
    attn_client_request_t request = request_of(false);
    ck_assert_int_eq(attn_client_run(client, &request, NULL, NULL, &error), ATTN_ERR_CONNECTION);
    ck_assert_ptr_nonnull(strstr(error.error.message, "127.0.0.1 port 1"));
    attn_client_close(client);
}
END_TEST

START_TEST(test_silent_server)
{
    script_answer_t silent = {SIZE_MAX, "", 0, 0, false, false};
    ck_assert_int_eq(run_against(&silent, 1, false), ATTN_ERR_TIMEOUT);
    ck_assert_ptr_nonnull(strstr(error.error.message, "1.0 s"));
}
END_TEST

/* A connection is used again, and one that the server closed meanwhile is replaced. */
START_TEST(test_keep_alive_and_reconnect)
{
    size_t bytes;
    answer_parts_t parts = parts_good(false);
    char *text = answer_make(&parts, &bytes);
    script_answer_t script[] = {{SIZE_MAX, text, bytes, 0, false, false},
                                {SIZE_MAX, text, bytes, 0, true, false},
                                {SIZE_MAX, text, bytes, 0, false, false}};
    attn_client_request_t request = request_of(false);
    client_open(script_server_start(script, 3));
    for (int i = 0; i < 3; i++) {
        ck_assert_msg(attn_client_run(client, &request, NULL, NULL, &error) == ATTN_OK, "%d: %s", i,
                      error.error.message);
        usleep(20000); /* the close arrives */
    }
    client_end();
    ck_assert_uint_eq(script_server_connections(), 2);
    free(text);
}
END_TEST

enum { THREADS = 4, CALLS = 8 };

static void *many_calls(void *arg)
{
    size_t *good = arg;
    attn_client_request_t request = request_of(false);
    float *mine = malloc(O_BYTES);
    request.o = mine;
    for (int i = 0; i < CALLS; i++) {
        attn_client_error_t why;
        attn_client_answer_t answer;
        *good += attn_client_run(client, &request, NULL, &answer, &why) == ATTN_OK;
    }
    free(mine);
    return NULL;
}

/* One handle, many threads: every call has a connection of its own. */
START_TEST(test_threads)
{
    size_t bytes, good[THREADS] = {0};
    answer_parts_t parts = parts_good(false);
    char *text = answer_make(&parts, &bytes);
    script_answer_t script[THREADS * CALLS];
    for (int i = 0; i < THREADS * CALLS; i++) {
        script[i] = (script_answer_t){SIZE_MAX, text, bytes, 0, true, false};
    }
    pthread_t threads[THREADS];
    char url[64];
    snprintf(url, sizeof url, "http://127.0.0.1:%d", script_server_start(script, THREADS * CALLS));
    ck_assert_int_eq(attn_client_open(url, NULL, &client, &error), ATTN_OK);
    for (int i = 0; i < THREADS; i++) {
        pthread_create(&threads[i], NULL, many_calls, &good[i]);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        ck_assert_uint_eq(good[i], CALLS);
    }
    client_end();
    free(text);
}
END_TEST

static bool cancel_at_once(void *arg, attn_client_phase_t phase, uint64_t done, uint64_t total)
{
    return phase != ATTN_CLIENT_WAITING;
}

START_TEST(test_cancel)
{
    script_answer_t silent = {SIZE_MAX, "", 0, 0, false, false};
    attn_client_request_t request = request_of(false);
    attn_client_progress_t progress = {cancel_at_once, NULL};
    client_open(script_server_start(&silent, 1));
    ck_assert_int_eq(attn_client_run(client, &request, &progress, NULL, &error), ATTN_ERR_CANCELLED);
    client_end();
}
END_TEST

START_TEST(test_wrong_requests)
{
    ck_assert_int_eq(attn_client_open("http://127.0.0.1:1", NULL, &client, NULL), ATTN_OK);
    attn_client_request_t request = request_of(false);
    request.spec.h_kv = 3;
    ck_assert_int_eq(attn_client_run(client, &request, NULL, NULL, &error), ATTN_ERR_INVALID_ARGUMENT);
    request = request_of(false);
    request.k = NULL;
    ck_assert_int_eq(attn_client_run(client, &request, NULL, NULL, &error), ATTN_ERR_INVALID_ARGUMENT);
    request = request_of(true);
    request.lse = NULL;
    ck_assert_int_eq(attn_client_run(client, &request, NULL, NULL, &error), ATTN_ERR_INVALID_ARGUMENT);
    request = request_of(false);
    request.spec.layout = ATTN_LAYOUT_THD;
    ck_assert_int_eq(attn_client_run(client, &request, NULL, NULL, &error), ATTN_ERR_INVALID_ARGUMENT);
    attn_client_close(client);
    attn_client_close(NULL);
}
END_TEST

/* ---- JSON ---- */

static char *json_answer(const char *head, const char *body)
{
    char *text = NULL;
    ck_assert_int_gt(asprintf(&text, "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                              head, strlen(body), body),
                     0);
    return text;
}

START_TEST(test_compare)
{
    char *texts[] = {
        json_answer("202 Accepted", "{\"id\":\"j-1\",\"state\":\"queued\",\"steps_done\":0,\"steps_total\":4}"),
        json_answer("200 OK", "{\"id\":\"j-1\",\"state\":\"running\",\"steps_done\":1,\"steps_total\":4}"),
        json_answer("200 OK",
                    "{\"id\":\"j-1\",\"state\":\"done\",\"result\":{\"results\":[{\"variant\":\"cpu\",\"accuracy\":{"
                    "\"max_abs\":0.25,\"pass\":true},\"median_us\":5,\"tflops\":1.5,\"rounds\":3},{\"variant\":\"b\","
                    "\"error\":{\"error\":\"b died\",\"code\":\"WORKER_DIED\",\"retryable\":true}}],"
                    "\"provenance\":{\"device\":\"CPU\"}}}")};
    script_answer_t script[3];
    for (int i = 0; i < 3; i++) {
        script[i] = (script_answer_t){SIZE_MAX, texts[i], strlen(texts[i]), 0, false, false};
    }
    attn_client_compare_t compare = {.request = request_of(false), .seeded = true, .seed = 1};
    attn_client_comparison_t *result = NULL;
    client_open(script_server_start(script, 3));
    ck_assert_msg(attn_client_compare(client, &compare, NULL, &result, &error) == ATTN_OK, "%s", error.error.message);
    client_end();
    ck_assert_ptr_nonnull(strstr(script_server_request(), "GET /v1/jobs/j-1?wait="));
    ck_assert_uint_eq(result->row_count, 2);
    ck_assert(result->rows[0].pass);
    ck_assert_double_eq(result->rows[0].max_abs, 0.25);
    ck_assert_double_eq(result->rows[0].tflops, 1.5);
    ck_assert_int_eq(result->rows[1].error.error.status, ATTN_ERR_WORKER_DIED);
    ck_assert(!result->rows[1].pass);
    ck_assert_str_eq(result->device, "CPU");
    attn_client_comparison_free(result);
    for (int i = 0; i < 3; i++) {
        free(texts[i]);
    }
}
END_TEST

START_TEST(test_compare_lies)
{
    static const char *const bodies[] = {
        "[]",
        "{",
        "{}",
        "{\"state\":\"queued\"}",
        "{\"id\":\"../x\",\"state\":\"running\"}",
        "{\"id\":\"a b\",\"state\":\"running\"}",
        "{\"id\":7,\"state\":\"running\"}",
        "{\"id\":\"a\",\"state\":\"dancing\"}",
        "{\"id\":\"a\",\"state\":\"done\"}",
        "{\"id\":\"a\",\"state\":\"done\",\"result\":{\"results\":[]}}",
        "{\"id\":\"a\",\"state\":\"done\",\"result\":7}",
    };
    attn_client_compare_t compare = {.request = request_of(false), .seeded = true};
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        attn_client_comparison_t *result = NULL;
        char *text = json_answer("200 OK", bodies[i]);
        script_answer_t script = {SIZE_MAX, text, strlen(text), 0, true, false};
        client_open(script_server_start(&script, 1));
        ck_assert_msg(attn_client_compare(client, &compare, NULL, &result, &error) == ATTN_ERR_INTERNAL, "%s: %s",
                      bodies[i], error.error.message);
        client_end();
        free(text);
    }
}
END_TEST

START_TEST(test_listing_and_health)
{
    char *texts[] = {
        json_answer("200 OK", "{\"variants\":[{\"name\":\"cpu\",\"dtypes\":[\"fp32\",\"bf16\"],\"d_max\":256},"
                              "7,{\"name\":3}]}"),
        json_answer("200 OK", ""), json_answer("503 Unavailable", "{}"), json_answer("200 OK", "attnd_up 1\n")};
    script_answer_t script[4];
    for (int i = 0; i < 4; i++) {
        script[i] = (script_answer_t){SIZE_MAX, texts[i], strlen(texts[i]), 0, false, false};
    }
    attn_client_variants_t *list = NULL;
    attn_client_health_t health;
    char *stats = NULL;
    client_open(script_server_start(script, 4));
    ck_assert_int_eq(attn_client_variants(client, &list, &error), ATTN_OK);
    ck_assert_uint_eq(list->count, 3);
    ck_assert_str_eq(list->variants[0].name, "cpu");
    ck_assert_str_eq(list->variants[0].dtypes, "fp32,bf16");
    ck_assert_uint_eq(list->variants[0].d_max, 256);
    ck_assert_str_eq(list->variants[2].name, "");
    ck_assert_int_eq(attn_client_health(client, &health, &error), ATTN_OK);
    ck_assert(health.live && !health.ready);
    ck_assert_int_eq(attn_client_stats(client, &stats, &error), ATTN_OK);
    ck_assert_str_eq(stats, "attnd_up 1\n");
    client_end();
    attn_client_text_free(stats);
    attn_client_variants_free(list);
    for (int i = 0; i < 4; i++) {
        free(texts[i]);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("client");
    TCase *servers = tcase_create("servers");
    tcase_set_timeout(servers, 60);
    tcase_add_test(servers, test_run_good);
    tcase_add_test(servers, test_run_other_order);
    tcase_add_test(servers, test_run_lies);
    tcase_add_test(servers, test_run_truncated);
    tcase_add_test(servers, test_run_stalls);
    tcase_add_test(servers, test_garbage);
    tcase_add_test(servers, test_refusal_word_for_word);
    tcase_add_test(servers, test_refusal_of_a_proxy);
    tcase_add_test(servers, test_refusal_in_mid_upload);
    tcase_add_test(servers, test_vanishing_server);
    tcase_add_test(servers, test_silent_server);
    tcase_add_test(servers, test_keep_alive_and_reconnect);
    tcase_add_test(servers, test_threads);
    tcase_add_test(servers, test_cancel);
    tcase_add_test(servers, test_wrong_requests);
    tcase_add_test(servers, test_compare);
    tcase_add_test(servers, test_compare_lies);
    tcase_add_test(servers, test_listing_and_health);
    suite_add_tcase(suite, servers);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
