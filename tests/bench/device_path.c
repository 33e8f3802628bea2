/* device_path.c: what the engine of a GPU worker carries, driven in its own process: no socket, no ring, tensors in
 * pinned memory, up to four groups in flight. In one run: the link (both directions at once), large requests beside
 * what the slowest stage allows, a small one among large ones, tiny requests per second by each way of copying and by
 * how they lie in memory. device_path [seconds-per-row]
 * "skipped" and 77 without a GPU */
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "worker/engine_cuda.h"

#define ARENA_BYTES (UINT64_C(512) << 20)
enum { DEPTH = ATTN_WIRE_GROUPS_SMALL };

static char uuid[48];
static char *input;
static attn_memory_t *memory;
static attn_engine_t *engine;

typedef struct slot {
    attn_engine_group_t group;
    attn_engine_request_t request[ATTN_WIRE_GROUP_MAX];
} slot_t;
static slot_t slots[DEPTH + 1];

static void die(const char *what)
{
    fprintf(stderr, "device_path: %s\n", what);
    exit(1);
}

static bool go_on(void *arg)
{
    (void)arg;
    return true;
}

static void keep_first(const char *found, int index, const char *name, void *arg)
{
    (void)arg;
    if (uuid[0] == '\0') {
        snprintf(uuid, sizeof uuid, "%s", found);
        printf("device %d: %s\n", index, name);
    }
}

static void engine_open(void)
{
    attn_error_t err = {0};
    attn_engine_about_t about = {0};
    int in = memfd_create("input", MFD_CLOEXEC), out = memfd_create("output", MFD_CLOEXEC);
    if (ftruncate(in, (off_t)ARENA_BYTES) != 0 || ftruncate(out, (off_t)ARENA_BYTES) != 0)
        die("no memory for the arenas");
    input = mmap(NULL, ARENA_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, in, 0);
    if (input == MAP_FAILED || attn_memory_open(ATTN_CLASS_SERVE, in, out, &memory, &err) != ATTN_OK)
        die("the arenas cannot be mapped");
    attn_engine_setup_t setup = {ATTN_CLASS_SERVE, uuid, memory};
    if (attn_engine_cuda.open(&setup, &engine, &about, &err) != ATTN_OK)
        die(err.message);
    while (attn_engine_cuda.idle(engine)) {
    }
    /* One block of normal values again and again: nobody looks at them. */
    attn_fill_normal(ATTN_DTYPE_BF16, 3, 0, input, 65536);
    for (uint64_t at = 131072; at < ARENA_BYTES; at += 131072)
        memcpy(input + at, input, 131072);
}

/* Milliseconds that the link takes for so many bytes in and out when both directions are busy all the time, from memory
 * that was pinned in one piece. */
static double link_ms(uint64_t in_bytes, uint64_t out_bytes)
{
    enum { ROUNDS = 40 };
    char *device = NULL, *host = NULL;
    cudaStream_t in, out;
    if (cudaMalloc((void **)&device, in_bytes + out_bytes) != cudaSuccess ||
        cudaHostAlloc((void **)&host, in_bytes + out_bytes, cudaHostAllocDefault) != cudaSuccess ||
        cudaStreamCreateWithFlags(&in, cudaStreamNonBlocking) != cudaSuccess ||
        cudaStreamCreateWithFlags(&out, cudaStreamNonBlocking) != cudaSuccess)
        die("no memory to measure the link with");
    double ms = 0;
    for (int rounds = 4; rounds <= ROUNDS; rounds += ROUNDS - 4) { /* the first is a warm-up */
        int64_t start = attn_clock_ns();
        for (int i = 0; i < rounds; i++) {
            cudaMemcpyAsync(device, host, in_bytes, cudaMemcpyHostToDevice, in);
            cudaMemcpyAsync(host + in_bytes, device + in_bytes, out_bytes, cudaMemcpyDeviceToHost, out);
        }
        cudaStreamSynchronize(in);
        cudaStreamSynchronize(out);
        ms = (double)(attn_clock_ns() - start) / 1e6 / rounds;
    }
    cudaStreamDestroy(in);
    cudaStreamDestroy(out);
    cudaFreeHost(host);
    cudaFree(device);
    return ms;
}

