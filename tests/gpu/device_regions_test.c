/* device_regions_test.c: CUDA memory and events of a client, through the Unix socket of a real daemon with a GPU
 * worker: tensors in place, order with the client's stream both ways, and handles that are no good, each an error of
 * its own.
 *
 *   device_regions_test [FOLDER OF attnd]     its own folder without it
 *
 * "skipped: no GPU" and 77 without one. */
#include <cuda_runtime_api.h>
#include <dirent.h>
#include <libgen.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "attn.h"
#include "gpu/check.h"

enum { S = 128, H = 8, D = 128, ROWS = S * H, ELEMENTS = ROWS * D, TENSOR = ELEMENTS * 2 };

static char uuid[48], socket_path[64], server[80];
static pid_t daemon_pid;
static attn_client_t *client;

static bool good(cudaError_t rc, const char *what)
{
    return check(rc == cudaSuccess, "%s: %s", what, cudaGetErrorString(rc));
}

/* ---- the daemon ---- */

static void daemon_start(const char *folder)
{
    char program[4096];
    snprintf(program, sizeof program, "%s/attnd", folder);
    snprintf(socket_path, sizeof socket_path, "/tmp/device-regions-%d.sock", (int)getpid());
    snprintf(server, sizeof server, "unix:%s", socket_path);
    daemon_pid = fork();
    if (daemon_pid == 0) {
        execl(program, program, "--http-port", "0", "--metrics-port", "0", "--socket", socket_path, "--arena-bytes",
              "64M", "--log-level", "warn", NULL);
        _exit(127);
    }
}

/* The worker is a child of whichever thread of the daemon started it. */
static void worker_kill(void)
{
    char path[320];
    int worker = 0;
    snprintf(path, sizeof path, "/proc/%d/task", (int)daemon_pid);
    DIR *tasks = opendir(path);
    for (const struct dirent *task; tasks && worker == 0 && (task = readdir(tasks));) {
        snprintf(path, sizeof path, "/proc/%d/task/%.20s/children", (int)daemon_pid, task->d_name);
        FILE *file = fopen(path, "r");
        if (file && fscanf(file, "%d", &worker) != 1)
            worker = 0;
        if (file)
            fclose(file);
    }
    if (tasks)
        closedir(tasks);
    if (check(worker > 0, "the worker is found"))
        kill(worker, SIGKILL);
}

static attn_client_t *client_open(void)
{
    attn_client_error_t err = {0};
    attn_client_t *opened = NULL;
    check(attn_client_open(server, NULL, &opened, &err) == ATTN_OK, "open: %s", err.error.message);
    return opened;
}

/* ---- device memory ---- */

typedef struct memory {
    char *base; /* Q, K, V, O one behind the other */
    attn_region_t *region;
} memory_t;

/* Q is zero, so every key weighs alike; V's rows are all `value`, so O is that too. From pinned memory: from any other
 * a copy waits for what is before it on the stream. */
static void fill(memory_t *memory, float value, cudaStream_t stream)
{
    static unsigned char *host[2];
    static int turn;
    turn ^= 1;
    if (!host[turn])
        good(cudaMallocHost((void **)&host[turn], TENSOR), "cudaMallocHost");
    for (uint64_t i = 0; i < ELEMENTS && host[turn]; i++)
        check_store(ATTN_DTYPE_F16, host[turn], i, value);
    good(cudaMemcpyAsync(memory->base + 2 * TENSOR, host[turn], TENSOR, cudaMemcpyHostToDevice, stream), "upload");
}

static bool holds(const memory_t *memory, float value)
{
    static unsigned char o[TENSOR];
    if (cudaMemcpy(o, memory->base + 3 * TENSOR, TENSOR, cudaMemcpyDeviceToHost) != cudaSuccess)
        return false;
    for (uint64_t i = 0; i < ELEMENTS; i++)
        if (!(check_value(ATTN_DTYPE_F16, o, i) > value - 0.01 && check_value(ATTN_DTYPE_F16, o, i) < value + 0.01))
            return false;
    return true;
}

