/* door_local.c: the Unix socket's doors: each request a message (socket), through the ring (ring), and through the ring
 * with tensors in device memory (cuda: shared as a descriptor; cuda-ipc: as a handle). A channel is a client with a
 * connection and a region of its own, in which each slot has an area of its own for inputs and outputs, so that
 * requests in flight do not find each other's bytes in a cache; above AREAS_MAX_BYTES slots share areas (what is
 * written there nobody reads). The channel's thread. */
#include <stdlib.h>
#include <string.h>

#include "device.h"
#include "door.h"

#define ALIGNMENT 256
#define SPIN_MAX_US 1000000
#define AREAS_MAX_BYTES (UINT64_C(1) << 30) /* of one connection: pinning costs the daemon up to 214 ms per GiB */

typedef enum kind { BY_MESSAGE, BY_RING, BY_CUDA_FD, BY_CUDA_IPC } kind_t;

typedef struct channel {
    const bench_setup_t *setup;
    attn_client_t *client;
    attn_region_t *region;
    ctl_cuda_memory_t memory; /* of CUDA kinds */
    void *scratch;            /* an output of device memory, when it is looked at */
    kind_t kind;
    uint32_t area_count;                    /* slot i uses area i % area_count */
    uint64_t area_bytes, output_at, lse_at; /* outputs from the start of an area */
    uint64_t input_at[BENCH_CLASS_MAX];     /* q of a class from there; k and v follow, each aligned */
    bool failed[BENCH_DEPTH_MAX];           /* slots whose submission failed: told by the next reap() */
    uint32_t failed_count;
    attn_client_error_t failure; /* of the last one */
} channel_t;

