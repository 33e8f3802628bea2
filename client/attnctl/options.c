/* options.c: the options of attnctl from one table: parser and help. One thread; owns nothing. */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "ctl.h"

typedef enum option_kind {
    OPTION_FLAG,
    OPTION_TEXT,
    OPTION_COUNT,
    OPTION_INTEGER,
    OPTION_REAL,
    OPTION_SECONDS
} option_kind_t;

typedef struct option_row {
    const char *name;
    option_kind_t kind;
    size_t offset;
    size_t given; /* offset of a bool that says that it was given; 0 = none */
    const char *value, *help;
} option_row_t;

#define AT(member) offsetof(ctl_options_t, member)

static const option_row_t rows[] = {
    {"q", OPTION_TEXT, AT(q), 0, "FILE.npy", "Q, with --k and --v in place of a safetensors file"},
    {"k", OPTION_TEXT, AT(k), 0, "FILE.npy", "K"},
    {"v", OPTION_TEXT, AT(v), 0, "FILE.npy", "V"},
    {"cu-seqlens-q", OPTION_TEXT, AT(cu_seqlens_q), 0, "FILE.npy", "int32 offsets of packed sequences in Q"},
    {"cu-seqlens-k", OPTION_TEXT, AT(cu_seqlens_k), 0, "FILE.npy", "the same for K and V"},
    {"shape", OPTION_TEXT, AT(shape), 0, "B,S_Q,S_KV,H_Q/H_KV,D", "made-up tensors of this shape instead of files"},
    {"seed", OPTION_COUNT, AT(seed), AT(has_seed), "N",
     "of the made-up tensors (default 0); the same N gives the same "
     "numbers everywhere"},
    {"dtype", OPTION_TEXT, AT(dtype), 0, "fp16|bf16|fp32",
     "with --shape (default bf16); with .npy files of 2-byte "
     "void items: bf16"},
    {"layout", OPTION_TEXT, AT(layout), 0, "bshd|bhsd|thd",
     "order of the dimensions (default bshd; thd with "
     "cu_seqlens)"},
    {"variant", OPTION_TEXT, AT(variant), 0, "NAME", "what to run (default auto: the daemon chooses)"},
    {"variants", OPTION_TEXT, AT(variants), 0, "A,B,..", "what to compare (default: all that support the request)"},
    {"causal", OPTION_FLAG, AT(causal), 0, NULL, "row i sees key j when j <= i + s_kv - s_q"},
    {"sm-scale", OPTION_REAL, AT(sm_scale), 0, "X", "factor of the scores (default 1/sqrt(d))"},
    {"softcap", OPTION_REAL, AT(softcap), 0, "X", "softcap * tanh(score / softcap) (default off)"},
    {"return-lse", OPTION_FLAG, AT(return_lse), 0, NULL, "the log-sum-exp too"},
    {"output", OPTION_TEXT, AT(output), 0, "FILE", "write O (and LSE) there as safetensors"},
    {"deadline-ms", OPTION_COUNT, AT(deadline_ms), 0, "N", "give up after this long in the daemon (default never)"},
    {"priority", OPTION_INTEGER, AT(priority), 0, "N", "-100 to 100, higher first (default 0)"},
    {"id", OPTION_TEXT, AT(id), 0, "TEXT", "name of the request in the daemon's log"},
    {"rounds", OPTION_COUNT, AT(rounds), AT(has_rounds), "N", "timed rounds per variant (default by expected time)"},
    {"warmup", OPTION_COUNT, AT(warmup), AT(has_warmup), "N", "untimed rounds before them"},
    {"door", OPTION_TEXT, AT(door), 0, "http|socket|ring|cuda|cuda-ipc",
     "http; over the Unix socket by message or through the ring with host memory, or device memory shared as a "
     "descriptor or a handle (default http, over the Unix socket ring)"},
    {"spin-us", OPTION_COUNT, AT(spin_us), AT(has_spin_us), "N",
     "over the Unix socket: look for an answer so long before sleeping (default 50 with 4 cores or more)"},
    {"rate", OPTION_TEXT, AT(rate), 0, "R[,R..]",
     "open loop: so many requests/s, whether or not answers come; a list is a sweep (default: closed loop)"},
    {"arrivals", OPTION_TEXT, AT(arrivals), 0, "poisson|uniform", "times between requests of an open loop"},
    {"connections", OPTION_TEXT, AT(connections), 0, "N[,N..]",
     "each a thread of its own (default 1; open loop 64); a list is a sweep of a closed loop"},
    {"depth", OPTION_COUNT, AT(depth), 0, "N",
     "requests in flight per connection (default 1; http 1, others up to 64)"},
    {"seconds", OPTION_SECONDS, AT(seconds), 0, "S", "how long to measure (default 10)"},
    {"requests", OPTION_COUNT, AT(requests), 0, "N", "measure so many requests instead"},
    {"warmup-seconds", OPTION_SECONDS, AT(warmup_seconds), AT(has_warmup_seconds), "S",
     "what is sent before counting begins (default 1)"},
    {"verify", OPTION_FLAG, AT(verify), 0, NULL,
     "every O must equal the first one of its class, to the bit; others fail"},
    {"interval", OPTION_SECONDS, AT(interval), 0, "S", "between two looks (default 2)"},
    {"count", OPTION_COUNT, AT(count), 0, "N", "how many times to look (default: until SIGINT)"},
    {"csv", OPTION_FLAG, AT(csv), 0, NULL, "print CSV on standard output"},
    {"all", OPTION_FLAG, AT(verbose), 0, NULL, "features and reasons too"},
    {"server", OPTION_TEXT, AT(server), 0, "http://HOST:PORT|unix:PATH",
     "the daemon (default $ATTND_SERVER, else "
     "http://127.0.0.1:8000)"},
    {"socket", OPTION_TEXT, AT(socket), 0, "PATH", "the daemon's Unix socket: the same as --server unix:PATH"},
    {"json", OPTION_FLAG, AT(json), 0, NULL, "print JSON on standard output, errors included"},
    {"help", OPTION_FLAG, AT(help), 0, NULL, "print this"},
};
#define ROW_COUNT (sizeof(rows) / sizeof(rows[0]))

