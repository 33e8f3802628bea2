/* tensors.c: tensors of a request, mapped from files or made from a seed, so that a file's bytes go to the socket
 * without a copy. One thread; a ctl_tensors_t owns its mappings. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "attn/accuracy.h"
#include "codec/safetensors.h"
#include "ctl.h"

#define HEADER_MAX (UINT64_C(64) << 20)

static attn_status_t file_map(const char *path, ctl_tensors_t *tensors, const unsigned char **ret, size_t *ret_size,
                              attn_error_t *err)
{
    struct stat about;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &about) != 0) {
        attn_error_set(err, ATTN_ERR_SYSTEM, "cannot read %s: %s", path, strerror(errno));
        if (fd >= 0) {
            close(fd);
        }
        return ATTN_ERR_SYSTEM;
    }
    if (!S_ISREG(about.st_mode) || about.st_size == 0) {
        close(fd);
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "%s is %s", path,
                              S_ISREG(about.st_mode) ? "empty" : "not a regular file");
    }
    void *base = mmap(NULL, (size_t)about.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    int code = errno;
    close(fd);
    if (base == MAP_FAILED) {
        return attn_error_set(err, ATTN_ERR_SYSTEM, "cannot map %s: %s", path, strerror(code));
    }
    tensors->maps[tensors->map_count].base = base;
    tensors->maps[tensors->map_count++].size = (size_t)about.st_size;
    *ret = base;
    *ret_size = (size_t)about.st_size;
    return ATTN_OK;
}

void ctl_tensors_close(ctl_tensors_t *tensors)
{
    for (size_t i = 0; i < tensors->map_count; i++) {
        munmap(tensors->maps[i].base, tensors->maps[i].size);
    }
    free(tensors->made);
    free(tensors->seqlens[0]);
    free(tensors->seqlens[1]);
}

attn_status_t ctl_dtype_parse(const char *text, uint32_t *ret, attn_error_t *err)
{
    for (uint32_t dtype = 1; dtype < ATTN_DTYPE_COUNT; dtype++) {
        if (strcmp(text, attn_dtype_name((attn_dtype_t)dtype)) == 0) {
            *ret = dtype;
            return ATTN_OK;
        }
    }
    return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "--dtype is '%.60s'; it must be fp16, bf16 or fp32", text);
}

attn_status_t ctl_layout_parse(const char *text, uint32_t *ret, attn_error_t *err)
{
    for (uint32_t layout = ATTN_LAYOUT_BSHD; layout <= ATTN_LAYOUT_THD; layout++) {
        if (strcmp(text, attn_layout_name((attn_layout_t)layout)) == 0) {
            *ret = layout;
            return ATTN_OK;
        }
    }
    return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "--layout is '%.60s'; it must be bshd, bhsd or thd", text);
}

/* One number of a shape; the separator that must follow it is skipped. */
static bool number_take(const char **at, char separator, uint64_t max, uint64_t *ret)
{
    char *end = NULL;
    errno = 0;
    unsigned long long number = strtoull(*at, &end, 10);
    if (**at < '0' || **at > '9' || errno != 0 || number > max || *end != separator) {
        return false;
    }
    *at = separator == '\0' ? end : end + 1;
    *ret = number;
    return true;
}

attn_status_t ctl_shape_parse(const char *text, attn_spec_t *spec, attn_error_t *err)
{
    const char *at = text;
    uint64_t batch = 0, s_q = 0, s_kv = 0, h_q = 0, h_kv = 0, d = 0;
    bool good = number_take(&at, ',', UINT32_MAX, &batch) && number_take(&at, ',', INT64_MAX, &s_q) &&
                number_take(&at, ',', INT64_MAX, &s_kv);
    if (good && number_take(&at, '/', UINT32_MAX, &h_q)) {
        good = number_take(&at, ',', UINT32_MAX, &h_kv);
    } else if (good) {
        good = number_take(&at, ',', UINT32_MAX, &h_q);
        h_kv = h_q;
    }
    if (!good || !number_take(&at, '\0', UINT32_MAX, &d)) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "--shape is '%.100s'; it must be B,S_Q,S_KV,H_Q/H_KV,D, for example "
                              "1,1024,1024,32/8,128",
                              text);
    }
    spec->batch = (uint32_t)batch;
    spec->s_q = (int64_t)s_q;
    spec->s_kv = (int64_t)s_kv;
    spec->h_q = (uint32_t)h_q;
    spec->h_kv = (uint32_t)h_kv;
    spec->d = (uint32_t)d;
    return ATTN_OK;
}

/* Copies sequence offsets, which may lie unaligned in their file. */
static attn_status_t seqlens_copy(ctl_tensors_t *tensors, int which, const unsigned char *data, uint64_t bytes,
                                  attn_error_t *err)
{
    free(tensors->seqlens[which]);
    tensors->seqlens[which] = malloc(bytes + 1);
    if (tensors->seqlens[which] == NULL) {
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for cu_seqlens");
    }
    memcpy(tensors->seqlens[which], data, bytes);
    *(which == 0 ? &tensors->cu_seqlens_q : &tensors->cu_seqlens_k) = tensors->seqlens[which];
    return ATTN_OK;
}

