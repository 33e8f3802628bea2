/* device_path.c: what the engine of a GPU worker carries, driven in its own process: no socket, no ring, tensors in
 * pinned memory, up to four groups in flight. In one run: the link (both directions at once), large requests beside
 * what the slowest stage allows, tiny requests per second by each way of copying. device_path [seconds-per-row]
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

static char uuid[48];
static char *input;
static attn_memory_t *memory;
static attn_engine_t *engine;

typedef struct slot {
    attn_engine_group_t group;
    attn_engine_request_t request[ATTN_WIRE_GROUP_MAX];
} slot_t;
static slot_t slots[ATTN_WIRE_GROUPS];

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
    attn_engine_setup_t setup = {ATTN_CLASS_SERVE, uuid, memory, NULL, NULL};
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

/* Every request in flight has places of its own, as in the daemon. */
static void slots_make(const attn_spec_t *spec, const attn_sizes_t *sizes, uint32_t per_group)
{
    uint64_t in = ATTN_WIRE_ROUND(sizes->q) + ATTN_WIRE_ROUND(sizes->k) + ATTN_WIRE_ROUND(sizes->v), unused;
    uint64_t out = ATTN_WIRE_ROUND(sizes->o);
    char *from = attn_memory_arena(memory, ATTN_REGION_INPUT, &unused);
    char *to = attn_memory_arena(memory, ATTN_REGION_OUTPUT, &unused);
    if (ATTN_WIRE_GROUPS * per_group * (in > out ? in : out) > ARENA_BYTES)
        die("the arenas are too small");
    for (uint32_t i = 0; i < ATTN_WIRE_GROUPS * per_group; i++) {
        attn_engine_request_t *request = &slots[i / per_group].request[i % per_group];
        char *q = from + i * in;
        *request = (attn_engine_request_t){.spec = *spec, .sizes = *sizes, .id = "bench"};
        request->at = (attn_addresses_t){.q = q,
                                         .k = q + ATTN_WIRE_ROUND(sizes->q),
                                         .v = q + ATTN_WIRE_ROUND(sizes->q) + ATTN_WIRE_ROUND(sizes->k),
                                         .o = to + i * out};
    }
}

static void submit(slot_t *slot, uint32_t per_group, uint32_t repeat)
{
    static uint64_t number;
    number++;
    slot->group = (attn_engine_group_t){.number = number,
                                        .op = ATTN_OP_RUN,
                                        .variant = "unified",
                                        .repeat = repeat,
                                        .count = per_group,
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
static double rate(uint32_t depth, uint32_t per_group, double seconds)
{
    for (uint32_t i = 0; i < depth; i++)
        submit(&slots[i], per_group, 1);
    for (int i = 0; i < 20; i++) /* warm */
        submit(wait_one(), per_group, 1);
    int64_t start = attn_clock_ns(), now = start;
    uint64_t groups = 0;
    while ((double)(now - start) / 1e9 < seconds) {
        submit(wait_one(), per_group, 1);
        groups++;
        now = attn_clock_ns();
    }
    for (uint32_t i = 0; i < depth; i++)
        wait_one();
    return (double)(groups * per_group) / ((double)(now - start) / 1e9);
}

static void large(double seconds)
{
    attn_sizes_t sizes;
    attn_spec_t spec = spec_of(4096, 32, 8, &sizes);
    slots_make(&spec, &sizes, 1);
    double link = link_ms(sizes.q + sizes.k + sizes.v, sizes.o);
    submit(&slots[0], 1, 50);
    double kernel = wait_one()->group.result.kernel_us / 1000, stage = link > kernel ? link : kernel;
    printf(
        "(1,4096,4096,32/8,128) bf16: %.0f MiB in and %.0f MiB out at once take the link %.3f ms, the kernel %.3f ms\n",
        (double)(sizes.q + sizes.k + sizes.v) / 1048576, (double)sizes.o / 1048576, link, kernel);
    for (uint32_t depth = 1; depth <= ATTN_WIRE_GROUPS; depth++) {
        double ms = 1000 / rate(depth, 1, seconds);
        printf("  %u in flight: %.3f ms per request, %.2f of what the slowest stage allows%s\n", depth, ms, stage / ms,
               depth == ATTN_WIRE_GROUPS ? stage / ms >= 0.9 ? "  (bar 0.9: met)" : "  (bar 0.9: MISSED)" : "");
    }
}

static void tiny(double seconds)
{
    static const struct {
        const char *name;
        bool batch;
        uint64_t gather, direct, direct_in;
    } modes[] = {
        {"a copy each, answers copied", false, 0, 0, 0},
        {"copies queued at once, answers copied", true, 0, 0, 0},
        {"a copy each, answers written by the kernel", false, 0, UINT64_C(1) << 30, 0},
        {"copies queued at once, answers written by the kernel", true, 0, UINT64_C(1) << 30, 0},
        {"inputs gathered by a kernel, answers copied", true, UINT64_C(1) << 30, 0, 0},
        {"inputs gathered by a kernel, answers written by it", true, UINT64_C(1) << 30, UINT64_C(1) << 30, 0},
        {"inputs read and answers written by the kernel", true, 0, UINT64_C(1) << 30, UINT64_C(1) << 30},
    };
    attn_sizes_t sizes;
    attn_spec_t spec = spec_of(64, 8, 2, &sizes);
    uint64_t direct = engine->direct_bytes, gather = engine->gather_bytes, direct_in = engine->direct_in_bytes;
    bool batch = engine->batch_copies;
    printf("tiny (1,64,64,8/2,128) bf16, %.0f KiB in, %.0f KiB out; 4 groups in flight; requests/s by group size\n",
           (double)(sizes.q + sizes.k + sizes.v) / 1024, (double)sizes.o / 1024);
    double best = 0;
    for (size_t i = 0; i <= sizeof modes / sizeof modes[0]; i++) {
        bool as_served = i == sizeof modes / sizeof modes[0];
        engine->batch_copies = as_served ? batch : modes[i].batch;
        engine->gather_bytes = as_served ? gather : modes[i].gather;
        engine->direct_in_bytes = as_served ? direct_in : modes[i].direct_in;
        engine->fetch_apart = !as_served;
        engine->direct_bytes = as_served ? direct : modes[i].direct;
        printf("  %-54s", as_served ? "as the engine is set" : modes[i].name);
        for (uint32_t size = 1; size <= ATTN_WIRE_GROUP_MAX; size *= 8) {
            slots_make(&spec, &sizes, size);
            best = rate(ATTN_WIRE_GROUPS, size, seconds);
            printf("  %2u: %8.0f", size, best);
        }
        printf("%s\n", as_served ? best >= 200000 ? "  (bar 200000: met)" : "  (bar 200000: MISSED)" : "");
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
    large(seconds);
    tiny(seconds);
    attn_engine_cuda.close(engine);
    attn_memory_close(memory);
    return 0;
}
