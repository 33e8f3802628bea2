/* workload.c: the reader of workloads. One thread; owns nothing after it returns. */
#include "workload.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define FILE_MAX (1u << 20)
#define WORD_MAX 256

/* The key whose value is read, for sentences. */
typedef struct place {
    const char *file;
    unsigned line;
    const char *key, *value;
} place_t;

static attn_status_t value_wrong(const place_t *at, const char *right, attn_error_t *err)
{
    return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "%s:%u: %s is '%.100s'; it must be %s", at->file, at->line,
                          at->key, at->value, right);
}

static attn_status_t real_set(const place_t *at, bool zero, double *ret, attn_error_t *err)
{
    char *end = NULL;
    double number = strtod(at->value, &end);
    if (end == at->value || *end != '\0' || !(zero ? number >= 0 : number > 0) || !(number < 3e38)) {
        return value_wrong(at, zero ? "a number of 0 or more" : "a number above 0", err);
    }
    *ret = number;
    return ATTN_OK;
}

static attn_status_t whole_set(const place_t *at, long long min, long long max, long long *ret, attn_error_t *err)
{
    char *end = NULL;
    errno = 0;
    long long number = strtoll(at->value, &end, 10);
    if (end == at->value || *end != '\0' || errno != 0 || number < min || number > max) {
        char right[80];
        snprintf(right, sizeof(right), "a whole number from %lld to %lld", min, max);
        return value_wrong(at, right, err);
    }
    *ret = number;
    return ATTN_OK;
}

static attn_status_t truth_set(const place_t *at, uint8_t *ret, attn_error_t *err)
{
    if (strcmp(at->value, "true") != 0 && strcmp(at->value, "false") != 0) {
        return value_wrong(at, "true or false", err);
    }
    *ret = at->value[0] == 't';
    return ATTN_OK;
}

/* The reader of an option says "--key"; a file has a line. */
static attn_status_t option_set(const place_t *at, attn_status_t status, const attn_error_t *why, attn_error_t *err)
{
    return status == ATTN_OK
               ? ATTN_OK
               : attn_error_set(err, status, "%s:%u: %.400s", at->file, at->line, why->message + 2 /* the dashes */);
}

static attn_status_t key_set(const place_t *at, bench_class_t *class, attn_error_t *err)
{
    attn_error_t why;
    double real = 0;
    long long whole = 0;
    attn_status_t status;
    if (strcmp(at->key, "shape") == 0) {
        return option_set(at, ctl_shape_parse(at->value, &class->spec, &why), &why, err);
    }
    if (strcmp(at->key, "dtype") == 0) {
        return option_set(at, ctl_dtype_parse(at->value, &class->spec.dtype, &why), &why, err);
    }
    if (strcmp(at->key, "layout") == 0) {
        status = option_set(at, ctl_layout_parse(at->value, &class->spec.layout, &why), &why, err);
        return status == ATTN_OK && class->spec.layout == ATTN_LAYOUT_THD ? value_wrong(at, "bshd or bhsd", err)
                                                                          : status;
    }
    if (strcmp(at->key, "weight") == 0) {
        return real_set(at, false, &class->weight, err);
    }
    if (strcmp(at->key, "variant") == 0) {
        if (strlen(at->value) >= sizeof(class->variant)) {
            return value_wrong(at, "the name of a variant", err);
        }
        strcpy(class->variant, at->value);
        return ATTN_OK;
    }
    if (strcmp(at->key, "causal") == 0) {
        return truth_set(at, &class->spec.causal, err);
    }
    if (strcmp(at->key, "return-lse") == 0) {
        return truth_set(at, &class->spec.return_lse, err);
    }
    if (strcmp(at->key, "sm-scale") == 0 || strcmp(at->key, "softcap") == 0) {
        status = real_set(at, true, &real, err); /* 0 is the default: 1/sqrt(d), and no cap */
        *(at->key[1] == 'm' ? &class->spec.sm_scale : &class->spec.softcap) = (float)real;
        return status;
    }
    if (strcmp(at->key, "priority") == 0) {
        status = whole_set(at, -100, 100, &whole, err);
        class->priority = (int32_t)whole;
        return status;
    }
    if (strcmp(at->key, "deadline-ms") == 0) {
        status = whole_set(at, 0, INT64_C(1) << 40, &whole, err);
        class->deadline_ms = (uint64_t)whole;
        return status;
    }
    return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                          "%s:%u: there is no key '%.60s'; there are shape, weight, dtype, layout, variant, causal, "
                          "sm-scale, softcap, return-lse, priority and deadline-ms",
                          at->file, at->line, at->key);
}

/* The next word of the line; false at its end. Words are cut at WORD_MAX - 1 characters: no value is as long. */
static bool word_take(const char **at, const char *end, char ret[WORD_MAX])
{
    while (*at < end && isspace((unsigned char)**at)) {
        ++*at;
    }
    size_t size = 0;
    while (*at < end && !isspace((unsigned char)**at) && **at != '#') {
        if (size < WORD_MAX - 1) {
            ret[size++] = **at;
        }
        ++*at;
    }
    ret[size] = '\0';
    return size > 0;
}

static attn_status_t class_finish(place_t at, bench_class_t *class, attn_error_t *err)
{
    attn_error_t why;
    if (class->spec.d == 0) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "%s:%u: class '%s' has no shape; give shape=B,S_Q,S_KV,H_Q/H_KV,D", at.file, at.line,
                              class->name);
    }
    if (attn_spec_measure(&class->spec, &class->sizes, &why) != ATTN_OK) {
        return attn_error_set(err, why.status, "%s:%u: %.400s", at.file, at.line, why.message);
    }
    return ATTN_OK;
}

