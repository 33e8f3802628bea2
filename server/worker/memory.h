/* worker/memory.h: how a worker sees the arenas. Owns the mappings; main thread only.
 *
 * serve: the input arena is mapped read-only, the output arena writable, both for good. lab: nothing is mapped until a
 * job comes, then only its places, each between unmapped pages, so that an access outside them faults. In both classes
 * an input that a job writes (FILL) gets a writable window of its own for the length of the job. */
#ifndef ATTND_WORKER_MEMORY_H
#define ATTND_WORKER_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#include "attn/kernel.h"
#include "attn/spec.h"
#include "worker/client_memory.h"
#include "worker/wire.h"

typedef struct attn_memory attn_memory_t;

/* `input_fd` and `output_fd` stay the caller's. Their sizes are asked of the kernel. */
attn_status_t attn_memory_open(attn_variant_class_t run_class, int input_fd, int output_fd, attn_memory_t **ret,
                               attn_error_t *err);
void attn_memory_close(attn_memory_t *memory); /* NULL is fine */

/* Where places in regions of clients are looked up; stays the caller's. */
void attn_memory_clients(attn_memory_t *memory, attn_client_memory_t *clients);

/* The arena as mapped for good: ATTN_REGION_INPUT (read-only) or _OUTPUT. NULL with 0 bytes in the lab class. */
void *attn_memory_arena(const attn_memory_t *memory, uint32_t region, uint64_t *ret_bytes);

/* The arena's descriptor, for an engine that must map it in its own way; -1 in the lab class. Stays the caller's. */
int attn_memory_fd(const attn_memory_t *memory, uint32_t region);

/* Tensors in the order of ATTN_TENSOR_ bits: q, k, v, o, lse. */
enum { ATTN_MEMORY_TENSORS = 5 };

/* What enter() mapped for one job only. All zero: nothing. */
typedef struct attn_memory_window {
    void *map;
    uint64_t bytes;
} attn_memory_window_t;

/* Addresses of a job's places; NULL for a place that the job does not have. Maps what the class asks for; *ret_window
 * is then to be left, also after an error. ret_clients: the regions of clients that tensors lie in, else NULL; the
 * address of one on the device is the device's. Errors: INTERNAL (a place outside its arena), NO_MEMORY, and why a
 * client's region is of no use. */
attn_status_t attn_memory_enter(const attn_memory_t *memory, const attn_wire_job_t *job, attn_addresses_t *ret,
                                void **ret_truth, attn_client_region_t *ret_clients[ATTN_MEMORY_TENSORS],
                                attn_memory_window_t *ret_window, attn_error_t *err);
/* A client's event, as the engine has it. Errors: INTERNAL, and why it is of no use. */
attn_status_t attn_memory_event(const attn_memory_t *memory, uint32_t number, void **ret, attn_error_t *err);
void attn_memory_leave(attn_memory_window_t *window);

#endif
