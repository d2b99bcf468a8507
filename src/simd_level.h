/* For simd*.c and json.c: one table of functions for each level. */
#ifndef OBATCH_SIMD_LEVEL_H
#define OBATCH_SIMD_LEVEL_H

#include "json_tape.h"

#include <string.h>

/* Eight bytes as a number, the first one lowest. */
static inline uint64_t load_8(const char *at) {
    uint64_t word;
    memcpy(&word, at, sizeof word);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    return word;
}

struct simd_level {
    const char *name;
    size_t (*base64)(char *to, const unsigned char *from, size_t length);
    size_t (*json_plain)(const char *bytes, size_t length);
    size_t (*utf8_prefix)(const char *bytes, size_t length);
    /* What json.h promises of json_... */
    enum json_type (*next)(struct json_reader *reader, struct json_value *value);
    bool (*check)(const char *text, size_t length, bool decodable, struct json_error *error);
    bool (*find)(const char *text, size_t length, struct json_plan *plan, struct json_error *error);
    bool (*unescape)(const struct json_value *value, char *out, size_t *size);
    bool (*inner)(const struct json_value *value, char *scratch);
    bool (*quoted)(struct json_tape *tape, const char *at, const char *end);
};

extern const struct simd_level simd_portable, simd_avx2, simd_neon;

/* The one in use. */
extern const struct simd_level *simd;

#endif
