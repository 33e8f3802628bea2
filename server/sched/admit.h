/* sched/admit.h: admission: byte credit for inputs and outputs, all or nothing, and exact places afterwards.
 *
 * Owns the two arenas (base/arena.h). Any thread; one short mutex, never held over a system call. Limits of design
 * section 2: one peer at most a quarter of the credit (but always one request that fits alone), bodies still arriving
 * at most half; the rest is kept for sockets and replay. */
#ifndef ATTND_SCHED_ADMIT_H
#define ATTND_SCHED_ADMIT_H

#include <stdbool.h>
#include <stdint.h>

#include "attn/status.h"
#include "sched/request.h"

typedef struct attn_admit attn_admit_t;
typedef struct attn_ticket attn_ticket_t; /* one request's credit and places */

typedef struct attn_admit_options {
    uint64_t
        arena_bytes; /* inputs and outputs together; 0 = a quarter of the memory this process may use, at most 8 GiB */
    uint64_t max_request_bytes; /* body; 0 = half of the arena */
} attn_admit_options_t;

attn_status_t attn_admit_create(const attn_admit_options_t *options, attn_admit_t **ret, attn_error_t *err);
void attn_admit_destroy(attn_admit_t *admit); /* NULL is fine; no ticket may be open */

/* Takes credit. TOO_LARGE: it can never fit. UNAVAILABLE: not now. */
attn_status_t attn_admit_open(attn_admit_t *admit, uint64_t peer, uint64_t input_bytes, uint64_t output_bytes,
                              attn_ticket_t **ret, attn_error_t *err);

/* Changes the ticket's credit to what the metadata turned out to need; giving back always succeeds. */
attn_status_t attn_admit_resize(attn_ticket_t *ticket, uint64_t input_bytes, uint64_t output_bytes, attn_error_t *err);

/* A page-aligned place of `bytes` (0 is valid) within the ticket's credit, in the input or output arena. UNAVAILABLE
 * when the arena is too fragmented. *ret_address is where this process writes or reads it. */
attn_status_t attn_admit_place(attn_ticket_t *ticket, bool output, uint64_t bytes, attn_place_t *ret,
                               void **ret_address, attn_error_t *err);

void attn_admit_arrived(attn_ticket_t *ticket); /* the body is complete */
void attn_admit_close(attn_ticket_t *ticket);   /* gives places and credit back; NULL is fine */

/* A dead worker that cannot be reaped may still write: its requests' places are never reused. Counted. */
void attn_admit_leak(attn_ticket_t *ticket);

typedef struct attn_admit_view {
    uint64_t input_bytes, output_bytes; /* sizes */
    uint64_t input_used, output_used, arriving, leaked;
    uint64_t max_request_bytes;
    uint32_t tickets;
} attn_admit_view_t;
void attn_admit_view(attn_admit_t *admit, attn_admit_view_t *ret);

int attn_admit_input_fd(const attn_admit_t *admit);
int attn_admit_output_fd(const attn_admit_t *admit);
void *attn_admit_address(const attn_admit_t *admit, const attn_place_t *place);

#endif
