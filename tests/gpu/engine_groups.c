/* gpu/engine_groups.c: several groups of several requests in flight at a time. Part of engine_test. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/check.h"
#include "gpu/engine_test.h"

/* Groups of requests of different lengths, each placed by itself, some far from their neighbours and one in pageable
 * memory when `pageable`. */
enum { GROUPS = 4, MEMBERS = 9 };
typedef struct batch {
    attn_engine_group_t group;
    attn_engine_request_t request[MEMBERS];
    attn_memory_window_t window[MEMBERS];
    attn_wire_job_t wire[MEMBERS];
} batch_t;

static uint64_t in_at, out_at;

static attn_place_t place_next(bool out, uint64_t bytes, uint64_t gap)
{
    uint64_t *at = out ? &out_at : &in_at;
    attn_place_t place = {out ? ATTN_REGION_OUTPUT : ATTN_REGION_INPUT, 0, *at, bytes};
    *at += ATTN_WIRE_ROUND(bytes) + gap;
    return place;
}

static void batch_make(batch_t *batch, attn_memory_t *memory, uint32_t number)
{
    attn_error_t err;
    batch->group = (attn_engine_group_t){.number = number,
                                         .op = ATTN_OP_RUN,
                                         .variant = "unified",
                                         .repeat = 1,
                                         .count = MEMBERS,
                                         .requests = batch->request,
                                         .checkpoint = go_on};
    for (uint32_t i = 0; i < MEMBERS; i++) {
        attn_sizes_t sizes;
        int64_t s = 40 + 37 * (int64_t)((i * 5 + number) % 13);
        attn_spec_t spec = check_spec(ATTN_DTYPE_BF16, i % 3 ? ATTN_LAYOUT_BSHD : ATTN_LAYOUT_BHSD, 1 + i % 2, s, s + i,
                                      8, 2, i % 4 ? 128 : 112, number % 2, 0, &sizes);
        spec.return_lse = i % 2;
        if (!spec.return_lse)
            sizes.lse = 0;
        attn_wire_job_t *wire = &batch->wire[i];
        *wire = (attn_wire_job_t){.op = ATTN_OP_RUN};
        wire->q = place_next(false, sizes.q, 0);
        wire->k = place_next(false, sizes.k, i == 4 ? 8192 : 0);
        wire->v = place_next(false, sizes.v, i % 2 ? 4096 : 0);
        wire->o = place_next(true, sizes.o, 0);
        if (spec.return_lse)
            wire->lse = place_next(true, sizes.lse, 0);
        attn_fill_normal(ATTN_DTYPE_BF16, number, i, input + wire->q.offset, sizes.q / 2);
        attn_fill_normal(ATTN_DTYPE_BF16, number, i + 50, input + wire->k.offset, sizes.k / 2);
        attn_fill_normal(ATTN_DTYPE_BF16, number, i + 90, input + wire->v.offset, sizes.v / 2);
        if (i == 2) /* in causal groups rows that do not see it are computed again, from where K and V lie */
            memcpy(input + wire->v.offset + sizes.v - 2, "\xc0\x7f", 2);
        attn_engine_request_t *request = &batch->request[i];
        *request = (attn_engine_request_t){.spec = spec, .sizes = sizes, .id = "member"};
        check(attn_memory_enter(memory, wire, &request->at, &request->truth, request->client, &batch->window[i],
                                &err) == ATTN_OK,
              "enter: %s", err.message);
    }
}

static uint64_t batch_bytes(const batch_t *batch, bool in)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < MEMBERS; i++) {
        const attn_sizes_t *sizes = &batch->request[i].sizes;
        bytes += in ? sizes->q + sizes->k + sizes->v : sizes->o + sizes->lse;
    }
    return bytes;
}

