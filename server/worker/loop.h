/* worker/loop.h: the worker's two threads: groups of jobs between the ring and the engine, and the heartbeat. */
#ifndef ATTND_WORKER_LOOP_H
#define ATTND_WORKER_LOOP_H

#include "worker/engine.h"
#include "worker/memory.h"
#include "worker/ring.h"

/* A group between the ring and the engine. */
typedef struct attn_loop_group {
    attn_engine_group_t group;
    struct attn_loop *loop;
    bool used;
    char variant[ATTN_WIRE_NAME_MAX];
    attn_engine_request_t request[ATTN_WIRE_GROUP_MAX];
    attn_memory_window_t window[ATTN_WIRE_GROUP_MAX];
    struct {
        uint64_t serial;
        uint32_t slot;
        char id[64];
    } job[ATTN_WIRE_GROUP_MAX];
} attn_loop_group_t;

typedef struct attn_loop {
    const attn_engine_ops_t *ops;
    attn_engine_t *engine;
    attn_memory_t *memory;
    attn_ring_t ring;
    uint32_t under_way; /* groups that the engine has */
    attn_loop_group_t group[ATTN_WIRE_GROUPS];
} attn_loop_t;

/* Starts the thread that counts attn_wire_worker_t.beat and ends the process when the control socket does. It never
 * calls CUDA, so it runs on whatever the device does. `loop` must outlive the process. */
attn_status_t attn_loop_heartbeat(attn_loop_t *loop, attn_error_t *err);

/* Runs groups until one leaves the device unusable; then returns. */
void attn_loop_run(attn_loop_t *loop);

#endif
