/* local_kit.h: what the tests of libattn over the Unix socket share: a daemon made for them, a client, a request. */
#ifndef TESTS_LOCAL_KIT_H
#define TESTS_LOCAL_KIT_H

#include "attn.h"
#include "fake_door.h"

#define S 8
#define BYTES (S * 2 * 32 * 2) /* of q and of o */

extern char local_path[64], local_address[80];
extern fake_door_manner_t manner;
extern fake_door_seen_t seen;
extern fake_door_t *door;
extern attn_client_t *client;
extern attn_client_error_t error;
extern const attn_client_mode_t modes[2];

void door_open(void); /* before every test */
void client_open(attn_client_mode_t mode, uint32_t entries);
void all_close(void); /* after it */

attn_client_request_t request_of(void *q, void *k, void *o);
void bytes_fill(uint8_t *at, int seed);
bool flipped(const uint8_t *q, const uint8_t *o); /* whether o is what the fake daemon makes of q */

#endif
