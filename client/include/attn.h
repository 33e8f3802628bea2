/* attn.h: libattn, the C client of attnd: attention on a daemon's device, over HTTP or over the Unix socket of a daemon
 * on the same host, where tensors lie in memory that both share and nothing is copied.
 *
 *     attn_client_t *client;
 *     attn_client_error_t error;
 *     if (attn_client_open("http://127.0.0.1:8000", NULL, &client, &error) != ATTN_OK) …
 *     attn_client_request_t request = {.spec = {.dtype = ATTN_DTYPE_BF16, .layout = ATTN_LAYOUT_BSHD, .batch = 1,
 *         .s_q = 1024, .s_kv = 1024, .h_q = 32, .h_kv = 8, .d = 128, .causal = 1}, .q = q, .k = k, .v = v, .o = o};
 *     attn_client_answer_t answer;
 *     if (attn_client_run(client, &request, NULL, &answer, &error) != ATTN_OK) puts(error.error.message);
 *
 * Threads: a client handle may be used from any number of threads at once. Over HTTP each call takes a connection of
 * its own from the handle's pool and opens one when none is idle; over the Unix socket all calls share one connection.
 * A call blocks the calling thread unless it says otherwise. Only attn_client_close() needs that no call is under way.
 *
 * Memory: tensors stay the caller's; they are sent from and received into their place without a copy. What a function
 * allocates is freed by the function named beside it. Destructors take NULL.
 *
 * Errors: a function returns ATTN_OK or a negative status (attn/status.h) and then has filled the attn_client_error_t
 * that it was given (which may be NULL); other outputs are untouched, tensors that were being received excepted. A
 * refusal of the server is passed on word for word. The library prints nothing, and raises and handles no signal.
 *
 * All sizes are 64-bit: tensors of more than 2 GiB are fine. Little-endian machines only, as the wire. */
#ifndef ATTN_H
#define ATTN_H

#include "attn/kernel.h"
#include "attn/spec.h"
#include "attn/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define ATTN_CLIENT_NAME_MAX 64

typedef struct attn_client attn_client_t;

/* ---- errors ----------------------------------------------------------------------------------------- */

typedef struct attn_client_error {
    attn_error_t error;                    /* status and sentence; the server's own when it answered */
    bool retryable;                        /* the same call may succeed later */
    int http_status;                       /* what the server answered; 0 when it did not */
    char request_id[ATTN_CLIENT_NAME_MAX]; /* as in the server's log; "" when unknown */
    attn_missing_t missing;                /* FAILED_PRECONDITION: everything that the variant lacks */
} attn_client_error_t;

/* ---- a connection pool to one daemon ------------------------------------------------------------------ */

/* How requests travel over the Unix socket: through a ring in shared memory (without a system call while both sides are
 * awake), or each as a message. ATTN_CLIENT_AUTO: the ring where the daemon has one. */
typedef enum attn_client_mode {
    ATTN_CLIENT_AUTO = 0,
    ATTN_CLIENT_RING = 1,
    ATTN_CLIENT_MESSAGES = 2
} attn_client_mode_t;

typedef struct attn_client_options {
    int connect_timeout_ms; /* per address; 0 = 5000 */
    int stall_timeout_ms;   /* no byte moved while a request or an answer is under way; 0 = 30000 */
    int answer_timeout_ms;  /* from the last byte of the request to the first of the answer; 0 = none, because
                               `reference` on a large shape takes minutes; see also attn_client_request_t.deadline_ms */
    /* Over the Unix socket: */
    attn_client_mode_t mode;
    bool pinned; /* registering host memory returns when the daemon's device has pinned it; else requests are slow while
                    it does so in the background */
    uint32_t ring_entries; /* a power of two, 8 to 1024: requests in flight through the ring; 0 = 128 */
    int spin_us;           /* look for so long before sleeping, which saves the waking up (20 to 60 us) and costs a core
                              while it lasts; 0 = 50 where the process may use four cores or more, else none; -1 = none */
} attn_client_options_t;

/* `server` is "http://host:port" (IPv6: "http://[::1]:8000"), or "unix:PATH" for the daemon's Unix socket. Connects to
 * nothing yet. `options` may be NULL and is copied. Errors: INVALID_ARGUMENT, UNIMPLEMENTED, NO_MEMORY.
 *
 * A connection over the Unix socket that ends (the daemon restarts) fails what is in flight on it with CONNECTION. The
 * next call connects anew and registers regions and events again by itself. */
attn_status_t attn_client_open(const char *server, const attn_client_options_t *options, attn_client_t **ret,
                               attn_client_error_t *err);

