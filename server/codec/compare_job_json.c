/* codec/compare_job_json.c: how a job stands, in JSON: see compare_json.h. Pure; any thread; owns nothing. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/about.h"
#include "base/text.h"
#include "codec/compare_json.h"
#include "codec/json.h"

/* JSON has no NaN and no infinity. */
static json_t *real(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

/* Text from a worker or a driver, cut at some byte: what is not UTF-8 any more is shown as '?'. */
static json_t *text_json(const char *text)
{
    json_t *value = json_string(text);
    if (value == NULL) {
        char quoted[ATTN_ERROR_MESSAGE_MAX];
        attn_text_quote(quoted, sizeof(quoted), text, strlen(text));
        value = json_string(quoted);
    }
    return value;
}

static void put(json_t *object, const char *name, json_t *value)
{
    json_object_set_new(object, name, value);
}

static json_t *error_json(const attn_error_t *error, const attn_missing_t *missing)
{
    json_t *list = json_array();
    for (uint32_t i = 0; missing != NULL && i < missing->count; i++) {
        json_array_append_new(list, text_json(missing->item[i]));
    }
    return json_pack("{s:o, s:s, s:b, s:o}", "error", text_json(error->message), "code",
                     attn_status_name(error->status), "retryable", attn_status_retryable(error->status), "missing",
                     list);
}

static json_t *shape_json(const attn_spec_t *spec)
{
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "batch", (json_int_t)spec->batch, "s_q", (json_int_t)spec->s_q,
                     "s_kv", (json_int_t)spec->s_kv, "h_q", (json_int_t)spec->h_q, "h_kv", (json_int_t)spec->h_kv, "d",
                     (json_int_t)spec->d);
}

static json_t *seqlens_json(const int32_t *entries, uint32_t count)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < count; i++) {
        json_array_append_new(list, json_integer(entries[i]));
    }
    return list;
}

static json_t *problem_json(const attn_compare_view_t *view)
{
    const attn_spec_t *spec = &view->spec;
    json_t *problem = json_pack("{s:s, s:s, s:o, s:b, s:b}", "dtype", attn_dtype_name((attn_dtype_t)spec->dtype),
                                "layout", attn_layout_name((attn_layout_t)spec->layout), "shape", shape_json(spec),
                                "causal", spec->causal, "return_lse", spec->return_lse);
    put(problem, "sm_scale", real(spec->sm_scale));
    put(problem, "softcap", real(spec->softcap));
    put(problem, "flops", real(view->flops));
    if (view->seqlens_count > 0) {
        put(problem, "cu_seqlens_q", seqlens_json(view->cu_seqlens_q, view->seqlens_count));
        put(problem, "cu_seqlens_k", seqlens_json(view->cu_seqlens_k, view->seqlens_count));
    }
    return problem;
}

static json_t *accuracy_json(const attn_judgement_t *judgement)
{
    json_t *accuracy = json_object();
    put(accuracy, "max_abs", real(judgement->max_abs));
    put(accuracy, "max_abs_allowed", real(judgement->max_abs_allowed));
    put(accuracy, "rmse", real(judgement->rmse));
    put(accuracy, "row_rel", real(judgement->row_rel));
    put(accuracy, "row_rel_allowed", real(judgement->row_rel_allowed));
    put(accuracy, "row_excess", real(judgement->row_excess));
    put(accuracy, "lse_err", real(judgement->lse_err));
    put(accuracy, "lse_allowed", real(judgement->lse_allowed));
    put(accuracy, "special_mismatch", json_integer((json_int_t)judgement->special_mismatch));
    put(accuracy, "elements", json_integer((json_int_t)judgement->elements));
    put(accuracy, "pass", json_boolean(judgement->pass));
    return accuracy;
}

static json_t *row_json(const attn_compare_row_t *row)
{
    json_t *object = json_pack("{s:s}", "variant", row->variant->name);
    if (row->error.status != ATTN_OK) {
        put(object, "error", error_json(&row->error, &row->missing));
        return object;
    }
    const attn_timing_t *timing = &row->timing;
    put(object, "outcome",
        json_pack("{s:s, s:s, s:I, s:{s:I, s:o, s:o, s:I, s:I, s:I}}", "variant", row->variant->name, "device",
                  row->device, "attempts", (json_int_t)row->attempts, "timing", "queue_us",
                  (json_int_t)timing->queue_us, "kernel_us", real(timing->kernel_us), "kernel_min_us",
                  real(timing->kernel_min_us), "copy_in_us", (json_int_t)timing->copy_in_us, "copy_out_us",
                  (json_int_t)timing->copy_out_us, "total_us", (json_int_t)timing->total_us));
    put(object, "accuracy", accuracy_json(&row->judgement));
    put(object, "median_us", real(timing->kernel_us));
    put(object, "min_us", real(timing->kernel_min_us));
    put(object, "tflops", real(row->tflops));
    put(object, "rounds", json_integer(row->rounds));
    put(object, "warmup", json_integer(row->warmup));
    return object;
}

static json_t *provenance_json(const attn_compare_view_t *view)
{
    char cpu[96], when[32] = "";
    time_t seconds = (time_t)view->submitted_s;
    struct tm parts;
    if (gmtime_r(&seconds, &parts) != NULL) {
        strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", &parts);
    }
    attn_about_cpu(cpu, sizeof(cpu));
    const attn_device_view_t *device = &view->device;
    return json_pack("{s:s, s:s, s:o, s:o, s:I, s:I, s:o, s:s}", "build", attn_about_build(), "device",
                     device->device.uuid, "device_name", text_json(device->device.name), "driver",
                     text_json(device->driver), "sm_clock_mhz", (json_int_t)device->sm_clock_mhz, "mem_clock_mhz",
                     (json_int_t)device->mem_clock_mhz, "cpu", text_json(cpu), "time", when);
}

static json_t *result_json(const attn_compare_view_t *view)
{
    json_t *rows = json_array();
    for (uint32_t i = 0; i < view->row_count; i++) {
        if (view->rows[i].done) {
            json_array_append_new(rows, row_json(&view->rows[i]));
        }
    }
    json_t *result = json_object();
    put(result, "problem", problem_json(view));
    if (view->has_seed) {
        char digits[24]; /* jansson's integers end at 2^63-1 */
        snprintf(digits, sizeof(digits), "%llu", (unsigned long long)view->seed);
        put(result, "seed", view->seed <= INT64_MAX ? json_integer((json_int_t)view->seed) : json_string(digits));
    }
    put(result, "reference", json_string("reference"));
    put(result, "results", rows);
    put(result, "provenance", provenance_json(view));
    return result;
}

char *attn_compare_json_write(const attn_compare_view_t *view, bool with_result)
{
    json_t *root = json_pack("{s:s, s:s, s:I, s:I, s:s}", "id", view->id, "state", attn_compare_state_name(view->state),
                             "steps_done", (json_int_t)view->steps_done, "steps_total", (json_int_t)view->steps_total,
                             "step", view->step);
    if (root == NULL) {
        return NULL;
    }
    if (view->state == ATTN_COMPARE_FAILED) {
        put(root, "error", error_json(&view->error, NULL));
    }
    if (with_result) {
        put(root, "result", result_json(view));
    }
    char *text = json_dumps(root, JSON_COMPACT | JSON_REAL_PRECISION(9));
    json_decref(root);
    return text;
}
