/* faults/faults.c: what the test-only variants do. Runs on a worker's thread; owns nothing.
 *
 * They are host code, so on a GPU they misbehave in the launch rather than on the device. */
#include "faults/faults.h"

#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "faults/faults_info.h"

static bool fault_on_host(const attn_exec_t *exec)
{
    return exec->device->kind == ATTN_DEVICE_CPU;
}

/* Zero is an answer that a test can compare bit for bit; stale arena bytes would be another caller's data. */
static void fault_zero_outputs(const attn_group_t *group, const attn_exec_t *exec)
{
    if (!fault_on_host(exec))
        return;
    size_t element = attn_dtype_size(group->config.dtype);
    for (uint32_t p = 0; p < group->count; p++) {
        const attn_problem_t *problem = &group->problems[p];
        for (uint32_t b = 0; b < problem->batch; b++)
            for (uint32_t h = 0; h < problem->h_q; h++)
                for (int64_t s = 0; s < problem->s_q; s++) {
                    const attn_view_t *o = &problem->o;
                    int64_t at = (int64_t)b * o->stride_b + s * o->stride_s + (int64_t)h * o->stride_h;
                    memset((char *)o->data + (uint64_t)at * element, 0, problem->d * element);
                    if (problem->lse)
                        problem->lse[(int64_t)b * problem->lse_stride_b + (int64_t)h * problem->lse_stride_h + s] = 0;
                }
    }
}

static attn_status_t fault_null(const attn_group_t *group, const attn_exec_t *exec, attn_error_t *err)
{
    (void)err;
    fault_zero_outputs(group, exec);
    return ATTN_OK;
}

static attn_status_t fault_sleep(const attn_group_t *group, const attn_exec_t *exec, attn_error_t *err)
{
    double left_ms = 0;
    for (uint32_t i = 0; i < group->count; i++)
        left_ms += (double)group->problems[i].sm_scale * 1000.0;
    for (; left_ms > 0; left_ms -= 5) {
        double piece = left_ms < 5 ? left_ms : 5;
        struct timespec ts = {0, (long)(piece * 1e6)};
        nanosleep(&ts, NULL);
        if (exec->checkpoint && !exec->checkpoint(exec->checkpoint_arg))
            return attn_error_set(err, ATTN_ERR_CANCELLED, "cancelled while test_sleep slept");
    }
    fault_zero_outputs(group, exec);
    return ATTN_OK;
}

static attn_status_t fault_error(const attn_group_t *group, const attn_exec_t *exec, attn_error_t *err)
{
    (void)group;
    (void)exec;
    return attn_error_set(err, ATTN_ERR_INTERNAL, "test_error fails by design; choose another variant");
}

static attn_status_t fault_spin(const attn_group_t *group, const attn_exec_t *exec, attn_error_t *err)
{
    (void)group;
    (void)exec;
    (void)err;
    for (volatile uint64_t odd = 1; odd != 0;)
        odd += 2;
    return ATTN_OK;
}

static attn_status_t fault_abort(const attn_group_t *group, const attn_exec_t *exec, attn_error_t *err)
{
    (void)group;
    (void)exec;
    (void)err;
    fprintf(stderr, "test fault: aborting by design\n");
    abort();
}

/* O outlives the process (it is shared memory), so the first attempt leaves its mark there. */
static attn_status_t fault_abort_once(const attn_group_t *group, const attn_exec_t *exec, attn_error_t *err)
{
    static const char mark[] = "attempt";
    if (!fault_on_host(exec) || group->count == 0 || group->problems[0].s_q == 0 || group->problems[0].d < sizeof mark)
        return attn_error_set(err, ATTN_ERR_INTERNAL, "test_abort_once needs the CPU and an O of at least 8 elements");
    void *o = group->problems[0].o.data;
    if (memcmp(o, mark, sizeof mark) != 0) {
        memcpy(o, mark, sizeof mark);
        abort();
    }
    fault_zero_outputs(group, exec);
    return ATTN_OK;
}

static attn_status_t fault_exit(const attn_group_t *group, const attn_exec_t *exec, attn_error_t *err)
{
    (void)group;
    (void)exec;
    (void)err;
    _exit(7);
}

static attn_status_t fault_kill(const attn_group_t *group, const attn_exec_t *exec, attn_error_t *err)
{
    (void)group;
    (void)exec;
    kill(getpid(), SIGKILL);
    return attn_error_set(err, ATTN_ERR_INTERNAL, "test_kill_serve survived its own SIGKILL");
}

