/* door.h: the ways in which a load reaches the daemon, behind one small interface: a channel is a connection with some
 * requests in flight on it. A channel belongs to one thread. */
#ifndef ATTNCTL_BENCH_DOOR_H
#define ATTNCTL_BENCH_DOOR_H

#include "workload.h"

#define BENCH_DEPTH_MAX 64 /* requests in flight on one channel */

/* What every channel of a load shares; read only while the load runs. */
typedef struct bench_setup {
    const ctl_options_t *options;
    const bench_workload_t *workload;
    const void *q[BENCH_CLASS_MAX], *k[BENCH_CLASS_MAX], *v[BENCH_CLASS_MAX]; /* the inputs of each class */
    uint64_t output_bytes, lse_bytes;                                         /* the largest of all classes */
} bench_setup_t;

typedef struct bench_done {
    uint32_t slot; /* as given to submit() */
    attn_status_t status;
    attn_client_answer_t answer; /* when status is ATTN_OK */
    attn_client_error_t error;   /* otherwise */
} bench_done_t;

typedef struct bench_door {
    const char *name;
    bool local;         /* over the Unix socket */
    uint32_t depth_max; /* requests in flight on one channel */
    attn_status_t (*open)(const bench_setup_t *setup, uint32_t depth, void **ret_channel, attn_client_error_t *err);
    /* Begins a request of a class; `slot` (below depth) is free. A failure becomes a bench_done_t of reap(). */
    void (*submit)(void *channel, uint32_t slot, uint32_t class);
    /* Waits at most so long for one of the requests in flight; false when none has ended. A door that can only have one
     * in flight may wait longer. */
    bool (*reap)(void *channel, int64_t timeout_ns, bench_done_t *ret);
    /* O of the slot's request, which has ended; good until the next submit() of the slot. NULL with *err when it cannot
     * be read. */
    const void *(*output)(void *channel, uint32_t slot, uint64_t bytes, attn_error_t *err);
    void (*close)(void *channel); /* nothing is in flight; NULL is fine */
} bench_door_t;

/* Of the name, or, when that is NULL, what goes with the server's address. INVALID_ARGUMENT when there is none of that
 * name, or it does not go with the address. */
attn_status_t bench_door_find(const char *name, const char *server, const bench_door_t **ret, attn_error_t *err);
extern const bench_door_t bench_door_http, bench_door_socket, bench_door_ring, bench_door_cuda, bench_door_cuda_ipc;

/* Inputs of every class, made from the seed, each class its own. Freed with bench_setup_close(). */
attn_status_t bench_setup_open(const ctl_options_t *options, const bench_workload_t *workload, bench_setup_t *ret,
                               attn_error_t *err);
void bench_setup_close(bench_setup_t *setup);

/* The request of a class with its inputs; the outputs are the channel's. */
attn_client_request_t bench_setup_request(const bench_setup_t *setup, uint32_t class);

#endif
