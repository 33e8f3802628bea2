/* test_arena.c: the extent allocator against a model, and the arena's seals. */
#include <check.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/arena.h"

enum { PAGES = 3000, HELD = 400 };

static uint64_t seed = 12345;

static uint32_t random_below(uint32_t n)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 33) % n;
}

typedef struct held {
    uint32_t first, pages;
} held_t;

/* The longest free run that the model knows. */
static uint32_t model_longest(const unsigned char *used)
{
    uint32_t longest = 0, run = 0;
    for (uint32_t i = 0; i < PAGES; i++) {
        run = used[i] ? 0 : run + 1;
        longest = run > longest ? run : longest;
    }
    return longest;
}

START_TEST(agrees_with_a_model)
{
    attn_extents_t *extents;
    attn_error_t err;
    ck_assert_int_eq(attn_extents_create(PAGES, &extents, &err), ATTN_OK);
    static unsigned char used[PAGES];
    static held_t held[HELD];
    uint32_t count = 0, total = 0, refused = 0;
    for (int turn = 0; turn < 200000; turn++) {
        if (count < HELD && random_below(100) < 52) {
            uint32_t pages = 1 + random_below(random_below(10) ? 12 : 300), first = PAGES;
            if (!attn_extents_alloc(extents, pages, &first)) {
                /* It may pass over a hole of the same size class only; twice the size is always found. */
                ck_assert_uint_lt(model_longest(used), pages + pages / 16 + 1);
                refused++;
                continue;
            }
            ck_assert_uint_le(first, PAGES - pages);
            for (uint32_t i = first; i < first + pages; i++) {
                ck_assert_uint_eq(used[i], 0);
                used[i] = 1;
            }
            held[count++] = (held_t){first, pages};
            total += pages;
        } else if (count > 0) {
            uint32_t which = random_below(count);
            attn_extents_free(extents, held[which].first);
            memset(used + held[which].first, 0, held[which].pages);
            total -= held[which].pages;
            held[which] = held[--count];
        }
        ck_assert_uint_eq(attn_extents_used(extents), total);
    }
    ck_assert_uint_gt(refused, 0);
    while (count > 0)
        attn_extents_free(extents, held[--count].first);
    /* Everything has merged back into one extent. */
    uint32_t first;
    ck_assert(attn_extents_alloc(extents, PAGES, &first));
    ck_assert_uint_eq(first, 0);
    attn_extents_free(extents, first);
    attn_extents_destroy(extents);
}
END_TEST

START_TEST(edges)
{
    attn_extents_t *extents = NULL;
    attn_error_t err;
    ck_assert_int_eq(attn_extents_create(0, &extents, &err), ATTN_ERR_INVALID_ARGUMENT);
    ck_assert_ptr_null(extents);
    attn_extents_destroy(NULL);
    ck_assert_int_eq(attn_extents_create(1, &extents, &err), ATTN_OK);
    uint32_t first;
    ck_assert(!attn_extents_alloc(extents, 0, &first));
    ck_assert(!attn_extents_alloc(extents, 2, &first));
    ck_assert(!attn_extents_alloc(extents, UINT32_MAX, &first));
    ck_assert(attn_extents_alloc(extents, 1, &first));
    ck_assert(!attn_extents_alloc(extents, 1, &first));
    attn_extents_free(extents, first);
    ck_assert(attn_extents_alloc(extents, 1, &first));
    attn_extents_destroy(extents);
}
END_TEST

/* What is freed is taken again before untouched memory is: steady traffic stays on the same pages. */
START_TEST(reuses_what_is_warm)
{
    attn_extents_t *extents;
    attn_error_t err;
    ck_assert_int_eq(attn_extents_create(100000, &extents, &err), ATTN_OK);
    uint32_t highest = 0;
    for (int turn = 0; turn < 1000; turn++) {
        uint32_t first[4];
        for (int i = 0; i < 4; i++) {
            ck_assert(attn_extents_alloc(extents, 10u + (uint32_t)i, &first[i]));
            highest = first[i] > highest ? first[i] : highest;
        }
        for (int i = 0; i < 4; i++)
            attn_extents_free(extents, first[i]);
    }
    ck_assert_uint_lt(highest, 100);
    attn_extents_destroy(extents);
}
END_TEST

START_TEST(arena_is_sealed)
{
    attn_arena_t *arena;
    attn_error_t err;
    ck_assert_int_eq(attn_arena_create("test-arena", 100000, &arena, &err), ATTN_OK);
    ck_assert_uint_eq(attn_arena_bytes(arena), 102400);
    int fd = attn_arena_fd(arena);
    int seals = fcntl(fd, F_GET_SEALS);
    ck_assert_int_eq(seals & (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    ck_assert_int_ne(ftruncate(fd, 10), 0);
    ck_assert_int_ne(fcntl(fd, F_GETFD) & FD_CLOEXEC, 0);
    uint64_t a, b;
    ck_assert(attn_arena_alloc(arena, 1, &a));
    ck_assert(attn_arena_alloc(arena, 4097, &b));
    ck_assert_uint_eq(attn_arena_used(arena), 3 * 4096);
    attn_arena_base(arena)[b + 8191] = 1;
    ck_assert(!attn_arena_alloc(arena, UINT64_MAX, &a));
    attn_arena_free(arena, a);
    attn_arena_free(arena, b);
    ck_assert_uint_eq(attn_arena_used(arena), 0);
    attn_arena_destroy(arena);
    attn_arena_destroy(NULL);
    ck_assert_int_eq(attn_arena_create("test-arena", 0, &arena, &err), ATTN_ERR_INVALID_ARGUMENT);
    ck_assert_int_eq(attn_arena_create("test-arena", UINT64_MAX, &arena, &err), ATTN_ERR_INVALID_ARGUMENT);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("base_arena");
    TCase *all = tcase_create("all");
    tcase_set_timeout(all, 60);
    tcase_add_test(all, agrees_with_a_model);
    tcase_add_test(all, edges);
    tcase_add_test(all, reuses_what_is_warm);
    tcase_add_test(all, arena_is_sealed);
    suite_add_tcase(suite, all);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
