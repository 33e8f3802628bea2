/* fake_sched.c: see fake_sched.h. One queue under one mutex. */
#include "fake_sched.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

uint32_t fake_sched_devices = 1;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static attn_request_t *queue, *held;
static bool stopping;
static fake_answer_fn answer_fn;
static pthread_t thread;

/* Takes a cancelled request out: the one that is held back, or one that waits behind it. */
static attn_request_t *cancelled_take(void)
{
    attn_request_t *request = held;
    if (request != NULL && atomic_load(&request->cancelled)) {
        held = NULL;
        return request;
    }
    for (attn_request_t **at = &queue; *at != NULL; at = &(*at)->sched.next) {
        if (atomic_load(&(*at)->cancelled)) {
            request = *at;
            *at = request->sched.next;
            return request;
        }
    }
    return NULL;
}

static void *fake_thread(void *arg)
{
    pthread_mutex_lock(&lock);
    for (;;) {
        attn_request_t *request = cancelled_take();
        if (request != NULL) {
            attn_error_set(&request->outcome.error, ATTN_ERR_CANCELLED, "cancelled");
        } else if (queue != NULL && held == NULL) {
            request = queue;
            queue = request->sched.next;
            pthread_mutex_unlock(&lock);
            bool answered = answer_fn(request);
            pthread_mutex_lock(&lock);
            if (!answered) {
                held = request;
                continue;
            }
        } else if (stopping) {
            break;
        } else {
            pthread_cond_wait(&wake, &lock);
            continue;
        }
        pthread_mutex_unlock(&lock);
        request->complete(request, request->complete_arg);
        pthread_mutex_lock(&lock);
    }
    pthread_mutex_unlock(&lock);
    return NULL;
}

void fake_sched_start(fake_answer_fn answer)
{
    answer_fn = answer;
    stopping = false;
    fake_sched_devices = 1;
    pthread_create(&thread, NULL, fake_thread, NULL);
}

void fake_sched_stop(void)
{
    pthread_mutex_lock(&lock);
    stopping = true;
    pthread_cond_signal(&wake);
    pthread_mutex_unlock(&lock);
    pthread_join(thread, NULL);
}

void attn_sched_submit(attn_sched_t *sched, attn_request_t *request)
{
    pthread_mutex_lock(&lock);
    attn_request_t **end = &queue;
    while (*end != NULL) {
        end = &(*end)->sched.next;
    }
    request->sched.next = NULL;
    *end = request;
    pthread_cond_signal(&wake);
    pthread_mutex_unlock(&lock);
}

void attn_sched_cancel(attn_sched_t *sched, attn_request_t *request)
{
    pthread_mutex_lock(&lock);
    atomic_store(&request->cancelled, true);
    pthread_cond_signal(&wake);
    pthread_mutex_unlock(&lock);
}

void attn_sched_view(attn_sched_t *sched, attn_sched_view_t *ret)
{
    memset(ret, 0, sizeof *ret);
    ret->device_count = fake_sched_devices;
    ret->devices[0].state = ATTN_DEVICE_READY;
    ret->devices[0].device.kind = ATTN_DEVICE_CPU;
    ret->devices[0].device.units = 2;
    strcpy(ret->devices[0].device.uuid, "CPU");
    strcpy(ret->devices[0].device.name, "fake");
}
