/* local.c: the client of a Unix socket as a whole: opening and closing, connecting anew, the descriptor to poll. Any
 * thread; see local.h. */
#include "local.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cpus.h"
#include "http_jobs.h"

#define RING_ENTRIES 128
#define SPIN_US 50      /* a wake-up takes 20 to 60 us */
#define SPIN_CPUS_MIN 4 /* with fewer, spinning takes the core that the daemon needs */

/* The options with their defaults put in. */
static attn_status_t options_complete(attn_client_options_t *options, attn_client_error_t *err)
{
    if (options->ring_entries == 0) {
        options->ring_entries = RING_ENTRIES;
    }
    if (options->ring_entries < ATTN_SHM_ENTRIES_MIN || options->ring_entries > ATTN_SHM_ENTRIES_MAX ||
        (options->ring_entries & (options->ring_entries - 1)) != 0) {
        return attn_client_fail(err, ATTN_ERR_INVALID_ARGUMENT,
                                "ring_entries is %u; it must be a power of two from %u to %u", options->ring_entries,
                                ATTN_SHM_ENTRIES_MIN, ATTN_SHM_ENTRIES_MAX);
    }
    if (options->mode > ATTN_CLIENT_MESSAGES) {
        return attn_client_fail(err, ATTN_ERR_INVALID_ARGUMENT, "mode is %d; it must be an attn_client_mode_t",
                                (int)options->mode);
    }
    if (options->spin_us == 0 && attn_cpus_usable() >= SPIN_CPUS_MIN) {
        options->spin_us = SPIN_US;
    }
    return ATTN_OK;
}

attn_status_t attn_local_open(const char *path, const attn_client_options_t *options, attn_local_t **ret,
                              attn_client_error_t *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (path[0] != '/' || strlen(path) >= sizeof(address.sun_path)) {
        return attn_client_fail(
            err, ATTN_ERR_INVALID_ARGUMENT,
            "'unix:%.200s' is no address; give it as unix:/PATH, at most %zu characters, for example "
            "unix:/run/attnd/attnd.sock",
            path, sizeof(address.sun_path) - 1);
    }
    attn_local_t *local = calloc(1, sizeof(*local));
    attn_status_t status =
        local != NULL ? ATTN_OK : attn_client_fail(err, ATTN_ERR_NO_MEMORY, "no memory for a client");
    if (status == ATTN_OK) {
        strcpy(address.sun_path, path);
        local->address = address;
        local->options = *options;
        local->link = ATTN_LINK_NONE;
        local->poll_fd = local->event_fd = -1;
        status = options_complete(&local->options, err);
    }
    if (status == ATTN_OK) {
        status = attn_jobs_init(local, err);
    }
    if (status != ATTN_OK) {
        free(local);
        return status;
    }
    pthread_mutex_init(&local->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&local->moved, &monotonic);
    pthread_condattr_destroy(&monotonic);
    *ret = local;
    return ATTN_OK;
}

void attn_local_close(attn_local_t *local)
{
    if (local == NULL) {
        return;
    }
    attn_link_close(&local->link);
    attn_regions_forget(local);
    for (uint32_t i = 0; i < local->job_count; i++) {
        if (local->jobs[i].kind != ATTN_JOB_FREE) {
            attn_job_put(&local->jobs[i]);
        }
    }
    if (local->poll_fd >= 0) {
        close(local->poll_fd);
        close(local->event_fd);
    }
    pthread_cond_destroy(&local->moved);
    pthread_mutex_destroy(&local->lock);
    free(local->jobs);
    free(local);
}

/* Lets the poll descriptor see the present connection. */
static void poll_watch(attn_local_t *local)
{
    struct epoll_event event = {.events = EPOLLIN};
    if (local->poll_fd < 0 || !local->connected) {
        return;
    }
    (void)epoll_ctl(local->poll_fd, EPOLL_CTL_ADD, local->link.fd, &event);
    if (local->link.wakeup >= 0) {
        (void)epoll_ctl(local->poll_fd, EPOLL_CTL_ADD, local->link.wakeup, &event);
    }
}

attn_status_t attn_local_connect(attn_local_t *local, attn_client_error_t *err)
{
    if (local->connected) {
        return ATTN_OK;
    }
    int timeout_ms = local->options.connect_timeout_ms;
    attn_status_t status = attn_link_open(local->address.sun_path, timeout_ms, &local->link, err);
    if (status == ATTN_OK && local->options.mode != ATTN_CLIENT_MESSAGES) {
        status = attn_link_ring_open(&local->link, local->options.ring_entries, timeout_ms, err);
        if (status == ATTN_ERR_UNIMPLEMENTED && local->options.mode == ATTN_CLIENT_AUTO) {
            status = ATTN_OK; /* this daemon has no ring: messages then */
        }
    }
    if (status == ATTN_OK) {
        status = attn_regions_register(local, err);
    }
    if (status == ATTN_OK) {
        status = attn_events_register(local, err);
    }
    if (status != ATTN_OK) {
        attn_link_close(&local->link);
        return status;
    }
    local->connected = local->was_connected = true;
    poll_watch(local);
    return ATTN_OK;
}

