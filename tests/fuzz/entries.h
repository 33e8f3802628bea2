/* tests/fuzz/entries.h: every parser of the daemon that reads bytes of strangers, behind one signature. Used by the
 * libFuzzer program and by the unit test that runs seeds and mutations. An entry aborts when a parser accepts what it
 * must not; crashes and leaks are the sanitizers' to find. */
#ifndef ATTN_TESTS_FUZZ_ENTRIES_H
#define ATTN_TESTS_FUZZ_ENTRIES_H

#include <stddef.h>
#include <stdint.h>

typedef struct fuzz_entry {
    const char *name;
    void (*run)(const uint8_t *data, size_t size);
    /* A valid input to start from: bytes and their number; malloc'ed. `which` counts up until NULL comes. */
    uint8_t *(*seed)(unsigned which, size_t *ret_size);
} fuzz_entry_t;

extern const fuzz_entry_t fuzz_entries[];
extern const size_t fuzz_entry_count;

/* entries_local.c: rows of the table. */
void fuzz_socket_run(const uint8_t *data, size_t size);
uint8_t *fuzz_socket_seed(unsigned which, size_t *ret_size);
void fuzz_submission_run(const uint8_t *data, size_t size);
uint8_t *fuzz_submission_seed(unsigned which, size_t *ret_size);

#endif
