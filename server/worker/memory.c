/* worker/memory.c: see memory.h. */
#include "worker/memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

enum { PLACES = 6, GUARD = 16 * 4096 };

typedef struct region {
    int fd;
    uint64_t bytes;
    char *map; /* NULL in the lab class */
} region_t;

struct attn_memory {
    attn_variant_class_t run_class;
    region_t region[ATTN_REGION_OUTPUT + 1];
    attn_client_memory_t *clients; /* NULL: there are none */
};

typedef struct need {
    const attn_place_t *place;
    void **ret;
    bool writes;
    attn_client_region_t *client; /* where it lies, when in a client's region */
} need_t;

static attn_status_t region_open(attn_memory_t *memory, uint32_t number, int fd, int protection, attn_error_t *err)
{
    region_t *region = &memory->region[number];
    struct stat about;
    if (fstat(fd, &about) != 0)
        return attn_error_set(err, ATTN_ERR_SYSTEM, "cannot ask an arena's size: %s", strerror(errno));
    region->fd = fd;
    region->bytes = (uint64_t)about.st_size;
    if (memory->run_class != ATTN_CLASS_SERVE)
        return ATTN_OK;
    char *map = mmap(NULL, region->bytes, protection, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (map == MAP_FAILED)
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "cannot map an arena of %llu bytes: %s",
                              (unsigned long long)region->bytes, strerror(errno));
    region->map = map;
    return ATTN_OK;
}

attn_status_t attn_memory_open(attn_variant_class_t run_class, int input_fd, int output_fd, attn_memory_t **ret,
                               attn_error_t *err)
{
    attn_memory_t *memory = calloc(1, sizeof *memory);
    if (!memory)
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for a worker's view of the arenas");
    memory->run_class = run_class;
    attn_status_t status = region_open(memory, ATTN_REGION_INPUT, input_fd, PROT_READ, err);
    if (status == ATTN_OK)
        status = region_open(memory, ATTN_REGION_OUTPUT, output_fd, PROT_READ | PROT_WRITE, err);
    if (status != ATTN_OK) {
        attn_memory_close(memory);
        return status;
    }
    *ret = memory;
    return ATTN_OK;
}

void attn_memory_close(attn_memory_t *memory)
{
    if (!memory)
        return;
    for (uint32_t i = 0; i <= ATTN_REGION_OUTPUT; i++)
        if (memory->region[i].map)
            munmap(memory->region[i].map, memory->region[i].bytes);
    free(memory);
}

void *attn_memory_arena(const attn_memory_t *memory, uint32_t region, uint64_t *ret_bytes)
{
    bool known = region == ATTN_REGION_INPUT || region == ATTN_REGION_OUTPUT;
    *ret_bytes = known && memory->region[region].map ? memory->region[region].bytes : 0;
    return known ? memory->region[region].map : NULL;
}

int attn_memory_fd(const attn_memory_t *memory, uint32_t region)
{
    uint64_t bytes;
    return attn_memory_arena(memory, region, &bytes) ? memory->region[region].fd : -1;
}

void attn_memory_clients(attn_memory_t *memory, attn_client_memory_t *clients)
{
    memory->clients = clients;
}

static bool needs_window(const attn_memory_t *memory, const need_t *need)
{
    if (need->place->region == ATTN_REGION_NONE || (need->client && need->client->about.kind != ATTN_REGION_HOST))
        return false;
    return memory->run_class != ATTN_CLASS_SERVE || (need->writes && need->place->region == ATTN_REGION_INPUT);
}

static attn_status_t client_check(const attn_memory_t *memory, need_t *need, attn_error_t *err)
{
    const attn_place_t *place = need->place;
    if (!memory->clients)
        return attn_error_set(err, ATTN_ERR_INTERNAL, "a tensor's place is in a region that this worker was not given");
    attn_status_t status = attn_client_memory_find(memory->clients, place->region, &need->client, err);
    if (status != ATTN_OK)
        return status;
    const attn_region_order_t *about = &need->client->about;
    if (about->kind == ATTN_REGION_EVENT || (need->writes && !about->writable) || place->bytes > about->bytes ||
        place->offset > about->bytes - place->bytes)
        return attn_error_set(err, ATTN_ERR_INTERNAL, "a tensor's place lies outside its region");
    return ATTN_OK;
}

static attn_status_t place_check(const attn_memory_t *memory, const attn_place_t *place, attn_error_t *err)
{
    if (place->region == ATTN_REGION_NONE)
        return ATTN_OK;
    if (place->region > ATTN_REGION_OUTPUT || place->offset % ATTN_WIRE_PAGE != 0 ||
        place->bytes > memory->region[place->region].bytes ||
        place->offset > memory->region[place->region].bytes - place->bytes)
        return attn_error_set(err, ATTN_ERR_INTERNAL, "a tensor's place lies outside the daemon's memory");
    return ATTN_OK;
}

