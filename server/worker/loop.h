/* worker/loop.h: the worker's two threads: jobs, one after the other, and the heartbeat. */
#ifndef ATTND_WORKER_LOOP_H
#define ATTND_WORKER_LOOP_H

#include "worker/engine.h"
#include "worker/memory.h"
#include "worker/ring.h"

typedef struct attn_loop {
    const attn_engine_ops_t *ops;
    attn_engine_t *engine;
    attn_memory_t *memory;
    attn_ring_t ring;
} attn_loop_t;

/* Starts the thread that counts attn_wire_worker_t.beat and ends the process when the control socket does. It never
 * calls CUDA, so it runs on whatever the device does. `loop` must outlive the process. */
attn_status_t attn_loop_heartbeat(attn_loop_t *loop, attn_error_t *err);

/* Runs jobs until one leaves the device unusable; then returns. */
void attn_loop_run(attn_loop_t *loop);

#endif
