/* sched/admit.c: see admit.h. Any thread; owns the arenas, the credit and the tickets.
 *
 * Credit is charged in whole pages with room for the rounding of each tensor's place, so that what was granted can be
 * placed unless the arena is fragmented. Peers are counted in a fixed table by hash: two peers that meet in one cell
 * share its quarter, which costs fairness (1 in 4096), never correctness. */
#include "sched/admit.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/arena.h"
#include "base/cpus.h"

enum { PLACES_MAX = 24, PEER_CELLS = 4096, SPARE_TICKETS_MAX = 256 };
/* Pages that rounding may add: q, k and v; o, lse and a truth. */
#define ROUNDING (UINT64_C(3) * ATTN_ARENA_PAGE)
#define ARENA_BYTES_DEFAULT_MAX (UINT64_C(8) << 30)
#define ARENA_BYTES_MIN (UINT64_C(1) << 20)

typedef enum side { SIDE_INPUT, SIDE_OUTPUT, SIDES } side_t;

typedef struct peer {
    uint64_t charged;
    uint32_t tickets;
} peer_t;

struct attn_admit {
    pthread_mutex_t lock;
    attn_arena_t *arena[SIDES];
    uint64_t size[SIDES], charged[SIDES];
    uint64_t arriving, leaked, max_request_bytes;
    uint32_t tickets, tickets_arriving;
    peer_t peer[PEER_CELLS];
    attn_ticket_t *spare;
    uint32_t spares;
};

struct attn_ticket {
    attn_admit_t *admit;
    attn_ticket_t *next_spare;
    uint32_t cell;
    bool arriving, leaked;
    uint64_t credit[SIDES], placed[SIDES];
    uint32_t places;
    attn_place_t place[PLACES_MAX];
};

static uint64_t charge_of(uint64_t bytes)
{
    return bytes == 0 ? 0 : (bytes + ATTN_ARENA_PAGE - 1) / ATTN_ARENA_PAGE * ATTN_ARENA_PAGE + ROUNDING;
}

attn_status_t attn_admit_create(const attn_admit_options_t *options, attn_admit_t **ret, attn_error_t *err)
{
    uint64_t bytes = options->arena_bytes;
    if (bytes == 0) {
        bytes = attn_memory_usable() / 4;
        bytes = bytes > ARENA_BYTES_DEFAULT_MAX ? ARENA_BYTES_DEFAULT_MAX : bytes;
    }
    if (bytes < ARENA_BYTES_MIN)
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "the arena has %llu bytes; it needs at least %llu",
                              (unsigned long long)bytes, (unsigned long long)ARENA_BYTES_MIN);
    attn_admit_t *admit = calloc(1, sizeof *admit);
    if (!admit)
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for admission");
    pthread_mutex_init(&admit->lock, NULL);
    /* Q, K and V against O (and a truth when variants are compared): 5 to 3. */
    attn_status_t status = attn_arena_create("attn-input", bytes / 8 * 5, &admit->arena[SIDE_INPUT], err);
    if (status == ATTN_OK)
        status = attn_arena_create("attn-output", bytes / 8 * 3, &admit->arena[SIDE_OUTPUT], err);
    if (status != ATTN_OK) {
        attn_admit_destroy(admit);
        return status;
    }
    for (int side = 0; side < SIDES; side++)
        admit->size[side] = attn_arena_bytes(admit->arena[side]);
    uint64_t largest = admit->size[SIDE_INPUT] - ROUNDING;
    admit->max_request_bytes = options->max_request_bytes ? options->max_request_bytes : bytes / 2;
    if (admit->max_request_bytes > largest)
        admit->max_request_bytes = largest;
    *ret = admit;
    return ATTN_OK;
}

void attn_admit_destroy(attn_admit_t *admit)
{
    if (!admit)
        return;
    for (attn_ticket_t *ticket = admit->spare; ticket;) {
        attn_ticket_t *next = ticket->next_spare;
        free(ticket);
        ticket = next;
    }
    for (int side = 0; side < SIDES; side++)
        attn_arena_destroy(admit->arena[side]);
    pthread_mutex_destroy(&admit->lock);
    free(admit);
}

static attn_status_t never_fits(const attn_admit_t *admit, uint64_t input, uint64_t output, attn_error_t *err)
{
    if (input > admit->max_request_bytes)
        return attn_error_set(err, ATTN_ERR_TOO_LARGE, "a request has at most %llu bytes, not %llu",
                              (unsigned long long)admit->max_request_bytes, (unsigned long long)input);
    uint64_t output_max = admit->size[SIDE_OUTPUT] - ROUNDING;
    if (output > output_max)
        return attn_error_set(err, ATTN_ERR_TOO_LARGE, "an answer has at most %llu bytes, not %llu",
                              (unsigned long long)output_max, (unsigned long long)output);
    return ATTN_OK;
}

