/* base/log.c: see log.h. One writer thread; two buffers that change places under one mutex, which is never held over
 * a system call. */
#include "base/log.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/text.h"

#define BUFFER_BYTES (128u * 1024u)
#define LINE_BYTES 4096u
#define STOP_WAIT_MS 2000

static struct {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    pthread_t thread;
    bool running, stopping;
    int fd;
    bool json;
    char buffers[2][BUFFER_BYTES];
    unsigned filling; /* index of the buffer that lines go to */
    size_t used;
    uint64_t dropped;
} state = {.lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

/* Above ATTN_LOG_ERROR while the log is not started: nothing is enabled. */
static atomic_int least_level = ATTN_LOG_ERROR + 1;

bool attn_log_enabled(attn_log_level_t level)
{
    return (int)level >= atomic_load_explicit(&least_level, memory_order_relaxed);
}

typedef struct line {
    char text[LINE_BYTES];
    size_t used;
} line_t;

static void put(line_t *line, const char *text, size_t bytes)
{
    size_t room = LINE_BYTES - 8 - line->used; /* 8: what closes a line, in either format */
    size_t take = bytes < room ? bytes : room;
    memcpy(line->text + line->used, text, take);
    line->used += take;
}

/* As a JSON string, which is what the text format uses for values too. */
static void put_quoted(line_t *line, const char *text)
{
    put(line, "\"", 1);
    for (const unsigned char *s = (const unsigned char *)text; *s != '\0' && line->used < LINE_BYTES - 32;) {
        size_t length = attn_text_utf8((const char *)s, 4);
        if (length == 0) {
            put(line, "?", 1);
            s++;
        } else if (*s == '"' || *s == '\\') {
            put(line, (const char[]){'\\', (char)*s}, 2);
            s++;
        } else if (*s < 0x20 || *s == 0x7f) {
            char escape[8];
            int written = snprintf(escape, sizeof escape, "\\u%04x", *s);
            put(line, escape, (size_t)written);
            s++;
        } else {
            put(line, (const char *)s, length);
            s += length;
        }
    }
    put(line, "\"", 1);
}

static void put_value(line_t *line, const attn_log_field_t *field)
{
    char number[40];
    switch (field->kind) {
    case ATTN_LOG_KIND_TEXT:
        put_quoted(line, field->value.text);
        break;
    case ATTN_LOG_KIND_INTEGER:
        put(line, number, (size_t)snprintf(number, sizeof number, "%" PRId64, field->value.integer));
        break;
    case ATTN_LOG_KIND_REAL:
        if (isfinite(field->value.real)) {
            put(line, number, (size_t)snprintf(number, sizeof number, "%.6g", field->value.real));
        } else {
            put(line, "null", 4);
        }
        break;
    case ATTN_LOG_KIND_BOOL:
        put(line, field->value.integer ? "true" : "false", field->value.integer ? 4 : 5);
        break;
    case ATTN_LOG_KIND_NONE:
        break;
    }
}

static void format_line(line_t *line, attn_log_level_t level, const char *message, const attn_log_field_t *fields,
                        size_t count, bool json)
{
    static const char *const names[] = {"debug", "info", "warn", "error"};
    struct timespec now;
    struct tm broken;
    char stamp[48];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &broken);
    size_t length = strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &broken);
    length += (size_t)snprintf(stamp + length, sizeof stamp - length, ".%03dZ", (int)(now.tv_nsec / 1000000));
    line->used = 0;
    if (json) {
        put(line, "{\"time\":\"", 9);
        put(line, stamp, length);
        put(line, "\",\"level\":\"", 11);
        put(line, names[level], strlen(names[level]));
        put(line, "\",\"message\":", 12);
        put_quoted(line, message);
    } else {
        put(line, stamp, length);
        char word[8];
        put(line, word, (size_t)snprintf(word, sizeof word, " %-6s", names[level]));
        put(line, message, strlen(message));
    }
    for (size_t i = 0; i < count; i++) {
        size_t key = strlen(fields[i].key);
        /* Text is cut where the line ends, other fields are left out whole: a cut JSON line is still JSON. */
        if (fields[i].kind == ATTN_LOG_KIND_NONE || line->used + key + 64 > LINE_BYTES - 8) {
            continue;
        }
        if (json) {
            put(line, ",\"", 2);
            put(line, fields[i].key, key);
            put(line, "\":", 2);
        } else {
            put(line, " ", 1);
            put(line, fields[i].key, key);
            put(line, "=", 1);
        }
        put_value(line, &fields[i]);
    }
    if (json) {
        line->text[line->used++] = '}';
    }
    line->text[line->used++] = '\n';
}

