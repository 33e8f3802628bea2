/* main.c: attnctl: the table of commands. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "ctl.h"

#define INPUT_OPTIONS "q k v cu-seqlens-q cu-seqlens-k shape seed dtype layout causal sm-scale softcap return-lse"
#define INPUT_NOTES                                                                                                    \
    "FILE is a safetensors file with tensors q, k and v (packed sequences: cu_seqlens_q and cu_seqlens_k too)."

#define BENCH_NOTES                                                                                                    \
    "FILE is a workload: a class of requests per line, chosen by weight; # begins a comment. For example\n\n"          \
    "  default dtype=fp16 causal=true\n"                                                                               \
    "  chat    weight=9  shape=1,64,1024,32/8,128   priority=10  deadline-ms=200\n"                                    \
    "  prefill weight=1  shape=1,4096,4096,32/8,128  variant=unified  return-lse=true\n\n"                             \
    "Keys: shape weight dtype layout variant causal sm-scale softcap return-lse priority deadline-ms.\n"               \
    "In an open loop latency runs from the time at which the request was planned, so that requests which\n"            \
    "had to wait behind a stall show it. The same --seed gives the same requests in the same order."

static const ctl_command_t commands[] = {
    {"run", "run attention once", "(FILE | --q … --k … --v … | --shape …) [options]",
     INPUT_OPTIONS " variant output deadline-ms priority id door", INPUT_NOTES, ctl_run},
    {"compare", "run several variants, judge them against fp64 and time them",
     "(FILE | --q … --k … --v … | --shape …) [options]", INPUT_OPTIONS " variants rounds warmup",
     INPUT_NOTES "\nExits with 4 when a variant is wrong or did not run.", ctl_compare},
    {"bench", "put load on the daemon and measure latency and throughput", "(FILE | --shape …) [options]",
     "shape seed dtype layout variant causal sm-scale softcap return-lse deadline-ms priority door rate arrivals "
     "connections depth spin-us seconds requests warmup-seconds verify csv",
     BENCH_NOTES, ctl_bench},
    {"variants", "list what the daemon can run, and on which device", "[options]", "all", NULL, ctl_variants},
    {"stats", "print the daemon's counters and gauges", "[options]", "", NULL, ctl_stats},
    {"top", "show what the daemon does, again and again", "[options]", "interval count",
     "Rates and quantiles are of the time since the last look; what this daemon does not measure shows as -.", ctl_top},
    {"health", "ask whether the daemon is live and ready", "[options]", "", "Exits with 4 when it is not.", ctl_health},
};
#define COMMAND_COUNT (sizeof(commands) / sizeof(commands[0]))

static void print_help(FILE *out)
{
    fprintf(out,
            "attnctl: talks to attnd, a daemon that runs attention kernels\n\nusage: attnctl COMMAND [options]\n\n");
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        fprintf(out, "  %-10s %s\n", commands[i].name, commands[i].summary);
    }
    fprintf(out, "\nattnctl COMMAND --help lists a command's options; attnctl --version prints the version.\n"
                 "\nExit codes: 0 done; 1 the server refused or failed; 2 wrong options or files; 3 the server cannot\n"
                 "be reached; 4 compare: a variant is wrong or did not run, health: not live or not ready.\n");
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";
    signal(SIGPIPE, SIG_IGN); /* a closed pager becomes a write error */
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
        print_help(stdout);
        return CTL_OK;
    }
    if (strcmp(name, "--version") == 0) {
        printf("attnctl %s\n", ATTND_VERSION);
        return CTL_OK;
    }
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        if (strcmp(commands[i].name, name) != 0) {
            continue;
        }
        ctl_options_t options;
        attn_error_t error;
        if (ctl_options_parse(&commands[i], argc - 2, argv + 2, &options, &error) != ATTN_OK) {
            fprintf(stderr, "attnctl: %s\n", error.message);
            return CTL_USAGE;
        }
        if (options.help) {
            ctl_options_help(&commands[i], stdout);
            return CTL_OK;
        }
        return commands[i].run(&options);
    }
    if (name[0] == '\0') {
        print_help(stderr);
    } else {
        fprintf(stderr, "attnctl: there is no command '%.100s'; attnctl --help lists them\n", name);
    }
    return CTL_USAGE;
}
