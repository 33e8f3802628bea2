/* test_attnctl.c: the readers of attnctl: options, shapes, .npy and safetensors files, and the file that it writes. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "attn/accuracy.h"
#include "ctl.h"
#include "samples.h"

static attn_error_t error;

/* ---- options ---- */

static const ctl_command_t command = {
    .name = "run", .summary = "", .usage = "FILE [options]", .options = "shape seed causal sm-scale priority"};
static const ctl_command_t bare = {.name = "stats", .summary = "", .usage = "[options]", .options = ""};

static attn_status_t parse(const ctl_command_t *of, ctl_options_t *ret, const char *a, const char *b, const char *c)
{
    char *argv[] = {(char *)(uintptr_t)a, (char *)(uintptr_t)b, (char *)(uintptr_t)c};
    return ctl_options_parse(of, c != NULL ? 3 : b != NULL ? 2 : a != NULL ? 1 : 0, argv, ret, &error);
}

START_TEST(test_options)
{
    ctl_options_t options;
    ck_assert_int_eq(parse(&command, &options, "--seed=18446744073709551615", "file", "--causal"), ATTN_OK);
    ck_assert_uint_eq(options.seed, UINT64_MAX);
    ck_assert(options.has_seed && options.causal && !options.json);
    ck_assert_str_eq(options.input, "file");
    ck_assert_str_eq(options.server, "http://127.0.0.1:8000");
    ck_assert_int_eq(parse(&command, &options, "--sm-scale", "0.5", "-h"), ATTN_OK);
    ck_assert_double_eq(options.sm_scale, 0.5);
    ck_assert(options.help);
    ck_assert_int_eq(parse(&command, &options, "--priority", "-5", NULL), ATTN_OK);
    ck_assert_int_eq(options.priority, -5);
}
END_TEST

START_TEST(test_options_wrong)
{
    static const char *const wrong[][3] = {
        {"--seed", NULL},         {"--seed", "-1"},      {"--seed", "1x"},      {"--seed", "18446744073709551616"},
        {"--sm-scale", "0"},      {"--sm-scale", "nan"}, {"--sm-scale", "inf"}, {"--sm-scale", "1e300"},
        {"--sm-scale", "1e-300"}, {"--priority", "9x"},  {"--nothing"},         {"--see", "1"},
        {"--causal=yes"},         {"one", "two"},        {"--variants", "a"},   {"--", "a"},
    };
    ctl_options_t options = {.seed = 77};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        ck_assert_msg(parse(&command, &options, wrong[i][0], wrong[i][1], wrong[i][2]) == ATTN_ERR_INVALID_ARGUMENT,
                      "%s", wrong[i][0]);
    }
    ck_assert_uint_eq(options.seed, 77); /* untouched on failure */
    ck_assert_int_eq(parse(&bare, &options, "file", NULL, NULL), ATTN_ERR_INVALID_ARGUMENT);
    ck_assert_int_eq(parse(&bare, &options, "--json", NULL, NULL), ATTN_OK);
}
END_TEST

START_TEST(test_shape)
{
    attn_spec_t spec = {0};
    ck_assert_int_eq(ctl_shape_parse("2,16,32,8/2,64", &spec, &error), ATTN_OK);
    ck_assert_uint_eq(spec.batch, 2);
    ck_assert_int_eq(spec.s_kv, 32);
    ck_assert_uint_eq(spec.h_q, 8);
    ck_assert_uint_eq(spec.h_kv, 2);
    ck_assert_uint_eq(spec.d, 64);
    ck_assert_int_eq(ctl_shape_parse("1,0,1099511627776,3,5", &spec, &error), ATTN_OK);
    ck_assert_uint_eq(spec.h_kv, 3);
    ck_assert_int_eq(spec.s_kv, INT64_C(1) << 40);
    static const char *const wrong[] = {"",
                                        "1",
                                        "1,2,3,4",
                                        "1,2,3,4/,5",
                                        "1,2,3,4,5,6",
                                        "1,2,3,a,5",
                                        "1,2,3,4/2,5x",
                                        "-1,2,3,4,5",
                                        "1, 2,3,4,5",
                                        "1,2,3,4294967296,5",
                                        "1,99999999999999999999,3,4,5"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        ck_assert_msg(ctl_shape_parse(wrong[i], &spec, &error) == ATTN_ERR_INVALID_ARGUMENT, "%s", wrong[i]);
    }
}
END_TEST

