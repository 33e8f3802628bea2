/* base/about.h: which build this is and which machine it runs on: the provenance of a measured number. Any thread. */
#ifndef ATTND_BASE_ABOUT_H
#define ATTND_BASE_ABOUT_H

#include <stddef.h>

/* "0.1.0 (1a2b3c4d5e6f, gcc 12.2.0)": version, revision of the source ("unknown" outside a checkout), compiler. Static
 * storage. */
const char *attn_about_build(void);

/* The processor's model as the kernel names it, "unknown" when it does not. */
void attn_about_cpu(char *ret, size_t capacity);

#endif
