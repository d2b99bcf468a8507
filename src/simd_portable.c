/* Plain C: 8 bytes at a time in a word. */
#include "base64.h"
#include "json_utf8.h"
#include "simd_level.h"

#include <string.h>

#define LEVEL(name) portable_##name
#define LEVEL_NAME "portable"
#define LEVEL_TABLE simd_portable
enum { WIDTH = 8 };

static const uint64_t ones = 0x0101010101010101u, tops = 0x8080808080808080u;

/* In these words the top bit of a byte is set when it is one that is looked for. Borrows may set it
 * in bytes above the first hit too, never below it. */
static inline uint64_t is_byte(uint64_t word, char byte) {
    uint64_t zero = word ^ (ones * (unsigned char)byte);
    return (zero - ones) & ~zero;
}

static inline uint64_t is_control(uint64_t word) {
    return (word - ones * 0x20) & ~word;
}

static inline size_t before(uint64_t hits) {
    hits &= tops;
    return hits ? (size_t)__builtin_ctzll(hits) >> 3 : WIDTH;
}

static inline size_t ascii_prefix(const char *at) {
    uint64_t word = load_8(at);
    return before(is_byte(word, '"') | is_byte(word, '\\') | is_control(word) | word);
}

static inline size_t plain_prefix(const char *at) {
    uint64_t word = load_8(at);
    return before(is_byte(word, '"') | is_byte(word, '\\') | is_control(word));
}

static inline size_t slash_prefix(const char *at) {
    return before(is_byte(load_8(at), '\\'));
}

static inline size_t space_prefix(const char *at) {
    uint64_t others = load_8(at) ^ ones * ' ';
    return others ? (size_t)__builtin_ctzll(others) >> 3 : WIDTH;
}

static inline size_t same_prefix(const char *a, const char *b) {
    uint64_t others = load_8(a) ^ load_8(b);
    return others ? (size_t)__builtin_ctzll(others) >> 3 : WIDTH;
}

static size_t portable_base64(char *to, const unsigned char *from, size_t length) {
    return base64_rest(to, from, length);
}

#include "json_scan.h"
