/* script_server.h: a TCP server on loopback that answers each connection with bytes that a test gives it. */
#ifndef SCRIPT_SERVER_H
#define SCRIPT_SERVER_H

#include <stdbool.h>
#include <stddef.h>

/* One answer: after `read_bytes` of the connection's requests have come (SIZE_MAX: the whole of one request, by its
 * Content-Length), sends `data`, `pause_ms` between its two halves; then closes, or goes on to the next answer. */
typedef struct script_answer {
    size_t read_bytes;
    const void *data;
    size_t bytes;
    int pause_ms;
    bool close, reset;
} script_answer_t;

/* Serves the answers in order, over as many connections as it takes. The answers outlive the server. */
int script_server_start(const script_answer_t *answers, size_t count); /* the port */
void script_server_stop(void);                                         /* after the client has closed */
size_t script_server_connections(void);
const char *script_server_request(void); /* the head of the last request, after stop */

#endif