/* Closes the connections. No call may be under way. */
void attn_client_close(attn_client_t *client);

/* Called on the calling thread while bytes move and at least every 200 ms while none do. `done` of `total` bytes of
 * the phase's body. Return false to stop: the call fails with CANCELLED, and the daemon drops the work. */
typedef enum attn_client_phase {
    ATTN_CLIENT_SENDING = 0,
    ATTN_CLIENT_WAITING = 1, /* the daemon works; done == total */
    ATTN_CLIENT_RECEIVING = 2
} attn_client_phase_t;
typedef struct attn_client_progress {
    bool (*tell)(void *arg, attn_client_phase_t phase, uint64_t done, uint64_t total);
    void *arg;
} attn_client_progress_t;

/* ---- memory shared with the daemon -------------------------------------------------------- */

typedef struct attn_region attn_region_t;
typedef struct attn_event attn_event_t;
typedef enum attn_region_access { ATTN_REGION_READ = 1, ATTN_REGION_READ_WRITE = 2 } attn_region_access_t;

/* Host memory for tensors, mapped readable and writable, page-aligned, zeroed. `by_daemon`: the daemon makes the memfd
 * and accounts for it; else this process does. Registering takes the daemon's device 54 to 214 ms per GiB, in the
 * background of what it serves: allocate once. Errors: the server's (TOO_LARGE, UNAVAILABLE by quota), NO_MEMORY,
 * CONNECTION, SYSTEM. Over HTTP it is ordinary memory, so that a program is the same over either door. */
attn_status_t attn_region_allocate(attn_client_t *client, uint64_t bytes, bool by_daemon, attn_region_t **ret,
                                   attn_client_error_t *err);

/* A memfd of the caller's, whole; it must be sealed with F_SEAL_SHRINK and F_SEAL_GROW and have its blocks allocated
 * (fallocate). READ_WRITE also needs that it is open for writing and not sealed against it. The descriptor is
 * duplicated. */
attn_status_t attn_region_import_memfd(attn_client_t *client, int fd, attn_region_access_t access, attn_region_t **ret,
                                       attn_client_error_t *err);

/* CUDA memory of the caller's, used in place by the kernel; over HTTP UNIMPLEMENTED, as are events. `device` is the
 * GPU's UUID ("GPU-…"), `base` the pointer by which the caller's requests will name it. cuda_fd: a descriptor from
 * cuMemExportToShareableHandle(CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) and the size of the allocation; duplicated.
 * cuda_ipc: a cudaIpcMemHandle_t (64 bytes); the region is `bytes` from `base`, which lies `base_offset` bytes behind
 * the start of its allocation (cuMemGetAddressRange). */
attn_status_t attn_region_import_cuda_fd(attn_client_t *client, int fd, const char *device, void *base, uint64_t bytes,
                                         attn_region_access_t access, attn_region_t **ret, attn_client_error_t *err);
attn_status_t attn_region_import_cuda_ipc(attn_client_t *client, const void *handle, const char *device, void *base,
                                          uint64_t base_offset, uint64_t bytes, attn_region_access_t access,
                                          attn_region_t **ret, attn_client_error_t *err);

void *attn_region_data(const attn_region_t *region); /* where the caller finds it; `base` for CUDA memory */
uint64_t attn_region_bytes(const attn_region_t *region);

/* Returns when no request uses the region any more and the daemon has let go of it; host memory is unmapped. NULL is
 * fine. No other call may use the region. A region that is left is released by attn_client_close(). */
void attn_region_release(attn_region_t *region);

/* An event of the caller's, made with cudaEventInterprocess | cudaEventDisableTiming: its cudaIpcEventHandle_t. */
attn_status_t attn_event_import(attn_client_t *client, const void *handle, const char *device, attn_event_t **ret,
                                attn_client_error_t *err);
void attn_event_release(attn_event_t *event);

/* ---- attention ---------------------------------------------------------------------------------------- */

/* One request. Shapes by spec.layout, contiguous: bshd [batch, s, h, d], bhsd [batch, h, s, d], thd [total, h, d]
 * with spec.s_q = total_q, spec.s_kv = total_kv and spec.batch sequences. Q and O have h_q heads, K and V h_kv. */
