/* codec/compare_proto.c: how a job stands, in protobuf: see compare_proto.h. */
#include "codec/compare_proto.h"

#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#include "attn/v1/attention.pb-c.h"
#include "base/about.h"
#include "codec/answer.h"

/* protobuf-c's strings are not const, and packing only reads them. */
static char *text(const char *from)
{
    return (char *)(uintptr_t)from;
}

/* One row with everything that its message points to. */
typedef struct row_message {
    Attn__V1__VariantResult result;
    Attn__V1__Error error;
    Attn__V1__Outcome outcome;
    Attn__V1__Timing timing;
    Attn__V1__Accuracy accuracy;
    char *missing[ATTN_MISSING_MAX];
} row_message_t;

/* The whole job; about 15 KiB, on the heap. */
typedef struct job_message {
    Attn__V1__Job job;
    Attn__V1__Error error;
    Attn__V1__CompareResponse result;
    Attn__V1__AttentionRequest problem;
    Attn__V1__Tensor tensors[3];
    uint64_t shapes[3][4];
    Attn__V1__Provenance provenance;
    char cpu[96], when[32];
    row_message_t rows[ATTN_COMPARE_ROWS_MAX];
    Attn__V1__VariantResult *results[ATTN_COMPARE_ROWS_MAX];
} job_message_t;

static void error_build(const attn_error_t *from, Attn__V1__Error *to)
{
    attn__v1__error__init(to);
    to->error = text(from->message);
    to->code = text(attn_status_name(from->status));
    to->retryable = attn_status_retryable(from->status) != 0;
}

static void accuracy_build(const attn_judgement_t *from, Attn__V1__Accuracy *to)
{
    attn__v1__accuracy__init(to);
    to->max_abs = from->max_abs;
    to->max_abs_allowed = from->max_abs_allowed;
    to->rmse = from->rmse;
    to->row_rel = from->row_rel;
    to->row_rel_allowed = from->row_rel_allowed;
    to->row_excess = from->row_excess;
    to->lse_err = from->lse_err;
    to->lse_allowed = from->lse_allowed;
    to->special_mismatch = from->special_mismatch;
    to->elements = from->elements;
    to->pass = from->pass != 0;
}

static void row_build(const attn_compare_row_t *from, row_message_t *to)
{
    attn__v1__variant_result__init(&to->result);
    to->result.variant = text(from->variant->name);
    if (from->error.status != ATTN_OK) {
        error_build(&from->error, &to->error);
        for (uint32_t i = 0; i < from->missing.count; i++) {
            to->missing[i] = text(from->missing.item[i]);
        }
        to->error.n_missing = from->missing.count;
        to->error.missing = to->missing;
        to->result.error = &to->error;
        return;
    }
    attn__v1__timing__init(&to->timing);
    to->timing.queue_us = from->timing.queue_us;
    to->timing.copy_in_us = from->timing.copy_in_us;
    to->timing.kernel_us = from->timing.kernel_us;
    to->timing.kernel_min_us = from->timing.kernel_min_us;
    to->timing.copy_out_us = from->timing.copy_out_us;
    to->timing.total_us = from->timing.total_us;
    attn__v1__outcome__init(&to->outcome);
    to->outcome.variant = text(from->variant->name);
    to->outcome.device = text(from->device);
    to->outcome.attempts = from->attempts;
    to->outcome.timing = &to->timing;
    accuracy_build(&from->judgement, &to->accuracy);
    to->result.outcome = &to->outcome;
    to->result.accuracy = &to->accuracy;
    to->result.median_us = from->timing.kernel_us;
    to->result.min_us = from->timing.kernel_min_us;
    to->result.tflops = from->tflops;
    to->result.rounds = from->rounds;
    to->result.warmup = from->warmup;
}