/* Whether the ticket's charge may become `next` (from `now`, zero for a new one). Called with the lock held. */
static attn_status_t may_charge(const attn_admit_t *admit, const attn_ticket_t *ticket, bool is_new,
                                const uint64_t now[SIDES], const uint64_t next[SIDES], attn_error_t *err)
{
    for (int side = 0; side < SIDES; side++)
        if (next[side] > now[side] && next[side] - now[side] > admit->size[side] - admit->charged[side])
            return attn_error_set(err, ATTN_ERR_UNAVAILABLE, "the daemon's memory for tensors is in use; try again");
    const peer_t *peer = &admit->peer[ticket->cell];
    uint64_t peer_now = peer->charged - now[0] - now[1];
    bool peer_alone = peer->tickets == (is_new ? 0 : 1);
    if (!peer_alone && next[0] + next[1] > now[0] + now[1] &&
        peer_now + next[0] + next[1] > (admit->size[0] + admit->size[1]) / 4)
        return attn_error_set(err, ATTN_ERR_UNAVAILABLE,
                              "requests of this peer already hold its share of the daemon's memory; try again");
    bool first_arriving = admit->tickets_arriving == (is_new ? 0 : 1);
    if (ticket->arriving && !first_arriving && next[SIDE_INPUT] > now[SIDE_INPUT] &&
        admit->arriving - now[SIDE_INPUT] + next[SIDE_INPUT] > admit->size[SIDE_INPUT] / 2)
        return attn_error_set(err, ATTN_ERR_UNAVAILABLE, "too many bodies are arriving; try again");
    return ATTN_OK;
}

static void charge(attn_admit_t *admit, attn_ticket_t *ticket, const uint64_t now[SIDES], const uint64_t next[SIDES])
{
    for (int side = 0; side < SIDES; side++) {
        admit->charged[side] += next[side] - now[side];
        ticket->credit[side] = next[side];
    }
    admit->peer[ticket->cell].charged += next[0] + next[1] - now[0] - now[1];
    if (ticket->arriving)
        admit->arriving += next[SIDE_INPUT] - now[SIDE_INPUT];
}

/* A spare ticket, or a new one; allocated outside the lock. */
static attn_ticket_t *ticket_get(attn_admit_t *admit)
{
    pthread_mutex_lock(&admit->lock);
    attn_ticket_t *ticket = admit->spare;
    if (ticket) {
        admit->spare = ticket->next_spare;
        admit->spares--;
    }
    pthread_mutex_unlock(&admit->lock);
    return ticket ? ticket : malloc(sizeof *ticket);
}

/* Keeps a ticket for the next request, or returns it to be freed outside the lock, which the caller holds. */
static attn_ticket_t *ticket_put(attn_admit_t *admit, attn_ticket_t *ticket)
{
    if (admit->spares >= SPARE_TICKETS_MAX)
        return ticket;
    ticket->next_spare = admit->spare;
    admit->spare = ticket;
    admit->spares++;
    return NULL;
}

attn_status_t attn_admit_open(attn_admit_t *admit, uint64_t peer, uint64_t input_bytes, uint64_t output_bytes,
                              attn_ticket_t **ret, attn_error_t *err)
{
    attn_status_t status = never_fits(admit, input_bytes, output_bytes, err);
    if (status != ATTN_OK)
        return status;
    attn_ticket_t *ticket = ticket_get(admit);
    if (!ticket)
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for a request");
    ticket->admit = admit;
    ticket->next_spare = NULL;
    ticket->cell = (uint32_t)((peer ^ peer >> 32) % PEER_CELLS);
    ticket->arriving = true;
    ticket->leaked = false;
    ticket->places = 0;
    ticket->placed[SIDE_INPUT] = ticket->placed[SIDE_OUTPUT] = 0;
    const uint64_t none[SIDES] = {0, 0}, next[SIDES] = {charge_of(input_bytes), charge_of(output_bytes)};
    pthread_mutex_lock(&admit->lock);
    status = may_charge(admit, ticket, true, none, next, err);
    if (status == ATTN_OK) {
        charge(admit, ticket, none, next);
        admit->peer[ticket->cell].tickets++;
        admit->tickets++;
        admit->tickets_arriving++;
        *ret = ticket;
        ticket = NULL;
    } else {
        ticket = ticket_put(admit, ticket);
    }
    pthread_mutex_unlock(&admit->lock);
    free(ticket);
    return status;
}

attn_status_t attn_admit_resize(attn_ticket_t *ticket, uint64_t input_bytes, uint64_t output_bytes, attn_error_t *err)
{
    attn_admit_t *admit = ticket->admit;
    attn_status_t status = never_fits(admit, input_bytes, output_bytes, err);
    if (status != ATTN_OK)
        return status;
    uint64_t next[SIDES] = {charge_of(input_bytes), charge_of(output_bytes)};
    pthread_mutex_lock(&admit->lock);
    uint64_t now[SIDES];
    for (int side = 0; side < SIDES; side++) {
        now[side] = ticket->credit[side];
        next[side] = next[side] < ticket->placed[side] ? ticket->placed[side] : next[side];
    }
    status = may_charge(admit, ticket, false, now, next, err);
    if (status == ATTN_OK)
        charge(admit, ticket, now, next);
    pthread_mutex_unlock(&admit->lock);
    return status;
}

