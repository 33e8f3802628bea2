/* local_answer.c: what comes from the daemon over the ring and the socket ends jobs. Lock of the attn_local_t held;
 * owns nothing. */
#include <string.h>
#include <unistd.h>

#include "local.h"

static attn_job_t *job_of(attn_local_t *local, uint64_t tag, bool by_ring)
{
    uint64_t index = tag & 0xffff;
    attn_job_t *job = index < local->job_count ? &local->jobs[index] : NULL;
    bool good = job != NULL && job->kind != ATTN_JOB_FREE && job->tag == tag && job->by_ring == by_ring &&
                atomic_load_explicit(&job->word, memory_order_relaxed) != ATTN_JOB_DONE;
    return good ? job : NULL;
}

static attn_status_t status_check(int32_t status)
{
    bool known = status < 0 && strcmp(attn_status_name((attn_status_t)status), "UNKNOWN") != 0;
    return known ? (attn_status_t)status : ATTN_ERR_INTERNAL;
}

/* The next string of a completion's text; "" at its end. */
static const char *text_next(const attn_shm_completion_t *record, size_t *at)
{
    const char *text = record->text + *at;
    size_t room = sizeof(record->text) - *at, size = strnlen(text, room);
    if (size == room) { /* not ended with NUL: no string */
        return "";
    }
    *at += size + 1;
    return text;
}

static void name_copy(char *to, size_t capacity, const char *from)
{
    char name[ATTN_SHM_NAME_BYTES + 1] = "";
    memcpy(name, from, ATTN_SHM_NAME_BYTES);
    attn_wire_text(to, capacity, name);
}

static void completion_take(attn_job_t *job, const attn_shm_completion_t *record)
{
    size_t at = 0;
    const char *text = text_next(record, &at);
    if (record->status == 0) {
        attn_client_answer_t *answer = &job->answer;
        memset(answer, 0, sizeof(*answer));
        name_copy(answer->variant, sizeof(answer->variant), record->variant);
        name_copy(answer->device, sizeof(answer->device), record->device);
        attn_wire_text(answer->reason, sizeof(answer->reason), text);
        answer->batch_size = record->batch_size;
        answer->attempts = record->attempts;
        answer->queue_us = record->queue_us;
        answer->copy_in_us = record->copy_in_us;
        answer->kernel_us = record->kernel_us;
        answer->copy_out_us = record->copy_out_us;
        answer->total_us = record->total_us;
        job->status = ATTN_OK;
        return;
    }
    attn_error_t error;
    job->status = attn_error_set(&error, status_check(record->status), "%s", text);
    attn_client_fail_with(&job->error, &error);
    for (uint32_t i = 1; i < record->text_items && i <= ATTN_MISSING_MAX && at < sizeof(record->text); i++) {
        attn_missing_add(&job->error.missing, "%s", text_next(record, &at));
    }
}

void attn_local_reap(attn_local_t *local)
{
    const volatile attn_shm_completion_t *shared;
    if (attn_link_torn(&local->link)) {
        attn_client_error_t why;
        attn_client_fail(&why, ATTN_ERR_CONNECTION, "the daemon's ring makes no sense; the connection is given up");
        attn_local_break(local, &why);
        return;
    }
    while ((shared = attn_link_peek(&local->link)) != NULL) {
        attn_shm_completion_t record;
        memcpy(&record, (const void *)(uintptr_t)shared, sizeof(record));
        attn_link_pop(&local->link);
        attn_job_t *job = job_of(local, record.tag, true);
        if (job != NULL) {
            completion_take(job, &record);
            attn_job_end(job);
        }
    }
}

/* Gives the answer to its job, which keeps what it needs of it. */
static void answer_take(attn_local_t *local, Attn__V1__SocketAnswer *answer, const int *fds, int fd_count)
{
    attn_job_t *job = job_of(local, answer->tag, false);
    bool kept = false;
    if (job != NULL) {
        job->status = ATTN_OK;
        if (answer->what_case == ATTN__V1__SOCKET_ANSWER__WHAT_ERROR) {
            job->status = attn_link_error(answer->error, &job->error);
        } else if (job->kind == ATTN_JOB_CONTROL) {
            job->reply = answer;
            memcpy(job->fds, fds, (size_t)fd_count * sizeof(*fds));
            job->fd_count = fd_count;
            kept = true;
        } else if (job->kind == ATTN_JOB_RUN) {
            if (answer->what_case == ATTN__V1__SOCKET_ANSWER__WHAT_SUBMITTED && answer->submitted->response != NULL) {
                attn_wire_outcome(answer->submitted->response, &job->answer);
            } else {
                job->status =
                    attn_client_fail(&job->error, ATTN_ERR_INTERNAL, "the daemon answered what was not asked");
            }
        }
        attn_job_end(job);
    }
    if (!kept) {
        for (int i = 0; i < fd_count; i++) {
            close(fds[i]);
        }
        attn_link_answer_free(answer);
    }
}

void attn_local_receive(attn_local_t *local)
{
    while (local->connected) {
        Attn__V1__SocketAnswer *answer = NULL;
        attn_client_error_t error;
        int fds[ATTN_LINK_FDS], fd_count = 0;
        attn_status_t status = attn_link_receive(&local->link, 0, &answer, fds, &fd_count, &error);
        if (status == ATTN_OK && answer == NULL) {
            return;
        }
        if (status == ATTN_OK && answer->tag == 0 && answer->what_case == ATTN__V1__SOCKET_ANSWER__WHAT_ERROR) {
            status = attn_link_error(answer->error, &error); /* the daemon's last word */
            attn_link_answer_free(answer);
        } else if (status == ATTN_OK) {
            answer_take(local, answer, fds, fd_count);
        }
        if (status != ATTN_OK) {
            attn_local_break(local, &error);
        }
    }
}
