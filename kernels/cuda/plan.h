// plan.h: cuts a group into launches of a plain kernel, each of about 25 ms at most. Host code, any thread; owns
// nothing.
#ifndef ATTN_CUDA_PLAN_H
#define ATTN_CUDA_PLAN_H

#include "attn/kernel.h"
#include "kernels.h"

namespace attn_cuda {

// Where the truth goes; all NULL for a plain answer. Rows as in attn/accuracy.h, from the group's first problem on.
struct Truth {
    double *o64, *lse64, *row_err;
    double *max_abs;
};

// Bytes of state (beyond ATTN_WORKSPACE_ZEROED) for rows with so many keys that they come in several launches; else 0.
size_t plan_state_bytes(const Kernel &kernel, int64_t s_kv, const attn_device_t *device);

// Launches everything on exec->stream. While more than about 50 ms of work is queued it waits, and calls
// exec->checkpoint (where there is one).
attn_status_t plan_run(const Kernel &kernel, const attn_group_t *group, const Truth &truth, const attn_exec_t *exec,
                       attn_error_t *err);

} // namespace attn_cuda
#endif
