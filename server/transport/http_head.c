/* transport/http_head.c: everything that a request's head can be wrong about, and the credit for its body. Threads of
 * libmicrohttpd. */
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "codec/query.h"
#include "transport/http_internal.h"

typedef struct heads {
    unsigned content_length, transfer_encoding, host, content_type, content_encoding;
    const char *length_text;
    bool malformed;
    char name[40]; /* of the malformed one, quoted */
} heads_t;

/* A token (RFC 9110, 5.6.2). libmicrohttpd takes "Transfer-Encoding :" for a name that ends with a space, and a folded
 * first line for one that begins with it: others may read the framing of the body there. */
bool http_name_valid(const char *name, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        if (!isalnum((unsigned char)name[i]) && strchr("!#$%&'*+-.^_`|~", name[i]) == NULL) {
            return false;
        }
    }
    return bytes > 0 && memchr(name, '\0', bytes) == NULL;
}

bool http_value_valid(const char *value, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        if (((unsigned char)value[i] < ' ' && value[i] != '\t') || value[i] == 0x7f) {
            return false;
        }
    }
    return true;
}

static enum MHD_Result count_head(void *cls, enum MHD_ValueKind kind, const char *name, size_t name_bytes,
                                  const char *value, size_t value_bytes)
{
    heads_t *heads = cls;
    struct {
        const char *name;
        unsigned *count;
    } counted[] = {{"Content-Length", &heads->content_length},
                   {"Transfer-Encoding", &heads->transfer_encoding},
                   {"Host", &heads->host},
                   {"Content-Type", &heads->content_type},
                   {"Content-Encoding", &heads->content_encoding}};
    if (!http_name_valid(name, name_bytes) || !http_value_valid(value, value_bytes)) {
        heads->malformed = true;
        attn_text_quote(heads->name, sizeof heads->name, name, name_bytes);
        return MHD_NO;
    }
    for (size_t i = 0; i < sizeof counted / sizeof counted[0]; i++) {
        *counted[i].count += strcasecmp(name, counted[i].name) == 0;
    }
    if (strcasecmp(name, "Content-Length") == 0) {
        heads->length_text = value;
    }
    return MHD_YES;
}

/* Where the body ends must be beyond doubt, or a proxy in front and this door may see different requests. */
static attn_status_t check_framing(attn_http_call_t *call, const char *version, attn_error_t *err)
{
    heads_t heads = {0};
    MHD_get_connection_values_n(call->conn->mhd, MHD_HEADER_KIND, count_head, &heads);
    if (heads.malformed) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "the header \"%s\" is malformed; names are tokens right before a colon, values have no "
                              "control characters",
                              heads.name);
    }
    if (heads.content_length > 1) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "there are %u Content-Length headers; send exactly one",
                              heads.content_length);
    }
    if (heads.content_length == 1 && heads.transfer_encoding > 0) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "there are both Content-Length and Transfer-Encoding; send Content-Length alone");
    }
    if (strcmp(version, "HTTP/1.0") != 0 && heads.host != 1) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "HTTP/1.1 needs exactly one Host header; there are %u",
                              heads.host);
    }
    if (heads.content_type > 1 || heads.content_encoding > 1) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "there is more than one %s header; send one",
                              heads.content_type > 1 ? "Content-Type" : "Content-Encoding");
    }
    if (heads.content_length == 1) {
        const char *text = heads.length_text != NULL ? heads.length_text : "";
        size_t digits = strspn(text, "0123456789");
        if (digits == 0 || text[digits] != '\0' || digits > 19) {
            return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                                  "Content-Length must be one decimal number of at most 19 digits");
        }
        call->body_bytes = strtoull(text, NULL, 10);
        if (call->body_bytes > INT64_MAX) {
            return attn_error_set(err, ATTN_ERR_TOO_LARGE, "Content-Length %" PRIu64 " is beyond any limit",
                                  call->body_bytes);
        }
    } else if (heads.transfer_encoding > 0) {
        return attn_error_set(err, ATTN_ERR_LENGTH_REQUIRED,
                              "Transfer-Encoding is not taken here; send the body with a Content-Length");
    }
    return ATTN_OK;
}

