/* local_kit.c: see local_kit.h. */
#include "local_kit.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

char local_path[64], local_address[80];
static char folder[32];
fake_door_manner_t manner;
fake_door_seen_t seen;
fake_door_t *door;
attn_client_t *client;
attn_client_error_t error;

void door_open(void)
{
    memset(&manner, 0, sizeof manner);
    memset(&seen, 0, sizeof seen);
    strcpy(folder, "/tmp/test_local.XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    snprintf(local_path, sizeof local_path, "%s/sock", folder);
    snprintf(local_address, sizeof local_address, "unix:%s", local_path);
    door = fake_door_start(local_path, &manner, &seen);
}

void client_open(attn_client_mode_t mode, uint32_t entries)
{
    attn_client_options_t options = {.mode = mode, .ring_entries = entries, .connect_timeout_ms = 2000};
    ck_assert_int_eq(attn_client_open(local_address, &options, &client, &error), ATTN_OK);
}

void all_close(void)
{
    attn_client_close(client);
    client = NULL;
    if (door != NULL) {
        fake_door_stop(door);
        door = NULL;
    }
    rmdir(folder);
}

attn_client_request_t request_of(void *q, void *k, void *o)
{
    return (attn_client_request_t){.spec = {.dtype = ATTN_DTYPE_F16,
                                            .layout = ATTN_LAYOUT_BSHD,
                                            .batch = 1,
                                            .s_q = S,
                                            .s_kv = S,
                                            .h_q = 2,
                                            .h_kv = 2,
                                            .d = 32},
                                   .q = q,
                                   .k = k,
                                   .v = k,
                                   .o = o};
}

void bytes_fill(uint8_t *at, int seed)
{
    for (int i = 0; i < BYTES; i++) {
        at[i] = (uint8_t)(i * 7 + seed);
    }
}

bool flipped(const uint8_t *q, const uint8_t *o)
{
    for (int i = 0; i < BYTES; i++) {
        if (o[i] != (q[i] ^ FAKE_FLIP)) {
            return false;
        }
    }
    return true;
}

const attn_client_mode_t modes[2] = {ATTN_CLIENT_RING, ATTN_CLIENT_MESSAGES};