static attn_status_t safetensors_open(const char *path, ctl_tensors_t *tensors, attn_error_t *err)
{
    const unsigned char *file = NULL;
    size_t size = 0;
    attn_status_t status = file_map(path, tensors, &file, &size, err);
    if (status != ATTN_OK) {
        return status;
    }
    uint64_t length = 0;
    for (size_t i = 0; i < 8 && size >= 8; i++) {
        length |= (uint64_t)file[i] << (8 * i);
    }
    if (size < 8 || length > HEADER_MAX || length > size - 8) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "%s is not a safetensors file; .npy files are given with --q, --k and --v", path);
    }
    attn_ask_t ask = {.spec = tensors->spec};
    attn_slice_t slices[ATTN_TENSOR_COUNT];
    uint32_t count = 0;
    attn_error_t why;
    status = attn_safetensors_read((const char *)file + 8, length, size - 8 - length, &ask, slices, &count, &why);
    if (status != ATTN_OK) {
        return attn_error_set(err, status, "%s: %.400s", path, why.message);
    }
    tensors->spec = ask.spec;
    tensors->sizes = ask.sizes;
    for (uint32_t i = 0; i < count && status == ATTN_OK; i++) {
        const unsigned char *data = file + 8 + length + slices[i].offset;
        switch (slices[i].tag) {
        case ATTN_TENSOR_Q:
            tensors->q = data;
            break;
        case ATTN_TENSOR_K:
            tensors->k = data;
            break;
        case ATTN_TENSOR_V:
            tensors->v = data;
            break;
        default:
            status = seqlens_copy(tensors, slices[i].tag == ATTN_TENSOR_CU_K, data, slices[i].length, err);
            break;
        }
    }
    return status;
}

static attn_status_t npy_dtype(const char *path, const ctl_npy_t *npy, const ctl_options_t *options, uint32_t *ret,
                               attn_error_t *err)
{
    if (npy->kind == 'f' && npy->item_bytes == 2) {
        *ret = ATTN_DTYPE_F16;
    } else if (npy->kind == 'f' && npy->item_bytes == 4) {
        *ret = ATTN_DTYPE_F32;
    } else if (npy->kind == 'V' && npy->item_bytes == 2 && options->dtype != NULL &&
               strcmp(options->dtype, "bf16") == 0) {
        *ret = ATTN_DTYPE_BF16; /* what numpy makes of ml_dtypes.bfloat16 */
    } else {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "%s has items of type '%c%u'; float16, float32 and, with --dtype bf16, 2-byte void items "
                              "are taken",
                              path, npy->kind, npy->item_bytes);
    }
    return ATTN_OK;
}

static attn_status_t npy_map(const char *path, ctl_tensors_t *tensors, ctl_npy_t *ret, const unsigned char **ret_data,
                             attn_error_t *err)
{
    const unsigned char *file = NULL;
    size_t size = 0;
    attn_status_t status = file_map(path, tensors, &file, &size, err);
    if (status == ATTN_OK) {
        status = ctl_npy_read(path, file, size, ret, err);
    }
    if (status == ATTN_OK) {
        *ret_data = file + ret->data_offset;
    }
    return status;
}

static attn_status_t npy_seqlens(const char *path, int which, ctl_tensors_t *tensors, uint64_t *ret_entries,
                                 attn_error_t *err)
{
    ctl_npy_t npy;
    const unsigned char *data = NULL;
    attn_status_t status = npy_map(path, tensors, &npy, &data, err);
    if (status != ATTN_OK) {
        return status;
    }
    if (npy.kind != 'i' || npy.item_bytes != 4 || npy.rank != 1 || npy.shape[0] == 0) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "%s must be a one-dimensional int32 array that begins with 0", path);
    }
    *ret_entries = npy.shape[0];
    return seqlens_copy(tensors, which, data, npy.shape[0] * 4, err);
}

