/* fake_door.c: see fake_door.h. A thread accepts, and each connection has one, which owns everything of it. */
#include "fake_door.h"

#include <check.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "attn/spec.h"
#include "attn/v1/shm_ring.h"
#include "attn/v1/socket.pb-c.h"

#define CONNECTIONS_MAX 64
#define REGIONS_MAX 256
#define HELD_MAX 256

struct fake_door {
    int listener;
    fake_door_manner_t *manner;
    fake_door_seen_t *seen;
    pthread_t acceptor, threads[CONNECTIONS_MAX];
    _Atomic uint32_t count;
    _Atomic bool stopping;
    char path[108];
};

typedef struct region {
    char name[64];
    uint32_t id;
    uint8_t *base;
    uint64_t bytes;
    int fd;
    bool mapped;
} region_t;

typedef struct side {
    fake_door_t *door;
    int fd;
    bool over;
    region_t regions[REGIONS_MAX];
    uint32_t region_count;
    attn_shm_header_t *ring;
    uint64_t ring_bytes, head, tail;
    int doorbell, wake[2];
    attn_shm_completion_t held[HELD_MAX]; /* of the ring, or with text_items 999 of messages */
    uint32_t held_count;
} side_t;

static void answer_send(side_t *side, Attn__V1__SocketAnswer *answer, const int *fds, int fd_count)
{
    uint8_t buffer[8192];
    size_t size = attn__v1__socket_answer__pack(answer, buffer);
    struct iovec part = {buffer, size};
    char control[CMSG_SPACE(4 * sizeof(int))] = {0};
    struct msghdr packet = {.msg_iov = &part, .msg_iovlen = 1};
    if (fd_count > 0) {
        packet.msg_control = control;
        packet.msg_controllen = CMSG_SPACE((size_t)fd_count * sizeof(int));
        struct cmsghdr *head = CMSG_FIRSTHDR(&packet);
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN((size_t)fd_count * sizeof(int));
        memcpy(CMSG_DATA(head), fds, (size_t)fd_count * sizeof(int));
    }
    (void)!sendmsg(side->fd, &packet, MSG_NOSIGNAL);
}

static void error_send(side_t *side, uint64_t tag, const char *code, const char *sentence, const char *missing)
{
    Attn__V1__SocketAnswer answer = ATTN__V1__SOCKET_ANSWER__INIT;
    Attn__V1__Error error = ATTN__V1__ERROR__INIT;
    char *items[2] = {(char *)(uintptr_t)missing, (char *)(uintptr_t) "device: it is asleep"};
    error.error = (char *)(uintptr_t)sentence;
    error.code = (char *)(uintptr_t)code;
    error.n_missing = missing != NULL ? 2 : 0;
    error.missing = items;
    answer.tag = tag;
    answer.what_case = ATTN__V1__SOCKET_ANSWER__WHAT_ERROR;
    answer.error = &error;
    answer_send(side, &answer, NULL, 0);
}

static void welcome(side_t *side, uint64_t tag)
{
    Attn__V1__SocketAnswer answer = ATTN__V1__SOCKET_ANSWER__INIT;
    Attn__V1__Welcome welcome = ATTN__V1__WELCOME__INIT;
    Attn__V1__SocketDevice device = ATTN__V1__SOCKET_DEVICE__INIT;
    Attn__V1__SocketDevice *devices[1] = {&device};
    device.uuid = device.kind = device.name = (char *)(uintptr_t) "fake";
    device.ready = 1;
    welcome.version = side->door->manner->version != 0 ? side->door->manner->version : 1;
    welcome.alignment = 16;
    welcome.max_ring_entries = 1024;
    welcome.max_in_flight = 16;
    welcome.n_devices = 1;
    welcome.devices = devices;
    answer.tag = tag;
    answer.what_case = ATTN__V1__SOCKET_ANSWER__WHAT_WELCOME;
    answer.welcome = &welcome;
    answer_send(side, &answer, NULL, 0);
}

