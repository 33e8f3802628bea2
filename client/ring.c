/* ring.c: the client's side of the ring that a connection shares with the daemon (attn/v1/shm_ring.h). See link.h for
 * threads; owns the mapping and the two wake-up descriptors. */
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "link.h"

#define LOOK_EVERY_NS INT64_C(200000000) /* a client asleep on the futex looks at the socket so often */

void attn_link_ring_close(attn_link_t *link)
{
    if (link->ring != NULL) {
        munmap(link->ring, link->ring_bytes);
    }
    if (link->doorbell >= 0) {
        close(link->doorbell);
    }
    if (link->wakeup >= 0) {
        close(link->wakeup);
    }
    link->ring = NULL;
    link->doorbell = link->wakeup = -1;
}

/* Whether an array of records lies within the memory, aligned. */
static bool array_fits(uint64_t offset, uint64_t entries, uint64_t record, uint64_t bytes)
{
    return offset % 64 == 0 && offset >= sizeof(attn_shm_header_t) && offset <= bytes &&
           entries * record <= bytes - offset;
}

static attn_status_t ring_map(attn_link_t *link, int memory, uint64_t bytes, uint32_t entries, attn_client_error_t *err)
{
    struct stat about;
    bool sized = entries >= ATTN_SHM_ENTRIES_MIN && entries <= ATTN_SHM_ENTRIES_MAX && (entries & (entries - 1)) == 0 &&
                 bytes >= sizeof(attn_shm_header_t) && fstat(memory, &about) == 0 && (uint64_t)about.st_size >= bytes;
    void *base = sized ? mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, memory, 0) : MAP_FAILED;
    if (base == MAP_FAILED) {
        return attn_client_fail(err, ATTN_ERR_INTERNAL, "the daemon's ring cannot be mapped: %s",
                                sized ? strerror(errno) : "its size is wrong");
    }
    link->ring = base;
    link->ring_bytes = bytes;
    const attn_shm_header_t *head = link->ring;
    uint64_t submissions = head->submissions, completions = head->completions;
    if (head->magic != ATTN_SHM_MAGIC || head->version != ATTN_SHM_VERSION || head->entries != entries ||
        head->submission_bytes != sizeof(attn_shm_submission_t) ||
        head->completion_bytes != sizeof(attn_shm_completion_t) ||
        !array_fits(submissions, entries, sizeof(attn_shm_submission_t), bytes) ||
        !array_fits(completions, entries, sizeof(attn_shm_completion_t), bytes)) {
        return attn_client_fail(err, ATTN_ERR_INTERNAL, "the daemon's ring is not laid out as version %u says",
                                ATTN_SHM_VERSION);
    }
    link->entries = entries;
    link->submissions = (void *)((char *)base + submissions);
    link->completions = (void *)((char *)base + completions);
    link->submit_tail = link->complete_head = 0;
    return ATTN_OK;
}

attn_status_t attn_link_ring_open(attn_link_t *link, uint32_t entries, int timeout_ms, attn_client_error_t *err)
{
    Attn__V1__OpenRing open = ATTN__V1__OPEN_RING__INIT;
    Attn__V1__SocketRequest message = ATTN__V1__SOCKET_REQUEST__INIT;
    Attn__V1__SocketAnswer *answer = NULL;
    int fds[ATTN_LINK_FDS], fd_count = 0;
    open.entries = entries < link->ring_entries_max || link->ring_entries_max == 0 ? entries : link->ring_entries_max;
    message.tag = 1;
    message.what_case = ATTN__V1__SOCKET_REQUEST__WHAT_OPEN_RING;
    message.open_ring = &open;
    attn_status_t status = attn_link_exchange(link, &message, -1, timeout_ms, &answer, fds, &fd_count, err);
    if (status != ATTN_OK) {
        return status;
    }
    int memory = fd_count > 0 ? fds[0] : -1;
    link->doorbell = fd_count > 1 ? fds[1] : -1;
    link->wakeup = fd_count > 2 ? fds[2] : -1;
    if (answer->what_case != ATTN__V1__SOCKET_ANSWER__WHAT_RING_OPENED || fd_count != 3) {
        status = attn_client_fail(err, ATTN_ERR_INTERNAL, "the daemon opened a ring without its three descriptors");
    } else {
        status = ring_map(link, memory, answer->ring_opened->bytes, answer->ring_opened->entries, err);
    }
    if (memory >= 0) {
        close(memory);
    }
    for (int i = 3; i < fd_count; i++) {
        close(fds[i]);
    }
    attn_link_answer_free(answer);
    if (status != ATTN_OK) {
        attn_link_ring_close(link);
    }
    return status;
}

