/* transport/http_reply.c: how a call is answered: the reply is filled on any thread and sent on the thread of
 * libmicrohttpd that owns the connection. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "codec/json.h"
#include "transport/http_internal.h"

static const char media_json[] = "application/json";

void http_reply_drop(http_reply_t *reply)
{
    free(reply->data);
    attn_admit_close(reply->ticket);
    free(reply->headers);
    *reply = (http_reply_t){0};
}

bool attn_http_wants_protobuf(attn_http_call_t *call)
{
    const char *accept = attn_http_header(call, "Accept");
    return accept != NULL &&
           (strstr(accept, ATTN_HTTP_PROTOBUF) != NULL || strstr(accept, "application/protobuf") != NULL);
}

void attn_http_reply_header(attn_http_call_t *call, const char *name, const char *value)
{
    http_reply_t *reply = &call->reply;
    if (reply->headers == NULL) {
        reply->headers = calloc(HTTP_HEADERS_MAX, sizeof *reply->headers);
    }
    if (reply->headers != NULL && reply->header_count < HTTP_HEADERS_MAX) {
        http_header_t *header = &reply->headers[reply->header_count++];
        snprintf(header->name, sizeof header->name, "%s", name);
        snprintf(header->value, sizeof header->value, "%s", value);
    }
}

/* REPLIED; a parked call goes on. Afterwards the call is not this thread's any more. */
static void hand_over(attn_http_call_t *call)
{
    http_conn_t *conn = call->conn;
    pthread_mutex_lock(&conn->lock);
    bool parked = call->phase == HTTP_PARKED;
    call->phase = call->phase == HTTP_CUT ? HTTP_CUT : HTTP_REPLIED;
    if (parked) {
        http_conn_resume(conn);
    }
    pthread_mutex_unlock(&conn->lock);
}

void attn_http_reply_bytes(attn_http_call_t *call, int http_status, const char *content_type, void *data, size_t bytes)
{
    call->reply.status = http_status;
    call->reply.content_type = content_type;
    call->reply.data = data;
    call->reply.bytes = bytes;
    hand_over(call);
}

void attn_http_reply_json(attn_http_call_t *call, int http_status, char *text)
{
    attn_http_reply_bytes(call, text != NULL ? http_status : 500, media_json, text, text != NULL ? strlen(text) : 0);
}

void http_reply_fill_error(attn_http_call_t *call, const attn_error_t *err, const attn_missing_t *missing)
{
    char *text = attn_json_error(err, call->id, missing);
    call->reply.status = attn_status_http(err->status);
    call->reply.content_type = media_json;
    call->reply.data = text;
    call->reply.bytes = text != NULL ? strlen(text) : 0;
    call->reply.error = err->status;
    snprintf(call->reply.sentence, sizeof call->reply.sentence, "%.199s", err->message);
    if (call->reply.status == 503) {
        attn_http_reply_header(call, "Retry-After", "1");
    }
}

void attn_http_reply_error(attn_http_call_t *call, const attn_error_t *err, const attn_missing_t *missing)
{
    http_reply_fill_error(call, err, missing);
    hand_over(call);
}

void attn_http_reply_parts(attn_http_call_t *call, const char *content_type, void *head, size_t head_bytes,
                           const attn_http_part_t *parts, uint32_t part_count, attn_ticket_t *ticket)
{
    http_reply_t *reply = &call->reply;
    reply->status = 200;
    reply->content_type = content_type;
    reply->data = head;
    reply->bytes = head_bytes;
    for (uint32_t i = 0; i < part_count && reply->part_count < HTTP_PARTS_MAX; i++) {
        if (parts[i].bytes > 0) {
            reply->parts[reply->part_count++] = parts[i];
        }
    }
    reply->ticket = ticket;
    hand_over(call);
}

/* What a response needs until libmicrohttpd has sent it: it may outlive the call. */
typedef struct owned {
    void *head;
    attn_ticket_t *ticket;
} owned_t;

static void owned_free(void *cls)
{
    owned_t *owned = cls;
    free(owned->head);
    attn_admit_close(owned->ticket);
    free(owned);
}

