/* base/fd.c: see fd.h. */
#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { FD_LEAST = 64 };

void attn_fd_close(int *fd)
{
    if (*fd < 0)
        return;
    int saved = errno;
    close(*fd);
    errno = saved;
    *fd = -1;
}

bool attn_fd_raise_in_place(int *fd)
{
    if (*fd >= FD_LEAST)
        return true;
    int high = fcntl(*fd, F_DUPFD_CLOEXEC, FD_LEAST);
    if (high < 0)
        return false;
    attn_fd_close(fd);
    *fd = high;
    return true;
}

int attn_fd_raise(int fd)
{
    if (fd >= 0 && !attn_fd_raise_in_place(&fd))
        attn_fd_close(&fd);
    return fd;
}

static attn_status_t fd_failed(const char *what, attn_error_t *err)
{
    return attn_error_set(err, ATTN_ERR_SYSTEM, "cannot make %s: %s", what, strerror(errno));
}

static attn_status_t fd_pair_finish(int fds[2], const char *what, int ret[2], attn_error_t *err)
{
    fds[0] = attn_fd_raise(fds[0]);
    fds[1] = attn_fd_raise(fds[1]);
    if (fds[0] < 0 || fds[1] < 0 || fcntl(fds[0], F_SETFL, O_NONBLOCK) != 0) {
        fd_failed(what, err);
        attn_fd_close(&fds[0]);
        attn_fd_close(&fds[1]);
        return ATTN_ERR_SYSTEM;
    }
    ret[0] = fds[0];
    ret[1] = fds[1];
    return ATTN_OK;
}

attn_status_t attn_fd_event(bool blocking, int *ret, attn_error_t *err)
{
    int fd = attn_fd_raise(eventfd(0, blocking ? EFD_CLOEXEC : EFD_CLOEXEC | EFD_NONBLOCK));
    if (fd < 0)
        return fd_failed("an eventfd", err);
    *ret = fd;
    return ATTN_OK;
}

attn_status_t attn_fd_pipe(int ret[2], attn_error_t *err)
{
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) != 0)
        return fd_failed("a pipe", err);
    return fd_pair_finish(fds, "a pipe", ret, err);
}

attn_status_t attn_fd_seqpacket_pair(int ret[2], attn_error_t *err)
{
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) != 0)
        return fd_failed("a socket pair", err);
    return fd_pair_finish(fds, "a socket pair", ret, err);
}

attn_status_t attn_fd_memory(const char *name, unsigned long long bytes, int *ret, attn_error_t *err)
{
    int fd = attn_fd_raise(memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (fd < 0)
        return fd_failed("a memfd", err);
    if (ftruncate(fd, (off_t)bytes) != 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        attn_status_t status =
            attn_error_set(err, ATTN_ERR_SYSTEM, "cannot make %llu bytes of shared memory: %s", bytes, strerror(errno));
        attn_fd_close(&fd);
        return status;
    }
    *ret = fd;
    return ATTN_OK;
}

void attn_fd_bell_ring(int event_fd)
{
    uint64_t one = 1;
    /* EAGAIN means that the counter is full: the bell is ringing already. */
    while (write(event_fd, &one, sizeof one) < 0 && errno == EINTR) {
    }
}

void attn_fd_bell_wait(int event_fd)
{
    uint64_t count;
    while (read(event_fd, &count, sizeof count) < 0 && errno == EINTR) {
    }
}
