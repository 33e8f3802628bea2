/* sched/compare.c: the table of comparisons and the compare thread that moves them. Owns every job, every watch and the
 * mutex over both. */
#include "sched/compare.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/clock.h"
#include "sched/compare_job.h"

typedef struct watch {
    struct watch *next;
    uint64_t seen;
    bool until_done;
    int64_t deadline_ns;
    attn_compare_watch_fn tell;
    void *arg;
} watch_t;

/* A job in the table. Whoever submits may remove one that has ended, is not watched and is not in hand. */
typedef struct entry {
    struct entry *next;
    attn_compare_t *owner;
    attn_compare_job_t *job;
    bool cancel;      /* asked for */
    bool abandoned;   /* cancel, because the daemon is shutting down */
    bool cancel_sent; /* for the request in hand */
    bool out;         /* the scheduler has the request */
    bool back;        /* ... and has handed it back */
    bool in_hand;     /* the compare thread is at it, perhaps without the lock */
    int64_t ended_ns;
    watch_t *watches;
} entry_t;

struct attn_compare {
    attn_compare_options_t options;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake; /* CLOCK_MONOTONIC */
    pthread_cond_t idle; /* no job is under way */
    entry_t *entries;    /* newest first */
    bool draining, stopping;
    attn_compare_counts_t counts;
    attn_sched_view_t devices; /* the compare thread's */
};

const char *attn_compare_state_name(attn_compare_state_t state)
{
    switch (state) {
    case ATTN_COMPARE_QUEUED:
        return "queued";
    case ATTN_COMPARE_RUNNING:
        return "running";
    case ATTN_COMPARE_DONE:
        return "done";
    case ATTN_COMPARE_FAILED:
        return "failed";
    case ATTN_COMPARE_CANCELLED:
        return "cancelled";
    }
    return "unknown";
}

/* The scheduler's thread: the request is back. */
static void step_complete(attn_request_t *request, void *arg)
{
    entry_t *entry = arg;
    attn_compare_t *compare = entry->owner;
    pthread_mutex_lock(&compare->lock);
    entry->back = true;
    pthread_cond_signal(&compare->wake);
    pthread_mutex_unlock(&compare->lock);
}

static void entry_free(entry_t *entry)
{
    attn_compare_job_free(entry->job);
    free(entry);
}

static void entry_ended(attn_compare_t *compare, entry_t *entry)
{
    entry->ended_ns = attn_clock_ns();
    compare->counts.active--;
    uint64_t *count = entry->job->view.state == ATTN_COMPARE_DONE     ? &compare->counts.done
                      : entry->job->view.state == ATTN_COMPARE_FAILED ? &compare->counts.failed
                                                                      : &compare->counts.cancelled;
    ++*count;
    if (compare->counts.active == 0) {
        pthread_cond_broadcast(&compare->idle);
    }
}

/* Does what a job waits for, if anything. The lock is held on entry and on return, and given up in between. */
static void entry_turn(attn_compare_t *compare, entry_t *entry)
{
    attn_compare_job_t *job = entry->job;
    if (attn_compare_ended(&job->view)) {
        return;
    }
    if (entry->out && !entry->back) {
        if (entry->cancel && !entry->cancel_sent) {
            entry->cancel_sent = true;
            /* Under the lock: step_complete() waits for it, so the request cannot have completed yet. */
            attn_sched_cancel(compare->options.sched, &job->request);
        }
        return;
    }
    if (entry->back) {
        entry->out = entry->back = false;
        if (!entry->cancel) {
            pthread_mutex_unlock(&compare->lock);
            attn_sched_view(compare->options.sched, &compare->devices);
            pthread_mutex_lock(&compare->lock);
            attn_compare_job_take(job, &compare->devices, attn_clock_ns());
        }
    } else if (job->view.state == ATTN_COMPARE_QUEUED) {
        attn_compare_job_begin(job);
    } else if (!entry->cancel && (job->retry_at_ns == 0 || job->retry_at_ns > attn_clock_ns())) {
        return;
    }
    if (entry->abandoned && !attn_compare_ended(&job->view)) {
        attn_error_t why;
        attn_error_set(&why, ATTN_ERR_UNAVAILABLE,
                       "the daemon is shutting down before the comparison was done; try again elsewhere or later");
        attn_compare_job_end(job, ATTN_COMPARE_FAILED, &why);
    } else if (entry->cancel && !attn_compare_ended(&job->view)) {
        attn_compare_job_end(job, ATTN_COMPARE_CANCELLED, NULL);
    }
    if (attn_compare_ended(&job->view)) {
        entry_ended(compare, entry);
        return;
    }
    if (job->retry_at_ns > attn_clock_ns()) {
        return;
    }
    job->retry_at_ns = 0;
    entry->cancel_sent = false;
    entry->out = true;
    pthread_mutex_unlock(&compare->lock);
    if (job->request.op == ATTN_OP_RUN) {
        attn_compare_job_poison(compare->options.admit, job);
    }
    attn_sched_submit(compare->options.sched, &job->request);
    pthread_mutex_lock(&compare->lock);
}

