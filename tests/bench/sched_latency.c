/* sched_latency.c: microseconds from submit to completion through the scheduler, the ring and a real worker, on a tiny
 * request: with the variant `null` what the process design costs, without a door and without a kernel; on a GPU with
 * `unified` the whole path but for a door. First closed-loop callers with a thread each, then as many requests in
 * flight from one submitter as there is room for, which is what the path carries.
 * With --seq and --heads a larger one, for how several devices share what is bound by kernels. */
#include <getopt.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/cpus.h"
#include "sched/sched.h"

static const char *variant = "null";
static int64_t seq = 64;
static uint32_t h_q = 8, h_kv = 2;

typedef struct caller {
    attn_request_t request;
    attn_ticket_t *ticket;
    attn_sched_t *sched;
    sem_t done;
    int64_t *ns;
    int count;
} caller_t;

static void die(const char *what)
{
    fprintf(stderr, "sched_latency: %s\n", what);
    exit(1);
}

static void completed(attn_request_t *request, void *arg)
{
    (void)request;
    sem_post(&((caller_t *)arg)->done);
}

static void caller_open(caller_t *caller, attn_admit_t *admit, attn_sched_t *sched, uint64_t peer, int count)
{
    attn_error_t err;
    attn_sizes_t sizes;
    void *address;
    attn_request_t *request = &caller->request;
    *caller = (caller_t){.sched = sched, .count = count, .ns = calloc((size_t)count, sizeof(int64_t))};
    sem_init(&caller->done, 0, 0);
    request->op = ATTN_OP_RUN;
    request->variant = attn_variant_find(variant);
    request->spec = (attn_spec_t){.dtype = ATTN_DTYPE_F16,
                                  .layout = ATTN_LAYOUT_BSHD,
                                  .batch = 1,
                                  .h_q = h_q,
                                  .h_kv = h_kv,
                                  .d = 128,
                                  .s_q = seq,
                                  .s_kv = seq};
    request->repeat = 1;
    request->complete = completed;
    request->complete_arg = caller;
    if (!caller->ns || !request->variant || attn_spec_measure(&request->spec, &sizes, &err) != ATTN_OK ||
        attn_admit_open(admit, peer, sizes.q + sizes.k + sizes.v, sizes.o, &caller->ticket, &err) != ATTN_OK ||
        attn_admit_place(caller->ticket, false, sizes.q, &request->q, &address, &err) != ATTN_OK ||
        attn_admit_place(caller->ticket, false, sizes.k, &request->k, &address, &err) != ATTN_OK ||
        attn_admit_place(caller->ticket, false, sizes.v, &request->v, &address, &err) != ATTN_OK ||
        attn_admit_place(caller->ticket, true, sizes.o, &request->o, &address, &err) != ATTN_OK)
        die("cannot make a request");
    attn_admit_arrived(caller->ticket);
}

static void *caller_main(void *arg)
{
    caller_t *caller = arg;
    for (int i = 0; i < caller->count; i++) {
        int64_t start = attn_clock_ns();
        attn_sched_submit(caller->sched, &caller->request);
        while (sem_wait(&caller->done) != 0) {
        }
        caller->ns[i] = attn_clock_ns() - start;
        if (caller->request.outcome.error.status != ATTN_OK)
            die(caller->request.outcome.error.message);
    }
    return NULL;
}

