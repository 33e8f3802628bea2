/* transport/http_internal.h: what the files of the HTTP door share.
 *
 * A connection begins with its loop itself (http_direct.c), which reads requests with tensors straight into their
 * places. With the first request that is anything else it goes over to libmicrohttpd for good.
 *
 * The life of a call, and who owns it (conn->lock guards phase, gone and the reply):
 *
 *   HEAD      request line read (the loop's thread)
 *   BODY      body arriving: fed to the intake, or discarded when `refused` (the loop's thread). The watch thread may
 *             take it to CUT when the sender is too slow: it writes the answer to the socket itself, because
 *             libmicrohttpd cannot answer in the middle of a body.
 *   HANDLING  the route's handler runs (the loop's thread)
 *   PARKED    the connection is suspended; whoever owns the work answers, from any thread, once. Until then the call
 *             cannot be freed: a suspended connection does not end.
 *   REPLIED   the answer is in `reply`; a parked connection is resumed in the same step. The loop's thread queues it.
 *   SENDING   libmicrohttpd or the loop sends (or a stream's reader runs)
 *   CUT       over: the socket is shut down, the loop's thread closes it at its next look
 *
 * Races, each settled by conn->lock:
 *   answer against a client that leaves: `gone` is called only in PARKED or an open stream and before REPLIED; the
 *     answer that follows is thrown away when the socket turns out dead.
 *   a client that leaves while the handler still runs: `gone` waits until the handler has returned (`armed`), so that
 *     it never comes before the work was handed over.
 *   answer against drain: draining only asks the owners to finish; they answer as always.
 *   the watch thread against the end of a connection: it looks only at connections in the door's list, whose lock the
 *     loop's thread takes to leave it.
 * A call is freed when its loop has completed it and, for a stream, its owner has ended it too (`holds`). Lock
 * order: door->lock, conn->lock; under conn->lock only the scheduler's own locks are taken. */
#ifndef ATTND_TRANSPORT_HTTP_INTERNAL_H
#define ATTND_TRANSPORT_HTTP_INTERNAL_H

#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/metrics.h"
#include "transport/http.h"

#define HTTP_HEADERS_MAX 8
#define HTTP_PARTS_MAX 2
#define HTTP_URI_MAX 6144
/* A refused body is read and thrown away while it is below this size or this old, whichever lasts longer: a client
 * that sends everything before it reads (Python's http.client) sees a broken pipe instead of the answer otherwise. */
#define HTTP_DISCARD_BYTES (UINT64_C(16) << 20)
#define HTTP_DISCARD_NS (INT64_C(2) * 1000000000)

typedef enum http_phase {
    HTTP_HEAD,
    HTTP_BODY,
    HTTP_HANDLING,
    HTTP_PARKED,
    HTTP_REPLIED,
    HTTP_SENDING,
    HTTP_CUT
} http_phase_t;

typedef struct http_header {
    char name[40], value[208];
} http_header_t;

typedef struct http_reply {
    int status;
    const char *content_type; /* static */
    void *data;               /* malloc'ed */
    size_t bytes;
    attn_http_part_t parts[HTTP_PARTS_MAX];
    uint32_t part_count;
    attn_ticket_t *ticket;
    http_header_t *headers; /* HTTP_HEADERS_MAX, when there are any */
    uint32_t header_count;
    attn_status_t error; /* for the log */
    char sentence[200];
} http_reply_t;

typedef struct http_stream {
    char *data; /* ring of HTTP_STREAM_BYTES */
    size_t begin, used;
    bool open, suspended;
} http_stream_t;
#define HTTP_STREAM_BYTES (256u * 1024u)

/* A connection that was accepted, on its way to its loop. */
typedef struct http_guest {
    struct http_guest *next;
    int fd;
    socklen_t size;
    struct sockaddr_storage address;
} http_guest_t;

/* Bodies that a loop reads, and those that wait until it does: http_turns.c. */
typedef struct http_turns {
    attn_http_call_t *reading, *waiting; /* the first of those that wait has waited longest */
} http_turns_t;

typedef enum http_turn { HTTP_TURN_NONE, HTTP_TURN_WAITS, HTTP_TURN_READS, HTTP_TURN_OVER } http_turn_t;

