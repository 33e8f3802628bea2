/* job.c: jobs in flight on a connection, and waiting for them. Of all threads that wait, one leads: it looks at the
 * ring and the socket and ends jobs, its own and others'; the rest, the followers, sleep each on its job's word. A
 * leader whose job has ended hands over. So a lone caller talks to the daemon without another thread in between, and
 * many do not fight over the ring. Any thread. */
#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "http_jobs.h"

#define FOREVER_NS INT64_C(3600000000000)

void attn_job_list_append(attn_job_list_t *list, attn_job_t *job)
{
    job->next = NULL;
    job->previous = list->last;
    *(list->last != NULL ? &list->last->next : &list->first) = job;
    list->last = job;
}

void attn_job_list_remove(attn_job_list_t *list, attn_job_t *job)
{
    *(job->previous != NULL ? &job->previous->next : &list->first) = job->next;
    *(job->next != NULL ? &job->next->previous : &list->last) = job->previous;
    job->next = job->previous = NULL;
}

attn_status_t attn_jobs_init(attn_local_t *local, attn_client_error_t *err)
{
    local->job_count = local->options.ring_entries + ATTN_JOBS_BY_MESSAGE;
    local->jobs = calloc(local->job_count, sizeof(*local->jobs));
    if (local->jobs == NULL) {
        return attn_client_fail(err, ATTN_ERR_NO_MEMORY, "no memory for jobs");
    }
    for (uint32_t i = 0; i < local->job_count; i++) {
        local->jobs[i].local = local;
        attn_job_list_append(&local->free, &local->jobs[i]);
    }
    return ATTN_OK;
}

attn_job_t *attn_job_take(attn_local_t *local, attn_job_kind_t kind)
{
    attn_job_t *job = local->free.first;
    if (job == NULL) {
        return NULL;
    }
    attn_job_list_remove(&local->free, job);
    job->kind = kind;
    job->tag = ++local->serial << 16 | (uint64_t)(job - local->jobs);
    job->by_ring = job->listed = job->waited = false;
    job->user = NULL;
    job->reply = NULL;
    job->fd_count = 0;
    atomic_store_explicit(&job->word, ATTN_JOB_PENDING, memory_order_relaxed);
    return job;
}

void attn_job_unlist(attn_job_t *job)
{
    if (job->listed) {
        attn_job_list_remove(&job->local->finished, job);
        job->listed = false;
    }
}

void attn_job_put(attn_job_t *job)
{
    attn_local_t *local = job->local;
    attn_job_unlist(job);
    if (job->reply != NULL) {
        attn_link_answer_free(job->reply);
        job->reply = NULL;
    }
    for (int i = 0; i < job->fd_count; i++) {
        close(job->fds[i]);
    }
    job->fd_count = 0;
    job->kind = ATTN_JOB_FREE;
    attn_job_list_append(&local->free, job);
}

static void word_wake(attn_job_t *job)
{
    syscall(SYS_futex, &job->word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1, NULL, NULL, 0);
}

static bool is_follower(const attn_job_t *job)
{
    return job->local->followers.first == job || job->previous != NULL;
}

void attn_job_end(attn_job_t *job)
{
    attn_local_t *local = job->local;
    *(job->by_ring ? &local->in_ring : &local->by_message) -= 1;
    bool follows = job->waited && is_follower(job);
    if (follows) {
        attn_job_list_remove(&local->followers, job);
    }
    if (job->kind == ATTN_JOB_DISCARD) {
        attn_job_put(job);
        return;
    }
    atomic_store_explicit(&job->word, ATTN_JOB_DONE, memory_order_release);
    if (follows) {
        word_wake(job);
    }
    if (job->kind == ATTN_JOB_RUN && !job->waited) {
        job->listed = true;
        attn_job_list_append(&local->finished, job);
        pthread_cond_broadcast(&local->moved);
        if (local->event_fd >= 0) {
            eventfd_write(local->event_fd, 1);
        }
    }
}

attn_status_t attn_job_send(attn_local_t *local, attn_job_kind_t kind, Attn__V1__SocketRequest *message, int fd,
                            attn_job_t **ret, attn_client_error_t *err)
{
    uint32_t limit = kind == ATTN_JOB_RUN && local->link.max_in_flight > 0 ? local->link.max_in_flight : UINT32_MAX;
    attn_job_t *job = local->by_message < limit ? attn_job_take(local, kind) : NULL;
    if (job == NULL) {
        return attn_client_fail(err, ATTN_ERR_UNAVAILABLE, "%u requests are in flight on this client; wait for one",
                                local->in_ring + local->by_message);
    }
    message->tag = job->tag;
    attn_status_t status = attn_link_send(&local->link, message, fd, err);
    if (status != ATTN_OK) {
        attn_job_put(job);
        if (status == ATTN_ERR_CONNECTION && local->leading) {
            attn_link_kick(&local->link); /* so that the leader looks at the socket and finds out why */
        } else if (status == ATTN_ERR_CONNECTION) {
            attn_local_receive(local);
        }
        return status;
    }
    local->by_message++;
    if (local->leading && local->by_message == 1) {
        attn_link_kick(&local->link); /* it looks at the ring alone */
    }
    *ret = job;
    return ATTN_OK;
}

