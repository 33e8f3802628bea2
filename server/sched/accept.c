/* sched/accept.c: requests come in, get a variant and devices, wait, and complete. The scheduler's thread; owns nothing
 * beyond attn_sched_t. */
#include <stdio.h>
#include <string.h>

#include "attn/select.h"
#include "base/clock.h"
#include "sched/internal.h"
#include "sched/places.h"

void attn_sched_finish(attn_sched_t *sched, attn_request_t *request)
{
    request->outcome.timing.total_us = (uint64_t)((attn_clock_ns() - request->sched.submitted_ns) / ATTN_NS_PER_US);
    request->outcome.attempts = request->sched.attempts;
    /* The request may be gone once `complete` returns. */
    request->complete(request, request->complete_arg);
    if (atomic_fetch_sub(&sched->outstanding, 1) == 1 && atomic_load(&sched->drain) >= 2) {
        pthread_mutex_lock(&sched->lock);
        pthread_cond_broadcast(&sched->drained);
        pthread_mutex_unlock(&sched->lock);
    }
}

void attn_sched_fail(attn_sched_t *sched, attn_request_t *request, attn_status_t status, const char *format, ...)
{
    attn_error_t *err = &request->outcome.error;
    va_list args;
    va_start(args, format);
    err->status = status;
    vsnprintf(err->message, sizeof err->message, format, args);
    va_end(args);
    attn_sched_finish(sched, request);
}

bool attn_sched_expire(attn_sched_t *sched, attn_request_t *request, int64_t now_ns)
{
    if (atomic_load_explicit(&request->cancelled, memory_order_relaxed))
        attn_sched_fail(sched, request, ATTN_ERR_CANCELLED, "the caller cancelled the request");
    else if (request->deadline_ns && now_ns >= request->deadline_ns)
        attn_sched_fail(sched, request, ATTN_ERR_DEADLINE_EXCEEDED, "the request's deadline passed after %lld ms",
                        (long long)((now_ns - request->sched.submitted_ns) / ATTN_NS_PER_MS));
    else
        return false;
    return true;
}

/* ---- choosing ---- */

/* Of copies that are not hidden: 50 GB/s. */
#define LINK_BYTES_PER_US 50e3

/* What takes longer than this with its copies would be felt by a small request behind it: 1024 rows of 32 heads on 8
 * take 440 us and their kernel, 256 rows 110. */
#define LARGE_US 300.0

static const attn_sched_device_t *device_of(const attn_sched_t *sched, const attn_device_t *about)
{
    for (uint32_t i = 0; i < sched->device_count; i++)
        if (&sched->device[i].about == about)
            return &sched->device[i];
    return NULL;
}

static bool runs_there(const attn_sched_t *sched, const attn_sched_device_t *device, const attn_variant_info_t *info)
{
    for (size_t i = 0; i < sched->table_count && i < 64; i++)
        if (sched->table[i] == info)
            return device->variants >> i & 1;
    return false;
}

static bool blocked(const attn_variant_info_t *info, const attn_device_t *about, void *arg, char *detail, size_t size)
{
    attn_sched_t *sched = arg;
    if (!runs_there(sched, device_of(sched, about), info)) {
        snprintf(detail, size, "the worker of this device was built without it");
        return true;
    }
    bool active;
    attn_quarantine_look(&sched->quarantine, info, attn_clock_ns(), &active, detail, size);
    return active;
}

/* Devices that may be asked: known, and not lost. */
static size_t devices_offered(const attn_sched_t *sched, const attn_device_t *ret[ATTN_SCHED_DEVICES_MAX])
{
    size_t count = 0;
    for (uint32_t i = 0; i < sched->device_count; i++)
        if (sched->device[i].known && sched->device[i].state != ATTN_DEVICE_LOST)
            ret[count++] = &sched->device[i].about;
    return count;
}

/* Leaves the one device where a request's memory lies. */
static size_t devices_filter(const attn_device_t *offered[ATTN_SCHED_DEVICES_MAX], size_t count, const char *uuid)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(offered[i]->uuid, uuid) == 0) {
            offered[0] = offered[i];
            return 1;
        }
    return 0;
}

/* Devices share work when they are about as fast for it: beside a GPU, the CPU is not a place to wait less. */
static bool as_fast(const attn_variant_info_t *info, const attn_need_t *need, const attn_device_t *about,
                    double best_us)
{
    return info->cost_us(need, about) <= 2 * best_us;
}

