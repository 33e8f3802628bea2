/* transport/unix_internal.h: what the files of the Unix socket's door share.
 *
 * Threads: the door's thread owns connections, their tables of regions and the reading side of rings. The scheduler's
 * thread comes in by three callbacks: a request has completed (unix_run.c), a worker has answered for a region, a
 * region is gone (unix_region.c). What both touch is under conn->lock, or atomic. A callback that leaves work for the
 * door's thread mails the connection (unix_conn_mail) and wakes it.
 *
 * The life of a connection: accepted, hello, then requests until it closes (`closing`): the socket is shut down, what
 * waits is cancelled, its regions are released. It is freed by the door's thread when no request of it is in flight and
 * no worker has one of its regions. */
#ifndef ATTND_TRANSPORT_UNIX_INTERNAL_H
#define ATTND_TRANSPORT_UNIX_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "attn/v1/shm_ring.h"
#include "attn/v1/socket.pb-c.h"
#include "base/metrics.h"
#include "codec/ask.h"
#include "sched/regions.h"
#include "transport/unix.h"

#define UNIX_VERSION 1u
#define UNIX_MESSAGE_BYTES 65536u
#define UNIX_ANSWER_BYTES 8192u /* room for one with the longest sentence and 12 missing things */
#define UNIX_FDS_MAX 4
#define UNIX_REGIONS_MAX 1024u /* of one connection; a power of two: an id is generation and slot */
#define UNIX_EVENTS_MAX 256u
#define UNIX_IN_FLIGHT_MAX 64u /* submits by message without an answer */
#define UNIX_ALIGNMENT 16u

/* What an event of the loop is about: a connection's address is its socket, with this bit its ring's bell. */
#define UNIX_WATCH_BELL UINT64_C(1)

typedef struct unix_conn unix_conn_t;

typedef enum unix_told { UNIX_TOLD_NOT_YET, UNIX_TOLD_GOOD, UNIX_TOLD_BAD } unix_told_t;

/* A region, or an event. */
typedef struct unix_region {
    unix_conn_t *conn;
    char name[ATTN_NAME_MAX + 1]; /* "" for an event */
    uint64_t hash;                /* of the name */
    uint32_t id;                  /* the client's number for it */
    uint32_t number;              /* the daemon's (attn_place_t.region) */
    attn_region_about_t about;    /* the descriptor is the registry's */
    uint64_t device_id, inode;    /* of a memfd: the same memory can be registered twice */
    atomic_uint uses;             /* requests in flight */
    atomic_bool released, gone;
    _Atomic(unix_told_t) told;
    attn_error_t error; /* with UNIX_TOLD_BAD; written before it */
    bool registering;   /* the registration is not answered yet */
    bool answers;       /* the release is to be answered */
    bool dropping;
    uint64_t allocated; /* of a memfd that is made here: bytes that have memory */
    uint64_t tag;       /* of what is to be answered */
    struct unix_region *next_busy;
    /* Of an event: runs that wait for it. Those that came before the worker was asked last go on with its answer. */
    struct unix_run *asked, *waiting;
    bool outstanding;             /* the worker has been asked and has not answered */
    _Atomic(unix_told_t) reached; /* what the worker says; `error` when it is bad */
    struct unix_region *next_waited;
} unix_region_t;

typedef enum unix_run_state { UNIX_RUN_FREE, UNIX_RUN_WAITING, UNIX_RUN_FLYING, UNIX_RUN_UNSENT } unix_run_state_t;

/* What a run holds on to: its tensors' regions, then its events. */
enum { UNIX_USE_WAIT = ATTN_ASK_PLACES, UNIX_USE_SIGNAL, UNIX_USES };

/* One submission. Kept for the next one when it is answered, with the room for its sequence offsets. */
typedef struct unix_run {
    attn_request_t request;
    unix_conn_t *conn;
    bool by_ring;
    unix_run_state_t state; /* conn->lock */
    uint64_t tag;
    unix_region_t *region[UNIX_USES];
    int32_t *seqlens; /* cu_seqlens_q, then cu_seqlens_k */
    size_t seqlens_room;
    struct unix_run *next; /* free, waiting, or unsent */
} unix_run_t;

