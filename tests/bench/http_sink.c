/* tests/bench/http_sink.c: the peer of upload_bench.py: a libmicrohttpd server that does nothing but copy each body
 * once into a buffer that was touched before, and answer with a line.
 *
 *     http_sink --port 8100 [--threads 2] [--mib 64]
 */
#include <arpa/inet.h>
#include <microhttpd.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define BUFFERS 40

static struct {
    pthread_mutex_t lock;
    size_t bytes;
    char *free_buffers[BUFFERS];
    unsigned free_count;
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER};

typedef struct upload {
    char *buffer;
    size_t used;
} upload_t;

static char *buffer_take(void)
{
    pthread_mutex_lock(&pool.lock);
    char *buffer = pool.free_count > 0 ? pool.free_buffers[--pool.free_count] : NULL;
    pthread_mutex_unlock(&pool.lock);
    return buffer;
}

static void buffer_give(char *buffer)
{
    pthread_mutex_lock(&pool.lock);
    pool.free_buffers[pool.free_count++] = buffer;
    pthread_mutex_unlock(&pool.lock);
}

static enum MHD_Result access_handler(void *cls, struct MHD_Connection *connection, const char *url, const char *method,
                                      const char *version, const char *data, size_t *bytes, void **con_cls)
{
    upload_t *upload = *con_cls;
    if (upload == NULL) {
        upload = calloc(1, sizeof *upload);
        if (upload == NULL || (upload->buffer = buffer_take()) == NULL) {
            free(upload);
            return MHD_NO;
        }
        *con_cls = upload;
        return MHD_YES;
    }
    if (*bytes > 0) {
        if (*bytes > pool.bytes - upload->used) {
            return MHD_NO;
        }
        memcpy(upload->buffer + upload->used, data, *bytes);
        upload->used += *bytes;
        *bytes = 0;
        return MHD_YES;
    }
    static char answer[] = "taken\n";
    struct MHD_Response *response = MHD_create_response_from_buffer(sizeof answer - 1, answer, MHD_RESPMEM_PERSISTENT);
    enum MHD_Result result = MHD_queue_response(connection, 200, response);
    MHD_destroy_response(response);
    return result;
}

static void completed(void *cls, struct MHD_Connection *connection, void **con_cls,
                      enum MHD_RequestTerminationCode code)
{
    upload_t *upload = *con_cls;
    if (upload != NULL) {
        buffer_give(upload->buffer);
        free(upload);
        *con_cls = NULL;
    }
}

int main(int argc, char **argv)
{
    unsigned long port = 0, threads = 2, mib = 65;
    for (int i = 1; i + 1 < argc; i += 2) {
        unsigned long value = strtoul(argv[i + 1], NULL, 10);
        if (strcmp(argv[i], "--port") == 0) {
            port = value;
        } else if (strcmp(argv[i], "--threads") == 0) {
            threads = value;
        } else if (strcmp(argv[i], "--mib") == 0) {
            mib = value + 1;
        }
    }
    if (port == 0 || port > 65535) {
        fprintf(stderr, "http_sink: give --port 1..65535\n");
        return 2;
    }
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    pool.bytes = mib << 20;
    for (unsigned i = 0; i < BUFFERS; i++) {
        char *buffer = mmap(NULL, pool.bytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | (i < 4 ? MAP_POPULATE : 0), -1, 0);
        if (buffer == MAP_FAILED) {
            perror("http_sink: mmap");
            return 1;
        }
        pool.free_buffers[pool.free_count++] = buffer;
    }
    /* The touched ones are taken first. */
    for (unsigned i = 0; i < BUFFERS / 2; i++) {
        char *swap = pool.free_buffers[i];
        pool.free_buffers[i] = pool.free_buffers[BUFFERS - 1 - i];
        pool.free_buffers[BUFFERS - 1 - i] = swap;
    }
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct MHD_Daemon *daemon =
        MHD_start_daemon(MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, access_handler, NULL,
                         MHD_OPTION_SOCK_ADDR, &address, MHD_OPTION_THREAD_POOL_SIZE, (unsigned)threads,
                         MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)(64 * 1024), MHD_OPTION_NOTIFY_COMPLETED,
                         completed, NULL, MHD_OPTION_END);
    if (daemon == NULL) {
        fprintf(stderr, "http_sink: cannot listen on port %lu\n", port);
        return 1;
    }
    int signal_number;
    sigwait(&signals, &signal_number);
    MHD_stop_daemon(daemon);
    return 0;
}
