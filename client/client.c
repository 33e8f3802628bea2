/* client.c: the handle: a pool of idle connections, and calls on them. Any thread: the pool has one mutex, never held
 * over a system call; a connection that is in use belongs to the calling thread. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "http_jobs.h"
#include "internal.h"

#define IDLE_MAX 16                         /* connections kept for the next calls */
#define ERROR_BODY_MAX (UINT64_C(64) << 10) /* of an answer of 400 and above; attnd's are below 4 KiB */
#define TEXT_BODY_MAX (UINT64_C(64) << 20)

struct attn_client {
    attn_local_t *local;   /* of the Unix socket; NULL over HTTP, and then the rest is used */
    attn_http_jobs_t jobs; /* has a lock of its own */
    attn_endpoint_t endpoint;
    attn_client_options_t options;
    pthread_mutex_t lock;
    uint32_t idle_count;         /* under lock */
    attn_conn_t *idle[IDLE_MAX]; /* under lock; the last one was used last */
};

attn_status_t attn_client_open(const char *server, const attn_client_options_t *options, attn_client_t **ret,
                               attn_client_error_t *err)
{
    attn_error_t error;
    attn_endpoint_t endpoint = {0};
    bool local = server != NULL && strncmp(server, "unix:", 5) == 0;
    if (!local && attn_endpoint_parse(server, &endpoint, &error) != ATTN_OK) {
        return attn_client_fail_with(err, &error);
    }
    attn_client_t *client = calloc(1, sizeof(*client));
    if (client == NULL) {
        return attn_client_fail(err, ATTN_ERR_NO_MEMORY, "no memory for a client");
    }
    client->endpoint = endpoint;
    if (options != NULL) {
        client->options = *options;
    }
    if (client->options.connect_timeout_ms <= 0) {
        client->options.connect_timeout_ms = 5000;
    }
    if (client->options.stall_timeout_ms <= 0) {
        client->options.stall_timeout_ms = 30000;
    }
    if (local) {
        attn_status_t status = attn_local_open(server + 5, &client->options, &client->local, err);
        if (status != ATTN_OK) {
            free(client);
            return status;
        }
    }
    pthread_mutex_init(&client->lock, NULL);
    attn_http_jobs_init(&client->jobs);
    *ret = client;
    return ATTN_OK;
}

attn_local_t *attn_client_local(attn_client_t *client)
{
    return client->local;
}

attn_http_jobs_t *attn_client_http_jobs(attn_client_t *client)
{
    return &client->jobs;
}

attn_local_t *attn_local_of(attn_client_t *client, const char *what, attn_client_error_t *err)
{
    if (client->local == NULL) {
        attn_client_fail(err, ATTN_ERR_UNIMPLEMENTED,
                         "%s needs the daemon's Unix socket; give the server as unix:/PATH", what);
    }
    return client->local;
}

void attn_client_close(attn_client_t *client)
{
    if (client == NULL) {
        return;
    }
    attn_http_jobs_close(&client->jobs);
    for (uint32_t i = 0; i < client->idle_count; i++) {
        attn_conn_close(client->idle[i]);
    }
    attn_local_close(client->local);
    pthread_mutex_destroy(&client->lock);
    free(client);
}

static attn_conn_t *idle_take(attn_client_t *client)
{
    pthread_mutex_lock(&client->lock);
    attn_conn_t *conn = client->idle_count > 0 ? client->idle[--client->idle_count] : NULL;
    pthread_mutex_unlock(&client->lock);
    return conn;
}

void attn_client_release(attn_client_t *client, attn_conn_t *conn)
{
    if (conn != NULL && attn_conn_reusable(conn)) {
        pthread_mutex_lock(&client->lock);
        if (client->idle_count < IDLE_MAX) {
            client->idle[client->idle_count++] = conn;
            conn = NULL;
        }
        pthread_mutex_unlock(&client->lock);
    }
    attn_conn_close(conn);
}

static bool progress_forward(void *arg, attn_conn_phase_t phase, uint64_t done, uint64_t total)
{
    const attn_client_progress_t *progress = arg;
    return progress->tell(progress->arg, (attn_client_phase_t)phase, done, total);
}

static attn_conn_options_t http_options(const attn_client_t *client, const attn_client_progress_t *progress)
{
    bool tell = progress != NULL && progress->tell != NULL;
    return (attn_conn_options_t){
        .connect_timeout_ms = client->options.connect_timeout_ms,
        .stall_timeout_ms = client->options.stall_timeout_ms,
        .answer_timeout_ms = client->options.answer_timeout_ms,
        .progress = tell ? progress_forward : NULL,
        .progress_arg = tell ? (void *)(uintptr_t)progress : NULL,
    };
}

