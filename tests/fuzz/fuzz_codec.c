/* tests/fuzz/fuzz_codec.c: the libFuzzer program (built with clang): the first byte chooses the parser. Named entries:
 * ATTN_FUZZ_ENTRY=safetensors fuzz_codec corpus/ takes whole inputs. Coverage of the parsers needs
 * -DCMAKE_C_FLAGS=-fsanitize=fuzzer-no-link -DATTN_SANITIZE=address for the whole build. */
#include <stdlib.h>
#include <string.h>

#include "fuzz/entries.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *name = getenv("ATTN_FUZZ_ENTRY");
    for (size_t i = 0; name != NULL && i < fuzz_entry_count; i++) {
        if (strcmp(fuzz_entries[i].name, name) == 0) {
            fuzz_entries[i].run(data, size);
            return 0;
        }
    }
    if (size > 0) {
        fuzz_entries[data[0] % fuzz_entry_count].run(data + 1, size - 1);
    }
    return 0;
}