/* False when the reader takes nothing for STOP_WAIT_MS while the log is being stopped. */
static bool write_all(int fd, const char *data, size_t bytes)
{
    while (bytes > 0) {
        ssize_t wrote = write(fd, data, bytes);
        if (wrote > 0) {
            data += wrote;
            bytes -= (size_t)wrote;
        } else if (wrote < 0 && errno == EAGAIN) {
            struct pollfd wait = {.fd = fd, .events = POLLOUT};
            if (poll(&wait, 1, STOP_WAIT_MS) == 0) {
                return false;
            }
        } else if (wrote < 0 && errno != EINTR) {
            return false; /* nowhere left to complain to */
        }
    }
    return true;
}

static void *writer(void *arg)
{
    pthread_mutex_lock(&state.lock);
    for (;;) {
        while (state.used == 0 && !state.stopping) {
            pthread_cond_wait(&state.wake, &state.lock);
        }
        if (state.used == 0) {
            break;
        }
        const char *data = state.buffers[state.filling];
        size_t bytes = state.used;
        uint64_t dropped = state.dropped;
        state.filling ^= 1u;
        state.used = 0;
        state.dropped = 0;
        pthread_mutex_unlock(&state.lock);
        write_all(state.fd, data, bytes);
        if (dropped > 0) {
            const attn_log_field_t field = attn_log_integer("lines", (int64_t)dropped);
            line_t line;
            format_line(&line, ATTN_LOG_WARN, "log lines dropped: the reader of the log is too slow", &field, 1,
                        state.json);
            write_all(state.fd, line.text, line.used);
        }
        pthread_mutex_lock(&state.lock);
    }
    pthread_mutex_unlock(&state.lock);
    return NULL;
}

attn_status_t attn_log_start(int fd, bool json, attn_log_level_t level, attn_error_t *err)
{
    pthread_mutex_lock(&state.lock);
    bool running = state.running;
    if (!running) {
        state.running = true;
        state.stopping = false;
        state.fd = fd;
        state.json = json;
        state.used = 0;
        state.dropped = 0;
    }
    pthread_mutex_unlock(&state.lock);
    if (running) {
        return attn_error_set(err, ATTN_ERR_INTERNAL, "the log runs already");
    }
    int error = pthread_create(&state.thread, NULL, writer, NULL);
    if (error != 0) {
        state.running = false;
        return attn_error_set(err, ATTN_ERR_SYSTEM, "cannot start the log's thread: %s", strerror(error));
    }
    atomic_store(&least_level, (int)level);
    return ATTN_OK;
}

void attn_log_stop(void)
{
    pthread_mutex_lock(&state.lock);
    bool running = state.running;
    state.stopping = true;
    pthread_cond_signal(&state.wake);
    pthread_mutex_unlock(&state.lock);
    if (!running) {
        return;
    }
    atomic_store(&least_level, ATTN_LOG_ERROR + 1);
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += STOP_WAIT_MS / 1000;
    if (pthread_timedjoin_np(state.thread, NULL, &until) != 0) {
        /* Stuck in write(2) on a pipe that nobody reads: the process is about to end, the thread with it. */
        pthread_detach(state.thread);
        return;
    }
    pthread_mutex_lock(&state.lock);
    state.running = false;
    pthread_mutex_unlock(&state.lock);
}

void attn_log_write(attn_log_level_t level, const char *message, const attn_log_field_t *fields, size_t count)
{
    if (!attn_log_enabled(level)) {
        return;
    }
    line_t line;
    format_line(&line, level, message, fields, count, state.json);
    pthread_mutex_lock(&state.lock);
    if (BUFFER_BYTES - state.used < line.used) {
        state.dropped++;
    } else {
        bool was_empty = state.used == 0;
        memcpy(state.buffers[state.filling] + state.used, line.text, line.used);
        state.used += line.used;
        if (was_empty) {
            pthread_cond_signal(&state.wake);
        }
    }
    pthread_mutex_unlock(&state.lock);
}
