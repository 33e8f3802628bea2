/* link_steadiness.c: whether the link between host and GPU carries the same all the time: plain copies both ways at
 * once, pinned like a client's region, without a daemon. On a shared host it may not, and then no latency measured
 * there says much about the service: run it before and behind. link_steadiness [seconds]
 *
 * Prints what the link carries in the median window, how many windows carry less than LOW of that and the longest run
 * of such windows, and what the CPU takes to queue a copy. "skipped" and 77 without a GPU. */
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"

#define PIECE (UINT64_C(4) << 20)
#define REGION (UINT64_C(1) << 30) /* each way */
#define WINDOW_NS (5 * ATTN_NS_PER_MS)
#define LOW 0.75
enum { AHEAD = 3, WINDOWS_MAX = 12000, SLOW_CALL = 5 };

typedef struct way {
    enum cudaMemcpyKind kind;
    char *host, *device;
    cudaStream_t stream;
    cudaEvent_t copied[AHEAD];
    uint64_t queued, done;
} way_t;

static double windows[WINDOWS_MAX], sorted[WINDOWS_MAX];
static float *call_us;
static uint64_t calls, calls_max;

static void die(const char *what)
{
    fprintf(stderr, "link_steadiness: %s: %s\n", what, cudaGetErrorString(cudaGetLastError()));
    exit(1);
}

static void way_open(way_t *way, enum cudaMemcpyKind kind)
{
    int fd = memfd_create("link", MFD_CLOEXEC);
    way->kind = kind;
    if (fd < 0 || ftruncate(fd, (off_t)REGION) != 0)
        die("no memory");
    way->host = mmap(NULL, REGION, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (way->host == MAP_FAILED || cudaMalloc((void **)&way->device, REGION) != cudaSuccess ||
        cudaStreamCreateWithFlags(&way->stream, cudaStreamNonBlocking) != cudaSuccess)
        die("no memory");
    for (uint64_t at = 0; at < REGION; at += PIECE)
        if (cudaHostRegister(way->host + at, PIECE, cudaHostRegisterDefault) != cudaSuccess)
            die("memory cannot be pinned");
    for (int i = 0; i < AHEAD; i++)
        if (cudaEventCreateWithFlags(&way->copied[i], cudaEventDisableTiming) != cudaSuccess)
            die("no event");
}

/* Forgets what has arrived and queues what there is room for; returns the bytes that have arrived. */
static uint64_t way_pump(way_t *way)
{
    uint64_t arrived = 0;
    while (way->done < way->queued && cudaEventQuery(way->copied[way->done % AHEAD]) == cudaSuccess) {
        way->done++;
        arrived += PIECE;
    }
    while (way->queued < way->done + AHEAD) {
        uint64_t at = way->queued * PIECE % REGION;
        int64_t began = attn_clock_ns();
        cudaError_t rc = way->kind == cudaMemcpyHostToDevice
                             ? cudaMemcpyAsync(way->device + at, way->host + at, PIECE, way->kind, way->stream)
                             : cudaMemcpyAsync(way->host + at, way->device + at, PIECE, way->kind, way->stream);
        if (calls < calls_max)
            call_us[calls++] = (float)(attn_clock_ns() - began) / (float)ATTN_NS_PER_US;
        if (rc != cudaSuccess || cudaEventRecord(way->copied[way->queued++ % AHEAD], way->stream) != cudaSuccess)
            die("a copy fails");
    }
    return arrived;
}

static int by_double(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int by_float(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void report(uint32_t count)
{
    uint32_t low = 0, run = 0, longest = 0;
    for (uint32_t i = 0; i < count; i++)
        sorted[i] = windows[i];
    qsort(sorted, count, sizeof *sorted, by_double);
    double median = sorted[count / 2];
    for (uint32_t i = 0; i < count; i++) {
        run = windows[i] < LOW * median ? run + 1 : 0;
        low += run > 0;
        longest = run > longest ? run : longest;
    }
    qsort(call_us, calls, sizeof *call_us, by_float);
    uint64_t slow = 0;
    for (uint64_t i = 0; i < calls; i++)
        slow += call_us[i] > SLOW_CALL * call_us[calls / 2];
    printf("plain copies both ways: %.1f GB/s in and out together; %.1f %% of %d ms below %.2f of that, %u ms the "
           "longest such time, "
           "%.1f GB/s the least; queueing one takes %.1f us, %.2f %% over %d times that\n",
           median, 100.0 * low / count, (int)(WINDOW_NS / ATTN_NS_PER_MS), LOW,
           longest * (uint32_t)(WINDOW_NS / ATTN_NS_PER_MS), sorted[0], (double)call_us[calls / 2],
           100.0 * (double)slow / (double)calls, SLOW_CALL);
}

int main(int argc, char **argv)
{
    double wanted = (argc > 1 ? atof(argv[1]) : 5) * ATTN_NS_PER_S / WINDOW_NS;
    int devices = 0;
    if (!(wanted >= 1 && wanted <= WINDOWS_MAX)) {
        fprintf(stderr, "usage: link_steadiness [SECONDS, up to 60]\n");
        return 2;
    }
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
        printf("skipped: no GPU\n");
        return 77;
    }
    uint32_t count = (uint32_t)wanted;
    calls_max = (uint64_t)count * 200;
    call_us = malloc(calls_max * sizeof *call_us);
    if (!call_us)
        die("no memory");
    way_t in = {0}, out = {0};
    way_open(&in, cudaMemcpyHostToDevice);
    way_open(&out, cudaMemcpyDeviceToHost);
    for (uint32_t i = 0; i < 2 * REGION / PIECE;) /* each page once: a warm-up */
        i += (uint32_t)((way_pump(&in) + way_pump(&out)) / PIECE);
    calls = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t bytes = 0;
        int64_t from = attn_clock_ns(), now;
        do {
            bytes += way_pump(&in) + way_pump(&out);
            now = attn_clock_ns();
        } while (now < from + WINDOW_NS);
        windows[i] = (double)bytes / (double)(now - from);
    }
    cudaDeviceSynchronize();
    report(count);
    return 0;
}