static attn_client_request_t request_of(char *base)
{
    return (attn_client_request_t){.variant = "auto",
                                   .spec = {.dtype = ATTN_DTYPE_F16,
                                            .layout = ATTN_LAYOUT_BSHD,
                                            .batch = 1,
                                            .h_q = H,
                                            .h_kv = H,
                                            .d = D,
                                            .s_q = S,
                                            .s_kv = S},
                                   .q = base,
                                   .k = base + TENSOR,
                                   .v = base + 2 * TENSOR,
                                   .o = base + 3 * TENSOR};
}

static void memory_make(memory_t *memory)
{
    cudaIpcMemHandle_t handle;
    attn_client_error_t err = {0};
    good(cudaMalloc((void **)&memory->base, 4 * TENSOR), "cudaMalloc");
    good(cudaMemset(memory->base, 0, 4 * TENSOR), "cudaMemset");
    good(cudaIpcGetMemHandle(&handle, memory->base), "cudaIpcGetMemHandle");
    check(attn_region_import_cuda_ipc(client, &handle, uuid, memory->base, 0, 4 * TENSOR, ATTN_REGION_READ_WRITE,
                                      &memory->region, &err) == ATTN_OK,
          "import: %s", err.error.message);
}

static void runs(memory_t *memory, float value, const char *after)
{
    attn_client_error_t err = {0};
    attn_client_answer_t answer = {0};
    attn_client_request_t request = request_of(memory->base);
    fill(memory, value, NULL);
    good(cudaDeviceSynchronize(), "synchronise");
    attn_status_t status = attn_client_run(client, &request, NULL, &answer, &err);
    check(status == ATTN_OK, "a request after %s: %s", after, err.error.message);
    check(holds(memory, value), "its answer lies in the client's memory, after %s", after);
    check(answer.copy_out_us == 0, "nothing is copied back: %llu us", (unsigned long long)answer.copy_out_us);
}

/* ---- handles that are no good ---- */

static void refused(attn_status_t status, const attn_client_error_t *err, const char *what)
{
    check(status != ATTN_OK && err->error.message[0] != '\0', "%s is refused with a sentence", what);
    printf("  %s: %s\n", what, err->error.message);
}

static void bad_handles(memory_t *memory)
{
    attn_client_error_t err;
    attn_region_t *region = NULL;
    attn_event_t *event = NULL;
    cudaIpcMemHandle_t handle, noise;
    good(cudaIpcGetMemHandle(&handle, memory->base), "cudaIpcGetMemHandle");
    memset(&noise, 0x5a, sizeof noise);
    refused(attn_region_import_cuda_ipc(client, &noise, uuid, memory->base, 0, 4096, ATTN_REGION_READ, &region, &err),
            &err, "a handle that is noise");
    refused(attn_region_import_cuda_ipc(client, &handle, uuid, memory->base, 0, UINT64_C(1) << 40, ATTN_REGION_READ,
                                        &region, &err),
            &err, "a region larger than its allocation");
    refused(attn_region_import_cuda_ipc(client, &handle, uuid, memory->base, UINT64_C(1) << 40, 4096, ATTN_REGION_READ,
                                        &region, &err),
            &err, "a region behind its allocation");
    refused(attn_region_import_cuda_ipc(client, &handle, "GPU-00000000-0000-0000-0000-000000000000", memory->base, 0,
                                        4096, ATTN_REGION_READ, &region, &err),
            &err, "another device");
    refused(attn_event_import(client, &noise, uuid, &event, &err), &err, "an event that is noise");
    int fd = memfd_create("not exported", MFD_CLOEXEC), ends[2] = {-1, -1};
    refused(attn_region_import_cuda_fd(client, fd, uuid, memory->base, 2 << 20, ATTN_REGION_READ, &region, &err), &err,
            "a memfd for exported memory");
    if (pipe(ends) == 0)
        refused(
            attn_region_import_cuda_fd(client, ends[0], uuid, memory->base, 2 << 20, ATTN_REGION_READ, &region, &err),
            &err, "a pipe for exported memory");
    close(fd);
    close(ends[0]);
    close(ends[1]);
    runs(memory, 1.5f, "handles that are no good");
}

