/* worker/engine_cuda_waiter.c: sleeps on an event so that the main thread need not: that one sleeps on its bell, which
 * new jobs ring too. A thread of its own; owns itself. */
#include "worker/engine_cuda.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

struct attn_cuda_waiter {
    const attn_engine_setup_t *setup;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t asked;
    cudaEvent_t event;   /* to be waited for next; NULL: nothing */
    cudaEvent_t current; /* that it sleeps on */
    bool stop;
};

static void *waiter_main(void *arg)
{
    attn_cuda_waiter_t *waiter = arg;
    prctl(PR_SET_NAME, "cuda-wait");
    pthread_mutex_lock(&waiter->lock);
    while (!waiter->stop) {
        cudaEvent_t event = waiter->current = waiter->event;
        waiter->event = NULL;
        if (!event) {
            pthread_cond_wait(&waiter->asked, &waiter->lock);
            continue;
        }
        pthread_mutex_unlock(&waiter->lock);
        /* An error is the main thread's to find: it is sticky. */
        cudaEventSynchronize(event);
        /* Before it wakes anyone: who then asks for the same event again is heard. */
        pthread_mutex_lock(&waiter->lock);
        waiter->current = NULL;
        pthread_mutex_unlock(&waiter->lock);
        waiter->setup->wake(waiter->setup->wake_arg);
        pthread_mutex_lock(&waiter->lock);
    }
    pthread_mutex_unlock(&waiter->lock);
    return NULL;
}

attn_status_t attn_cuda_waiter_open(const attn_engine_setup_t *setup, attn_cuda_waiter_t **ret, attn_error_t *err)
{
    attn_cuda_waiter_t *waiter = calloc(1, sizeof *waiter);
    if (!waiter)
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for the CUDA engine");
    waiter->setup = setup;
    pthread_mutex_init(&waiter->lock, NULL);
    pthread_cond_init(&waiter->asked, NULL);
    int failed = pthread_create(&waiter->thread, NULL, waiter_main, waiter);
    if (failed) {
        free(waiter);
        return attn_error_set(err, ATTN_ERR_SYSTEM, "cannot start a thread: %s", strerror(failed));
    }
    *ret = waiter;
    return ATTN_OK;
}

void attn_cuda_waiter_close(attn_cuda_waiter_t *waiter)
{
    if (!waiter)
        return;
    pthread_mutex_lock(&waiter->lock);
    waiter->stop = true;
    pthread_cond_signal(&waiter->asked);
    pthread_mutex_unlock(&waiter->lock);
    pthread_join(waiter->thread, NULL);
    pthread_cond_destroy(&waiter->asked);
    pthread_mutex_destroy(&waiter->lock);
    free(waiter);
}

void attn_cuda_waiter_watch(attn_cuda_waiter_t *waiter, cudaEvent_t event)
{
    pthread_mutex_lock(&waiter->lock);
    if (waiter->current != event) {
        waiter->event = event;
        pthread_cond_signal(&waiter->asked);
    }
    pthread_mutex_unlock(&waiter->lock);
}
