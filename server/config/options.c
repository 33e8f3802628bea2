/* config/options.c: the table of options and the only code that reads it. Main thread. */
#include "config/options.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

typedef enum kind { KIND_STRING, KIND_U32, KIND_BYTES, KIND_DOUBLE, KIND_CHOICE, KIND_FLAG } kind_t;

typedef struct option {
    const char *name;
    kind_t kind;
    size_t place;        /* offset in attn_options_t */
    const char *initial; /* parsed like a value from outside */
    double min, max;     /* numbers */
    const char *choices; /* KIND_CHOICE: "text|json", numbered from 0 */
    const char *value;   /* what stands after the name in --help */
    const char *help;
} option_t;

#define KIB(n) ((double)(n)*1024.0)
#define GIB(n) (KIB(n) * 1024.0 * 1024.0)
#define BYTES_MAX 9007199254740992.0 /* 2^53: above it a double has no room for every integer */

#define STRING(name, field, initial, value, help)                                                                      \
    {                                                                                                                  \
        name, KIND_STRING, offsetof(attn_options_t, field), initial, 0, 0, NULL, value, help                           \
    }
#define NUMBER(name, field, initial, min, max, help)                                                                   \
    {                                                                                                                  \
        name, KIND_U32, offsetof(attn_options_t, field), initial, min, max, NULL, "N", help                            \
    }
#define NUMBER_OR_AUTO(name, field, initial, min, max, help)                                                           \
    {                                                                                                                  \
        name, KIND_U32, offsetof(attn_options_t, field), initial, min, max, "auto", "N|auto", help                     \
    }
#define BYTES(name, field, initial, min, max, help)                                                                    \
    {                                                                                                                  \
        name, KIND_BYTES, offsetof(attn_options_t, field), initial, min, max, NULL, "BYTES", help                      \
    }
#define REAL(name, field, initial, min, max, help)                                                                     \
    {                                                                                                                  \
        name, KIND_DOUBLE, offsetof(attn_options_t, field), initial, min, max, NULL, "X", help                         \
    }
#define CHOICE(name, field, initial, choices, help)                                                                    \
    {                                                                                                                  \
        name, KIND_CHOICE, offsetof(attn_options_t, field), initial, 0, 0, choices, choices, help                      \
    }
#define FLAG(name, field, help)                                                                                        \
    {                                                                                                                  \
        name, KIND_FLAG, offsetof(attn_options_t, field), "false", 0, 0, NULL, NULL, help                              \
    }