attn_status_t attn_job_publish(attn_local_t *local, attn_job_kind_t kind, attn_shm_submission_t *record,
                               attn_job_t **ret, attn_client_error_t *err)
{
    attn_job_t *job = local->in_ring < local->link.entries ? attn_job_take(local, kind) : NULL;
    if (job == NULL) {
        return attn_client_fail(err, ATTN_ERR_UNAVAILABLE, "the ring's %u requests are in flight; wait for one",
                                local->link.entries);
    }
    job->by_ring = true;
    local->in_ring++;
    record->tag = job->tag;
    attn_link_submit(&local->link, record);
    *ret = job;
    return ATTN_OK;
}

static int64_t spin_time(const attn_local_t *local)
{
    return local->options.spin_us > 0 ? local->options.spin_us * INT64_C(1000) : 0;
}

/* Lock held, and let go of while it sleeps: looks for answers until `job` has ended (NULL: until any has), or until
 * then. */
static void lead(attn_local_t *local, const attn_job_t *job, int64_t until_ns)
{
    bool look = false;
    local->leading = true;
    while (local->connected) {
        uint32_t before = local->in_ring + local->by_message;
        attn_local_reap(local);
        if (local->connected && (look || local->by_message > 0)) {
            attn_local_receive(local);
        }
        if (!local->connected || (job != NULL ? atomic_load_explicit(&job->word, memory_order_relaxed) == ATTN_JOB_DONE
                                              : local->in_ring + local->by_message < before)) {
            break;
        }
        if (attn_now_ns() >= until_ns) {
            break;
        }
        attn_link_nap_t nap = {
            .watch = local->by_message > 0 || local->poll_fd >= 0, .spin_ns = spin_time(local), .until_ns = until_ns};
        attn_link_nap_prepare(&local->link, &nap);
        pthread_mutex_unlock(&local->lock);
        look = attn_link_sleep(&local->link, &nap);
        pthread_mutex_lock(&local->lock);
    }
    local->leading = false;
    if (local->poll_fd >= 0 && local->connected && !attn_link_arm_pipe(&local->link) && local->event_fd >= 0) {
        eventfd_write(local->event_fd, 1); /* whoever polls finds the rest */
    }
    attn_job_t *heir = local->followers.first;
    if (heir != NULL) {
        atomic_store_explicit(&heir->word, ATTN_JOB_LEAD, memory_order_release);
        word_wake(heir);
    }
    pthread_cond_broadcast(&local->moved);
}

/* Lock held, and let go of while it sleeps: until the job has ended, it is to lead, or then. */
static void follow(attn_local_t *local, attn_job_t *job, int64_t until_ns)
{
    int64_t left = until_ns - attn_now_ns();
    struct timespec timeout = {left > 0 ? left / 1000000000 : 0, left > 0 ? left % 1000000000 : 0};
    atomic_store_explicit(&job->word, ATTN_JOB_PENDING, memory_order_relaxed);
    attn_job_list_append(&local->followers, job);
    pthread_mutex_unlock(&local->lock);
    syscall(SYS_futex, &job->word, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, ATTN_JOB_PENDING, &timeout, NULL, 0);
    pthread_mutex_lock(&local->lock);
    if (atomic_load_explicit(&job->word, memory_order_relaxed) != ATTN_JOB_DONE) {
        attn_job_list_remove(&local->followers, job); /* one that ended was taken out */
    }
}

bool attn_job_until(attn_job_t *job, int64_t until_ns)
{
    attn_local_t *local = job->local;
    if (atomic_load_explicit(&job->word, memory_order_acquire) == ATTN_JOB_DONE) {
        return true;
    }
    pthread_mutex_lock(&local->lock);
    bool was_waited = job->waited, done, first = true;
    job->waited = true;
    for (;;) {
        done = atomic_load_explicit(&job->word, memory_order_relaxed) == ATTN_JOB_DONE;
        if (done || (!first && attn_now_ns() >= until_ns)) {
            break;
        }
        first = false; /* even who does not wait looks once */
        if (local->leading) {
            follow(local, job, until_ns);
        } else {
            lead(local, job, until_ns);
        }
    }
    job->waited = was_waited;
    if (!local->leading && local->followers.first != NULL) { /* it had been told to lead, and its time was up */
        atomic_store_explicit(&local->followers.first->word, ATTN_JOB_LEAD, memory_order_release);
        word_wake(local->followers.first);
    }
    pthread_mutex_unlock(&local->lock);
    return done;
}

void attn_local_stir(attn_local_t *local, int64_t until_ns)
{
    if (!local->leading) {
        lead(local, NULL, until_ns);
        return;
    }
    struct timespec until = {until_ns / 1000000000, until_ns % 1000000000};
    pthread_cond_timedwait(&local->moved, &local->lock, &until);
}

