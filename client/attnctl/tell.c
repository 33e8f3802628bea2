/* tell.c: errors and progress as the user sees them. One thread; owns the flag that SIGINT sets. */
#include <jansson.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ctl.h"

static volatile sig_atomic_t interrupted;
static bool line_shown;

static void on_interrupt(int signal_number)
{
    interrupted = 1;
}

static void print_json_error(const attn_client_error_t *error)
{
    json_t *missing = json_array();
    for (uint32_t i = 0; i < error->missing.count; i++) {
        json_array_append_new(missing, json_string(error->missing.item[i]));
    }
    json_t *root = json_pack("{s:s, s:s, s:s, s:b, s:o}", "error", error->error.message, "code",
                             attn_status_name(error->error.status), "request_id", error->request_id, "retryable",
                             error->retryable, "missing", missing);
    json_dumpf(root, stdout, JSON_COMPACT);
    putchar('\n');
    json_decref(root);
}

int ctl_exit_code(attn_status_t status)
{
    return status == ATTN_ERR_CONNECTION || status == ATTN_ERR_TIMEOUT ? CTL_UNREACHABLE : CTL_REFUSED;
}

void ctl_missing_print(FILE *out, const char *indent, const attn_client_error_t *error)
{
    for (uint32_t i = 0; i < error->missing.count; i++) {
        if (strstr(error->error.message, error->missing.item[i]) == NULL) { /* the sentence often names them all */
            fprintf(out, "%s%s\n", indent, error->missing.item[i]);
        }
    }
}

int ctl_fail(const ctl_options_t *options, const attn_client_error_t *error)
{
    ctl_progress_erase();
    if (options->json) {
        print_json_error(error);
    } else {
        fprintf(stderr, "attnctl: %s\n", error->error.message);
        ctl_missing_print(stderr, "  ", error);
    }
    return ctl_exit_code(error->error.status);
}

int ctl_fail_local(const ctl_options_t *options, const attn_error_t *error)
{
    attn_client_error_t whole;
    memset(&whole, 0, sizeof(whole));
    whole.error = *error;
    (void)ctl_fail(options, &whole);
    return CTL_USAGE;
}

bool ctl_open(const ctl_options_t *options, attn_client_t **ret, int *ret_exit)
{
    attn_client_error_t error;
    struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND}; /* twice ends at once */
    sigaction(SIGINT, &action, NULL);
    const char *door = options->door;
    attn_client_options_t how = {.mode = door == NULL || strcmp(door, "http") == 0 ? ATTN_CLIENT_AUTO
                                         : strcmp(door, "socket") == 0             ? ATTN_CLIENT_MESSAGES
                                                                                   : ATTN_CLIENT_RING};
    if (attn_client_open(options->server, &how, ret, &error) != ATTN_OK) {
        *ret_exit = ctl_fail_local(options, &error.error);
        return false;
    }
    return true;
}

void ctl_progress_erase(void)
{
    if (line_shown) {
        fputs("\r\033[K", stderr);
        line_shown = false;
    }
}

void ctl_progress_line(const char *format, ...)
{
    if (!isatty(STDERR_FILENO)) {
        return;
    }
    va_list args;
    va_start(args, format);
    fputs("\r\033[K", stderr);
    vfprintf(stderr, format, args);
    va_end(args);
    line_shown = true;
}

bool ctl_interrupted(void)
{
    return interrupted != 0;
}

static bool interruptible_tell(void *arg, attn_client_phase_t phase, uint64_t done, uint64_t total)
{
    return interrupted == 0;
}

const attn_client_progress_t ctl_interruptible = {interruptible_tell, NULL};

static bool progress_tell(void *arg, attn_client_phase_t phase, uint64_t done, uint64_t total)
{
    static const char *const words[] = {"sending", "waiting", "receiving"};
    static int last = -1;
    int now = (int)phase * 1000 + (total > 0 ? (int)((double)done / (double)total * 100) : 0);
    bool small = total < (UINT64_C(8) << 20) && phase != ATTN_CLIENT_WAITING;
    if (!small && now != last) {
        last = now;
        if (phase == ATTN_CLIENT_WAITING) {
            ctl_progress_line("%s", words[phase]);
        } else {
            ctl_progress_line("%s %d%% of %.1f MiB", words[phase], now % 1000, (double)total / 1048576);
        }
    }
    return interrupted == 0;
}

const attn_client_progress_t ctl_progress = {progress_tell, NULL};

bool ctl_progress_step(void *arg, uint32_t done, uint32_t total, const char *step)
{
    ctl_progress_line("step %u of %u: %s", done + 1 < total ? done + 1 : total, total, step);
    return interrupted == 0;
}
