/* sched/devices.c: see devices.h. */
#include "sched/devices.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "sched/process.h"

enum { LIST_MS = 30000, LIST_BYTES = 16384 };

typedef struct found {
    attn_device_argument_t gpu[ATTN_SCHED_DEVICES_MAX];
    int index[ATTN_SCHED_DEVICES_MAX];
    uint32_t gpus;
} found_t;

typedef struct chosen {
    attn_device_argument_t *device;
    uint32_t count;
} chosen_t;

/* Reads until the end, or until time is up. */
static size_t read_all(int fd, char *ret, size_t size, int64_t until_ns)
{
    size_t used = 0;
    while (used < size - 1) {
        int64_t left_ms = (until_ns - attn_clock_ns()) / ATTN_NS_PER_MS;
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        if (left_ms <= 0 || poll(&ready, 1, (int)left_ms) < 0)
            break;
        ssize_t got = read(fd, ret + used, size - 1 - used);
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
            break;
        used += got > 0 ? (size_t)got : 0;
    }
    ret[used] = '\0';
    return used;
}

static void lines_parse(char *text, found_t *ret)
{
    char *save = NULL;
    for (char *line = strtok_r(text, "\n", &save); line && ret->gpus < ATTN_SCHED_DEVICES_MAX;
         line = strtok_r(NULL, "\n", &save)) {
        int index;
        char uuid[ATTN_DEVICE_ARGUMENT_MAX];
        if (sscanf(line, "%63s %d", uuid, &index) != 2)
            continue;
        memcpy(ret->gpu[ret->gpus], uuid, sizeof uuid);
        ret->index[ret->gpus++] = index;
    }
}

static attn_status_t gpus_list(const char *worker_path, found_t *ret, attn_error_t *err)
{
    int output[2];
    attn_status_t status = attn_fd_pipe(output, err);
    if (status != ATTN_OK)
        return status;
    attn_process_t process;
    char *const argv[] = {(char *)"attn-worker", (char *)"--list-devices", NULL};
    status = attn_process_spawn(worker_path, argv, NULL, 0, output[1], &process, err);
    attn_fd_close(&output[1]);
    if (status != ATTN_OK) {
        attn_fd_close(&output[0]);
        return status;
    }
    char text[LIST_BYTES], why[96], said[256];
    int64_t until = attn_clock_ns() + LIST_MS * ATTN_NS_PER_MS;
    read_all(output[0], text, sizeof text, until);
    attn_fd_close(&output[0]);
    struct pollfd ended = {.fd = process.pidfd, .events = POLLIN};
    int64_t left_ms = (until - attn_clock_ns()) / ATTN_NS_PER_MS;
    if (poll(&ended, 1, left_ms > 0 ? (int)left_ms : 0) <= 0) {
        attn_process_kill(&process);
        poll(&ended, 1, 10000);
    }
    attn_death_t death = {0, -1};
    bool reaped = attn_process_reap(&process, &death);
    if (!reaped || death.signal || death.status != 0) {
        attn_death_describe(&death, why, sizeof why);
        attn_process_quote(&process, said, sizeof said);
        return attn_error_set(err, ATTN_ERR_SYSTEM, "attn-worker --list-devices was %s%s%s", reaped ? why : "stuck",
                              said[0] ? "; stderr: " : "", said);
    }
    lines_parse(text, ret);
    return ATTN_OK;
}

static attn_status_t add(chosen_t *chosen, const char *argument, attn_error_t *err)
{
    if (chosen->count == ATTN_SCHED_DEVICES_MAX)
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "at most %d devices can be used", ATTN_SCHED_DEVICES_MAX);
    snprintf(chosen->device[chosen->count++], ATTN_DEVICE_ARGUMENT_MAX, "%s", argument);
    return ATTN_OK;
}

/* A device is used once, however often it is named. */
static attn_status_t choose(chosen_t *chosen, const char *argument, attn_error_t *err)
{
    for (uint32_t i = 0; i < chosen->count; i++)
        if (strcmp(chosen->device[i], argument) == 0)
            return ATTN_OK;
    return add(chosen, argument, err);
}

static attn_status_t choose_gpu(chosen_t *chosen, const found_t *found, const char *token, attn_error_t *err)
{
    char *end;
    long index = strtol(token, &end, 10);
    bool is_index = end != token && *end == '\0';
    for (uint32_t i = 0; i < found->gpus; i++)
        if (is_index ? found->index[i] == index : strcmp(found->gpu[i], token) == 0)
            return choose(chosen, found->gpu[i], err);
    return attn_error_set(
        err, ATTN_ERR_INVALID_ARGUMENT,
        "there is no device '%s'; this machine offers %u GPU%s; use auto, all, cpu, an index or a UUID", token,
        found->gpus, found->gpus == 1 ? "" : "s");
}

static attn_status_t choose_token(chosen_t *chosen, const found_t *found, const char *token, attn_error_t *err)
{
    bool is_auto = strcmp(token, "auto") == 0, is_all = strcmp(token, "all") == 0;
    if (strcmp(token, "cpu") == 0 || strcmp(token, "null") == 0)
        return add(chosen, token, err);
    if (!is_auto && !is_all)
        return choose_gpu(chosen, found, token, err);
    attn_status_t status = ATTN_OK;
    for (uint32_t i = 0; i < found->gpus && status == ATTN_OK; i++)
        status = choose(chosen, found->gpu[i], err);
    if (status == ATTN_OK && (is_all || found->gpus == 0))
        status = choose(chosen, "cpu", err);
    return status;
}

/* Whether the list names anything but engines that need no GPU. */
static bool gpus_matter(const char *list)
{
    while (*list) {
        size_t length = strcspn(list, ", ");
        if (length > 0 && !(length == 3 && strncmp(list, "cpu", 3) == 0) &&
            !(length == 4 && strncmp(list, "null", 4) == 0))
            return true;
        list += length + strspn(list + length, ", ");
    }
    return false;
}

attn_status_t attn_devices_resolve(const char *option, const char *worker_path,
                                   attn_device_argument_t ret[ATTN_SCHED_DEVICES_MAX], uint32_t *ret_count,
                                   attn_error_t *err)
{
    char list[1024];
    found_t found = {.gpus = 0};
    chosen_t chosen = {ret, 0};
    if (snprintf(list, sizeof list, "%s", option) >= (int)sizeof list)
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "the list of devices is too long");
    attn_status_t status = ATTN_OK;
    if (gpus_matter(list))
        status = gpus_list(worker_path, &found, err);
    char *save = NULL;
    for (char *token = strtok_r(list, ", ", &save); token && status == ATTN_OK; token = strtok_r(NULL, ", ", &save))
        status = choose_token(&chosen, &found, token, err);
    if (status == ATTN_OK && chosen.count == 0)
        status = attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                                "no device is named; use auto, all, cpu, an index or a UUID");
    if (status == ATTN_OK)
        *ret_count = chosen.count;
    return status;
}
