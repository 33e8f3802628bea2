/* endpoint.c: reads the address of a server. Pure; any thread; owns nothing. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "conn.h"

#define HTTP_PORT "80"

static attn_status_t endpoint_wrong(const char *url, const char *what, attn_error_t *err)
{
    return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                          "the server address '%.200s' %s; give it as http://host:port, for example "
                          "http://127.0.0.1:8000 or http://[::1]:8000, or as unix:/PATH",
                          url, what);
}

static bool port_good(const char *port)
{
    size_t digits = strspn(port, "0123456789");
    if (digits == 0 || digits > 5 || port[digits] != '\0') {
        return false;
    }
    long number = strtol(port, NULL, 10);
    return number >= 1 && number <= 65535;
}

attn_status_t attn_endpoint_parse(const char *url, attn_endpoint_t *ret, attn_error_t *err)
{
    if (url == NULL) {
        return endpoint_wrong("", "is missing", err);
    }
    if (strncmp(url, "https://", 8) == 0) {
        return attn_error_set(err, ATTN_ERR_UNIMPLEMENTED,
                              "this client speaks plain HTTP; put a proxy that ends TLS beside it and give the server "
                              "as http://host:port instead of '%.200s'",
                              url);
    }
    if (strncmp(url, "http://", 7) != 0) {
        return endpoint_wrong(url, "does not begin with http://", err);
    }
    const char *host = url + 7;
    size_t size = strcspn(host, "/?#");
    if (host[size] != '\0' && strcmp(host + size, "/") != 0) {
        return endpoint_wrong(url, "has a path", err);
    }
    for (size_t i = 0; i < size; i++) {
        if (!isgraph((unsigned char)host[i]) || host[i] == '@') {
            return endpoint_wrong(url, "has a character that does not belong in a host name", err);
        }
    }
    size_t host_size;
    const char *after;
    if (host[0] == '[') {
        const char *bracket = memchr(host, ']', size);
        if (bracket == NULL) {
            return endpoint_wrong(url, "has '[' without ']'", err);
        }
        host++;
        host_size = (size_t)(bracket - host);
        after = bracket + 1;
        size--;
    } else {
        const char *colon = memchr(host, ':', size);
        host_size = colon != NULL ? (size_t)(colon - host) : size;
        after = host + host_size;
    }
    size_t after_size = (size_t)(host + size - after);
    attn_endpoint_t endpoint = {.port = HTTP_PORT};
    if (host_size == 0 || host_size >= sizeof(endpoint.host)) {
        return endpoint_wrong(url, host_size == 0 ? "has no host" : "has a host name that is too long", err);
    }
    memcpy(endpoint.host, host, host_size);
    if (after_size > 0) {
        if (after[0] != ':' || after_size > sizeof(endpoint.port)) {
            return endpoint_wrong(url, "has no port from 1 to 65535 after the host", err);
        }
        memset(endpoint.port, 0, sizeof(endpoint.port));
        memcpy(endpoint.port, after + 1, after_size - 1);
        if (!port_good(endpoint.port)) {
            return endpoint_wrong(url, "has no port from 1 to 65535 after the host", err);
        }
    }
    *ret = endpoint;
    return ATTN_OK;
}