static const option_t table[] = {
    STRING("bind", bind, "127.0.0.1", "ADDRESS", "IPv4 or IPv6 address that the TCP doors listen on"),
    NUMBER("http-port", http_port, "8000", 0, 65535, "port of the HTTP door; 0 = any free port"),
    NUMBER("grpc-port", grpc_port, "0", 0, 65535, "port of the gRPC door (8001 by custom); 0 = off"),
    NUMBER("metrics-port", metrics_port, "8002", 0, 65535, "port of /metrics and the probes alone; 0 = off"),
    STRING("socket", socket, ATTN_SOCKET_DEFAULT, "PATH|none", "Unix socket for processes on this host; none = off"),
    STRING("socket-mode", socket_mode, "0660", "OCTAL", "permissions of the socket's file"),
    STRING("socket-users", socket_users, "", "UID,UID",
           "user ids that may use the socket; with --socket-groups empty too, whoever can open it"),
    STRING("socket-groups", socket_groups, "", "GID,GID", "group ids that may use the socket"),
    NUMBER_OR_AUTO("socket-spin-us", socket_spin_us, "auto", 0, 1e6,
                   "how long the socket's thread looks at rings before it sleeps; auto = 200 where there are more than "
                   "two cores"),
    NUMBER("socket-connections", socket_connections, "256", 1, 65536, "open connections of the Unix socket"),
    NUMBER_OR_AUTO(
        "spin-us", spin_us, "auto", 1, 1e6,
        "how long the scheduler and idle workers look for work before they sleep (workers with work under way "
        "twice as long); auto = 200 where there are more than two cores, else not at all"),
    BYTES("socket-region-bytes", socket_region_bytes, "0", 0, BYTES_MAX,
          "host memory that one connection of the socket may register; 0 = a quarter of the memory"),
    STRING("port-file", port_file, "", "FILE",
           "write the bound ports (\"http 8000\", a line each) there once they are open"),
    STRING("devices", devices, "auto", "auto|cpu|all|0,2",
           "devices to serve on: auto = every usable GPU, else the CPU; all = both"),
    STRING("worker-path", worker_path, "", "FILE", "the attn-worker program; default: beside attnd"),
    STRING("plugin", plugin, "", "FILE", "shared object with further variants"),
    BYTES("arena-bytes", arena_bytes, "0", 0, BYTES_MAX,
          "memory for tensors of requests; 0 = a quarter of the memory, at most 8 GiB"),
    BYTES("max-request-bytes", max_request_bytes, "0", 0, BYTES_MAX,
          "largest body of a request; 0 = half of the arena"),
    BYTES("max-metadata-bytes", max_metadata_bytes, "1M", KIB(4), KIB(65536),
          "largest protobuf or safetensors header, and JSON body"),
    NUMBER("max-queue-delay-us", max_queue_delay_us, "0", 0, 1e6,
           "how long a request may wait for others to be merged with while more are likely to come; 0 = only while "
           "the device is busy"),
    NUMBER("max-group-requests", max_group_requests, "64", 1, 64, "requests that are merged into one launch"),
    NUMBER("max-group-tokens", max_group_tokens, "131072", 1, 4e9, "their query and key rows"),
    BYTES("max-group-bytes", max_group_bytes, "64M", 1, GIB(64), "their tensors"),
    NUMBER("max-group-cost-us", max_group_cost_us, "1000", 1, 1e9,
           "their expected time; a request above one of these limits runs alone"),
    NUMBER(
        "pipeline-depth", pipeline_depth, "0", 0, 4,
        "groups in flight on a device; 0 = what suits it: on a GPU 4 and beside them 8 large requests, 1 on the CPU"),
    NUMBER("queue-limit", queue_limit, "1024", 1, 1048576, "requests waiting for a device; one more gets 503"),
    NUMBER("http-threads", http_threads, "0", 0, 64,
           "threads of the HTTP door; 0 = one per core, from 2 to 4; from 8 cores on half as many as cores, from 5 to "
           "16; from 5 on a peer is kept out of one"),
    NUMBER("http-spin-us", http_spin_us, "0", 0, 10000,
           "how long such a thread looks for more before it sleeps; 0 = 200 on 8 cores or more, else not at all"),
    NUMBER("max-connections", max_connections, "4096", 8, 1048576, "open HTTP connections"),
    NUMBER("max-connections-per-peer", max_connections_per_peer, "0", 0, 1048576,
           "open HTTP connections of one address; 0 = no limit (behind a proxy all come from one)"),
    BYTES("min-upload-rate", min_upload_rate, "64K", 0, GIB(1),
          "bytes per second that a sender must reach on average, else 408; 0 = any"),
    BYTES("min-download-rate", min_download_rate, "64K", 0, GIB(1),
          "bytes per second that a reader must take, else it is cut off; 0 = any"),
    NUMBER("rate-grace-ms", rate_grace_ms, "5000", 50, 3600e3, "time before the minimum rates count"),
    NUMBER("header-timeout-ms", header_timeout_ms, "10000", 50, 3600e3, "time for a request's head to arrive"),
    NUMBER("idle-timeout-ms", idle_timeout_ms, "75000", 50, 86400e3, "time that a connection may stay unused"),
    NUMBER("drain-delay-ms", drain_delay_ms, "0", 0, 3600e3,
           "after SIGTERM: not ready but still serving, so that load balancers look elsewhere"),
    NUMBER("drain-timeout-ms", drain_timeout_ms, "30000", 0, 86400e3,
           "then: time for accepted requests to finish before they are cancelled"),
    NUMBER("watchdog-floor-ms", watchdog_floor_ms, "2000", 10, 3600e3,
           "least time that a launch gets before the watchdog ends its worker"),
    REAL("watchdog-factor", watchdog_factor, "20", 1, 1e6, "times the expected time that it gets on top"),
    NUMBER("quarantine-strikes", quarantine_strikes, "2", 1, 1000, "faults that put a variant into quarantine"),
    NUMBER("quarantine-window-s", quarantine_window_s, "600", 1, 86400, "seconds within which the faults count"),
    NUMBER("quarantine-s", quarantine_s, "600", 1, 864000, "seconds that a quarantine lasts"),
    NUMBER("compare-jobs", compare_jobs, "64", 1, 100000, "comparisons that are kept, running ones included"),
    NUMBER("compare-keep-s", compare_keep_s, "600", 1, 86400, "seconds that the result of a comparison is kept"),
    FLAG("test-variants", test_variants, "serve the variants that misbehave on purpose; for tests"),
    CHOICE("log-format", log_format, "text", "text|json", "form of the log on standard error"),
    CHOICE("log-level", log_level, "info", "debug|info|warn|error", "least severity that is logged"),
    FLAG("check-config", check_config, "check the configuration, print it and exit"),
    FLAG("dump-options", dump_options, "print this table as Markdown and exit"),
    FLAG("version", version, "print the version and exit"),
    FLAG("help", help, "print this and exit"),
};
#define ROWS (sizeof table / sizeof table[0])

