/* gpu/engine_large.c: large requests, whose copies go in pieces, several at a time and beside small ones: their bits,
 * who overtakes whom, and what cancelling one does. Part of engine_test. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/check.h"
#include "gpu/engine_test.h"

enum { LARGE = ATTN_WIRE_GROUPS_LARGE, SMALL = ATTN_WIRE_GROUPS_SMALL, ALL = LARGE + SMALL, SEQUENCES = 3 };

typedef struct lone {
    attn_engine_group_t group;
    attn_engine_request_t request;
    attn_sizes_t sizes;
    uint32_t asked, goes_on; /* calls of its checkpoint; how many of them say that it is still wanted */
} lone_t;
static lone_t lones[ALL];
static uint64_t in_used, out_used;

static bool wanted(void *arg)
{
    lone_t *lone = arg;
    return lone->asked++ < lone->goes_on;
}

static char *place(bool out, uint64_t bytes)
{
    uint64_t *used = out ? &out_used : &in_used;
    char *at = (out ? output : input) + *used;
    *used += ATTN_WIRE_ROUND(bytes);
    return at;
}

/* Sliced and whole ones, in every layout, with and without LSE; the last SMALL are small. The first is too long to be
 * with the device before others come. */
static void lones_make(attn_memory_t *memory, uint64_t first)
{
    static const struct {
        uint32_t layout, batch;
        int64_t s_q, s_kv;
        bool causal, lse;
    } shapes[ALL] = {
        {ATTN_LAYOUT_BSHD, 1, 6000, 6000, true, true}, {ATTN_LAYOUT_BSHD, 1, 1000, 3000, false, false},
        {ATTN_LAYOUT_BHSD, 1, 1024, 1024, true, true}, {ATTN_LAYOUT_BHSD, 5, 512, 600, true, false},
        {ATTN_LAYOUT_THD, 3, 1500, 1500, true, true},  {ATTN_LAYOUT_BSHD, 1, 1030, 1030, true, false},
        {ATTN_LAYOUT_BSHD, 4, 700, 900, true, true},   {ATTN_LAYOUT_BSHD, 1, 2048, 2048, false, true},
        {ATTN_LAYOUT_BSHD, 1, 64, 64, true, true},     {ATTN_LAYOUT_BSHD, 1, 100, 300, false, false},
        {ATTN_LAYOUT_BSHD, 2, 17, 64, true, true},     {ATTN_LAYOUT_BHSD, 1, 256, 256, true, false},
    };
    static const int32_t cu[SEQUENCES + 1] = {0, 700, 701, 1500};
    uint64_t unused;
    const char *input_seen = attn_memory_arena(memory, ATTN_REGION_INPUT, &unused);
    char *output_seen = attn_memory_arena(memory, ATTN_REGION_OUTPUT, &unused);
    in_used = out_used = first;
    for (uint32_t i = 0; i < ALL; i++) {
        lone_t *lone = &lones[i];
        attn_sizes_t *sizes = &lone->sizes;
        attn_spec_t spec = check_spec(ATTN_DTYPE_BF16, shapes[i].layout, shapes[i].batch, shapes[i].s_q, shapes[i].s_kv,
                                      16, 4, 128, shapes[i].causal, 0, sizes);
        spec.return_lse = shapes[i].lse;
        sizes->lse = spec.return_lse ? sizes->lse : 0;
        char *q = place(false, sizes->q), *k = place(false, sizes->k), *v = place(false, sizes->v);
        char *o = place(true, sizes->o), *lse = place(true, sizes->lse);
        attn_fill_normal(ATTN_DTYPE_BF16, i, 0, q, sizes->q / 2);
        attn_fill_normal(ATTN_DTYPE_BF16, i, 1, k, sizes->k / 2);
        attn_fill_normal(ATTN_DTYPE_BF16, i, 2, v, sizes->v / 2);
        lone->request = (attn_engine_request_t){.spec = spec, .sizes = *sizes, .id = "lone"};
        if (spec.layout == ATTN_LAYOUT_THD)
            lone->request.cu_seqlens_q = lone->request.cu_seqlens_k = cu;
        lone->request.at =
            (attn_addresses_t){.q = (char *)(uintptr_t)input_seen + (q - input),
                               .k = (char *)(uintptr_t)input_seen + (k - input),
                               .v = (char *)(uintptr_t)input_seen + (v - input),
                               .o = output_seen + (o - output),
                               .lse = spec.return_lse ? (float *)(void *)(output_seen + (lse - output)) : NULL};
    }
}

/* `cost`: of its kernel, over what its copies take. Up to 1 a large one goes in slices, above in one piece. */
static void begin(attn_engine_t *engine, uint32_t i, bool large, double cost, uint32_t goes_on)
{
    static uint64_t number;
    lone_t *lone = &lones[i];
    lone->asked = 0;
    lone->goes_on = goes_on;
    number++;
    lone->group = (attn_engine_group_t){.number = number,
                                        .op = ATTN_OP_RUN,
                                        .variant = "unified",
                                        .repeat = 1,
                                        .count = 1,
                                        .large = large,
                                        .cost_us = cost * (double)attn_cuda_in_bytes(&lone->request) /
                                                   ATTN_CUDA_LINK_BYTES_PER_US,
                                        .requests = &lone->request,
                                        .checkpoint = wanted,
                                        .checkpoint_arg = lone};
    attn_engine_cuda.submit(engine, &lone->group);
}

