/* sched_latency.c: microseconds from submit to completion through the scheduler, the ring and a real worker, with the
 * variant `null` on a tiny request: what the process design costs, without a door and without a kernel.
 *   sched_latency WORKER [requests [spin_us]] */
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/cpus.h"
#include "sched/sched.h"

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
    request->variant = attn_variant_find("null");
    request->spec = (attn_spec_t){.dtype = ATTN_DTYPE_F16,
                                  .layout = ATTN_LAYOUT_BSHD,
                                  .batch = 1,
                                  .h_q = 8,
                                  .h_kv = 2,
                                  .d = 128,
                                  .s_q = 64,
                                  .s_kv = 64};
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

int main(int argc, char **argv)
{
    attn_admit_options_t admit_options = {.arena_bytes = 64 << 20};
    attn_admit_t *admit;
    attn_sched_t *sched;
    attn_error_t err;
    int requests = argc > 2 ? atoi(argv[2]) : 20000;
    uint32_t spin_us = argc > 3 ? (uint32_t)atoi(argv[3]) : attn_cpus_spin_us();
    if (attn_admit_create(&admit_options, &admit, &err) != ATTN_OK)
        die(err.message);
    attn_sched_options_t options = {.worker_path = argc > 1 ? argv[1] : NULL,
                                    .devices = "cpu",
                                    .admit = admit,
                                    .test_variants = true,
                                    .spin_us = spin_us};
    if (attn_sched_start(&options, &sched, &err) != ATTN_OK)
        die(err.message);
    while (!attn_sched_ready(sched))
        usleep(1000);
    usleep(200000); /* the worker touches its arenas first */
    printf("%.1f cores, spinning %u us\n", attn_cpus_usable(), spin_us);
    const int callers[] = {1, 4, 16};
    for (size_t i = 0; i < sizeof callers / sizeof callers[0]; i++)
        measure(admit, sched, callers[i], requests);
    attn_sched_drain_finish(sched, 1000);
    attn_sched_stop(sched);
    attn_admit_destroy(admit);
    return 0;
}
