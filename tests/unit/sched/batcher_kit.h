/* batcher_kit.h: a batcher, requests for it, and a clock of the test's own: what the tests of the batcher share. Each
 * test program has its own copy; fork mode or setup() keeps tests apart. */
#ifndef ATTN_TEST_BATCHER_KIT_H
#define ATTN_TEST_BATCHER_KIT_H

#include <check.h>
#include <string.h>

#include "base/clock.h"
#include "sched/batcher.h"

enum { POOL = 2048 };

static attn_batcher_t batcher;
static attn_request_t pool[POOL];
static uint32_t pool_used;
static int64_t now;
static const attn_variant_info_t variant_a;

static void setup(void)
{
    const attn_batcher_limits_t limits = {.requests = 64, .tokens = 100000, .bytes = 1 << 26, .cost_us = 1000};
    attn_batcher_init(&batcher, &limits);
    memset(pool, 0, sizeof pool);
    pool_used = 0;
    now = 1000 * ATTN_NS_PER_S;
}

/* A request of 10 us, 128 tokens and 1 KiB, submitted now by peer 1. */
static attn_request_t *make(void)
{
    ck_assert_uint_lt(pool_used, POOL);
    attn_request_t *request = &pool[pool_used++];
    request->spec = (attn_spec_t){.dtype = ATTN_DTYPE_F16,
                                  .layout = ATTN_LAYOUT_BSHD,
                                  .batch = 1,
                                  .h_q = 8,
                                  .h_kv = 2,
                                  .d = 128,
                                  .s_q = 64,
                                  .s_kv = 64};
    request->outcome.variant = &variant_a;
    request->peer = 1;
    request->connection = pool_used;
    request->sched.devices = 1;
    request->sched.cost_us = request->sched.work_us = 10;
    request->sched.tokens = 128;
    request->sched.bytes = 1024;
    request->sched.submitted_ns = now;
    return request;
}

static attn_request_t *push(attn_request_t *request)
{
    attn_batcher_push(&batcher, request);
    return request;
}

static bool has(const attn_batch_t *batch, const attn_request_t *request)
{
    for (uint32_t i = 0; i < batch->count; i++)
        if (batch->request[i] == request)
            return true;
    return false;
}

#endif