static void was_right(const lone_t *lone, const char *how)
{
    const attn_engine_result_t *result = &lone->group.result;
    const attn_sizes_t *sizes = &lone->sizes;
    check(lone->group.error.status == ATTN_OK, "%s: %s", how, lone->group.error.message);
    check(result->link_in_bytes == sizes->q + sizes->k + sizes->v && result->link_out_bytes == sizes->o + sizes->lse,
          "%s: %llu bytes in, %llu out", how, (unsigned long long)result->link_in_bytes,
          (unsigned long long)result->link_out_bytes);
    check(result->launches >= 1 && result->launches <= ATTN_CUDA_SLICES && result->kernel_us > 0 &&
              result->kernel_us < 1e5,
          "%s: %u launches, %g us", how, result->launches, result->kernel_us);
}

/* As if all that is kept between groups were too small for the next one. */
static void all_too_small(attn_engine_t *engine)
{
    for (uint32_t i = 0; i < ALL; i++)
        engine->flight[i].slab_bytes = engine->flight[i].staging_bytes = 0;
    engine->workspace_bytes = engine->bulk.workspace_bytes = 0;
}

/* What was outgrown is kept while groups are under way, and freed after. */
static void outgrown_go(attn_engine_t *engine, const char *how)
{
    size_t before, after, total;
    check(engine->outgrown_count > ALL, "%s: %u outgrown", how, engine->outgrown_count);
    check(cudaMemGetInfo(&before, &total) == cudaSuccess, "%s: no figures of memory", how);
    while (engine->outgrown_count > 0)
        attn_engine_cuda.idle(engine);
    check(cudaMemGetInfo(&after, &total) == cudaSuccess && after > before, "%s: what is outgrown is not freed", how);
}

/* The bits of each alone, from all in flight at once, whole and in slices, and with places that grow under way. */
static void bits_are_the_same(attn_engine_t *engine, uint64_t first, const char *where)
{
    uint64_t bytes = out_used - first;
    char *expected = malloc(bytes), how[64];
    memset(output + first, 0x7b, bytes);
    for (uint32_t i = 0; i < ALL; i++) {
        begin(engine, i, false, 0, UINT32_MAX);
        poll_until(engine);
        was_right(&lones[i], "alone");
    }
    memcpy(expected, output + first, bytes);
    for (uint32_t round = 0; round < 4; round++) {
        snprintf(how, sizeof how, "%s, round %u", where, round);
        memset(output + first, 0x7b, bytes);
        if (round == 3)
            all_too_small(engine);
        for (uint32_t i = 0; i < ALL; i++) {
            _Static_assert(ALL % 5 != 0, "steps of a prime that does not divide their number reach all");
            uint32_t which = round % 2 ? ALL - 1 - i : (i * 5) % ALL;
            begin(engine, which, which < LARGE, round < 2 ? 1 : 1e3, UINT32_MAX);
        }
        uint32_t outgrown = engine->outgrown_count;
        if (round == 3)
            check(attn_engine_cuda.idle(engine) && engine->outgrown_count == outgrown, "%s: freed under way", how);
        for (uint32_t i = 0; i < ALL; i++)
            poll_until(engine);
        for (uint32_t i = 0; i < ALL; i++)
            was_right(&lones[i], how);
        check(attn_engine_cuda.poll(engine) == NULL, "%s: a group too many", how);
        check(memcmp(output + first, expected, bytes) == 0, "%s: other bits than alone", how);
        if (round == 3)
            outgrown_go(engine, how);
    }
    free(expected);
}

/* What comes last ends first when it is small; and of large ones the short one passes the long one. */
static void small_ones_overtake(attn_engine_t *engine)
{
    for (uint32_t round = 0; round < 3; round++) {
        begin(engine, 1, true, 1, UINT32_MAX);
        begin(engine, 0, true, 1, UINT32_MAX);
        begin(engine, 5, true, 1, UINT32_MAX);
        begin(engine, LARGE, false, 0, UINT32_MAX);
        attn_engine_group_t *ended[4];
        for (int i = 0; i < 4; i++)
            ended[i] = poll_until(engine);
        /* The first large one may have ended while the others were queued. */
        check(ended[0] == &lones[LARGE].group || ended[1] == &lones[LARGE].group, "a small request comes out behind");
        check(ended[3] != &lones[5].group, "the shortest of three large requests comes out last");
    }
}

/* One that nobody wants any longer leaves others alone, wherever it is when that is seen. */
static void cancelled_ones_leave(attn_engine_t *engine, uint64_t first)
{
    uint64_t bytes = out_used - first;
    char *expected = malloc(bytes);
    memcpy(expected, output + first, bytes);
    for (uint32_t after = 0; after < 3; after++) {
        begin(engine, 1, true, 1, UINT32_MAX);
        begin(engine, 0, true, 1, after);
        begin(engine, 3, true, 1, UINT32_MAX);
        begin(engine, LARGE + 1, false, 0, UINT32_MAX);
        for (int i = 0; i < 4; i++)
            poll_until(engine);
        check(lones[0].group.error.status == ATTN_ERR_CANCELLED && lones[0].group.result.launches == after,
              "cancelled at slice %u: %s", after, lones[0].group.error.message);
        was_right(&lones[1], "beside a cancelled one");
        was_right(&lones[3], "behind a cancelled one");
        was_right(&lones[LARGE + 1], "a small one behind a cancelled one");
        begin(engine, 0, true, 1, UINT32_MAX);
        poll_until(engine);
        was_right(&lones[0], "once more");
        check(memcmp(output + first, expected, bytes) == 0, "cancelled at slice %u: other bits", after);
    }
    free(expected);
}

void test_large(attn_engine_t *engine, attn_memory_t *memory, uint64_t first, const char *where)
{
    lones_make(memory, first);
    bits_are_the_same(engine, first, where);
    small_ones_overtake(engine);
    cancelled_ones_leave(engine, first);
}
