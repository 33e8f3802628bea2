/* base/log.h: structured lines on standard error: a level, a constant message, typed fields. Any thread.
 *
 * A line is formatted by the caller into a buffer of 128 KiB and written by a thread of the log, so that a reader that
 * stands still (a full pipe) never holds a request up: lines that find no room are counted and dropped, and the count
 * is logged when there is room again. Nothing is written before attn_log_start(). */
#ifndef ATTND_BASE_LOG_H
#define ATTND_BASE_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "attn/status.h"

typedef enum attn_log_level {
    ATTN_LOG_DEBUG = 0,
    ATTN_LOG_INFO = 1,
    ATTN_LOG_WARN = 2,
    ATTN_LOG_ERROR = 3
} attn_log_level_t;

typedef enum attn_log_kind {
    ATTN_LOG_KIND_NONE = 0, /* the field is left out */
    ATTN_LOG_KIND_TEXT,
    ATTN_LOG_KIND_INTEGER,
    ATTN_LOG_KIND_REAL,
    ATTN_LOG_KIND_BOOL
} attn_log_kind_t;

typedef struct attn_log_field {
    const char *key;
    attn_log_kind_t kind;
    union {
        const char *text;
        int64_t integer;
        double real;
    } value;
} attn_log_field_t;

/* Text is quoted and escaped; invalid UTF-8 becomes '?'. NULL and "" leave the field out. */
static inline attn_log_field_t attn_log_text(const char *key, const char *text)
{
    return (attn_log_field_t){
        key, text != NULL && *text != '\0' ? ATTN_LOG_KIND_TEXT : ATTN_LOG_KIND_NONE, {.text = text}};
}
static inline attn_log_field_t attn_log_integer(const char *key, int64_t value)
{
    return (attn_log_field_t){key, ATTN_LOG_KIND_INTEGER, {.integer = value}};
}
static inline attn_log_field_t attn_log_real(const char *key, double value)
{
    return (attn_log_field_t){key, ATTN_LOG_KIND_REAL, {.real = value}};
}
static inline attn_log_field_t attn_log_bool(const char *key, bool value)
{
    return (attn_log_field_t){key, ATTN_LOG_KIND_BOOL, {.integer = value}};
}

/* `fd` stays the caller's. Errors: SYSTEM; INTERNAL when it runs already. */
attn_status_t attn_log_start(int fd, bool json, attn_log_level_t level, attn_error_t *err);

/* Writes what is buffered (for at most 2 s when the reader stands still) and ends the thread. */
void attn_log_stop(void);

bool attn_log_enabled(attn_log_level_t level);

/* Lines are cut at 4 KiB. */
void attn_log_write(attn_log_level_t level, const char *message, const attn_log_field_t *fields, size_t count);

/* ATTN_LOG(ATTN_LOG_INFO, "request", attn_log_text("id", id), attn_log_integer("status", 200)) */
#define ATTN_LOG(level, message, ...)                                                                                  \
    do {                                                                                                               \
        if (attn_log_enabled(level)) {                                                                                 \
            const attn_log_field_t attn_log_fields_[] = {__VA_ARGS__};                                                 \
            attn_log_write(level, message, attn_log_fields_, sizeof attn_log_fields_ / sizeof attn_log_fields_[0]);    \
        }                                                                                                              \
    } while (0)

#endif