/* ---- .npy ---- */

/* A file of version 1 with this header and so many bytes of data. */
static unsigned char *npy_make(const char *header, size_t data, size_t *ret_bytes)
{
    size_t length = strlen(header);
    unsigned char *file = calloc(1, 10 + length + data);
    memcpy(file, "\x93NUMPY\x01\x00", 8);
    file[8] = (unsigned char)length;
    file[9] = (unsigned char)(length >> 8);
    memcpy(file + 10, header, length);
    *ret_bytes = 10 + length + data;
    return file;
}

START_TEST(test_npy)
{
    size_t bytes;
    ctl_npy_t npy;
    unsigned char *file = npy_make("{'descr': '<f2', 'fortran_order': False, 'shape': (2, 3, 1, 4), }  \n", 48, &bytes);
    ck_assert_msg(ctl_npy_read("x", file, bytes, &npy, &error) == ATTN_OK, "%s", error.message);
    ck_assert_int_eq(npy.kind, 'f');
    ck_assert_uint_eq(npy.item_bytes, 2);
    ck_assert_uint_eq(npy.rank, 4);
    ck_assert_uint_eq(npy.shape[1], 3);
    ck_assert_uint_eq(npy.data_offset, bytes - 48);
    for (size_t cut = 0; cut < bytes; cut++) { /* every truncation is refused, and nothing past its end is read */
        unsigned char *part = malloc(cut + 1);
        memcpy(part, file, cut);
        ck_assert_int_eq(ctl_npy_read("x", part, cut, &npy, &error), ATTN_ERR_INVALID_ARGUMENT);
        free(part);
    }
    free(file);
    file = npy_make("{'descr': '<i4', 'fortran_order': False, 'shape': (3,), }\n", 12, &bytes);
    ck_assert_int_eq(ctl_npy_read("x", file, bytes, &npy, &error), ATTN_OK);
    ck_assert_uint_eq(npy.rank, 1);
    free(file);
}
END_TEST

static const char *const npy_wrong[] = {
    "{'descr': '>f4', 'fortran_order': False, 'shape': (2,), }",
    "{'descr': '<f4', 'fortran_order': True, 'shape': (2,), }",
    "{'descr': '<f4', 'shape': (2,), }",
    "{'descr': '<f4', 'fortran_order': False, }",
    "{'fortran_order': False, 'shape': (2,), }",
    "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,), }",
    "{'descr': '<f', 'fortran_order': False, 'shape': (2,), }",
    "{'descr': '<', 'fortran_order': False, 'shape': (2,), }",
    "{'descr': '<f99', 'fortran_order': False, 'shape': (2,), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1, 1, 1, 1), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (-2,), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (2",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296, 4294967296), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }",
    "",
};

START_TEST(test_npy_wrong)
{
    size_t bytes;
    ctl_npy_t npy = {.rank = 9};
    unsigned char *file = npy_make(npy_wrong[_i], 8, &bytes);
    ck_assert_int_eq(ctl_npy_read("x", file, bytes, &npy, &error), ATTN_ERR_INVALID_ARGUMENT);
    ck_assert_uint_eq(npy.rank, 9);
    free(file);
}
END_TEST

/* ---- metrics ---- */

static ctl_samples_t samples_of(const char *text)
{
    ctl_samples_t samples;
    ck_assert_int_eq(ctl_samples_read(strdup(text), &samples, &error), ATTN_OK);
    return samples;
}