static attn_spec_t spec_of(int64_t s, uint32_t h_q, uint32_t h_kv, attn_sizes_t *ret_sizes)
{
    attn_error_t err;
    attn_spec_t spec = {.dtype = ATTN_DTYPE_BF16,
                        .layout = ATTN_LAYOUT_BSHD,
                        .batch = 1,
                        .h_q = h_q,
                        .h_kv = h_kv,
                        .d = 128,
                        .s_q = s,
                        .s_kv = s};
    if (attn_spec_measure(&spec, ret_sizes, &err) != ATTN_OK)
        die(err.message);
    return spec;
}

/* How the requests of a group lie in the arenas. */
typedef enum lie { TOGETHER, SHUFFLED, EVENLY, SCATTERED } lie_t;
static const char *const lie_names[] = {"together", "together, in any order", "at even distances", "scattered"};
#define GAP (UINT64_C(64) << 10)

/* The i-th place from a start, of `bytes` each, within a group of `count`. */
static uint64_t place_of(lie_t lie, uint32_t i, uint32_t count, uint64_t bytes)
{
    uint32_t within = i % count;
    switch (lie) {
    case SHUFFLED:
        return (i - within + within * 29 % count) * bytes; /* counts are powers of two */
    case EVENLY:
        return i * (bytes + GAP);
    case SCATTERED:
        return i * (bytes + GAP) + i * i % 7 * ATTN_WIRE_PAGE;
    default:
        return i * bytes;
    }
}

/* Every request in flight has places of its own, as in the daemon; `from` is that of the first slot. */
static void slots_make(uint32_t first, uint32_t count, const attn_spec_t *spec, const attn_sizes_t *sizes,
                       uint32_t per_group, lie_t lie, uint64_t from)
{
    uint64_t in = ATTN_WIRE_ROUND(sizes->q) + ATTN_WIRE_ROUND(sizes->k) + ATTN_WIRE_ROUND(sizes->v), unused;
    uint64_t out = ATTN_WIRE_ROUND(sizes->o);
    char *input_at = (char *)attn_memory_arena(memory, ATTN_REGION_INPUT, &unused) + from;
    char *output_at = (char *)attn_memory_arena(memory, ATTN_REGION_OUTPUT, &unused) + from;
    if (from + (count * per_group + 1) * ((in > out ? in : out) + 2 * GAP) > ARENA_BYTES)
        die("the arenas are too small");
    for (uint32_t i = 0; i < count * per_group; i++) {
        attn_engine_request_t *request = &slots[first + i / per_group].request[i % per_group];
        char *q = input_at + place_of(lie, i, per_group, in);
        *request = (attn_engine_request_t){.spec = *spec, .sizes = *sizes, .id = "bench"};
        request->at = (attn_addresses_t){.q = q,
                                         .k = q + ATTN_WIRE_ROUND(sizes->q),
                                         .v = q + ATTN_WIRE_ROUND(sizes->q) + ATTN_WIRE_ROUND(sizes->k),
                                         .o = output_at + place_of(lie, i, per_group, out)};
    }
}

/* `large_us`: what the kernel of a large request takes; 0 = it is not large. */
static void submit(slot_t *slot, uint32_t per_group, uint32_t repeat, double large_us)
{
    static uint64_t number;
    number++;
    slot->group = (attn_engine_group_t){.number = number,
                                        .op = ATTN_OP_RUN,
                                        .variant = "unified",
                                        .repeat = repeat,
                                        .count = per_group,
                                        .large = large_us > 0,
                                        .cost_us = large_us,
                                        .requests = slot->request,
                                        .checkpoint = go_on};
    attn_engine_cuda.submit(engine, &slot->group);
}