/* From so many loops on, each peer is kept out of one. Peers are counted in cells, by their number. */
#define HTTP_LOOPS_APART 5u
#define HTTP_PEER_CELLS 256u

typedef struct http_direct http_direct_t; /* http_direct.c */

/* A thread and its daemon of libmicrohttpd. */
typedef struct http_loop {
    struct http_door *door;
    struct MHD_Daemon *daemon;
    pthread_t thread;
    bool runs;
    atomic_bool stopping, armed; /* armed: it sleeps, or is about to, and wants its bell rung */
    int bell;
    _Atomic(http_guest_t *) guests;
    atomic_uint connections; /* its own, and those on their way */
    atomic_uint of_peer[HTTP_PEER_CELLS];
    bool started;       /* the thread's own: libmicrohttpd has taken the guest in hand */
    uint64_t events;    /* the thread's own: callbacks so far */
    http_turns_t turns; /* the thread's own */

    /* Connections that it reads itself. */
    int epoll_fd;        /* theirs, and libmicrohttpd's epoll as one more */
    atomic_bool due;     /* libmicrohttpd has something to do that its epoll does not tell */
    http_direct_t *open; /* the thread's own, as the next */
    http_direct_t *unfinished;
    _Atomic(http_direct_t *) resumed;
} http_loop_t;

/* The main door, or the port for metrics and probes. */
typedef struct http_door {
    attn_front_t *front;
    struct attn_http *http;
    bool probes_only;
    uint16_t port;
    int listen_fd; /* http->lock guards it and `paused` once it is listened on */
    bool paused;   /* no connection is accepted until there is room */
    http_loop_t *loops;
    unsigned loop_count;
} http_door_t;

typedef struct http_conn {
    http_door_t *door;
    http_loop_t *loop;
    struct MHD_Connection *mhd; /* or */
    http_direct_t *direct;
    int fd;
    uint32_t slot; /* in the door's list */
    uint64_t peer;
    atomic_uint holds; /* the list, and every call */
    pthread_mutex_t lock;
    attn_http_call_t *call; /* the one under way */
    bool gone;              /* the peer closed its side */
    int64_t free_since_ns;  /* no call since then */
    /* The watch thread's own. */
    uint64_t calls, seen_calls, seen_received;
    bool seen_fresh;
    int64_t begun_ns;         /* when bytes of a head were first seen; 0 = none yet */
    uint64_t window_progress; /* bytes received, or sent and acknowledged, when the window began */
    int64_t window_ns;        /* 0: it begins at the next look */
} http_conn_t;

struct attn_http_call {
    http_conn_t *conn;
    http_door_t *door;
    atomic_uint holds;
    http_phase_t phase;
    bool armed, gone_called, suspended;
    void (*gone)(attn_http_call_t *call, void *arg);
    void *gone_arg;

    char *uri; /* as it came: path, then query */
    const char *path, *query;
    const attn_http_route_t *route;
    char capture[128];
    char id[ATTN_NAME_MAX + 1];
    char trace[56]; /* a valid traceparent, or "" */
    int64_t arrived_ns;
    uint64_t body_bytes;       /* Content-Length */
    _Atomic uint64_t received; /* of the body */
    bool seen_head;            /* libmicrohttpd has called the handler once */

    /* The loop's thread: http_turns.c. */
    http_turn_t turn;
    int64_t turn_ns;
    attn_http_call_t *turn_next;
    atomic_bool waits; /* for its turn, suspended: nothing is read, and that is not the sender's fault */

    bool refused;      /* the body is discarded, `reply` waits */
    bool answered_raw; /* and has been written to the socket already */
    int64_t refused_ns;
    uint64_t discarded;

    bool has_intake;
    attn_intake_t intake;
    attn_compare_ask_t compare; /* of the query */
    char *json;
    char *query_value; /* what attn_http_query() returned last */

    http_reply_t reply;
    uint64_t sent_bytes;
    http_stream_t stream;
    char variant[ATTN_NAME_MAX + 1]; /* for the log */
};