START_TEST(test_samples)
{
    ctl_samples_t samples = samples_of("# HELP a b\na 3\nb{x=\"1\",yx=\"2\"} 4.5\nb{x=\"11\"} 1e3\n\nnonsense\n");
    char value[8];
    ck_assert_uint_eq(samples.count, 3);
    ck_assert_str_eq(samples.samples[0].name, "a");
    ck_assert_str_eq(samples.samples[2].text, "1e3");
    ck_assert_double_eq(ctl_samples_sum(&samples, "b", NULL), 1004.5);
    ck_assert_double_eq(ctl_samples_sum(&samples, "b", "x=\"1\""), 4.5);
    ck_assert_double_eq(ctl_samples_sum(&samples, "b", "yx=\"2\""), 4.5);
    ck_assert(isnan(ctl_samples_sum(&samples, "b", "x=\"2\"")));
    ck_assert(isnan(ctl_samples_sum(&samples, "c", NULL)));
    ctl_sample_label(&samples.samples[1], "x", value, sizeof value);
    ck_assert_str_eq(value, "1");
    ctl_sample_label(&samples.samples[1], "y", value, sizeof value);
    ck_assert_str_eq(value, "");
    ctl_samples_free(&samples);
}
END_TEST

START_TEST(test_sample_quantiles)
{
    ctl_samples_t before = samples_of("h_bucket{v=\"a\",le=\"1\"} 5\nh_bucket{v=\"a\",le=\"2\"} 5\n"
                                      "h_bucket{v=\"a\",le=\"+Inf\"} 5\n");
    ctl_samples_t now = samples_of("h_bucket{v=\"a\",le=\"1\"} 15\nh_bucket{v=\"a\",le=\"2\"} 95\n"
                                   "h_bucket{v=\"a\",le=\"+Inf\"} 105\nh_bucket{v=\"b\",le=\"4\"} 0\n"
                                   "h_bucket{v=\"b\",le=\"+Inf\"} 9\n");
    /* Since `before`: 10 up to 1, 80 up to 2, 10 above. */
    ck_assert_double_eq(ctl_samples_quantile(&now, &before, "h", "v=\"a\"", 0.5), 1.5);
    ck_assert_double_eq(ctl_samples_quantile(&now, &before, "h", "v=\"a\"", 0.05), 0.5);
    ck_assert_double_eq(ctl_samples_quantile(&now, &before, "h", "v=\"a\"", 0.99), 2);
    ck_assert_double_eq(ctl_samples_quantile(&now, NULL, "h", "v=\"b\"", 0.5), 4);
    ck_assert(isnan(ctl_samples_quantile(&now, &now, "h", "v=\"a\"", 0.5)));
    ck_assert(isnan(ctl_samples_quantile(&now, NULL, "none", NULL, 0.5)));
    ctl_samples_free(&now);
    ctl_samples_free(&before);
}
END_TEST

/* ---- files ---- */

static char folder[] = "/tmp/test_attnctl.XXXXXX";