/* A refusal: its sentence is in the body. */
static attn_status_t refusal_read(attn_client_t *client, attn_conn_t *conn, int http_status,
                                  const attn_conn_options_t *options, attn_client_error_t *err)
{
    uint64_t size = attn_conn_remaining(conn);
    char *text = calloc(1, (size < ERROR_BODY_MAX ? size : ERROR_BODY_MAX) + 1);
    attn_error_t ignored; /* a refusal cut short is still a refusal */
    if (text != NULL && size > 0) {
        (void)attn_conn_read(conn, text, size < ERROR_BODY_MAX ? size : ERROR_BODY_MAX, options, &ignored);
    }
    attn_status_t status = attn_client_fail_answer(err, http_status, text != NULL ? text : "");
    free(text);
    attn_client_release(client, conn);
    return status;
}

attn_status_t attn_client_call(attn_client_t *client, const attn_conn_call_t *call,
                               const attn_client_progress_t *progress, attn_conn_t **ret_conn,
                               attn_conn_head_t *ret_head, attn_client_error_t *err)
{
    attn_error_t error;
    attn_conn_head_t head;
    attn_conn_options_t options = http_options(client, progress);
    if (client->local != NULL) {
        return attn_client_fail(err, ATTN_ERR_UNIMPLEMENTED,
                                "the daemon's Unix socket does not offer %s; give the server as http://host:port",
                                call->target);
    }
    attn_conn_t *conn = idle_take(client);
    bool was_idle = conn != NULL;
    attn_status_t status = was_idle ? ATTN_OK : attn_conn_connect(&client->endpoint, &options, &conn, &error);
    if (status == ATTN_OK) {
        status = attn_conn_exchange(conn, call, &options, &head, &error);
    }
    if (status == ATTN_ERR_CONNECTION && was_idle && attn_conn_unanswered(conn)) {
        attn_conn_close(conn);
        conn = NULL;
        status = attn_conn_connect(&client->endpoint, &options, &conn, &error);
        if (status == ATTN_OK) {
            status = attn_conn_exchange(conn, call, &options, &head, &error);
        }
    }
    if (status != ATTN_OK) {
        attn_conn_close(conn);
        return attn_client_fail_with(err, &error);
    }
    if (head.status >= 400) {
        return refusal_read(client, conn, head.status, &options, err);
    }
    if (head.status >= 300) {
        attn_conn_close(conn);
        return attn_client_fail(err, ATTN_ERR_INVALID_ARGUMENT,
                                "the server redirects (HTTP %d) to '%.200s'; give the address that it names",
                                head.status, head.location);
    }
    *ret_conn = conn;
    *ret_head = head;
    return ATTN_OK;
}

attn_status_t attn_client_read(attn_client_t *client, attn_conn_t *conn, void *ret_data, uint64_t size,
                               const attn_client_progress_t *progress, attn_client_error_t *err)
{
    attn_error_t error;
    attn_conn_options_t options = http_options(client, progress);
    if (attn_conn_read(conn, ret_data, size, &options, &error) != ATTN_OK) {
        return attn_client_fail_with(err, &error);
    }
    return ATTN_OK;
}

attn_status_t attn_client_call_text(attn_client_t *client, const attn_conn_call_t *call,
                                    const attn_client_progress_t *progress, char **ret_text, attn_conn_head_t *ret_head,
                                    attn_client_error_t *err)
{
    attn_conn_t *conn = NULL;
    attn_conn_head_t head;
    attn_status_t status = attn_client_call(client, call, progress, &conn, &head, err);
    if (status != ATTN_OK) {
        return status;
    }
    char *text = NULL;
    if (head.content_length > TEXT_BODY_MAX) {
        status =
            attn_client_fail(err, ATTN_ERR_INTERNAL, "the server announces %llu bytes of text; at most %llu are read",
                             (unsigned long long)head.content_length, (unsigned long long)TEXT_BODY_MAX);
    } else {
        text = malloc(head.content_length + 1);
        status = text == NULL ? attn_client_fail(err, ATTN_ERR_NO_MEMORY, "no memory for the server's answer")
                              : attn_client_read(client, conn, text, head.content_length, progress, err);
    }
    if (status != ATTN_OK) {
        attn_conn_close(conn);
        free(text);
        return status;
    }
    text[head.content_length] = '\0';
    attn_client_release(client, conn);
    *ret_text = text;
    if (ret_head != NULL) {
        *ret_head = head;
    }
    return ATTN_OK;
}
