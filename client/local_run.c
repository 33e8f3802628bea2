/* local_run.c: the blocking call over the Unix socket: tensors in regions are used where they lie, others are copied
 * through a stage, and a request that a dying daemon took along is sent once more. The calling thread; a stage belongs
 * to one call at a time. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "local.h"

#define SLICE_NS INT64_C(200000000) /* the caller's progress is told so often */
#define RETRY_EVERY_MS 20
#define ROOM_NS INT64_C(1000000) /* where nothing more can be in flight, room is looked for so often */

enum { TENSOR_COUNT = 5, OUTPUTS_FROM = 3 };

/* Where the tensors of the call go: `staged` bit i is tensor i of q, k, v, o, lse. */
typedef struct stage_plan {
    uint32_t staged;
    uint64_t offset[TENSOR_COUNT], total;
} stage_plan_t;

static void tensors_of(const attn_client_request_t *request, const attn_sizes_t *sizes, void *ret_at[TENSOR_COUNT],
                       uint64_t ret_bytes[TENSOR_COUNT])
{
    const void *at[TENSOR_COUNT] = {request->q, request->k, request->v, request->o, request->lse};
    const uint64_t bytes[TENSOR_COUNT] = {sizes->q, sizes->k, sizes->v, sizes->o, sizes->lse};
    for (int i = 0; i < TENSOR_COUNT; i++) {
        ret_at[i] = (void *)(uintptr_t)at[i];
        ret_bytes[i] = bytes[i];
    }
}

/* Lock held. Host memory of a region at an address that the daemon does not take is copied, too. */
static bool in_place(attn_local_t *local, const void *at)
{
    attn_region_t *region = attn_region_find(local, at);
    return region != NULL && (!region->mapped || ((uintptr_t)at - (uintptr_t)region->base) % 16 == 0);
}

static attn_status_t stage_plan(attn_local_t *local, const attn_client_request_t *request, const attn_sizes_t *sizes,
                                stage_plan_t *ret, attn_client_error_t *err)
{
    void *at[TENSOR_COUNT];
    uint64_t bytes[TENSOR_COUNT];
    memset(ret, 0, sizeof(*ret));
    tensors_of(request, sizes, at, bytes);
    for (int i = 0; i < TENSOR_COUNT; i++) {
        if (bytes[i] == 0 || in_place(local, at[i])) {
            continue;
        }
        uint64_t room;
        if (__builtin_add_overflow(bytes[i], (uint64_t)255, &room) ||
            __builtin_add_overflow(ret->total, room / 256 * 256, &room)) {
            return attn_client_fail(err, ATTN_ERR_TOO_LARGE, "the tensors take more than 2^64 bytes");
        }
        ret->staged |= 1u << i;
        ret->offset[i] = ret->total;
        ret->total = room;
    }
    return ATTN_OK;
}

/* An idle stage of at least so many bytes, or a new one in place of a smaller one. */
static attn_status_t stage_take(attn_local_t *local, uint64_t bytes, attn_stage_t **ret, attn_client_error_t *err)
{
    pthread_mutex_lock(&local->lock);
    attn_stage_t **at = &local->stages;
    while (*at != NULL && (*at)->region->bytes < bytes && (*at)->next != NULL) {
        at = &(*at)->next;
    }
    attn_stage_t *stage = *at;
    if (stage != NULL) {
        *at = stage->next;
    }
    pthread_mutex_unlock(&local->lock);
    if (stage != NULL && stage->region->bytes >= bytes) {
        *ret = stage;
        return ATTN_OK;
    }
    if (stage != NULL) {
        attn_region_release(stage->region);
    } else {
        stage = calloc(1, sizeof(*stage));
    }
    if (stage == NULL) {
        return attn_client_fail(err, ATTN_ERR_NO_MEMORY, "no memory for a stage");
    }
    uint64_t size = UINT64_C(1) << 16; /* powers of two, so that a slightly larger request does not need another */
    while (size < bytes && size < UINT64_C(1) << 28) {
        size *= 2;
    }
    attn_status_t status = attn_local_allocate(local, size > bytes ? size : bytes, &stage->region, err);
    if (status != ATTN_OK) {
        free(stage);
        return status;
    }
    *ret = stage;
    return ATTN_OK;
}

static void stage_put(attn_local_t *local, attn_stage_t *stage)
{
    if (stage != NULL) {
        pthread_mutex_lock(&local->lock);
        stage->next = local->stages;
        local->stages = stage;
        pthread_mutex_unlock(&local->lock);
    }
}

/* Copies what is staged: inputs into the stage, or outputs out of it; and points the request there. */
static void stage_copy(const stage_plan_t *plan, const attn_stage_t *stage, attn_client_request_t *request,
                       const attn_sizes_t *sizes, bool out)
{
    void *at[TENSOR_COUNT];
    uint64_t bytes[TENSOR_COUNT];
    tensors_of(request, sizes, at, bytes);
    for (int i = out ? OUTPUTS_FROM : 0; i < (out ? TENSOR_COUNT : OUTPUTS_FROM); i++) {
        if ((plan->staged & 1u << i) != 0) {
            char *staged = (char *)stage->region->base + plan->offset[i];
            memcpy(out ? at[i] : staged, out ? staged : at[i], bytes[i]);
        }
    }
}