static attn_status_t refuse(attn_error_t *err, const option_t *row, const char *source, const char *value,
                            const char *right)
{
    return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "%s: \"%.80s\" is not valid for --%s; %s", source, value,
                          row->name, right);
}

/* Digits with an optional K, M, G or T (powers of 1024). */
static bool parse_bytes(const char *text, uint64_t *ret)
{
    if (!isdigit((unsigned char)*text)) {
        return false;
    }
    char *end;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    if (errno != 0) {
        return false;
    }
    static const char suffixes[] = "KMGT";
    unsigned shift = 0;
    if (*end != '\0') {
        const char *suffix = strchr(suffixes, toupper((unsigned char)*end));
        if (suffix == NULL || (end[1] != '\0' && strcasecmp(end + 1, "iB") != 0)) {
            return false;
        }
        shift = 10u * (unsigned)(suffix - suffixes + 1);
    }
    if (number > UINT64_MAX >> shift) {
        return false;
    }
    *ret = (uint64_t)number << shift;
    return true;
}

static bool parse_choice(const char *choices, const char *value, uint32_t *ret)
{
    size_t length = strlen(value);
    for (uint32_t index = 0; *choices != '\0'; index++) {
        size_t choice = strcspn(choices, "|");
        if (choice == length && memcmp(choices, value, length) == 0) {
            *ret = index;
            return true;
        }
        choices += choice + (choices[choice] == '|');
    }
    return false;
}