attn_status_t attn_local_call(attn_local_t *local, Attn__V1__SocketRequest *message, int fd,
                              Attn__V1__SocketAnswer **ret, int ret_fds[ATTN_LINK_FDS], int *ret_fd_count,
                              attn_client_error_t *err)
{
    attn_job_t *job = NULL;
    pthread_mutex_lock(&local->lock);
    attn_status_t status = attn_local_connect(local, err);
    if (status == ATTN_OK) {
        status = attn_job_send(local, ATTN_JOB_CONTROL, message, fd, &job, err);
    }
    if (status == ATTN_OK) {
        job->waited = true;
    }
    pthread_mutex_unlock(&local->lock);
    if (status != ATTN_OK) {
        return status;
    }
    while (!attn_job_until(job, attn_now_ns() + FOREVER_NS)) {
    }
    pthread_mutex_lock(&local->lock);
    status = job->status;
    if (status == ATTN_OK) {
        *ret = job->reply;
        *ret_fd_count = job->fd_count;
        memcpy(ret_fds, job->fds, sizeof(job->fds));
        job->reply = NULL;
        job->fd_count = 0;
    } else if (err != NULL) {
        *err = job->error;
    }
    attn_job_put(job);
    pthread_mutex_unlock(&local->lock);
    return status;
}

/* ---- what callers see ---- */

void *attn_job_user(const attn_job_t *job)
{
    return job->user;
}

attn_status_t attn_job_result(const attn_job_t *job, attn_client_answer_t *ret, attn_client_error_t *err)
{
    if (job->status == ATTN_OK && ret != NULL) {
        *ret = job->answer;
    } else if (job->status != ATTN_OK && err != NULL) {
        *err = job->error;
    }
    return job->status;
}

attn_status_t attn_job_wait(attn_job_t *job, int timeout_ms, attn_client_answer_t *ret, attn_client_error_t *err)
{
    if (job->local == NULL) {
        return attn_http_job_wait(job, timeout_ms, ret, err);
    }
    int64_t wait_ns = timeout_ms < 0 ? FOREVER_NS : timeout_ms * INT64_C(1000000);
    bool done;
    do {
        done = attn_job_until(job, attn_now_ns() + wait_ns);
    } while (!done && timeout_ms < 0);
    if (!done) {
        return attn_client_fail(err, ATTN_ERR_TIMEOUT, "the request has not ended within %d ms", timeout_ms);
    }
    return attn_job_result(job, ret, err);
}

attn_job_t *attn_client_next(attn_client_t *client, int64_t timeout_us)
{
    attn_local_t *local = attn_client_local(client);
    int64_t until = attn_now_ns() + (timeout_us >= 0 ? timeout_us * 1000 : FOREVER_NS);
    if (local == NULL) {
        return attn_http_next(attn_client_http_jobs(client), timeout_us);
    }
    pthread_mutex_lock(&local->lock);
    while (local->finished.first == NULL && local->connected && local->in_ring + local->by_message > 0 &&
           attn_now_ns() < until) {
        attn_local_stir(local, until);
    }
    attn_job_t *job = local->finished.first;
    if (job != NULL) {
        attn_job_unlist(job);
    }
    pthread_mutex_unlock(&local->lock);
    return job;
}

void attn_job_cancel(attn_job_t *job)
{
    attn_local_t *local = job->local;
    attn_job_t *ignored;
    if (local == NULL) {
        attn_http_job_cancel(job);
        return;
    }
    pthread_mutex_lock(&local->lock);
    if (atomic_load_explicit(&job->word, memory_order_relaxed) != ATTN_JOB_DONE && local->connected) {
        if (job->by_ring) { /* where the ring is full the job simply runs to its end */
            attn_shm_submission_t record = {.op = ATTN_SHM_CANCEL, .target = job->tag};
            (void)attn_job_publish(local, ATTN_JOB_DISCARD, &record, &ignored, NULL);
        } else {
            Attn__V1__Cancel cancel = ATTN__V1__CANCEL__INIT;
            Attn__V1__SocketRequest message = ATTN__V1__SOCKET_REQUEST__INIT;
            cancel.tag = job->tag;
            message.what_case = ATTN__V1__SOCKET_REQUEST__WHAT_CANCEL;
            message.cancel = &cancel;
            (void)attn_job_send(local, ATTN_JOB_DISCARD, &message, -1, &ignored, NULL);
        }
    }
    pthread_mutex_unlock(&local->lock);
}

void attn_job_free(attn_job_t *job)
{
    if (job == NULL) {
        return;
    }
    attn_local_t *local = job->local;
    if (local == NULL) {
        attn_http_job_free(job);
        return;
    }
    if (!attn_job_until(job, 0)) {
        attn_job_cancel(job);
        while (!attn_job_until(job, attn_now_ns() + FOREVER_NS)) {
        }
    }
    pthread_mutex_lock(&local->lock);
    attn_job_put(job);
    pthread_mutex_unlock(&local->lock);
}
