/* UTF-8, one sequence at a time, and the tables for many at a time. Unicode, table 3-7: no overlong
 * forms, no surrogates, nothing above U+10FFFF. */
#ifndef OBATCH_JSON_UTF8_H
#define OBATCH_JSON_UTF8_H

#include <stddef.h>

/* The length of the valid sequence at a byte above 0x7F, or 0. */
static inline int utf8_length(const char *text, const char *end) {
    const unsigned char *at = (const unsigned char *)text;
    ptrdiff_t room = end - text;
    unsigned low = 0x80, high = 0xBF;
    int length;
    if (at[0] >= 0xC2 && at[0] <= 0xDF) {
        length = 2;
    } else if (at[0] >= 0xE0 && at[0] <= 0xEF) {
        length = 3;
        if (at[0] == 0xE0) low = 0xA0;
        if (at[0] == 0xED) high = 0x9F;
    } else if (at[0] >= 0xF0 && at[0] <= 0xF4) {
        length = 4;
        if (at[0] == 0xF0) low = 0x90;
        if (at[0] == 0xF4) high = 0x8F;
    } else {
        return 0;
    }
    if (room < length || at[1] < low || at[1] > high) return 0;
    for (int i = 2; i < length; i++)
        if (at[i] < 0x80 || at[i] > 0xBF) return 0;
    return length;
}

/* For vectors, after Keiser and Lemire, "Validating UTF-8 in less than one instruction per byte"
 * (2021): every fault but one shows in two neighbouring bytes, and three nibbles tell it: both of
 * the first byte and the high one of the second. Each fault has a bit; it is there when all three
 * tables have that bit. The last bit is no fault when a third or fourth byte is due. */
enum {
    CUT = 1 << 0,                  /* a lead, and no continuation */
    STRAY = 1 << 1,                /* ASCII, then a continuation */
    LONG_2 = 1 << 2,               /* C0, C1 */
    LONG_3 = 1 << 3,               /* E0 80..9F */
    SURROGATE = 1 << 4,            /* ED A0..BF */
    HIGH = 1 << 5,                 /* F4 90..BF, F5..FF 90..BF */
    HIGH_80 = 1 << 6,              /* F5..FF 80..8F; also what is overlong, F0 80..8F */
    CONTINUED = 1 << 7,            /* two continuations */
    ANY = CUT | STRAY | CONTINUED, /* the low nibble of the first byte does not matter */
};

/* clang-format off */
#define UTF8_TWICE(x) (char)(x), (char)(x)
#define UTF8_FOUR(x) UTF8_TWICE(x), UTF8_TWICE(x)

/* By the high nibble of the first byte. */
#define UTF8_HIGH \
    UTF8_FOUR(STRAY), UTF8_FOUR(STRAY), UTF8_FOUR(CONTINUED), \
    CUT | LONG_2, CUT, CUT | LONG_3 | SURROGATE, CUT | HIGH | HIGH_80

/* By its low nibble. */
#define UTF8_LOW \
    (char)(ANY | LONG_2 | LONG_3 | HIGH_80), (char)(ANY | LONG_2), UTF8_TWICE(ANY), \
    (char)(ANY | HIGH), (char)(ANY | HIGH | HIGH_80), UTF8_TWICE(ANY | HIGH | HIGH_80), \
    UTF8_FOUR(ANY | HIGH | HIGH_80), \
    (char)(ANY | HIGH | HIGH_80), (char)(ANY | HIGH | HIGH_80 | SURROGATE), \
    UTF8_TWICE(ANY | HIGH | HIGH_80)

/* By the high nibble of the second byte. */
#define UTF8_NEXT \
    UTF8_FOUR(CUT), UTF8_FOUR(CUT), \
    (char)(STRAY | CONTINUED | LONG_2 | LONG_3 | HIGH_80), \
    (char)(STRAY | CONTINUED | LONG_2 | LONG_3 | HIGH), \
    UTF8_TWICE(STRAY | CONTINUED | LONG_2 | SURROGATE | HIGH), \
    UTF8_FOUR(CUT)
/* clang-format on */

#endif
