/* door_http.c: the HTTP door: a channel is a client with one connection; a request runs inside reap(). The channel's
 * thread; owns the client and the outputs. */
#include <stdlib.h>
#include <string.h>

#include "door.h"

typedef struct channel {
    const bench_setup_t *setup;
    attn_client_t *client;
    void *o;
    float *lse;
    uint32_t slot, class; /* of the request that reap() will run */
} channel_t;

static void channel_close(void *arg)
{
    channel_t *channel = arg;
    if (channel != NULL) {
        attn_client_close(channel->client);
        free(channel->o);
        free(channel->lse);
        free(channel);
    }
}

static attn_status_t channel_open(const bench_setup_t *setup, uint32_t depth, void **ret, attn_client_error_t *err)
{
    channel_t *channel = calloc(1, sizeof(*channel));
    attn_status_t status = ATTN_ERR_NO_MEMORY;
    if (channel != NULL) {
        channel->setup = setup;
        channel->o = malloc(setup->output_bytes + 1);
        channel->lse = malloc(setup->lse_bytes + 1);
    }
    if (channel != NULL && channel->o != NULL && channel->lse != NULL) {
        memset(channel->o, 0, setup->output_bytes); /* the first touch of a page is not the daemon's time */
        memset(channel->lse, 0, setup->lse_bytes);
        status = attn_client_open(setup->options->server, NULL, &channel->client, err);
    } else {
        memset(err, 0, sizeof(*err));
        attn_error_set(&err->error, status, "no memory for the outputs of a connection");
    }
    if (status != ATTN_OK) {
        channel_close(channel);
        return status;
    }
    *ret = channel;
    return ATTN_OK;
}

static void channel_submit(void *arg, uint32_t slot, uint32_t class)
{
    channel_t *channel = arg;
    channel->slot = slot;
    channel->class = class;
}

static bool channel_reap(void *arg, int64_t timeout_ns, bench_done_t *ret)
{
    channel_t *channel = arg;
    attn_client_request_t request = bench_setup_request(channel->setup, channel->class);
    request.o = channel->o;
    request.lse = channel->lse;
    ret->slot = channel->slot;
    ret->status = attn_client_run(channel->client, &request, &ctl_interruptible, &ret->answer, &ret->error);
    return true;
}

static const void *channel_output(void *arg, uint32_t slot, uint64_t bytes, attn_error_t *err)
{
    const channel_t *channel = arg;
    return channel->o;
}

const bench_door_t bench_door_http = {"http",         false,        1, channel_open, channel_submit, channel_reap,
                                      channel_output, channel_close};
