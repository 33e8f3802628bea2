/* tests/unit/transport/fake.c: see fake.h. One list under one mutex. */
#include "fake.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"

_Atomic uint32_t fake_delay_us, fake_cancelled, fake_completed, fake_waiting;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static attn_request_t *list;
static bool stopping;
static unsigned dice = 1;
static attn_admit_t *arena;
static pthread_t thread;

static void finish(attn_request_t *request)
{
    if (atomic_load(&request->cancelled)) {
        attn_error_set(&request->outcome.error, ATTN_ERR_CANCELLED, "cancelled");
        atomic_fetch_add(&fake_cancelled, 1);
    } else {
        memset(attn_admit_address(arena, &request->o), 1, request->o.bytes);
        request->outcome.variant = attn_variant_find("cpu");
    }
    atomic_fetch_add(&fake_completed, 1);
    atomic_fetch_sub(&fake_waiting, 1);
    request->complete(request, request->complete_arg);
}

static attn_request_t *take_due(void)
{
    int64_t now = attn_clock_ns();
    for (attn_request_t **at = &list; *at != NULL; at = &(*at)->sched.next) {
        attn_request_t *request = *at;
        if (atomic_load(&request->cancelled) || now >= request->sched.submitted_ns || stopping) {
            *at = request->sched.next;
            return request;
        }
    }
    return NULL;
}

static void *turn(void *arg)
{
    pthread_mutex_lock(&lock);
    while (!stopping || list != NULL) {
        attn_request_t *request = take_due();
        pthread_mutex_unlock(&lock);
        if (request != NULL) {
            finish(request);
        } else {
            usleep(100);
        }
        pthread_mutex_lock(&lock);
    }
    pthread_mutex_unlock(&lock);
    return NULL;
}

void fake_start(attn_admit_t *admit)
{
    arena = admit;
    stopping = false;
    fake_delay_us = 0;
    fake_cancelled = fake_completed = fake_waiting = 0;
    pthread_create(&thread, NULL, turn, NULL);
}

void fake_stop(void)
{
    pthread_mutex_lock(&lock);
    stopping = true;
    pthread_mutex_unlock(&lock);
    pthread_join(thread, NULL);
}

void attn_sched_submit(attn_sched_t *sched, attn_request_t *request)
{
    atomic_fetch_add(&fake_waiting, 1);
    pthread_mutex_lock(&lock);
    uint32_t delay = atomic_load(&fake_delay_us);
    dice = dice * 1103515245u + 12345u;
    request->sched.submitted_ns = attn_clock_ns() + (delay > 0 ? (dice >> 8) % delay : 0) * ATTN_NS_PER_US;
    request->sched.next = list;
    list = request;
    pthread_mutex_unlock(&lock);
}

void attn_sched_cancel(attn_sched_t *sched, attn_request_t *request)
{
    atomic_store(&request->cancelled, true);
}

attn_regions_t *attn_sched_regions(attn_sched_t *sched)
{
    return NULL;
}

bool attn_sched_live(attn_sched_t *sched)
{
    return true;
}

bool attn_sched_ready(attn_sched_t *sched)
{
    return true;
}

void attn_sched_view(attn_sched_t *sched, attn_sched_view_t *ret)
{
    memset(ret, 0, sizeof *ret);
}

attn_status_t attn_sched_quarantine_clear(attn_sched_t *sched, const attn_variant_info_t *variant)
{
    return ATTN_ERR_NOT_FOUND;
}
