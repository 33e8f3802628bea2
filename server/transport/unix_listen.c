/* transport/unix_listen.c: the listening socket: its folder, a stale file, its mode, and who may come in. Main thread,
 * but for the check of peers. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fd.h"
#include "transport/unix_internal.h"

#define BACKLOG 256
#define GROUPS_MAX 256

static attn_status_t address_of(const char *path, struct sockaddr_un *ret, attn_error_t *err)
{
    *ret = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof ret->sun_path) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "--socket %.200s is too long: at most %zu bytes", path,
                              sizeof ret->sun_path - 1);
    }
    memcpy(ret->sun_path, path, strlen(path) + 1);
    return ATTN_OK;
}

/* The default's folder is made; any other is the operator's to make. */
static void make_folder(const char *path)
{
    char folder[108];
    const char *slash = strrchr(path, '/');
    if (slash == NULL || slash == path || strcmp(path, ATTN_SOCKET_DEFAULT) != 0) {
        return;
    }
    memcpy(folder, path, (size_t)(slash - path));
    folder[slash - path] = '\0';
    if (mkdir(folder, 0755) == 0) {
        chmod(folder, 0755); /* whatever the umask is */
    }
}

/* A socket that nobody listens on any more is what a killed daemon leaves behind. */
static attn_status_t remove_stale(const char *path, const struct sockaddr_un *address, attn_error_t *err)
{
    struct stat about;
    if (lstat(path, &about) != 0) {
        return ATTN_OK; /* what else is wrong bind() will say */
    }
    if (!S_ISSOCK(about.st_mode)) {
        return attn_error_set(err, ATTN_ERR_SYSTEM, "--socket %s: there is a file of this name that is no socket",
                              path);
    }
    int probe = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool refused =
        probe >= 0 && connect(probe, (const struct sockaddr *)address, sizeof *address) != 0 && errno == ECONNREFUSED;
    attn_fd_close(&probe);
    if (!refused) {
        return attn_error_set(err, ATTN_ERR_SYSTEM, "--socket %s: another program listens there", path);
    }
    unlink(path);
    return ATTN_OK;
}

static attn_status_t bind_here(attn_unix_t *door, const struct sockaddr_un *address, attn_error_t *err)
{
    const attn_options_t *options = door->front->options;
    mode_t mode = (mode_t)strtoul(options->socket_mode, NULL, 8);
    struct stat about;
    door->listener = attn_fd_raise(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    /* The file is made with the socket's own mode, less the umask: it never has more than it should. */
    if (door->listener < 0 || fchmod(door->listener, mode) != 0 ||
        bind(door->listener, (const struct sockaddr *)address, sizeof *address) != 0 || chmod(door->path, mode) != 0 ||
        listen(door->listener, BACKLOG) != 0 || lstat(door->path, &about) != 0) {
        return attn_error_set(err, ATTN_ERR_SYSTEM, "--socket %s: %s", door->path, strerror(errno));
    }
    door->path_device = about.st_dev;
    door->path_inode = about.st_ino;
    return ATTN_OK;
}

attn_status_t unix_listen(attn_unix_t *door, attn_error_t *err)
{
    struct sockaddr_un address;
    attn_status_t status = address_of(door->front->options->socket, &address, err);
    if (status != ATTN_OK) {
        return status;
    }
    memcpy(door->path, address.sun_path, sizeof door->path);
    make_folder(door->path);
    status = remove_stale(door->path, &address, err);
    return status == ATTN_OK ? bind_here(door, &address, err) : status;
}

void unix_listen_end(attn_unix_t *door)
{
    struct stat about;
    bool bound = door->path_inode != 0;
    attn_fd_close(&door->listener);
    /* Another daemon may have put its own there meanwhile. */
    if (bound && lstat(door->path, &about) == 0 && about.st_dev == door->path_device &&
        about.st_ino == door->path_inode) {
        unlink(door->path);
    }
}

static bool in_list(const char *list, unsigned long id)
{
    while (*list != '\0') {
        char *end;
        if (strtoul(list, &end, 10) == id) {
            return true;
        }
        list = *end == ',' ? end + 1 : end;
    }
    return false;
}

bool unix_peer_allowed(const attn_options_t *options, int fd, uid_t uid, gid_t gid)
{
    if (options->socket_users[0] == '\0' && options->socket_groups[0] == '\0') {
        return true; /* who can open the file may come in */
    }
    if (in_list(options->socket_users, uid) || in_list(options->socket_groups, gid)) {
        return true;
    }
    gid_t groups[GROUPS_MAX];
    socklen_t bytes = sizeof groups;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &bytes) != 0) {
        return false;
    }
    for (size_t i = 0; i < bytes / sizeof groups[0]; i++) {
        if (in_list(options->socket_groups, groups[i])) {
            return true;
        }
    }
    return false;
}