static struct MHD_Response *make_response(http_reply_t *reply)
{
    if (reply->part_count == 0) {
        struct MHD_Response *response =
            MHD_create_response_from_buffer(reply->bytes, reply->data, MHD_RESPMEM_MUST_FREE);
        if (response != NULL) {
            reply->data = NULL;
            attn_admit_close(reply->ticket);
            reply->ticket = NULL;
        }
        return response;
    }
    struct MHD_IoVec vector[1 + HTTP_PARTS_MAX] = {{.iov_base = reply->data, .iov_len = reply->bytes}};
    unsigned count = reply->data != NULL ? 1 : 0;
    for (uint32_t i = 0; i < reply->part_count; i++) {
        vector[count++] = (struct MHD_IoVec){.iov_base = reply->parts[i].data, .iov_len = reply->parts[i].bytes};
    }
    owned_t *owned = malloc(sizeof *owned);
    if (owned == NULL) {
        return NULL;
    }
    *owned = (owned_t){reply->data, reply->ticket};
    /* libmicrohttpd sends its head together with a buffer, but before a vector. */
    struct MHD_Response *response =
        count == 1 ? MHD_create_response_from_buffer_with_free_callback_cls(
                         vector[0].iov_len, (void *)(uintptr_t)vector[0].iov_base, owned_free, owned)
                   : MHD_create_response_from_iovec(vector, count, owned_free, owned);
    if (response == NULL) {
        free(owned);
        return NULL;
    }
    reply->data = NULL;
    reply->ticket = NULL;
    return response;
}

/* False for a call that was cut meanwhile. */
static bool sending(attn_http_call_t *call)
{
    pthread_mutex_lock(&call->conn->lock);
    bool cut = call->phase == HTTP_CUT;
    call->phase = cut ? HTTP_CUT : HTTP_SENDING;
    call->conn->window_ns = 0;
    pthread_mutex_unlock(&call->conn->lock);
    return !cut;
}

enum MHD_Result http_reply_queue(attn_http_call_t *call)
{
    http_reply_t *reply = &call->reply;
    call->sent_bytes = reply->bytes;
    for (uint32_t i = 0; i < reply->part_count; i++) {
        call->sent_bytes += reply->parts[i].bytes;
    }
    if (call->conn->direct != NULL) {
        return sending(call) ? http_direct_answer(call) : MHD_NO;
    }
    struct MHD_Response *response = make_response(reply);
    if (response == NULL) {
        return MHD_NO;
    }
    for (uint32_t i = 0; i < reply->header_count; i++) {
        MHD_add_response_header(response, reply->headers[i].name, reply->headers[i].value);
    }
    if (reply->content_type != NULL) {
        MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, reply->content_type);
    }
    MHD_add_response_header(response, "X-Request-Id", call->id);
    if (atomic_load(&call->door->http->draining)) {
        MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close");
    }
    enum MHD_Result result =
        sending(call) ? MHD_queue_response(call->conn->mhd, (unsigned)reply->status, response) : MHD_NO;
    MHD_destroy_response(response);
    return result;
}

size_t http_reply_head(const attn_http_call_t *call, uint64_t body_bytes, bool closes, char ret[HTTP_ANSWER_HEAD_MAX])
{
    const http_reply_t *reply = &call->reply;
    const char *phrase = MHD_get_reason_phrase_for((unsigned)reply->status);
    const time_t now = time(NULL);
    struct tm calendar;
    char date[64];
    strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&now, &calendar));
    int used = snprintf(ret, HTTP_ANSWER_HEAD_MAX,
                        "HTTP/1.1 %d %s\r\nDate: %s\r\nContent-Type: %s\r\nContent-Length: %" PRIu64
                        "\r\nX-Request-Id: %s\r\n%s",
                        reply->status, phrase != NULL ? phrase : "Error", date, reply->content_type, body_bytes,
                        call->id, closes ? "Connection: close\r\n" : "");
    for (uint32_t i = 0; i < reply->header_count && used < HTTP_ANSWER_HEAD_MAX - 300; i++) {
        used += snprintf(ret + used, HTTP_ANSWER_HEAD_MAX - (size_t)used, "%s: %s\r\n", reply->headers[i].name,
                         reply->headers[i].value);
    }
    used += snprintf(ret + used, HTTP_ANSWER_HEAD_MAX - (size_t)used, "\r\n");
    return (size_t)used;
}

void http_reply_raw(attn_http_call_t *call)
{
    http_reply_t *reply = &call->reply;
    char head[HTTP_ANSWER_HEAD_MAX];
    if (call->answered_raw || reply->data == NULL) {
        return;
    }
    struct iovec vector[2] = {{head, http_reply_head(call, reply->bytes, true, head)}, {reply->data, reply->bytes}};
    struct msghdr message = {.msg_iov = vector, .msg_iovlen = 2};
    /* Nothing else is in the socket's buffer: a few hundred bytes fit, or the client gets none. */
    if (sendmsg(call->conn->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) > 0) {
        call->sent_bytes = reply->bytes;
    }
    call->answered_raw = true;
}
