/* failure.c: makes the client's error record. Pure; any thread; owns nothing. */
#include <stdio.h>
#include <string.h>

#include "internal.h"

attn_status_t attn_client_fail(attn_client_error_t *err, attn_status_t status, const char *format, ...)
{
    if (err == NULL) {
        return status;
    }
    attn_error_t error = {.status = status};
    va_list args;
    va_start(args, format);
    vsnprintf(error.message, sizeof(error.message), format, args);
    va_end(args);
    return attn_client_fail_with(err, &error);
}

attn_status_t attn_client_fail_with(attn_client_error_t *err, const attn_error_t *error)
{
    attn_status_t status = error->status;
    if (err != NULL) {
        attn_error_t copy = *error; /* `error` may lie in *err */
        memset(err, 0, sizeof(*err));
        err->error = copy;
        err->retryable = status == ATTN_ERR_CONNECTION || attn_status_retryable(status);
    }
    return status;
}

attn_status_t attn_client_status_of(const char *code)
{
    for (int status = ATTN_ERR_CONNECTION; code != NULL && status < 0; status++) {
        if (strcmp(code, attn_status_name((attn_status_t)status)) == 0) {
            return (attn_status_t)status;
        }
    }
    return ATTN_OK;
}

static attn_status_t status_of_http(int http_status)
{
    for (int status = ATTN_ERR_INVALID_ARGUMENT; status >= ATTN_ERR_SYSTEM; status--) {
        if (attn_status_http((attn_status_t)status) == http_status && http_status != 500) {
            return (attn_status_t)status;
        }
    }
    return http_status < 500 ? ATTN_ERR_INVALID_ARGUMENT
                             : (http_status == 502 ? ATTN_ERR_UNAVAILABLE : ATTN_ERR_INTERNAL);
}

bool attn_client_error_parse(const json_t *record, attn_client_error_t *ret)
{
    const char *sentence = json_string_value(json_object_get(record, "error"));
    attn_status_t status = attn_client_status_of(json_string_value(json_object_get(record, "code")));
    if (sentence == NULL || status == ATTN_OK) {
        return false;
    }
    memset(ret, 0, sizeof(*ret));
    attn_error_set(&ret->error, status, "%s", sentence);
    ret->retryable = attn_reply_true(record, "retryable");
    attn_reply_text(record, "request_id", ret->request_id, sizeof(ret->request_id));
    const json_t *missing = json_object_get(record, "missing");
    for (size_t i = 0; i < json_array_size(missing); i++) {
        const char *item = json_string_value(json_array_get(missing, i));
        if (item != NULL && ret->missing.count < ATTN_MISSING_MAX) {
            attn_missing_add(&ret->missing, "%s", item);
        }
    }
    return true;
}

attn_status_t attn_client_fail_answer(attn_client_error_t *err, int http_status, const char *text)
{
    attn_client_error_t parsed;
    json_t *root = json_loads(text, 0, NULL);
    bool good = attn_client_error_parse(root, &parsed);
    json_decref(root);
    if (!good) {
        attn_client_fail(&parsed, status_of_http(http_status),
                         "the server answered HTTP %d without saying why in attnd's form; is a proxy in between?",
                         http_status);
    }
    parsed.http_status = http_status;
    if (err != NULL) {
        *err = parsed;
    }
    return parsed.error.status;
}