static bool list_has(const char *list, const char *name, size_t size)
{
    for (const char *at = list; (at = strstr(at, name)) != NULL; at += size) {
        if ((at == list || at[-1] == ' ') && (at[size] == ' ' || at[size] == '\0')) {
            return true;
        }
    }
    return false;
}

static bool row_belongs(const option_row_t *row, const ctl_command_t *command)
{
    size_t size = strlen(row->name);
    return list_has("server socket json help", row->name, size) || list_has(command->options, row->name, size);
}

static const option_row_t *row_find(const ctl_command_t *command, const char *name, size_t size)
{
    for (size_t i = 0; i < ROW_COUNT; i++) {
        if (strlen(rows[i].name) == size && memcmp(rows[i].name, name, size) == 0 && row_belongs(&rows[i], command)) {
            return &rows[i];
        }
    }
    return NULL;
}

static attn_status_t value_wrong(const option_row_t *row, const char *value, const char *right, attn_error_t *err)
{
    return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "--%s is '%.100s'; it must be %s", row->name, value, right);
}

static attn_status_t value_set(const option_row_t *row, const char *value, ctl_options_t *options, attn_error_t *err)
{
    char *place = (char *)options + row->offset, *end = NULL;
    errno = 0;
    switch (row->kind) {
    case OPTION_FLAG:
        *(bool *)place = true;
        return ATTN_OK;
    case OPTION_TEXT:
        *(const char **)place = value;
        break;
    case OPTION_COUNT: {
        unsigned long long number = strtoull(value, &end, 10);
        if (value[0] < '0' || value[0] > '9' || *end != '\0' || errno != 0) {
            return value_wrong(row, value, "a whole number of 0 or more", err);
        }
        *(uint64_t *)place = number;
        break;
    }
    case OPTION_INTEGER: {
        long long number = strtoll(value, &end, 10);
        if (end == value || *end != '\0' || errno != 0) {
            return value_wrong(row, value, "a whole number", err);
        }
        *(int64_t *)place = number;
        break;
    }
    case OPTION_SECONDS: {
        double number = strtod(value, &end);
        if (end == value || *end != '\0' || !(number >= 0) || number > 1e6) {
            return value_wrong(row, value, "a number of seconds from 0 to 1000000", err);
        }
        *(double *)place = number;
        break;
    }
    case OPTION_REAL: {
        double number = strtod(value, &end);
        if (end == value || *end != '\0' || !(number > 0) || !((float)number > 0) || number > 3e38) {
            return value_wrong(row, value, "a number above 0", err);
        }
        *(double *)place = number;
        break;
    }
    }
    if (row->given != 0) {
        *(bool *)((char *)options + row->given) = true;
    }
    return ATTN_OK;
}

