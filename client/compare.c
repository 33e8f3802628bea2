/* compare.c: a comparison: posts the job, follows it, reads its result. The calling thread; the result goes to the
 * caller. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

/* How long the server holds a call until something changes: progress is shown this often at least, and a callback's
 * refusal is obeyed this soon. */
#define FOLLOW_WAIT "1s"

static void row_read(const json_t *from, attn_client_row_t *to)
{
    attn_reply_text(from, "variant", to->variant, sizeof(to->variant));
    const json_t *error = json_object_get(from, "error");
    if (error != NULL && !json_is_null(error)) {
        if (!attn_client_error_parse(error, &to->error)) {
            attn_client_fail(&to->error, ATTN_ERR_INTERNAL, "it did not run, and the server does not say why");
        }
        return;
    }
    const json_t *accuracy = json_object_get(from, "accuracy");
    to->max_abs = attn_reply_number(accuracy, "max_abs");
    to->max_abs_allowed = attn_reply_number(accuracy, "max_abs_allowed");
    to->rmse = attn_reply_number(accuracy, "rmse");
    to->row_rel = attn_reply_number(accuracy, "row_rel");
    to->row_rel_allowed = attn_reply_number(accuracy, "row_rel_allowed");
    to->lse_err = attn_reply_number(accuracy, "lse_err");
    to->lse_allowed = attn_reply_number(accuracy, "lse_allowed");
    to->special_mismatch = (uint64_t)attn_reply_number(accuracy, "special_mismatch");
    to->pass = attn_reply_true(accuracy, "pass");
    to->median_us = attn_reply_number(from, "median_us");
    to->min_us = attn_reply_number(from, "min_us");
    to->tflops = attn_reply_number(from, "tflops");
    to->rounds = (uint32_t)attn_reply_number(from, "rounds");
}

/* Takes `text`, whatever the outcome. */
static attn_status_t comparison_read(const json_t *job, char *text, attn_client_comparison_t **ret,
                                     attn_client_error_t *err)
{
    const json_t *result = json_object_get(job, "result");
    const json_t *list = json_object_get(result, "results");
    size_t count = json_array_size(list);
    if (count == 0) {
        free(text);
        return attn_client_fail(err, ATTN_ERR_INTERNAL, "the job is done, and the server's answer has no results");
    }
    attn_client_comparison_t *comparison = calloc(1, sizeof(*comparison));
    attn_client_row_t *rows = calloc(count, sizeof(*rows));
    if (comparison == NULL || rows == NULL) {
        free(comparison);
        free(rows);
        free(text);
        return attn_client_fail(err, ATTN_ERR_NO_MEMORY, "no memory for the comparison's result");
    }
    for (size_t i = 0; i < count; i++) {
        row_read(json_array_get(list, i), &rows[i]);
    }
    const json_t *provenance = json_object_get(result, "provenance");
    attn_reply_text(provenance, "build", comparison->build, sizeof(comparison->build));
    attn_reply_text(provenance, "device", comparison->device, sizeof(comparison->device));
    attn_reply_text(provenance, "device_name", comparison->device_name, sizeof(comparison->device_name));
    attn_reply_text(provenance, "driver", comparison->driver, sizeof(comparison->driver));
    attn_reply_text(provenance, "cpu", comparison->cpu, sizeof(comparison->cpu));
    attn_reply_text(provenance, "time", comparison->time, sizeof(comparison->time));
    comparison->sm_clock_mhz = (uint32_t)attn_reply_number(provenance, "sm_clock_mhz");
    comparison->mem_clock_mhz = (uint32_t)attn_reply_number(provenance, "mem_clock_mhz");
    comparison->row_count = (uint32_t)count;
    comparison->rows = rows;
    comparison->json = text;
    *ret = comparison;
    return ATTN_OK;
}

void attn_client_comparison_free(attn_client_comparison_t *comparison)
{
    if (comparison != NULL) {
        free(comparison->rows);
        free(comparison->json);
        free(comparison);
    }
}

