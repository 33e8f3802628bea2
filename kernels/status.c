/* status.c: names and HTTP numbers of attn_status_t, and the one place that fills an attn_error_t. Pure, any thread. */
#include "attn/status.h"

#include <stdio.h>

typedef struct status_row {
    attn_status_t status;
    const char *name;
    int http;
    int retryable;
} status_row_t;

static const status_row_t status_rows[] = {
    {ATTN_OK, "OK", 200, 0},
    {ATTN_ERR_INVALID_ARGUMENT, "INVALID_ARGUMENT", 400, 0},
    {ATTN_ERR_NOT_FOUND, "NOT_FOUND", 404, 0},
    {ATTN_ERR_FAILED_PRECONDITION, "FAILED_PRECONDITION", 422, 0},
    {ATTN_ERR_TOO_LARGE, "TOO_LARGE", 413, 0},
    {ATTN_ERR_UNIMPLEMENTED, "UNIMPLEMENTED", 501, 0},
    {ATTN_ERR_LENGTH_REQUIRED, "LENGTH_REQUIRED", 411, 0},
    {ATTN_ERR_UNSUPPORTED_MEDIA, "UNSUPPORTED_MEDIA", 415, 0},
    {ATTN_ERR_METHOD, "METHOD", 405, 0},
    {ATTN_ERR_PERMISSION, "PERMISSION", 403, 0},
    {ATTN_ERR_UNAVAILABLE, "UNAVAILABLE", 503, 1},
    {ATTN_ERR_DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", 504, 1},
    {ATTN_ERR_CANCELLED, "CANCELLED", 499, 1},
    {ATTN_ERR_TIMEOUT, "TIMEOUT", 408, 1},
    {ATTN_ERR_INTERNAL, "INTERNAL", 500, 0},
    {ATTN_ERR_NO_MEMORY, "NO_MEMORY", 500, 1},
    {ATTN_ERR_DEVICE, "DEVICE", 500, 0},
    {ATTN_ERR_WORKER_DIED, "WORKER_DIED", 500, 0},
    {ATTN_ERR_SYSTEM, "SYSTEM", 500, 1},
    {ATTN_ERR_CONNECTION, "CONNECTION", 500, 1},
};

static const status_row_t *status_row(attn_status_t status)
{
    static const status_row_t unknown = {ATTN_ERR_INTERNAL, "UNKNOWN", 500, 0};
    for (size_t i = 0; i < sizeof status_rows / sizeof status_rows[0]; i++)
        if (status_rows[i].status == status)
            return &status_rows[i];
    return &unknown;
}

const char *attn_status_name(attn_status_t status)
{
    return status_row(status)->name;
}

int attn_status_http(attn_status_t status)
{
    return status_row(status)->http;
}

int attn_status_retryable(attn_status_t status)
{
    return status_row(status)->retryable;
}

attn_status_t attn_error_set(attn_error_t *err, attn_status_t status, const char *format, ...)
{
    if (err) {
        /* Through a copy: an argument may be err->message itself, when a callee's sentence gets a prefix. */
        char message[ATTN_ERROR_MESSAGE_MAX];
        va_list args;
        va_start(args, format);
        int length = vsnprintf(message, sizeof message, format, args);
        va_end(args);
        err->status = status;
        snprintf(err->message, sizeof err->message, "%s", length < 0 ? attn_status_name(status) : message);
    }
    return status;
}
