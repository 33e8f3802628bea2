/* link.h: one connection to the daemon's Unix socket: packets with descriptors, and the shared ring. Knows nothing of
 * regions and requests. What the daemon sends is checked before it is used; the ring's records are copied by whoever
 * reads them. One thread at a time, but for attn_link_sleep(), which may run beside attn_link_submit() and
 * attn_link_send(). */
#ifndef ATTN_CLIENT_LINK_H
#define ATTN_CLIENT_LINK_H

#include "attn/v1/shm_ring.h"
#include "attn/v1/socket.pb-c.h"
#include "internal.h"

#define ATTN_LINK_FDS 4
#define ATTN_LINK_MESSAGE_MAX 65536

typedef struct attn_link {
    int fd;           /* -1: not connected */
    uint8_t *buffers; /* one packet that is sent, one that is received */
    /* From Welcome. */
    uint32_t alignment, ring_entries_max, max_in_flight;
    bool any_ready; /* a device was ready */
    /* The ring; NULL when there is none. Sizes and places are our own copies. */
    attn_shm_header_t *ring;
    attn_shm_submission_t *submissions;
    attn_shm_completion_t *completions;
    uint64_t ring_bytes;
    uint32_t entries;
    int doorbell, wakeup;
    uint64_t submit_tail, complete_head;
} attn_link_t;

#define ATTN_LINK_NONE ((attn_link_t){.fd = -1, .doorbell = -1, .wakeup = -1})

/* Connects and says hello. Errors: CONNECTION, TIMEOUT, and what the daemon says. */
attn_status_t attn_link_open(const char *path, int timeout_ms, attn_link_t *ret, attn_client_error_t *err);
void attn_link_close(attn_link_t *link); /* leaves ATTN_LINK_NONE */

/* Sends one message, with a descriptor unless it is -1. TOO_LARGE, CONNECTION. */
attn_status_t attn_link_send(attn_link_t *link, const Attn__V1__SocketRequest *message, int fd,
                             attn_client_error_t *err);

/* An answer with its descriptors, which belong to the caller then. *ret is NULL when none has come within timeout_ms
 * (0 = look only). CONNECTION when there will be no more, INTERNAL when what came is no answer. Free it with
 * attn_link_answer_free(). */
attn_status_t attn_link_receive(attn_link_t *link, int timeout_ms, Attn__V1__SocketAnswer **ret,
                                int ret_fds[ATTN_LINK_FDS], int *ret_fd_count, attn_client_error_t *err);
void attn_link_answer_free(Attn__V1__SocketAnswer *answer);
void attn_link_answer_drop(Attn__V1__SocketAnswer *answer, const int *fds, int fd_count); /* with its descriptors */

/* Sends and waits for the one answer: only while nothing else is under way. An error becomes *err. */
attn_status_t attn_link_exchange(attn_link_t *link, const Attn__V1__SocketRequest *message, int fd, int timeout_ms,
                                 Attn__V1__SocketAnswer **ret, int ret_fds[ATTN_LINK_FDS], int *ret_fd_count,
                                 attn_client_error_t *err);

/* What an error answer says. */
attn_status_t attn_link_error(const Attn__V1__Error *error, attn_client_error_t *err);

/* ---- the ring (ring.c) ---- */

/* Opens the ring over the socket. */
attn_status_t attn_link_ring_open(attn_link_t *link, uint32_t entries, int timeout_ms, attn_client_error_t *err);
void attn_link_ring_close(attn_link_t *link);

/* Publishes a copy of the record and rings when the daemon sleeps. The caller keeps no more than `entries` records
 * that it has not reaped. */
void attn_link_submit(attn_link_t *link, const attn_shm_submission_t *record);

/* The next completion, in shared memory (copy what you check), or NULL; attn_link_pop() when it has been read.
 * attn_link_torn() is true when the daemon's counter makes no sense. */
const volatile attn_shm_completion_t *attn_link_peek(const attn_link_t *link);
void attn_link_pop(attn_link_t *link);
bool attn_link_torn(const attn_link_t *link);

/* Sleeping. `watch` is whether packets are waited for too: then, or where there is no ring, by poll(); else on the
 * futex. prepare() is called while nothing is submitted; between it and sleep() others may. Wakes at the latest at
 * until_ns, spinning for spin_ns first; gives whether the socket should be looked at. */
typedef struct attn_link_nap {
    bool watch;
    uint32_t futex;
    int64_t spin_ns, until_ns;
} attn_link_nap_t;
void attn_link_nap_prepare(const attn_link_t *link, attn_link_nap_t *nap);
bool attn_link_sleep(attn_link_t *link, const attn_link_nap_t *nap);
void attn_link_kick(attn_link_t *link); /* ends a nap that began, or begins, on the futex */

/* Lets the wake-up descriptor become readable at the next completion; false when there is one already. */
bool attn_link_arm_pipe(attn_link_t *link);
void attn_link_drain_pipe(attn_link_t *link);

int64_t attn_now_ns(void); /* CLOCK_MONOTONIC */

#endif
