/* worker/engine_null.c: the engine that does nothing: every variant exists and leaves the outputs as they are. For
 * measuring and testing what lies in front of an engine. Main thread; owns nothing but itself.
 *
 * It has device memory and events of clients too, of its own making, so that doors can be tested with them: the first
 * eight bytes of a handle are a time of CLOCK_MONOTONIC in nanoseconds. An event is reached from then on; memory is
 * gone from then on, or never when it is 0. */
#include "worker/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "base/clock.h"

#define PIN_PIECE (UINT64_C(4) << 20)
#define PIN_NS ATTN_NS_PER_MS

struct attn_engine {
    attn_engine_setup_t setup;
    attn_engine_queue_t queue;
};

static attn_status_t null_open(const attn_engine_setup_t *setup, attn_engine_t **ret, attn_engine_about_t *ret_about,
                               attn_error_t *err)
{
    attn_engine_t *engine = calloc(1, sizeof *engine);
    if (!engine)
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for the null engine");
    engine->setup = *setup;
    ret_about->device.kind = ATTN_DEVICE_CPU;
    ret_about->device.units = 1;
    snprintf(ret_about->device.name, sizeof ret_about->device.name, "null engine");
    snprintf(ret_about->device.uuid, sizeof ret_about->device.uuid, "NULL");
    *ret = engine;
    return ATTN_OK;
}

static void null_close(attn_engine_t *engine)
{
    free(engine);
}

static bool null_has(const attn_engine_t *engine, const char *variant)
{
    return true;
}

static void null_submit(attn_engine_t *engine, attn_engine_group_t *group)
{
    if (group->op != ATTN_OP_RUN)
        attn_error_set(&group->error, ATTN_ERR_UNIMPLEMENTED, "the null engine only pretends to run variants");
    attn_engine_queue_push(&engine->queue, group);
}

static attn_engine_group_t *null_poll(attn_engine_t *engine)
{
    return attn_engine_queue_take(&engine->queue);
}

static int64_t handle_ns(const attn_client_region_t *region)
{
    int64_t ns;
    memcpy(&ns, region->about.handle, sizeof ns);
    return ns;
}

static attn_status_t null_memory_add(attn_engine_t *engine, attn_client_region_t *region, attn_error_t *err)
{
    if (region->about.kind == ATTN_REGION_VMM)
        return attn_error_set(err, ATTN_ERR_FAILED_PRECONDITION, "the null engine imports handles only");
    if (region->about.kind != ATTN_REGION_IPC)
        return ATTN_OK;
    if (handle_ns(region) != 0 && attn_clock_ns() >= handle_ns(region))
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "the memory's process is gone");
    void *map = mmap(NULL, region->about.bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED)
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no addresses for %llu bytes",
                              (unsigned long long)region->about.bytes);
    region->device = map;
    return ATTN_OK;
}

/* 1 ms for 4 MiB, as a GPU's driver needs about. */
static bool null_memory_pin(attn_engine_t *engine, attn_client_region_t *region, int64_t *ret_ns)
{
    nanosleep(&(struct timespec){0, PIN_NS}, NULL);
    *ret_ns = PIN_NS;
    uint64_t pinned = (uint64_t)(uintptr_t)region->engine + PIN_PIECE;
    region->engine = (void *)(uintptr_t)pinned;
    return pinned < region->about.bytes;
}

static attn_status_t null_event_ready(attn_engine_t *engine, attn_client_region_t *event, bool *ret, attn_error_t *err)
{
    *ret = attn_clock_ns() >= handle_ns(event);
    return ATTN_OK;
}

static void null_memory_drop(attn_engine_t *engine, attn_client_region_t *region)
{
    if (region->device)
        munmap(region->device, region->about.bytes);
}

const attn_engine_ops_t attn_engine_null = {
    .name = "null",
    .open = null_open,
    .close = null_close,
    .has = null_has,
    .submit = null_submit,
    .poll = null_poll,
    .client_memory = {
        .add = null_memory_add, .pin = null_memory_pin, .ready = null_event_ready, .drop = null_memory_drop}};
