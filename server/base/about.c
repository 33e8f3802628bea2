/* base/about.c: see about.h. */
#include "base/about.h"

#include <stdio.h>
#include <string.h>

#include "attnd_revision.h" /* made by revision.cmake on every build */

#if defined(__clang__)
#define COMPILER "clang " __clang_version__
#else
#define COMPILER "gcc " __VERSION__
#endif

const char *attn_about_build(void)
{
    return ATTND_VERSION " (" ATTND_REVISION ", " COMPILER ")";
}

void attn_about_cpu(char *ret, size_t capacity)
{
    char line[256];
    snprintf(ret, capacity, "unknown");
    FILE *file = fopen("/proc/cpuinfo", "re");
    if (file == NULL) {
        return;
    }
    while (fgets(line, sizeof(line), file) != NULL) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) == 0 && colon != NULL) {
            const char *name = colon + 1 + strspn(colon + 1, " \t");
            snprintf(ret, capacity, "%.*s", (int)strcspn(name, "\n"), name);
            break;
        }
    }
    fclose(file);
}