static uint64_t aligned(uint64_t bytes)
{
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static void channel_close(void *arg)
{
    channel_t *channel = arg;
    if (channel != NULL) {
        attn_region_release(channel->region); /* waits: device memory is not freed while the daemon has it mapped */
        attn_client_close(channel->client);
        if (channel->memory.address != 0) {
            ctl_cuda_free(&channel->memory);
        }
        free(channel->scratch);
        free(channel);
    }
}

/* Where everything lies in an area, and how many there are. */
static void area_plan(channel_t *channel, uint32_t depth)
{
    const bench_setup_t *setup = channel->setup;
    uint64_t at = 0;
    for (uint32_t i = 0; i < setup->workload->count; i++) {
        const attn_sizes_t *sizes = &setup->workload->classes[i].sizes;
        channel->input_at[i] = at;
        at += aligned(sizes->q) + aligned(sizes->k) + aligned(sizes->v);
    }
    channel->output_at = at;
    channel->lse_at = at + aligned(setup->output_bytes);
    channel->area_bytes = channel->lse_at + aligned(setup->lse_bytes);
    uint64_t fit = channel->area_bytes > 0 ? AREAS_MAX_BYTES / channel->area_bytes : depth;
    channel->area_count = fit < 1 ? 1 : fit < depth ? (uint32_t)fit : depth;
}

static attn_status_t region_open(channel_t *channel, uint64_t bytes, attn_client_error_t *err)
{
    if (channel->kind == BY_MESSAGE || channel->kind == BY_RING) {
        return attn_region_allocate(channel->client, bytes, false, &channel->region, err);
    }
    return ctl_device_region(channel->client, channel->kind == BY_CUDA_FD, bytes, &channel->memory, &channel->region,
                             err);
}

static attn_status_t tensor_put(channel_t *channel, uint64_t at, const void *from, uint64_t bytes,
                                attn_client_error_t *err)
{
    char *to = (char *)attn_region_data(channel->region) + at;
    if (channel->memory.address != 0) {
        memset(err, 0, sizeof(*err));
        return ctl_cuda_upload((uint64_t)(uintptr_t)to, from, bytes, &err->error);
    }
    memcpy(to, from, bytes);
    return ATTN_OK;
}

static attn_status_t inputs_put(channel_t *channel, attn_client_error_t *err)
{
    const bench_setup_t *setup = channel->setup;
    attn_status_t status = ATTN_OK;
    for (uint32_t area = 0; area < channel->area_count; area++) {
        for (uint32_t i = 0; i < setup->workload->count && status == ATTN_OK; i++) {
            const attn_sizes_t *sizes = &setup->workload->classes[i].sizes;
            uint64_t at = area * channel->area_bytes + channel->input_at[i];
            status = tensor_put(channel, at, setup->q[i], sizes->q, err);
            at += aligned(sizes->q);
            status = status == ATTN_OK ? tensor_put(channel, at, setup->k[i], sizes->k, err) : status;
            at += aligned(sizes->k);
            status = status == ATTN_OK ? tensor_put(channel, at, setup->v[i], sizes->v, err) : status;
        }
    }
    return status;
}

static attn_status_t channel_open(const bench_setup_t *setup, uint32_t depth, kind_t kind, void **ret,
                                  attn_client_error_t *err)
{
    uint32_t entries = 8;
    while (entries < depth) {
        entries *= 2;
    }
    attn_client_options_t options = {
        .mode = kind == BY_MESSAGE ? ATTN_CLIENT_MESSAGES : ATTN_CLIENT_RING,
        .ring_entries = entries,
        .pinned = true, /* 4 GiB that were not yet made the first seconds of a mix slow: p99 400 ms of a p50 of 0.4 */
        .spin_us = (int)(setup->options->spin_us < SPIN_MAX_US ? setup->options->spin_us : SPIN_MAX_US)};
    if (setup->options->has_spin_us && options.spin_us == 0) {
        options.spin_us = -1;
    }
    channel_t *channel = calloc(1, sizeof(*channel));
    if (channel == NULL) {
        memset(err, 0, sizeof(*err));
        return attn_error_set(&err->error, ATTN_ERR_NO_MEMORY, "no memory for a connection");
    }
    channel->setup = setup;
    channel->kind = kind;
    area_plan(channel, depth);
    attn_status_t status = attn_client_open(setup->options->server, &options, &channel->client, err);
    if (status == ATTN_OK && setup->options->verify && channel->area_count < depth) {
        memset(err, 0, sizeof(*err));
        status =
            attn_error_set(&err->error, ATTN_ERR_TOO_LARGE,
                           "--verify needs an area per request in flight, and these tensors allow %u; lower --depth",
                           channel->area_count);
    }
    if (status == ATTN_OK) {
        status = region_open(channel, channel->area_count * channel->area_bytes, err);
    }
    if (status == ATTN_OK) {
        status = inputs_put(channel, err);
    }
    if (status != ATTN_OK) {
        channel_close(channel);
        return status;
    }
    *ret = channel;
    return ATTN_OK;
}

static attn_status_t message_open(const bench_setup_t *setup, uint32_t depth, void **ret, attn_client_error_t *err)
{
    return channel_open(setup, depth, BY_MESSAGE, ret, err);
}

static attn_status_t ring_open(const bench_setup_t *setup, uint32_t depth, void **ret, attn_client_error_t *err)
{
    return channel_open(setup, depth, BY_RING, ret, err);
}

static attn_status_t cuda_fd_open(const bench_setup_t *setup, uint32_t depth, void **ret, attn_client_error_t *err)
{
    return channel_open(setup, depth, BY_CUDA_FD, ret, err);
}

static attn_status_t cuda_ipc_open(const bench_setup_t *setup, uint32_t depth, void **ret, attn_client_error_t *err)
{
    return channel_open(setup, depth, BY_CUDA_IPC, ret, err);
}

static void channel_submit(void *arg, uint32_t slot, uint32_t class)
{
    channel_t *channel = arg;
    const attn_sizes_t *sizes = &channel->setup->workload->classes[class].sizes;
    attn_client_request_t request = bench_setup_request(channel->setup, class);
    attn_job_t *job;
    uint64_t area = slot % channel->area_count;
    char *base = (char *)attn_region_data(channel->region) + area * channel->area_bytes;
    request.q = base + channel->input_at[class];
    request.k = (const char *)request.q + aligned(sizes->q);
    request.v = (const char *)request.k + aligned(sizes->k);
    request.o = base + channel->output_at;
    request.lse = (float *)(void *)(base + channel->lse_at);
    void *user = (void *)(uintptr_t)slot;
    if (attn_client_submit(channel->client, &request, user, &job, &channel->failure) != ATTN_OK) {
        channel->failed[slot] = true;
        channel->failed_count++;
    }
}

static bool channel_reap(void *arg, int64_t timeout_ns, bench_done_t *ret)
{
    channel_t *channel = arg;
    if (channel->failed_count > 0) {
        uint32_t slot = 0;
        while (!channel->failed[slot]) {
            slot++;
        }
        channel->failed[slot] = false;
        channel->failed_count--;
        ret->slot = slot;
        ret->status = channel->failure.error.status;
        ret->error = channel->failure;
        return true;
    }
    attn_job_t *job = attn_client_next(channel->client, (timeout_ns + 999) / 1000);
    if (job == NULL) {
        return false;
    }
    ret->slot = (uint32_t)(uintptr_t)attn_job_user(job);
    ret->status = attn_job_wait(job, 0, &ret->answer, &ret->error);
    attn_job_free(job);
    return true;
}

static const void *channel_output(void *arg, uint32_t slot, uint64_t bytes, attn_error_t *err)
{
    channel_t *channel = arg;
    uint64_t area = slot % channel->area_count;
    const char *at = (const char *)attn_region_data(channel->region) + area * channel->area_bytes + channel->output_at;
    if (channel->memory.address == 0) {
        return at;
    }
    attn_status_t status = ctl_cuda_enter(err);
    if (status == ATTN_OK && channel->scratch == NULL) {
        channel->scratch = malloc(channel->setup->output_bytes + 1);
        status =
            channel->scratch != NULL ? ATTN_OK : attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for an output");
    }
    if (status == ATTN_OK) {
        status = ctl_cuda_download(channel->scratch, (uint64_t)(uintptr_t)at, bytes, err);
    }
    return status == ATTN_OK ? channel->scratch : NULL;
}

const bench_door_t bench_door_socket = {"socket",       true,         BENCH_DEPTH_MAX, message_open,
                                        channel_submit, channel_reap, channel_output,  channel_close};
const bench_door_t bench_door_ring = {"ring",         true,         BENCH_DEPTH_MAX, ring_open,
                                      channel_submit, channel_reap, channel_output,  channel_close};
const bench_door_t bench_door_cuda = {"cuda",         true,         BENCH_DEPTH_MAX, cuda_fd_open,
                                      channel_submit, channel_reap, channel_output,  channel_close};
const bench_door_t bench_door_cuda_ipc = {"cuda-ipc",     true,         BENCH_DEPTH_MAX, cuda_ipc_open,
                                          channel_submit, channel_reap, channel_output,  channel_close};
