/* sched/process.h: a child process: spawned, listened to, killed, reaped. Used by the scheduler's thread; owns the
 * pidfd and the reading end of the child's standard error, whose last bytes it keeps. */
#ifndef ATTND_SCHED_PROCESS_H
#define ATTND_SCHED_PROCESS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "attn/status.h"

enum { ATTN_PROCESS_TAIL = 4096, ATTN_PROCESS_FDS_MAX = 8 };

typedef struct attn_process {
    pid_t pid;           /* 0: none */
    int pidfd;           /* readable once it can be reaped */
    int errors;          /* its stdout and stderr */
    uint64_t tail_count; /* bytes ever read from it */
    char tail[ATTN_PROCESS_TAIL];
} attn_process_t;

typedef struct attn_process_fd {
    int from, to; /* descriptor here, number there (3 and up) */
} attn_process_fd_t;

/* How a process ended. */
typedef struct attn_death {
    int signal; /* 0: it exited */
    int status; /* exit status when signal is 0; -1 when somebody else reaped it */
} attn_death_t;

/* posix_spawn + exec, in a process group of its own, signals at their defaults, no descriptor but 0 (nothing), 1 and 2
 * (the pipe) and `fds`. With `stdout_fd` >= 0 standard output goes there instead. */
attn_status_t attn_process_spawn(const char *path, char *const argv[], const attn_process_fd_t *fds, uint32_t fd_count,
                                 int stdout_fd, attn_process_t *ret, attn_error_t *err);

/* Reads what its standard error has, without blocking and at most 64 KiB; false when the pipe has ended. */
bool attn_process_listen(attn_process_t *process);

void attn_process_kill(const attn_process_t *process); /* SIGKILL to its group */

/* Reaps it if it has ended and closes what belongs to it; false when it still runs. */
bool attn_process_reap(attn_process_t *process, attn_death_t *ret);

/* A signal that somebody outside sends (an operator, the OOM killer), rather than one that a defect raises. */
bool attn_death_from_outside(const attn_death_t *death);

/* "killed by signal 6 (SIGABRT)", "exited with status 7". */
void attn_death_describe(const attn_death_t *death, char *ret, size_t size);

/* The end of its standard error, fit to be quoted; "" when it said nothing. */
void attn_process_quote(const attn_process_t *process, char *ret, size_t size);

#endif
