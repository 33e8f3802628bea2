/* main.c: attnd from its options to its exit status. The main thread starts the parts, then waits for signals; parts
 * are started and ended here alone, in one order and its reverse.
 *
 * Exit status: 0 after a drain and for --help and the like, 1 when something could not be started, 2 for a wrong
 * option. As PID 1 a child does all of this, and PID 1 passes signals on and reaps whatever is orphaned to it: so no
 * part of the daemon ever waits for a process that is not its own. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/about.h"
#include "base/clock.h"
#include "base/log.h"
#include "config/options.h"
#include "sched/compare.h"
#include "transport/http.h"
#include "transport/unix.h"

extern char **environ;

#define DRAIN_LOOK_MS 10
#define ANSWERS_MS 1000 /* for the last answers to leave */

typedef struct daemon_parts {
    attn_front_t front;
    attn_http_t *http;
} daemon_parts_t;

/* ---- as PID 1 ---- */

static int child_status(int status)
{
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Never returns in PID 1. Runs before any thread exists. */
static void become_init(void)
{
    sigset_t all, old;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &old);
    pid_t child = fork();
    if (child <= 0) {
        if (child == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
        }
        sigprocmask(SIG_SETMASK, &old, NULL);
        return; /* the child; or no child can be made, and the daemon runs as PID 1 itself */
    }
    for (;;) {
        siginfo_t info;
        if (sigwaitinfo(&all, &info) < 0) {
            continue;
        }
        if (info.si_signo != SIGCHLD) {
            /* A signal of the keyboard has reached the child already: it is in the same process group. */
            if (info.si_code != SI_KERNEL) {
                kill(child, info.si_signo);
            }
            continue;
        }
        int status;
        for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
            if (pid == child) {
                exit(child_status(status));
            }
        }
    }
}

/* ---- start ---- */

