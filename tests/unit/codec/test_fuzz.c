/* tests/unit/codec/test_fuzz.c: the fuzzed parsers on their seeds and on a fixed run of mutations of them: the same
 * inputs on every machine. An entry aborts when a parser accepts what it must not. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz/entries.h"

#define ROUNDS 4000
#define GROWTH 64

static uint64_t random_state;

static uint64_t next_random(void) /* splitmix64 */
{
    uint64_t z = random_state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* One to four edits; returns the new size, at most `capacity`. */
static size_t mutate(uint8_t *data, size_t size, size_t capacity)
{
    static const char *const words[] = {"-1",
                                        "18446744073709551615",
                                        "9223372036854775808",
                                        "\"q\"",
                                        "nan",
                                        "[[[[",
                                        "{\"\":",
                                        "\xff\xff\xff\xff\xff\xff\xff\xff",
                                        "%00",
                                        "&",
                                        "1e308"};
    for (uint64_t edits = next_random() % 4 + 1; edits > 0; edits--) {
        size_t at = size > 0 ? next_random() % size : 0;
        switch (next_random() % 6) {
        case 0:
            if (size > 0) {
                data[at] ^= (uint8_t)(1u << next_random() % 8);
            }
            break;
        case 1:
            if (size > 0) {
                data[at] = (uint8_t)next_random();
            }
            break;
        case 2: /* cut */
            size = at;
            break;
        case 3: { /* remove a piece */
            size_t piece = next_random() % 16;
            piece = piece < size - at ? piece : size - at;
            memmove(data + at, data + at + piece, size - at - piece);
            size -= piece;
            break;
        }
        case 4: { /* say a piece twice */
            size_t piece = next_random() % 32;
            piece = piece < size - at ? piece : size - at;
            piece = piece < capacity - size ? piece : capacity - size;
            memmove(data + at + piece, data + at, size - at);
            size += piece;
            break;
        }
        default: {
            const char *word = words[next_random() % (sizeof words / sizeof words[0])];
            size_t length = strlen(word);
            length = length < size - at ? length : size - at;
            memcpy(data + at, word, length);
        }
        }
    }
    return size;
}

START_TEST(seeds_and_mutations)
{
    const fuzz_entry_t *entry = &fuzz_entries[_i];
    unsigned count = 0;
    size_t size;
    random_state = 1;
    for (uint8_t *seed; (seed = entry->seed(count, &size)) != NULL; count++) {
        entry->run(seed, size);
        size_t capacity = size + GROWTH;
        uint8_t *data = malloc(capacity);
        ck_assert_ptr_nonnull(data);
        for (int round = 0; round < ROUNDS; round++) {
            memcpy(data, seed, size);
            size_t mutated = mutate(data, size, capacity);
            /* A block of exactly the input's size, so that reading one byte past it is seen by the sanitizer. */
            uint8_t *exact = malloc(mutated > 0 ? mutated : 1);
            ck_assert_ptr_nonnull(exact);
            memcpy(exact, data, mutated);
            entry->run(exact, mutated);
            free(exact);
        }
        free(data);
        free(seed);
    }
    ck_assert_uint_gt(count, 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("codec_fuzz");
    TCase *tests = tcase_create("mutations");
    tcase_set_timeout(tests, 100);
    tcase_add_loop_test(tests, seeds_and_mutations, 0, (int)fuzz_entry_count);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