static void stage_point(const stage_plan_t *plan, const attn_stage_t *stage, attn_client_request_t *request)
{
    char *base = stage != NULL ? stage->region->base : NULL;
    request->q = plan->staged & 1u ? base + plan->offset[0] : request->q;
    request->k = plan->staged & 2u ? base + plan->offset[1] : request->k;
    request->v = plan->staged & 4u ? base + plan->offset[2] : request->v;
    request->o = plan->staged & 8u ? base + plan->offset[3] : request->o;
    request->lse = plan->staged & 16u ? (float *)(void *)(base + plan->offset[4]) : request->lse;
}

/* The wait of a blocking call: tells progress, and cancels when that says so or the answer takes too long. */
static attn_status_t job_attend(attn_local_t *local, attn_job_t *job, const attn_client_progress_t *progress,
                                attn_client_answer_t *ret, attn_client_error_t *err)
{
    int64_t begin = attn_now_ns(), limit = local->options.answer_timeout_ms * INT64_C(1000000);
    attn_status_t gave_up = ATTN_OK;
    bool tells = progress != NULL && progress->tell != NULL;
    while (!attn_job_until(job, attn_now_ns() + SLICE_NS)) {
        if (gave_up == ATTN_OK && tells && !progress->tell(progress->arg, ATTN_CLIENT_WAITING, 1, 1)) {
            gave_up = ATTN_ERR_CANCELLED;
        } else if (gave_up == ATTN_OK && limit > 0 && attn_now_ns() - begin > limit) {
            gave_up = ATTN_ERR_TIMEOUT;
        } else {
            continue;
        }
        attn_job_cancel(job); /* and then its end is waited for: the memory is in use until then */
    }
    attn_status_t status = attn_job_wait(job, 0, ret, err);
    if (status != ATTN_OK && gave_up == ATTN_ERR_CANCELLED) {
        return attn_client_fail(err, gave_up, "cancelled by the caller");
    }
    if (status != ATTN_OK && gave_up == ATTN_ERR_TIMEOUT) {
        return attn_client_fail(err, gave_up, "the server did not answer within %.1f s",
                                local->options.answer_timeout_ms / 1000.0);
    }
    return status;
}

/* Sends the request, all of whose tensors lie in regions, and waits; where nothing more can be in flight, for room. */
static attn_status_t run_once(attn_local_t *local, const attn_client_request_t *request,
                              const attn_client_progress_t *progress, attn_client_answer_t *ret, bool *ret_sent,
                              attn_client_error_t *err)
{
    attn_job_t *job = NULL;
    pthread_mutex_lock(&local->lock);
    attn_status_t status;
    for (;;) {
        status = attn_local_submit(local, request, true, NULL, &job, err);
        bool full = status == ATTN_ERR_UNAVAILABLE && local->in_ring + local->by_message > 0;
        if (!full) {
            break;
        }
        attn_local_stir(local, attn_now_ns() + ROOM_NS);
    }
    pthread_mutex_unlock(&local->lock);
    *ret_sent = status == ATTN_OK;
    if (status != ATTN_OK) {
        return status;
    }
    status = job_attend(local, job, progress, ret, err);
    attn_job_free(job);
    return status;
}

/* Waits for a daemon that restarts, as long as connecting may take. */
static bool daemon_returns(attn_local_t *local)
{
    int64_t until = attn_now_ns() + local->options.connect_timeout_ms * INT64_C(1000000);
    bool connected = false;
    while (!connected && attn_now_ns() < until) {
        pthread_mutex_lock(&local->lock);
        connected = attn_local_connect(local, NULL) == ATTN_OK;
        pthread_mutex_unlock(&local->lock);
        if (!connected) {
            struct timespec nap = {0, RETRY_EVERY_MS * 1000000L};
            nanosleep(&nap, NULL);
        }
    }
    return connected;
}

attn_status_t attn_local_run(attn_local_t *local, const attn_client_request_t *request,
                             const attn_client_progress_t *progress, attn_client_answer_t *ret,
                             attn_client_error_t *err)
{
    attn_spec_t spec;
    attn_sizes_t sizes;
    stage_plan_t plan;
    attn_stage_t *stage = NULL;
    attn_client_request_t placed = *request, given = *request;
    attn_status_t status = attn_wire_check(request, true, true, &spec, &sizes, err);
    if (status == ATTN_OK) {
        pthread_mutex_lock(&local->lock);
        status = attn_local_connect(local, err);
        if (status == ATTN_OK) {
            status = stage_plan(local, request, &sizes, &plan, err);
        }
        pthread_mutex_unlock(&local->lock);
    }
    if (status == ATTN_OK && plan.staged != 0) {
        status = stage_take(local, plan.total, &stage, err);
    }
    if (status != ATTN_OK) {
        return status;
    }
    if (stage != NULL) {
        stage_copy(&plan, stage, &given, &sizes, false);
        stage_point(&plan, stage, &placed);
    }
    attn_client_error_t error;
    bool sent = false;
    status = run_once(local, &placed, progress, ret, &sent, &error);
    if (status == ATTN_ERR_CONNECTION && sent && daemon_returns(local)) {
        status = run_once(local, &placed, progress, ret, &sent, &error);
    }
    if (status == ATTN_OK && stage != NULL) {
        stage_copy(&plan, stage, &given, &sizes, true);
    }
    stage_put(local, stage);
    if (status != ATTN_OK && err != NULL) {
        *err = error;
    }
    return status;
}