static slot_t *wait_one(void)
{
    attn_engine_group_t *group;
    while ((group = attn_engine_cuda.poll(engine)) == NULL) {
    }
    if (group->error.status != ATTN_OK)
        die(group->error.message);
    return (slot_t *)(void *)((char *)group - offsetof(slot_t, group));
}

/* Requests per second with `depth` groups of `per_group` in flight. */
static double rate(uint32_t depth, uint32_t per_group, double large_us, double seconds)
{
    for (uint32_t i = 0; i < depth; i++)
        submit(&slots[i], per_group, 1, large_us);
    for (int i = 0; i < 20; i++) /* warm */
        submit(wait_one(), per_group, 1, large_us);
    int64_t start = attn_clock_ns(), now = start;
    uint64_t groups = 0;
    while ((double)(now - start) / 1e9 < seconds) {
        submit(wait_one(), per_group, 1, large_us);
        groups++;
        now = attn_clock_ns();
    }
    for (uint32_t i = 0; i < depth; i++)
        wait_one();
    return (double)(groups * per_group) / ((double)(now - start) / 1e9);
}

/* Returns what its kernel takes, in milliseconds. */
static double large(double seconds)
{
    attn_sizes_t sizes;
    attn_spec_t spec = spec_of(4096, 32, 8, &sizes);
    slots_make(0, DEPTH, &spec, &sizes, 1, TOGETHER, 0);
    double link = link_ms(sizes.q + sizes.k + sizes.v, sizes.o);
    submit(&slots[0], 1, 50, 0);
    double kernel = wait_one()->group.result.kernel_us / 1000, stage = link > kernel ? link : kernel;
    printf(
        "(1,4096,4096,32/8,128) bf16: %.0f MiB in and %.0f MiB out at once take the link %.3f ms, the kernel %.3f ms\n",
        (double)(sizes.q + sizes.k + sizes.v) / 1048576, (double)sizes.o / 1048576, link, kernel);
    for (uint32_t depth = 1; depth <= DEPTH; depth++) {
        double ms = 1000 / rate(depth, 1, kernel * 1000, seconds);
        printf("  %u in flight: %.3f ms per request, %.2f of what the slowest stage allows%s\n", depth, ms, stage / ms,
               depth == DEPTH ? stage / ms >= 0.9 ? "  (bar 0.9: met)" : "  (bar 0.9: MISSED)" : "");
    }
    return kernel;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* One small request after the other while `beside` large ones are in flight. */
static void among_large(uint32_t beside, double kernel_ms, double seconds)
{
    enum { MANY = 100000 };
    static double took[MANY];
    attn_sizes_t small_sizes, large_sizes;
    attn_spec_t small = spec_of(64, 32, 8, &small_sizes), large = spec_of(4096, 32, 8, &large_sizes);
    slot_t *own = &slots[DEPTH];
    slots_make(0, beside ? beside : 1, &large, &large_sizes, 1, TOGETHER, 0);
    slots_make(DEPTH, 1, &small, &small_sizes, 1, TOGETHER, UINT64_C(400) << 20);
    for (uint32_t i = 0; i < beside; i++)
        submit(&slots[i], 1, 1, kernel_ms * 1000);
    int64_t start = attn_clock_ns(), sent = start, now = start;
    uint32_t count = 0, larges = 0;
    submit(own, 1, 1, 0);
    while ((double)(now - start) / 1e9 < seconds && count < MANY) {
        slot_t *slot = wait_one();
        now = attn_clock_ns();
        if (slot != own) {
            larges++;
            submit(slot, 1, 1, kernel_ms * 1000);
            continue;
        }
        took[count++] = (double)(now - sent) / 1000;
        sent = now;
        submit(own, 1, 1, 0);
    }
    for (uint32_t i = 0; i < beside + 1; i++)
        wait_one();
    qsort(took, count, sizeof took[0], by_value);
    printf("  beside %u of these, (1,64,64,32/8,128): p50 %4.0f us, p99 %4.0f us, longest %4.0f us", beside,
           took[count / 2], took[count * 99 / 100], took[count - 1]);
    printf(larges ? "; the large ones %.3f ms each\n" : "\n", (double)(now - start) / 1e6 / larges);
}

static void tiny(double seconds)
{
    static const struct {
        const char *name;
        lie_t lie;
        bool batch;
        uint64_t gather, direct;
    } modes[] = {
        {"a copy each, answers copied (scattered, as all but one)", SCATTERED, false, 0, 0},
        {"copies queued at once, answers copied", SCATTERED, true, 0, 0},
        {"copies queued at once, answers copied (at even distances)", EVENLY, true, 0, 0},
        {"a copy each, answers written by the kernel", SCATTERED, false, 0, UINT64_C(1) << 30},
        {"copies queued at once, answers written by the kernel", SCATTERED, true, 0, UINT64_C(1) << 30},
        {"inputs gathered by a kernel, answers copied", SCATTERED, true, UINT64_C(1) << 30, 0},
        {"inputs gathered by a kernel, answers written by it", SCATTERED, true, UINT64_C(1) << 30, UINT64_C(1) << 30},
    };
    attn_sizes_t sizes;
    attn_spec_t spec = spec_of(64, 8, 2, &sizes);
    uint64_t direct = engine->direct_bytes, gather = engine->gather_bytes;
    bool batch = engine->batch_copies;
    printf("tiny (1,64,64,8/2,128) bf16, %.0f KiB in, %.0f KiB out; %d groups in flight; requests/s by group size\n",
           (double)(sizes.q + sizes.k + sizes.v) / 1024, (double)sizes.o / 1024, (int)DEPTH);
    const size_t ways = sizeof modes / sizeof modes[0];
    for (size_t i = 0; i < ways + sizeof lie_names / sizeof lie_names[0]; i++) {
        bool as_served = i >= ways;
        lie_t lie = as_served ? (lie_t)(i - ways) : modes[i].lie;
        engine->batch_copies = as_served ? batch : modes[i].batch;
        engine->row_copies = as_served;
        engine->gather_bytes = as_served ? gather : modes[i].gather;
        engine->gather_apart = !as_served;
        engine->direct_bytes = as_served ? direct : modes[i].direct;
        printf("  %s%-*s", as_served ? "as the engine is set, " : "", as_served ? 42 : 64,
               as_served ? lie_names[lie] : modes[i].name);
        double last = 0;
        for (uint32_t size = 1; size <= ATTN_WIRE_GROUP_MAX; size *= 8) {
            slots_make(0, DEPTH, &spec, &sizes, size, lie, 0);
            last = rate(DEPTH, size, 0, seconds);
            printf("  %2u: %8.0f", size, last);
        }
        printf("%s\n", !as_served || lie != TOGETHER ? ""
                       : last >= 200000              ? "  (bar 200000: met)"
                                                     : "  (bar 200000: MISSED)");
    }
    double link = link_ms(64 * (sizes.q + sizes.k + sizes.v), 64 * sizes.o);
    printf("  the link alone: %.0f requests/s\n", 64000 / link);
}

int main(int argc, char **argv)
{
    double seconds = argc > 1 ? atof(argv[1]) : 0.5;
    attn_engine_cuda_list(keep_first, NULL);
    if (uuid[0] == '\0') {
        printf("skipped: no GPU\n");
        return 77;
    }
    engine_open();
    double kernel_ms = large(seconds);
    for (uint32_t beside = 0; beside <= DEPTH; beside += 2)
        among_large(beside, kernel_ms, seconds);
    tiny(seconds);
    attn_engine_cuda.close(engine);
    attn_memory_close(memory);
    return 0;
}