static void region_answer(side_t *side, uint64_t tag, region_t *region, const char *name, int fd)
{
    Attn__V1__SocketAnswer answer = ATTN__V1__SOCKET_ANSWER__INIT;
    Attn__V1__RegionRegistered registered = ATTN__V1__REGION_REGISTERED__INIT;
    atomic_fetch_add(&side->door->seen->registrations, 1);
    snprintf(region->name, sizeof region->name, "%s", name);
    registered.id = region->id;
    registered.bytes = region->bytes;
    answer.tag = tag;
    answer.what_case = ATTN__V1__SOCKET_ANSWER__WHAT_REGION_REGISTERED;
    answer.region_registered = &registered;
    answer_send(side, &answer, &fd, fd >= 0 ? 1 : 0);
}

static void event_register(side_t *side, uint64_t tag, const Attn__V1__RegisterEvent *asked)
{
    Attn__V1__SocketAnswer answer = ATTN__V1__SOCKET_ANSWER__INIT;
    Attn__V1__EventRegistered registered = ATTN__V1__EVENT_REGISTERED__INIT;
    ck_assert_str_eq(asked->device, FAKE_DEVICE);
    ck_assert_uint_eq(asked->handle.len, 64);
    ck_assert_uint_eq(asked->handle.data[63], FAKE_FLIP);
    registered.id = 70 + atomic_fetch_add(&side->door->seen->events, 1);
    answer.tag = tag;
    answer.what_case = ATTN__V1__SOCKET_ANSWER__WHAT_EVENT_REGISTERED;
    answer.event_registered = &registered;
    answer_send(side, &answer, NULL, 0);
}

static void region_register(side_t *side, uint64_t tag, const Attn__V1__RegisterRegion *asked, int fd)
{
    bool allocate = asked->memory_case == ATTN__V1__REGISTER_REGION__MEMORY_ALLOCATE;
    region_t *region = &side->regions[side->region_count];
    struct stat about;
    if (side->door->manner->refuse_regions) {
        error_send(side, tag, "TOO_LARGE", "no region fits here", NULL);
        close(fd);
        return;
    }
    ck_assert_uint_lt(side->region_count, REGIONS_MAX);
    if (asked->memory_case == ATTN__V1__REGISTER_REGION__MEMORY_CUDA_IPC) {
        uint8_t *allocation;
        ck_assert_int_eq(fd, -1);
        ck_assert_str_eq(asked->cuda_ipc->device, FAKE_DEVICE);
        ck_assert_uint_eq(asked->cuda_ipc->handle.len, 64);
        memcpy(&allocation, asked->cuda_ipc->handle.data, sizeof allocation);
        side->region_count++;
        *region = (region_t){.id = side->region_count,
                             .base = allocation + asked->cuda_ipc->base_offset,
                             .bytes = asked->cuda_ipc->bytes,
                             .fd = -1};
        region_answer(side, tag, region, asked->name, -1);
        return;
    }
    if (asked->memory_case == ATTN__V1__REGISTER_REGION__MEMORY_VMM_FD) {
        ck_assert_str_eq(asked->vmm_fd->device, FAKE_DEVICE);
    }
    if (allocate) {
        fd = memfd_create("fake", MFD_CLOEXEC);
        ck_assert_int_eq(ftruncate(fd, (off_t)asked->allocate->bytes), 0);
    }
    ck_assert_int_eq(fstat(fd, &about), 0);
    side->region_count++;
    *region = (region_t){.id = side->region_count, .bytes = (uint64_t)about.st_size, .fd = fd, .mapped = true};
    int protection = asked->access == ATTN__V1__REGION_ACCESS__REGION_ACCESS_READ ? PROT_READ : PROT_READ | PROT_WRITE;
    region->base = mmap(NULL, region->bytes, protection, MAP_SHARED, fd, 0);
    ck_assert(region->base != MAP_FAILED);
    region_answer(side, tag, region, asked->name, allocate ? fd : -1);
}