attn_status_t ctl_options_parse(const ctl_command_t *command, int argc, char *const *argv, ctl_options_t *ret,
                                attn_error_t *err)
{
    ctl_options_t options = {.server = getenv("ATTND_SERVER")};
    if (options.server == NULL || options.server[0] == '\0') {
        options.server = "http://127.0.0.1:8000";
    }
    for (int i = 0; i < argc; i++) {
        const char *argument = argv[i];
        if (strcmp(argument, "-h") == 0) {
            argument = "--help";
        }
        if (strncmp(argument, "--", 2) != 0) {
            if (options.input != NULL || strstr(command->usage, "FILE") == NULL) {
                return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                                      "attnctl %s does not take '%.100s'; see attnctl %s --help", command->name,
                                      argument, command->name);
            }
            options.input = argument;
            continue;
        }
        const char *name = argument + 2, *equals = strchr(name, '=');
        size_t size = equals != NULL ? (size_t)(equals - name) : strlen(name);
        const option_row_t *row = row_find(command, name, size);
        if (row == NULL) {
            return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                                  "attnctl %s has no option --%.*s; attnctl %s --help lists them", command->name,
                                  (int)(size < 60 ? size : 60), name, command->name);
        }
        const char *value = equals != NULL ? equals + 1 : NULL;
        if (row->kind == OPTION_FLAG && value != NULL) {
            return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "--%s takes no value", row->name);
        }
        if (row->kind != OPTION_FLAG && value == NULL) {
            if (++i >= argc) {
                return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "--%s needs a value: --%s %s", row->name,
                                      row->name, row->value);
            }
            value = argv[i];
        }
        attn_status_t status = value_set(row, value, &options, err);
        if (status != ATTN_OK) {
            return status;
        }
    }
    if (options.socket != NULL && snprintf(options.socket_address, sizeof(options.socket_address), "unix:%s",
                                           options.socket) >= (int)sizeof(options.socket_address)) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "--socket '%.100s' is longer than an address may be",
                              options.socket);
    }
    *ret = options;
    if (options.socket != NULL) {
        ret->server = ret->socket_address;
    }
    return ATTN_OK;
}

attn_status_t ctl_priority_check(const ctl_options_t *options, attn_error_t *err)
{
    if (options->priority < -100 || options->priority > 100) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "--priority is %lld; it must be -100 to 100",
                              (long long)options->priority);
    }
    return ATTN_OK;
}

void ctl_options_help(const ctl_command_t *command, FILE *out)
{
    fprintf(out, "attnctl %s: %s\n\nusage: attnctl %s %s\n\n", command->name, command->summary, command->name,
            command->usage);
    for (size_t i = 0; i < ROW_COUNT; i++) {
        if (row_belongs(&rows[i], command)) {
            char left[64];
            snprintf(left, sizeof(left), "--%s%s%s", rows[i].name, rows[i].value != NULL ? " " : "",
                     rows[i].value != NULL ? rows[i].value : "");
            fprintf(out, "  %-32s %s\n", left, rows[i].help);
        }
    }
    if (command->notes != NULL) {
        fprintf(out, "\n%s\n", command->notes);
    }
}