void attn_local_break(attn_local_t *local, const attn_client_error_t *why)
{
    local->connected = false;
    attn_link_close(&local->link);
    for (uint32_t i = 0; i < local->job_count; i++) {
        attn_job_t *job = &local->jobs[i];
        if (job->kind != ATTN_JOB_FREE && atomic_load_explicit(&job->word, memory_order_relaxed) != ATTN_JOB_DONE) {
            job->status = why->error.status;
            job->error = *why;
            attn_job_end(job);
        }
    }
    pthread_cond_broadcast(&local->moved);
}

attn_status_t attn_local_probe(attn_local_t *local, attn_client_health_t *ret, attn_client_error_t *err)
{
    attn_link_t link;
    attn_status_t status = attn_link_open(local->address.sun_path, local->options.connect_timeout_ms, &link, err);
    if (status == ATTN_OK) {
        *ret = (attn_client_health_t){.live = true, .ready = link.any_ready};
        attn_link_close(&link);
    }
    return status;
}

int attn_client_poll_fd(attn_client_t *client, attn_client_error_t *err)
{
    attn_local_t *local = attn_client_local(client);
    if (local == NULL) {
        return attn_http_poll_fd(attn_client_http_jobs(client), err);
    }
    pthread_mutex_lock(&local->lock);
    if (local->poll_fd < 0) {
        int poll_fd = epoll_create1(EPOLL_CLOEXEC), event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        struct epoll_event event = {.events = EPOLLIN};
        if (poll_fd < 0 || event_fd < 0 || epoll_ctl(poll_fd, EPOLL_CTL_ADD, event_fd, &event) != 0) {
            attn_client_fail(err, ATTN_ERR_SYSTEM, "no descriptor to poll: %s", strerror(errno));
            close(poll_fd);
            close(event_fd);
        } else {
            local->poll_fd = poll_fd;
            local->event_fd = event_fd;
            poll_watch(local);
            eventfd_write(event_fd, 1);   /* jobs may have ended before anybody asked */
            attn_link_kick(&local->link); /* a leader sleeps by poll from now on, and arms the pipe when it leaves */
        }
    }
    int fd = local->poll_fd;
    pthread_mutex_unlock(&local->lock);
    return fd;
}

attn_job_t *attn_client_poll(attn_client_t *client)
{
    attn_local_t *local = attn_client_local(client);
    attn_job_t *job = NULL;
    if (local == NULL) {
        return attn_http_next(attn_client_http_jobs(client), 0);
    }
    pthread_mutex_lock(&local->lock);
    for (bool again = true; again && local->finished.first == NULL;) {
        eventfd_t ignored;
        again = false;
        if (local->event_fd >= 0) {
            (void)eventfd_read(local->event_fd, &ignored);
        }
        if (local->connected && !local->leading) {
            attn_link_drain_pipe(&local->link);
            attn_local_reap(local);
            attn_local_receive(local);
            again = local->connected && local->finished.first == NULL && local->poll_fd >= 0 &&
                    !attn_link_arm_pipe(&local->link);
        }
    }
    job = local->finished.first;
    if (job != NULL) {
        attn_job_unlist(job);
    }
    pthread_mutex_unlock(&local->lock);
    return job;
}

attn_status_t attn_client_ping(attn_client_t *client, attn_client_error_t *err)
{
    attn_local_t *local = attn_client_local(client);
    attn_job_t *job = NULL;
    attn_client_health_t health;
    if (local == NULL) {
        return attn_client_health(client, &health, err);
    }
    pthread_mutex_lock(&local->lock);
    attn_status_t status = attn_local_connect(local, err);
    if (status == ATTN_OK && local->link.ring != NULL) {
        attn_shm_submission_t record = {.op = ATTN_SHM_NOP};
        status = attn_job_publish(local, ATTN_JOB_RUN, &record, &job, err);
    } else if (status == ATTN_OK) {
        Attn__V1__Cancel nothing = ATTN__V1__CANCEL__INIT; /* of tag 0, which no request has */
        Attn__V1__SocketRequest message = ATTN__V1__SOCKET_REQUEST__INIT;
        message.what_case = ATTN__V1__SOCKET_REQUEST__WHAT_CANCEL;
        message.cancel = &nothing;
        status = attn_job_send(local, ATTN_JOB_CONTROL, &message, -1, &job, err);
    }
    if (status == ATTN_OK) {
        job->waited = true;
    }
    pthread_mutex_unlock(&local->lock);
    if (status == ATTN_OK) {
        status = attn_job_wait(job, -1, NULL, err);
        attn_job_free(job);
    }
    return status;
}
