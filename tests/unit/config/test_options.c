/* tests/unit/config/test_options.c: where a value comes from, what is refused, and that every row can be printed. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/options.h"

static attn_error_t error;
static attn_options_t options;

static attn_status_t parse(const char *const *arguments, const char *const *environment)
{
    int count = 0;
    while (arguments[count] != NULL) {
        count++;
    }
    return attn_options_parse(count, (char *const *)(uintptr_t)arguments, (char *const *)(uintptr_t)environment,
                              &options, &error);
}
#define ARGS(...) ((const char *const[]){__VA_ARGS__, NULL})

START_TEST(defaults)
{
    ck_assert_int_eq(parse(ARGS("attnd"), NULL), ATTN_OK);
    ck_assert_str_eq(options.bind, "127.0.0.1");
    ck_assert_uint_eq(options.http_port, 8000);
    ck_assert_uint_eq(options.metrics_port, 8002);
    ck_assert_uint_eq(options.max_metadata_bytes, 1u << 20);
    ck_assert_double_eq(options.watchdog_factor, 20);
    ck_assert_uint_eq(options.log_level, 1);
}
END_TEST

START_TEST(later_wins)
{
    const char *const environment[] = {"ATTND_HTTP_PORT=9001", "ATTND_TEST_VARIANTS=true", "PATH=/bin", NULL};
    ck_assert_int_eq(parse(ARGS("attnd"), environment), ATTN_OK);
    ck_assert_uint_eq(options.http_port, 9001);
    ck_assert(options.test_variants);
    ck_assert_int_eq(
        parse(ARGS("attnd", "--http-port", "9002", "--http-port=9003", "--test-variants=false"), environment), ATTN_OK);
    ck_assert_uint_eq(options.http_port, 9003);
    ck_assert(!options.test_variants);
    ck_assert_int_eq(parse(ARGS("attnd", "--arena-bytes", "2GiB", "--devices", "0,2", "--log-format=json"), NULL),
                     ATTN_OK);
    ck_assert_uint_eq(options.arena_bytes, UINT64_C(2) << 30);
    ck_assert_uint_eq(options.log_format, ATTN_LOG_FORMAT_JSON);
}
END_TEST

START_TEST(refusals)
{
    static const struct {
        const char *argument, *value, *word;
    } bad[] = {
        {"--http-port", "65536", "0 to 65535"},
        {"--http-port", "8k", "whole number"},
        {"--http-port", "", "whole number"},
        {"--http-port", "-1", "whole number"},
        {"--arena-bytes", "1Q", "whole number"},
        {"--arena-bytes", "99999999999999999999", "whole number"},
        {"--watchdog-factor", "nan", "number from"},
        {"--log-level", "loud", "debug|info"},
        {"--test-variants=perhaps", NULL, "true or false"},
        {"--no-such", "1", "unknown option"},
        {"8000", NULL, "not an option"},
        {"--bind", "localhost", "address"},
        {"--devices", "0,0", "devices"},
        {"--devices", "gpu", "devices"},
        {"--devices", "cpu,", "devices"},
        {"--devices", "0,all", "devices"},
        {"--devices", "GPU-", "devices"},
        {"--grpc-port", "8001", "no gRPC"},
        {"--socket-mode", "rw", "in octal"},
        {"--socket-mode", "1777", "in octal"},
        {"--socket-users", "root", "take numbers"},
        {"--socket-groups", "1,,2", "take numbers"},
        {"--socket-groups", "4294967296", "take numbers"},
        {"--socket-spin-us", "soon", "or auto"},
        {"--socket-connections", "0", "from 1"},
        {"--plugin", "/x.so", "plug-ins"},
        {"--metrics-port", "8000", "both 8000"},
        {"--http-port", NULL, "needs a value"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        memset(&options, 0x5a, sizeof options);
        const char *const arguments[] = {"attnd", bad[i].argument, bad[i].value, NULL};
        ck_assert_msg(parse(arguments, NULL) == ATTN_ERR_INVALID_ARGUMENT, "%s %s was taken", bad[i].argument,
                      bad[i].value);
        ck_assert_msg(strstr(error.message, bad[i].word) != NULL, "\"%s\" is not in: %s", bad[i].word, error.message);
        ck_assert_uint_eq(options.http_port, 0x5a5a5a5a); /* untouched */
    }
    const char *const environment[] = {"ATTND_QUEUE_LIMIT=0", NULL};
    ck_assert_int_eq(parse(ARGS("attnd"), environment), ATTN_ERR_INVALID_ARGUMENT);
    ck_assert_ptr_nonnull(strstr(error.message, "ATTND_QUEUE_LIMIT"));
}
END_TEST

START_TEST(unknown_variables)
{
    char *const environment[] = {(char *)"ATTND_SERVICE_HOST=10.0.0.1", (char *)"ATTND_PORT_8000_TCP=tcp://x",
                                 (char *)"ATTND_HTTP_PROT=1", (char *)"ATTND_BIND=::1", NULL};
    size_t index = 0;
    ck_assert_str_eq(attn_options_unknown_variable(environment, &index), "ATTND_HTTP_PROT=1");
    ck_assert_ptr_null(attn_options_unknown_variable(environment, &index));
}
END_TEST

START_TEST(printing)
{
    char *text = NULL;
    size_t size;
    ck_assert_int_eq(parse(ARGS("attnd", "--log-level", "warn"), NULL), ATTN_OK);
    FILE *out = open_memstream(&text, &size);
    attn_options_print_values(out, &options);
    fclose(out);
    ck_assert_ptr_nonnull(strstr(text, "log-level = warn\n"));
    ck_assert_ptr_nonnull(strstr(text, "http-port = 8000\n"));
    free(text);
    text = NULL;
    out = open_memstream(&text, &size);
    attn_options_print_help(out);
    attn_options_print_markdown(out);
    fclose(out);
    ck_assert_ptr_nonnull(strstr(text, "--max-queue-delay-us N"));
    ck_assert_ptr_nonnull(strstr(text, "`ATTND_MAX_QUEUE_DELAY_US`"));
    free(text);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("options");
    TCase *tests = tcase_create("options");
    tcase_add_test(tests, defaults);
    tcase_add_test(tests, later_wins);
    tcase_add_test(tests, refusals);
    tcase_add_test(tests, unknown_variables);
    tcase_add_test(tests, printing);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