static int compare(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void measure(attn_admit_t *admit, attn_sched_t *sched, int callers, int requests)
{
    caller_t *caller = calloc((size_t)callers, sizeof *caller);
    pthread_t *thread = calloc((size_t)callers, sizeof *thread);
    int each = requests / callers;
    int64_t *all = calloc((size_t)(each * callers), sizeof *all);
    if (!caller || !thread || !all)
        die("no memory");
    for (int i = 0; i < callers; i++)
        caller_open(&caller[i], admit, sched, (uint64_t)i, each);
    int64_t start = attn_clock_ns();
    for (int i = 0; i < callers; i++)
        pthread_create(&thread[i], NULL, caller_main, &caller[i]);
    for (int i = 0; i < callers; i++)
        pthread_join(thread[i], NULL);
    double seconds = (double)(attn_clock_ns() - start) / 1e9;
    for (int i = 0; i < callers; i++) {
        for (int j = 0; j < each; j++)
            all[i * each + j] = caller[i].ns[j];
        attn_admit_close(caller[i].ticket);
        sem_destroy(&caller[i].done);
        free(caller[i].ns);
    }
    int n = each * callers;
    qsort(all, (size_t)n, sizeof *all, compare);
    printf("%2d callers  p50 %7.1f us  p99 %7.1f us  %9.0f requests/s\n", callers, (double)all[n / 2] / 1e3,
           (double)all[n / 100 * 99] / 1e3, n / seconds);
    free(all);
    free(thread);
    free(caller);
}

/* ---- one submitter: completions submit again ---- */

typedef struct window {
    atomic_int left; /* to be submitted */
    atomic_int done;
    sem_t end;
    int total;
    uint64_t merged; /* sum of batch sizes; the scheduler's thread */
} window_t;
static window_t window;

static void again(attn_request_t *request, void *arg)
{
    caller_t *caller = arg;
    if (request->outcome.error.status != ATTN_OK)
        die(request->outcome.error.message);
    window.merged += request->outcome.batch_size;
    /* The caller may be gone once the last one is counted. */
    if (atomic_fetch_sub(&window.left, 1) > 0)
        attn_sched_submit(caller->sched, request);
    if (atomic_fetch_add(&window.done, 1) + 1 == window.total)
        sem_post(&window.end);
}

static void measure_window(attn_admit_t *admit, attn_sched_t *sched, int size, int requests)
{
    caller_t *caller = calloc((size_t)size, sizeof *caller);
    if (!caller)
        die("no memory");
    window.total = requests;
    window.merged = 0;
    atomic_store(&window.left, requests - size);
    atomic_store(&window.done, 0);
    sem_init(&window.end, 0, 0);
    for (int i = 0; i < size; i++) {
        caller_open(&caller[i], admit, sched, (uint64_t)i % 8, 1);
        caller[i].request.connection = (uint64_t)i;
        caller[i].request.complete = again;
    }
    int64_t start = attn_clock_ns();
    for (int i = 0; i < size; i++)
        attn_sched_submit(sched, &caller[i].request);
    while (sem_wait(&window.end) != 0) {
    }
    double seconds = (double)(attn_clock_ns() - start) / 1e9;
    printf("%3d in flight from one submitter  %9.0f requests/s, %.1f merged on average\n", size, requests / seconds,
           (double)window.merged / requests);
    for (int i = 0; i < size; i++) {
        attn_admit_close(caller[i].ticket);
        sem_destroy(&caller[i].done);
        free(caller[i].ns);
    }
    free(caller);
}

static void usage(void)
{
    puts("usage: sched_latency --worker FILE [--devices cpu] [--variant null] [--requests 20000] [--spin-us N]\n"
         "                     [--seq 64] [--heads 8/2] [--window N] [--max-group-requests 64] [--arena-mib 512]\n"
         "Microseconds from submit to completion through scheduler, ring and worker, and requests per second.\n"
         "--window: only one submitter with so many requests in flight.");
}

int main(int argc, char **argv)
{
    attn_admit_options_t admit_options = {.arena_bytes = 512 << 20};
    attn_admit_t *admit;
    attn_sched_t *sched;
    attn_error_t err;
    attn_sched_options_t options = {.devices = "cpu", .test_variants = true, .spin_us = attn_cpus_spin_us()};
    int requests = 20000, only = 0;
    static const struct option table[] = {{"worker", required_argument, 0, 'w'},
                                          {"devices", required_argument, 0, 'd'},
                                          {"variant", required_argument, 0, 'v'},
                                          {"requests", required_argument, 0, 'n'},
                                          {"spin-us", required_argument, 0, 's'},
                                          {"seq", required_argument, 0, 'q'},
                                          {"heads", required_argument, 0, 'h'},
                                          {"window", required_argument, 0, 'o'},
                                          {"arena-mib", required_argument, 0, 'a'},
                                          {"max-group-requests", required_argument, 0, 'g'},
                                          {"help", no_argument, 0, '?'},
                                          {0, 0, 0, 0}};
    for (int c; (c = getopt_long(argc, argv, "", table, NULL)) != -1;) {
        switch (c) {
        case 'w':
            options.worker_path = optarg;
            break;
        case 'd':
            options.devices = optarg;
            break;
        case 'v':
            variant = optarg;
            break;
        case 'n':
            requests = atoi(optarg);
            break;
        case 's':
            options.spin_us = (uint32_t)atoi(optarg);
            break;
        case 'q':
            seq = atoll(optarg);
            break;
        case 'o':
            only = atoi(optarg);
            break;
        case 'g':
            options.max_group_requests = (uint32_t)atoi(optarg);
            break;
        case 'a':
            admit_options.arena_bytes = (uint64_t)atoll(optarg) << 20;
            break;
        case 'h':
            if (sscanf(optarg, "%u/%u", &h_q, &h_kv) == 2)
                break;
            /* fall through */
        default:
            usage();
            return c == '?' ? 0 : 2;
        }
    }
    if (attn_admit_create(&admit_options, &admit, &err) != ATTN_OK)
        die(err.message);
    options.admit = admit;
    if (attn_sched_start(&options, &sched, &err) != ATTN_OK)
        die(err.message);
    attn_sched_view_t view;
    for (uint32_t ready = 0; ready == 0 || ready < view.device_count; usleep(1000)) {
        attn_sched_view(sched, &view);
        ready = 0;
        for (uint32_t i = 0; i < view.device_count; i++)
            ready += view.devices[i].state == ATTN_DEVICE_READY;
    }
    /* Workers touch and pin their arenas first, in the background: about 2 s per GiB. */
    sleep(3 + 2 * (unsigned)(admit_options.arena_bytes >> 30));
    printf("%.1f cores, spinning %u us, %u device%s %s, variant %s\n", attn_cpus_usable(), options.spin_us,
           view.device_count, view.device_count == 1 ? "" : "s", options.devices, variant);
    const int callers[] = {1, 4, 16};
    for (size_t i = 0; i < sizeof callers / sizeof callers[0] && !only; i++)
        measure(admit, sched, callers[i], requests);
    for (int size = only ? only : 64; size <= (only ? only : 256); size *= 2)
        measure_window(admit, sched, size, only ? requests : 5 * requests);
    attn_sched_drain_finish(sched, 1000);
    attn_sched_stop(sched);
    attn_admit_destroy(admit);
    return 0;
}