static void problem_build(const attn_compare_view_t *view, job_message_t *message)
{
    const attn_spec_t *spec = &view->spec;
    Attn__V1__AttentionRequest *to = &message->problem;
    attn__v1__attention_request__init(to);
    to->dtype = (Attn__V1__DType)spec->dtype;
    to->layout = (Attn__V1__Layout)spec->layout;
    to->causal = spec->causal != 0;
    to->sm_scale_presence_case = ATTN__V1__ATTENTION_REQUEST__SM_SCALE_PRESENCE_SM_SCALE;
    to->sm_scale = spec->sm_scale;
    to->softcap_presence_case = ATTN__V1__ATTENTION_REQUEST__SOFTCAP_PRESENCE_SOFTCAP;
    to->softcap = spec->softcap;
    to->return_lse_presence_case = ATTN__V1__ATTENTION_REQUEST__RETURN_LSE_PRESENCE_RETURN_LSE;
    to->return_lse = spec->return_lse != 0;
    to->n_cu_seqlens_q = to->n_cu_seqlens_k = view->seqlens_count;
    to->cu_seqlens_q = (int32_t *)(uintptr_t)view->cu_seqlens_q;
    to->cu_seqlens_k = (int32_t *)(uintptr_t)view->cu_seqlens_k;
    Attn__V1__Tensor **places[3] = {&to->q, &to->k, &to->v};
    for (int i = 0; i < 3; i++) {
        attn_spec_t as_q = *spec; /* K and V are shaped as a Q of h_kv heads and s_kv rows would be */
        as_q.h_q = i == 0 ? spec->h_q : spec->h_kv;
        as_q.s_q = i == 0 ? spec->s_q : spec->s_kv;
        attn__v1__tensor__init(&message->tensors[i]);
        message->tensors[i].n_shape = attn_answer_o_shape(&as_q, message->shapes[i]);
        message->tensors[i].shape = message->shapes[i];
        *places[i] = &message->tensors[i];
    }
}

static void provenance_build(const attn_compare_view_t *view, job_message_t *message)
{
    Attn__V1__Provenance *to = &message->provenance;
    time_t seconds = (time_t)view->submitted_s;
    struct tm parts;
    if (gmtime_r(&seconds, &parts) != NULL) {
        strftime(message->when, sizeof(message->when), "%Y-%m-%dT%H:%M:%SZ", &parts);
    }
    attn_about_cpu(message->cpu, sizeof(message->cpu));
    attn__v1__provenance__init(to);
    to->build = text(attn_about_build());
    to->device = text(view->device.device.uuid);
    to->device_name = text(view->device.device.name);
    to->driver = text(view->device.driver);
    to->sm_clock_mhz = view->device.sm_clock_mhz;
    to->mem_clock_mhz = view->device.mem_clock_mhz;
    to->cpu = message->cpu;
    to->time = message->when;
}

static void job_build(const attn_compare_view_t *view, job_message_t *message)
{
    Attn__V1__CompareResponse *result = &message->result;
    attn__v1__compare_response__init(result);
    problem_build(view, message);
    provenance_build(view, message);
    result->problem = &message->problem;
    if (view->has_seed) {
        result->seed_presence_case = ATTN__V1__COMPARE_RESPONSE__SEED_PRESENCE_SEED;
        result->seed = view->seed;
    }
    result->reference = text("reference");
    result->provenance = &message->provenance;
    result->results = message->results;
    for (uint32_t i = 0; i < view->row_count; i++) {
        if (view->rows[i].done) {
            row_build(&view->rows[i], &message->rows[i]);
            message->results[result->n_results++] = &message->rows[i].result;
        }
    }
    Attn__V1__Job *job = &message->job;
    attn__v1__job__init(job);
    job->id = text(view->id);
    job->state = (Attn__V1__Job__State)view->state;
    job->steps_done = view->steps_done;
    job->steps_total = view->steps_total;
    job->step = text(view->step);
    job->result = result;
    if (view->state == ATTN_COMPARE_FAILED) {
        error_build(&view->error, &message->error);
        job->error = &message->error;
    }
}

bool attn_compare_proto_write(const attn_compare_view_t *view, void **ret, size_t *ret_bytes)
{
    _Static_assert((int)ATTN_COMPARE_QUEUED == (int)ATTN__V1__JOB__STATE__STATE_QUEUED &&
                       (int)ATTN_COMPARE_CANCELLED == (int)ATTN__V1__JOB__STATE__STATE_CANCELLED,
                   "same numbers on the wire");
    job_message_t *message = calloc(1, sizeof(*message));
    if (message == NULL) {
        return false;
    }
    job_build(view, message);
    size_t bytes = attn__v1__job__get_packed_size(&message->job);
    uint8_t *data = malloc(bytes + 1);
    if (data != NULL) {
        attn__v1__job__pack(&message->job, data);
        *ret = data;
        *ret_bytes = bytes;
    }
    free(message);
    return data != NULL;
}
