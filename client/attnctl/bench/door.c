/* door.c: the inputs of a load and the table of doors. One thread sets up; channels only read. */
#include "door.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "attn/accuracy.h"

static const bench_door_t *const doors[] = {&bench_door_http, &bench_door_socket, &bench_door_ring, &bench_door_cuda,
                                            &bench_door_cuda_ipc};

attn_status_t bench_door_find(const char *name, const char *server, const bench_door_t **ret, attn_error_t *err)
{
    bool local = strncmp(server, "unix:", 5) == 0;
    if (name == NULL) {
        *ret = local ? &bench_door_ring : &bench_door_http;
        return ATTN_OK;
    }
    for (size_t i = 0; i < sizeof(doors) / sizeof(doors[0]); i++) {
        if (strcmp(doors[i]->name, name) != 0) {
            continue;
        }
        if (doors[i]->local != local) {
            return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "--door %s needs %s", name,
                                  local ? "the server as http://HOST:PORT"
                                        : "the daemon's Unix socket: --socket PATH, or --server unix:PATH");
        }
        *ret = doors[i];
        return ATTN_OK;
    }
    return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                          "--door is '%.100s'; it must be http, socket, ring, cuda or cuda-ipc", name);
}

void bench_setup_close(bench_setup_t *setup)
{
    for (uint32_t i = 0; setup->workload != NULL && i < setup->workload->count; i++) {
        free((void *)(uintptr_t)setup->q[i]); /* k and v lie behind q */
    }
}

attn_status_t bench_setup_open(const ctl_options_t *options, const bench_workload_t *workload, bench_setup_t *ret,
                               attn_error_t *err)
{
    bench_setup_t setup = {.options = options, .workload = workload};
    for (uint32_t i = 0; i < workload->count; i++) {
        const bench_class_t *class = &workload->classes[i];
        const attn_sizes_t *sizes = &class->sizes;
        attn_dtype_t dtype = (attn_dtype_t) class->spec.dtype;
        uint64_t total;
        char *data = NULL;
        if (!__builtin_add_overflow(sizes->q, sizes->k, &total) && !__builtin_add_overflow(total, sizes->v, &total)) {
            data = malloc(total + 1);
        }
        if (data == NULL) {
            bench_setup_close(&setup);
            return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for the tensors of class '%s'", class->name);
        }
        setup.q[i] = data;
        setup.k[i] = data + sizes->q;
        setup.v[i] = data + sizes->q + sizes->k;
        size_t item = attn_dtype_size(dtype);
        attn_fill_normal(dtype, options->seed + i, 0, data, sizes->q / item);
        attn_fill_normal(dtype, options->seed + i, 1, data + sizes->q, sizes->k / item);
        attn_fill_normal(dtype, options->seed + i, 2, data + sizes->q + sizes->k, sizes->v / item);
        setup.output_bytes = sizes->o > setup.output_bytes ? sizes->o : setup.output_bytes;
        setup.lse_bytes = sizes->lse > setup.lse_bytes ? sizes->lse : setup.lse_bytes;
    }
    *ret = setup;
    return ATTN_OK;
}

attn_client_request_t bench_setup_request(const bench_setup_t *setup, uint32_t class)
{
    const bench_class_t *of = &setup->workload->classes[class];
    return (attn_client_request_t){
        .variant = of->variant[0] != '\0' ? of->variant : NULL,
        .spec = of->spec,
        .q = setup->q[class],
        .k = setup->k[class],
        .v = setup->v[class],
        .deadline_ms = of->deadline_ms,
        .priority = of->priority,
    };
}