/* One watch thread serves both doors. */
struct attn_http {
    attn_front_t *front;
    http_door_t main, probes;
    atomic_bool draining, refusing, closed;
    atomic_uint open_calls;
    pthread_mutex_t lock; /* the list of connections */
    http_conn_t **slots;
    uint32_t *generation, *free_slots;
    uint32_t slot_count, free_count, open_conns;
    int epoll_fd, bell_fd;
    pthread_t watch;
    bool watch_runs;
    atomic_bool stopping;
    uint64_t id_seed;
    int64_t started_ns, started_s; /* monotonic; Unix time */
    _Atomic uint64_t id_next;
};

/* http_routes.c */
const attn_http_route_t *http_route_find(const http_door_t *door, const char *method, const char *path, char *capture,
                                         size_t capture_size, char *ret_allow, size_t allow_size);
size_t http_route_index(const attn_http_route_t *route);
#define HTTP_ROUTES_MAX 32

/* http_loops.c. A failed start is undone by stop. */
attn_status_t http_loops_start(http_door_t *door, attn_error_t *err);
void http_loops_stop(http_door_t *door);
void http_loop_give(http_loop_t *loop, const http_guest_t *guest); /* any thread; the descriptor becomes the loop's */
void http_loop_left(http_loop_t *loop, const struct sockaddr *address); /* a connection that was given has ended */
atomic_uint *http_loop_of_peer(http_loop_t *loop, const struct sockaddr *address);
uint32_t http_connections_max(const http_door_t *door);
void http_loop_hand(http_loop_t *loop, const http_guest_t *guest); /* on its thread: to libmicrohttpd */
void http_conn_resume(http_conn_t *conn); /* any thread, under conn->lock; in place of MHD_resume_connection() */

/* http_turns.c. On the loop's thread. */
/* Whether the call's body is read now. If not it was suspended, and its data are to be left where they are. */
bool http_turn_take(http_turns_t *turns, attn_http_call_t *call, int64_t now_ns);
void http_turn_end(http_turns_t *turns, attn_http_call_t *call, int64_t now_ns); /* also when it had none */
/* Between two rounds of the loop; `idle`: nothing else is to be done. Whether somebody goes on. */
bool http_turns_pass(http_turns_t *turns, bool idle, int64_t now_ns);
void http_turns_stop(http_turns_t *turns); /* everybody goes on; any thread once the loop's has ended */

/* http_direct.c: on the loop's thread unless said otherwise */
void http_direct_open(http_loop_t *loop, const http_guest_t *guest); /* takes the descriptor */
void http_direct_close_all(http_loop_t *loop);
/* Does what there is to do. Returns whether there is more, so that nobody sleeps. To true are set *ret_mhd when
 * libmicrohttpd has something to do, *ret_busy when anything was done. */
bool http_direct_run(http_loop_t *loop, bool *ret_mhd, bool *ret_busy);
void http_direct_continue(http_direct_t *direct); /* its body's turn has come */
void http_direct_resume(http_direct_t *direct);   /* any thread */
enum MHD_Result http_direct_answer(attn_http_call_t *call);
const char *http_direct_header(const http_direct_t *direct, const char *name); /* of its request; NULL when absent */

/* http_plain.c: heads of requests in the one form that http_direct.c takes. */
#define HTTP_PLAIN_BYTES 4096
#define HTTP_PLAIN_HEADERS 24
typedef struct http_plain {
    const char *uri;
    size_t bytes; /* of the head */
    uint64_t body_bytes;
    uint32_t header_count;
    struct {
        const char *name, *value;
    } headers[HTTP_PLAIN_HEADERS];
} http_plain_t;
/* Whether `head` begins with a whole one; then strings are terminated in it, and *ret points there. Pure. */
bool http_plain_read(char *head, size_t bytes, http_plain_t *ret);

/* http_watch.c */
uint64_t http_peer_of(const struct sockaddr *address); /* a number for the host behind an address */