/* FILL, TRUTH and JUDGE run on every device that is about as fast as the fastest, by what `reference` costs there. */
static void choose_for_operation(attn_sched_t *sched, attn_request_t *request, const attn_need_t *need,
                                 const attn_device_t *const *offered, size_t count)
{
    const attn_variant_info_t *reference = attn_variant_find("reference");
    double best_us = reference->cost_us(need, offered[0]);
    for (size_t i = 1; i < count; i++)
        if (reference->cost_us(need, offered[i]) < best_us)
            best_us = reference->cost_us(need, offered[i]);
    for (size_t i = 0; i < count; i++)
        if (as_fast(reference, need, offered[i], best_us))
            request->sched.devices |= 1u << device_of(sched, offered[i])->index;
    request->sched.cost_us = need->bytes / 100.0 + (request->op == ATTN_OP_TRUTH ? 8 * best_us : 0); /* 100 MB/s */
    request->sched.lab = request->force_lab || request->sched.faults > 0;
}

static attn_status_t choose_variant(attn_sched_t *sched, attn_request_t *request, const attn_need_t *need,
                                    const attn_device_t *const *offered, size_t count)
{
    attn_choice_t choice;
    attn_status_t status = attn_variant_select(request->variant, need, offered, count, blocked, sched, &choice,
                                               &request->outcome.missing, &request->outcome.error);
    if (status != ATTN_OK)
        return status;
    for (size_t i = 0; i < count; i++)
        if (i == choice.device || (attn_variant_supports(choice.variant, need, offered[i], NULL) == ATTN_OK &&
                                   as_fast(choice.variant, need, offered[i], choice.cost_us) &&
                                   !blocked(choice.variant, offered[i], sched, (char[160]){0}, 160)))
            request->sched.devices |= 1u << device_of(sched, offered[i])->index;
    request->outcome.variant = choice.variant;
    memcpy(request->outcome.reason, choice.reason, sizeof choice.reason);
    _Static_assert(sizeof choice.reason == sizeof request->outcome.reason, "one length of reasons");
    request->sched.cost_us = choice.cost_us * (double)(request->warmup + (request->repeat ? request->repeat : 1));
    /* A variant that has killed a worker of late does not get at the shared one. */
    request->sched.lab = request->force_lab || choice.variant->run_class == ATTN_CLASS_LAB ||
                         request->sched.faults > 0 ||
                         attn_quarantine_look(&sched->quarantine, choice.variant, attn_clock_ns(), NULL, NULL, 0) > 0;
    return ATTN_OK;
}

static bool on_gpu(const attn_sched_t *sched, const attn_request_t *request)
{
    for (uint32_t i = 0; i < sched->device_count; i++)
        if ((request->sched.devices & 1u << i) && sched->device[i].about.kind == ATTN_DEVICE_CUDA)
            return true;
    return false;
}

static void work_reckon(const attn_sched_t *sched, attn_request_t *request)
{
    struct attn_request_sched *own = &request->sched;
    own->work_us = own->cost_us + (double)attn_places_host_bytes(sched->regions, request) / LINK_BYTES_PER_US;
    own->large =
        request->op == ATTN_OP_RUN && !attn_sched_timed(request) && own->work_us > LARGE_US && on_gpu(sched, request);
}

/* Chooses a variant, devices and a lane. Leaves `devices` zero when no device is known yet. */
static attn_status_t choose(attn_sched_t *sched, attn_request_t *request)
{
    const attn_device_t *offered[ATTN_SCHED_DEVICES_MAX];
    size_t count = devices_offered(sched, offered);
    request->sched.devices = 0;
    if (count == 0) {
        for (uint32_t i = 0; i < sched->device_count; i++)
            if (sched->device[i].state != ATTN_DEVICE_LOST)
                return ATTN_OK;
        return attn_error_set(&request->outcome.error, ATTN_ERR_UNAVAILABLE, "no device is left: %s",
                              sched->device[0].why);
    }
    const char *only = attn_places_device(sched->regions, request);
    if (only[0] != '\0')
        count = devices_filter(offered, count, only);
    if (count == 0)
        return attn_error_set(&request->outcome.error, ATTN_ERR_UNAVAILABLE,
                              "device %s, where the request's memory lies, is not available", only);
    attn_need_t need;
    attn_spec_need(&request->spec, request->cu_seqlens_q, request->cu_seqlens_k,
                   attn_places_alignment(sched->regions, request), &need);
    need.outputs_overlap = attn_places_overlap(request);
    request->sched.flops = need.flops;
    attn_status_t status = ATTN_OK;
    if (request->op == ATTN_OP_RUN)
        status = choose_variant(sched, request, &need, offered, count);
    else
        choose_for_operation(sched, request, &need, offered, count);
    if (status == ATTN_OK)
        work_reckon(sched, request);
    return status;
}

