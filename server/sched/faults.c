/* sched/faults.c: what the death of a worker means for the request that it ran. The scheduler's thread.
 *
 * A worker runs one job at a time, so that job is the only suspect; but a serve worker has run others before, which may
 * have corrupted it. So the suspect runs again in a lab worker, and only what dies there is the variant's fault. What
 * something outside ended (SIGKILL, the OOM killer, a frozen process) is nobody's fault. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "sched/internal.h"

enum { KILLS_MAX = 3 };

static bool nobodys_fault(const attn_worker_t *worker, const attn_death_t *death)
{
    switch (worker->end) {
    case ATTN_END_NONE:
        return attn_death_from_outside(death);
    case ATTN_END_HUNG:
    case ATTN_END_GARBAGE:
    case ATTN_END_UNUSABLE:
        return false;
    default:
        return true;
    }
}

/* "worker killed by signal 6 (SIGABRT); stderr: …" */
static void describe(const attn_worker_t *worker, const attn_death_t *death, char *ret, size_t size)
{
    char how[96], said[300];
    int used;
    attn_death_describe(death, how, sizeof how);
    attn_process_quote(&worker->process, said, sizeof said);
    switch (worker->end) {
    case ATTN_END_HUNG:
        used = snprintf(ret, size, "did not finish within %lld ms, so its worker was stopped",
                        (long long)(worker->budget_ns / ATTN_NS_PER_MS));
        break;
    case ATTN_END_GARBAGE:
        used = snprintf(ret, size, "wrote over memory that its worker shares with the daemon, so it was stopped");
        break;
    case ATTN_END_FROZEN:
        used = snprintf(ret, size, "its worker stood still, so it was stopped");
        break;
    case ATTN_END_UNUSABLE:
        used = snprintf(ret, size, "%.200s", worker->complaint);
        break;
    default:
        used = snprintf(ret, size, "worker %s", how);
        break;
    }
    if (said[0] && used > 0 && (size_t)used < size)
        snprintf(ret + used, size - (size_t)used, "; stderr: %s", said);
}

static const char *subject(const attn_request_t *request)
{
    static const char *const operations[] = {"", "run", "making inputs", "computing the truth", "judging an answer"};
    return request->outcome.variant ? request->outcome.variant->name : operations[request->op];
}

static void judge_request(attn_sched_t *sched, attn_lane_t lane, attn_request_t *request, bool nobodys, const char *why,
                          int64_t now_ns)
{
    const attn_variant_info_t *variant = request->outcome.variant;
    bool alone = lane == ATTN_LANE_LAB && !nobodys;
    if (alone && variant) {
        if (attn_quarantine_strike(&sched->quarantine, variant, now_ns, why))
            ATTN_LOG(ATTN_LOG_WARN, "variant quarantined", attn_log_text("variant", variant->name),
                     attn_log_text("why", why));
        /* Others that wait for this variant go to the lab, or are refused. */
        attn_sched_reconsider(sched);
    }
    if (attn_sched_expire(sched, request, now_ns))
        return;
    if (atomic_load(&sched->drain) >= 3) {
        attn_sched_fail(sched, request, ATTN_ERR_UNAVAILABLE, "the daemon is shutting down");
    } else if (alone) {
        attn_sched_fail(sched, request, ATTN_ERR_WORKER_DIED, variant ? "variant %s: %s" : "%s: %s", subject(request),
                        why);
    } else if (nobodys && ++request->sched.kills >= KILLS_MAX) {
        attn_sched_fail(sched, request, ATTN_ERR_UNAVAILABLE,
                        "the worker was ended from outside %d times while it ran this request (%s); try again",
                        KILLS_MAX, why);
    } else {
        request->sched.faults += !nobodys;
        attn_sched_requeue(sched, request);
    }
}

void attn_sched_judge_death(attn_sched_t *sched, attn_sched_device_t *device, attn_lane_t lane,
                            const attn_death_t *death, int64_t now_ns)
{
    attn_worker_t *worker = &device->worker[lane];
    /* It may have finished its job before it died. Nothing can write there any more. */
    if (worker->end != ATTN_END_GARBAGE && worker->end != ATTN_END_UNUSABLE)
        attn_sched_collect_from(sched, device, lane, now_ns);
    bool asked = worker->end == ATTN_END_ASKED;
    char why[ATTN_ERROR_MESSAGE_MAX];
    describe(worker, death, why, sizeof why);
    if (!asked || worker->job)
        snprintf(device->why, sizeof device->why, "%.255s", why);
    attn_request_t *request = worker->job;
    if (!asked)
        ATTN_LOG(ATTN_LOG_WARN, "worker ended", attn_log_text("device", device->argument),
                 attn_log_text("class", lane == ATTN_LANE_LAB ? "lab" : "serve"), attn_log_text("why", why),
                 attn_log_text("request", request ? request->id : ""),
                 attn_log_text("subject", request ? subject(request) : ""));
    if (!request)
        return;
    worker->job = NULL;
    atomic_fetch_sub_explicit(&sched->running, 1, memory_order_relaxed);
    judge_request(sched, lane, request, nobodys_fault(worker, death), why, now_ns);
}

void attn_sched_judge_lost(attn_sched_t *sched, attn_sched_device_t *device, attn_lane_t lane)
{
    attn_worker_t *worker = &device->worker[lane];
    attn_request_t *request = worker->job;
    snprintf(device->why, sizeof device->why, "its worker (pid %ld) could not be ended within 10 s",
             (long)worker->process.pid);
    ATTN_LOG(ATTN_LOG_ERROR, "device lost", attn_log_text("device", device->argument),
             attn_log_text("why", device->why));
    if (!request)
        return;
    worker->job = NULL;
    atomic_fetch_sub_explicit(&sched->running, 1, memory_order_relaxed);
    attn_admit_leak(request->ticket);
    attn_sched_fail(sched, request, ATTN_ERR_WORKER_DIED, "the device was lost while it ran this request: %s",
                    device->why);
}
