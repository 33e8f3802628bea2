/* sched/faults.c: what the death of a worker means for the requests that it had. The scheduler's thread.
 *
 * A fault cannot be attributed inside a group, nor among groups that overlap on a device, and what ran before may have
 * corrupted the worker too. So every request that the device may have begun is a suspect and runs again alone in a lab
 * worker; only what dies there is the variant's fault. The others run again as they were. What something outside ended
 * (SIGKILL, the OOM killer, a frozen process) is nobody's fault. */
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
                        (long long)(worker->group[0].budget_ns / ATTN_NS_PER_MS));
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

/* The variant has died with the device to itself. */
static void strike(attn_sched_t *sched, const attn_variant_info_t *variant, const char *why, int64_t now_ns)
{
    if (!variant)
        return;
    if (attn_quarantine_strike(&sched->quarantine, variant, now_ns, why))
        ATTN_LOG(ATTN_LOG_WARN, "variant quarantined", attn_log_text("variant", variant->name),
                 attn_log_text("why", why));
    /* Others that wait for this variant go to the lab, or are refused. */
    attn_sched_reconsider(sched);
}

typedef enum verdict { VERDICT_INNOCENT, VERDICT_KILLED, VERDICT_SUSPECT, VERDICT_GUILTY } verdict_t;

static void judge_request(attn_sched_t *sched, attn_request_t *request, verdict_t verdict, const char *why,
                          int64_t now_ns)
{
    if (verdict == VERDICT_GUILTY)
        strike(sched, request->outcome.variant, why, now_ns);
    if (attn_sched_expire(sched, request, now_ns))
        return;
    if (atomic_load(&sched->drain) >= 3) {
        attn_sched_fail(sched, request, ATTN_ERR_UNAVAILABLE, "the daemon is shutting down");
    } else if (verdict == VERDICT_GUILTY) {
        attn_sched_fail(sched, request, ATTN_ERR_WORKER_DIED, request->outcome.variant ? "variant %s: %s" : "%s: %s",
                        subject(request), why);
    } else if (verdict == VERDICT_KILLED && ++request->sched.kills >= KILLS_MAX) {
        attn_sched_fail(sched, request, ATTN_ERR_UNAVAILABLE,
                        "the worker was ended from outside %d times while it ran this request (%s); try again",
                        KILLS_MAX, why);
    } else {
        request->sched.faults += verdict == VERDICT_SUSPECT;
        attn_sched_requeue(sched, request);
    }
}

/* The number of the latest group that a fault may have come from. The worker says how far it had come; what it says is
 * believed only as far as it makes sense. A device that hangs need not hang in its oldest group: small ones overtake
 * large ones. */
static uint64_t suspected_up_to(const attn_worker_t *worker)
{
    uint64_t first = worker->group[0].number;
    if (worker->end == ATTN_END_GARBAGE)
        return UINT64_MAX;
    uint64_t begun = atomic_load_explicit(&worker->ring.worker->begun, memory_order_relaxed);
    return begun < first ? first : begun;
}

/* Takes every job out of the worker's hands, oldest first, into `ret`. */
static uint32_t jobs_take(attn_sched_t *sched, attn_sched_device_t *device, attn_lane_t lane,
                          attn_worker_job_t ret[ATTN_WIRE_SLOTS])
{
    attn_worker_t *worker = &device->worker[lane];
    uint32_t count = 0;
    for (uint32_t slot = 0; slot < ATTN_WIRE_SLOTS; slot++) {
        if (!worker->job[slot].request)
            continue;
        uint32_t at = count++;
        for (; at > 0 && ret[at - 1].serial > worker->job[slot].serial; at--)
            ret[at] = ret[at - 1];
        ret[at] = worker->job[slot];
        worker->job[slot].request = NULL;
    }
    worker->groups = worker->jobs = worker->areas = 0;
    attn_sched_load_note(device);
    atomic_fetch_sub_explicit(&sched->running, count, memory_order_relaxed);
    return count;
}

void attn_sched_judge_death(attn_sched_t *sched, attn_sched_device_t *device, attn_lane_t lane,
                            const attn_death_t *death, int64_t now_ns)
{
    attn_worker_t *worker = &device->worker[lane];
    /* It may have finished jobs before it died. Nothing can write there any more. */
    if (worker->end != ATTN_END_GARBAGE && worker->end != ATTN_END_UNUSABLE)
        attn_sched_collect_from(sched, device, lane, now_ns);
    bool asked = worker->end == ATTN_END_ASKED, nobodys = nobodys_fault(worker, death);
    char why[ATTN_ERROR_MESSAGE_MAX];
    describe(worker, death, why, sizeof why);
    if (!asked || worker->jobs > 0)
        snprintf(device->why, sizeof device->why, "%.255s", why);
    uint64_t suspected = worker->groups > 0 ? suspected_up_to(worker) : 0;
    attn_worker_job_t jobs[ATTN_WIRE_SLOTS];
    uint32_t count = jobs_take(sched, device, lane, jobs);
    if (!asked)
        ATTN_LOG(ATTN_LOG_WARN, "worker ended", attn_log_text("device", device->argument),
                 attn_log_text("class", lane == ATTN_LANE_LAB ? "lab" : "serve"), attn_log_text("why", why),
                 attn_log_integer("requests", count), attn_log_text("request", count ? jobs[0].request->id : ""),
                 attn_log_text("subject", count ? subject(jobs[0].request) : ""));
    for (uint32_t i = 0; i < count; i++) {
        verdict_t verdict = jobs[i].group > suspected ? VERDICT_INNOCENT
                            : nobodys                 ? VERDICT_KILLED
                            : lane == ATTN_LANE_LAB   ? VERDICT_GUILTY
                                                      : VERDICT_SUSPECT;
        judge_request(sched, jobs[i].request, verdict, why, now_ns);
    }
}

void attn_sched_judge_lost(attn_sched_t *sched, attn_sched_device_t *device, attn_lane_t lane)
{
    attn_worker_t *worker = &device->worker[lane];
    snprintf(device->why, sizeof device->why, "its worker (pid %ld) could not be ended within 10 s",
             (long)worker->process.pid);
    ATTN_LOG(ATTN_LOG_ERROR, "device lost", attn_log_text("device", device->argument),
             attn_log_text("why", device->why));
    attn_worker_job_t jobs[ATTN_WIRE_SLOTS];
    uint32_t count = jobs_take(sched, device, lane, jobs);
    for (uint32_t i = 0; i < count; i++) {
        attn_admit_leak(jobs[i].request->ticket);
        attn_sched_fail(sched, jobs[i].request, ATTN_ERR_UNAVAILABLE,
                        "the device was lost while it ran this request: %s; try again", device->why);
    }
}
