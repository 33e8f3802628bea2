/* output.c: writes an answer as a safetensors file. One thread; owns the file until it has its name. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "codec/answer.h"
#include "codec/safetensors.h"
#include "ctl.h"

static bool write_all(int fd, const void *data, uint64_t bytes)
{
    const char *at = data;
    while (bytes > 0) {
        ssize_t written = write(fd, at, bytes < (1u << 30) ? bytes : (1u << 30));
        if (written < 0 && errno == EINTR) {
            continue;
        }
        if (written <= 0) {
            return false;
        }
        at += written;
        bytes -= (uint64_t)written;
    }
    return true;
}

static attn_status_t head_make(const attn_spec_t *spec, const attn_sizes_t *sizes, const attn_client_answer_t *answer,
                               void **ret, size_t *ret_bytes, attn_error_t *err)
{
    attn_safetensors_tensor_t tensors[2] = {
        {.name = "o", .dtype = attn_safetensors_dtype(spec->dtype), .bytes = sizes->o},
        {.name = "lse", .dtype = "F32", .bytes = sizes->lse},
    };
    tensors[0].rank = attn_answer_o_shape(spec, tensors[0].shape);
    tensors[1].rank = attn_answer_lse_shape(spec, tensors[1].shape);
    char kernel[32], total[32];
    snprintf(kernel, sizeof(kernel), "%.3f", answer->kernel_us);
    snprintf(total, sizeof(total), "%llu", (unsigned long long)answer->total_us);
    const attn_safetensors_pair_t pairs[] = {{"variant", answer->variant}, {"reason", answer->reason},
                                             {"device", answer->device},   {"kernel_us", kernel},
                                             {"total_us", total},          {"id", answer->id}};
    return attn_safetensors_write(tensors, spec->return_lse ? 2 : 1, pairs, sizeof(pairs) / sizeof(pairs[0]), ret,
                                  ret_bytes, err);
}

attn_status_t ctl_answer_write(const char *path, const attn_spec_t *spec, const attn_sizes_t *sizes, const void *o,
                               const float *lse, const attn_client_answer_t *answer, attn_error_t *err)
{
    void *head = NULL;
    size_t head_bytes = 0;
    char part[4096];
    if (snprintf(part, sizeof(part), "%s.part", path) >= (int)sizeof(part)) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "the name of the output file is too long");
    }
    attn_status_t status = head_make(spec, sizes, answer, &head, &head_bytes, err);
    if (status != ATTN_OK) {
        return status;
    }
    int fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    bool good =
        fd >= 0 && write_all(fd, head, head_bytes) && write_all(fd, o, sizes->o) && write_all(fd, lse, sizes->lse);
    if (fd >= 0) {
        good = close(fd) == 0 && good;
    }
    free(head);
    if (!good || rename(part, path) != 0) {
        attn_error_set(err, ATTN_ERR_SYSTEM, "cannot write %s: %s", path, strerror(errno));
        unlink(part);
        return ATTN_ERR_SYSTEM;
    }
    return ATTN_OK;
}