static bool watch_due(const watch_t *watch, const attn_compare_view_t *view, int64_t now_ns)
{
    return attn_compare_ended(view) || (!watch->until_done && view->version > watch->seen) ||
           watch->deadline_ns <= now_ns;
}

/* Tells the watches of a job that are due. The lock is held on entry and on return, and given up in between. */
static void entry_tell(attn_compare_t *compare, entry_t *entry)
{
    int64_t now = attn_clock_ns();
    watch_t *due = NULL;
    for (watch_t **at = &entry->watches; *at != NULL;) {
        watch_t *watch = *at;
        if (watch_due(watch, &entry->job->view, now)) {
            *at = watch->next;
            watch->next = due;
            due = watch;
        } else {
            at = &watch->next;
        }
    }
    if (due == NULL) {
        return;
    }
    /* The job's own view: only this thread changes it, and it does not remove the job meanwhile. */
    while (due != NULL) {
        watch_t *watch = due;
        due = watch->next;
        pthread_mutex_unlock(&compare->lock);
        watch->tell(watch->arg, &entry->job->view);
        free(watch);
        pthread_mutex_lock(&compare->lock);
    }
}

/* The next moment at which something is due by time. */
static int64_t next_due(const attn_compare_t *compare)
{
    int64_t due = INT64_MAX;
    for (const entry_t *entry = compare->entries; entry != NULL; entry = entry->next) {
        if (entry->ended_ns != 0) {
            int64_t gone = entry->ended_ns + (int64_t)compare->options.keep_s * ATTN_NS_PER_S;
            due = gone < due ? gone : due;
        } else if (entry->job->retry_at_ns != 0 && entry->job->retry_at_ns < due) {
            due = entry->job->retry_at_ns;
        }
        for (const watch_t *watch = entry->watches; watch != NULL; watch = watch->next) {
            due = watch->deadline_ns < due ? watch->deadline_ns : due;
        }
    }
    return due;
}

/* Something that a turn would act on at once. */
static bool work_waits(const attn_compare_t *compare)
{
    int64_t now = attn_clock_ns();
    for (const entry_t *entry = compare->entries; entry != NULL; entry = entry->next) {
        const attn_compare_view_t *view = &entry->job->view;
        if (entry->back || view->state == ATTN_COMPARE_QUEUED ||
            (entry->cancel && !attn_compare_ended(view) && !(entry->out && entry->cancel_sent))) {
            return true;
        }
        for (const watch_t *watch = entry->watches; watch != NULL; watch = watch->next) {
            if (watch_due(watch, view, now)) {
                return true;
            }
        }
    }
    return false;
}

static void entries_expire(attn_compare_t *compare)
{
    int64_t now = attn_clock_ns();
    for (entry_t **at = &compare->entries; *at != NULL;) {
        entry_t *entry = *at;
        if (entry->ended_ns != 0 && entry->watches == NULL &&
            entry->ended_ns + (int64_t)compare->options.keep_s * ATTN_NS_PER_S <= now) {
            *at = entry->next;
            compare->counts.kept--;
            entry_free(entry);
        } else {
            at = &entry->next;
        }
    }
}

static void *compare_thread(void *arg)
{
    attn_compare_t *compare = arg;
    pthread_mutex_lock(&compare->lock);
    while (!compare->stopping || compare->counts.active > 0) {
        for (entry_t *entry = compare->entries; entry != NULL; entry = entry->next) {
            entry->in_hand = true;
            entry_turn(compare, entry);
            entry_tell(compare, entry);
            entry->in_hand = false;
        }
        entries_expire(compare);
        if (!work_waits(compare) && (!compare->stopping || compare->counts.active > 0)) {
            int64_t due = next_due(compare);
            if (due == INT64_MAX) {
                pthread_cond_wait(&compare->wake, &compare->lock);
            } else {
                struct timespec until = {.tv_sec = due / ATTN_NS_PER_S, .tv_nsec = due % ATTN_NS_PER_S};
                pthread_cond_timedwait(&compare->wake, &compare->lock, &until);
            }
        }
    }
    pthread_mutex_unlock(&compare->lock);
    return NULL;
}