attn_status_t attn_admit_place(attn_ticket_t *ticket, bool output, uint64_t bytes, attn_place_t *ret,
                               void **ret_address, attn_error_t *err)
{
    attn_admit_t *admit = ticket->admit;
    side_t side = output ? SIDE_OUTPUT : SIDE_INPUT;
    attn_place_t place = {.region = output ? ATTN_REGION_OUTPUT : ATTN_REGION_INPUT, .bytes = bytes};
    uint64_t pages = (bytes + ATTN_ARENA_PAGE - 1) / ATTN_ARENA_PAGE * ATTN_ARENA_PAGE;
    attn_status_t status = ATTN_OK;
    pthread_mutex_lock(&admit->lock);
    if (ticket->places == PLACES_MAX || bytes > ticket->credit[side] ||
        pages > ticket->credit[side] - ticket->placed[side])
        status = attn_error_set(err, ATTN_ERR_INTERNAL, "a request asked for more memory than it was granted");
    else if (bytes > 0 && !attn_arena_alloc(admit->arena[side], bytes, &place.offset))
        status = attn_error_set(err, ATTN_ERR_UNAVAILABLE,
                                "the daemon's memory for tensors is too fragmented for %llu bytes; try again",
                                (unsigned long long)bytes);
    if (status == ATTN_OK && bytes > 0) {
        ticket->placed[side] += pages;
        ticket->place[ticket->places++] = place;
    }
    pthread_mutex_unlock(&admit->lock);
    if (status != ATTN_OK)
        return status;
    *ret = place;
    *ret_address = attn_admit_address(admit, &place);
    return ATTN_OK;
}

/* Called with the lock held. */
static void arrived(attn_ticket_t *ticket)
{
    if (!ticket->arriving)
        return;
    ticket->arriving = false;
    ticket->admit->arriving -= ticket->credit[SIDE_INPUT];
    ticket->admit->tickets_arriving--;
}

void attn_admit_arrived(attn_ticket_t *ticket)
{
    pthread_mutex_lock(&ticket->admit->lock);
    arrived(ticket);
    pthread_mutex_unlock(&ticket->admit->lock);
}

void attn_admit_close(attn_ticket_t *ticket)
{
    if (!ticket)
        return;
    attn_admit_t *admit = ticket->admit;
    uint64_t next[SIDES] = {0, 0};
    pthread_mutex_lock(&admit->lock);
    arrived(ticket);
    for (uint32_t i = 0; i < ticket->places; i++)
        if (!ticket->leaked)
            attn_arena_free(admit->arena[ticket->place[i].region == ATTN_REGION_OUTPUT], ticket->place[i].offset);
    /* What is leaked stays charged to the arenas, but no longer to the peer. */
    uint64_t now[SIDES] = {ticket->credit[0], ticket->credit[1]};
    charge(admit, ticket, now, next);
    if (ticket->leaked)
        for (int side = 0; side < SIDES; side++)
            admit->charged[side] += ticket->placed[side];
    admit->peer[ticket->cell].tickets--;
    admit->tickets--;
    ticket = ticket_put(admit, ticket);
    pthread_mutex_unlock(&admit->lock);
    free(ticket);
}

void attn_admit_leak(attn_ticket_t *ticket)
{
    if (!ticket)
        return;
    pthread_mutex_lock(&ticket->admit->lock);
    if (!ticket->leaked)
        ticket->admit->leaked += ticket->placed[SIDE_INPUT] + ticket->placed[SIDE_OUTPUT];
    ticket->leaked = true;
    pthread_mutex_unlock(&ticket->admit->lock);
}

void attn_admit_view(attn_admit_t *admit, attn_admit_view_t *ret)
{
    pthread_mutex_lock(&admit->lock);
    *ret = (attn_admit_view_t){
        .input_bytes = admit->size[SIDE_INPUT],
        .output_bytes = admit->size[SIDE_OUTPUT],
        .input_used = admit->charged[SIDE_INPUT],
        .output_used = admit->charged[SIDE_OUTPUT],
        .arriving = admit->arriving,
        .leaked = admit->leaked,
        .max_request_bytes = admit->max_request_bytes,
        .tickets = admit->tickets,
    };
    pthread_mutex_unlock(&admit->lock);
}

int attn_admit_input_fd(const attn_admit_t *admit)
{
    return attn_arena_fd(admit->arena[SIDE_INPUT]);
}

int attn_admit_output_fd(const attn_admit_t *admit)
{
    return attn_arena_fd(admit->arena[SIDE_OUTPUT]);
}

void *attn_admit_address(const attn_admit_t *admit, const attn_place_t *place)
{
    if (place->region != ATTN_REGION_INPUT && place->region != ATTN_REGION_OUTPUT)
        return NULL;
    return attn_arena_base(admit->arena[place->region == ATTN_REGION_OUTPUT]) + place->offset;
}