/* A child exports memory and ends: at once, or after `ms`. */
static pid_t exporter(int ms, cudaIpcMemHandle_t *ret)
{
    int ends[2];
    if (pipe(ends) != 0)
        return -1;
    pid_t child = fork();
    if (child == 0) {
        char *own = NULL, seconds[16];
        snprintf(seconds, sizeof seconds, "%d", ms);
        dup2(ends[1], 1);
        own = realpath("/proc/self/exe", NULL);
        execl(own, own, "--export", seconds, NULL);
        _exit(1);
    }
    close(ends[1]);
    bool got = read(ends[0], ret, sizeof *ret) == (ssize_t)sizeof *ret;
    close(ends[0]);
    check(got, "another process exports memory");
    return child;
}

static int export_main(const char *ms)
{
    char *base = NULL;
    cudaIpcMemHandle_t handle;
    if (cudaMalloc((void **)&base, 4 * TENSOR) != cudaSuccess || cudaIpcGetMemHandle(&handle, base) != cudaSuccess ||
        write(1, &handle, sizeof handle) != (ssize_t)sizeof handle)
        return 1;
    usleep((useconds_t)atoi(ms) * 1000);
    return 0;
}

static void exporters_that_leave(memory_t *memory)
{
    attn_client_error_t err = {0};
    attn_client_answer_t answer;
    attn_region_t *region = NULL;
    cudaIpcMemHandle_t handle;
    char *place = mmap(NULL, 4 * TENSOR, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    pid_t child = exporter(0, &handle);
    waitpid(child, NULL, 0);
    refused(
        attn_region_import_cuda_ipc(client, &handle, uuid, place, 0, 4 * TENSOR, ATTN_REGION_READ_WRITE, &region, &err),
        &err, "a handle of a process that is gone");
    child = exporter(60000, &handle);
    check(attn_region_import_cuda_ipc(client, &handle, uuid, place, 0, 4 * TENSOR, ATTN_REGION_READ_WRITE, &region,
                                      &err) == ATTN_OK,
          "memory of a third process: %s", err.error.message);
    attn_client_request_t request = request_of(place);
    check(attn_client_run(client, &request, NULL, &answer, &err) == ATTN_OK, "and a request in it: %s",
          err.error.message);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    worker_kill();
    runs(memory, 2.5f, "the worker was killed");
    refused(attn_client_run(client, &request, NULL, &answer, &err), &err,
            "a region that the new worker could not open");
    runs(memory, 3.5f, "a lost region was used");
    attn_region_release(region);
    munmap(place, 4 * TENSOR);
}

/* ---- order ---- */

static void stand_still(void *arg)
{
    usleep((useconds_t)(uintptr_t)arg * 1000);
}

typedef struct shared_event {
    cudaEvent_t event;
    attn_event_t *imported;
} shared_event_t;

static void event_make(shared_event_t *event)
{
    cudaIpcEventHandle_t handle;
    attn_client_error_t err = {0};
    good(cudaEventCreateWithFlags(&event->event, cudaEventDisableTiming | cudaEventInterprocess), "cudaEventCreate");
    good(cudaIpcGetEventHandle(&handle, event->event), "cudaIpcGetEventHandle");
    check(attn_event_import(client, &handle, uuid, &event->imported, &err) == ATTN_OK, "event: %s", err.error.message);
}

/* A stranger's request is not held up by an event that is not reached. */
static void stranger_runs(void)
{
    attn_client_error_t err = {0};
    attn_client_t *stranger = client_open();
    static unsigned char host[4 * TENSOR];
    attn_client_request_t request = request_of((char *)host);
    attn_client_run(stranger, &request, NULL, NULL, &err); /* its region is made by the first */
    double began = check_now_ms();
    check(attn_client_run(stranger, &request, NULL, NULL, &err) == ATTN_OK, "a stranger's request: %s",
          err.error.message);
    check(check_now_ms() - began < 50, "it took %.1f ms", check_now_ms() - began);
    attn_client_close(stranger);
}

static void order_with_a_stream(memory_t *memory)
{
    attn_client_error_t err = {0};
    attn_client_answer_t answer;
    attn_job_t *job = NULL;
    shared_event_t before, after;
    cudaStream_t stream;
    good(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
    event_make(&before);
    event_make(&after);
    runs(memory, 1.0f, "events were made");
    /* The values come 600 ms after the request. */
    attn_client_request_t request = request_of(memory->base);
    request.wait_event = before.imported;
    request.signal_event = after.imported;
    double began = check_now_ms();
    good(cudaLaunchHostFunc(stream, stand_still, (void *)(uintptr_t)600), "host function");
    fill(memory, 7.0f, stream);
    good(cudaEventRecord(before.event, stream), "record");
    check(attn_client_submit(client, &request, NULL, &job, &err) == ATTN_OK, "submit: %s", err.error.message);
    stranger_runs();
    check(attn_job_wait(job, 20, &answer, &err) == ATTN_ERR_TIMEOUT, "it waits for the event");
    check(attn_job_wait(job, 20000, &answer, &err) == ATTN_OK, "it ends: %s", err.error.message);
    check(check_now_ms() - began > 550, "after %.1f ms", check_now_ms() - began);
    attn_job_free(job);
    check(holds(memory, 7.0f), "it read what the stream wrote");
    check(cudaEventQuery(after.event) == cudaSuccess, "the event behind it is reached");
    good(cudaStreamWaitEvent(stream, after.event, 0), "wait for it");
    good(cudaStreamSynchronize(stream), "and synchronise");
    /* An event that comes too late, and one that is given up. */
    good(cudaLaunchHostFunc(stream, stand_still, (void *)(uintptr_t)800), "host function");
    good(cudaEventRecord(before.event, stream), "record");
    request.deadline_ms = 100;
    began = check_now_ms();
    check(attn_client_run(client, &request, NULL, &answer, &err) == ATTN_ERR_DEADLINE_EXCEEDED, "deadline: %s",
          err.error.message);
    check(check_now_ms() - began < 400, "after %.1f ms", check_now_ms() - began);
    request.deadline_ms = 0;
    check(attn_client_submit(client, &request, NULL, &job, &err) == ATTN_OK, "submit: %s", err.error.message);
    attn_job_cancel(job);
    check(attn_job_wait(job, 400, &answer, &err) == ATTN_ERR_CANCELLED, "cancelled: %s", err.error.message);
    attn_job_free(job);
    good(cudaStreamSynchronize(stream), "synchronise");
    check(attn_client_run(client, &request, NULL, &answer, &err) == ATTN_OK, "the event is reached by now: %s",
          err.error.message);
    attn_event_release(before.imported);
    attn_event_release(after.imported);
}

int main(int argc, char **argv)
{
    struct cudaDeviceProp about;
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
        printf("skipped: no GPU\n");
        return 77;
    }
    if (argc == 3 && strcmp(argv[1], "--export") == 0)
        return export_main(argv[2]);
    if (!good(cudaGetDeviceProperties(&about, 0), "the device"))
        return check_finish();
    const unsigned char *id = (const unsigned char *)about.uuid.bytes;
    int used = snprintf(uuid, sizeof uuid, "GPU-");
    for (int i = 0; i < 16; i++)
        used += snprintf(uuid + used, sizeof uuid - (size_t)used, "%02x%s", id[i],
                         i == 3 || i == 5 || i == 7 || i == 9 ? "-" : "");
    char *own = realpath("/proc/self/exe", NULL);
    daemon_start(argc > 1 ? argv[1] : dirname(own));
    for (int tries = 0; tries < 300 && access(socket_path, F_OK) != 0; tries++)
        usleep(50000);
    client = client_open();
    /* The worker is up when a request is answered. */
    static unsigned char host[4 * TENSOR];
    attn_client_request_t request = request_of((char *)host);
    attn_client_error_t err = {0};
    if (check(client && attn_client_run(client, &request, NULL, NULL, &err) == ATTN_OK, "a first request: %s",
              err.error.message)) {
        memory_t memory;
        memory_make(&memory);
        runs(&memory, 0.5f, "nothing");
        bad_handles(&memory);
        order_with_a_stream(&memory);
        exporters_that_leave(&memory);
        attn_region_release(memory.region);
        good(cudaFree(memory.base), "freed after its release");
    }
    attn_client_close(client);
    kill(daemon_pid, SIGTERM);
    int status = 0;
    waitpid(daemon_pid, &status, 0);
    check(WIFEXITED(status) && WEXITSTATUS(status) == 0, "attnd ends well");
    free(own);
    return check_finish();
}