typedef struct unix_ring {
    attn_shm_header_t *header;
    const attn_shm_submission_t *submissions;
    attn_shm_completion_t *completions;
    size_t bytes;
    uint32_t entries;
    int bell;       /* eventfd, the client's to write; never read: it is watched for edges */
    int wake;       /* writing end of the pipe; the client has the other end only, so it cannot make a write block */
    uint64_t taken; /* the door's thread */
    bool armed;
    uint64_t completed, reaped; /* conn->lock */
    struct unix_conn *next;     /* of the connections with a ring */
} unix_ring_t;

/* An answer that found the socket full. Until it is sent nothing is read from the connection. */
typedef struct unix_pending {
    size_t bytes;
    uint32_t fd_count;
    int fds[UNIX_FDS_MAX]; /* owned */
    unsigned char data[UNIX_ANSWER_BYTES];
} unix_pending_t;

struct unix_conn {
    attn_unix_t *door;
    unix_conn_t *next, *prev;
    int fd;
    uint64_t number; /* for ids and the log */
    pid_t pid;
    uid_t uid;
    int64_t accepted_ns;
    bool greeted, closing;
    char client[64];

    unix_region_t *regions[UNIX_REGIONS_MAX], *events[UNIX_EVENTS_MAX];
    uint32_t region_generation[UNIX_REGIONS_MAX], event_generation[UNIX_EVENTS_MAX];
    uint32_t region_count; /* in the table or on their way out */
    uint64_t host_bytes;
    unix_region_t *waited; /* events that runs wait for */
    unix_region_t *busy;   /* registering or released: to be looked at when there is mail */

    pthread_mutex_t lock;
    unix_run_t *runs_free[2]; /* for messages; for the ring, one per entry */
    unix_run_t *unsent_first, *unsent_last;
    unix_run_t **runs; /* all of them, for cancelling */
    uint32_t run_count, run_room;
    uint32_t flying, flying_messages; /* messages: with those that are not sent yet */
    uint64_t submissions;
    unix_pending_t *pending;
    bool shut; /* `closing`, as the scheduler's thread sees it */
    unix_ring_t *ring;

    atomic_bool mailed;
    unix_conn_t *next_mail;
};

struct attn_unix {
    attn_front_t *front;
    attn_regions_t *regions;
    char path[108];
    dev_t path_device;
    ino_t path_inode;
    int listener, epoll, wake;
    pthread_t thread;
    uint32_t spin_us;
    uint64_t region_bytes_max, region_bytes_all_max;
    uint32_t connections_max, regions_max, regions_all_max;
    int spare; /* a descriptor to let go of when there are no more, so that who knocks can be turned away */
    atomic_bool stopping, refusing;

    /* The door's thread. */
    unix_conn_t *conns;
    uint32_t waits;       /* runs that wait for events */
    unix_conn_t *ringing; /* those with a ring, linked by ring->next */
    uint64_t accepted;
    unsigned char message[UNIX_MESSAGE_BYTES + 1];

    pthread_mutex_t mail_lock;
    unix_conn_t *mail;
    atomic_uint conn_count, calls;
    _Atomic uint64_t region_count, region_bytes;
};

/* unix_listen.c */
attn_status_t unix_listen(attn_unix_t *door, attn_error_t *err);
void unix_listen_end(attn_unix_t *door);
bool unix_peer_allowed(const attn_options_t *options, int fd, uid_t uid, gid_t gid);

