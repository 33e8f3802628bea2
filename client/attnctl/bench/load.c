/* load.c: one load: a thread per connection, each taking the next request of the common plan. In an open loop a request
 * has its time whether or not a connection is free, and its latency runs from that time: a stalled server cannot make
 * the load wait politely and so hide its stall (coordinated omission). The calling thread tells progress; each
 * connection's thread owns its channel and its tallies until it is joined. */
#include "load.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#define SECOND INT64_C(1000000000)
#define BACKLOG_MAX_S 10.0 /* an open loop's backlog is worked off for so long, or as long as the load took */
#define RECONNECT_PAUSE (SECOND / 50) /* a server that is not there is not asked a million times a second */
#define SPIN_MAX (SECOND / 10000)     /* waking up takes up to 60 us: the last 100 us before a sending are spun */

typedef struct load {
    const bench_setup_t *setup;
    const bench_point_t *point;
    int64_t begin_ns, spin_ns;
    double end_s; /* arrivals from here on are not sent, unless requests are counted */
    pthread_mutex_t lock;
    bench_plan_t plan;               /* under lock */
    uint64_t taken;                  /* under lock: measured requests that were given out */
    bool gave_up;                    /* under lock */
    uint64_t unsent;                 /* under lock */
    attn_client_error_t first_error; /* under lock */
    _Atomic uint64_t done, failed, running;
    _Atomic(void *) expected[BENCH_CLASS_MAX]; /* with --verify: the first O of each class */
} load_t;

typedef struct slot {
    bool measured;
    uint32_t class;
    int64_t from_ns; /* where its latency begins */
} slot_t;

typedef struct line {
    load_t *load;
    pthread_t thread;
    void *channel;
    bench_tally_t *classes;
    bench_histogram_t late;
    uint64_t waited;
    int64_t last_ns; /* when its last measured request ended */
    slot_t *slots;
} line_t;

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * SECOND + now.tv_nsec;
}

static void sleep_until(const load_t *load, int64_t at_ns)
{
    int64_t wake = at_ns - load->spin_ns;
    struct timespec until = {wake / SECOND, wake % SECOND};
    if (now_ns() < wake) {
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
    }
    while (load->spin_ns > 0 && now_ns() < at_ns && !ctl_interrupted()) {
        sched_yield();
    }
}

/* The next request: its class and its time; false when the load is over. */
static bool request_take(load_t *load, slot_t *ret, bool *ret_waited)
{
    const bench_point_t *point = load->point;
    bool open = point->arrivals != BENCH_CLOSED, good = false;
    pthread_mutex_lock(&load->lock);
    bench_arrival_t arrival = bench_plan_next(&load->plan);
    int64_t now = now_ns();
    double at_s = open ? arrival.at_s : (double)(now - load->begin_ns) / SECOND;
    ret->measured = at_s >= point->warmup_s;
    bool over = point->requests > 0 ? load->taken >= point->requests : at_s >= load->end_s;
    if (!over && !load->gave_up && !ctl_interrupted()) {
        int64_t at_ns = load->begin_ns + (int64_t)(at_s * SECOND);
        double patience = point->warmup_s + point->seconds;
        patience = patience > BACKLOG_MAX_S ? patience : BACKLOG_MAX_S;
        if (open && (double)(now - at_ns) > patience * SECOND) {
            load->gave_up = true;
        } else {
            ret->class = arrival.picked;
            ret->from_ns = open ? at_ns : now;
            *ret_waited = open && now > at_ns;
            load->taken += ret->measured;
            good = true;
        }
    }
    if (load->gave_up && !over && point->requests == 0) {
        do { /* the rest of the plan */
            load->unsent++;
            arrival = bench_plan_next(&load->plan);
        } while (arrival.at_s < load->end_s);
    } else if (load->gave_up && !over) {
        load->unsent = point->requests - load->taken;
    }
    pthread_mutex_unlock(&load->lock);
    return good;
}

/* Turns an answer whose O is not that of its class into a failure. */
static void output_verify(line_t *line, bench_done_t *done)
{
    load_t *load = line->load;
    uint32_t which = line->slots[done->slot].class;
    const bench_class_t *class = &load->setup->workload->classes[which];
    attn_error_t *error = &done->error.error;
    memset(&done->error, 0, sizeof(done->error));
    const void *o = load->point->door->output(line->channel, done->slot, class->sizes.o, error);
    void *expected = atomic_load(&load->expected[which]);
    if (o != NULL && expected == NULL) {
        void *first = malloc(class->sizes.o + 1);
        if (first == NULL) {
            attn_error_set(error, ATTN_ERR_NO_MEMORY, "no memory for the O of class '%s'", class->name);
            o = NULL;
        } else {
            memcpy(first, o, class->sizes.o);
            if (!atomic_compare_exchange_strong(&load->expected[which], &expected, first)) {
                free(first);
            } else {
                expected = first;
            }
        }
    }
    if (o != NULL && memcmp(o, expected, class->sizes.o) != 0) {
        attn_error_set(error, ATTN_ERR_INTERNAL, "an answer of class '%s' is another than the first one", class->name);
    }
    done->status = error->status;
}