/* ---- accepting ---- */

static attn_status_t check(const attn_sched_t *sched, attn_request_t *request)
{
    attn_error_t *err = &request->outcome.error;
    if (request->sched.refused)
        return attn_error_set(err, ATTN_ERR_UNAVAILABLE, "the daemon is shutting down; try again elsewhere or later");
    if (request->repeat > ATTN_WIRE_REPEAT_MAX || request->warmup > ATTN_WIRE_REPEAT_MAX)
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "a job has at most %u rounds", ATTN_WIRE_REPEAT_MAX);
    if (request->variant && request->variant->test_only && !sched->test_variants)
        return attn_error_set(err, ATTN_ERR_NOT_FOUND, "variant '%s' is for tests; start attnd with test variants",
                              request->variant->name);
    return ATTN_OK;
}

bool attn_sched_timed(const attn_request_t *request)
{
    return request->op == ATTN_OP_RUN && (request->repeat > 1 || request->warmup > 0);
}

/* Whether there is room to wait. A peer with more than its share gives way to others. */
static bool room_make(attn_sched_t *sched, attn_request_t *request)
{
    uint32_t waiting = sched->batcher[ATTN_LANE_SERVE].count + sched->batcher[ATTN_LANE_LAB].count;
    if (waiting < sched->queue_limit)
        return true;
    attn_batcher_t *batcher = &sched->batcher[request->sched.lab];
    attn_request_t *refused = attn_batcher_crowded_out(batcher, request);
    if (refused)
        attn_batcher_remove(batcher, refused);
    attn_sched_fail(sched, refused ? refused : request, ATTN_ERR_UNAVAILABLE,
                    "%u requests are waiting already; try again shortly", sched->queue_limit);
    return refused != NULL;
}

void attn_sched_accept(attn_sched_t *sched, attn_request_t *request, int64_t now_ns)
{
    attn_outcome_t *outcome = &request->outcome;
    outcome->error = (attn_error_t){.status = ATTN_OK};
    outcome->missing.count = 0;
    outcome->variant = NULL;
    outcome->reason[0] = outcome->device[0] = '\0';
    outcome->batch_size = 0;
    outcome->timing = (attn_timing_t){0};
    request->sched.attempts = request->sched.faults = request->sched.kills = 0;
    request->sched.replay = request->sched.large = false;
    request->sched.cost_us = request->sched.work_us = 0;
    request->sched.arrival = 0;
    request->sched.alone = request->op != ATTN_OP_RUN || attn_sched_timed(request);
    request->sched.tokens = (uint64_t)(request->spec.s_q + request->spec.s_kv) *
                            (request->spec.layout == ATTN_LAYOUT_THD ? 1 : request->spec.batch);
    request->sched.bytes =
        request->q.bytes + request->k.bytes + request->v.bytes + request->o.bytes + request->lse.bytes;
    /* Its sequence offsets need an area of their own. */
    if (request->spec.layout == ATTN_LAYOUT_THD && request->spec.batch >= ATTN_WIRE_AREA_ENTRIES)
        request->sched.alone = true;
    if (attn_sched_expire(sched, request, now_ns))
        return;
    if (check(sched, request) != ATTN_OK || choose(sched, request) != ATTN_OK) {
        attn_sched_finish(sched, request);
        return;
    }
    if (!room_make(sched, request))
        return;
    attn_batcher_push(&sched->batcher[request->sched.lab], request);
    if (request->deadline_ns && request->deadline_ns < sched->tick_ns)
        sched->tick_ns = request->deadline_ns;
}

void attn_sched_requeue(attn_sched_t *sched, attn_request_t *request)
{
    request->sched.lab = request->sched.lab || request->sched.faults > 0;
    request->sched.replay = true;
    attn_batcher_push(&sched->batcher[request->sched.lab], request);
}

void attn_sched_reconsider(attn_sched_t *sched)
{
    attn_request_t *all = NULL, *request;
    for (int lane = 0; lane < ATTN_LANES; lane++)
        while ((request = attn_batcher_first(&sched->batcher[lane])) != NULL) {
            attn_batcher_remove(&sched->batcher[lane], request);
            request->sched.next = all;
            all = request;
        }
    while ((request = all) != NULL) {
        all = request->sched.next;
        if (choose(sched, request) == ATTN_OK)
            attn_batcher_push(&sched->batcher[request->sched.lab], request);
        else
            attn_sched_finish(sched, request);
    }
}
