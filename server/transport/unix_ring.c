/* transport/unix_ring.c: the ring of a connection (attn/v1/shm_ring.h), the daemon's side. Submissions are taken by the
 * door's thread; completions are written under conn->lock, mostly by the scheduler's.
 *
 * Everything in the ring's memory can be written by the client at any time: the daemon's own positions are kept here,
 * what the client says is copied once and the copy is checked. The memory is the daemon's, so it cannot go away. */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"
#include "codec/ask_shm.h"
#include "transport/unix_internal.h"

/* ---- opening ---- */

static size_t ring_bytes(uint32_t entries)
{
    return ATTN_WIRE_ROUND(sizeof(attn_shm_header_t) + entries * sizeof(attn_shm_submission_t)) +
           ATTN_WIRE_ROUND(entries * sizeof(attn_shm_completion_t));
}

static void ring_layout(unix_ring_t *ring, void *map)
{
    attn_shm_header_t *header = map;
    uint64_t completions = ATTN_WIRE_ROUND(sizeof(attn_shm_header_t) + ring->entries * sizeof(attn_shm_submission_t));
    *header = (attn_shm_header_t){
        .magic = ATTN_SHM_MAGIC,
        .version = ATTN_SHM_VERSION,
        .entries = ring->entries,
        .submission_bytes = sizeof(attn_shm_submission_t),
        .completion_bytes = sizeof(attn_shm_completion_t),
        .submissions = sizeof(attn_shm_header_t),
        .completions = completions,
    };
    ring->header = header;
    ring->submissions = (const attn_shm_submission_t *)((char *)map + header->submissions);
    ring->completions = (attn_shm_completion_t *)((char *)map + completions);
}

static attn_status_t ring_map(unix_ring_t *ring, int *ret_memory, attn_error_t *err)
{
    attn_status_t status = attn_fd_memory("attnd-ring", ring->bytes, ret_memory, err);
    if (status != ATTN_OK) {
        return status;
    }
    /* Its pages are made now: a page fault would be a wait on the hot path. */
    void *map = mmap(NULL, ring->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, *ret_memory, 0);
    if (map == MAP_FAILED) {
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "a ring of %u entries cannot be mapped: %s", ring->entries,
                              strerror(errno));
    }
    ring_layout(ring, map);
    return ATTN_OK;
}

static void ring_free(unix_ring_t *ring)
{
    if (ring->header != NULL) {
        munmap(ring->header, ring->bytes);
    }
    attn_fd_close(&ring->bell);
    attn_fd_close(&ring->wake);
    free(ring);
}

/* ret_fds: what the client gets; the caller closes its own copies of [0] and [2]. */
static attn_status_t ring_make(unix_conn_t *conn, uint32_t entries, unix_ring_t **ret, int ret_fds[3],
                               attn_error_t *err)
{
    int wake[2] = {-1, -1};
    ret_fds[0] = ret_fds[1] = ret_fds[2] = -1;
    unix_ring_t *ring = calloc(1, sizeof *ring);
    if (ring == NULL) {
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for a ring");
    }
    ring->entries = entries;
    ring->bytes = ring_bytes(entries);
    ring->bell = ring->wake = -1;
    attn_status_t status = ring_map(ring, &ret_fds[0], err);
    if (status == ATTN_OK) {
        status = attn_fd_event(false, &ring->bell, err);
    }
    if (status == ATTN_OK) {
        status = attn_fd_pipe(wake, err);
        ret_fds[2] = wake[0];
        ring->wake = wake[1];
    }
    if (status == ATTN_OK && fcntl(ring->wake, F_SETFL, O_NONBLOCK) != 0) {
        status = attn_error_set(err, ATTN_ERR_SYSTEM, "cannot set up a pipe: %s", strerror(errno));
    }
    if (status == ATTN_OK) {
        status = unix_run_reserve(conn, true, entries, err);
    }
    if (status != ATTN_OK) {
        ring_free(ring);
        return status;
    }
    ret_fds[1] = ring->bell;
    *ret = ring;
    return ATTN_OK;
}

static attn_status_t ring_check(const unix_conn_t *conn, uint32_t entries, attn_error_t *err)
{
    if (conn->ring != NULL) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "this connection has a ring already; it has at most one");
    }
    if (entries < ATTN_SHM_ENTRIES_MIN || entries > ATTN_SHM_ENTRIES_MAX || (entries & (entries - 1)) != 0) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "a ring of %u entries cannot be made; give a power of two from %u to %u", entries,
                              ATTN_SHM_ENTRIES_MIN, ATTN_SHM_ENTRIES_MAX);
    }
    return ATTN_OK;
}