attn_status_t attn_compare_start(const attn_compare_options_t *options, attn_compare_t **ret, attn_error_t *err)
{
    attn_compare_t *compare = calloc(1, sizeof(*compare));
    if (compare == NULL) {
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for comparisons");
    }
    compare->options = *options;
    pthread_condattr_t clock;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_mutex_init(&compare->lock, NULL);
    pthread_cond_init(&compare->wake, &clock);
    pthread_cond_init(&compare->idle, &clock);
    pthread_condattr_destroy(&clock);
    int code = pthread_create(&compare->thread, NULL, compare_thread, compare);
    if (code != 0) {
        pthread_mutex_destroy(&compare->lock);
        pthread_cond_destroy(&compare->wake);
        pthread_cond_destroy(&compare->idle);
        free(compare);
        return attn_error_set(err, ATTN_ERR_SYSTEM, "cannot start the compare thread: %s", strerror(code));
    }
    *ret = compare;
    return ATTN_OK;
}

static void abandon_all(attn_compare_t *compare)
{
    for (entry_t *entry = compare->entries; entry != NULL; entry = entry->next) {
        entry->abandoned = entry->abandoned || !entry->cancel;
        entry->cancel = true;
    }
    pthread_cond_signal(&compare->wake);
}

void attn_compare_drain(attn_compare_t *compare, int timeout_ms)
{
    int64_t due = attn_clock_ns() + timeout_ms * ATTN_NS_PER_MS;
    struct timespec until = {.tv_sec = due / ATTN_NS_PER_S, .tv_nsec = due % ATTN_NS_PER_S};
    pthread_mutex_lock(&compare->lock);
    compare->draining = true;
    int code = 0;
    while (compare->counts.active > 0 && code == 0) {
        code = pthread_cond_timedwait(&compare->idle, &compare->lock, &until);
    }
    abandon_all(compare);
    while (compare->counts.active > 0) {
        pthread_cond_wait(&compare->idle, &compare->lock);
    }
    pthread_mutex_unlock(&compare->lock);
}

void attn_compare_stop(attn_compare_t *compare)
{
    if (compare == NULL) {
        return;
    }
    pthread_mutex_lock(&compare->lock);
    compare->draining = compare->stopping = true;
    abandon_all(compare);
    pthread_mutex_unlock(&compare->lock);
    pthread_join(compare->thread, NULL);

    /* The thread is gone, and with it every job that was under way: what is left has ended. */
    while (compare->entries != NULL) {
        entry_t *entry = compare->entries;
        compare->entries = entry->next;
        while (entry->watches != NULL) {
            watch_t *watch = entry->watches;
            entry->watches = watch->next;
            watch->tell(watch->arg, &entry->job->view);
            free(watch);
        }
        entry_free(entry);
    }
    pthread_mutex_destroy(&compare->lock);
    pthread_cond_destroy(&compare->wake);
    pthread_cond_destroy(&compare->idle);
    free(compare);
}

static entry_t *entry_find(attn_compare_t *compare, const char *id, attn_error_t *err)
{
    for (entry_t *entry = compare->entries; entry != NULL; entry = entry->next) {
        if (strcmp(entry->job->view.id, id) == 0) {
            return entry;
        }
    }
    attn_error_set(err, ATTN_ERR_NOT_FOUND,
                   "there is no such job; ended jobs are kept for %u s, and fewer when newer ones need their place",
                   compare->options.keep_s);
    return NULL;
}

/* Makes room for one more job by dropping the oldest that has ended; false when all are under way or watched. */
static bool room_make(attn_compare_t *compare)
{
    if (compare->counts.kept < compare->options.jobs_max) {
        return true;
    }
    entry_t **oldest = NULL;
    for (entry_t **at = &compare->entries; *at != NULL; at = &(*at)->next) {
        if ((*at)->ended_ns != 0 && (*at)->watches == NULL && !(*at)->in_hand) {
            oldest = at;
        }
    }
    if (oldest == NULL) {
        return false;
    }
    entry_t *entry = *oldest;
    *oldest = entry->next;
    compare->counts.kept--;
    entry_free(entry);
    return true;
}

/* 128 random bits: nobody guesses another caller's job. */
static attn_status_t id_make(char ret[ATTN_COMPARE_ID_MAX], attn_error_t *err)
{
    unsigned char bits[16];
    if (getrandom(bits, sizeof(bits), 0) != (ssize_t)sizeof(bits)) {
        return attn_error_set(err, ATTN_ERR_SYSTEM, "getrandom gave no random bits for the job's name");
    }
    for (size_t i = 0; i < sizeof(bits); i++) {
        snprintf(ret + 2 * i, 3, "%02x", bits[i]);
    }
    return ATTN_OK;
}

