/* sched/process.c: see process.h. */
#include "sched/process.h"

#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/text.h"

extern char **environ;

static int actions_fill(posix_spawn_file_actions_t *actions, const attn_process_fd_t *fds, uint32_t fd_count,
                        int stdout_fd, int stderr_fd)
{
    int failed = posix_spawn_file_actions_addopen(actions, 0, "/dev/null", 0, 0);
    int last = 2;
    if (!failed)
        failed = posix_spawn_file_actions_adddup2(actions, stdout_fd >= 0 ? stdout_fd : stderr_fd, 1);
    if (!failed)
        failed = posix_spawn_file_actions_adddup2(actions, stderr_fd, 2);
    for (uint32_t i = 0; i < fd_count && !failed; i++) {
        failed = posix_spawn_file_actions_adddup2(actions, fds[i].from, fds[i].to);
        last = fds[i].to > last ? fds[i].to : last;
    }
    return failed ? failed : posix_spawn_file_actions_addclosefrom_np(actions, last + 1);
}

static int attributes_fill(posix_spawnattr_t *attributes)
{
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    sigdelset(&all, SIGKILL);
    sigdelset(&all, SIGSTOP);
    int failed = posix_spawnattr_setpgroup(attributes, 0);
    failed = failed ? failed : posix_spawnattr_setsigmask(attributes, &none);
    failed = failed ? failed : posix_spawnattr_setsigdefault(attributes, &all);
    return failed ? failed
                  : posix_spawnattr_setflags(attributes,
                                             POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
}

attn_status_t attn_process_spawn(const char *path, char *const argv[], const attn_process_fd_t *fds, uint32_t fd_count,
                                 int stdout_fd, attn_process_t *ret, attn_error_t *err)
{
    int pipe_fds[2];
    attn_status_t status = attn_fd_pipe(pipe_fds, err);
    if (status != ATTN_OK)
        return status;
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    pid_t pid = 0;
    int failed = actions_fill(&actions, fds, fd_count, stdout_fd, pipe_fds[1]);
    failed = failed ? failed : attributes_fill(&attributes);
    failed = failed ? failed : posix_spawn(&pid, path, &actions, &attributes, argv, environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    attn_fd_close(&pipe_fds[1]);
    int pidfd = -1;
    if (!failed) {
        /* By number: the C library has a name for it only since glibc 2.36. */
        pidfd = attn_fd_raise((int)syscall(SYS_pidfd_open, pid, 0));
        if (pidfd < 0) {
            failed = errno;
            kill(-pid, SIGKILL);
            waitpid(pid, NULL, 0);
        }
    }
    if (failed) {
        attn_fd_close(&pipe_fds[0]);
        return attn_error_set(err, ATTN_ERR_SYSTEM, "cannot start %s: %s", path, strerror(failed));
    }
    *ret = (attn_process_t){.pid = pid, .pidfd = pidfd, .errors = pipe_fds[0]};
    return ATTN_OK;
}

bool attn_process_listen(attn_process_t *process)
{
    char chunk[4096];
    for (int reads = 0; reads < 16 && process->errors >= 0; reads++) {
        ssize_t got = read(process->errors, chunk, sizeof chunk);
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
            return false;
        if (got < 0)
            return true;
        for (ssize_t i = 0; i < got; i++)
            process->tail[process->tail_count++ % ATTN_PROCESS_TAIL] = chunk[i];
    }
    return process->errors >= 0;
}

void attn_process_kill(const attn_process_t *process)
{
    /* Not reaped yet, so the number is still its own. */
    if (process->pid > 0 && kill(-process->pid, SIGKILL) != 0)
        kill(process->pid, SIGKILL);
}

bool attn_process_reap(attn_process_t *process, attn_death_t *ret)
{
    siginfo_t info = {0};
    int failed;
    do {
        failed = waitid(P_PIDFD, (id_t)process->pidfd, &info, WEXITED | WNOHANG);
    } while (failed && errno == EINTR);
    if (!failed && info.si_pid == 0)
        return false;
    if (failed)
        *ret = (attn_death_t){0, -1};
    else if (info.si_code == CLD_EXITED)
        *ret = (attn_death_t){0, info.si_status};
    else
        *ret = (attn_death_t){info.si_status, 0};
    attn_process_listen(process);
    attn_fd_close(&process->errors);
    attn_fd_close(&process->pidfd);
    process->pid = 0;
    return true;
}

bool attn_death_from_outside(const attn_death_t *death)
{
    switch (death->signal) {
    case SIGKILL:
    case SIGTERM:
    case SIGINT:
    case SIGHUP:
    case SIGQUIT:
        return true;
    case 0:
        return death->status == -1;
    default:
        return false;
    }
}

void attn_death_describe(const attn_death_t *death, char *ret, size_t size)
{
    const char *name = death->signal ? sigabbrev_np(death->signal) : NULL;
    if (name)
        snprintf(ret, size, "killed by signal %d (SIG%s)", death->signal, name);
    else if (death->signal)
        snprintf(ret, size, "killed by signal %d", death->signal);
    else if (death->status < 0)
        snprintf(ret, size, "gone, and reaped by somebody else");
    else
        snprintf(ret, size, "exited with status %d", death->status);
}

void attn_process_quote(const attn_process_t *process, char *ret, size_t size)
{
    char text[ATTN_PROCESS_TAIL];
    uint64_t count = process->tail_count < ATTN_PROCESS_TAIL ? process->tail_count : ATTN_PROCESS_TAIL;
    /* As much of the end as fits. */
    if (count > size - 1)
        count = size - 1;
    for (uint64_t i = 0; i < count; i++)
        text[i] = process->tail[(process->tail_count - count + i) % ATTN_PROCESS_TAIL];
    attn_text_quote(ret, size, text, count);
}