void unix_ring_open(unix_conn_t *conn, uint64_t tag, uint32_t entries)
{
    attn_unix_t *door = conn->door;
    attn_error_t err;
    unix_ring_t *ring = NULL;
    int fds[3] = {-1, -1, -1};
    attn_status_t status = ring_check(conn, entries, &err);
    if (status == ATTN_OK) {
        status = ring_make(conn, entries, &ring, fds, &err);
    }
    /* Edges: each ring of the bell wakes once, and is never read: its counter belongs to the client. */
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u64 = (uintptr_t)conn | UNIX_WATCH_BELL};
    if (status == ATTN_OK && epoll_ctl(door->epoll, EPOLL_CTL_ADD, ring->bell, &event) != 0) {
        status = attn_error_set(&err, ATTN_ERR_SYSTEM, "cannot watch a ring: %s", strerror(errno));
        ring_free(ring);
    }
    if (status != ATTN_OK) {
        attn_fd_close(&fds[0]);
        attn_fd_close(&fds[2]);
        unix_conn_refuse(conn, tag, &err);
        return;
    }
    pthread_mutex_lock(&conn->lock);
    conn->ring = ring;
    pthread_mutex_unlock(&conn->lock);
    ring->next = door->ringing;
    door->ringing = conn;
    unix_ring_arm(conn, true);
    Attn__V1__SocketAnswer answer = ATTN__V1__SOCKET_ANSWER__INIT;
    Attn__V1__RingOpened opened = ATTN__V1__RING_OPENED__INIT;
    opened.entries = entries;
    opened.bytes = ring->bytes;
    answer.tag = tag;
    answer.what_case = ATTN__V1__SOCKET_ANSWER__WHAT_RING_OPENED;
    answer.ring_opened = &opened;
    unix_conn_answer(conn, &answer, fds, 3);
    attn_fd_close(&fds[0]);
    attn_fd_close(&fds[2]);
}

void unix_ring_close(unix_conn_t *conn)
{
    if (conn->ring == NULL) {
        return;
    }
    unix_conn_t **at = &conn->door->ringing;
    while (*at != conn) {
        at = &(*at)->ring->next;
    }
    *at = conn->ring->next;
    /* The client has this descriptor too, so that closing it here would not end the watch. */
    epoll_ctl(conn->door->epoll, EPOLL_CTL_DEL, conn->ring->bell, NULL);
    ring_free(conn->ring);
    conn->ring = NULL;
}

/* ---- completing ---- */

/* After complete_tail has moved. Both are in one order for all (memory_order_seq_cst), so either the client sees the
 * completion before it sleeps or it is seen asleep here. */
static void client_wake(unix_ring_t *ring)
{
    if (atomic_load(&ring->header->complete_armed) == ATTN_SHM_AWAKE) {
        return;
    }
    if (atomic_exchange(&ring->header->complete_armed, ATTN_SHM_AWAKE) == ATTN_SHM_SLEEP_FUTEX) {
        atomic_fetch_add(&ring->header->complete_futex, 1);
        syscall(SYS_futex, &ring->header->complete_futex, FUTEX_WAKE, 1, NULL, NULL, 0);
    } else if (write(ring->wake, "", 1) < 0) {
        return; /* full: it is awake already; or closed: it does not want to know */
    }
}

/* A submission is taken only when there is room for its completion. */
static attn_shm_completion_t *completion_next(unix_ring_t *ring)
{
    return &ring->completions[ring->completed & (ring->entries - 1)];
}

static void completion_publish(unix_ring_t *ring)
{
    atomic_store(&ring->header->complete_tail, ++ring->completed);
    client_wake(ring);
}

void unix_ring_complete(unix_conn_t *conn, uint64_t tag, const attn_outcome_t *outcome)
{
    attn_completion_fill(tag, outcome, completion_next(conn->ring));
    completion_publish(conn->ring);
}

static void complete_simple(unix_conn_t *conn, uint64_t tag, attn_status_t status, const char *sentence)
{
    unix_ring_t *ring = conn->ring;
    pthread_mutex_lock(&conn->lock);
    attn_shm_completion_t *completion = completion_next(ring);
    *completion = (attn_shm_completion_t){.tag = tag, .status = status, .text_items = 1};
    size_t bytes = strlen(sentence) + 1;
    memcpy(completion->text, sentence, bytes < sizeof completion->text ? bytes : sizeof completion->text);
    completion->text[sizeof completion->text - 1] = '\0';
    completion_publish(ring);
    pthread_mutex_unlock(&conn->lock);
}

