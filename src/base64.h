/* Base64, 3 bytes at a time: what the vectors leave over. */
#ifndef OBATCH_BASE64_H
#define OBATCH_BASE64_H

#include <stddef.h>

static inline size_t base64_rest(char *to, const unsigned char *from, size_t length) {
    static const char digits64[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *out = to;
    for (; length >= 3; length -= 3, from += 3, out += 4) {
        unsigned bits = (unsigned)from[0] << 16 | (unsigned)from[1] << 8 | from[2];
        out[0] = digits64[bits >> 18];
        out[1] = digits64[bits >> 12 & 63];
        out[2] = digits64[bits >> 6 & 63];
        out[3] = digits64[bits & 63];
    }
    if (length > 0) {
        unsigned bits = (unsigned)from[0] << 16 | (length > 1 ? (unsigned)from[1] << 8 : 0);
        out[0] = digits64[bits >> 18];
        out[1] = digits64[bits >> 12 & 63];
        out[2] = '=';
        if (length > 1) out[2] = digits64[bits >> 6 & 63];
        out[3] = '=';
        out += 4;
    }
    return (size_t)(out - to);
}

#endif