static void done_count(line_t *line, bench_done_t *done)
{
    load_t *load = line->load;
    const slot_t *slot = &line->slots[done->slot];
    bench_tally_t *tally = &line->classes[slot->class];
    int64_t now = now_ns();
    if (done->status == ATTN_ERR_CANCELLED && ctl_interrupted()) {
        return;
    }
    if (done->status == ATTN_OK && load->setup->options->verify) {
        output_verify(line, done);
    }
    atomic_fetch_add_explicit(done->status == ATTN_OK ? &load->done : &load->failed, 1, memory_order_relaxed);
    if (done->status != ATTN_OK) {
        pthread_mutex_lock(&load->lock);
        if (load->first_error.error.status == ATTN_OK) {
            load->first_error = done->error;
        }
        pthread_mutex_unlock(&load->lock);
    }
    /* A request of a closed loop's warm-up that ends after it is measured, so that a stall there cannot hide. */
    bool late = load->point->arrivals == BENCH_CLOSED && load->point->requests == 0 &&
                (double)(now - load->begin_ns) >= load->point->warmup_s * SECOND;
    if (!slot->measured && !late) {
        return;
    }
    line->last_ns = now;
    if (done->status == ATTN_OK) {
        bench_histogram_record(&tally->latency, now - slot->from_ns);
        tally->queue_us += (double)done->answer.queue_us;
        tally->kernel_us += done->answer.kernel_us;
        tally->batch += done->answer.batch_size;
    } else {
        tally->failed[-done->status % BENCH_STATUS_SPAN]++;
    }
}

/* Takes requests, sends each when its time has come and counts answers, until the plan ends. */
static void *line_run(void *arg)
{
    line_t *line = arg;
    load_t *load = line->load;
    const bench_door_t *door = load->point->door;
    uint32_t depth = load->point->depth, in_flight = 0;
    uint64_t busy = 0; /* a bit per slot */
    bool have = false, over = false, waited = false;
    slot_t next = {0};
    prctl(PR_SET_TIMERSLACK, 1UL); /* 50 us by default */
    sleep_until(load, load->begin_ns);
    for (;;) {
        if (!have && !over && in_flight < depth) {
            have = request_take(load, &next, &waited);
            over = !have;
        }
        int64_t now = now_ns();
        if (have && in_flight < depth && now >= next.from_ns) {
            uint32_t slot = (uint32_t)__builtin_ctzll(~busy);
            if (next.measured && waited) {
                line->waited++;
            } else if (next.measured && load->point->arrivals != BENCH_CLOSED) {
                bench_histogram_record(&line->late, now - next.from_ns);
            }
            line->slots[slot] = next;
            busy |= UINT64_C(1) << slot;
            in_flight++;
            have = false;
            door->submit(line->channel, slot, next.class);
            continue;
        }
        if (in_flight == 0) {
            if (!have) {
                break;
            }
            sleep_until(load, next.from_ns);
            have = !ctl_interrupted();
            continue;
        }
        bench_done_t done;
        int64_t timeout = have && in_flight < depth ? next.from_ns - now : SECOND;
        if (door->reap(line->channel, timeout, &done)) {
            done_count(line, &done);
            busy &= ~(UINT64_C(1) << done.slot);
            in_flight--;
            if (done.status == ATTN_ERR_CONNECTION) {
                sleep_until(load, now_ns() + RECONNECT_PAUSE);
            }
        }
    }
    atomic_fetch_sub(&load->running, 1);
    return NULL;
}

static void progress_tell(load_t *load, uint64_t *done_before, int64_t *told_ns)
{
    int64_t now = now_ns();
    if (now - *told_ns < SECOND) {
        return;
    }
    uint64_t done = atomic_load(&load->done), failed = atomic_load(&load->failed);
    double at_s = (double)(now - load->begin_ns) / SECOND;
    char until[48] = "";
    if (load->point->requests == 0) {
        snprintf(until, sizeof(until), " of %.0f s%s", load->end_s, at_s < load->point->warmup_s ? ", warming up" : "");
    }
    ctl_progress_line("%.0f s%s: %.0f requests/s, %llu answered, %llu failed", at_s, until,
                      (double)(done - *done_before) * SECOND / (double)(now - *told_ns), (unsigned long long)done,
                      (unsigned long long)failed);
    *done_before = done;
    *told_ns = now;
}

static void line_close(const bench_door_t *door, line_t *line)
{
    if (line->channel != NULL) {
        door->close(line->channel);
    }
    free(line->classes);
    free(line->slots);
}

static attn_status_t line_open(load_t *load, line_t *line, attn_client_error_t *err)
{
    line->load = load;
    line->classes = calloc(load->setup->workload->count, sizeof(*line->classes));
    line->slots = calloc(load->point->depth, sizeof(*line->slots));
    if (line->classes == NULL || line->slots == NULL) {
        memset(err, 0, sizeof(*err));
        return attn_error_set(&err->error, ATTN_ERR_NO_MEMORY, "no memory for %u connections",
                              load->point->connections);
    }
    return load->point->door->open(load->setup, load->point->depth, &line->channel, err);
}

