/* npy.c: the header of a .npy file (numpy.lib.format versions 1 to 3). Pure; owns nothing. */
#include <stdlib.h>
#include <string.h>

#include "ctl.h"

#define NPY_MAGIC "\x93NUMPY"
#define HEADER_MAX 65536u

static attn_status_t wrong(const char *name, const char *what, attn_error_t *err)
{
    return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "%s %s", name, what);
}

/* Where the value of a key of the header's dictionary begins; NULL when the key is not there. */
static const char *value_of(const char *header, const char *key)
{
    char quoted[40];
    for (int style = 0; style < 2; style++) {
        snprintf(quoted, sizeof(quoted), style == 0 ? "'%s':" : "\"%s\":", key);
        const char *at = strstr(header, quoted);
        if (at != NULL) {
            at += strlen(quoted);
            return at + strspn(at, " ");
        }
    }
    return NULL;
}

/* "'<f2'". */
static attn_status_t descr_read(const char *name, const char *value, ctl_npy_t *npy, attn_error_t *err)
{
    if (value == NULL || (value[0] != '\'' && value[0] != '"')) {
        return wrong(name, "has no simple dtype in its header; structured arrays are not tensors", err);
    }
    if (value[1] == '>') {
        return wrong(name, "is big-endian; save it with .astype(a.dtype.newbyteorder('<'))", err);
    }
    if (strchr("<|=", value[1]) == NULL || value[1] == '\0') {
        return wrong(name, "has a dtype of unknown byte order in its header", err);
    }
    char *end = NULL;
    unsigned long size = value[2] != '\0' ? strtoul(value + 3, &end, 10) : 0;
    if (size == 0 || size > 64 || end == value + 3 || *end != value[0]) {
        return wrong(name, "has a dtype in its header that is not a letter and a size", err);
    }
    npy->kind = value[2];
    npy->item_bytes = (uint32_t)size;
    return ATTN_OK;
}

/* "(1, 2, 3)", "(5,)". */
static attn_status_t shape_read(const char *name, const char *value, ctl_npy_t *npy, attn_error_t *err)
{
    if (value == NULL || *value != '(') {
        return wrong(name, "has no shape in its header", err);
    }
    const char *at = value + 1;
    for (;;) {
        at += strspn(at, " ,");
        if (*at == ')') {
            return ATTN_OK;
        }
        char *end = NULL;
        unsigned long long extent = strtoull(at, &end, 10);
        if (*at < '0' || *at > '9' || end - at > 18) {
            return wrong(name, "has a shape in its header that is not a list of numbers", err);
        }
        if (npy->rank == 4) {
            return wrong(name, "has more than 4 dimensions; tensors are [batch, s, heads, d] or [total, heads, d]",
                         err);
        }
        npy->shape[npy->rank++] = extent;
        at = end;
    }
}

attn_status_t ctl_npy_read(const char *name, const void *file, size_t bytes, ctl_npy_t *ret, attn_error_t *err)
{
    const unsigned char *data = file;
    if (bytes < 10 || memcmp(data, NPY_MAGIC, 6) != 0) {
        return wrong(name, "is not a .npy file", err);
    }
    size_t prefix = data[6] == 1 ? 10 : 12;
    if (data[6] < 1 || data[6] > 3 || bytes < prefix) {
        return wrong(name, "is a .npy file of an unknown version", err);
    }
    size_t length = (size_t)data[8] | (size_t)data[9] << 8;
    if (prefix == 12) {
        length |= (size_t)data[10] << 16 | (size_t)data[11] << 24;
    }
    if (length > HEADER_MAX || length > bytes - prefix) {
        return wrong(name, "has a header that is longer than the file", err);
    }
    char *header = malloc(length + 1);
    if (header == NULL) {
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for the header of %s", name);
    }
    memcpy(header, data + prefix, length);
    header[length] = '\0';
    ctl_npy_t npy = {.data_offset = prefix + length};
    attn_status_t status = descr_read(name, value_of(header, "descr"), &npy, err);
    if (status == ATTN_OK) {
        status = shape_read(name, value_of(header, "shape"), &npy, err);
    }
    const char *fortran = value_of(header, "fortran_order");
    if (status == ATTN_OK && (fortran == NULL || strncmp(fortran, "False", 5) != 0)) {
        status = wrong(name, "is in Fortran order; save it with numpy.ascontiguousarray()", err);
    }
    free(header);
    uint64_t size = npy.item_bytes;
    for (uint32_t i = 0; status == ATTN_OK && i < npy.rank; i++) {
        if (__builtin_mul_overflow(size, npy.shape[i], &size)) {
            status = wrong(name, "has a shape whose size overflows", err);
        }
    }
    if (status == ATTN_OK && size != bytes - npy.data_offset) {
        status = attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                                "%s holds %zu bytes of data, and its header says %llu; is it cut off?", name,
                                bytes - npy.data_offset, (unsigned long long)size);
    }
    if (status == ATTN_OK) {
        *ret = npy;
    }
    return status;
}
