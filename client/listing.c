/* listing.c: what the daemon has and how it is: variants, health, metrics. The calling thread; what it allocates goes
 * to the caller. */
#include <stdlib.h>
#include <string.h>

#include "local.h"

static void variant_read(const json_t *from, attn_client_variant_t *to)
{
    attn_reply_text(from, "name", to->name, sizeof(to->name));
    attn_reply_text(from, "summary", to->summary, sizeof(to->summary));
    attn_reply_text(from, "deprecated_for", to->deprecated_for, sizeof(to->deprecated_for));
    attn_reply_list(from, "dtypes", to->dtypes, sizeof(to->dtypes));
    attn_reply_list(from, "features", to->features, sizeof(to->features));
    attn_reply_list(from, "devices", to->devices, sizeof(to->devices));
    attn_reply_list(from, "available_on", to->available_on, sizeof(to->available_on));
    attn_reply_text(from, "unavailable", to->unavailable, sizeof(to->unavailable));
    to->d_min = (uint32_t)attn_reply_number(from, "d_min");
    to->d_max = (uint32_t)attn_reply_number(from, "d_max");
    to->d_multiple = (uint32_t)attn_reply_number(from, "d_multiple");
    to->test_only = attn_reply_true(from, "test_only");
    to->auto_select = attn_reply_true(from, "auto_select");
    to->quarantined = attn_reply_true(from, "quarantined");
}

attn_status_t attn_client_variants(attn_client_t *client, attn_client_variants_t **ret, attn_client_error_t *err)
{
    attn_conn_call_t call = {.method = "GET", .target = "/v1/variants", .accept = "application/json"};
    char *text = NULL;
    attn_status_t status = attn_client_call_text(client, &call, NULL, &text, NULL, err);
    if (status != ATTN_OK) {
        return status;
    }
    json_t *root = NULL;
    status = attn_reply_parse(text, &root, err);
    if (status != ATTN_OK) {
        free(text);
        return status;
    }
    const json_t *list = json_object_get(root, "variants");
    size_t count = json_array_size(list);
    attn_client_variants_t *variants = calloc(1, sizeof(*variants));
    attn_client_variant_t *rows = calloc(count + 1, sizeof(*rows));
    if (variants == NULL || rows == NULL) {
        free(variants);
        free(rows);
        free(text);
        json_decref(root);
        return attn_client_fail(err, ATTN_ERR_NO_MEMORY, "no memory for the list of variants");
    }
    for (size_t i = 0; i < count; i++) {
        variant_read(json_array_get(list, i), &rows[i]);
    }
    json_decref(root);
    *variants = (attn_client_variants_t){.count = (uint32_t)count, .variants = rows, .json = text};
    *ret = variants;
    return ATTN_OK;
}

void attn_client_variants_free(attn_client_variants_t *variants)
{
    if (variants != NULL) {
        free(variants->variants);
        free(variants->json);
        free(variants);
    }
}

/* A probe: true on 200, false on 503, and an error for everything else. */
static attn_status_t probe(attn_client_t *client, const char *target, bool *ret, attn_client_error_t *err)
{
    attn_conn_call_t call = {.method = "GET", .target = target};
    attn_client_error_t error;
    char *text = NULL;
    attn_status_t status = attn_client_call_text(client, &call, NULL, &text, NULL, &error);
    free(text);
    if (status != ATTN_OK && error.http_status != 503) {
        if (err != NULL) {
            *err = error;
        }
        return status;
    }
    *ret = status == ATTN_OK;
    return ATTN_OK;
}

attn_status_t attn_client_health(attn_client_t *client, attn_client_health_t *ret, attn_client_error_t *err)
{
    attn_client_health_t health = {false, false};
    if (attn_client_local(client) != NULL) {
        return attn_local_probe(attn_client_local(client), ret, err);
    }
    attn_status_t status = probe(client, "/v2/health/live", &health.live, err);
    if (status == ATTN_OK) {
        status = probe(client, "/v2/health/ready", &health.ready, err);
    }
    if (status == ATTN_OK) {
        *ret = health;
    }
    return status;
}

attn_status_t attn_client_stats(attn_client_t *client, char **ret_text, attn_client_error_t *err)
{
    attn_conn_call_t call = {.method = "GET", .target = "/metrics", .accept = "text/plain"};
    return attn_client_call_text(client, &call, NULL, ret_text, NULL, err);
}

void attn_client_text_free(char *text)
{
    free(text);
}
