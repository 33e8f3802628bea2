/* attn/status.h: the one status enum and the one error record of attnd, its kernels and its clients.
 *
 * Codes are negative and grouped by who has to act: the caller (-1..-19), the caller later (-20..-39),
 * the daemon or the device (-40..). Functions return a status and, where a sentence helps, fill an
 * attn_error_t that the caller owns; outputs are untouched on failure. Any thread. */
#ifndef ATTN_STATUS_H
#define ATTN_STATUS_H

#include <stdarg.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum attn_status {
    ATTN_OK = 0,

    /* The request is wrong; the same bytes fail again. */
    ATTN_ERR_INVALID_ARGUMENT = -1,    /* malformed, inconsistent                    400 */
    ATTN_ERR_NOT_FOUND = -2,           /* unknown variant, region, job               404 */
    ATTN_ERR_FAILED_PRECONDITION = -3, /* the variant cannot do this; see `missing`  422 */
    ATTN_ERR_TOO_LARGE = -4,           /* never fits the limits                      413 */
    ATTN_ERR_UNIMPLEMENTED = -5,       /* reserved feature                           501 */
    ATTN_ERR_LENGTH_REQUIRED = -6,     /* HTTP without Content-Length                411 */
    ATTN_ERR_UNSUPPORTED_MEDIA = -7,   /* unknown Content-Type                       415 */
    ATTN_ERR_METHOD = -8,              /* wrong HTTP method                          405 */
    ATTN_ERR_PERMISSION = -9,          /* not allowed to this peer                   403 */

    /* The request may be fine; time or load decided. */
    ATTN_ERR_UNAVAILABLE = -20,       /* queue full, draining, restarting: retry    503 */
    ATTN_ERR_DEADLINE_EXCEEDED = -21, /* deadline passed                            504 */
    ATTN_ERR_CANCELLED = -22,         /* the caller went away                       499 */
    ATTN_ERR_TIMEOUT = -23,           /* sender below the minimum rate              408 */

    /* The daemon, the worker or the device failed. */
    ATTN_ERR_INTERNAL = -40,    /* a defect or a failed kernel                     500 */
    ATTN_ERR_NO_MEMORY = -41,   /* host or device memory                           500 */
    ATTN_ERR_DEVICE = -42,      /* CUDA error; the context may be unusable         500 */
    ATTN_ERR_WORKER_DIED = -43, /* the job alone ended its worker process         500 */
    ATTN_ERR_SYSTEM = -44,      /* a system call failed; errno is in the sentence  500 */
    ATTN_ERR_CONNECTION = -45   /* client side: cannot reach or lost the server        */
} attn_status_t;

#define ATTN_ERROR_MESSAGE_MAX 512

/* A status with its sentence. Owned by the caller, no heap. A callee that is handed NULL says nothing. */
typedef struct attn_error {
    attn_status_t status;
    char message[ATTN_ERROR_MESSAGE_MAX]; /* NUL-terminated UTF-8; what was wrong and what would be right */
} attn_error_t;

/* "INVALID_ARGUMENT", …: the code that goes over the wire. Static storage, never NULL. */
const char *attn_status_name(attn_status_t status);

/* The HTTP status of design section 7 (200 for ATTN_OK). */
int attn_status_http(attn_status_t status);

/* Whether the same request may succeed when it is sent again unchanged. */
int attn_status_retryable(attn_status_t status);

/* Fills *err (when not NULL) and returns `status`, so that `return attn_error_set(err, …)` reads well.
 * Truncates the sentence at ATTN_ERROR_MESSAGE_MAX - 1 bytes. */
attn_status_t attn_error_set(attn_error_t *err, attn_status_t status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#ifdef __cplusplus
}
#endif
#endif