static void folder_make(void)
{
    strcpy(folder, "/tmp/test_attnctl.XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
}

static void folder_remove(void)
{
    char command_line[64];
    snprintf(command_line, sizeof command_line, "rm -r %s", folder);
    ck_assert_int_eq(system(command_line), 0);
}

static char *path_of(const char *name)
{
    static char paths[4][64];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

static const char *file_put(const char *name, const void *data, size_t bytes)
{
    const char *path = path_of(name);
    FILE *file = fopen(path, "wb");
    ck_assert_ptr_nonnull(file);
    ck_assert_uint_eq(fwrite(data, 1, bytes, file), bytes);
    fclose(file);
    return path;
}

static const char *npy_put(const char *name, const char *header, size_t data)
{
    size_t bytes;
    unsigned char *file = npy_make(header, data, &bytes);
    for (size_t i = 0; i < data; i++) {
        file[bytes - data + i] = (unsigned char)i;
    }
    const char *path = file_put(name, file, bytes);
    free(file);
    return path;
}

START_TEST(test_open_npy)
{
    ctl_options_t options = {0};
    ctl_tensors_t tensors;
    options.q = npy_put("q.npy", "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2, 4, 3), }", 96);
    options.k = npy_put("k.npy", "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 5, 2, 3), }", 120);
    options.v = options.k;
    ck_assert_msg(ctl_tensors_open(&options, true, &tensors, &error) == ATTN_OK, "%s", error.message);
    ck_assert_uint_eq(tensors.spec.h_q, 4);
    ck_assert_uint_eq(tensors.spec.h_kv, 2);
    ck_assert_int_eq(tensors.spec.s_kv, 5);
    ck_assert_uint_eq(((const unsigned char *)tensors.k)[119], 119);
    ctl_tensors_close(&tensors);
    options.v = npy_put("v.npy", "{'descr': '<f2', 'fortran_order': False, 'shape': (1, 5, 2, 3), }", 60);
    ck_assert_int_eq(ctl_tensors_open(&options, true, &tensors, &error), ATTN_ERR_INVALID_ARGUMENT);
    options.v = NULL;
    ck_assert_int_eq(ctl_tensors_open(&options, true, &tensors, &error), ATTN_ERR_INVALID_ARGUMENT);
    options.v = path_of("none.npy");
    ck_assert_int_eq(ctl_tensors_open(&options, true, &tensors, &error), ATTN_ERR_SYSTEM);
}
END_TEST

START_TEST(test_open_safetensors)
{
    static const char header[] = "{\"q\":{\"dtype\":\"F32\",\"shape\":[3,2,4],\"data_offsets\":[0,96]},"
                                 "\"k\":{\"dtype\":\"F32\",\"shape\":[5,1,4],\"data_offsets\":[96,176]},"
                                 "\"v\":{\"dtype\":\"F32\",\"shape\":[5,1,4],\"data_offsets\":[176,256]},"
                                 "\"cu_seqlens_q\":{\"dtype\":\"I32\",\"shape\":[2],\"data_offsets\":[256,264]},"
                                 "\"cu_seqlens_k\":{\"dtype\":\"I32\",\"shape\":[2],\"data_offsets\":[264,272]}}";
    unsigned char file[8 + sizeof header - 1 + 272] = {0};
    uint64_t length = sizeof header - 1;
    int32_t seqlens[4] = {0, 3, 0, 5};
    memcpy(file, &length, 8);
    memcpy(file + 8, header, length);
    memcpy(file + 8 + length + 256, seqlens, 16);
    ctl_options_t options = {0};
    ctl_tensors_t tensors;
    options.input = file_put("x.safetensors", file, sizeof file);
    ck_assert_msg(ctl_tensors_open(&options, true, &tensors, &error) == ATTN_OK, "%s", error.message);
    ck_assert_uint_eq(tensors.spec.layout, ATTN_LAYOUT_THD);
    ck_assert_uint_eq(tensors.spec.batch, 1);
    ck_assert_int_eq(tensors.cu_seqlens_k[1], 5);
    ctl_tensors_close(&tensors);
    options.seed = 1;
    options.has_seed = true; /* has no meaning here */
    ck_assert_int_eq(ctl_tensors_open(&options, true, &tensors, &error), ATTN_ERR_INVALID_ARGUMENT);
    options.has_seed = false;
    for (size_t cut = 1; cut < sizeof file; cut += 7) {
        options.input = file_put("cut.safetensors", file, cut);
        ck_assert_int_eq(ctl_tensors_open(&options, true, &tensors, &error), ATTN_ERR_INVALID_ARGUMENT);
    }
    memset(file, 0xFF, 8); /* a header of 2^64-1 bytes */
    options.input = file_put("long.safetensors", file, sizeof file);
    ck_assert_int_eq(ctl_tensors_open(&options, true, &tensors, &error), ATTN_ERR_INVALID_ARGUMENT);
    options.input = folder;
    ck_assert_int_eq(ctl_tensors_open(&options, true, &tensors, &error), ATTN_ERR_INVALID_ARGUMENT);
}
END_TEST

START_TEST(test_open_shape)
{
    ctl_options_t options = {.shape = "1,4,4,2/1,8", .seed = 3, .has_seed = true, .dtype = "fp32"};
    ctl_tensors_t tensors;
    ck_assert_int_eq(ctl_tensors_open(&options, true, &tensors, &error), ATTN_OK);
    float expected[32];
    attn_fill_normal(ATTN_DTYPE_F32, 3, 1, expected, 32);
    ck_assert_mem_eq(tensors.k, expected, sizeof expected);
    ctl_tensors_close(&tensors);
    ck_assert_int_eq(ctl_tensors_open(&options, false, &tensors, &error), ATTN_OK);
    ck_assert_ptr_null(tensors.q);
    ctl_tensors_close(&tensors);
    options.dtype = "fp8";
    ck_assert_int_eq(ctl_tensors_open(&options, true, &tensors, &error), ATTN_ERR_INVALID_ARGUMENT);
    options.dtype = NULL;
    options.layout = "thd";
    ck_assert_int_eq(ctl_tensors_open(&options, true, &tensors, &error), ATTN_ERR_INVALID_ARGUMENT);
    options.layout = NULL;
    options.input = "also";
    ck_assert_int_eq(ctl_tensors_open(&options, true, &tensors, &error), ATTN_ERR_INVALID_ARGUMENT);
}
END_TEST

START_TEST(test_write)
{
    attn_spec_t spec = {.dtype = ATTN_DTYPE_F32,
                        .layout = ATTN_LAYOUT_BSHD,
                        .batch = 1,
                        .s_q = 2,
                        .s_kv = 2,
                        .h_q = 2,
                        .h_kv = 1,
                        .d = 4,
                        .return_lse = 1};
    attn_sizes_t sizes;
    ck_assert_int_eq(attn_spec_measure(&spec, &sizes, &error), ATTN_OK);
    float o[16], lse[4] = {1, 2, 3, 4};
    memset(o, 0, sizeof o);
    attn_client_answer_t answer = {.variant = "cpu", .reason = "it said \"so\""};
    const char *path = path_of("o.safetensors");
    ck_assert_int_eq(ctl_answer_write(path, &spec, &sizes, o, lse, &answer, &error), ATTN_OK);
    FILE *file = fopen(path, "rb");
    char text[2048];
    size_t bytes = fread(text, 1, sizeof text, file);
    fclose(file);
    uint64_t length;
    memcpy(&length, text, 8);
    ck_assert_uint_eq(bytes, 8 + length + sizes.o + sizes.lse);
    ck_assert_mem_eq(text + 8 + length + sizes.o, lse, sizeof lse);
    ck_assert_ptr_nonnull(memmem(text, 8 + length, "\"lse\"", 5));
    ck_assert_ptr_nonnull(memmem(text, 8 + length, "\"variant\":\"cpu\"", 15));
    ck_assert_int_eq(ctl_answer_write(path_of("none/o"), &spec, &sizes, o, lse, &answer, &error), ATTN_ERR_SYSTEM);
    ck_assert_ptr_nonnull(strstr(error.message, "No such file"));
}
END_TEST

int main(void)
{
    unsetenv("ATTND_SERVER");
    Suite *suite = suite_create("attnctl");
    TCase *pure = tcase_create("pure");
    tcase_add_test(pure, test_options);
    tcase_add_test(pure, test_options_wrong);
    tcase_add_test(pure, test_shape);
    tcase_add_test(pure, test_npy);
    tcase_add_loop_test(pure, test_npy_wrong, 0, (int)(sizeof npy_wrong / sizeof npy_wrong[0]));
    tcase_add_test(pure, test_samples);
    tcase_add_test(pure, test_sample_quantiles);
    suite_add_tcase(suite, pure);
    TCase *files = tcase_create("files");
    tcase_add_checked_fixture(files, folder_make, folder_remove);
    tcase_add_test(files, test_open_npy);
    tcase_add_test(files, test_open_safetensors);
    tcase_add_test(files, test_open_shape);
    tcase_add_test(files, test_write);
    suite_add_tcase(suite, files);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
