/* cmd_info.c: attnctl variants, stats and health. One thread. */
#include <jansson.h>
#include <math.h>
#include <string.h>

#include "samples.h"

static void variants_print(const attn_client_variants_t *list, bool verbose)
{
    printf("%-20s %-16s %-10s %-5s %s\n", "variant", "dtypes", "head dim", "auto", "runs on");
    for (uint32_t i = 0; i < list->count; i++) {
        const attn_client_variant_t *row = &list->variants[i];
        char dims[32];
        snprintf(dims, sizeof(dims), "%u-%u%s", row->d_min, row->d_max, row->d_multiple > 1 ? "*" : "");
        printf("%-20s %-16s %-10s %-5s %s%s%s\n", row->name, row->dtypes, dims, row->auto_select ? "yes" : "no",
               row->available_on[0] != '\0' ? row->available_on : "nowhere here",
               row->quarantined ? " (in quarantine)" : "", row->test_only ? " (for tests)" : "");
        if (verbose) {
            printf("  %s%s%s\n  features: %s\n", row->summary, row->deprecated_for[0] != '\0' ? "; use " : "",
                   row->deprecated_for, row->features);
            if (row->unavailable[0] != '\0') {
                printf("  runs nowhere here: %s\n", row->unavailable);
            }
        }
    }
}

int ctl_variants(const ctl_options_t *options)
{
    attn_client_t *client = NULL;
    attn_client_error_t error;
    attn_client_variants_t *list = NULL;
    int code = CTL_OK;
    if (!ctl_open(options, &client, &code)) {
        return code;
    }
    if (attn_client_variants(client, &list, &error) != ATTN_OK) {
        code = ctl_fail(options, &error);
    } else if (options->json) {
        puts(list->json);
    } else {
        variants_print(list, options->verbose);
    }
    attn_client_variants_free(list);
    attn_client_close(client);
    return code;
}

/* A histogram as its quantiles, where its count stands. */
static void quantiles_print(const ctl_samples_t *samples, const ctl_sample_t *count)
{
    char name[128];
    snprintf(name, sizeof(name), "%.*s", (int)(strlen(count->name) - strlen("_count")), count->name);
    double p50 = ctl_samples_quantile(samples, NULL, name, count->labels, 0.5);
    if (!isnan(p50)) {
        printf("%-48s %-40s p50 %.3g, p99 %.3g\n", name, count->labels, p50,
               ctl_samples_quantile(samples, NULL, name, count->labels, 0.99));
    }
}

static void stats_print(const ctl_options_t *options, const ctl_samples_t *samples)
{
    json_t *list = json_array();
    for (size_t i = 0; i < samples->count; i++) {
        const ctl_sample_t *sample = &samples->samples[i];
        size_t size = strlen(sample->name);
        if (options->json) {
            json_array_append_new(list, json_pack("{s:s, s:s, s:s}", "name", sample->name, "labels", sample->labels,
                                                  "value", sample->text));
        } else if (strstr(sample->name, "_bucket") == NULL) {
            printf("%-48s %-40s %s\n", sample->name, sample->labels, sample->text);
            if (size > 6 && strcmp(sample->name + size - 6, "_count") == 0) {
                quantiles_print(samples, sample);
            }
        }
    }
    if (options->json) {
        json_dumpf(list, stdout, JSON_COMPACT);
        putchar('\n');
    }
    json_decref(list);
}

int ctl_stats(const ctl_options_t *options)
{
    attn_client_t *client = NULL;
    attn_client_error_t error;
    char *text = NULL;
    ctl_samples_t samples;
    int code = CTL_OK;
    if (!ctl_open(options, &client, &code)) {
        return code;
    }
    if (attn_client_stats(client, &text, &error) != ATTN_OK) {
        code = ctl_fail(options, &error);
    } else if (ctl_samples_read(text, &samples, &error.error) != ATTN_OK) {
        code = ctl_fail_local(options, &error.error);
    } else {
        stats_print(options, &samples);
        ctl_samples_free(&samples);
    }
    attn_client_close(client);
    return code;
}

int ctl_health(const ctl_options_t *options)
{
    attn_client_t *client = NULL;
    attn_client_error_t error;
    attn_client_health_t health;
    int code = CTL_OK;
    if (!ctl_open(options, &client, &code)) {
        return code;
    }
    if (attn_client_health(client, &health, &error) != ATTN_OK) {
        code = ctl_fail(options, &error);
    } else {
        if (options->json) {
            printf("{\"live\":%s,\"ready\":%s}\n", health.live ? "true" : "false", health.ready ? "true" : "false");
        } else {
            printf("%s, %s\n", health.live ? "live" : "not live", health.ready ? "ready" : "not ready");
        }
        code = health.live && health.ready ? CTL_OK : CTL_BAD_NEWS;
    }
    attn_client_close(client);
    return code;
}