static void batches_run(attn_engine_t *engine, batch_t *batches, const char *expected, uint64_t bytes, const char *mode)
{
    const bool pinned = in_at <= engine->input.pinned && out_at <= engine->output.pinned;
    uint64_t unpinned = 0;
    bool wanted = false;
    memset(output, 0x7b, bytes);
    for (int i = 0; i < GROUPS; i++) {
        batches[i].group.result = (attn_engine_result_t){0};
        batches[i].group.error = (attn_error_t){0};
        attn_engine_cuda.submit(engine, &batches[i].group);
    }
    for (int i = 0; i < GROUPS; i++) {
        attn_engine_group_t *group = poll_until(engine);
        const attn_engine_result_t *result = &group->result;
        check(group == &batches[i].group && group->error.status == ATTN_OK, "%s group %d: %s", mode, i,
              group->error.message);
        check(result->launches == 1 && result->helpers <= 1 && result->kernel_us > 0 && result->kernel_us < 1e5 &&
                  result->link_in_bytes == batch_bytes(&batches[i], true) &&
                  result->link_out_bytes == batch_bytes(&batches[i], false),
              "%s group %d: %u and %u launches, kernel %g us, %llu in, %llu out", mode, i, result->launches,
              result->helpers, result->kernel_us, (unsigned long long)result->link_in_bytes,
              (unsigned long long)result->link_out_bytes);
        unpinned += result->unpinned_bytes;
        wanted = wanted || result->idle_wanted;
    }
    check(wanted == (!pinned || engine->outgrown_count > 0) && (unpinned > 0) == !pinned,
          "%s: %llu bytes not pinned, more %s", mode, (unsigned long long)unpinned, wanted ? "wanted" : "not wanted");
    check(attn_engine_cuda.poll(engine) == NULL, "%s: a group too many", mode);
    check(memcmp(output, expected, bytes) == 0, "%s: other bits than alone", mode);
}

/* Four groups at a time, by every way of moving tensors, have the bits of each request alone, and write nothing else.
 */
void test_groups(attn_engine_t *engine, attn_memory_t *memory, uint64_t first, const char *where)
{
    static batch_t batches[GROUPS];
    in_at = out_at = first;
    for (uint32_t i = 0; i < GROUPS; i++)
        batch_make(&batches[i], memory, i);
    uint64_t bytes = out_at;
    char *expected = malloc(bytes);
    memset(output, 0x7b, bytes);
    for (int i = 0; i < GROUPS; i++)
        for (int j = 0; j < MEMBERS; j++) {
            attn_engine_group_t alone = batches[i].group;
            alone.count = 1;
            alone.requests = &batches[i].request[j];
            attn_engine_cuda.submit(engine, &alone);
            poll_until(engine);
            check(alone.error.status == ATTN_OK, "alone: %s", alone.error.message);
        }
    memcpy(expected, output, bytes);
    uint64_t direct = engine->direct_bytes, gather = engine->gather_bytes;
    for (int mode = 0; mode < 8; mode++) {
        char name[64];
        engine->direct_bytes = mode & 1 ? UINT64_C(1) << 30 : 0;
        engine->gather_bytes = mode & 2 ? UINT64_C(1) << 30 : 0;
        engine->batch_copies = mode & 4;
        engine->gather_apart = true;
        snprintf(name, sizeof name, "%s%s%s%s", where, mode & 1 ? " direct" : "", mode & 2 ? " gather" : "",
                 mode & 4 ? " batch" : "");
        batches_run(engine, batches, expected, bytes, name);
    }
    engine->direct_bytes = direct;
    engine->gather_bytes = gather;
    engine->gather_apart = false;
    engine->batch_copies = true;
    free(expected);
}

/* Requests that are alike: together, in any order, at even distances or not; one copy, its rows, or a copy each, they
 * have the bits of each alone, and what lies between answers is not written. */
