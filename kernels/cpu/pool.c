/* cpu/pool.c: see pool.h. Owns the pool's threads and the job that runs; everything shared is under `lock` but for the
 * next item and the stop flag, which are atomics. */
#include "cpu/pool.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

enum {
    POOL_THREADS_MAX = 1024,
    POOL_CHECKPOINT_NS = 10 * 1000 * 1000,
    /* A tile's state is about 8 KiB and everything large lies in scratch; the default would reserve 8 MiB. */
    POOL_STACK_BYTES = 512 * 1024
};

typedef struct pool_job {
    attn_pool_body_fn body;
    void *arg;
    uint64_t count;
    const attn_exec_t *exec;
    int64_t checked_ns; /* caller's thread only */
    atomic_uint_fast64_t next;
    atomic_bool stop;
} pool_job_t;

struct attn_pool_thread {
    pool_job_t *job;
    unsigned index;
};

static struct {
    pthread_mutex_t run; /* held for the whole of a job */
    pthread_mutex_t lock;
    pthread_cond_t wake, finished;
    unsigned started;    /* threads of the pool, under `run` */
    pool_job_t *job;     /* what runs now */
    uint64_t generation; /* counts jobs */
    unsigned wanted;     /* threads of the pool that take part in this job */
    unsigned busy;       /* of those, not done yet */
} pool = {.run = PTHREAD_MUTEX_INITIALIZER,
          .lock = PTHREAD_MUTEX_INITIALIZER,
          .wake = PTHREAD_COND_INITIALIZER,
          .finished = PTHREAD_COND_INITIALIZER};

static int64_t pool_now_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void pool_checkpoint(pool_job_t *job)
{
    if (!job->exec || !job->exec->checkpoint || atomic_load_explicit(&job->stop, memory_order_relaxed))
        return;
    const int64_t now = pool_now_ns(CLOCK_MONOTONIC);
    if (now - job->checked_ns < POOL_CHECKPOINT_NS)
        return;
    job->checked_ns = now;
    if (!job->exec->checkpoint(job->exec->checkpoint_arg))
        atomic_store_explicit(&job->stop, true, memory_order_relaxed);
}

bool attn_pool_continue(attn_pool_thread_t *thread)
{
    if (thread->index == 0)
        pool_checkpoint(thread->job);
    return !atomic_load_explicit(&thread->job->stop, memory_order_relaxed);
}

unsigned attn_pool_thread_index(const attn_pool_thread_t *thread)
{
    return thread->index;
}

static void pool_work(pool_job_t *job, unsigned index)
{
    attn_pool_thread_t thread = {.job = job, .index = index};
    while (attn_pool_continue(&thread)) {
        const uint64_t item = atomic_fetch_add_explicit(&job->next, 1, memory_order_relaxed);
        if (item >= job->count)
            return;
        job->body(job->arg, item, &thread);
    }
}

static void *pool_thread_main(void *arg)
{
    const unsigned index = (unsigned)(uintptr_t)arg; /* 1 and up; the caller is 0 */
    uint64_t seen = 0;
    pthread_mutex_lock(&pool.lock);
    for (;;) {
        while (pool.generation == seen || index > pool.wanted) {
            seen = pool.generation;
            pthread_cond_wait(&pool.wake, &pool.lock);
        }
        seen = pool.generation;
        pool_job_t *job = pool.job;
        pthread_mutex_unlock(&pool.lock);
        pool_work(job, index);
        pthread_mutex_lock(&pool.lock);
        if (--pool.busy == 0)
            pthread_cond_signal(&pool.finished);
    }
    return NULL;
}

/* Starts threads up to `threads`, the caller included. Under pool.run. */
static void pool_grow(unsigned threads)
{
    if (pool.started + 1 >= threads)
        return;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, POOL_STACK_BYTES);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    sigset_t all, before;
    sigfillset(&all); /* the process's signals are its main thread's business */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (pool.started + 1 < threads) {
        pthread_t id;
        if (pthread_create(&id, &attributes, pool_thread_main, (void *)(uintptr_t)(pool.started + 1)) != 0)
            break;
        pool.started++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
}

attn_status_t attn_pool_run(unsigned threads, uint64_t count, attn_pool_body_fn body, void *arg,
                            const attn_exec_t *exec, attn_error_t *err)
{
    if (threads > POOL_THREADS_MAX)
        threads = POOL_THREADS_MAX;
    if (threads > count)
        threads = (unsigned)count;
    pool_job_t job = {.body = body, .arg = arg, .count = count, .exec = exec};
    job.checked_ns = pool_now_ns(CLOCK_MONOTONIC);
    pthread_mutex_lock(&pool.run);
    pool_grow(threads);
    if (threads > pool.started + 1)
        threads = pool.started + 1;
    if (threads > 1) {
        pthread_mutex_lock(&pool.lock);
        pool.job = &job;
        pool.wanted = pool.busy = threads - 1;
        pool.generation++;
        pthread_cond_broadcast(&pool.wake);
        pthread_mutex_unlock(&pool.lock);
    }
    pool_work(&job, 0);
    if (threads > 1) {
        pthread_mutex_lock(&pool.lock);
        while (pool.busy > 0) {
            const int64_t until = pool_now_ns(CLOCK_REALTIME) + POOL_CHECKPOINT_NS;
            const struct timespec deadline = {until / 1000000000, until % 1000000000};
            if (pthread_cond_timedwait(&pool.finished, &pool.lock, &deadline) == ETIMEDOUT && pool.busy > 0) {
                pthread_mutex_unlock(&pool.lock);
                pool_checkpoint(&job);
                pthread_mutex_lock(&pool.lock);
            }
        }
        pool.wanted = 0;
        pthread_mutex_unlock(&pool.lock);
    }
    pthread_mutex_unlock(&pool.run);
    if (atomic_load(&job.stop))
        return attn_error_set(err, ATTN_ERR_CANCELLED, "cancelled while the CPU worked on it");
    return ATTN_OK;
}
