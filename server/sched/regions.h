/* sched/regions.h: memory of colocated clients on its way to the workers.
 *
 * A door adds a region and gets a number for its places; the scheduler's thread tells the workers, now and whenever one
 * is started anew. Host memory goes to every serve worker, device memory and events to the worker of their device; a
 * lab worker is told of what its job needs. A region is dropped by its door when no request uses it any more; its
 * number is free again when no worker has it. Owns the descriptors. Any thread where nothing else is said; one mutex,
 * held over non-blocking sends only. */
#ifndef ATTND_SCHED_REGIONS_H
#define ATTND_SCHED_REGIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "attn/status.h"
#include "worker/region_wire.h"

typedef struct attn_regions attn_regions_t;

typedef struct attn_region_about {
    attn_region_kind_t kind;
    bool writable;
    int fd; /* HOST, VMM; -1 otherwise */
    uint64_t bytes, base;
    uint8_t handle[ATTN_REGION_HANDLE_BYTES];
    char device[48]; /* UUID; "" for host memory */
} attn_region_about_t;

/* What a worker made of it. ADD: once after the first report, and again with an error when a later worker could not
 * take it (the exporter of a legacy handle is gone). AWAIT: the event of attn_regions_await() has been reached. The
 * scheduler's thread; must not block, nor call back. */
typedef void (*attn_region_told_fn)(void *arg, attn_region_op_t op, attn_status_t status, const char *message);
typedef void (*attn_region_gone_fn)(void *arg);

/* One worker's end of it; the scheduler's thread. */
typedef struct attn_region_link {
    int fd; /* the front's end of the region socket; -1 = no worker */
    bool serve;
    bool open;          /* has said hello, so that `device` is known */
    const char *device; /* UUID */
    uint64_t held[ATTN_REGIONS_MAX / 64], dropping[ATTN_REGIONS_MAX / 64];
} attn_region_link_t;

/* `wake` makes the scheduler call attn_regions_sync() soon. */
attn_status_t attn_regions_create(void (*wake)(void *arg), void *wake_arg, attn_regions_t **ret, attn_error_t *err);
void attn_regions_destroy(attn_regions_t *regions); /* NULL is fine */

/* Takes about->fd on success. `told` is called for every kind. Errors: UNAVAILABLE when all numbers are in use. */
attn_status_t attn_regions_add(attn_regions_t *regions, const attn_region_about_t *about, attn_region_told_fn told,
                               void *arg, uint32_t *ret_number, attn_error_t *err);
/* `told` is not called any more; `gone` is called on the scheduler's thread when no worker has the region. */
void attn_regions_drop(attn_regions_t *regions, uint32_t number, attn_region_gone_fn gone, void *arg);

/* Asks for a call of `told` when what is recorded in the event has been reached; one call for one or more askings. A
 * worker that is started anew is asked again. */
void attn_regions_await(attn_regions_t *regions, uint32_t number);

/* The device that a region lies on: its UUID, or "" for host memory. Only for a region that is not dropped. */
const char *attn_regions_device(const attn_regions_t *regions, uint32_t number);

/* Where it begins in its allocation, which itself begins with a page. */
uint64_t attn_regions_base(const attn_regions_t *regions, uint32_t number);

uint32_t attn_regions_count(attn_regions_t *regions);
uint64_t attn_regions_host_bytes(attn_regions_t *regions);

/* ---- the scheduler's thread ---- */

bool attn_regions_changed(const attn_regions_t *regions);
/* Tells the workers what is new. Returns whether something is left because a socket was full: try again soon. */
bool attn_regions_sync(attn_regions_t *regions, attn_region_link_t *const *links, uint32_t count);
/* Before a job is given: the worker behind `link` has been told of this region. False: its socket is full. */
bool attn_regions_ensure(attn_regions_t *regions, attn_region_link_t *link, uint32_t number);
/* Takes one report; false: there is none. *ret_garbage: no worker of ours wrote that. */
bool attn_regions_collect(attn_regions_t *regions, attn_region_link_t *link, bool *ret_garbage);
/* A worker is there, or has been reaped: what it had is nobody's. */
void attn_regions_link_begin(attn_regions_t *regions, attn_region_link_t *link);
void attn_regions_link_end(attn_regions_t *regions, attn_region_link_t *link);

#endif
