/* http_jobs.h: requests that are not waited for, over HTTP, so that a program is the same over either door: each job is
 * a thread that makes the blocking call. Any thread. */
#ifndef ATTN_CLIENT_HTTP_JOBS_H
#define ATTN_CLIENT_HTTP_JOBS_H

#include <pthread.h>

#include "local.h"

#define ATTN_HTTP_JOBS_MAX 256 /* threads of one client */

typedef struct attn_http_jobs {
    pthread_mutex_t lock;
    pthread_cond_t ended;
    /* Under lock: */
    attn_job_list_t running, finished; /* a job in neither was given to somebody, and is kept in `held` */
    attn_job_list_t held;
    uint32_t count;         /* running ones */
    attn_region_t *regions; /* memory of a client over HTTP, which the daemon does not know of */
    int event_fd;           /* readable while `finished` is not empty; -1 until somebody asks */
} attn_http_jobs_t;

void attn_http_jobs_init(attn_http_jobs_t *jobs);
void attn_http_jobs_close(attn_http_jobs_t *jobs); /* cancels and frees what is left, regions too */

attn_status_t attn_http_submit(attn_client_t *client, const attn_client_request_t *request, void *user,
                               attn_job_t **ret, attn_client_error_t *err);
/* What attn_job_wait(), attn_job_cancel(), attn_job_free() do with a job whose `local` is NULL. */
attn_status_t attn_http_job_wait(attn_job_t *job, int timeout_ms, attn_client_answer_t *ret, attn_client_error_t *err);
void attn_http_job_cancel(attn_job_t *job);
void attn_http_job_free(attn_job_t *job);
/* A finished job: waits for one at most so long (0 = look only, -1 = for ever) while any runs. */
attn_job_t *attn_http_next(attn_http_jobs_t *jobs, int64_t timeout_us);
int attn_http_poll_fd(attn_http_jobs_t *jobs, attn_client_error_t *err);

#endif
