/* socket_floor: the steps of a request without a daemon, on the first GPU, from pinned memory: medians in microseconds,
 * as JSON. A memset of 16 bytes stands for an empty kernel.
 *
 *   socket_floor BYTES_IN BYTES_OUT
 *
 * launch: memset, synchronise. tiny: 64 KiB in, memset, 64 KiB out, synchronise. in, out: a copy of so many bytes
 * alone. link: GB/s each way while both ways are busy. "skipped" and 77 without a GPU. */
#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { ROUNDS = 2000, LARGE_ROUNDS = 30, TINY = 64 << 10 };
#define LINK_BYTES (UINT64_C(256) << 20)

static char *host_in, *host_out, *device_in, *device_out;
static cudaStream_t one, other;

static double now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

static void must(cudaError_t rc, const char *what)
{
    if (rc != cudaSuccess) {
        fprintf(stderr, "socket_floor: %s: %s\n", what, cudaGetErrorString(rc));
        exit(1);
    }
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Polls, as a worker does: a blocking wait adds 10 us. */
static void wait_for(cudaStream_t stream)
{
    cudaError_t rc;
    while ((rc = cudaStreamQuery(stream)) == cudaErrorNotReady) {
    }
    must(rc, "the work");
}

static double median(int rounds, uint64_t in, bool kernel, uint64_t out)
{
    static double times[ROUNDS];
    for (int i = -10; i < rounds; i++) {
        double began = now_us();
        if (in > 0)
            must(cudaMemcpyAsync(device_in, host_in, in, cudaMemcpyHostToDevice, one), "a copy in");
        if (kernel)
            must(cudaMemsetAsync(device_out, 0, 16, one), "a memset");
        if (out > 0)
            must(cudaMemcpyAsync(host_out, device_out, out, cudaMemcpyDeviceToHost, one), "a copy out");
        wait_for(one);
        if (i >= 0)
            times[i] = now_us() - began;
    }
    qsort(times, (size_t)rounds, sizeof times[0], compare);
    return times[rounds / 2];
}

static double link_gbs(void)
{
    double began = now_us();
    for (int i = 0; i < 8; i++) {
        must(cudaMemcpyAsync(device_in, host_in, LINK_BYTES, cudaMemcpyHostToDevice, one), "a copy in");
        must(cudaMemcpyAsync(host_out, device_out, LINK_BYTES, cudaMemcpyDeviceToHost, other), "a copy out");
    }
    wait_for(one);
    wait_for(other);
    return 8 * (double)LINK_BYTES / (now_us() - began) / 1e3;
}

int main(int argc, char **argv)
{
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
        printf("skipped: no GPU\n");
        return 77;
    }
    uint64_t in = argc > 2 ? strtoull(argv[1], NULL, 10) : 0, out = argc > 2 ? strtoull(argv[2], NULL, 10) : 0;
    if (in == 0 || out == 0 || in > LINK_BYTES || out > LINK_BYTES) {
        fprintf(stderr, "usage: socket_floor BYTES_IN BYTES_OUT, each at most %llu\n", (unsigned long long)LINK_BYTES);
        return 2;
    }
    must(cudaMallocHost((void **)&host_in, LINK_BYTES), "pinned memory");
    must(cudaMallocHost((void **)&host_out, LINK_BYTES), "pinned memory");
    must(cudaMalloc((void **)&device_in, LINK_BYTES), "device memory");
    must(cudaMalloc((void **)&device_out, LINK_BYTES), "device memory");
    must(cudaStreamCreateWithFlags(&one, cudaStreamNonBlocking), "a stream");
    must(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking), "a stream");
    printf("{\"launch_us\": %.2f, \"tiny_us\": %.2f, \"in_us\": %.2f, \"out_us\": %.2f, ", median(ROUNDS, 0, true, 0),
           median(ROUNDS, TINY, true, TINY), median(LARGE_ROUNDS, in, false, 0), median(LARGE_ROUNDS, 0, false, out));
    link_gbs();
    printf("\"link_gbs\": %.2f}\n", link_gbs());
    return 0;
}