static attn_status_t set(attn_options_t *options, const option_t *row, const char *source, const char *value,
                         attn_error_t *err)
{
    void *place = (char *)options + row->place;
    char right[160];
    switch (row->kind) {
    case KIND_STRING:
        *(const char **)place = value;
        return ATTN_OK;
    case KIND_FLAG:
        if (strcmp(value, "true") == 0 || strcmp(value, "1") == 0) {
            *(bool *)place = true;
        } else if (strcmp(value, "false") == 0 || strcmp(value, "0") == 0) {
            *(bool *)place = false;
        } else {
            return refuse(err, row, source, value, "give true or false");
        }
        return ATTN_OK;
    case KIND_CHOICE:
        if (!parse_choice(row->choices, value, place)) {
            snprintf(right, sizeof right, "give one of %s", row->choices);
            return refuse(err, row, source, value, right);
        }
        return ATTN_OK;
    case KIND_U32:
    case KIND_BYTES: {
        uint64_t number;
        if (row->choices != NULL && strcmp(value, row->choices) == 0) {
            *(uint32_t *)place = ATTN_NUMBER_AUTO;
            return ATTN_OK;
        }
        bool digits = row->kind == KIND_BYTES || strspn(value, "0123456789") == strlen(value);
        if (!digits || !parse_bytes(value, &number) || (double)number < row->min || (double)number > row->max) {
            snprintf(right, sizeof right, "give a whole number from %.0f to %.0f%s%s", row->min, row->max,
                     row->choices != NULL ? ", or auto" : "",
                     row->kind == KIND_BYTES ? ", with K, M, G or T for powers of 1024 if you like" : "");
            return refuse(err, row, source, value, right);
        }
        if (row->kind == KIND_BYTES) {
            *(uint64_t *)place = number;
        } else {
            *(uint32_t *)place = (uint32_t)number;
        }
        return ATTN_OK;
    }
    case KIND_DOUBLE: {
        char *end;
        double number = strtod(value, &end);
        if (end == value || *end != '\0' || !(number >= row->min && number <= row->max)) {
            snprintf(right, sizeof right, "give a number from %g to %g", row->min, row->max);
            return refuse(err, row, source, value, right);
        }
        *(double *)place = number;
        return ATTN_OK;
    }
    }
    return ATTN_OK;
}

/* "ATTND_HTTP_PORT" for "http-port". */
static void variable_name(const option_t *row, char ret[64])
{
    size_t used = (size_t)snprintf(ret, 64, "ATTND_");
    for (const char *c = row->name; *c != '\0' && used < 63; c++) {
        ret[used++] = *c == '-' ? '_' : (char)toupper((unsigned char)*c);
    }
    ret[used] = '\0';
}

static const char *variable_value(char *const *environment, const char *name)
{
    size_t length = strlen(name);
    for (; environment != NULL && *environment != NULL; environment++) {
        if (strncmp(*environment, name, length) == 0 && (*environment)[length] == '=') {
            return *environment + length + 1;
        }
    }
    return NULL;
}

static attn_status_t parse_arguments(int argc, char *const *argv, attn_options_t *options, attn_error_t *err)
{
    for (int i = 1; i < argc; i++) {
        const char *argument = argv[i];
        if (strncmp(argument, "--", 2) != 0 || argument[2] == '\0') {
            return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                                  "\"%.80s\" is not an option; options are --name value, see --help", argument);
        }
        const char *equals = strchr(argument, '=');
        size_t length = equals != NULL ? (size_t)(equals - argument - 2) : strlen(argument + 2);
        const option_t *row = NULL;
        for (size_t r = 0; r < ROWS && row == NULL; r++) {
            if (strlen(table[r].name) == length && memcmp(table[r].name, argument + 2, length) == 0) {
                row = &table[r];
            }
        }
        if (row == NULL) {
            return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "unknown option --%.*s; --help lists them all",
                                  (int)(length > 80 ? 80 : length), argument + 2);
        }
        const char *value = equals != NULL ? equals + 1 : row->kind == KIND_FLAG ? "true" : argv[i + 1];
        if (equals == NULL && row->kind != KIND_FLAG) {
            if (++i >= argc) {
                return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "--%s needs a value: --%s %s", row->name,
                                      row->name, row->value);
            }
        }
        attn_status_t status = set(options, row, "command line", value, err);
        if (status != ATTN_OK) {
            return status;
        }
    }
    return ATTN_OK;
}

/* A UUID as CUDA has it ("GPU-…", "MIG-…"): whether there is such a device only the worker knows. */
static bool device_is_uuid(const char *text, size_t length)
{
    return length > 4 && (strncmp(text, "GPU-", 4) == 0 || strncmp(text, "MIG-", 4) == 0);
}