void test_alike(attn_engine_t *engine, attn_memory_t *memory, uint64_t first, const char *where)
{
    enum { COUNT = 24 };
    static attn_engine_request_t request[COUNT];
    static const uint64_t gaps[] = {0, 0, 8192, 12288, 4096};
    attn_sizes_t sizes;
    attn_spec_t spec = check_spec(ATTN_DTYPE_BF16, ATTN_LAYOUT_BSHD, 1, 61, 64, 8, 2, 128, true, 0, &sizes);
    spec.return_lse = false;
    sizes.lse = 0;
    uint64_t in = ATTN_WIRE_ROUND(sizes.q) + ATTN_WIRE_ROUND(sizes.k) + ATTN_WIRE_ROUND(sizes.v), unused;
    const char *from = (const char *)attn_memory_arena(memory, ATTN_REGION_INPUT, &unused) + first;
    char *to = (char *)attn_memory_arena(memory, ATTN_REGION_OUTPUT, &unused) + first;
    uint64_t direct = engine->direct_bytes, pitch_most = in + 5 * 12288;
    attn_fill_normal(ATTN_DTYPE_BF16, 9, 0, input + first, COUNT * pitch_most / 2);
    engine->direct_bytes = 0;
    for (uint32_t lie = 0; lie < 5; lie++) {
        for (uint32_t i = 0; i < COUNT; i++) {
            uint64_t place = lie == 1 || lie == 3 ? i * 7 % COUNT : i, odd = lie == 4 ? place * place % 5 * 4096 : 0;
            char *q = (char *)(uintptr_t)from + place * (in + gaps[lie]) + odd;
            request[i] = (attn_engine_request_t){.spec = spec, .sizes = sizes, .id = "alike"};
            request[i].at = (attn_addresses_t){.q = q,
                                               .k = q + ATTN_WIRE_ROUND(sizes.q),
                                               .v = q + ATTN_WIRE_ROUND(sizes.q) + ATTN_WIRE_ROUND(sizes.k),
                                               .o = to + (COUNT - 1 - place) * (ATTN_WIRE_ROUND(sizes.o) + gaps[lie])};
        }
        uint64_t bytes = COUNT * (ATTN_WIRE_ROUND(sizes.o) + gaps[lie]);
        char *expected = malloc(bytes);
        for (uint32_t way = 0; way < 4; way++) {
            engine->row_copies = way & 1;
            engine->batch_copies = way & 2;
            memset(output + first, 0x7b, bytes);
            for (uint32_t i = 0; i < (way == 0 ? COUNT : 1); i++) {
                attn_engine_group_t group = {.number = 1,
                                             .op = ATTN_OP_RUN,
                                             .variant = "unified",
                                             .repeat = 1,
                                             .count = way == 0 ? 1 : COUNT,
                                             .requests = &request[i],
                                             .checkpoint = go_on};
                attn_engine_cuda.submit(engine, &group);
                poll_until(engine);
                check(group.error.status == ATTN_OK, "%s, alike %u %u: %s", where, lie, way, group.error.message);
            }
            if (way == 0)
                memcpy(expected, output + first, bytes);
            check(memcmp(expected, output + first, bytes) == 0, "%s, alike %u, way %u: other bits than alone", where,
                  lie, way);
        }
        free(expected);
    }
    engine->row_copies = engine->batch_copies = true;
    engine->direct_bytes = direct;
}

/* A group that fails to be queued leaves those around it alone. */
void test_bad_group(attn_engine_t *engine, attn_memory_t *memory)
{
    static batch_t batches[3];
    in_at = out_at = 0;
    for (uint32_t i = 0; i < 3; i++)
        batch_make(&batches[i], memory, i);
    batches[1].group.variant = "cpu";
    for (int i = 0; i < 3; i++)
        attn_engine_cuda.submit(engine, &batches[i].group);
    for (int i = 0; i < 3; i++) {
        attn_engine_group_t *group = poll_until(engine);
        check(group == &batches[i].group && (group->error.status == ATTN_OK) == (i != 1) && !group->result.unusable,
              "a bad group among others: %d: %s", i, group->error.message);
    }
}
