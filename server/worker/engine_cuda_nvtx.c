/* worker/engine_cuda_nvtx.c: ranges for Nsight Systems. NVTX is header-only and does nothing unless a profiler has
 * injected itself, which it announces in the environment; then a range costs a few microseconds. Main thread. */
#include <stdio.h>
#include <stdlib.h>

#include "worker/engine_cuda.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic"
#pragma GCC diagnostic ignored "-Wstrict-prototypes"
#include <nvtx3/nvToolsExt.h>
#pragma GCC diagnostic pop

bool attn_cuda_nvtx_wanted(void)
{
    return getenv("NVTX_INJECTION64_PATH") != NULL;
}

uint64_t attn_cuda_nvtx_begin(const attn_engine_group_t *group)
{
    static const char *const operations[] = {"", "run", "fill", "truth", "judge"};
    char name[1024];
    const char *what = group->op == ATTN_OP_RUN ? group->variant : operations[group->op < 5 ? group->op : 0];
    int used = snprintf(name, sizeof name, "group %llu: %s x%u", (unsigned long long)group->number, what, group->count);
    for (uint32_t i = 0; i < group->count && used > 0 && (size_t)used < sizeof name; i++)
        used += snprintf(name + used, sizeof name - (size_t)used, " %s", group->requests[i].id);
    return nvtxRangeStartA(name);
}

void attn_cuda_nvtx_end(uint64_t range)
{
    nvtxRangeEnd(range);
}
