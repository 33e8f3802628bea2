/* cpu/pool.h: the threads that CPU kernels run on. One pool per process, made on demand, asleep on a condition
 * variable when idle (no spinning: on a small machine that takes the core the front needs). One job runs at a time;
 * callers queue on a mutex. Threads end with the process. */
#ifndef ATTN_CPU_POOL_H
#define ATTN_CPU_POOL_H

#include "attn/kernel.h"

typedef struct attn_pool_thread attn_pool_thread_t;

/* Does item `item` of a job. `thread` numbers the threads of this job from 0, the caller's thread being 0. */
typedef void (*attn_pool_body_fn)(void *arg, uint64_t item, attn_pool_thread_t *thread);

/* Runs body for every item in [0, count), handed out in order, on up to `threads` threads with the caller's among
 * them, and returns when all are done. Calls exec->checkpoint (NULL is fine) on the caller's thread at least every
 * 20 ms as long as the bodies call attn_pool_continue() that often. Fewer threads are used when the system gives no
 * more. CANCELLED when a checkpoint said so; items are then partly done. */
attn_status_t attn_pool_run(unsigned threads, uint64_t count, attn_pool_body_fn body, void *arg,
                            const attn_exec_t *exec, attn_error_t *err);

/* Called by bodies between pieces of work of at most a few milliseconds; false = return from the body at once. */
bool attn_pool_continue(attn_pool_thread_t *thread);

unsigned attn_pool_thread_index(const attn_pool_thread_t *thread);

#endif
