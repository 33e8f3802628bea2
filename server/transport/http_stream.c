/* transport/http_stream.c: answers of unknown length, written by any thread into a ring and sent by libmicrohttpd's.
 * The connection is suspended while the ring is empty. conn->lock guards the ring. */
#include <stdlib.h>
#include <string.h>

#include "transport/http_internal.h"

void http_stream_drop(attn_http_call_t *call)
{
    free(call->stream.data);
    call->stream.data = NULL;
}

static ssize_t read_stream(void *cls, uint64_t position, char *buffer, size_t max)
{
    attn_http_call_t *call = cls;
    http_stream_t *stream = &call->stream;
    ssize_t taken = 0;
    pthread_mutex_lock(&call->conn->lock);
    if (stream->used > 0) {
        size_t first = HTTP_STREAM_BYTES - stream->begin;
        size_t bytes = stream->used < max ? stream->used : max;
        bytes = bytes < first ? bytes : first;
        memcpy(buffer, stream->data + stream->begin, bytes);
        stream->begin = (stream->begin + bytes) % HTTP_STREAM_BYTES;
        stream->used -= bytes;
        taken = (ssize_t)bytes;
    } else if (!stream->open) {
        taken = MHD_CONTENT_READER_END_OF_STREAM;
    } else {
        stream->suspended = true;
        MHD_suspend_connection(call->conn->mhd);
    }
    pthread_mutex_unlock(&call->conn->lock);
    return taken;
}

void attn_http_stream_begin(attn_http_call_t *call, const char *content_type,
                            void (*gone)(attn_http_call_t *call, void *arg), void *arg)
{
    call->stream.data = malloc(HTTP_STREAM_BYTES);
    atomic_fetch_add(&call->holds, 1); /* the owner's, until attn_http_stream_end() */
    pthread_mutex_lock(&call->conn->lock);
    call->gone = gone;
    call->gone_arg = arg;
    call->reply.status = call->stream.data != NULL ? 200 : 500;
    call->reply.content_type = content_type;
    call->stream.open = true;
    call->phase = HTTP_REPLIED;
    pthread_mutex_unlock(&call->conn->lock);
}

enum MHD_Result http_stream_queue(attn_http_call_t *call)
{
    struct MHD_Response *response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 4096, read_stream, call, NULL);
    if (response == NULL) {
        return MHD_NO;
    }
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, call->reply.content_type);
    MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-cache");
    MHD_add_response_header(response, "X-Request-Id", call->id);
    enum MHD_Result result = MHD_queue_response(call->conn->mhd, 200, response);
    MHD_destroy_response(response);
    return result;
}

/* Under conn->lock. */
static void wake(attn_http_call_t *call)
{
    if (call->stream.suspended) {
        call->stream.suspended = false;
        http_conn_resume(call->conn);
    }
}

bool attn_http_stream_write(attn_http_call_t *call, const void *data, size_t bytes)
{
    http_stream_t *stream = &call->stream;
    pthread_mutex_lock(&call->conn->lock);
    bool fits = call->phase != HTTP_CUT && !call->gone_called && stream->data != NULL &&
                bytes <= HTTP_STREAM_BYTES - stream->used;
    if (fits) {
        size_t end = (stream->begin + stream->used) % HTTP_STREAM_BYTES;
        size_t first = HTTP_STREAM_BYTES - end < bytes ? HTTP_STREAM_BYTES - end : bytes;
        memcpy(stream->data + end, data, first);
        memcpy(stream->data, (const char *)data + first, bytes - first);
        stream->used += bytes;
        call->sent_bytes += bytes;
        wake(call);
    }
    pthread_mutex_unlock(&call->conn->lock);
    return fits;
}

void attn_http_stream_end(attn_http_call_t *call)
{
    http_conn_t *conn = call->conn;
    atomic_fetch_add(&conn->holds, 1); /* the lock must outlive the call's last step */
    pthread_mutex_lock(&conn->lock);
    call->stream.open = false;
    if (call->phase != HTTP_CUT) {
        wake(call);
    }
    pthread_mutex_unlock(&conn->lock);
    http_call_release(call);
    http_conn_release(conn);
}
