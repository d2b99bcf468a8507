/* x86-64 with AVX2: 32 bytes at a time. */
#include "json_utf8.h"
#include "simd_level.h"

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,bmi"))), apply_to = function)
#else
#pragma GCC target("avx2,bmi")
#endif

#include <immintrin.h>
#include <string.h>

#define LEVEL(name) avx2_##name
#define LEVEL_NAME "avx2"
#define LEVEL_TABLE simd_avx2
enum { WIDTH = 32 };

static inline __m256i load(const void *at) {
    return _mm256_loadu_si256(at);
}

static inline __m256i all(char byte) {
    return _mm256_set1_epi8(byte);
}

static inline unsigned bits(__m256i bytes) {
    return (unsigned)_mm256_movemask_epi8(bytes);
}

/* How many bytes come before the first bit; WIDTH for none. */
static inline size_t before(unsigned mask) {
    return (size_t)_tzcnt_u32(mask);
}

static inline __m256i is_control(__m256i bytes) {
    return _mm256_cmpeq_epi8(_mm256_min_epu8(bytes, all(0x1F)), bytes);
}

static inline __m256i is_quote_or_slash(__m256i bytes) {
    return _mm256_or_si256(_mm256_cmpeq_epi8(bytes, all('"')), _mm256_cmpeq_epi8(bytes, all('\\')));
}

/* Signed, a byte above 0x7F is below 0x20 too. */
static inline __m256i is_special(__m256i bytes) {
    return _mm256_or_si256(is_quote_or_slash(bytes), _mm256_cmpgt_epi8(all(0x20), bytes));
}

static inline size_t ascii_prefix(const char *at) {
    return before(bits(is_special(load(at))));
}

static inline size_t plain_prefix(const char *at) {
    __m256i bytes = load(at);
    return before(bits(_mm256_or_si256(is_quote_or_slash(bytes), is_control(bytes))));
}

static inline size_t slash_prefix(const char *at) {
    return before(bits(_mm256_cmpeq_epi8(load(at), all('\\'))));
}

static inline size_t space_prefix(const char *at) {
    return before(~bits(_mm256_cmpeq_epi8(load(at), all(' '))));
}

static inline size_t same_prefix(const char *a, const char *b) {
    return before(~bits(_mm256_cmpeq_epi8(load(a), load(b))));
}

/* By the low nibble of each byte that is ASCII; 0 for others. */
static inline __m256i by_nibble(__m256i table, __m256i nibbles) {
    return _mm256_shuffle_epi8(table, nibbles);
}

#define TABLE(...) _mm256_broadcastsi128_si256(_mm_setr_epi8(__VA_ARGS__))

/* ---- 64 bytes as bit masks ---- */

#define BLOCKS
struct block {
    __m256i low, high;
};

static inline struct block block_load(const char *at) {
    return (struct block){load(at), load(at + 32)};
}

/* Fewer than 64; the others are spaces. */
static inline struct block block_load_part(const char *at, size_t length) {
    char padded[64];
    memset(padded, ' ', sizeof padded);
    memcpy(padded, at, length);
    return block_load(padded);
}

static inline uint64_t both(__m256i low, __m256i high) {
    return bits(low) | (uint64_t)bits(high) << 32;
}

static inline uint64_t block_equal(struct block block, char byte) {
    return both(_mm256_cmpeq_epi8(block.low, all(byte)), _mm256_cmpeq_epi8(block.high, all(byte)));
}

/* Below 0x20. */
static inline uint64_t block_control(struct block block) {
    return both(is_control(block.low), is_control(block.high));
}

/* Above 0x7F. */
static inline uint64_t block_high(struct block block) {
    return both(block.low, block.high);
}

static inline uint64_t block_digit(struct block block) {
    __m256i low = _mm256_xor_si256(block.low, all('0'));
    __m256i high = _mm256_xor_si256(block.high, all('0'));
    return both(_mm256_cmpeq_epi8(_mm256_min_epu8(low, all(9)), low),
                _mm256_cmpeq_epi8(_mm256_min_epu8(high, all(9)), high));
}

/* Letters that make an escape of two bytes: most of them, one for each low nibble. */
static inline uint64_t block_simple(struct block block) {
    const __m256i table = TABLE(0, 0, 'r', 0, 't', 0, 'f', 0, 0, 0, 0, 0, 0, 0, 'n', '/');
    return both(_mm256_cmpeq_epi8(by_nibble(table, block.low), block.low),
                _mm256_cmpeq_epi8(by_nibble(table, block.high), block.high));
}

static inline bool is_special_128(const char *at) {
    __m256i first = _mm256_or_si256(is_special(load(at)), is_special(load(at + 32)));
    __m256i second = _mm256_or_si256(is_special(load(at + 64)), is_special(load(at + 96)));
    return bits(_mm256_or_si256(first, second)) != 0;
}

