/* local.h: a client of the Unix socket: one connection that all threads share, its jobs, regions and events. Everything
 * in attn_local_t is under its lock unless its line says otherwise. */
#ifndef ATTN_CLIENT_LOCAL_H
#define ATTN_CLIENT_LOCAL_H

#include <pthread.h>
#include <sys/un.h>

#include "link.h"
#include "wire.h"

typedef struct attn_local attn_local_t;

/* The states of a job's word, on which its waiter sleeps. */
enum { ATTN_JOB_PENDING = 0, ATTN_JOB_LEAD = 1 /* wake up and lead */, ATTN_JOB_DONE = 2 };

typedef enum attn_job_kind {
    ATTN_JOB_FREE,
    ATTN_JOB_RUN,     /* a request; ends with status, answer, error */
    ATTN_JOB_CONTROL, /* a message with one answer, which the waiter takes with its descriptors */
    ATTN_JOB_DISCARD  /* nobody waits: freed when it ends */
} attn_job_kind_t;

struct attn_job {
    attn_local_t *local;   /* NULL: over HTTP (http_jobs.h), and then tag and by_ring are not used */
    uint64_t tag;          /* serial << 16 | index; never 0 */
    _Atomic uint32_t word; /* any thread */
    attn_job_kind_t kind;
    bool by_ring, listed, waited; /* of finished; a thread waits for it, or its submitter said that one will */
    void *user;
    attn_job_t *next, *previous; /* in free, followers or finished */
    /* When it is done: */
    attn_status_t status;
    attn_client_answer_t answer;
    attn_client_error_t error;
    Attn__V1__SocketAnswer *reply;
    int fds[ATTN_LINK_FDS], fd_count;
};

#define ATTN_JOBS_BY_MESSAGE 256 /* jobs of a client beside those of its ring; one takes 3 KiB */

typedef struct attn_job_list {
    attn_job_t *first, *last;
} attn_job_list_t;

struct attn_region {
    attn_region_t *next;
    attn_local_t *local;         /* NULL: of a client over HTTP */
    struct attn_http_jobs *http; /* and then this keeps it */
    char name[24];
    Attn__V1__RegionAccess access;
    Attn__V1__RegisterRegion__MemoryCase kind;
    int fd; /* of host memory and of VMM allocations; -1 otherwise */
    void *base;
    uint64_t bytes, base_offset;
    bool mapped; /* base is a mapping of ours */
    char device[ATTN_CLIENT_NAME_MAX];
    uint8_t handle[64];
    uint32_t id;               /* on this connection; 0: not registered, `error` says why */
    attn_client_error_t error; /* of the last registration */
};

struct attn_event {
    attn_event_t *next;
    attn_local_t *local;
    char device[ATTN_CLIENT_NAME_MAX];
    uint8_t handle[64];
    uint32_t id; /* as in attn_region */
};

/* Memory of ours for tensors that lie elsewhere; one per call that needs it, kept for the next. */
typedef struct attn_stage attn_stage_t;
struct attn_stage {
    attn_stage_t *next;
    attn_region_t *region;
};

struct attn_local {
    struct sockaddr_un address; /* fixed */
    attn_client_options_t options;
    pthread_mutex_t lock;
    pthread_cond_t moved; /* the leader left, or a job ended: for those who wait for room or for a new connection */
    attn_link_t link;
    bool connected, was_connected, leading;
    uint64_t serial, region_serial;
    uint32_t by_message, in_ring; /* jobs without an answer yet */
    attn_job_t *jobs;
    uint32_t job_count; /* fixed */
    attn_job_list_t free, followers, finished;
    attn_region_t *regions;
    attn_event_t *events;
    attn_stage_t *stages;  /* idle ones */
    int poll_fd, event_fd; /* epoll over socket, pipe and eventfd; -1 until somebody asks */
};

/* ---- the connection (local.c) ---- */

attn_status_t attn_local_open(const char *path, const attn_client_options_t *options, attn_local_t **ret,
                              attn_client_error_t *err);
void attn_local_close(attn_local_t *local);
/* `local` of the client; NULL with *err when it is one over HTTP. `what` begins the sentence. */
attn_local_t *attn_local_of(attn_client_t *client, const char *what, attn_client_error_t *err);