/* Cores that may spin before a sending: at most a quarter of them together, and none where there are only a few. */
static int64_t spin_time(const bench_point_t *point)
{
    cpu_set_t set;
    int cpus = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
    if (point->arrivals == BENCH_CLOSED || cpus < 4) {
        return 0;
    }
    double share = cpus / 4.0 / point->rate * SECOND;
    return share < SPIN_MAX ? (int64_t)share : SPIN_MAX;
}

static void result_gather(load_t *load, line_t *lines, bench_result_t *result)
{
    const bench_point_t *point = load->point;
    int64_t from = load->begin_ns + (int64_t)(point->warmup_s * SECOND), last = from;
    for (uint32_t i = 0; i < point->connections; i++) {
        for (uint32_t c = 0; c < load->setup->workload->count; c++) {
            bench_tally_merge(&result->classes[c], &lines[i].classes[c]);
        }
        bench_histogram_merge(&result->late, &lines[i].late);
        result->waited += lines[i].waited;
        last = lines[i].last_ns > last ? lines[i].last_ns : last;
    }
    result->interrupted = ctl_interrupted();
    result->window_s = (double)(last - from) / SECOND;
    if (!result->interrupted && point->requests == 0 && result->window_s < point->seconds) {
        result->window_s = point->seconds;
    }
    result->unsent = load->unsent;
    result->first_error = load->first_error;
}

/* Starts the threads and stays until they have ended; false when none could be started. */
static bool lines_run(load_t *load, line_t *lines)
{
    const bench_point_t *point = load->point;
    uint32_t started = 0;
    load->begin_ns = now_ns() + SECOND / 50; /* time for the threads to come up */
    atomic_store(&load->running, point->connections);
    while (started < point->connections &&
           pthread_create(&lines[started].thread, NULL, line_run, &lines[started]) == 0) {
        started++;
    }
    atomic_fetch_sub(&load->running, point->connections - started);
    uint64_t done_before = 0;
    int64_t told_ns = load->begin_ns;
    while (atomic_load(&load->running) > 0) {
        struct timespec nap = {0, SECOND / 50};
        nanosleep(&nap, NULL);
        progress_tell(load, &done_before, &told_ns);
    }
    for (uint32_t i = 0; i < started; i++) {
        pthread_join(lines[i].thread, NULL);
    }
    ctl_progress_erase();
    return started == point->connections;
}

attn_status_t bench_load_run(const bench_setup_t *setup, const bench_point_t *point, bench_result_t *ret,
                             attn_client_error_t *err)
{
    load_t load = {.setup = setup, .point = point, .end_s = point->warmup_s + point->seconds};
    bench_result_t result = {.classes = calloc(setup->workload->count, sizeof(*result.classes))};
    line_t *lines = calloc(point->connections, sizeof(*lines));
    attn_status_t status = ATTN_OK;
    memset(err, 0, sizeof(*err));
    if (result.classes == NULL || lines == NULL) {
        status = attn_error_set(&err->error, ATTN_ERR_NO_MEMORY, "no memory for %u connections", point->connections);
    }
    for (uint32_t i = 0; i < point->connections && status == ATTN_OK; i++) {
        status = line_open(&load, &lines[i], err);
    }
    if (status == ATTN_OK) {
        pthread_mutex_init(&load.lock, NULL);
        bench_plan_init(&load.plan, setup->workload, point->arrivals, point->rate, point->seed);
        load.spin_ns = spin_time(point);
        if (!lines_run(&load, lines)) {
            status = attn_error_set(&err->error, ATTN_ERR_SYSTEM, "no threads for %u connections", point->connections);
        }
        result_gather(&load, lines, &result);
        pthread_mutex_destroy(&load.lock);
    }
    for (uint32_t i = 0; lines != NULL && i < point->connections; i++) {
        line_close(point->door, &lines[i]);
    }
    free(lines);
    for (uint32_t i = 0; i < BENCH_CLASS_MAX; i++) {
        free(atomic_load(&load.expected[i]));
    }
    if (status != ATTN_OK) {
        free(result.classes);
        return status;
    }
    *ret = result;
    return ATTN_OK;
}

void bench_result_free(bench_result_t *result)
{
    free(result->classes);
}

uint64_t bench_tally_failed(const bench_tally_t *tally)
{
    uint64_t sum = 0;
    for (int i = 0; i < BENCH_STATUS_SPAN; i++) {
        sum += tally->failed[i];
    }
    return sum;
}

void bench_tally_merge(bench_tally_t *into, const bench_tally_t *from)
{
    bench_histogram_merge(&into->latency, &from->latency);
    for (int i = 0; i < BENCH_STATUS_SPAN; i++) {
        into->failed[i] += from->failed[i];
    }
    into->queue_us += from->queue_us;
    into->kernel_us += from->kernel_us;
    into->batch += from->batch;
}