/* A client's tensor need not begin with a page. */
static uint64_t window_bytes(const attn_place_t *place)
{
    return ATTN_WIRE_ROUND(place->offset % ATTN_WIRE_PAGE + place->bytes);
}

/* One reservation without access for all windows of the job; each place is mapped into it with guards around. */
static attn_status_t windows_map(const attn_memory_t *memory, const need_t *needs, attn_memory_window_t *ret,
                                 attn_error_t *err)
{
    uint64_t total = GUARD;
    for (int i = 0; i < PLACES; i++)
        if (needs_window(memory, &needs[i]))
            total += window_bytes(needs[i].place) + GUARD;
    if (total == GUARD)
        return ATTN_OK;
    char *at = mmap(NULL, total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no address space for a job's tensors: %s", strerror(errno));
    *ret = (attn_memory_window_t){at, total};
    at += GUARD;
    for (int i = 0; i < PLACES; i++) {
        if (!needs_window(memory, &needs[i]))
            continue;
        const attn_place_t *place = needs[i].place;
        uint64_t bytes = window_bytes(place), before = place->offset % ATTN_WIRE_PAGE;
        int protection = needs[i].writes ? PROT_READ | PROT_WRITE : PROT_READ;
        int fd = needs[i].client ? needs[i].client->fd : memory->region[place->region].fd;
        if (bytes > 0 &&
            mmap(at, bytes, protection, MAP_SHARED | MAP_FIXED, fd, (off_t)(place->offset - before)) == MAP_FAILED) {
            attn_error_set(err, ATTN_ERR_NO_MEMORY, "cannot map a job's tensors: %s", strerror(errno));
            attn_memory_leave(ret);
            return ATTN_ERR_NO_MEMORY;
        }
        *needs[i].ret = at + before;
        at += bytes + GUARD;
    }
    return ATTN_OK;
}

static char *place_base(const attn_memory_t *memory, const need_t *need)
{
    if (!need->client)
        return memory->region[need->place->region].map;
    return need->client->about.kind == ATTN_REGION_HOST ? need->client->host : need->client->device;
}

attn_status_t attn_memory_enter(const attn_memory_t *memory, const attn_wire_job_t *job, attn_addresses_t *ret,
                                void **ret_truth, attn_client_region_t *ret_clients[ATTN_MEMORY_TENSORS],
                                attn_memory_window_t *ret_window, attn_error_t *err)
{
    *ret_window = (attn_memory_window_t){NULL, 0};
    attn_addresses_t found = {0};
    void *lse = NULL, *truth = NULL;
    bool fills = job->op == ATTN_OP_FILL, runs = job->op == ATTN_OP_RUN;
    if (memory->clients)
        attn_client_memory_used(memory->clients);
    need_t needs[PLACES] = {
        {&job->q, &found.q, fills, NULL}, {&job->k, &found.k, fills, NULL},
        {&job->v, &found.v, fills, NULL}, {&job->o, &found.o, runs, NULL},
        {&job->lse, &lse, runs, NULL},    {&job->truth, &truth, job->op == ATTN_OP_TRUTH, NULL},
    };
    for (int i = 0; i < PLACES; i++) {
        attn_status_t status = needs[i].place->region >= ATTN_REGION_CLIENT_FIRST
                                   ? client_check(memory, &needs[i], err)
                                   : place_check(memory, needs[i].place, err);
        if (status != ATTN_OK)
            return status;
    }
    attn_status_t status = windows_map(memory, needs, ret_window, err);
    if (status != ATTN_OK)
        return status;
    for (int i = 0; i < PLACES; i++)
        if (needs[i].place->region != ATTN_REGION_NONE && !needs_window(memory, &needs[i]))
            *needs[i].ret = place_base(memory, &needs[i]) + needs[i].place->offset;
    found.lse = lse;
    for (int i = 0; i < ATTN_MEMORY_TENSORS; i++)
        ret_clients[i] = needs[i].client;
    *ret = found;
    *ret_truth = truth;
    return ATTN_OK;
}

attn_status_t attn_memory_event(const attn_memory_t *memory, uint32_t number, void **ret, attn_error_t *err)
{
    attn_client_region_t *event;
    if (!memory->clients)
        return attn_error_set(err, ATTN_ERR_INTERNAL, "an event is not known to this worker");
    attn_status_t status = attn_client_memory_find(memory->clients, number, &event, err);
    if (status == ATTN_OK && event->about.kind != ATTN_REGION_EVENT)
        status = attn_error_set(err, ATTN_ERR_INTERNAL, "what should be an event is not one");
    if (status == ATTN_OK)
        *ret = event->engine;
    return status;
}

void attn_memory_leave(attn_memory_window_t *window)
{
    if (window->map)
        munmap(window->map, window->bytes);
    *window = (attn_memory_window_t){NULL, 0};
}
