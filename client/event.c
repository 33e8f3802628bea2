/* event.c: interprocess events of CUDA that are registered with the daemon, and again on a new connection. Any thread.
 */
#include <stdlib.h>
#include <string.h>

#include "local.h"

static void event_message(attn_event_t *event, Attn__V1__SocketRequest *request, Attn__V1__RegisterEvent *body)
{
    attn__v1__socket_request__init(request);
    attn__v1__register_event__init(body);
    request->what_case = ATTN__V1__SOCKET_REQUEST__WHAT_REGISTER_EVENT;
    request->register_event = body;
    body->device = event->device;
    body->handle = (ProtobufCBinaryData){sizeof(event->handle), event->handle};
}

attn_status_t attn_events_register(attn_local_t *local, attn_client_error_t *err)
{
    Attn__V1__SocketAnswer *answer = NULL;
    int fds[ATTN_LINK_FDS], fd_count = 0, timeout_ms = local->options.stall_timeout_ms;
    for (attn_event_t *event = local->events; event != NULL; event = event->next) {
        Attn__V1__SocketRequest request;
        Attn__V1__RegisterEvent body;
        event_message(event, &request, &body);
        request.tag = 1;
        event->id = 0;
        attn_client_error_t why;
        attn_status_t status =
            attn_link_exchange(&local->link, &request, -1, timeout_ms, &answer, fds, &fd_count, &why);
        if (status == ATTN_ERR_CONNECTION || status == ATTN_ERR_TIMEOUT) {
            if (err != NULL) {
                *err = why;
            }
            return status;
        }
        if (status == ATTN_OK) {
            event->id =
                answer->what_case == ATTN__V1__SOCKET_ANSWER__WHAT_EVENT_REGISTERED ? answer->event_registered->id : 0;
            attn_link_answer_drop(answer, fds, fd_count);
        }
    }
    return ATTN_OK;
}

void attn_events_forget(attn_local_t *local)
{
    while (local->events != NULL) {
        attn_event_t *event = local->events;
        local->events = event->next;
        free(event);
    }
}

attn_status_t attn_event_import(attn_client_t *client, const void *handle, const char *device, attn_event_t **ret,
                                attn_client_error_t *err)
{
    attn_local_t *local = attn_local_of(client, "an event", err);
    attn_event_t *event = local != NULL ? calloc(1, sizeof(*event)) : NULL;
    Attn__V1__SocketRequest request;
    Attn__V1__RegisterEvent body;
    Attn__V1__SocketAnswer *answer = NULL;
    int fds[ATTN_LINK_FDS], fd_count = 0;
    if (event == NULL) {
        return local == NULL ? ATTN_ERR_UNIMPLEMENTED
                             : attn_client_fail(err, ATTN_ERR_NO_MEMORY, "no memory for an event");
    }
    event->local = local;
    memcpy(event->handle, handle, sizeof(event->handle));
    attn_wire_text(event->device, sizeof(event->device), device);
    event_message(event, &request, &body);
    attn_status_t status = attn_local_call(local, &request, -1, &answer, fds, &fd_count, err);
    if (status == ATTN_OK) {
        if (answer->what_case != ATTN__V1__SOCKET_ANSWER__WHAT_EVENT_REGISTERED || answer->event_registered->id == 0) {
            status = attn_client_fail(err, ATTN_ERR_INTERNAL, "the daemon answered what was not asked");
        }
        pthread_mutex_lock(&local->lock);
        if (status == ATTN_OK) {
            event->id = answer->event_registered->id;
            event->next = local->events;
            local->events = event;
        }
        pthread_mutex_unlock(&local->lock);
        attn_link_answer_drop(answer, fds, fd_count);
    }
    if (status != ATTN_OK) {
        free(event);
        return status;
    }
    *ret = event;
    return ATTN_OK;
}

void attn_event_release(attn_event_t *event)
{
    if (event == NULL) {
        return;
    }
    attn_local_t *local = event->local;
    Attn__V1__ReleaseEvent release = ATTN__V1__RELEASE_EVENT__INIT;
    Attn__V1__SocketRequest request = ATTN__V1__SOCKET_REQUEST__INIT;
    Attn__V1__SocketAnswer *answer = NULL;
    int fds[ATTN_LINK_FDS], fd_count = 0;
    pthread_mutex_lock(&local->lock);
    attn_event_t **at = &local->events;
    while (*at != event) {
        at = &(*at)->next;
    }
    *at = event->next;
    bool known = local->connected && event->id != 0;
    pthread_mutex_unlock(&local->lock);
    request.what_case = ATTN__V1__SOCKET_REQUEST__WHAT_RELEASE_EVENT;
    request.release_event = &release;
    release.id = event->id;
    if (known && attn_local_call(local, &request, -1, &answer, fds, &fd_count, NULL) == ATTN_OK) {
        attn_link_answer_drop(answer, fds, fd_count);
    }
    free(event);
}