/* The path of a job, from the id that the server gave; false when it does not look like one. */
static bool job_target(const json_t *job, const char *query, char *ret, size_t capacity)
{
    const char *id = json_string_value(json_object_get(job, "id"));
    if (id == NULL || id[0] == '\0' || strlen(id) > 64 ||
        id[strspn(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")] != '\0') {
        return false;
    }
    snprintf(ret, capacity, "/v1/jobs/%s%s", id, query);
    return true;
}

static void job_cancel(attn_client_t *client, const json_t *job)
{
    char target[128], *text = NULL;
    if (job_target(job, "", target, sizeof(target))) {
        attn_conn_call_t call = {.method = "DELETE", .target = target, .accept = "application/json"};
        if (attn_client_call_text(client, &call, NULL, &text, NULL, NULL) == ATTN_OK) {
            free(text);
        }
    }
}

static bool state_is(const json_t *job, const char *state)
{
    const char *is = json_string_value(json_object_get(job, "state"));
    return is != NULL && strcmp(is, state) == 0;
}

static attn_status_t job_failed(const json_t *job, attn_client_error_t *err)
{
    attn_client_error_t error;
    if (!attn_client_error_parse(json_object_get(job, "error"), &error)) {
        return state_is(job, "cancelled")
                   ? attn_client_fail(err, ATTN_ERR_CANCELLED, "the comparison was cancelled")
                   : attn_client_fail(err, ATTN_ERR_INTERNAL, "the server's answer has no state of a job");
    }
    if (err != NULL) {
        *err = error;
    }
    return error.error.status;
}

static bool step_tell(const attn_client_compare_progress_t *progress, const json_t *job)
{
    if (progress == NULL || progress->step == NULL) {
        return true;
    }
    char step[128];
    attn_reply_text(job, "step", step, sizeof(step));
    return progress->step(progress->arg, (uint32_t)attn_reply_number(job, "steps_done"),
                          (uint32_t)attn_reply_number(job, "steps_total"), step);
}

/* Follows a job to its end. Takes `text`, the job's last state. */
static attn_status_t job_follow(attn_client_t *client, char *text, const attn_client_compare_progress_t *progress,
                                attn_client_comparison_t **ret, attn_client_error_t *err)
{
    for (;;) {
        json_t *job = NULL;
        attn_status_t status = attn_reply_parse(text, &job, err);
        if (status != ATTN_OK) {
            free(text);
            return status;
        }
        if (state_is(job, "done")) {
            status = comparison_read(job, text, ret, err);
            json_decref(job);
            return status;
        }
        free(text);
        char target[128];
        if (!state_is(job, "queued") && !state_is(job, "running")) {
            status = job_failed(job, err);
        } else if (!job_target(job, "?wait=" FOLLOW_WAIT, target, sizeof(target))) {
            status = attn_client_fail(err, ATTN_ERR_INTERNAL, "the server's answer has no id of a job");
        } else if (!step_tell(progress, job)) {
            job_cancel(client, job);
            status = attn_client_fail(err, ATTN_ERR_CANCELLED, "cancelled by the caller");
        } else {
            attn_conn_call_t call = {.method = "GET", .target = target, .accept = "application/json"};
            status = attn_client_call_text(client, &call, NULL, &text, NULL, err);
        }
        json_decref(job);
        if (status != ATTN_OK) {
            return status;
        }
    }
}

attn_status_t attn_client_compare(attn_client_t *client, const attn_client_compare_t *compare,
                                  const attn_client_compare_progress_t *progress, attn_client_comparison_t **ret,
                                  attn_client_error_t *err)
{
    attn_wire_body_t body;
    attn_status_t status = attn_wire_compare(compare, &body, err);
    if (status != ATTN_OK) {
        return status;
    }
    attn_conn_call_t call = {
        .method = "POST",
        .target = "/v1/compare?wait=" FOLLOW_WAIT,
        .content_type = ATTN_WIRE_TYPE,
        .accept = "application/json",
        .body = body.parts,
        .body_count = body.count,
    };
    char *text = NULL;
    status = attn_client_call_text(client, &call, progress != NULL ? &progress->transfer : NULL, &text, NULL, err);
    attn_wire_body_free(&body);
    if (status != ATTN_OK) {
        return status;
    }
    return job_follow(client, text, progress, ret, err);
}