/* One entry of a list; numbers may occur once. */
static bool device_valid(const char *text, size_t length, uint64_t *seen)
{
    if ((length == 3 && strncmp(text, "cpu", 3) == 0) || (length == 4 && strncmp(text, "null", 4) == 0) ||
        device_is_uuid(text, length)) {
        return true;
    }
    if (length == 0 || length > 2 || strspn(text, "0123456789") < length) {
        return false;
    }
    unsigned long number = strtoul(text, NULL, 10);
    bool fresh = number < 64 && (*seen >> number & 1) == 0;
    *seen |= fresh ? UINT64_C(1) << number : 0;
    return fresh;
}

/* "auto", "all", or a list with commas of "cpu", GPUs by number or UUID, and "null" (tests). */
static bool devices_valid(const char *text)
{
    if (strcmp(text, "auto") == 0 || strcmp(text, "all") == 0) {
        return true;
    }
    uint64_t seen = 0;
    for (;;) {
        size_t length = strcspn(text, ",");
        if (!device_valid(text, length, &seen)) {
            return false;
        }
        if (text[length] == '\0') {
            return true;
        }
        text += length + 1;
    }
}

/* Empty, or numbers with commas. */
static bool ids_valid(const char *text)
{
    while (*text != '\0') {
        char *end;
        errno = 0;
        if (!isdigit((unsigned char)*text) || strtoul(text, &end, 10) > UINT32_MAX || errno != 0) {
            return false;
        }
        if (*end != '\0' && (*end != ',' || end[1] == '\0')) {
            return false;
        }
        text = *end == ',' ? end + 1 : end;
    }
    return true;
}

/* What one row cannot say. */
static attn_status_t check_together(const attn_options_t *options, attn_error_t *err)
{
    unsigned char address[sizeof(struct in6_addr)];
    if (inet_pton(AF_INET, options->bind, address) != 1 && inet_pton(AF_INET6, options->bind, address) != 1) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "--bind \"%.80s\" is not an address; give one like 127.0.0.1, 0.0.0.0 or ::1",
                              options->bind);
    }
    if (!devices_valid(options->devices)) {
        return attn_error_set(
            err, ATTN_ERR_INVALID_ARGUMENT,
            "--devices \"%.80s\" is not valid; give auto, all, or a list of cpu and GPUs by number or UUID, like 0,2",
            options->devices);
    }
    if (options->metrics_port != 0 && options->metrics_port == options->http_port) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "--http-port and --metrics-port are both %u; /metrics is on the HTTP port anyway, so "
                              "--metrics-port 0 would do",
                              options->http_port);
    }
    if (options->grpc_port != 0) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "--grpc-port %u: this build of attnd has no gRPC door; give --grpc-port 0",
                              options->grpc_port);
    }
    char *end;
    unsigned long mode = strtoul(options->socket_mode, &end, 8);
    if (options->socket_mode[0] == '\0' || *end != '\0' || mode > 0777) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "--socket-mode \"%.80s\" is not valid; give permissions in octal, like 0660",
                              options->socket_mode);
    }
    if (!ids_valid(options->socket_users) || !ids_valid(options->socket_groups)) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "--socket-users and --socket-groups take numbers with commas, like 0,1000; they are "
                              "\"%.80s\" and \"%.80s\"",
                              options->socket_users, options->socket_groups);
    }
    if (options->plugin[0] != '\0') {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "--plugin %.80s: this build of attnd does not load plug-ins; leave the option out",
                              options->plugin);
    }
    if (options->arena_bytes != 0 && options->max_request_bytes > options->arena_bytes) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "--max-request-bytes %" PRIu64 " does not fit --arena-bytes %" PRIu64
                              "; give at most half of the arena",
                              options->max_request_bytes, options->arena_bytes);
    }
    return ATTN_OK;
}

