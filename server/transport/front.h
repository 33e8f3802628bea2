/* transport/front.h: what the doors share: the daemon's parts, the look-up of a variant by the name that a caller gave,
 * and the counts of requests. Any thread. */
#ifndef ATTND_TRANSPORT_FRONT_H
#define ATTND_TRANSPORT_FRONT_H

#include <stdio.h>

#include "config/options.h"
#include "sched/sched.h"

struct attn_compare;
struct attn_unix;

/* Owned by main, outlives every door. */
typedef struct attn_front {
    const attn_options_t *options;
    attn_admit_t *admit;
    attn_sched_t *sched;
    struct attn_compare *compare;
    struct attn_unix *socket; /* NULL while it is off */
} attn_front_t;

typedef enum attn_door { ATTN_DOOR_HTTP, ATTN_DOOR_SOCKET, ATTN_DOOR_RING, ATTN_DOORS } attn_door_t;

/* "" is auto: NULL. Errors: NOT_FOUND. */
attn_status_t attn_front_variant(const attn_front_t *front, const char *name, const attn_variant_info_t **ret,
                                 attn_error_t *err);

/* Counts a request that the scheduler has completed, or one that a door refused before. No heap, no lock after the
 * first of its kind. */
void attn_front_tally(attn_door_t door, const attn_request_t *request);
void attn_front_tally_refused(attn_door_t door, attn_status_t status);

/* Counts bytes of Q, K, V, O and LSE that this process has copied from one place in memory to another for a request:
 * every such copy is counted here. A door that takes tensors where they lie never calls it. */
void attn_front_tally_copied(attn_door_t door, uint64_t bytes);
uint64_t attn_front_copied(attn_door_t door);
void attn_front_write_copied(FILE *out); /* the same, of all doors, for GET /metrics */

#endif
