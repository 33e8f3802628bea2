/* worker/region_wire.h: what the front tells a worker about memory of colocated clients, and what the worker reports.
 *
 * A SOCK_SEQPACKET socket of its own (ATTN_WORKER_FD_REGIONS), one record per packet. An order that adds a region of
 * host memory, or one exported as a descriptor, brings that descriptor by SCM_RIGHTS. Orders are obeyed in order; each
 * gets one report: that of AWAIT when it is time, that of adding host memory when it is pinned (or cannot be), unless
 * it is dropped before. The front copies a report once and checks the copy. */
#ifndef ATTND_WORKER_REGION_WIRE_H
#define ATTND_WORKER_REGION_WIRE_H

#include <stdint.h>

#include "worker/wire.h"

/* Numbers of the regions (attn_place_t.region) from ATTN_REGION_CLIENT_FIRST on; events count among them. A number is
 * given to something else only after every worker has reported its drop, or has been reaped. */
#define ATTN_REGIONS_MAX 16384u
#define ATTN_REGION_HANDLE_BYTES 64

typedef enum attn_region_kind {
    ATTN_REGION_HOST = 1, /* a memfd */
    ATTN_REGION_VMM = 2,  /* a descriptor from cuMemExportToShareableHandle() */
    ATTN_REGION_IPC = 3,  /* a cudaIpcMemHandle_t */
    ATTN_REGION_EVENT = 4 /* a cudaIpcEventHandle_t */
} attn_region_kind_t;

typedef enum attn_region_op {
    ATTN_REGION_ADD = 1,
    ATTN_REGION_DROP = 2,
    ATTN_REGION_AWAIT = 3 /* an event: reported when what was recorded in it has been reached; never after its drop */
} attn_region_op_t;

typedef struct attn_region_order {
    uint32_t op; /* attn_region_op_t */
    uint32_t number;
    uint32_t kind; /* attn_region_kind_t */
    uint32_t writable;
    uint64_t bytes;
    uint64_t base; /* IPC: where the region begins in its allocation */
    uint8_t handle[ATTN_REGION_HANDLE_BYTES];
} attn_region_order_t;
_Static_assert(sizeof(attn_region_order_t) == 96, "wire layout");

typedef struct attn_region_report {
    uint32_t op; /* of the order */
    uint32_t number;
    int32_t status; /* attn_status_t; of ADD: not ATTN_OK leaves the region added and useless, until its drop */
    char message[244];
} attn_region_report_t;
_Static_assert(sizeof(attn_region_report_t) == 256, "wire layout");

#endif
