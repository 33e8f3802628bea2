/* transport/unix.h: the Unix socket's door, for processes on the same host (proto/attn/v1/socket.proto).
 *
 * One thread with an epoll loop owns the listener and every connection: it reads packets and rings. Completions are
 * written by the scheduler's thread, to the socket or the ring. */
#ifndef ATTND_TRANSPORT_UNIX_H
#define ATTND_TRANSPORT_UNIX_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "transport/front.h"

typedef struct attn_unix attn_unix_t;

/* Listens on options->socket. *ret is NULL when the door is off, or when the default's folder cannot be made (that is
 * logged). Errors: INVALID_ARGUMENT (the allow-list), SYSTEM with the path. */
attn_status_t attn_unix_start(attn_front_t *front, attn_unix_t **ret, attn_error_t *err);

/* Draining: new connections and submissions are refused with UNAVAILABLE. NULL is fine for all of these. */
void attn_unix_drain_refuse(attn_unix_t *door);
uint32_t attn_unix_calls(const attn_unix_t *door); /* submissions without an answer */

/* Closes every connection, waits for the requests of each (so before the scheduler ends) and joins the thread. */
void attn_unix_stop(attn_unix_t *door);

/* Gauges of the door. Any thread. */
void attn_unix_metrics(attn_unix_t *door, FILE *out);

#endif