static void ring_open(side_t *side, uint64_t tag, uint32_t entries)
{
    const fake_door_manner_t *manner = side->door->manner;
    Attn__V1__SocketAnswer answer = ATTN__V1__SOCKET_ANSWER__INIT;
    Attn__V1__RingOpened opened = ATTN__V1__RING_OPENED__INIT;
    if (manner->no_ring) {
        error_send(side, tag, "UNIMPLEMENTED", "no ring here", NULL);
        return;
    }
    uint64_t submissions = 4096, completions = submissions + entries * sizeof(attn_shm_submission_t);
    side->ring_bytes = completions + entries * sizeof(attn_shm_completion_t);
    int memory = memfd_create("ring", MFD_CLOEXEC);
    ck_assert_int_eq(ftruncate(memory, (off_t)side->ring_bytes), 0);
    side->ring = mmap(NULL, side->ring_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    ck_assert(side->ring != MAP_FAILED);
    side->ring->magic = ATTN_SHM_MAGIC + manner->wrong_magic;
    side->ring->version = ATTN_SHM_VERSION;
    side->ring->entries = entries;
    side->ring->submission_bytes = sizeof(attn_shm_submission_t);
    side->ring->completion_bytes = sizeof(attn_shm_completion_t);
    side->ring->submissions = submissions;
    side->ring->completions = manner->far_array ? UINT64_MAX - 63 : completions;
    side->doorbell = eventfd(0, EFD_NONBLOCK);
    ck_assert_int_eq(pipe2(side->wake, O_CLOEXEC | O_NONBLOCK), 0);
    opened.entries = entries;
    opened.bytes = side->ring_bytes;
    answer.tag = tag;
    answer.what_case = ATTN__V1__SOCKET_ANSWER__WHAT_RING_OPENED;
    answer.ring_opened = &opened;
    answer_send(side, &answer, (int[]){memory, side->doorbell, side->wake[0]}, 3);
    close(memory);
}

static void completion_push(side_t *side, const attn_shm_completion_t *completion)
{
    attn_shm_header_t *ring = side->ring;
    attn_shm_completion_t *array = (void *)((char *)ring + 4096 + ring->entries * sizeof(attn_shm_submission_t));
    array[side->tail % ring->entries] = *completion;
    side->tail++;
    atomic_store(&ring->complete_tail, side->tail + (side->door->manner->torn ? 5000 : 0));
    switch (atomic_exchange(&ring->complete_armed, ATTN_SHM_AWAKE)) {
    case ATTN_SHM_SLEEP_FUTEX:
        atomic_fetch_add(&ring->complete_futex, 1);
        syscall(SYS_futex, &ring->complete_futex, FUTEX_WAKE, 1, NULL, NULL, 0);
        break;
    case ATTN_SHM_SLEEP_PIPE:
        (void)!write(side->wake[1], "x", 1);
        break;
    default:
        break;
    }
}

#define BY_MESSAGE 999

static void completion_give(side_t *side, const attn_shm_completion_t *completion)
{
    if (completion->text_items != BY_MESSAGE) {
        completion_push(side, completion);
        return;
    }
    if (completion->status != 0) {
        error_send(side, completion->tag, attn_status_name((attn_status_t)completion->status), completion->text,
                   completion->status == ATTN_ERR_FAILED_PRECONDITION ? "dtype: of another kind" : NULL);
        return;
    }
    Attn__V1__SocketAnswer answer = ATTN__V1__SOCKET_ANSWER__INIT;
    Attn__V1__Submitted submitted = ATTN__V1__SUBMITTED__INIT;
    Attn__V1__AttentionResponse response = ATTN__V1__ATTENTION_RESPONSE__INIT;
    Attn__V1__Outcome outcome = ATTN__V1__OUTCOME__INIT;
    outcome.variant = outcome.device = (char *)(uintptr_t) "flip";
    outcome.reason = (char *)(uintptr_t)completion->text;
    outcome.batch_size = 1;
    response.id = (char *)(uintptr_t) "by-message";
    response.outcome = &outcome;
    submitted.response = &response;
    answer.tag = side->door->manner->wrong_tags ? completion->tag + 65536 : completion->tag;
    answer.what_case = ATTN__V1__SOCKET_ANSWER__WHAT_SUBMITTED;
    answer.submitted = &submitted;
    answer_send(side, &answer, NULL, 0);
    if (side->door->manner->wrong_tags) {
        answer.tag = completion->tag;
        answer_send(side, &answer, NULL, 0);
    }
}

static void completion_make(side_t *side, attn_shm_completion_t completion)
{
    const fake_door_manner_t *manner = side->door->manner;
    if (completion.status == 0 && completion.text[0] == '\0') {
        strcpy(completion.text, "because");
        strcpy(completion.variant, "flip");
        strcpy(completion.device, "fake");
        completion.batch_size = completion.attempts = 1;
    }
    if (manner->unended_text && completion.text_items != BY_MESSAGE) {
        memset(completion.text, 'x', sizeof completion.text);
        memset(completion.variant, 'y', sizeof completion.variant);
    }
    if (!manner->keep && manner->hold == 0) {
        completion_give(side, &completion);
        return;
    }
    ck_assert_uint_lt(side->held_count, HELD_MAX);
    side->held[side->held_count++] = completion;
    if (!manner->keep && side->held_count >= manner->hold) {
        while (side->held_count > 0) {
            completion_give(side, &side->held[--side->held_count]);
        }
    }
}

static bool cancel(side_t *side, uint64_t tag)
{
    atomic_fetch_add(&side->door->seen->cancels, 1);
    for (uint32_t i = 0; i < side->held_count; i++) {
        if (side->held[i].tag == tag) {
            attn_shm_completion_t completion = side->held[i];
            side->held[i] = side->held[--side->held_count];
            completion.status = ATTN_ERR_CANCELLED;
            strcpy(completion.text, "given up");
            completion_give(side, &completion);
            return true;
        }
    }
    return false;
}

/* One request: flips, or ends the connection, or refuses. */
static void run(side_t *side, attn_shm_completion_t completion, const uint8_t *q, uint8_t *o, uint64_t bytes,
                float *lse, uint64_t rows)
{
    const fake_door_manner_t *manner = side->door->manner;
    uint32_t number = atomic_fetch_add(&side->door->seen->runs, 1) + 1;
    if (manner->hang_up != 0 && number == manner->hang_up) {
        if (manner->say_goodbye) {
            error_send(side, 0, "UNAVAILABLE", "I am going home", NULL);
        }
        side->over = true;
        return;
    }
    if (manner->refuse_runs) {
        completion.status = ATTN_ERR_FAILED_PRECONDITION;
        static const char text[] = "variant 'flip' cannot do this\0dtype: of another kind\0device: it is asleep";
        memcpy(completion.text, text, sizeof text);
        completion.text_items = completion.text_items == BY_MESSAGE ? BY_MESSAGE : 3;
    } else {
        for (uint64_t i = 0; i < bytes; i++) {
            o[i] = q[i] ^ FAKE_FLIP;
        }
        for (uint64_t i = 0; lse != NULL && i < rows; i++) {
            lse[i] = (float)i;
        }
    }
    completion_make(side, completion);
}

static uint8_t *place(side_t *side, uint32_t id, uint64_t offset, uint64_t bytes)
{
    if (bytes == 0) {
        return NULL;
    }
    ck_assert(id > 0 && id <= side->region_count);
    region_t *region = &side->regions[id - 1];
    ck_assert_ptr_nonnull(region->base);
    ck_assert(offset % 16 == 0 && offset <= region->bytes && bytes <= region->bytes - offset);
    return region->base + offset;
}

static void record_take(side_t *side, const attn_shm_submission_t *record)
{
    attn_shm_completion_t completion = {.tag = record->tag, .text_items = 1};
    if (record->op == ATTN_SHM_NOP) {
        atomic_fetch_add(&side->door->seen->nops, 1);
        completion_push(side, &completion);
    } else if (record->op == ATTN_SHM_CANCEL) {
        completion.status = cancel(side, record->target) ? 0 : ATTN_ERR_NOT_FOUND;
        completion_push(side, &completion);
    } else {
        side->door->seen->wait_event = record->wait_event;
        side->door->seen->signal_event = record->signal_event;
        uint64_t rows = record->batch * record->s_q * record->h_q,
                 bytes = rows * record->d * attn_dtype_size(record->dtype);
        run(side, completion, place(side, record->q.region, record->q.offset, bytes),
            place(side, record->o.region, record->o.offset, bytes), bytes,
            record->flags & ATTN_SHM_RETURN_LSE
                ? (float *)(void *)place(side, record->lse.region, record->lse.offset, rows * 4)
                : NULL,
            rows);
    }
}

static uint32_t region_id(const side_t *side, const char *name)
{
    for (uint32_t i = 0; i < side->region_count; i++) {
        if (strcmp(side->regions[i].name, name) == 0) {
            return i + 1;
        }
    }
    return 0;
}

static void submit(side_t *side, uint64_t tag, const Attn__V1__Submit *submit)
{
    const Attn__V1__AttentionRequest *request = submit->request;
    const Attn__V1__RegionSlice *q = request->q->region, *o = request->o->region;
    attn_shm_completion_t completion = {.tag = tag, .text_items = BY_MESSAGE};
    atomic_fetch_add(&side->door->seen->by_message, 1);
    side->door->seen->wait_event = submit->wait_event;
    side->door->seen->signal_event = submit->signal_event;
    run(side, completion, place(side, region_id(side, q->region), q->offset, q->length),
        place(side, region_id(side, o->region), o->offset, o->length), q->length, NULL, 0);
}

static void message_take(side_t *side, const Attn__V1__SocketRequest *message, int fd)
{
    Attn__V1__SocketAnswer answer = ATTN__V1__SOCKET_ANSWER__INIT;
    Attn__V1__RegionReleased released = ATTN__V1__REGION_RELEASED__INIT;
    Attn__V1__CancelNoted noted = ATTN__V1__CANCEL_NOTED__INIT;
    answer.tag = message->tag;
    switch (message->what_case) {
    case ATTN__V1__SOCKET_REQUEST__WHAT_HELLO:
        welcome(side, message->tag);
        break;
    case ATTN__V1__SOCKET_REQUEST__WHAT_REGISTER_REGION:
        region_register(side, message->tag, message->register_region, fd);
        break;
    case ATTN__V1__SOCKET_REQUEST__WHAT_RELEASE_REGION: {
        region_t *region = &side->regions[region_id(side, message->release_region->name) - 1];
        if (region->mapped) {
            munmap(region->base, region->bytes);
        }
        region->base = NULL;
        atomic_fetch_add(&side->door->seen->releases, 1);
        answer.what_case = ATTN__V1__SOCKET_ANSWER__WHAT_REGION_RELEASED;
        answer.region_released = &released;
        answer_send(side, &answer, NULL, 0);
        break;
    }
    case ATTN__V1__SOCKET_REQUEST__WHAT_REGISTER_EVENT:
        event_register(side, message->tag, message->register_event);
        break;
    case ATTN__V1__SOCKET_REQUEST__WHAT_RELEASE_EVENT: {
        Attn__V1__EventReleased event_released = ATTN__V1__EVENT_RELEASED__INIT;
        atomic_fetch_add(&side->door->seen->event_releases, 1);
        answer.what_case = ATTN__V1__SOCKET_ANSWER__WHAT_EVENT_RELEASED;
        answer.event_released = &event_released;
        answer_send(side, &answer, NULL, 0);
        break;
    }
    case ATTN__V1__SOCKET_REQUEST__WHAT_OPEN_RING:
        ring_open(side, message->tag, message->open_ring->entries);
        break;
    case ATTN__V1__SOCKET_REQUEST__WHAT_SUBMIT:
        submit(side, message->tag, message->submit);
        break;
    case ATTN__V1__SOCKET_REQUEST__WHAT_CANCEL:
        noted.found = cancel(side, message->cancel->tag);
        answer.what_case = ATTN__V1__SOCKET_ANSWER__WHAT_CANCEL_NOTED;
        answer.cancel_noted = &noted;
        answer_send(side, &answer, NULL, 0);
        break;
    default:
        error_send(side, message->tag, "UNIMPLEMENTED", "not here", NULL);
        break;
    }
}

static void packet_take(side_t *side)
{
    uint8_t buffer[65536];
    char control[CMSG_SPACE(sizeof(int))];
    struct iovec part = {buffer, sizeof buffer};
    struct msghdr packet = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t size = recvmsg(side->fd, &packet, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    int fd = -1;
    if (size <= 0) {
        side->over = true;
        return;
    }
    struct cmsghdr *head = CMSG_FIRSTHDR(&packet);
    if (head != NULL) {
        memcpy(&fd, CMSG_DATA(head), sizeof fd);
    }
    if (side->door->manner->garbage) {
        (void)!send(side->fd, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 12, MSG_NOSIGNAL);
    }
    Attn__V1__SocketRequest *message = attn__v1__socket_request__unpack(NULL, (size_t)size, buffer);
    ck_assert_ptr_nonnull(message);
    message_take(side, message, fd);
    attn__v1__socket_request__free_unpacked(message, NULL);
}

static void ring_take(side_t *side)
{
    attn_shm_header_t *ring = side->ring;
    while (ring != NULL && !side->over && side->head != atomic_load(&ring->submit_tail)) {
        attn_shm_submission_t record =
            ((attn_shm_submission_t *)(void *)((char *)ring + 4096))[side->head % ring->entries];
        side->head++;
        atomic_store(&ring->submit_head, side->head);
        record_take(side, &record);
    }
}

static void side_close(side_t *side)
{
    for (uint32_t i = 0; i < side->region_count; i++) {
        if (side->regions[i].base != NULL && side->regions[i].mapped) {
            munmap(side->regions[i].base, side->regions[i].bytes);
        }
        close(side->regions[i].fd);
    }
    if (side->ring != NULL) {
        munmap(side->ring, side->ring_bytes);
        close(side->doorbell);
        close(side->wake[0]);
        close(side->wake[1]);
    }
    close(side->fd);
    free(side);
}

static void *side_serve(void *arg)
{
    side_t *side = arg;
    while (!side->over && !atomic_load(&side->door->stopping)) {
        struct pollfd fds[2] = {{.fd = side->fd, .events = POLLIN},
                                {.fd = side->ring != NULL ? side->doorbell : -1, .events = POLLIN}};
        eventfd_t ignored;
        if (side->ring != NULL) {
            atomic_store(&side->ring->submit_armed, 1);
        }
        ring_take(side);
        (void)poll(fds, 2, side->over ? 0 : 20);
        if (fds[1].revents != 0 && eventfd_read(side->doorbell, &ignored) == 0) {
            atomic_fetch_add(&side->door->seen->doorbells, 1);
        }
        if (fds[0].revents != 0 && !side->over) {
            packet_take(side);
        }
    }
    side_close(side);
    return NULL;
}

static void *accept_run(void *arg)
{
    fake_door_t *door = arg;
    while (!atomic_load(&door->stopping)) {
        struct pollfd listener = {.fd = door->listener, .events = POLLIN};
        if (poll(&listener, 1, 20) <= 0) {
            continue;
        }
        side_t *side = calloc(1, sizeof *side);
        side->door = door;
        side->fd = accept4(door->listener, NULL, NULL, SOCK_CLOEXEC);
        atomic_fetch_add(&door->seen->connections, 1);
        uint32_t index = atomic_load(&door->count);
        ck_assert_uint_lt(index, CONNECTIONS_MAX);
        ck_assert_int_eq(pthread_create(&door->threads[index], NULL, side_serve, side), 0);
        atomic_store(&door->count, index + 1);
    }
    return NULL;
}

fake_door_t *fake_door_start(const char *path, fake_door_manner_t *manner, fake_door_seen_t *seen)
{
    fake_door_t *door = calloc(1, sizeof *door);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    door->manner = manner;
    door->seen = seen;
    snprintf(door->path, sizeof door->path, "%s", path);
    memcpy(address.sun_path, door->path, sizeof address.sun_path);
    unlink(path);
    door->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    ck_assert_int_eq(bind(door->listener, (struct sockaddr *)&address, sizeof address), 0);
    ck_assert_int_eq(listen(door->listener, 16), 0);
    ck_assert_int_eq(pthread_create(&door->acceptor, NULL, accept_run, door), 0);
    return door;
}

void fake_door_stop(fake_door_t *door)
{
    atomic_store(&door->stopping, true);
    pthread_join(door->acceptor, NULL);
    for (uint32_t i = 0; i < atomic_load(&door->count); i++) {
        pthread_join(door->threads[i], NULL);
    }
    close(door->listener);
    unlink(door->path);
    free(door);
}
