/* cmd_run.c: attnctl run: one request. One thread. */
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "bench/door.h"
#include "device.h"

static void answer_print(const ctl_options_t *options, const attn_client_answer_t *answer)
{
    if (options->json) {
        json_t *root = json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:f, s:I, s:I}", "variant", answer->variant,
                                 "reason", answer->reason, "device", answer->device, "id", answer->id, "batch_size",
                                 (json_int_t)answer->batch_size, "attempts", (json_int_t)answer->attempts, "queue_us",
                                 (json_int_t)answer->queue_us, "copy_in_us", (json_int_t)answer->copy_in_us,
                                 "kernel_us", answer->kernel_us, "copy_out_us", (json_int_t)answer->copy_out_us,
                                 "total_us", (json_int_t)answer->total_us);
        json_dumpf(root, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
        putchar('\n');
        json_decref(root);
        return;
    }
    printf("variant  %s (%s)\ndevice   %s\nkernel   %.1f us\nqueue    %" PRIu64 " us, copy in %" PRIu64
           " us, copy out %" PRIu64 " us, total %" PRIu64 " us\n",
           answer->variant, answer->reason, answer->device, answer->kernel_us, answer->queue_us, answer->copy_in_us,
           answer->copy_out_us, answer->total_us);
    if (options->output != NULL) {
        printf("output   %s\n", options->output);
    }
}

static int request_run(const ctl_options_t *options, attn_client_t *client, const ctl_tensors_t *tensors, void *o,
                       float *lse)
{
    attn_client_error_t error;
    attn_client_answer_t answer;
    attn_client_request_t request = {
        .variant = options->variant,
        .spec = tensors->spec,
        .q = tensors->q,
        .k = tensors->k,
        .v = tensors->v,
        .cu_seqlens_q = tensors->cu_seqlens_q,
        .cu_seqlens_k = tensors->cu_seqlens_k,
        .o = o,
        .lse = lse,
        .id = options->id,
        .deadline_ms = options->deadline_ms,
        .priority = (int32_t)options->priority,
    };
    bool virtual = options->door != NULL && strcmp(options->door, "cuda") == 0;
    attn_status_t status = virtual || (options->door != NULL && strcmp(options->door, "cuda-ipc") == 0)
                               ? ctl_device_run(client, virtual, &request, &tensors->sizes, &answer, &error)
                               : attn_client_run(client, &request, &ctl_progress, &answer, &error);
    if (status != ATTN_OK) {
        return ctl_fail(options, &error);
    }
    ctl_progress_erase();
    if (options->output != NULL) {
        attn_error_t why;
        if (ctl_answer_write(options->output, &tensors->spec, &tensors->sizes, o, lse, &answer, &why) != ATTN_OK) {
            return ctl_fail_local(options, &why);
        }
    }
    answer_print(options, &answer);
    return CTL_OK;
}

int ctl_run(const ctl_options_t *options)
{
    attn_error_t error;
    ctl_tensors_t tensors;
    attn_client_t *client = NULL;
    int code = CTL_USAGE;
    const bench_door_t *door;
    if (ctl_priority_check(options, &error) != ATTN_OK ||
        bench_door_find(options->door, options->server, &door, &error) != ATTN_OK) {
        return ctl_fail_local(options, &error);
    }
    if (!ctl_open(options, &client, &code)) {
        return code;
    }
    if (ctl_tensors_open(options, true, &tensors, &error) != ATTN_OK) {
        attn_client_close(client);
        return ctl_fail_local(options, &error);
    }
    void *o = malloc(tensors.sizes.o + 1);
    float *lse = malloc(tensors.sizes.lse + 1);
    if (o == NULL || lse == NULL) {
        attn_error_set(&error, ATTN_ERR_NO_MEMORY, "no memory for %" PRIu64 " bytes of answer", tensors.sizes.o);
        code = ctl_fail_local(options, &error);
    } else {
        code = request_run(options, client, &tensors, o, lse);
    }
    free(o);
    free(lse);
    ctl_tensors_close(&tensors);
    attn_client_close(client);
    return code;
}