/* Thousands of connections need more than the usual soft limit of 1024. */
static void raise_open_files(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static attn_status_t write_ports(const daemon_parts_t *parts, attn_error_t *err)
{
    const char *path = parts->front.options->port_file;
    char temporary[4096];
    if (path[0] == '\0') {
        return ATTN_OK;
    }
    /* Renamed into place: whoever waits for the file never reads half of it. */
    int length = snprintf(temporary, sizeof temporary, "%s.%d", path, (int)getpid());
    FILE *file = length < (int)sizeof temporary ? fopen(temporary, "we") : NULL;
    if (file == NULL) {
        return attn_error_set(err, ATTN_ERR_SYSTEM, "cannot write --port-file %.200s: %s", path, strerror(errno));
    }
    fprintf(file, "http %u\n", attn_http_port(parts->http));
    if (attn_http_metrics_port(parts->http) != 0) {
        fprintf(file, "metrics %u\n", attn_http_metrics_port(parts->http));
    }
    if (fclose(file) != 0 || rename(temporary, path) != 0) {
        int error = errno;
        unlink(temporary);
        return attn_error_set(err, ATTN_ERR_SYSTEM, "cannot write --port-file %.200s: %s", path, strerror(error));
    }
    return ATTN_OK;
}

static attn_status_t parts_start(daemon_parts_t *parts, attn_error_t *err)
{
    const attn_options_t *options = parts->front.options;
    const attn_admit_options_t admit_options = {options->arena_bytes, options->max_request_bytes};
    attn_status_t status = attn_admit_create(&admit_options, &parts->front.admit, err);
    if (status != ATTN_OK) {
        return status;
    }
    const attn_sched_options_t sched_options = {
        .worker_path = options->worker_path[0] != '\0' ? options->worker_path : NULL,
        .devices = options->devices,
        .admit = parts->front.admit,
        .queue_limit = options->queue_limit,
        .max_queue_delay_us = options->max_queue_delay_us,
        .max_group_requests = options->max_group_requests,
        .max_group_tokens = options->max_group_tokens,
        .max_group_bytes = options->max_group_bytes,
        .max_group_cost_us = options->max_group_cost_us,
        .pipeline_depth = options->pipeline_depth,
        .test_variants = options->test_variants,
        .quarantine_strikes = options->quarantine_strikes,
        .quarantine_window_s = options->quarantine_window_s,
        .quarantine_s = options->quarantine_s,
        .watchdog_floor_ms = options->watchdog_floor_ms,
        .watchdog_factor = options->watchdog_factor,
        .spin_us = options->spin_us == ATTN_NUMBER_AUTO ? 0 : options->spin_us,
    };
    status = attn_sched_start(&sched_options, &parts->front.sched, err);
    if (status != ATTN_OK) {
        return status;
    }
    const attn_compare_options_t compare_options = {
        .sched = parts->front.sched,
        .admit = parts->front.admit,
        .jobs_max = options->compare_jobs,
        .keep_s = options->compare_keep_s,
        .test_variants = options->test_variants,
    };
    status = attn_compare_start(&compare_options, &parts->front.compare, err);
    if (status == ATTN_OK) {
        status = attn_unix_start(&parts->front, &parts->front.socket, err);
    }
    if (status == ATTN_OK) {
        status = attn_http_start(&parts->front, &parts->http, err);
    }
    if (status == ATTN_OK) {
        status = write_ports(parts, err);
    }
    return status;
}

/* Calls that wait for a job or a request are answered by the ends of compare and scheduler, so the door ends last. */
static void parts_stop(daemon_parts_t *parts)
{
    attn_compare_stop(parts->front.compare);
    attn_unix_stop(parts->front.socket);
    if (parts->front.sched != NULL) {
        attn_sched_drain_finish(parts->front.sched, 0);
        attn_sched_stop(parts->front.sched);
    }
    if (!attn_http_stop(parts->http)) {
        ATTN_LOG(ATTN_LOG_ERROR, "a request was never answered; ending without it",
                 attn_log_integer("calls", attn_http_calls(parts->http)));
        attn_log_stop();
        _exit(1); /* threads of the door still use what would be torn down */
    }
    attn_admit_destroy(parts->front.admit);
}

/* ---- running and draining ---- */

static void block_signals(sigset_t *ret)
{
    sigemptyset(ret);
    sigaddset(ret, SIGTERM);
    sigaddset(ret, SIGINT);
    sigaddset(ret, SIGHUP);
    sigprocmask(SIG_BLOCK, ret, NULL); /* before any thread: they inherit it */
    signal(SIGPIPE, SIG_IGN);
}

/* Waits for a signal of the set; false when the time is over. timeout_ms < 0: no end. */
static bool wait_signal(const sigset_t *signals, int64_t timeout_ms)
{
    int64_t until = attn_clock_ns() + timeout_ms * ATTN_NS_PER_MS;
    for (;;) {
        int64_t left = until - attn_clock_ns();
        if (timeout_ms >= 0 && left <= 0) {
            return false;
        }
        struct timespec wait = {.tv_sec = left / ATTN_NS_PER_S, .tv_nsec = left % ATTN_NS_PER_S};
        int signal_number = timeout_ms < 0 ? sigwaitinfo(signals, NULL) : sigtimedwait(signals, NULL, &wait);
        if (signal_number == SIGTERM || signal_number == SIGINT) {
            return true;
        }
        /* SIGHUP: there is nothing to read again; a closed terminal must not end a daemon in the middle of its work. */
    }
}

static bool all_done(const daemon_parts_t *parts)
{
    attn_compare_counts_t jobs;
    attn_compare_count(parts->front.compare, &jobs);
    return jobs.active == 0 && attn_http_calls(parts->http) == 0 && attn_unix_calls(parts->front.socket) == 0;
}

static void drain(daemon_parts_t *parts, const sigset_t *signals)
{
    const attn_options_t *options = parts->front.options;
    ATTN_LOG(ATTN_LOG_INFO, "draining: not ready, still serving",
             attn_log_integer("delay_ms", options->drain_delay_ms));
    attn_sched_drain_begin(parts->front.sched);
    attn_http_drain_begin(parts->http);
    bool hastened = options->drain_delay_ms > 0 && wait_signal(signals, options->drain_delay_ms);
    ATTN_LOG(ATTN_LOG_INFO, "draining: refusing new work, finishing the rest",
             attn_log_integer("timeout_ms", options->drain_timeout_ms), attn_log_bool("hastened", hastened));
    attn_http_drain_refuse(parts->http);
    attn_unix_drain_refuse(parts->front.socket);
    int64_t until = attn_clock_ns() + options->drain_timeout_ms * ATTN_NS_PER_MS;
    while (!hastened && !all_done(parts) && attn_clock_ns() < until) {
        hastened = wait_signal(signals, DRAIN_LOOK_MS);
    }
    /* What is left is cancelled, and its callers are told. */
    attn_compare_drain(parts->front.compare, 0);
    attn_sched_drain_finish(parts->front.sched, 0);
    attn_http_drain_finish(parts->http, ANSWERS_MS);
}

static void log_unknown_variables(void)
{
    size_t index = 0;
    for (const char *variable; (variable = attn_options_unknown_variable(environ, &index)) != NULL;) {
        char name[64];
        snprintf(name, sizeof name, "%.*s", (int)strcspn(variable, "="), variable);
        ATTN_LOG(ATTN_LOG_WARN, "no option has this environment variable; it is ignored", attn_log_text("name", name));
    }
}

static int run(const attn_options_t *options)
{
    attn_error_t err;
    sigset_t signals;
    if (getpid() == 1) {
        become_init();
    }
    block_signals(&signals);
    raise_open_files();
    if (attn_log_start(STDERR_FILENO, options->log_format == ATTN_LOG_FORMAT_JSON, (attn_log_level_t)options->log_level,
                       &err) != ATTN_OK) {
        fprintf(stderr, "attnd: %s\n", err.message);
        return 1;
    }
    log_unknown_variables();
    daemon_parts_t parts = {.front = {.options = options}};
    int64_t began = attn_clock_ns();
    attn_status_t status = parts_start(&parts, &err);
    if (status != ATTN_OK) {
        ATTN_LOG(ATTN_LOG_ERROR, "attnd cannot start", attn_log_text("error", err.message));
    } else {
        ATTN_LOG(ATTN_LOG_INFO, "attnd serves", attn_log_text("build", attn_about_build()),
                 attn_log_text("bind", options->bind), attn_log_integer("http_port", attn_http_port(parts.http)),
                 attn_log_integer("metrics_port", attn_http_metrics_port(parts.http)),
                 attn_log_text("devices", options->devices), attn_log_integer("pid", getpid()),
                 attn_log_integer("start_us", (attn_clock_ns() - began) / ATTN_NS_PER_US));
        wait_signal(&signals, -1);
        drain(&parts, &signals);
    }
    parts_stop(&parts);
    if (status == ATTN_OK) {
        if (options->port_file[0] != '\0') {
            unlink(options->port_file);
        }
        ATTN_LOG(ATTN_LOG_INFO, "attnd ends", attn_log_integer("pid", getpid()));
    }
    attn_log_stop();
    return status == ATTN_OK ? 0 : 1;
}

int main(int argc, char **argv)
{
    attn_options_t options;
    attn_error_t err;
    if (attn_options_parse(argc, argv, environ, &options, &err) != ATTN_OK) {
        fprintf(stderr, "attnd: %s\n", err.message);
        return 2;
    }
    if (options.help) {
        attn_options_print_help(stdout);
    } else if (options.version) {
        printf("attnd %s\n", attn_about_build());
    } else if (options.dump_options) {
        attn_options_print_markdown(stdout);
    } else if (options.check_config) {
        attn_options_print_values(stdout, &options);
    } else {
        return run(&options);
    }
    return fflush(stdout) == 0 ? 0 : 1;
}
