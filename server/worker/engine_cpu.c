/* worker/engine_cpu.c: the engine on the processor's cores. Main thread; owns the workspace that launches share.
 * Groups run one after the other, in poll(); each is one launch.
 *
 * Launches and judgements go in pieces of at most 50 ms with a checkpoint between them, which is also what the
 * watchdog sees of their progress. */
#include "worker/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attn/engine_variants.h"
#include "base/clock.h"
#include "base/cpus.h"

/* Pages of each arena that are touched ahead of the first job, in pieces: the first touch of 64 MiB costs 26 ms. */
#define PREFAULT_PIECE (UINT64_C(1) << 20)
#define PREFAULT_BYTES (UINT64_C(32) << 20)
/* Workspace and problems (of 190 bytes each) that stay between jobs. */
#define KEEP_BYTES ((size_t)64 << 20)
#define KEEP_PROBLEMS 65536u

struct attn_engine {
    attn_engine_setup_t setup;
    attn_device_t device;
    void *workspace;
    size_t workspace_bytes;
    attn_problem_t *problems;
    uint32_t problem_room;
    uint64_t prefaulted;
    attn_engine_queue_t queue;
    double rounds[ATTN_WIRE_REPEAT_MAX];
};

static void cpu_name(char *ret, size_t size)
{
    snprintf(ret, size, "CPU");
    FILE *file = fopen("/proc/cpuinfo", "re");
    if (!file)
        return;
    char line[256];
    while (fgets(line, sizeof line, file)) {
        char *value = strncmp(line, "model name", 10) == 0 ? strchr(line, ':') : NULL;
        if (!value)
            continue;
        value += strspn(value, ": \t");
        value[strcspn(value, "\n")] = '\0';
        snprintf(ret, size, "%s", value);
        break;
    }
    fclose(file);
}

static attn_status_t cpu_open(const attn_engine_setup_t *setup, attn_engine_t **ret, attn_engine_about_t *ret_about,
                              attn_error_t *err)
{
    attn_engine_t *engine = calloc(1, sizeof *engine);
    if (!engine)
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for the CPU engine");
    engine->setup = *setup;
    attn_device_t *device = &engine->device;
    device->kind = ATTN_DEVICE_CPU;
    device->units = (int)(attn_cpus_usable() + 0.5);
    if (device->units < 1)
        device->units = 1;
    device->memory_bytes = attn_memory_usable();
    cpu_name(device->name, sizeof device->name);
    snprintf(device->uuid, sizeof device->uuid, "CPU");
    ret_about->device = *device;
    *ret = engine;
    return ATTN_OK;
}

static void cpu_close(attn_engine_t *engine)
{
    if (!engine)
        return;
    free(engine->workspace);
    free(engine->problems);
    free(engine);
}

static bool cpu_has(const attn_engine_t *engine, const char *variant)
{
    return attn_cpu_variant_find(variant) != NULL;
}

static attn_status_t no_memory(attn_error_t *err)
{
    return attn_error_set(err, ATTN_ERR_NO_MEMORY, "the worker has no memory for this request's workspace");
}

/* The workspace only grows; its first bytes are zero whenever a launch begins. */
static attn_status_t cpu_workspace(attn_engine_t *engine, size_t bytes, attn_error_t *err)
{
    if (bytes <= engine->workspace_bytes)
        return ATTN_OK;
    void *workspace = NULL;
    bytes = (bytes + 4095) / 4096 * 4096;
    if (posix_memalign(&workspace, 4096, bytes) != 0)
        return no_memory(err);
    memset(workspace, 0, ATTN_WORKSPACE_ZEROED);
    free(engine->workspace);
    engine->workspace = workspace;
    engine->workspace_bytes = bytes;
    return ATTN_OK;
}

static attn_status_t cpu_problems(attn_engine_t *engine, const attn_engine_group_t *group, attn_group_t *ret,
                                  attn_error_t *err)
{
    uint32_t count = attn_engine_problem_count(group);
    if (count > engine->problem_room) {
        attn_problem_t *problems = realloc(engine->problems, count * sizeof *problems);
        if (!problems)
            return no_memory(err);
        engine->problems = problems;
        engine->problem_room = count;
    }
    attn_problem_t *next = engine->problems;
    for (uint32_t i = 0; i < group->count; i++)
        next += attn_engine_problems(&group->requests[i], &group->requests[i].at, next);
    *ret = (attn_group_t){.config = attn_engine_config(group), .count = count, .problems = engine->problems};
    return ATTN_OK;
}

static attn_status_t cpu_launches(attn_engine_t *engine, attn_engine_group_t *group, const attn_variant_t *variant,
                                  const attn_group_t *problems, attn_exec_t *exec)
{
    uint32_t rounds = group->warmup + group->repeat;
    for (uint32_t round = 0; round < rounds; round++) {
        int64_t start = attn_clock_ns();
        attn_status_t status = variant->launch(problems, exec, &group->error);
        group->result.launches++;
        if (status != ATTN_OK) {
            memset(engine->workspace, 0, ATTN_WORKSPACE_ZEROED);
            return status;
        }
        if (round >= group->warmup)
            engine->rounds[round - group->warmup] = (double)(attn_clock_ns() - start) / 1000.0;
        if (round + 1 < rounds && !group->checkpoint(group->checkpoint_arg))
            return attn_error_set(&group->error, ATTN_ERR_CANCELLED, "cancelled between two rounds");
    }
    attn_engine_rounds(engine->rounds, group->repeat, &group->result);
    return ATTN_OK;
}

