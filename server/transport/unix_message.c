/* transport/unix_message.c: packets of the Unix socket's door and who handles each. The door's thread. */
#include <stdio.h>
#include <string.h>

#include "base/about.h"
#include "base/log.h"
#include "base/text.h"
#include "codec/wire.h"
#include "transport/unix_internal.h"

static const char *kind_name(const attn_device_t *device)
{
    return device->kind == ATTN_DEVICE_CUDA ? "cuda" : "cpu";
}

static void welcome(unix_conn_t *conn, uint64_t tag)
{
    attn_unix_t *door = conn->door;
    Attn__V1__SocketAnswer answer = ATTN__V1__SOCKET_ANSWER__INIT;
    Attn__V1__Welcome welcome = ATTN__V1__WELCOME__INIT;
    Attn__V1__SocketDevice devices[ATTN_SCHED_DEVICES_MAX], *listed[ATTN_SCHED_DEVICES_MAX];
    static attn_sched_view_t view; /* about 14 KiB, of the one thread that uses it */
    attn_sched_view(door->front->sched, &view);
    for (uint32_t i = 0; i < view.device_count; i++) {
        attn__v1__socket_device__init(&devices[i]);
        devices[i].uuid = view.devices[i].device.uuid;
        devices[i].name = view.devices[i].device.name;
        devices[i].kind = (char *)(uintptr_t)kind_name(&view.devices[i].device);
        devices[i].ready = view.devices[i].state == ATTN_DEVICE_READY;
        listed[i] = &devices[i];
    }
    welcome.version = UNIX_VERSION;
    welcome.daemon = (char *)(uintptr_t)ATTND_VERSION;
    welcome.max_message_bytes = UNIX_MESSAGE_BYTES;
    welcome.max_regions = door->regions_max;
    welcome.max_region_bytes = door->region_bytes_max;
    welcome.max_ring_entries = ATTN_SHM_ENTRIES_MAX;
    welcome.max_in_flight = UNIX_IN_FLIGHT_MAX;
    welcome.alignment = UNIX_ALIGNMENT;
    welcome.n_devices = view.device_count;
    welcome.devices = listed;
    answer.tag = tag;
    answer.what_case = ATTN__V1__SOCKET_ANSWER__WHAT_WELCOME;
    answer.welcome = &welcome;
    unix_conn_answer(conn, &answer, NULL, 0);
}

static attn_status_t hello(unix_conn_t *conn, const Attn__V1__Hello *message, attn_error_t *err)
{
    if (conn->greeted) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "hello was said already on this connection");
    }
    if (message->version_min > UNIX_VERSION || message->version_max < UNIX_VERSION) {
        return attn_error_set(err, ATTN_ERR_UNIMPLEMENTED,
                              "the client speaks versions %u to %u of the socket's protocol; this daemon speaks %u",
                              message->version_min, message->version_max, UNIX_VERSION);
    }
    conn->greeted = true;
    attn_text_quote(conn->client, sizeof conn->client, message->client, strlen(message->client));
    ATTN_LOG(ATTN_LOG_INFO, "socket connection", attn_log_integer("connection", (int64_t)conn->number),
             attn_log_integer("pid", conn->pid), attn_log_integer("uid", conn->uid),
             attn_log_text("client", conn->client));
    return ATTN_OK;
}

static void cancel(unix_conn_t *conn, uint64_t tag, uint64_t target)
{
    Attn__V1__SocketAnswer answer = ATTN__V1__SOCKET_ANSWER__INIT;
    Attn__V1__CancelNoted noted = ATTN__V1__CANCEL_NOTED__INIT;
    noted.found = unix_run_cancel(conn, target);
    answer.tag = tag;
    answer.what_case = ATTN__V1__SOCKET_ANSWER__WHAT_CANCEL_NOTED;
    answer.cancel_noted = &noted;
    unix_conn_answer(conn, &answer, NULL, 0);
}

static void handle(unix_conn_t *conn, const Attn__V1__SocketRequest *message, int *fds, uint32_t fd_count)
{
    attn_error_t err;
    uint64_t tag = message->tag;
    bool registers = message->what_case == ATTN__V1__SOCKET_REQUEST__WHAT_REGISTER_REGION;
    if (fd_count > 0 && !registers) {
        attn_error_set(&err, ATTN_ERR_INVALID_ARGUMENT, "%u descriptors came with a message that takes none", fd_count);
        unix_conn_refuse(conn, tag, &err);
        return;
    }
    switch (message->what_case) {
    case ATTN__V1__SOCKET_REQUEST__WHAT_HELLO:
        if (hello(conn, message->hello, &err) == ATTN_OK) {
            welcome(conn, tag);
        } else {
            unix_conn_refuse(conn, tag, &err);
        }
        return;
    case ATTN__V1__SOCKET_REQUEST__WHAT_REGISTER_REGION:
        unix_region_register(conn, tag, message->register_region, fds, fd_count);
        return;
    case ATTN__V1__SOCKET_REQUEST__WHAT_RELEASE_REGION:
        unix_region_release(conn, tag, message->release_region->name);
        return;
    case ATTN__V1__SOCKET_REQUEST__WHAT_REGISTER_EVENT:
        unix_event_register(conn, tag, message->register_event);
        return;
    case ATTN__V1__SOCKET_REQUEST__WHAT_RELEASE_EVENT:
        unix_event_release(conn, tag, message->release_event->id);
        return;
    case ATTN__V1__SOCKET_REQUEST__WHAT_OPEN_RING:
        unix_ring_open(conn, tag, message->open_ring->entries);
        return;
    case ATTN__V1__SOCKET_REQUEST__WHAT_SUBMIT:
        unix_run_message(conn, tag, message->submit);
        return;
    case ATTN__V1__SOCKET_REQUEST__WHAT_CANCEL:
        cancel(conn, tag, message->cancel->tag);
        return;
    default:
        attn_error_set(&err, ATTN_ERR_INVALID_ARGUMENT,
                       "the packet asks for nothing: one of hello, register_region, "
                       "submit and the like is needed");
        unix_conn_refuse(conn, tag, &err);
        return;
    }
}

void unix_message_handle(unix_conn_t *conn, const unsigned char *data, size_t bytes, int *fds, uint32_t fd_count)
{
    attn_error_t err;
    attn_bump_t bump = {0};
    ProtobufCMessage *unpacked;
    attn_status_t status = attn_wire_unpack(&attn__v1__socket_request__descriptor, data, bytes, &bump, &unpacked, &err);
    const Attn__V1__SocketRequest *message = (const Attn__V1__SocketRequest *)unpacked;
    if (status == ATTN_OK && !conn->greeted && message->what_case != ATTN__V1__SOCKET_REQUEST__WHAT_HELLO) {
        status = attn_error_set(&err, ATTN_ERR_INVALID_ARGUMENT, "the first packet must say hello");
        attn_bump_close(&bump);
    }
    if (status != ATTN_OK) {
        unix_conn_refuse(conn, 0, &err);
        unix_conn_close(conn, err.message);
        return;
    }
    handle(conn, message, fds, fd_count);
    attn_bump_close(&bump);
}