/* Puts a job into the table and wakes the compare thread. */
static attn_status_t entry_add(attn_compare_t *compare, entry_t *entry, attn_error_t *err)
{
    attn_status_t status = ATTN_OK;
    pthread_mutex_lock(&compare->lock);
    if (compare->draining) {
        status = attn_error_set(err, ATTN_ERR_UNAVAILABLE, "the daemon is shutting down and takes no new comparison");
    } else if (!room_make(compare)) {
        status = attn_error_set(err, ATTN_ERR_UNAVAILABLE,
                                "%u comparisons are under way, which is the limit; try again when one has ended",
                                compare->counts.kept);
    } else {
        entry->next = compare->entries;
        compare->entries = entry;
        compare->counts.kept++;
        compare->counts.active++;
        pthread_cond_signal(&compare->wake);
    }
    pthread_mutex_unlock(&compare->lock);
    return status;
}

attn_status_t attn_compare_submit(attn_compare_t *compare, const attn_compare_plan_t *plan,
                                  char ret_id[ATTN_COMPARE_ID_MAX], attn_error_t *err)
{
    const attn_variant_info_t *rows[ATTN_COMPARE_ROWS_MAX];
    uint32_t row_count = 0;
    attn_device_t device;
    char id[ATTN_COMPARE_ID_MAX];
    attn_status_t status = attn_compare_plan_resolve(&compare->options, plan, rows, &row_count, &device, err);
    if (status == ATTN_OK) {
        status = id_make(id, err);
    }
    if (status != ATTN_OK) {
        return status;
    }
    entry_t *entry = calloc(1, sizeof(*entry));
    if (entry == NULL) {
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for a comparison");
    }
    status = attn_compare_job_create(compare->options.admit, plan, rows, row_count, &device, &entry->job, err);
    if (status != ATTN_OK) {
        free(entry);
        return status;
    }
    memcpy(entry->job->view.id, id, sizeof(id));
    entry->owner = compare;
    entry->job->request.complete = step_complete;
    entry->job->request.complete_arg = entry;
    status = entry_add(compare, entry, err);
    if (status != ATTN_OK) {
        attn_compare_job_disown(entry->job, plan);
        entry_free(entry);
        return status;
    }
    memcpy(ret_id, id, sizeof(id));
    return ATTN_OK;
}

attn_status_t attn_compare_view(attn_compare_t *compare, const char *id, attn_compare_view_t *ret, attn_error_t *err)
{
    pthread_mutex_lock(&compare->lock);
    entry_t *entry = entry_find(compare, id, err);
    if (entry != NULL) {
        *ret = entry->job->view;
    }
    pthread_mutex_unlock(&compare->lock);
    return entry != NULL ? ATTN_OK : ATTN_ERR_NOT_FOUND;
}

attn_status_t attn_compare_cancel(attn_compare_t *compare, const char *id, attn_error_t *err)
{
    pthread_mutex_lock(&compare->lock);
    entry_t *entry = entry_find(compare, id, err);
    if (entry != NULL) {
        entry->cancel = true;
        pthread_cond_signal(&compare->wake);
    }
    pthread_mutex_unlock(&compare->lock);
    return entry != NULL ? ATTN_OK : ATTN_ERR_NOT_FOUND;
}

attn_status_t attn_compare_watch(attn_compare_t *compare, const char *id, uint64_t seen, bool until_done,
                                 int64_t deadline_ns, attn_compare_watch_fn tell, void *arg, attn_error_t *err)
{
    watch_t *watch = malloc(sizeof(*watch));
    if (watch == NULL) {
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for a watch");
    }
    *watch = (watch_t){NULL, seen, until_done, deadline_ns, tell, arg};
    pthread_mutex_lock(&compare->lock);
    entry_t *entry = entry_find(compare, id, err);
    if (entry != NULL) {
        watch->next = entry->watches;
        entry->watches = watch;
        pthread_cond_signal(&compare->wake);
    }
    pthread_mutex_unlock(&compare->lock);
    if (entry == NULL) {
        free(watch);
        return ATTN_ERR_NOT_FOUND;
    }
    return ATTN_OK;
}

void attn_compare_count(attn_compare_t *compare, attn_compare_counts_t *ret)
{
    pthread_mutex_lock(&compare->lock);
    *ret = compare->counts;
    pthread_mutex_unlock(&compare->lock);
}
