/* worker/client_memory.h: memory of colocated clients as this worker has it: regions that the front told it of
 * (worker/region_wire.h), mapped, pinned or imported once, for as long as they are registered.
 *
 * A thread of its own obeys the front's orders and pins host memory in small pieces, resting in between. The main
 * thread asks for addresses. The front drops a region only when no job uses it, so what find() returned stays until
 * the job that asked has been reported. */
#ifndef ATTND_WORKER_CLIENT_MEMORY_H
#define ATTND_WORKER_CLIENT_MEMORY_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "attn/kernel.h"
#include "worker/region_wire.h"

struct attn_engine;

typedef struct attn_client_region {
    attn_region_order_t about;
    int fd;             /* HOST; VMM only while it is added; -1 otherwise */
    char *host;         /* HOST in the serve class: all of it, read-only unless about.writable */
    attn_error_t error; /* why it is of no use */

    /* The engine's. */
    char *device; /* VMM, IPC: where the region begins on the device */
    void *engine; /* whatever else it needs; EVENT: the event */
} attn_client_region_t;

/* What an engine does with them, on the regions' thread and beside running groups; each may be NULL. */
typedef struct attn_client_memory_ops {
    /* HOST: prepares for pinning. VMM, IPC, EVENT: imports; without it they are refused. */
    attn_status_t (*add)(struct attn_engine *engine, attn_client_region_t *region, attn_error_t *err);
    /* One piece of at most about 3 ms, *ret_ns of it in the driver; whether there is more. */
    bool (*pin)(struct attn_engine *engine, attn_client_region_t *region, int64_t *ret_ns);
    /* EVENT: whether what was recorded has been reached. */
    attn_status_t (*ready)(struct attn_engine *engine, attn_client_region_t *event, bool *ret, attn_error_t *err);
    void (*drop)(struct attn_engine *engine, attn_client_region_t *region);
} attn_client_memory_ops_t;

typedef struct attn_client_memory attn_client_memory_t;

/* `fd` is the worker's end of the region socket and stays the caller's. Orders wait in it until start(). */
attn_status_t attn_client_memory_open(attn_variant_class_t run_class, int fd, attn_client_memory_t **ret,
                                      attn_error_t *err);

/* Starts the thread. `ops` and `engine` outlive the process's work: there is no stop, a worker ends by exiting. */
attn_status_t attn_client_memory_start(attn_client_memory_t *memory, const attn_client_memory_ops_t *ops,
                                       struct attn_engine *engine, attn_error_t *err);

/* A job came: pinning rests between its pieces for a while. Main thread. */
void attn_client_memory_used(attn_client_memory_t *memory);

/* The region of this number; waits when its order is still on its way. Errors: INTERNAL when it never comes, or why
 * the region is of no use. Main thread. */
attn_status_t attn_client_memory_find(attn_client_memory_t *memory, uint32_t number, attn_client_region_t **ret,
                                      attn_error_t *err);

#endif