static attn_status_t fault_oob(const attn_group_t *group, const attn_exec_t *exec, attn_error_t *err)
{
    if (group->count == 0)
        return attn_error_set(err, ATTN_ERR_INTERNAL, "test_oob needs a problem");
    const attn_problem_t *problem = &group->problems[0];
    uint64_t bytes = (uint64_t)problem->batch * (uint64_t)problem->s_q * problem->h_q * problem->d *
                     attn_dtype_size(group->config.dtype);
    volatile char *o = problem->o.data;
    /* From the end of O to a page beyond the last one that O touches. */
    for (uint64_t i = bytes; i < bytes + 8192; i++)
        o[i] = (char)0xa5;
    fault_zero_outputs(group, exec);
    return ATTN_OK;
}

static attn_status_t fault_write_input(const attn_group_t *group, const attn_exec_t *exec, attn_error_t *err)
{
    if (group->count == 0 || group->problems[0].s_kv == 0)
        return attn_error_set(err, ATTN_ERR_INTERNAL, "test_write_input needs a key");
    *(volatile char *)group->problems[0].k.data = (char)0x5a;
    fault_zero_outputs(group, exec);
    return ATTN_OK;
}

/* A wild write in a worker can hit the memory it shares with the front. This one does: every writable mapping of a
 * memfd called "attn-ring" is filled with noise. Needs no header of the server. */
static attn_status_t fault_garbage(const attn_group_t *group, const attn_exec_t *exec, attn_error_t *err)
{
    FILE *maps = fopen("/proc/self/maps", "re");
    if (!maps)
        return attn_error_set(err, ATTN_ERR_INTERNAL, "test_garbage cannot read /proc/self/maps");
    char line[512];
    unsigned long first, last;
    char access[8];
    uint64_t noise = 0x9e3779b97f4a7c15u;
    while (fgets(line, sizeof line, maps)) {
        if (!strstr(line, "memfd:attn-ring") || sscanf(line, "%lx-%lx %7s", &first, &last, access) != 3 ||
            access[1] != 'w')
            continue;
        for (volatile uint64_t *at = (volatile uint64_t *)first; at < (volatile uint64_t *)last; at++) {
            noise = noise * 6364136223846793005u + 1442695040888963407u;
            *at = noise;
        }
    }
    fclose(maps);
    fault_zero_outputs(group, exec);
    return ATTN_OK;
}

/* One bad request among good ones. */
static attn_status_t fault_poison(const attn_group_t *group, const attn_exec_t *exec, attn_error_t *err)
{
    for (uint32_t i = 0; i < group->count; i++) {
        int kind = (int)(group->problems[i].sm_scale + 0.5f);
        if (kind == 101)
            return fault_abort(group, exec, err);
        if (kind == 102)
            return attn_error_set(err, ATTN_ERR_INTERNAL, "test_poison_serve met its poison");
        if (kind == 103)
            return fault_spin(group, exec, err);
        struct timespec ts = {0, (long)(group->problems[i].sm_scale * 1e6f)};
        nanosleep(&ts, NULL);
    }
    fault_zero_outputs(group, exec);
    return ATTN_OK;
}

#define FAULT_RUNS(id, launch_function) [id] = {.info = &attn_fault_infos[id], .launch = (launch_function)}
static const attn_variant_t variants[ATTN_FAULT_COUNT] = {
    FAULT_RUNS(ATTN_FAULT_NULL, fault_null),
    FAULT_RUNS(ATTN_FAULT_SLEEP, fault_sleep),
    FAULT_RUNS(ATTN_FAULT_ERROR, fault_error),
    FAULT_RUNS(ATTN_FAULT_SPIN, fault_spin),
    FAULT_RUNS(ATTN_FAULT_SPIN_SERVE, fault_spin),
    FAULT_RUNS(ATTN_FAULT_ABORT, fault_abort),
    FAULT_RUNS(ATTN_FAULT_ABORT_SERVE, fault_abort),
    FAULT_RUNS(ATTN_FAULT_ABORT_ONCE, fault_abort_once),
    FAULT_RUNS(ATTN_FAULT_EXIT, fault_exit),
    FAULT_RUNS(ATTN_FAULT_KILL_SERVE, fault_kill),
    FAULT_RUNS(ATTN_FAULT_OOB, fault_oob),
    FAULT_RUNS(ATTN_FAULT_WRITE_INPUT, fault_write_input),
    FAULT_RUNS(ATTN_FAULT_GARBAGE, fault_garbage),
    FAULT_RUNS(ATTN_FAULT_GARBAGE_SERVE, fault_garbage),
    FAULT_RUNS(ATTN_FAULT_POISON_SERVE, fault_poison),
};

const attn_variant_t *attn_fault_variant_find(const char *name)
{
    for (size_t i = 0; i < ATTN_FAULT_COUNT; i++)
        if (strcmp(variants[i].info->name, name) == 0)
            return &variants[i];
    return NULL;
}