/* unix_conn.c: connections and packets. The door's thread, but for mail and unix_conn_send(). */
void unix_conn_accept(attn_unix_t *door);
void unix_conn_read(unix_conn_t *conn);
void unix_conn_flush(unix_conn_t *conn);
void unix_conn_close(unix_conn_t *conn, const char *why); /* the reason is for the log; NULL: the client left */
bool unix_conn_reap(unix_conn_t *conn);                   /* frees it when nothing holds it any more */
void unix_conn_mail(unix_conn_t *conn);                   /* any thread */
/* An answer; the descriptors stay the caller's. Under conn->lock. Returns false when it could not be sent now. */
bool unix_conn_send(unix_conn_t *conn, const Attn__V1__SocketAnswer *answer, const int *fds, uint32_t fd_count);
/* The same from the door's thread, kept when the socket is full. */
void unix_conn_answer(unix_conn_t *conn, const Attn__V1__SocketAnswer *answer, const int *fds, uint32_t fd_count);
void unix_conn_refuse(unix_conn_t *conn, uint64_t tag, const attn_error_t *err);

/* unix_message.c: one packet. Descriptors that it does not keep are closed. */
void unix_message_handle(unix_conn_t *conn, const unsigned char *data, size_t bytes, int *fds, uint32_t fd_count);

/* unix_register.c */
void unix_region_register(unix_conn_t *conn, uint64_t tag, const Attn__V1__RegisterRegion *message, int *fds,
                          uint32_t fd_count);
void unix_event_register(unix_conn_t *conn, uint64_t tag, const Attn__V1__RegisterEvent *message);

/* unix_region.c */
attn_status_t unix_region_begin(unix_region_t *region, attn_error_t *err); /* counts it, hands it to the workers */
void unix_region_good(unix_region_t *region);                              /* good without a worker's word */
uint64_t unix_region_hash(const char *name);
void unix_region_release(unix_conn_t *conn, uint64_t tag, const char *name);
void unix_event_release(unix_conn_t *conn, uint64_t tag, uint32_t id);
void unix_region_release_all(unix_conn_t *conn);
void unix_region_look(unix_conn_t *conn); /* goes on with what waited for other threads */
unix_region_t *unix_region_by_name(unix_conn_t *conn, const char *name);
unix_region_t *unix_region_by_id(unix_conn_t *conn, uint32_t id);
unix_region_t *unix_event_by_id(unix_conn_t *conn, uint32_t id);
attn_status_t unix_region_usable(const unix_region_t *region, attn_error_t *err);

/* unix_memfd.c: what a descriptor from a client is. */
attn_status_t unix_memfd_check(int fd, bool writable, uint64_t *ret_bytes, uint64_t *ret_device, uint64_t *ret_inode,
                               attn_error_t *err);

/* unix_run.c: submissions */
void unix_run_message(unix_conn_t *conn, uint64_t tag, const Attn__V1__Submit *message);
void unix_run_submission(unix_conn_t *conn, const attn_shm_submission_t *submission); /* op RUN */
bool unix_run_cancel(unix_conn_t *conn, uint64_t tag);
void unix_run_cancel_all(unix_conn_t *conn);
attn_status_t unix_run_reserve(unix_conn_t *conn, bool by_ring, uint32_t count, attn_error_t *err);
bool unix_run_send(unix_run_t *run); /* the answer by message; under conn->lock */
bool unix_run_put(unix_run_t *run);  /* done with it; under conn->lock. Whether a region waited for that */
void unix_run_free_all(unix_conn_t *conn);

void unix_run_go(unix_run_t *run);                           /* waits no longer: to the scheduler */
void unix_run_end(unix_run_t *run, const attn_error_t *err); /* the same, but it ends without having run */

/* unix_wait.c: runs that wait for an event of the client. The door's thread. */
void unix_wait_add(unix_run_t *run);
void unix_wait_look(unix_conn_t *conn, int64_t now_ns); /* goes on with those whose time has come, either way */

/* unix_ring.c */
void unix_ring_open(unix_conn_t *conn, uint64_t tag, uint32_t entries);
void unix_ring_close(unix_conn_t *conn);                   /* nothing is in flight */
uint32_t unix_ring_turn(unix_conn_t *conn, uint32_t most); /* takes submissions; how many */
bool unix_ring_waiting(const unix_conn_t *conn);
void unix_ring_arm(unix_conn_t *conn, bool armed);
void unix_ring_complete(unix_conn_t *conn, uint64_t tag, const attn_outcome_t *outcome); /* under conn->lock */

#endif