static attn_status_t split_uri(attn_http_call_t *call, attn_error_t *err)
{
    char *path = call->uri;
    if (strlen(path) > HTTP_URI_MAX) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "the URL has %zu bytes; at most %d are taken",
                              strlen(path), HTTP_URI_MAX);
    }
    if (strncasecmp(path, "http://", 7) == 0) { /* absolute form, as sent to proxies */
        path += 7 + strcspn(path + 7, "/?");
    }
    char *question = strchr(path, '?');
    call->query = "";
    if (question != NULL) {
        *question = '\0';
        call->query = question + 1;
    }
    call->path = path;
    return ATTN_OK;
}

/* version 00: 2 + 32 + 16 + 2 hexadecimal digits with dashes, neither id all zero (W3C Trace Context). */
static bool trace_valid(const char *text)
{
    static const char form[] = "00-hhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhh-hhhhhhhhhhhhhhhh-hh";
    if (strlen(text) != sizeof form - 1) {
        return false;
    }
    for (size_t i = 0; i < sizeof form - 1; i++) {
        if (form[i] == 'h' ? !isxdigit((unsigned char)text[i]) || isupper((unsigned char)text[i])
                           : text[i] != form[i]) {
            return false;
        }
    }
    return strspn(text + 3, "0") < 32 && strspn(text + 36, "0") < 16;
}

static void set_ids(attn_http_call_t *call)
{
    const char *trace = attn_http_header(call, "traceparent");
    if (trace != NULL && trace_valid(trace)) {
        memcpy(call->trace, trace, strlen(trace) + 1);
    }
    attn_ask_t ask = {0};
    const char *id = attn_http_header(call, "X-Request-Id");
    if (id != NULL && attn_ask_set_id(&ask, id, NULL) == ATTN_OK) {
        memcpy(call->id, ask.id, sizeof call->id);
        return;
    }
    attn_http_t *http = call->door->http;
    uint64_t number = atomic_fetch_add_explicit(&http->id_next, 1, memory_order_relaxed);
    snprintf(call->id, sizeof call->id, "%012" PRIx64 "-%" PRIx64, http->id_seed & UINT64_C(0xffffffffffff), number);
}

static attn_status_t find_route(attn_http_call_t *call, const char *method, attn_error_t *err)
{
    char allow[96], quoted[80];
    call->route =
        http_route_find(call->door, method, call->path, call->capture, sizeof call->capture, allow, sizeof allow);
    if (call->route != NULL) {
        return ATTN_OK;
    }
    if (allow[0] != '\0') {
        attn_http_reply_header(call, "Allow", allow);
        attn_text_quote(quoted, sizeof quoted, method, strlen(method));
        return attn_error_set(err, ATTN_ERR_METHOD, "%s is not a method of this path; use %s", quoted, allow);
    }
    attn_text_quote(quoted, sizeof quoted, call->path, strlen(call->path));
    return attn_error_set(err, ATTN_ERR_NOT_FOUND, "there is nothing at \"%s\"; see /v1/attention and /v1/variants",
                          quoted);
}

static bool is_json(const char *content_type)
{
    static const char name[] = "application/json";
    size_t length = content_type != NULL ? strcspn(content_type, "; \t") : 0;
    return length == sizeof name - 1 && strncasecmp(content_type, name, length) == 0;
}

