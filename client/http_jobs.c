/* http_jobs.c: see http_jobs.h. A job owns its thread and copies of what the request points to, the tensors excepted.
 */
#include "http_jobs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

typedef struct http_job {
    attn_job_t job; /* first; its `local` is NULL */
    attn_http_jobs_t *jobs;
    attn_job_list_t *in; /* the list that it is in; under lock */
    attn_client_t *client;
    attn_client_request_t request;
    char *variant, *id;
    int32_t *seqlens[2];
    _Atomic bool cancelled;
    pthread_t thread;
} http_job_t;

static http_job_t *http_job_of(attn_job_t *job)
{
    return (http_job_t *)(void *)job;
}

/* Lock held. */
static void move(http_job_t *of, attn_job_list_t *to)
{
    if (of->in != NULL) {
        attn_job_list_remove(of->in, &of->job);
    }
    of->in = to;
    if (to != NULL) {
        attn_job_list_append(to, &of->job);
    }
}

static bool is_done(attn_job_t *job)
{
    return atomic_load_explicit(&job->word, memory_order_acquire) == ATTN_JOB_DONE;
}

void attn_http_jobs_init(attn_http_jobs_t *jobs)
{
    pthread_condattr_t monotonic;
    memset(jobs, 0, sizeof(*jobs));
    jobs->event_fd = -1;
    pthread_mutex_init(&jobs->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&jobs->ended, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

void attn_http_jobs_close(attn_http_jobs_t *jobs)
{
    attn_job_list_t *const lists[] = {&jobs->running, &jobs->finished, &jobs->held};
    for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
        while (lists[i]->first != NULL) {
            attn_http_job_free(lists[i]->first);
        }
    }
    while (jobs->regions != NULL) {
        attn_region_release(jobs->regions);
    }
    if (jobs->event_fd >= 0) {
        close(jobs->event_fd);
    }
    pthread_cond_destroy(&jobs->ended);
    pthread_mutex_destroy(&jobs->lock);
}

static bool goes_on(void *arg, attn_client_phase_t phase, uint64_t done, uint64_t total)
{
    const http_job_t *of = arg;
    return !atomic_load_explicit(&of->cancelled, memory_order_relaxed);
}

static void *job_run(void *arg)
{
    http_job_t *of = arg;
    attn_job_t *job = &of->job;
    attn_client_progress_t progress = {goes_on, of};
    job->status = attn_client_run(of->client, &of->request, &progress, &job->answer, &job->error);
    pthread_mutex_lock(&of->jobs->lock);
    atomic_store_explicit(&job->word, ATTN_JOB_DONE, memory_order_release);
    of->jobs->count--;
    move(of, job->waited ? &of->jobs->held : &of->jobs->finished);
    if (!job->waited && of->jobs->event_fd >= 0) {
        eventfd_write(of->jobs->event_fd, 1);
    }
    pthread_cond_broadcast(&of->jobs->ended);
    pthread_mutex_unlock(&of->jobs->lock);
    return NULL;
}

static bool seqlens_copy(const int32_t *from, uint32_t batch, int32_t **ret)
{
    size_t bytes = ((size_t)batch + 1) * sizeof(*from);
    *ret = from != NULL ? malloc(bytes) : NULL;
    if (*ret != NULL) {
        memcpy(*ret, from, bytes);
    }
    return from == NULL || *ret != NULL;
}

/* What the request points to lives as long as the job. */
static bool request_copy(http_job_t *of, const attn_client_request_t *from)
{
    of->request = *from;
    of->variant = from->variant != NULL ? strdup(from->variant) : NULL;
    of->id = from->id != NULL ? strdup(from->id) : NULL;
    bool good = (from->variant == NULL) == (of->variant == NULL) && (from->id == NULL) == (of->id == NULL);
    if (from->spec.layout == ATTN_LAYOUT_THD) {
        good = good && seqlens_copy(from->cu_seqlens_q, from->spec.batch, &of->seqlens[0]) &&
               seqlens_copy(from->cu_seqlens_k, from->spec.batch, &of->seqlens[1]);
        of->request.cu_seqlens_q = of->seqlens[0];
        of->request.cu_seqlens_k = of->seqlens[1];
    }
    of->request.variant = of->variant;
    of->request.id = of->id;
    return good;
}

static void job_dispose(http_job_t *of)
{
    free(of->variant);
    free(of->id);
    free(of->seqlens[0]);
    free(of->seqlens[1]);
    free(of);
}

attn_status_t attn_http_submit(attn_client_t *client, const attn_client_request_t *request, void *user,
                               attn_job_t **ret, attn_client_error_t *err)
{
    attn_http_jobs_t *jobs = attn_client_http_jobs(client);
    attn_spec_t spec;
    attn_sizes_t sizes;
    attn_status_t status = attn_wire_check(request, true, true, &spec, &sizes, err);
    if (status != ATTN_OK) {
        return status;
    }
    http_job_t *of = calloc(1, sizeof(*of));
    if (of == NULL || !request_copy(of, request)) {
        if (of != NULL) {
            job_dispose(of);
        }
        return attn_client_fail(err, ATTN_ERR_NO_MEMORY, "no memory for a job");
    }
    of->jobs = jobs;
    of->client = client;
    of->job.kind = ATTN_JOB_RUN;
    of->job.user = user;
    pthread_mutex_lock(&jobs->lock);
    int code = jobs->count < ATTN_HTTP_JOBS_MAX ? pthread_create(&of->thread, NULL, job_run, of) : EBUSY;
    if (code == 0) { /* the thread waits for the lock before it ends the job */
        jobs->count++;
        move(of, &jobs->running);
    }
    pthread_mutex_unlock(&jobs->lock);
    if (code != 0) {
        job_dispose(of);
        return attn_client_fail(err, ATTN_ERR_UNAVAILABLE,
                                "%u requests are in flight over HTTP, each with a thread; wait for one", jobs->count);
    }
    *ret = &of->job;
    return ATTN_OK;
}

/* Lock held: waits until then, or something ended; false when the time is up. */
static bool ended_wait(attn_http_jobs_t *jobs, int64_t until_ns)
{
    struct timespec until = {until_ns / 1000000000, until_ns % 1000000000};
    return pthread_cond_timedwait(&jobs->ended, &jobs->lock, &until) != ETIMEDOUT;
}

static int64_t time_until(int64_t timeout_ns)
{
    const int64_t forever_ns = INT64_C(1) << 60;
    return timeout_ns < 0 ? forever_ns : attn_now_ns() + timeout_ns;
}

attn_status_t attn_http_job_wait(attn_job_t *job, int timeout_ms, attn_client_answer_t *ret, attn_client_error_t *err)
{
    attn_http_jobs_t *jobs = http_job_of(job)->jobs;
    int64_t until = time_until(timeout_ms * INT64_C(1000000));
    pthread_mutex_lock(&jobs->lock);
    job->waited = true;
    while (!is_done(job) && ended_wait(jobs, until)) {
    }
    job->waited = false;
    pthread_mutex_unlock(&jobs->lock);
    if (!is_done(job)) {
        return attn_client_fail(err, ATTN_ERR_TIMEOUT, "the request has not ended within %d ms", timeout_ms);
    }
    return attn_job_result(job, ret, err);
}

void attn_http_job_cancel(attn_job_t *job)
{
    atomic_store_explicit(&http_job_of(job)->cancelled, true, memory_order_relaxed);
}

void attn_http_job_free(attn_job_t *job)
{
    http_job_t *of = http_job_of(job);
    attn_http_job_cancel(job);
    (void)attn_http_job_wait(job, -1, NULL, NULL);
    pthread_join(of->thread, NULL);
    pthread_mutex_lock(&of->jobs->lock);
    move(of, NULL);
    pthread_mutex_unlock(&of->jobs->lock);
    job_dispose(of);
}

attn_job_t *attn_http_next(attn_http_jobs_t *jobs, int64_t timeout_us)
{
    int64_t until = time_until(timeout_us * 1000);
    eventfd_t ignored;
    pthread_mutex_lock(&jobs->lock);
    while (timeout_us != 0 && jobs->finished.first == NULL && jobs->count > 0 && ended_wait(jobs, until)) {
    }
    attn_job_t *job = jobs->finished.first;
    if (job != NULL) {
        move(http_job_of(job), &jobs->held);
    } else if (jobs->event_fd >= 0) {
        (void)eventfd_read(jobs->event_fd, &ignored);
    }
    pthread_mutex_unlock(&jobs->lock);
    return job;
}

int attn_http_poll_fd(attn_http_jobs_t *jobs, attn_client_error_t *err)
{
    pthread_mutex_lock(&jobs->lock);
    if (jobs->event_fd < 0) {
        jobs->event_fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK); /* jobs may have ended before anybody asked */
        if (jobs->event_fd < 0) {
            attn_client_fail(err, ATTN_ERR_SYSTEM, "no descriptor to poll: %s", strerror(errno));
        }
    }
    int fd = jobs->event_fd;
    pthread_mutex_unlock(&jobs->lock);
    return fd;
}
