/* cmd_info.c: attnctl variants, stats and health. One thread. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "ctl.h"

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

/* "name{labels} value" or "name value": the parts, in place. False for comments and what is not a sample. */
static bool sample_split(char *line, char **ret_name, char **ret_labels, char **ret_value)
{
    static char none[] = "";
    char *brace = strchr(line, '{'), *space = strrchr(line, ' ');
    if (line[0] == '#' || space == NULL || space == line) {
        return false;
    }
    *space = '\0';
    *ret_name = line;
    *ret_value = space + 1;
    *ret_labels = none;
    if (brace != NULL && space[-1] == '}') {
        *brace = '\0';
        space[-1] = '\0';
        *ret_labels = brace + 1;
    }
    return true;
}

static void stats_print(const ctl_options_t *options, char *text)
{
    json_t *list = json_array();
    char *rest = NULL, *name, *labels, *value;
    for (char *line = strtok_r(text, "\n", &rest); line != NULL; line = strtok_r(NULL, "\n", &rest)) {
        if (!sample_split(line, &name, &labels, &value)) {
            continue;
        }
        if (options->json) {
            json_array_append_new(list, json_pack("{s:s, s:s, s:s}", "name", name, "labels", labels, "value", value));
        } else if (strstr(name, "_bucket") == NULL) {
            printf("%-48s %-40s %s\n", name, labels, value);
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
    int code = CTL_OK;
    if (!ctl_open(options, &client, &code)) {
        return code;
    }
    if (attn_client_stats(client, &text, &error) != ATTN_OK) {
        code = ctl_fail(options, &error);
    } else {
        stats_print(options, text);
        attn_client_text_free(text);
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
