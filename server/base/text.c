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

size_t attn_text_utf8(const char *text, size_t left)
{
    const unsigned char *s = (const unsigned char *)text;
    if (left > 0 && s[0] < 0x80)
        return 1;
    size_t length = left == 0                     ? 0
                    : s[0] >= 0xc2 && s[0] < 0xe0 ? 2
                    : (s[0] & 0xf0) == 0xe0       ? 3
                    : s[0] >= 0xf0 && s[0] < 0xf5 ? 4
                                                  : 0;
    if (length == 0 || length > left)
        return 0;
    for (size_t i = 1; i < length; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    bool overlong = (s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xf0 && s[1] < 0x90);
    bool outside = (s[0] == 0xed && s[1] >= 0xa0) || (s[0] == 0xf4 && s[1] >= 0x90); /* surrogates; above U+10FFFF */
    return overlong || outside ? 0 : length;
}
