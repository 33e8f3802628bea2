/* transport/http_plain.c: heads of requests in the one form that http_direct.c takes: a POST with tensors, HTTP/1.1, a
 * Content-Length, and nothing that would need an answer of its own or frame the body in another way. Whatever is not
 * beyond doubt is left to libmicrohttpd, with the sentences of http_head.c. Pure. */
#include <stdlib.h>
#include <string.h>

#include "transport/http_internal.h"

#define PATH "/v1/attention"
#define DIGITS_MAX 18u

typedef struct once {
    bool length, host, type;
} once_t;

/* Headers that may change what the body is, or what the connection is for. */
static bool is_special(const char *name)
{
    static const char *const names[] = {"Transfer-Encoding", "Content-Encoding", "Expect", "Upgrade", "TE",
                                        "Trailer",           "Proxy-Connection"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcasecmp(name, names[i]) == 0) {
            return true;
        }
    }
    return false;
}

static bool first_time(bool *seen)
{
    bool first = !*seen;
    *seen = true;
    return first;
}

static bool header_taken(const char *name, const char *value, once_t *once, uint64_t *ret_body_bytes)
{
    if (strcasecmp(name, "Content-Length") == 0) {
        size_t digits = strspn(value, "0123456789");
        *ret_body_bytes = digits > 0 && digits <= DIGITS_MAX ? strtoull(value, NULL, 10) : 0;
        return first_time(&once->length) && value[digits] == '\0' && *ret_body_bytes > 0;
    }
    if (strcasecmp(name, "Host") == 0) {
        return first_time(&once->host);
    }
    if (strcasecmp(name, "Content-Type") == 0) {
        return first_time(&once->type);
    }
    if (strcasecmp(name, "Connection") == 0) {
        return strcasecmp(value, "keep-alive") == 0;
    }
    return !is_special(name);
}

/* "Name: value" up to `end`, which becomes the value's NUL. */
static bool header_read(char *line, char *end, http_plain_t *plain, once_t *once)
{
    char *colon = memchr(line, ':', (size_t)(end - line));
    if (colon == NULL || plain->header_count == HTTP_PLAIN_HEADERS || !http_name_valid(line, (size_t)(colon - line))) {
        return false;
    }
    char *value = colon + 1;
    while (value < end && (*value == ' ' || *value == '\t')) {
        value++;
    }
    while (end > value && (end[-1] == ' ' || end[-1] == '\t')) {
        end--;
    }
    if (!http_value_valid(value, (size_t)(end - value))) {
        return false;
    }
    *colon = *end = '\0';
    plain->headers[plain->header_count].name = line;
    plain->headers[plain->header_count++].value = value;
    return header_taken(line, value, once, &plain->body_bytes);
}

/* "POST /v1/attention?… HTTP/1.1" up to `end`. */
static bool line_read(char *line, char *end, http_plain_t *plain)
{
    static const char method[] = "POST ", version[] = " HTTP/1.1";
    const size_t bytes = (size_t)(end - line), around = sizeof method + sizeof version - 2;
    if (bytes < around || memcmp(line, method, sizeof method - 1) != 0 ||
        memcmp(end - (sizeof version - 1), version, sizeof version - 1) != 0) {
        return false;
    }
    char *uri = line + sizeof method - 1, *uri_end = end - (sizeof version - 1);
    for (const char *at = uri; at < uri_end; at++) {
        if (*at <= ' ' || *at > '~' || *at == '#') {
            return false;
        }
    }
    *uri_end = '\0';
    plain->uri = uri;
    return strncmp(uri, PATH, sizeof PATH - 1) == 0 && (uri[sizeof PATH - 1] == '\0' || uri[sizeof PATH - 1] == '?');
}

bool http_plain_read(char *head, size_t bytes, http_plain_t *ret)
{
    *ret = (http_plain_t){0};
    once_t once = {0};
    const char *last = memmem(head, bytes, "\r\n\r\n", 4);
    if (last == NULL) {
        return false;
    }
    ret->bytes = (size_t)(last - head) + 4;
    char *end = memmem(head, ret->bytes, "\r\n", 2);
    if (!line_read(head, end, ret)) {
        return false;
    }
    while (end < last) {
        char *line = end + 2;
        end = memmem(line, ret->bytes - (size_t)(line - head), "\r\n", 2);
        if (!header_read(line, end, ret, &once)) {
            return false;
        }
    }
    return once.length && once.host && once.type;
}