/* ---- UTF-8 ---- */

struct utf8 {
    __m256i last;  /* the 32 bytes before */
    __m256i error; /* not zero where something was wrong */
};

static inline void utf8_vector(struct utf8 *utf8, __m256i bytes) {
    /* The bytes one, two and three places before each. */
    __m256i middle = _mm256_permute2x128_si256(utf8->last, bytes, 0x21);
    __m256i first = _mm256_alignr_epi8(bytes, middle, 15);
    __m256i second = _mm256_alignr_epi8(bytes, middle, 14);
    __m256i third = _mm256_alignr_epi8(bytes, middle, 13);
    const __m256i nibble = all(0x0F);
    __m256i wrong =
        by_nibble(TABLE(UTF8_HIGH), _mm256_and_si256(_mm256_srli_epi16(first, 4), nibble));
    wrong = _mm256_and_si256(wrong, by_nibble(TABLE(UTF8_LOW), _mm256_and_si256(first, nibble)));
    wrong = _mm256_and_si256(
        wrong, by_nibble(TABLE(UTF8_NEXT), _mm256_and_si256(_mm256_srli_epi16(bytes, 4), nibble)));
    /* Bit 7 where a third or fourth byte is due. */
    __m256i due = _mm256_or_si256(_mm256_subs_epu8(second, all((char)(0xE0 - 0x80))),
                                  _mm256_subs_epu8(third, all((char)(0xF0 - 0x80))));
    due = _mm256_and_si256(due, all((char)0x80));
    utf8->error = _mm256_or_si256(utf8->error, _mm256_xor_si256(wrong, due));
    utf8->last = bytes;
}

static inline void utf8_begin(struct utf8 *utf8) {
    utf8->last = utf8->error = _mm256_setzero_si256();
}

/* Whether the last bytes seen begin a sequence that they do not end. */
static inline bool utf8_is_open(const struct utf8 *utf8) {
    const __m256i most = _mm256_setr_epi8(-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
                                          -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
                                          -1, (char)0xEF, (char)0xDF, (char)0xBF);
    __m256i open = _mm256_subs_epu8(utf8->last, most);
    return !_mm256_testz_si256(open, open);
}

static inline void utf8_add(struct utf8 *utf8, struct block block) {
    utf8_vector(utf8, block.low);
    utf8_vector(utf8, block.high);
}

static inline bool utf8_is_bad(const struct utf8 *utf8) {
    return !_mm256_testz_si256(utf8->error, utf8->error);
}

/* ---- base64 ---- */

#include "base64.h"

/* 24 bytes in, 32 out, after Mula, "Base64 encoding with SIMD instructions" (2016): each group of
 * three bytes goes to a lane of four, two multiplications move its four times six bits to their
 * bytes, and what has to be added to make a digit of six bits depends on the range they are in. */
static inline __m256i base64_digits(__m256i bytes) {
    const __m256i spread = TABLE(1, 0, 2, 1, 4, 3, 5, 4, 7, 6, 8, 7, 10, 9, 11, 10);
    bytes = _mm256_shuffle_epi8(bytes, spread);
    __m256i even = _mm256_and_si256(bytes, _mm256_set1_epi32(0x0FC0FC00));
    __m256i odd = _mm256_and_si256(bytes, _mm256_set1_epi32(0x003F03F0));
    even = _mm256_mulhi_epu16(even, _mm256_set1_epi32(0x04000040));
    odd = _mm256_mullo_epi16(odd, _mm256_set1_epi32(0x01000010));
    __m256i sixes = _mm256_or_si256(even, odd);
    /* 0 for a to z, 1 to 12 for digits, '+' and '/', and 13 for A to Z. */
    __m256i range = _mm256_subs_epu8(sixes, all(51));
    __m256i upper = _mm256_cmpgt_epi8(all(26), sixes);
    range = _mm256_or_si256(range, _mm256_and_si256(upper, all(13)));
    const __m256i shifts =
        TABLE('a' - 26, '0' - 52, '0' - 52, '0' - 52, '0' - 52, '0' - 52, '0' - 52, '0' - 52,
              '0' - 52, '0' - 52, '0' - 52, '+' - 62, '/' - 63, 'A', 0, 0);
    return _mm256_add_epi8(sixes, _mm256_shuffle_epi8(shifts, range));
}

static size_t avx2_base64(char *to, const unsigned char *from, size_t length) {
    char *out = to;
    /* Two halves of 12 bytes; the second load reads 4 bytes beyond them. */
    for (; length >= 28; length -= 24, from += 24, out += 32) {
        __m256i bytes =
            _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const void *)from)),
                                    _mm_loadu_si128((const void *)(from + 12)), 1);
        _mm256_storeu_si256((void *)out, base64_digits(bytes));
    }
    return (size_t)(out - to) + base64_rest(out, from, length);
}

#include "json_scan.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
