/* config/options.h: everything that can be set on attnd. One table of rows {name, kind, place, default, range, help} is
 * the parser, --help, the ATTND_* environment, --check-config and the documentation.
 *
 * Main thread, at start; read-only afterwards. Strings belong to argv, the environment or the table. */
#ifndef ATTND_CONFIG_OPTIONS_H
#define ATTND_CONFIG_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "attn/status.h"

typedef enum attn_log_format { ATTN_LOG_FORMAT_TEXT = 0, ATTN_LOG_FORMAT_JSON = 1 } attn_log_format_t;

#define ATTN_SOCKET_DEFAULT "/run/attnd/attnd.sock"
#define ATTN_NUMBER_AUTO UINT32_MAX /* of a number that may be "auto" */

typedef struct attn_options {
    const char *bind;
    uint32_t http_port, grpc_port, metrics_port;
    const char *socket, *socket_mode, *socket_users, *socket_groups;
    uint32_t spin_us, socket_spin_us, socket_connections;
    uint64_t socket_region_bytes;
    const char *port_file;
    const char *devices;
    const char *worker_path;
    const char *plugin;
    uint64_t arena_bytes, max_request_bytes, max_metadata_bytes;
    uint32_t max_queue_delay_us, queue_limit;
    uint32_t max_group_requests, max_group_tokens, max_group_cost_us, pipeline_depth;
    uint64_t max_group_bytes;
    uint32_t http_threads, http_spin_us, max_connections, max_connections_per_peer;
    uint64_t min_upload_rate, min_download_rate;
    uint32_t rate_grace_ms, header_timeout_ms, idle_timeout_ms;
    uint32_t drain_delay_ms, drain_timeout_ms;
    uint32_t watchdog_floor_ms;
    double watchdog_factor;
    uint32_t quarantine_strikes, quarantine_window_s, quarantine_s;
    uint32_t compare_jobs, compare_keep_s;
    bool test_variants;
    uint32_t log_format, log_level;
    bool check_config, dump_options, version, help;
} attn_options_t;

/* Defaults, then ATTND_NAME variables of `environment` (may be NULL), then argv[1..argc): later wins. Errors:
 * INVALID_ARGUMENT with the option, what was given and what would be right. */
attn_status_t attn_options_parse(int argc, char *const *argv, char *const *environment, attn_options_t *ret,
                                 attn_error_t *err);

void attn_options_print_help(FILE *out);
void attn_options_print_markdown(FILE *out);                              /* a table for the README */
void attn_options_print_values(FILE *out, const attn_options_t *options); /* name = value, one per line */

/* An ATTND_* variable that names no option and is not one of those Kubernetes makes for a Service called attnd; the
 * index says where to go on. NULL when there is none left. */
const char *attn_options_unknown_variable(char *const *environment, size_t *index);

#endif