typedef struct attn_client_request {
    const char *variant; /* NULL or "auto": the daemon chooses; a named variant is never replaced */
    attn_spec_t spec;    /* sm_scale 0 = 1/sqrt(d); softcap 0 = off */
    const void *q, *k, *v;
    const int32_t *cu_seqlens_q, *cu_seqlens_k; /* spec.batch + 1 entries each for thd, else NULL */
    void *o;                                    /* receives q's shape in spec.dtype; overlaps no other tensor */
    float *lse; /* receives [batch, h_q, s_q] (thd: [h_q, total_q]), natural log, when spec.return_lse; else unused */
    const char *id;       /* at most 63 printable ASCII characters; NULL: made by the daemon */
    uint64_t deadline_ms; /* from the arrival of the request; 0 = none */
    int32_t priority;     /* -100..100, higher first */
    /* Tensors in device memory: the work begins after `wait_event` as it was last recorded, and `signal_event` is
     * recorded behind it. NULL: what was written is there already; the answer says that the work has ended. */
    const attn_event_t *wait_event, *signal_event;
} attn_client_request_t;

/* What happened. Times are microseconds. Over the Unix socket `id` is empty unless the request had one. */
typedef struct attn_client_answer {
    char variant[ATTN_CLIENT_NAME_MAX]; /* what ran */
    char reason[192];                   /* why it was chosen */
    char device[ATTN_CLIENT_NAME_MAX];  /* UUID, or "CPU" */
    char id[ATTN_CLIENT_NAME_MAX];
    uint32_t batch_size; /* requests merged into the launch */
    uint32_t attempts;   /* 1 unless the daemon ran it again after a fault */
    uint64_t queue_us, copy_in_us, copy_out_us, total_us;
    double kernel_us; /* of the launch, with all that was merged into it */
} attn_client_answer_t;

/* Runs one request. Sent again, once, when a connection that had been idle turns out to be closed, or the daemon of a
 * Unix socket restarts: attention is a pure function. `progress` may be NULL, and so may `ret`. Over the Unix socket a
 * tensor that lies in a region is used in place, and any other is copied through memory that the library shares.
 * Errors: the server's; INVALID_ARGUMENT and TOO_LARGE for a spec that is wrong; CONNECTION, TIMEOUT, CANCELLED;
 * INTERNAL when the answer is not one to this request. */
attn_status_t attn_client_run(attn_client_t *client, const attn_client_request_t *request,
                              const attn_client_progress_t *progress, attn_client_answer_t *ret,
                              attn_client_error_t *err);

/* Bytes of each tensor of a request: attn_spec_measure() in attn/spec.h. */

/* ---- requests that are not waited for ------------------------------------------------------ */

typedef struct attn_job attn_job_t;

/* Begins a request and returns. Its tensors stay alone until the job has ended; what it points to otherwise is copied.
 * Over the Unix socket the tensors lie in regions (cu_seqlens may lie anywhere), at offsets that are multiples of 16.
 * Over HTTP they may lie anywhere, and each job takes a thread and a connection of the library while it lasts, at most
 * 256. Errors: INVALID_ARGUMENT and TOO_LARGE for what this side can see; UNAVAILABLE when as many requests as the
 * connection holds are in flight; CONNECTION. What the daemon says comes with the job. */
attn_status_t attn_client_submit(attn_client_t *client, const attn_client_request_t *request, void *user,
                                 attn_job_t **ret, attn_client_error_t *err);
void *attn_job_user(const attn_job_t *job);

/* Waits until the job has ended, at most timeout_ms (-1 = for ever, 0 = look only), and gives how: the request's status
 * and answer, or TIMEOUT when it has not ended. */
attn_status_t attn_job_wait(attn_job_t *job, int timeout_ms, attn_client_answer_t *ret, attn_client_error_t *err);

/* Asks the daemon to give the job up; it ends all the same, with CANCELLED or with its result. */
void attn_job_cancel(attn_job_t *job);

/* Frees the job; one that has not ended is cancelled and waited for. NULL is fine. */
void attn_job_free(attn_job_t *job);

/* A descriptor for poll() and epoll that is readable when attn_client_poll() has something to do: call that until it
 * gives NULL, then wait for the descriptor again. It stays the client's. -1 with *err when there is none. */
int attn_client_poll_fd(attn_client_t *client, attn_client_error_t *err);

/* A job that has ended and was neither given here before nor waited for, or NULL. Never blocks. */
attn_job_t *attn_client_poll(attn_client_t *client);

/* The same, but waits for one at most timeout_us (-1 = for ever); NULL when the time is up, or nothing is in flight. */
attn_job_t *attn_client_next(attn_client_t *client, int64_t timeout_us);

/* A round trip that does nothing (over HTTP: asks for the daemon's health). */
attn_status_t attn_client_ping(attn_client_t *client, attn_client_error_t *err);