void attn_link_submit(attn_link_t *link, const attn_shm_submission_t *record)
{
    attn_shm_header_t *ring = link->ring;
    memcpy(&link->submissions[link->submit_tail % link->entries], record, sizeof(*record));
    link->submit_tail++;
    /* Sequentially consistent accesses stand for the fence between them, which ThreadSanitizer does not know. */
    atomic_store(&ring->submit_tail, link->submit_tail);
    if (atomic_load(&ring->submit_armed) == 1) {
        uint64_t one = 1;
        while (write(link->doorbell, &one, sizeof(one)) < 0 && errno == EINTR) {
        }
    }
}

static uint64_t completions_ready(const attn_link_t *link)
{
    return atomic_load_explicit(&link->ring->complete_tail, memory_order_acquire) - link->complete_head;
}

bool attn_link_torn(const attn_link_t *link)
{
    return link->ring != NULL && completions_ready(link) > link->entries;
}

const volatile attn_shm_completion_t *attn_link_peek(const attn_link_t *link)
{
    if (link->ring == NULL || completions_ready(link) == 0) {
        return NULL;
    }
    return &link->completions[link->complete_head % link->entries];
}

void attn_link_pop(attn_link_t *link)
{
    link->complete_head++;
    atomic_store_explicit(&link->ring->complete_head, link->complete_head, memory_order_release);
}

void attn_link_nap_prepare(const attn_link_t *link, attn_link_nap_t *nap)
{
    nap->futex = link->ring != NULL ? atomic_load_explicit(&link->ring->complete_futex, memory_order_acquire) : 0;
}

/* Arms, and looks once more: false when a completion is there already. */
static bool arm(attn_link_t *link, uint32_t how)
{
    atomic_store(&link->ring->complete_armed, how);
    return atomic_load(&link->ring->complete_tail) == link->complete_head;
}

bool attn_link_arm_pipe(attn_link_t *link)
{
    return link->ring == NULL || arm(link, ATTN_SHM_SLEEP_PIPE);
}

void attn_link_drain_pipe(attn_link_t *link)
{
    char bytes[64];
    while (link->wakeup >= 0 && read(link->wakeup, bytes, sizeof(bytes)) == (ssize_t)sizeof(bytes)) {
    }
}

static bool futex_sleep(attn_link_t *link, const attn_link_nap_t *nap, int64_t now)
{
    int64_t left = nap->until_ns - now;
    bool look = left > LOOK_EVERY_NS;
    left = look ? LOOK_EVERY_NS : left;
    struct timespec timeout = {left / 1000000000, left % 1000000000};
    bool timed_out = false;
    if (arm(link, ATTN_SHM_SLEEP_FUTEX)) {
        timed_out = syscall(SYS_futex, &link->ring->complete_futex, FUTEX_WAIT, nap->futex, &timeout, NULL, 0) != 0 &&
                    errno == ETIMEDOUT;
    }
    atomic_store_explicit(&link->ring->complete_armed, ATTN_SHM_AWAKE, memory_order_relaxed);
    return timed_out;
}

static void spin_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

bool attn_link_sleep(attn_link_t *link, const attn_link_nap_t *nap)
{
    int64_t now = attn_now_ns(), spin_until = now + nap->spin_ns;
    spin_until = spin_until < nap->until_ns ? spin_until : nap->until_ns;
    while (link->ring != NULL && now < spin_until) {
        for (int i = 0; i < 32; i++) { /* the clock costs as much as ten looks */
            if (completions_ready(link) > 0) {
                return false;
            }
            spin_pause();
        }
        now = attn_now_ns();
    }
    if (now >= nap->until_ns) {
        return nap->watch;
    }
    struct pollfd both[2] = {{.fd = link->fd, .events = POLLIN}, {.fd = link->wakeup, .events = POLLIN}};
    if (link->ring != NULL && !nap->watch) {
        return poll(both, 1, 0) > 0 || futex_sleep(link, nap, now); /* a daemon that is gone wakes nobody */
    }
    int64_t left = nap->until_ns - now;
    struct timespec timeout = {left / 1000000000, left % 1000000000};
    if (attn_link_arm_pipe(link)) {
        (void)ppoll(both, link->ring != NULL ? 2 : 1, &timeout, NULL);
    }
    if ((both[1].revents & POLLIN) != 0) {
        attn_link_drain_pipe(link);
    }
    return both[0].revents != 0;
}

void attn_link_kick(attn_link_t *link)
{
    if (link->ring != NULL) {
        atomic_fetch_add_explicit(&link->ring->complete_futex, 1, memory_order_release);
        syscall(SYS_futex, &link->ring->complete_futex, FUTEX_WAKE, 1, NULL, NULL, 0);
    }
}
