/* gpu/check.c: see check.h. */
#include "gpu/check.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "cpu/convert.h"

static unsigned passed, failed;

bool check(bool ok, const char *format, ...)
{
    if (ok) {
        passed++;
        return true;
    }
    failed++;
    va_list args;
    va_start(args, format);
    printf("FAILED: ");
    vprintf(format, args);
    printf("\n");
    va_end(args);
    fflush(stdout);
    return false;
}

int check_finish(void)
{
    printf("%u passed, %u failed\n", passed, failed);
    return failed ? 1 : 0;
}

double check_value(uint32_t dtype, const void *data, uint64_t element)
{
    return attn_element_load((attn_dtype_t)dtype, data, (int64_t)element);
}

void check_store(uint32_t dtype, void *data, uint64_t element, double value)
{
    attn_element_store((attn_dtype_t)dtype, data, (int64_t)element, value);
}

double check_ulps(uint32_t dtype, const void *a, const void *b, uint64_t elements)
{
    const int digits = dtype == ATTN_DTYPE_F32 ? 24 : dtype == ATTN_DTYPE_F16 ? 11 : 8;
    const int lowest = dtype == ATTN_DTYPE_F16 ? -14 : -126; /* exponent of the least normal number */
    double worst = 0;
    for (uint64_t i = 0; i < elements; i++) {
        double x = check_value(dtype, a, i), y = check_value(dtype, b, i);
        if ((isnan(x) && isnan(y)) || x == y)
            continue;
        if (!isfinite(x) || !isfinite(y))
            return 1e30;
        int exponent;
        frexp(y, &exponent);
        exponent = exponent - 1 < lowest ? lowest : exponent - 1;
        double ulps = fabs(x - y) / ldexp(1, exponent - digits + 1);
        worst = ulps > worst ? ulps : worst;
    }
    return worst;
}

attn_spec_t check_spec(uint32_t dtype, uint32_t layout, uint32_t batch, int64_t s_q, int64_t s_kv, uint32_t h_q,
                       uint32_t h_kv, uint32_t d, bool causal, float softcap, attn_sizes_t *ret)
{
    attn_spec_t spec = {.dtype = dtype,
                        .layout = layout,
                        .batch = batch,
                        .h_q = h_q,
                        .h_kv = h_kv,
                        .d = d,
                        .s_q = s_q,
                        .s_kv = s_kv,
                        .softcap = softcap,
                        .causal = causal,
                        .return_lse = 1};
    attn_error_t err;
    if (attn_spec_measure(&spec, ret, &err) != ATTN_OK) {
        printf("a test's own request is invalid: %s\n", err.message);
        exit(2);
    }
    return spec;
}

double check_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec * 1e-6;
}
