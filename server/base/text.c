/* base/text.c: see text.h. */
#include "base/text.h"

#include <stdbool.h>

size_t attn_text_quote(char *ret, size_t size, const char *text, size_t length)
{
    size_t n = 0;
    bool space = false;
    for (size_t i = 0; i < length && text[i] != '\0'; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == ' ' || (c >= '\t' && c <= '\r')) {
            space = n > 0;
            continue;
        }
        if (n + (space ? 2 : 1) >= size)
            break;
        if (space)
            ret[n++] = ' ';
        space = false;
        ret[n++] = c > ' ' && c < 0x7f ? (char)c : '?';
    }
    if (size > 0)
        ret[n] = '\0';
    return n;
}
