/* transport/unix_memfd.c: what a descriptor from a client is. Only memory that cannot shrink, that exists already and
 * that nothing but itself can fail to read may be mapped by a worker. Any thread. */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "transport/unix_internal.h"

static attn_status_t check_seals(int fd, bool writable, attn_error_t *err)
{
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "the descriptor is not a memfd; make one with memfd_create(MFD_ALLOW_SEALING)");
    }
    if ((seals & (F_SEAL_SHRINK | F_SEAL_GROW)) != (F_SEAL_SHRINK | F_SEAL_GROW)) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "the memfd is not sealed against %s; add F_SEAL_SHRINK and F_SEAL_GROW before it is "
                              "registered",
                              (seals & F_SEAL_SHRINK) == 0 ? "shrinking" : "growing");
    }
    if (writable && (seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)) != 0) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "the memfd is sealed against writing; register it for reading, or without that seal");
    }
    return ATTN_OK;
}

static attn_status_t check_access(int fd, bool writable, attn_error_t *err)
{
    int flags = fcntl(fd, F_GETFL);
    int access = flags & O_ACCMODE;
    if (flags < 0 || access == O_WRONLY || (writable && access != O_RDWR)) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "the memfd is not open for %s",
                              writable ? "reading and writing" : "reading");
    }
    return ATTN_OK;
}

attn_status_t unix_memfd_check(int fd, bool writable, uint64_t *ret_bytes, uint64_t *ret_device, uint64_t *ret_inode,
                               attn_error_t *err)
{
    struct stat about;
    struct statfs system;
    attn_status_t status = check_seals(fd, writable, err);
    if (status == ATTN_OK) {
        status = check_access(fd, writable, err);
    }
    if (status != ATTN_OK) {
        return status;
    }
    if (fstat(fd, &about) != 0 || fstatfs(fd, &system) != 0) {
        return attn_error_set(err, ATTN_ERR_SYSTEM, "the descriptor cannot be asked what it is: %s", strerror(errno));
    }
    if (system.f_type == HUGETLBFS_MAGIC) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "the memfd has huge pages (MFD_HUGETLB); a missing one would kill who reads it, so plain "
                              "pages are needed");
    }
    if (!S_ISREG(about.st_mode) || system.f_type != TMPFS_MAGIC || about.st_size <= 0) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "the descriptor is not a memfd with at least one byte");
    }
    uint64_t allocated = (uint64_t)about.st_blocks * 512;
    if (allocated < (uint64_t)about.st_size) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "the memfd is sparse: %llu of its %llu bytes have memory; write it, or fallocate() it, "
                              "before it is registered",
                              (unsigned long long)allocated, (unsigned long long)about.st_size);
    }
    *ret_bytes = (uint64_t)about.st_size;
    *ret_device = about.st_dev;
    *ret_inode = about.st_ino;
    return ATTN_OK;
}