static attn_status_t npy_open(const ctl_options_t *options, ctl_tensors_t *tensors, attn_error_t *err)
{
    const char *paths[3] = {options->q, options->k, options->v};
    const void **places[3] = {&tensors->q, &tensors->k, &tensors->v};
    ctl_npy_t npy[3];
    uint32_t dtypes[3];
    for (int i = 0; i < 3; i++) {
        if (paths[i] == NULL) {
            return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "--q, --k and --v are needed together");
        }
        const unsigned char *data = NULL;
        attn_status_t status = npy_map(paths[i], tensors, &npy[i], &data, err);
        if (status == ATTN_OK) {
            status = npy_dtype(paths[i], &npy[i], options, &dtypes[i], err);
        }
        if (status != ATTN_OK) {
            return status;
        }
        if (dtypes[i] != dtypes[0]) {
            return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "%s is %s and %s is %s; q, k and v must be the same",
                                  paths[0], attn_dtype_name((attn_dtype_t)dtypes[0]), paths[i],
                                  attn_dtype_name((attn_dtype_t)dtypes[i]));
        }
        *places[i] = data;
    }
    uint64_t cu_q = 0, cu_k = 0;
    attn_status_t status = ATTN_OK;
    if (options->cu_seqlens_q != NULL) {
        status = npy_seqlens(options->cu_seqlens_q, 0, tensors, &cu_q, err);
    }
    if (status == ATTN_OK && options->cu_seqlens_k != NULL) {
        status = npy_seqlens(options->cu_seqlens_k, 1, tensors, &cu_k, err);
    }
    if (status != ATTN_OK) {
        return status;
    }
    attn_ask_t ask = {.spec = tensors->spec};
    ask.spec.dtype = dtypes[0];
    if (ask.spec.layout == ATTN_LAYOUT_INVALID) {
        ask.spec.layout = cu_q > 0 || cu_k > 0 ? ATTN_LAYOUT_THD : ATTN_LAYOUT_BSHD;
    }
    if ((ask.spec.layout == ATTN_LAYOUT_THD) != (cu_q > 0) || cu_q != cu_k) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "packed sequences (thd) need --cu-seqlens-q and --cu-seqlens-k with as many entries; "
                              "other layouts take neither");
    }
    status = attn_ask_set_shapes(&ask, npy[0].shape, npy[0].rank, npy[1].shape, npy[1].rank, npy[2].shape, npy[2].rank,
                                 cu_q, err);
    tensors->spec = ask.spec;
    tensors->sizes = ask.sizes;
    return status;
}

static attn_status_t shape_open(const ctl_options_t *options, bool fill, ctl_tensors_t *tensors, attn_error_t *err)
{
    attn_spec_t *spec = &tensors->spec;
    attn_status_t status = ctl_dtype_parse(options->dtype != NULL ? options->dtype : "bf16", &spec->dtype, err);
    if (status == ATTN_OK) {
        status = ctl_shape_parse(options->shape, spec, err);
    }
    if (spec->layout == ATTN_LAYOUT_INVALID) {
        spec->layout = ATTN_LAYOUT_BSHD;
    }
    if (status == ATTN_OK && spec->layout == ATTN_LAYOUT_THD) {
        status = attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                                "--shape makes sequences of one length; packed ones (thd) come from files");
    }
    if (status == ATTN_OK) {
        status = attn_spec_measure(spec, &tensors->sizes, err);
    }
    if (status != ATTN_OK || !fill) {
        return status;
    }
    const attn_sizes_t *sizes = &tensors->sizes;
    const uint64_t bytes[3] = {sizes->q, sizes->k, sizes->v};
    const void **places[3] = {&tensors->q, &tensors->k, &tensors->v};
    uint64_t total = 64, at = 0;
    for (int i = 0; i < 3; i++) {
        if (__builtin_add_overflow(total, bytes[i], &total)) {
            return attn_error_set(err, ATTN_ERR_TOO_LARGE, "the tensors of --shape take more than 2^64 bytes");
        }
    }
    tensors->made = malloc(total);
    if (tensors->made == NULL) {
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for %" PRIu64 " bytes of tensors", total);
    }
    for (uint32_t i = 0; i < 3; i++) {
        void *data = (char *)tensors->made + at;
        attn_fill_normal((attn_dtype_t)spec->dtype, options->seed, i, data,
                         bytes[i] / attn_dtype_size((attn_dtype_t)spec->dtype));
        *places[i] = data;
        at += bytes[i];
    }
    return ATTN_OK;
}

attn_status_t ctl_tensors_open(const ctl_options_t *options, bool fill, ctl_tensors_t *ret, attn_error_t *err)
{
    ctl_tensors_t tensors = {0};
    attn_status_t status = ATTN_OK;
    bool npy = options->q != NULL || options->k != NULL || options->v != NULL;
    if ((options->input != NULL) + npy + (options->shape != NULL) != 1) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "give the tensors in one way: a safetensors FILE, or --q, --k and --v, or --shape");
    }
    if (options->has_seed && options->shape == NULL) {
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "--seed belongs to --shape; tensors from files have none");
    }
    tensors.spec.causal = options->causal;
    tensors.spec.return_lse = options->return_lse;
    tensors.spec.sm_scale = (float)options->sm_scale;
    tensors.spec.softcap = (float)options->softcap;
    if (options->layout != NULL) {
        status = ctl_layout_parse(options->layout, &tensors.spec.layout, err);
    }
    if (status == ATTN_OK) {
        status = options->input != NULL ? safetensors_open(options->input, &tensors, err)
                 : npy                  ? npy_open(options, &tensors, err)
                                        : shape_open(options, fill, &tensors, err);
    }
    if (status != ATTN_OK) {
        ctl_tensors_close(&tensors);
        return status;
    }
    *ret = tensors;
    return ATTN_OK;
}
