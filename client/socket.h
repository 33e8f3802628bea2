/* socket.h: a connected, non-blocking TCP socket and waiting on it. One thread at a time; the caller closes it. */
#ifndef ATTN_CLIENT_SOCKET_H
#define ATTN_CLIENT_SOCKET_H

#include "conn.h"

int64_t attn_now_ms(void); /* CLOCK_MONOTONIC */

/* Connects to the first address of the endpoint that answers. */
attn_status_t attn_socket_connect(const attn_endpoint_t *endpoint, int timeout_ms, int *ret_fd, attn_error_t *err);

/* What a wait is about: told to the progress callback and put into the sentence when it takes too long. */
typedef struct attn_wait {
    attn_conn_phase_t phase;
    uint64_t done, total;
    int timeout_ms; /* 0 = none */
} attn_wait_t;

/* Waits for `events` (POLLIN, POLLOUT) and gives what came, calling options->progress every 200 ms.
 * Errors: TIMEOUT, CANCELLED, SYSTEM. */
attn_status_t attn_socket_wait(int fd, short events, const attn_wait_t *wait, const attn_conn_options_t *options,
                               short *ret_events, attn_error_t *err);

/* Calls options->progress when there is one; CANCELLED when it says so. */
attn_status_t attn_progress_tell(const attn_wait_t *wait, const attn_conn_options_t *options, attn_error_t *err);

#endif