/* Lock held: connects when there is no connection, with regions, events and ring as before. */
attn_status_t attn_local_connect(attn_local_t *local, attn_client_error_t *err);
/* Lock held: the connection is of no use any more; every job in flight ends with `why`. */
void attn_local_break(attn_local_t *local, const attn_client_error_t *why);
/* A fresh connection's Welcome, for health. */
attn_status_t attn_local_probe(attn_local_t *local, attn_client_health_t *ret, attn_client_error_t *err);

/* ---- jobs (job.c) ---- */

attn_status_t attn_jobs_init(attn_local_t *local, attn_client_error_t *err);
void attn_job_list_append(attn_job_list_t *list, attn_job_t *job);
void attn_job_list_remove(attn_job_list_t *list, attn_job_t *job);
/* Of a job that is done. */
attn_status_t attn_job_result(const attn_job_t *job, attn_client_answer_t *ret, attn_client_error_t *err);
/* Lock held: a job with a tag, or NULL when there is none left. */
attn_job_t *attn_job_take(attn_local_t *local, attn_job_kind_t kind);
/* Lock held: back to the free ones. */
void attn_job_put(attn_job_t *job);
/* Lock held: no longer among those that attn_client_poll() gives. */
void attn_job_unlist(attn_job_t *job);
/* Lock held: the job has ended; fields are filled. */
void attn_job_end(attn_job_t *job);
/* Lock held: sends a message as a job: takes one, sends, counts. */
attn_status_t attn_job_send(attn_local_t *local, attn_job_kind_t kind, Attn__V1__SocketRequest *message, int fd,
                            attn_job_t **ret, attn_client_error_t *err);
/* Lock held: publishes a ring record as a job. UNAVAILABLE when the ring is full. */
attn_status_t attn_job_publish(attn_local_t *local, attn_job_kind_t kind, attn_shm_submission_t *record,
                               attn_job_t **ret, attn_client_error_t *err);
/* Waits until then; true when the job is done. */
bool attn_job_until(attn_job_t *job, int64_t until_ns);
/* Lock held, and let go of meanwhile: stays until some job ends, or something else moved, or then. */
void attn_local_stir(attn_local_t *local, int64_t until_ns);
/* A message and its answer, waited for. Lock not held. */
attn_status_t attn_local_call(attn_local_t *local, Attn__V1__SocketRequest *message, int fd,
                              Attn__V1__SocketAnswer **ret, int ret_fds[ATTN_LINK_FDS], int *ret_fd_count,
                              attn_client_error_t *err);

/* ---- what comes from the daemon (local_answer.c) ---- */

/* Lock held: takes what is there of the ring, or of the socket; breaks the connection when that is torn. */
void attn_local_reap(attn_local_t *local);
void attn_local_receive(attn_local_t *local);

/* ---- regions (region.c) ---- */

/* Lock held: registers what is known on a new connection, by attn_link_exchange(). Fails only when the connection
 * does. */
attn_status_t attn_regions_register(attn_local_t *local, attn_client_error_t *err);
void attn_regions_forget(attn_local_t *local);                                     /* at close: unmaps and frees all */
attn_status_t attn_events_register(attn_local_t *local, attn_client_error_t *err); /* (event.c) the same for events */
void attn_events_forget(attn_local_t *local);
/* Host memory for a stage. */
attn_status_t attn_local_allocate(attn_local_t *local, uint64_t bytes, attn_region_t **ret, attn_client_error_t *err);
/* Lock held: the region that holds the address; NULL when there is none. */
attn_region_t *attn_region_find(attn_local_t *local, const void *address);

/* ---- requests (local_submit.c, local_run.c) ---- */

/* Lock held: checks and sends. `wait`: the caller will wait for the job at once. */
attn_status_t attn_local_submit(attn_local_t *local, const attn_client_request_t *request, bool waited, void *user,
                                attn_job_t **ret, attn_client_error_t *err);
attn_status_t attn_local_run(attn_local_t *local, const attn_client_request_t *request,
                             const attn_client_progress_t *progress, attn_client_answer_t *ret,
                             attn_client_error_t *err);

#endif