/* ---- comparing variants --------------------------------------------------------------------------------- */

typedef struct attn_client_compare {
    attn_client_request_t request; /* variant, o, lse, id, deadline and priority are not looked at */
    bool seeded;                   /* the daemon makes q, k and v from `seed`; the pointers are not looked at */
    uint64_t seed;
    const char *const *variants; /* NULL: all that can do the request */
    uint32_t variant_count;
    bool has_warmup, has_rounds; /* else the daemon chooses by the expected time */
    uint32_t warmup, rounds;     /* untimed and timed rounds per variant */
} attn_client_compare_t;

typedef struct attn_client_row {
    char variant[ATTN_CLIENT_NAME_MAX];
    attn_client_error_t error;       /* error.error.status != ATTN_OK: it did not run, and the rest is zero */
    double max_abs, max_abs_allowed; /* |O - O64| */
    double rmse;
    double row_rel, row_rel_allowed; /* worst ||O - O64|| / ||O64|| of a row */
    double lse_err, lse_allowed;     /* worst |LSE - LSE64| / max(1, |LSE64|); 0 without LSE */
    uint64_t special_mismatch;       /* NaN, infinities and masked rows that differ */
    bool pass;
    double median_us, min_us, tflops;
    uint32_t rounds;
} attn_client_row_t;

typedef struct attn_client_comparison {
    uint32_t row_count;
    attn_client_row_t *rows; /* in the order of the request */
    char build[128], device[ATTN_CLIENT_NAME_MAX], device_name[96], driver[32], cpu[96], time[32];
    uint32_t sm_clock_mhz, mem_clock_mhz; /* 0 = unknown */
    char *json;                           /* the job as the server wrote it */
} attn_client_comparison_t;

/* Told when a comparison gets on; `step` is what runs now. Return false to cancel the job. */
typedef struct attn_client_compare_progress {
    attn_client_progress_t transfer; /* of the tensors; tell may be NULL */
    bool (*step)(void *arg, uint32_t done, uint32_t total, const char *step);
    void *arg;
} attn_client_compare_progress_t;

/* Over HTTP only, as are variants and stats: over the Unix socket they are UNIMPLEMENTED.
 *
 * Runs a list of variants against fp64 and waits for the result; free it with attn_client_comparison_free(). A variant
 * that fails is a row with its error; the call fails only when nothing could be compared. `progress` may be NULL.
 * Errors: as attn_client_run(). */
attn_status_t attn_client_compare(attn_client_t *client, const attn_client_compare_t *compare,
                                  const attn_client_compare_progress_t *progress, attn_client_comparison_t **ret,
                                  attn_client_error_t *err);
void attn_client_comparison_free(attn_client_comparison_t *comparison);

/* ---- what the daemon has and how it is ------------------------------------------------------------------ */

typedef struct attn_client_variant {
    char name[ATTN_CLIENT_NAME_MAX];
    char summary[160];
    char deprecated_for[ATTN_CLIENT_NAME_MAX]; /* "" unless deprecated */
    char dtypes[48], features[192];            /* comma-separated */
    char devices[48];                          /* kinds: "cpu", "cuda" */
    char available_on[256];                    /* UUIDs of the daemon's devices, comma-separated */
    char unavailable[160];                     /* why it runs nowhere here; "" when it does */
    uint32_t d_min, d_max, d_multiple;
    bool test_only, auto_select, quarantined;
} attn_client_variant_t;

typedef struct attn_client_variants {
    uint32_t count;
    attn_client_variant_t *variants;
    char *json; /* as the server wrote it */
} attn_client_variants_t;

/* The table of variants; free with attn_client_variants_free(). */
attn_status_t attn_client_variants(attn_client_t *client, attn_client_variants_t **ret, attn_client_error_t *err);
void attn_client_variants_free(attn_client_variants_t *variants);

/* Probes. ATTN_OK with both false is a daemon that answers and is not well. */
typedef struct attn_client_health {
    bool live, ready;
} attn_client_health_t;
attn_status_t attn_client_health(attn_client_t *client, attn_client_health_t *ret, attn_client_error_t *err);

/* The daemon's metrics as Prometheus text (0.0.4), NUL-terminated; free with attn_client_text_free(). The daemon
 * serves them on its HTTP port too, so that one address is enough. */
attn_status_t attn_client_stats(attn_client_t *client, char **ret_text, attn_client_error_t *err);
void attn_client_text_free(char *text);

#ifdef __cplusplus
}
#endif
#endif