static attn_status_t open_json(attn_http_call_t *call, attn_error_t *err)
{
    uint64_t max = call->door->front->options->max_metadata_bytes;
    attn_ask_t none = {0};
    attn_status_t status = attn_query_parse(call->query, ATTN_QUERY_COMPARE_WAIT, &none, &call->compare, err);
    if (status == ATTN_OK && call->body_bytes > max) {
        return attn_error_set(err, ATTN_ERR_TOO_LARGE, "a JSON body has at most %" PRIu64 " bytes, not %" PRIu64, max,
                              call->body_bytes);
    }
    if (status == ATTN_OK) {
        call->json = calloc(1, (size_t)call->body_bytes + 1);
        status = call->json != NULL ? ATTN_OK : attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for the body");
    }
    return status;
}

/* Content-Type, query and credit of a body with tensors. */
static attn_status_t open_body(attn_http_call_t *call, attn_error_t *err)
{
    bool compare = call->route->body == ATTN_HTTP_BODY_COMPARE;
    if (attn_http_header(call, "Content-Length") == NULL) {
        return attn_error_set(err, ATTN_ERR_LENGTH_REQUIRED, "Content-Length is missing; /v1 needs it");
    }
    const char *encoding = attn_http_header(call, "Content-Encoding");
    if (encoding != NULL && strcasecmp(encoding, "identity") != 0) {
        return attn_error_set(err, ATTN_ERR_UNSUPPORTED_MEDIA,
                              "Content-Encoding is not taken here; send the body uncompressed");
    }
    const char *content_type = attn_http_header(call, "Content-Type");
    if (compare && is_json(content_type)) {
        return open_json(call, err);
    }
    attn_framing_t framing;
    attn_status_t status = attn_framing_of_media(content_type, &framing, err);
    if (status != ATTN_OK) {
        return status;
    }
    attn_query_use_t use = compare ? ATTN_QUERY_COMPARE_WAIT : ATTN_QUERY_NONE;
    if (framing == ATTN_FRAMING_SAFETENSORS) {
        use = compare ? ATTN_QUERY_COMPARE : ATTN_QUERY_ATTENTION;
    }
    attn_ask_t ask = {0};
    status = attn_query_parse(call->query, use, &ask, &call->compare, err);
    if (ask.id[0] != '\0') {
        memcpy(call->id, ask.id, sizeof call->id); /* even when something else in the query is wrong */
    }
    if (status != ATTN_OK) {
        return status;
    }
    const attn_intake_options_t options = {
        .admit = call->door->front->admit,
        .peer = call->conn->peer,
        .framing = framing,
        .compare = compare,
        .body_bytes = call->body_bytes,
        .max_metadata_bytes = call->door->front->options->max_metadata_bytes,
    };
    status = attn_intake_open(&call->intake, &options, &ask, &call->compare, err);
    call->has_intake = status == ATTN_OK;
    return status;
}

attn_status_t http_head_check(attn_http_call_t *call, const char *method, const char *version, bool *ret_fatal,
                              attn_error_t *err)
{
    set_ids(call);
    /* Where a connection is read directly, nothing but a plain head came through. */
    attn_status_t status = call->conn->direct != NULL ? ATTN_OK : check_framing(call, version, err);
    if (status == ATTN_OK) {
        status = split_uri(call, err);
    }
    if (status != ATTN_OK) {
        *ret_fatal = true;
        return status;
    }
    status = find_route(call, method, err);
    if (status != ATTN_OK) {
        return status;
    }
    if (!call->route->probe && atomic_load(&call->door->http->refusing)) {
        return http_refusing(err);
    }
    if (call->route->body != ATTN_HTTP_BODY_NONE) {
        status = open_body(call, err);
        /* Whatever follows the head would be taken for the next request. */
        *ret_fatal = status == ATTN_ERR_LENGTH_REQUIRED;
        return status;
    }
    if (call->body_bytes > 0) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "%s %s takes no body; send none", call->route->method,
                              call->route->pattern);
    }
    /* Probes and scrapers may add what they like. */
    return call->route->probe ? ATTN_OK : attn_query_check(call->query, call->route->parameter, err);
}
