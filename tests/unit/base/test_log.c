/* tests/unit/base/test_log.c: lines of the log as text and JSON, a reader that stands still, and counters from several
 * threads. */
#include <check.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/metrics.h"

static int ends[2];

static char *read_log(void)
{
    static char text[65536];
    close(ends[1]);
    size_t used = 0;
    for (ssize_t got; (got = read(ends[0], text + used, sizeof text - 1 - used)) > 0;) {
        used += (size_t)got;
    }
    text[used] = '\0';
    close(ends[0]);
    return text;
}

static void start(bool json, attn_log_level_t level)
{
    ck_assert_int_eq(pipe(ends), 0);
    ck_assert_int_eq(attn_log_start(ends[1], json, level, NULL), ATTN_OK);
}

START_TEST(text_lines)
{
    start(false, ATTN_LOG_INFO);
    ATTN_LOG(ATTN_LOG_DEBUG, "not this", attn_log_integer("n", 1));
    ATTN_LOG(ATTN_LOG_WARN, "something", attn_log_text("path", "a \"b\"\n\xff\xc2\xb5"), attn_log_text("none", NULL),
             attn_log_integer("n", -5), attn_log_real("x", 0.5), attn_log_bool("yes", true));
    attn_log_stop();
    const char *text = read_log();
    ck_assert_ptr_null(strstr(text, "not this"));
    ck_assert_ptr_nonnull(strstr(text, "Z warn  something path=\"a \\\"b\\\"\\u000a?\xc2\xb5\" n=-5 x=0.5 yes=true\n"));
}
END_TEST

START_TEST(json_lines_stay_json_when_cut)
{
    static char longest[20000];
    memset(longest, '"', sizeof longest - 1);
    start(true, ATTN_LOG_DEBUG);
    ATTN_LOG(ATTN_LOG_ERROR, "long", attn_log_text("text", longest), attn_log_integer("after", 7),
             attn_log_text("more", longest));
    attn_log_stop();
    const char *text = read_log();
    size_t length = strlen(text);
    ck_assert_uint_le(length, 4096);
    ck_assert_str_eq(text + length - 3, "\"}\n");
    ck_assert_ptr_nonnull(strstr(text, "\"level\":\"error\",\"message\":\"long\",\"text\":\""));
}
END_TEST

static void *many_lines(void *arg)
{
    for (int i = 0; i < 3000; i++) {
        ATTN_LOG(ATTN_LOG_INFO, "line", attn_log_integer("thread", (int64_t)(intptr_t)arg), attn_log_integer("i", i),
                 attn_log_text("padding", "0123456789012345678901234567890123456789"));
    }
    return NULL;
}

static void *read_late(void *arg)
{
    static char sink[65536];
    size_t *dropped = arg;
    usleep(100000);
    for (ssize_t got; (got = read(ends[0], sink, sizeof sink - 1)) > 0;) {
        sink[got] = '\0';
        *dropped += strstr(sink, "log lines dropped") != NULL;
    }
    return NULL;
}

START_TEST(a_reader_that_stands_still_holds_nobody_up)
{
    /* 6,000 lines of 120 bytes are far more than the pipe and the buffers hold. */
    pthread_t writers[2], reader;
    size_t dropped = 0;
    start(false, ATTN_LOG_INFO);
    for (intptr_t i = 0; i < 2; i++) {
        pthread_create(&writers[i], NULL, many_lines, (void *)i);
    }
    for (int i = 0; i < 2; i++) {
        pthread_join(writers[i], NULL); /* ends although nobody reads */
    }
    pthread_create(&reader, NULL, read_late, &dropped);
    usleep(300000);
    ATTN_LOG(ATTN_LOG_INFO, "one more", attn_log_integer("n", 1));
    attn_log_stop();
    close(ends[1]);
    pthread_join(reader, NULL);
    close(ends[0]);
    ck_assert_uint_ge(dropped, 1);
}
END_TEST

#define THREADS 4
#define COUNTS 20000

static void *count(void *arg)
{
    for (int i = 0; i < COUNTS; i++) {
        attn_counter_add(attn_metrics_counter("attnd_test_total", "help", i % 2 ? "a=\"1\"" : ""), 1);
        attn_histogram_observe_ns(attn_metrics_histogram("attnd_test_seconds", "help", "b=\"2\""), i % 2 ? 20000 : -1);
    }
    return NULL;
}

START_TEST(metrics_count_from_threads)
{
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        pthread_create(&threads[i], NULL, count, NULL);
    }
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    attn_metrics_render(out); /* while they count */
    fclose(out);
    free(text);
    text = NULL;
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    out = open_memstream(&text, &size);
    attn_metrics_render(out);
    fclose(out);
    ck_assert_ptr_nonnull(strstr(text, "# TYPE attnd_test_total counter\n"));
    ck_assert_ptr_nonnull(strstr(text, "attnd_test_total 40000\n"));
    ck_assert_ptr_nonnull(strstr(text, "attnd_test_total{a=\"1\"} 40000\n"));
    ck_assert_ptr_nonnull(strstr(text, "attnd_test_seconds_bucket{b=\"2\",le=\"1e-05\"} 40000\n"));
    ck_assert_ptr_nonnull(strstr(text, "attnd_test_seconds_bucket{b=\"2\",le=\"2.5e-05\"} 80000\n"));
    ck_assert_ptr_nonnull(strstr(text, "attnd_test_seconds_bucket{b=\"2\",le=\"+Inf\"} 80000\n"));
    ck_assert_ptr_nonnull(strstr(text, "attnd_test_seconds_count{b=\"2\"} 80000\n"));
    ck_assert_ptr_nonnull(strstr(text, "attnd_test_seconds_sum{b=\"2\"} 0.800000000\n"));
    /* One head per family. */
    const char *first = strstr(text, "# TYPE attnd_test_total");
    ck_assert_ptr_null(strstr(first + 1, "# TYPE attnd_test_total"));
    free(text);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("base_log");
    TCase *tests = tcase_create("log and metrics");
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, text_lines);
    tcase_add_test(tests, json_lines_stay_json_when_cut);
    tcase_add_test(tests, a_reader_that_stands_still_holds_nobody_up);
    tcase_add_test(tests, metrics_count_from_threads);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