static attn_status_t line_read(const place_t *where, const char *at, const char *end, bench_class_t *defaults,
                               bench_workload_t *into, attn_error_t *err)
{
    char word[WORD_MAX];
    place_t place = *where;
    if (!word_take(&at, end, word)) {
        return ATTN_OK;
    }
    bool is_default = strcmp(word, "default") == 0;
    bench_class_t class = *defaults;
    if (strchr(word, '=') != NULL || strlen(word) >= sizeof(class.name)) {
        return attn_error_set(
            err, ATTN_ERR_INVALID_ARGUMENT,
            "%s:%u: a line begins with the name of its class, at most %d characters, not with '%.60s'", place.file,
            place.line, BENCH_CLASS_NAME_MAX - 1, word);
    }
    strcpy(class.name, word);
    while (word_take(&at, end, word)) {
        char *equals = strchr(word, '=');
        if (equals == NULL || equals[1] == '\0') {
            return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "%s:%u: '%.60s' is not key=value", place.file,
                                  place.line, word);
        }
        *equals = '\0';
        place.key = word;
        place.value = equals + 1;
        attn_status_t status = key_set(&place, &class, err);
        if (status != ATTN_OK) {
            return status;
        }
    }
    if (is_default) {
        *defaults = class;
        return ATTN_OK;
    }
    for (uint32_t i = 0; i < into->count; i++) {
        if (strcmp(into->classes[i].name, class.name) == 0) {
            return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "%s:%u: there is a class '%s' already", place.file,
                                  place.line, class.name);
        }
    }
    if (into->count == BENCH_CLASS_MAX) {
        return attn_error_set(err, ATTN_ERR_TOO_LARGE, "%s:%u: a workload has at most %d classes", place.file,
                              place.line, BENCH_CLASS_MAX);
    }
    attn_status_t status = class_finish(place, &class, err);
    if (status == ATTN_OK) {
        into->classes[into->count++] = class;
    }
    return status;
}

attn_status_t bench_workload_parse(const char *name, const char *text, size_t size, bench_workload_t *ret,
                                   attn_error_t *err)
{
    bench_workload_t workload = {0};
    bench_class_t defaults = {.weight = 1, .spec = {.dtype = ATTN_DTYPE_BF16, .layout = ATTN_LAYOUT_BSHD}};
    const char *at = text, *end = text + size;
    for (unsigned line = 1; at < end; line++) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        stop = stop != NULL ? stop : end;
        place_t place = {name, line, NULL, NULL};
        attn_status_t status = line_read(&place, at, stop, &defaults, &workload, err);
        if (status != ATTN_OK) {
            return status;
        }
        at = stop < end ? stop + 1 : end;
    }
    if (workload.count == 0) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "%s has no class; a line is NAME shape=B,S_Q,S_KV,H_Q/H_KV,D weight=W …", name);
    }
    *ret = workload;
    return ATTN_OK;
}

static attn_status_t file_open(const char *path, bench_workload_t *ret, attn_error_t *err)
{
    FILE *file = fopen(path, "rb");
    char *text = malloc(FILE_MAX + 1);
    size_t size = file != NULL && text != NULL ? fread(text, 1, FILE_MAX + 1, file) : 0;
    attn_status_t status;
    if (text == NULL) {
        status = attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for a workload");
    } else if (file == NULL || ferror(file) != 0) {
        status = attn_error_set(err, ATTN_ERR_SYSTEM, "cannot read %s: %s", path, strerror(errno));
    } else if (size > FILE_MAX) {
        status = attn_error_set(err, ATTN_ERR_TOO_LARGE, "%s is larger than a workload may be: 1 MiB", path);
    } else {
        status = bench_workload_parse(path, text, size, ret, err);
    }
    free(text);
    if (file != NULL) {
        fclose(file);
    }
    return status;
}

attn_status_t bench_workload_open(const ctl_options_t *options, bench_workload_t *ret, attn_error_t *err)
{
    if ((options->input != NULL) == (options->shape != NULL)) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "give a workload FILE or --shape, one of them");
    }
    if (options->input != NULL) {
        if (options->dtype != NULL || options->layout != NULL || options->variant != NULL || options->causal ||
            options->return_lse || options->sm_scale != 0 || options->softcap != 0 || options->deadline_ms != 0 ||
            options->priority != 0) {
            return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                                  "what the requests are like belongs into the workload file; these options go with "
                                  "--shape");
        }
        return file_open(options->input, ret, err);
    }
    ctl_tensors_t tensors;
    attn_status_t status = ctl_tensors_open(options, false, &tensors, err);
    if (status != ATTN_OK) {
        return status;
    }
    memset(ret, 0, sizeof(*ret));
    bench_class_t *class = &ret->classes[0];
    ret->count = 1;
    *class = (bench_class_t){.name = "all",
                             .weight = 1,
                             .spec = tensors.spec,
                             .sizes = tensors.sizes,
                             .priority = (int32_t)options->priority,
                             .deadline_ms = options->deadline_ms};
    ctl_tensors_close(&tensors);
    if (options->variant != NULL && strlen(options->variant) >= sizeof(class->variant)) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "--variant is '%.100s'; there is none of that name",
                              options->variant);
    }
    snprintf(class->variant, sizeof(class->variant), "%s", options->variant != NULL ? options->variant : "");
    return ATTN_OK;
}

double bench_class_flops(const bench_class_t *class)
{
    const attn_spec_t *spec = &class->spec;
    return 4.0 * spec->batch * spec->h_q * spec->d *
           (double)attn_visible_pairs(spec->s_q, spec->s_kv, spec->causal != 0);
}
