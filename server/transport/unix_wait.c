/* transport/unix_wait.c: runs that wait for an event of the client before they may begin. The door's thread.
 *
 * The worker of the event's device asks the event until it is reached (worker/client_memory.h); nothing waits for it on
 * the device, where everything behind it would wait too. A run goes on when the worker was asked after the run came:
 * an event may have been recorded anew since an earlier asking. */
#include "base/clock.h"
#include "transport/unix_internal.h"

static void ask(unix_region_t *event)
{
    event->asked = event->waiting;
    event->waiting = NULL;
    if (event->asked != NULL) {
        event->outstanding = true;
        attn_regions_await(event->conn->door->regions, event->number);
    }
}

void unix_wait_add(unix_run_t *run)
{
    unix_conn_t *conn = run->conn;
    unix_region_t *event = run->region[UNIX_USE_WAIT];
    conn->door->waits++;
    if (event->asked == NULL && event->waiting == NULL) {
        event->next_waited = conn->waited;
        conn->waited = event;
    }
    run->next = event->waiting;
    event->waiting = run;
    if (!event->outstanding) {
        ask(event);
    }
}

/* Why a run waits no longer, when it is not for the event; OK when it still waits. */
static attn_status_t given_up(const unix_run_t *run, int64_t now_ns, attn_error_t *err)
{
    const attn_request_t *request = &run->request;
    if (atomic_load(&request->cancelled)) {
        return attn_error_set(err, ATTN_ERR_CANCELLED, "the caller cancelled the request");
    }
    if (request->deadline_ns != 0 && now_ns >= request->deadline_ns) {
        return attn_error_set(err, ATTN_ERR_DEADLINE_EXCEEDED,
                              "the request's deadline passed while it waited for the event of its wait_event");
    }
    return ATTN_OK;
}

static void drop_given_up(attn_unix_t *door, unix_run_t **list, int64_t now_ns)
{
    attn_error_t err;
    for (unix_run_t **at = list; *at != NULL;) {
        unix_run_t *run = *at;
        if (given_up(run, now_ns, &err) == ATTN_OK) {
            at = &run->next;
            continue;
        }
        *at = run->next;
        door->waits--;
        unix_run_end(run, &err);
    }
}

/* The worker has answered for those that were asked about. */
static void go_on(unix_region_t *event)
{
    attn_unix_t *door = event->conn->door;
    unix_told_t reached = atomic_exchange(&event->reached, UNIX_TOLD_NOT_YET);
    if (reached == UNIX_TOLD_NOT_YET) {
        return;
    }
    event->outstanding = false;
    unix_run_t *next;
    for (unix_run_t *run = event->asked; run != NULL; run = next) {
        next = run->next;
        door->waits--;
        if (reached == UNIX_TOLD_GOOD) {
            unix_run_go(run);
        } else {
            unix_run_end(run, &event->error);
        }
    }
    ask(event);
}

void unix_wait_look(unix_conn_t *conn, int64_t now_ns)
{
    for (unix_region_t **at = &conn->waited; *at != NULL;) {
        unix_region_t *event = *at;
        go_on(event);
        drop_given_up(conn->door, &event->asked, now_ns);
        drop_given_up(conn->door, &event->waiting, now_ns);
        if (event->asked == NULL && event->waiting == NULL) {
            *at = event->next_waited;
        } else {
            at = &event->next_waited;
        }
    }
}
