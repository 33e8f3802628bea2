/* worker/main.c: attn-worker: opens one device, says hello, runs jobs from the ring. Started by attnd only, with the
 * descriptors of worker/wire.h; `attn-worker --list-devices` prints the GPUs that it could open. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "worker/engine.h"
#include "worker/loop.h"

typedef struct options {
    const char *device;
    attn_variant_class_t run_class;
    pid_t parent;
    bool list;
} options_t;

static bool options_parse(int argc, char **argv, options_t *ret)
{
    options_t options = {.run_class = ATTN_CLASS_SERVE};
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(argv[i], "--list-devices") == 0) {
            options.list = true;
            continue;
        }
        if (!value)
            return false;
        i++;
        if (strcmp(argv[i - 1], "--device") == 0)
            options.device = value;
        else if (strcmp(argv[i - 1], "--class") == 0 && strcmp(value, "serve") == 0)
            options.run_class = ATTN_CLASS_SERVE;
        else if (strcmp(argv[i - 1], "--class") == 0 && strcmp(value, "lab") == 0)
            options.run_class = ATTN_CLASS_LAB;
        else if (strcmp(argv[i - 1], "--parent") == 0)
            options.parent = (pid_t)atol(value);
        else
            return false;
    }
    if (!options.list && (!options.device || options.parent <= 0))
        return false;
    *ret = options;
    return true;
}

#ifdef ATTN_HAVE_CUDA
static void device_print(const char *uuid, int index, const char *name, void *arg)
{
    (void)arg;
    printf("%s %d %s\n", uuid, index, name);
}
#endif

static const attn_engine_ops_t *engine_choose(const char *device, attn_error_t *err)
{
    if (strcmp(device, "cpu") == 0)
        return &attn_engine_cpu;
    if (strcmp(device, "null") == 0)
        return &attn_engine_null;
#ifdef ATTN_HAVE_CUDA
    return &attn_engine_cuda;
#else
    attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "this build has no CUDA; use --devices cpu");
    return NULL;
#endif
}

static void file_write(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    if (write(fd, text, strlen(text)) < 0)
        errno = 0; /* refused in some sandboxes; nothing depends on it */
    close(fd);
}

/* Ends with its parent, whatever happens to it; dies rather than the front when memory runs out; leaves no core: one
 * of a worker with gigabytes mapped takes seconds to write, and a worker is reaped only after that. (A limit of one
 * byte, because a core_pattern that is a pipe ignores a limit of zero.) */
static void process_setup(const options_t *options)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != options->parent)
        _exit(0); /* it ended before the line above */
    struct rlimit core = {1, 1};
    setrlimit(RLIMIT_CORE, &core);
    file_write("/proc/self/oom_score_adj", options->run_class == ATTN_CLASS_LAB ? "800" : "500");
    signal(SIGPIPE, SIG_IGN);
    /* A stop of the whole service or container reaches workers too, and they are needed for the drain: they end when
     * the front closes the control socket, or by SIGKILL. */
    signal(SIGTERM, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    setvbuf(stderr, NULL, _IOLBF, 0);
    prctl(PR_SET_TIMERSLACK, 1000); /* ns: naps beside the device are 20 us */
}

static attn_status_t worker_open(const options_t *options, attn_loop_t *loop, attn_engine_about_t *ret_about,
                                 attn_error_t *err)
{
    attn_status_t status = attn_ring_attach(ATTN_WORKER_FD_RING, &loop->ring, err);
    if (status == ATTN_OK)
        status = attn_loop_heartbeat(loop, err);
    if (status == ATTN_OK)
        status = attn_memory_open(options->run_class, ATTN_WORKER_FD_INPUT, ATTN_WORKER_FD_OUTPUT, &loop->memory, err);
    static attn_client_memory_t *clients; /* for the length of the process */
    if (status == ATTN_OK)
        status = attn_client_memory_open(options->run_class, ATTN_WORKER_FD_REGIONS, &clients, err);
    if (status != ATTN_OK)
        return status;
    attn_memory_clients(loop->memory, clients);
    loop->ops = engine_choose(options->device, err);
    if (!loop->ops)
        return ATTN_ERR_INVALID_ARGUMENT;
    attn_engine_setup_t setup = {options->run_class, options->device, loop->memory};
    status = loop->ops->open(&setup, &loop->engine, ret_about, err);
    if (status == ATTN_OK)
        status = attn_client_memory_start(clients, &loop->ops->client_memory, loop->engine, err);
    return status;
}

static int hello_send(const attn_loop_t *loop, const attn_engine_about_t *about, attn_status_t status,
                      const attn_error_t *err)
{
    static attn_wire_hello_t hello;
    hello.magic = ATTN_WIRE_MAGIC;
    hello.version = ATTN_WIRE_VERSION;
    hello.status = status;
    snprintf(hello.build, sizeof hello.build, "%s", ATTND_VERSION);
    if (status != ATTN_OK) {
        snprintf(hello.message, sizeof hello.message, "%s", err->message);
    } else {
        hello.device = about->device;
        memcpy(hello.driver, about->driver, sizeof hello.driver);
        hello.sm_clock_mhz = about->sm_clock_mhz;
        hello.mem_clock_mhz = about->mem_clock_mhz;
        size_t count;
        const attn_variant_info_t *const *table = attn_variant_table(&count);
        for (size_t i = 0; i < count && hello.variant_count < ATTN_WIRE_VARIANTS_MAX; i++)
            if (loop->ops->has(loop->engine, table[i]->name))
                snprintf(hello.variants[hello.variant_count++], ATTN_WIRE_NAME_MAX, "%s", table[i]->name);
    }
    return send(ATTN_WORKER_FD_CONTROL, &hello, sizeof hello, MSG_NOSIGNAL) == (ssize_t)sizeof hello ? 0 : -1;
}

int main(int argc, char **argv)
{
    options_t options;
    if (!options_parse(argc, argv, &options)) {
        fprintf(stderr, "attn-worker is started by attnd; by hand only: attn-worker --list-devices\n");
        return 2;
    }
    if (options.list) {
#ifdef ATTN_HAVE_CUDA
        attn_engine_cuda_list(device_print, NULL);
#endif
        return fflush(stdout) == 0 ? 0 : 1;
    }
    process_setup(&options);
    static attn_loop_t loop;
    attn_engine_about_t about = {0};
    attn_error_t err = {0};
    attn_status_t status = worker_open(&options, &loop, &about, &err);
    if (hello_send(&loop, &about, status, &err) != 0 || status != ATTN_OK)
        return 1;
    attn_loop_run(&loop);
    return 1; /* the device is unusable: the front starts another worker */
}
