/* base/fd.h: small helpers around file descriptors. Any thread; a descriptor belongs to whoever made it. */
#ifndef ATTND_BASE_FD_H
#define ATTND_BASE_FD_H

#include <stdbool.h>

#include "attn/status.h"

/* Closes *fd when it is one, and sets it to -1. Keeps errno. */
void attn_fd_close(int *fd);

/* Each makes close-on-exec descriptors numbered 64 and above, clear of the fixed numbers that a spawned program gets.
 */
attn_status_t attn_fd_event(bool blocking, int *ret, attn_error_t *err); /* eventfd */
attn_status_t attn_fd_pipe(int ret[2], attn_error_t *err);               /* [0] non-blocking, for reading */
attn_status_t attn_fd_seqpacket_pair(int ret[2], attn_error_t *err);     /* [0] non-blocking */
attn_status_t attn_fd_memory(const char *name, unsigned long long bytes, int *ret,
                             attn_error_t *err); /* sealed memfd */

void attn_fd_bell_ring(int event_fd); /* adds one; never blocks */
void attn_fd_bell_wait(int event_fd); /* takes what is there; waits for it when the eventfd is a blocking one */

/* Duplicates to a number of 64 or above and closes `fd`; -1 with errno on failure. */
int attn_fd_raise(int fd);
/* The same for who still has something to say through `fd`: false with errno, and it stays as it is, on failure. */
bool attn_fd_raise_in_place(int *fd);

#endif
