/* conn_head.h: reads the head of an HTTP/1.1 answer. Pure; any thread. */
#ifndef ATTN_CLIENT_CONN_HEAD_H
#define ATTN_CLIENT_CONN_HEAD_H

#include "conn.h"

/* `text` is a whole head of `size` bytes, the empty line included. Gives *ret and whether the connection stays open.
 * INTERNAL with a sentence when it is not a head, or announces a body in a way other than one Content-Length. */
attn_status_t attn_conn_head_parse(const char *text, size_t size, attn_conn_head_t *ret, bool *ret_keep_alive,
                                   attn_error_t *err);

#endif
