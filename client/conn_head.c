/* conn_head.c: reads the head of an HTTP/1.1 answer. Pure; any thread; owns nothing. */
#include "conn_head.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

/* A piece of the head: not NUL-terminated. */
typedef struct piece {
    const char *text;
    size_t size;
} piece_t;

static bool piece_is(piece_t piece, const char *word)
{
    return piece.size == strlen(word) && strncasecmp(piece.text, word, piece.size) == 0;
}

static piece_t piece_trim(piece_t piece)
{
    while (piece.size > 0 && (piece.text[0] == ' ' || piece.text[0] == '\t')) {
        piece.text++;
        piece.size--;
    }
    while (piece.size > 0 && (piece.text[piece.size - 1] == ' ' || piece.text[piece.size - 1] == '\t')) {
        piece.size--;
    }
    return piece;
}

/* True when one of the comma-separated words is `word`. */
static bool piece_lists(piece_t list, const char *word)
{
    while (list.size > 0) {
        const char *comma = memchr(list.text, ',', list.size);
        size_t size = comma != NULL ? (size_t)(comma - list.text) : list.size;
        if (piece_is(piece_trim((piece_t){list.text, size}), word)) {
            return true;
        }
        size_t step = comma != NULL ? size + 1 : size;
        list.text += step;
        list.size -= step;
    }
    return false;
}

/* The next line without its end; false at the end of the text. A bare LF is accepted, as RFC 9112 section 2.2 allows.
 */
static bool line_next(piece_t *text, piece_t *ret_line)
{
    const char *end = memchr(text->text, '\n', text->size);
    if (end == NULL) {
        return false;
    }
    size_t size = (size_t)(end - text->text);
    *ret_line = (piece_t){text->text, size > 0 && end[-1] == '\r' ? size - 1 : size};
    text->text += size + 1;
    text->size -= size + 1;
    return true;
}

static attn_status_t length_parse(piece_t value, uint64_t *ret, attn_error_t *err)
{
    uint64_t length = 0;
    bool good = value.size > 0 && value.size <= 19; /* 19 digits always fit 64 bits */
    for (size_t i = 0; good && i < value.size; i++) {
        good = value.text[i] >= '0' && value.text[i] <= '9';
        length = length * 10 + (uint64_t)(value.text[i] - '0');
    }
    if (!good || length > INT64_MAX) {
        return attn_error_set(err, ATTN_ERR_INTERNAL,
                              "the server's answer has a Content-Length that is not a number of bytes: '%.*s'",
                              (int)(value.size < 40 ? value.size : 40), value.text);
    }
    *ret = length;
    return ATTN_OK;
}

/* "HTTP/1.1 200 OK". */
static attn_status_t status_parse(piece_t line, int *ret_status, bool *ret_keep_alive, attn_error_t *err)
{
    bool good = line.size >= 12 && memcmp(line.text, "HTTP/1.", 7) == 0 && isdigit((unsigned char)line.text[7]) &&
                line.text[8] == ' ' && (line.size == 12 || line.text[12] == ' ');
    int status = 0;
    for (size_t i = 9; good && i < 12; i++) {
        good = isdigit((unsigned char)line.text[i]);
        status = status * 10 + (line.text[i] - '0');
    }
    if (!good || status < 100 || status > 599) {
        return attn_error_set(err, ATTN_ERR_INTERNAL,
                              "the server does not speak HTTP/1.1: its answer begins with '%.*s'; is this the HTTP "
                              "port of attnd?",
                              (int)(line.size < 40 ? line.size : 40), line.text);
    }
    *ret_status = status;
    *ret_keep_alive = line.text[7] != '0';
    return ATTN_OK;
}

static void value_copy(piece_t value, char *ret, size_t capacity)
{
    if (value.size < capacity) {
        memcpy(ret, value.text, value.size);
        ret[value.size] = '\0';
    }
}

static void content_type_copy(piece_t value, char *ret, size_t capacity)
{
    const char *semicolon = memchr(value.text, ';', value.size);
    if (semicolon != NULL) {
        value = piece_trim((piece_t){value.text, (size_t)(semicolon - value.text)});
    }
    value_copy(value, ret, capacity);
    for (char *c = ret; *c != '\0'; c++) {
        *c = (char)tolower((unsigned char)*c);
    }
}

attn_status_t attn_conn_head_parse(const char *text, size_t size, attn_conn_head_t *ret, bool *ret_keep_alive,
                                   attn_error_t *err)
{
    piece_t rest = {text, size}, line;
    attn_conn_head_t head = {0};
    bool keep_alive = false, have_length = false;
    if (!line_next(&rest, &line)) {
        line = rest;
    }
    attn_status_t status = status_parse(line, &head.status, &keep_alive, err);
    if (status != ATTN_OK) {
        return status;
    }
    while (line_next(&rest, &line) && line.size > 0) {
        const char *colon = memchr(line.text, ':', line.size);
        if (colon == NULL || colon == line.text) {
            return attn_error_set(err, ATTN_ERR_INTERNAL, "the server's answer has a malformed header line: '%.*s'",
                                  (int)(line.size < 40 ? line.size : 40), line.text);
        }
        piece_t name = {line.text, (size_t)(colon - line.text)};
        piece_t value = piece_trim((piece_t){colon + 1, line.size - name.size - 1});
        if (piece_is(name, "content-length")) {
            uint64_t length = 0;
            status = length_parse(value, &length, err);
            if (status != ATTN_OK) {
                return status;
            }
            if (have_length && length != head.content_length) {
                return attn_error_set(err, ATTN_ERR_INTERNAL, "the server's answer has two different Content-Lengths");
            }
            have_length = true;
            head.content_length = length;
        } else if (piece_is(name, "transfer-encoding") && !piece_is(value, "identity")) {
            return attn_error_set(err, ATTN_ERR_INTERNAL,
                                  "the server's answer (HTTP %d) is sent with Transfer-Encoding '%.*s'; this client "
                                  "reads answers with a Content-Length, which attnd sends; is a proxy in between?",
                                  head.status, (int)(value.size < 40 ? value.size : 40), value.text);
        } else if (piece_is(name, "connection")) {
            if (piece_lists(value, "close")) {
                keep_alive = false;
            } else if (piece_lists(value, "keep-alive")) {
                keep_alive = true;
            }
        } else if (piece_is(name, "content-type")) {
            content_type_copy(value, head.content_type, sizeof(head.content_type));
        } else if (piece_is(name, "location")) {
            value_copy(value, head.location, sizeof(head.location));
        }
    }
    bool bodyless = head.status < 200 || head.status == 204 || head.status == 304;
    if (bodyless) {
        head.content_length = 0;
    } else if (!have_length) {
        return attn_error_set(err, ATTN_ERR_INTERNAL, "the server's answer (HTTP %d) has no Content-Length",
                              head.status);
    }
    *ret = head;
    *ret_keep_alive = keep_alive;
    return ATTN_OK;
}