/* ---- taking ---- */

static bool only(const attn_shm_submission_t *submission)
{
    static const attn_shm_submission_t zero;
    attn_shm_submission_t rest = *submission;
    rest.tag = rest.target = 0;
    rest.op = 0;
    return memcmp(&rest, &zero, sizeof zero) == 0;
}

static void submission_handle(unix_conn_t *conn, const attn_shm_submission_t *submission)
{
    switch (submission->op) {
    case ATTN_SHM_NOP:
        if (submission->target == 0 && only(submission)) {
            complete_simple(conn, submission->tag, ATTN_OK, "");
            return;
        }
        break;
    case ATTN_SHM_RUN:
        conn->submissions++;
        unix_run_submission(conn, submission);
        return;
    case ATTN_SHM_CANCEL:
        if (only(submission)) {
            bool found = unix_run_cancel(conn, submission->target);
            complete_simple(conn, submission->tag, found ? ATTN_OK : ATTN_ERR_NOT_FOUND,
                            found ? "" : "no submission of this tag is under way");
            return;
        }
        break;
    default:
        break;
    }
    complete_simple(conn, submission->tag, ATTN_ERR_INVALID_ARGUMENT,
                    submission->op > ATTN_SHM_CANCEL || submission->op == 0
                        ? "the operation is not known; it is NOP, RUN or CANCEL"
                        : "a field that this operation has no use for is not 0");
}

/* Submissions that the client has published and for which there is room. */
static bool room_look(unix_conn_t *conn, uint64_t *ret_count)
{
    unix_ring_t *ring = conn->ring;
    uint64_t tail = atomic_load_explicit(&ring->header->submit_tail, memory_order_acquire);
    uint64_t waiting = tail - ring->taken;
    *ret_count = 0;
    if (waiting == 0) {
        return true;
    }
    uint64_t head = atomic_load_explicit(&ring->header->complete_head, memory_order_acquire);
    pthread_mutex_lock(&conn->lock);
    bool sane = waiting <= ring->entries && head - ring->reaped <= ring->completed - ring->reaped;
    if (sane) {
        ring->reaped = head;
    }
    pthread_mutex_unlock(&conn->lock);
    uint64_t room = sane ? ring->entries - (ring->taken - ring->reaped) : 0;
    *ret_count = waiting < room ? waiting : room;
    return sane;
}

uint32_t unix_ring_turn(unix_conn_t *conn, uint32_t most)
{
    unix_ring_t *ring = conn->ring;
    uint64_t count;
    if (conn->closing) {
        return 0;
    }
    if (!room_look(conn, &count)) {
        attn_error_t err;
        attn_error_set(&err, ATTN_ERR_INVALID_ARGUMENT,
                       "the ring's counters are impossible: a tail more than %u ahead, or a head behind or beyond what "
                       "was completed",
                       ring->entries);
        unix_conn_refuse(conn, 0, &err);
        unix_conn_close(conn, err.message);
        return 0;
    }
    count = count < most ? count : most;
    for (uint64_t i = 0; i < count; i++) {
        /* One copy; nothing is looked at before it is made, and never again after it. */
        attn_shm_submission_t copy;
        memcpy(&copy, (const void *)&ring->submissions[ring->taken & (ring->entries - 1)], sizeof copy);
        ring->taken++;
        atomic_store_explicit(&ring->header->submit_head, ring->taken, memory_order_release);
        submission_handle(conn, &copy);
    }
    return (uint32_t)count;
}

bool unix_ring_waiting(const unix_conn_t *conn)
{
    const unix_ring_t *ring = conn->ring;
    /* Without room for a completion the doorbell says when to look again. */
    return !conn->closing && atomic_load_explicit(&ring->header->submit_tail, memory_order_acquire) != ring->taken &&
           ring->taken - atomic_load_explicit(&ring->header->complete_head, memory_order_acquire) < ring->entries;
}

void unix_ring_arm(unix_conn_t *conn, bool armed)
{
    unix_ring_t *ring = conn->ring;
    if (ring->armed != armed) {
        ring->armed = armed;
        atomic_store(&ring->header->submit_armed, armed);
    }
}
