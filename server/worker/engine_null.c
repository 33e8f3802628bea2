/* worker/engine_null.c: the engine that does nothing: every variant exists and leaves the outputs as they are. For
 * measuring and testing what lies in front of an engine. Main thread; owns nothing but itself. */
#include "worker/engine.h"

#include <stdio.h>
#include <stdlib.h>

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

const attn_engine_ops_t attn_engine_null = {
    .name = "null", .open = null_open, .close = null_close, .has = null_has, .submit = null_submit, .poll = null_poll};