static attn_status_t cpu_launch(attn_engine_t *engine, attn_engine_group_t *group, attn_exec_t *exec)
{
    attn_error_t *err = &group->error;
    const attn_variant_t *variant = attn_cpu_variant_find(group->variant);
    if (!variant)
        return attn_error_set(err, ATTN_ERR_INTERNAL, "variant %s does not run on the CPU", group->variant);
    attn_group_t problems;
    attn_status_t status = cpu_problems(engine, group, &problems, err);
    if (status != ATTN_OK)
        return status;
    attn_workspace_size_t size = {ATTN_WORKSPACE_ZEROED, 0};
    if (variant->workspace)
        size = variant->workspace(&problems, &engine->device);
    if (size.device < ATTN_WORKSPACE_ZEROED)
        size.device = ATTN_WORKSPACE_ZEROED;
    /* One block: the device part, then the host part. */
    size_t device_bytes = (size.device + 255) / 256 * 256;
    status = cpu_workspace(engine, device_bytes + size.host, err);
    if (status != ATTN_OK)
        return status;
    exec->workspace = engine->workspace;
    exec->workspace_bytes = size.device;
    exec->host_workspace = size.host ? (char *)engine->workspace + device_bytes : NULL;
    exec->host_workspace_bytes = size.host;
    return cpu_launches(engine, group, variant, &problems, exec);
}

/* What one huge request needed is not kept for the small ones after it. */
static void cpu_trim(attn_engine_t *engine)
{
    if (engine->workspace_bytes > KEEP_BYTES) {
        free(engine->workspace);
        engine->workspace = NULL;
        engine->workspace_bytes = 0;
    }
    if (engine->problem_room > KEEP_PROBLEMS) {
        free(engine->problems);
        engine->problems = NULL;
        engine->problem_room = 0;
    }
}

static attn_status_t cpu_run(attn_engine_t *engine, attn_engine_group_t *group)
{
    attn_exec_t exec = {
        .device = &engine->device, .checkpoint = group->checkpoint, .checkpoint_arg = group->checkpoint_arg};
    const attn_engine_request_t *request = &group->requests[0];
    attn_error_t *err = &group->error;
    attn_status_t status;
    switch (group->op) {
    case ATTN_OP_RUN:
        status = cpu_launch(engine, group, &exec);
        cpu_trim(engine);
        return status;
    case ATTN_OP_FILL:
        return attn_engine_fill(group, (unsigned)engine->device.units, err);
    case ATTN_OP_TRUTH:
        return attn_truth_compute(&request->spec, request->cu_seqlens_q, request->cu_seqlens_k, &request->at,
                                  request->truth, &exec, err);
    case ATTN_OP_JUDGE:
        return attn_truth_judge(&request->spec, request->cu_seqlens_q, request->cu_seqlens_k, &request->at,
                                request->truth, (unsigned)engine->device.units, &exec, &group->result.judgement, err);
    default:
        return attn_error_set(err, ATTN_ERR_UNIMPLEMENTED, "the CPU engine has no operation %u", group->op);
    }
}

static void cpu_submit(attn_engine_t *engine, attn_engine_group_t *group)
{
    attn_engine_queue_push(&engine->queue, group);
}

static attn_engine_group_t *cpu_poll(attn_engine_t *engine)
{
    attn_engine_group_t *group = attn_engine_queue_take(&engine->queue);
    if (!group)
        return NULL;
    if (group->checkpoint(group->checkpoint_arg))
        group->error.status = cpu_run(engine, group);
    else
        attn_error_set(&group->error, ATTN_ERR_CANCELLED, "cancelled before it began");
    return group;
}

/* Reads one byte per page: the page exists afterwards, whatever is being written to it meanwhile. */
static bool cpu_idle(attn_engine_t *engine)
{
    bool more = false;
    for (uint32_t region = ATTN_REGION_INPUT; region <= ATTN_REGION_OUTPUT; region++) {
        uint64_t bytes;
        const volatile char *arena = attn_memory_arena(engine->setup.memory, region, &bytes);
        uint64_t end = bytes < PREFAULT_BYTES ? bytes : PREFAULT_BYTES;
        for (uint64_t i = engine->prefaulted; i < end && i < engine->prefaulted + PREFAULT_PIECE; i += 4096)
            (void)arena[i];
        more = more || engine->prefaulted + PREFAULT_PIECE < end;
    }
    engine->prefaulted += PREFAULT_PIECE;
    return more;
}

const attn_engine_ops_t attn_engine_cpu = {.name = "cpu",
                                           .open = cpu_open,
                                           .close = cpu_close,
                                           .has = cpu_has,
                                           .submit = cpu_submit,
                                           .poll = cpu_poll,
                                           .idle = cpu_idle};