/* http_accept.c */
static inline uint64_t http_accept_tag(const http_door_t *door)
{
    return UINT64_MAX - 1 - door->probes_only; /* of the watch thread's epoll; UINT64_MAX is its bell */
}
attn_status_t http_accept_begin(http_door_t *door, attn_error_t *err);
void http_accept_end(http_door_t *door);   /* connecting is refused from here on */
void http_accept(http_door_t *door);       /* under http->lock */
void http_accept_again(http_door_t *door); /* under http->lock: after a pause, when there is room */

/* http_call.c: the steps of a call, each in the order of the calls here. MHD_NO: the connection is to be closed. */
attn_http_call_t *http_call_begin(http_conn_t *conn, const char *uri); /* the request line is in; NULL: no memory */
enum MHD_Result http_call_head(attn_http_call_t *call, const char *method, const char *version);
enum MHD_Result http_call_feed(attn_http_call_t *call, const char *data, size_t bytes); /* more of the body */
enum MHD_Result http_call_filled(attn_http_call_t *call, size_t bytes); /* instead: it is where the intake has room */
enum MHD_Result http_call_go_on(attn_http_call_t *call);                /* the body is in; and after a resume */
void http_call_end(attn_http_call_t *call, bool sent);                  /* frees it */

/* Callbacks of libmicrohttpd; `cls` is the loop. */
void *http_on_uri(void *cls, const char *uri, struct MHD_Connection *mhd);
enum MHD_Result http_on_access(void *cls, struct MHD_Connection *mhd, const char *url, const char *method,
                               const char *version, const char *data, size_t *data_bytes, void **con_cls);
void http_on_completed(void *cls, struct MHD_Connection *mhd, void **con_cls, enum MHD_RequestTerminationCode code);
void http_call_release(attn_http_call_t *call);

/* http_reply.c */
enum MHD_Result http_reply_queue(attn_http_call_t *call); /* REPLIED -> SENDING, on the loop's thread */
#define HTTP_ANSWER_HEAD_MAX 1024
size_t http_reply_head(const attn_http_call_t *call, uint64_t body_bytes, bool closes, char ret[HTTP_ANSWER_HEAD_MAX]);
void http_reply_drop(http_reply_t *reply);
/* Writes the reply to the socket past libmicrohttpd, as the last thing on the connection. Under conn->lock. */
void http_reply_raw(attn_http_call_t *call);
void http_reply_fill_error(attn_http_call_t *call, const attn_error_t *err, const attn_missing_t *missing);

/* http_stream.c */
enum MHD_Result http_stream_queue(attn_http_call_t *call);
void http_stream_drop(attn_http_call_t *call);

/* http_watch.c */
attn_status_t http_watch_start(attn_http_t *http, attn_error_t *err);
void http_watch_stop(attn_http_t *http);
enum MHD_Result http_on_connect(void *cls, const struct sockaddr *address, socklen_t size);
void http_on_connection(void *cls, struct MHD_Connection *mhd, void **socket_context,
                        enum MHD_ConnectionNotificationCode code);
http_conn_t *http_conn_open(http_loop_t *loop, int fd, const struct sockaddr *address); /* NULL: no room */
void http_conn_close(http_conn_t *conn);
void http_conn_release(http_conn_t *conn);
void http_watch_cut_all(attn_http_t *http); /* shuts every socket down */
void http_watch_refuse_bodies(attn_http_t *http);
attn_status_t http_refusing(attn_error_t *err); /* the sentence while draining */

/* http_head.c: the checks of a request's head. The framing of the body cannot be trusted when *ret_fatal. */
attn_status_t http_head_check(attn_http_call_t *call, const char *method, const char *version, bool *ret_fatal,
                              attn_error_t *err);
bool http_name_valid(const char *name, size_t bytes); /* of a header */
bool http_value_valid(const char *value, size_t bytes);

/* http_log.c: one line and the counters of a call that is over */
void http_call_record(attn_http_call_t *call, bool sent);

/* http_attention.c, http_info.c */
void http_attention_handle(attn_http_call_t *call);
void http_variants_handle(attn_http_call_t *call);
void http_quarantine_clear_handle(attn_http_call_t *call);
void http_status_handle(attn_http_call_t *call);
void http_metrics_handle(attn_http_call_t *call);
void http_live_handle(attn_http_call_t *call);
void http_ready_handle(attn_http_call_t *call);

#endif
