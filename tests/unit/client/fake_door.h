/* fake_door.h: a daemon's Unix socket for tests of libattn: it speaks the protocol of socket.proto and shm_ring.h, its
 * kernel flips bits, and it lies where a test tells it to. */
#ifndef TESTS_FAKE_DOOR_H
#define TESTS_FAKE_DOOR_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define FAKE_FLIP 0x5a /* byte i of o is byte i of q ^ FAKE_FLIP; LSE j is j */

typedef struct fake_door_manner {
    _Atomic bool no_ring;  /* OpenRing is UNIMPLEMENTED */
    _Atomic uint32_t hold; /* answers to runs are kept until so many wait, then given in reverse order; 0 = at once */
    _Atomic bool keep;     /* runs end only when they are cancelled */
    _Atomic uint32_t hang_up;    /* the connection ends at the n-th run (of all connections); 0 = never */
    _Atomic bool say_goodbye;    /* … with a sentence before */
    _Atomic bool refuse_runs;    /* FAILED_PRECONDITION with two missing things */
    _Atomic bool refuse_regions; /* RegisterRegion is TOO_LARGE */
    _Atomic uint32_t version;    /* of Welcome; 0 = 1 */
    _Atomic bool wrong_magic;    /* of the ring */
    _Atomic bool far_array;      /* the completions lie outside the memory */
    _Atomic bool torn;           /* complete_tail runs ahead */
    _Atomic bool garbage;        /* packets that are no messages */
    _Atomic bool wrong_tags;     /* answers with a tag that nobody has, before the right one */
    _Atomic bool unended_text;   /* texts of completions without NUL */
} fake_door_manner_t;

typedef struct fake_door_seen {
    _Atomic uint32_t connections, registrations, releases, runs, by_message, nops, cancels, doorbells;
    _Atomic uint32_t events, event_releases, wait_event, signal_event; /* the last two: of the last run */
} fake_door_seen_t;

typedef struct fake_door fake_door_t;

/* "CUDA memory" is memory of this process: a cudaIpcMemHandle_t begins with the address of its allocation, and a VMM
 * descriptor is a memfd. Both are on FAKE_DEVICE. An event's handle is 64 times FAKE_FLIP. */
#define FAKE_DEVICE "GPU-fake"

/* Serves at `path` with threads of its own until stopped; `seen` counts for as long. The manner may be changed while it
 * runs. */
fake_door_t *fake_door_start(const char *path, fake_door_manner_t *manner, fake_door_seen_t *seen);
void fake_door_stop(fake_door_t *door);

#endif
