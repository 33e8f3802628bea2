/* base/text.h: text that came from somewhere untrusted, made fit to be quoted in a sentence. Any thread. */
#ifndef ATTND_BASE_TEXT_H
#define ATTND_BASE_TEXT_H

#include <stddef.h>

/* Copies at most size - 1 bytes of `length` bytes of `text` and ends them: printable ASCII stays, runs of white space
 * become one space, anything else becomes '?'. White space at either end goes. Returns the length. */
size_t attn_text_quote(char *ret, size_t size, const char *text, size_t length);

/* Bytes of the well-formed UTF-8 sequence (RFC 3629) at `text`, of which `left` bytes may be read; 0 when there is
 * none. Looks at a byte only when those before it continue a sequence, so text that ends in NUL may be given left = 4.
 */
size_t attn_text_utf8(const char *text, size_t left);

#endif