attn_status_t attn_options_parse(int argc, char *const *argv, char *const *environment, attn_options_t *ret,
                                 attn_error_t *err)
{
    attn_options_t options = {0};
    for (size_t r = 0; r < ROWS; r++) {
        attn_status_t status = set(&options, &table[r], "default", table[r].initial, err);
        if (status != ATTN_OK) {
            return status;
        }
    }
    for (size_t r = 0; r < ROWS; r++) {
        char name[64];
        variable_name(&table[r], name);
        const char *value = variable_value(environment, name);
        attn_status_t status = value != NULL ? set(&options, &table[r], name, value, err) : ATTN_OK;
        if (status != ATTN_OK) {
            return status;
        }
    }
    attn_status_t status = parse_arguments(argc, argv, &options, err);
    if (status == ATTN_OK && !options.help && !options.version && !options.dump_options) {
        status = check_together(&options, err);
    }
    if (status == ATTN_OK) {
        *ret = options;
    }
    return status;
}

static void print_initial(FILE *out, const option_t *row)
{
    if (row->kind != KIND_FLAG && row->initial[0] != '\0') {
        fprintf(out, " (default %s)", row->initial);
    }
}

void attn_options_print_help(FILE *out)
{
    fputs("attnd: runs attention kernels for callers over HTTP\n\nUsage: attnd [--option value]...\n\nEvery option can "
          "also be set in the environment: --http-port as ATTND_HTTP_PORT.\nThe command line wins.\n\n",
          out);
    for (size_t r = 0; r < ROWS; r++) {
        fprintf(out, "  --%s%s%s\n        %s", table[r].name, table[r].value != NULL ? " " : "",
                table[r].value != NULL ? table[r].value : "", table[r].help);
        print_initial(out, &table[r]);
        fputc('\n', out);
    }
}

void attn_options_print_markdown(FILE *out)
{
    fputs("| option | environment | default | meaning |\n|---|---|---|---|\n", out);
    for (size_t r = 0; r < ROWS; r++) {
        char name[64];
        variable_name(&table[r], name);
        fprintf(out, "| `--%s` | `%s` | %s%s%s | %s |\n", table[r].name, name, table[r].initial[0] != '\0' ? "`" : "",
                table[r].initial, table[r].initial[0] != '\0' ? "`" : "", table[r].help);
    }
}

void attn_options_print_values(FILE *out, const attn_options_t *options)
{
    for (size_t r = 0; r < ROWS; r++) {
        const option_t *row = &table[r];
        const void *place = (const char *)options + row->place;
        fprintf(out, "%s = ", row->name);
        switch (row->kind) {
        case KIND_STRING:
            fputs(*(const char *const *)place, out);
            break;
        case KIND_FLAG:
            fputs(*(const bool *)place ? "true" : "false", out);
            break;
        case KIND_U32:
            if (row->choices != NULL && *(const uint32_t *)place == ATTN_NUMBER_AUTO) {
                fputs(row->choices, out);
                break;
            }
            fprintf(out, "%" PRIu32, *(const uint32_t *)place);
            break;
        case KIND_BYTES:
            fprintf(out, "%" PRIu64, *(const uint64_t *)place);
            break;
        case KIND_DOUBLE:
            fprintf(out, "%g", *(const double *)place);
            break;
        case KIND_CHOICE: {
            const char *choice = row->choices;
            for (uint32_t skip = *(const uint32_t *)place; skip > 0; skip--) {
                choice += strcspn(choice, "|") + 1;
            }
            fprintf(out, "%.*s", (int)strcspn(choice, "|"), choice);
            break;
        }
        }
        fputc('\n', out);
    }
}

const char *attn_options_unknown_variable(char *const *environment, size_t *index)
{
    for (; environment != NULL && environment[*index] != NULL; ++*index) {
        const char *variable = environment[*index];
        if (strncmp(variable, "ATTND_", 6) != 0 || strncmp(variable, "ATTND_SERVICE_", 14) == 0 ||
            strncmp(variable, "ATTND_PORT", 10) == 0) {
            continue;
        }
        bool known = false;
        size_t length = strcspn(variable, "=");
        for (size_t r = 0; r < ROWS && !known; r++) {
            char name[64];
            variable_name(&table[r], name);
            known = strlen(name) == length && memcmp(name, variable, length) == 0;
        }
        if (!known) {
            ++*index;
            return variable;
        }
    }
    return NULL;
}
