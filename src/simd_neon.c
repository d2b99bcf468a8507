/* 64-bit ARM: 16 bytes at a time. */
#include "base64.h"
#include "json_utf8.h"
#include "simd_level.h"

#if defined(__aarch64__) && !defined(__AARCH64EB__)

#include <arm_neon.h>

#define LEVEL(name) neon_##name
#define LEVEL_NAME "neon"
#define LEVEL_TABLE simd_neon
enum { WIDTH = 16 };

static inline uint8x16_t load(const char *at) {
    return vld1q_u8((const unsigned char *)at);
}

static inline uint8x16_t all(char byte) {
    return vdupq_n_u8((unsigned char)byte);
}

/* How many bytes come before the first that is 0xFF and not 0; WIDTH for none. */
static inline size_t before(uint8x16_t hits) {
    /* Four bits of each byte, in one word. */
    uint64_t nibbles =
        vget_lane_u64(vreinterpret_u64_u8(vshrn_n_u16(vreinterpretq_u16_u8(hits), 4)), 0);
    return nibbles ? (size_t)__builtin_ctzll(nibbles) >> 2 : WIDTH;
}

static inline uint8x16_t is_quote_or_slash(uint8x16_t bytes) {
    return vorrq_u8(vceqq_u8(bytes, all('"')), vceqq_u8(bytes, all('\\')));
}

/* Signed, a byte above 0x7F is below 0x20 too. */
static inline uint8x16_t is_below_space(uint8x16_t bytes) {
    return vcltq_s8(vreinterpretq_s8_u8(bytes), vdupq_n_s8(0x20));
}

static inline uint8x16_t is_special(uint8x16_t bytes) {
    return vorrq_u8(is_quote_or_slash(bytes), is_below_space(bytes));
}

static inline size_t ascii_prefix(const char *at) {
    return before(is_special(load(at)));
}

static inline size_t plain_prefix(const char *at) {
    uint8x16_t bytes = load(at);
    return before(vorrq_u8(is_quote_or_slash(bytes), vcltq_u8(bytes, all(0x20))));
}

static inline size_t slash_prefix(const char *at) {
    return before(vceqq_u8(load(at), all('\\')));
}

static inline size_t space_prefix(const char *at) {
    return before(vmvnq_u8(vceqq_u8(load(at), all(' '))));
}

static inline size_t same_prefix(const char *a, const char *b) {
    return before(vmvnq_u8(vceqq_u8(load(a), load(b))));
}

/* ---- 64 bytes as bit masks ---- */

#define BLOCKS
struct block {
    uint8x16_t part[4];
};

static inline struct block block_load(const char *at) {
    return (struct block){{load(at), load(at + 16), load(at + 32), load(at + 48)}};
}

/* Fewer than 64; the others are spaces. */
static inline struct block block_load_part(const char *at, size_t length) {
    char padded[64];
    memset(padded, ' ', sizeof padded);
    memcpy(padded, at, length);
    return block_load(padded);
}

/* One bit for each byte of all ones, the first in the lowest: every byte keeps the bit of its place
 * in eight, and adding neighbours three times makes eight bytes one. */
static inline uint64_t bits(uint8x16_t a, uint8x16_t b, uint8x16_t c, uint8x16_t d) {
    const uint8x16_t place = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    uint8x16_t low = vpaddq_u8(vandq_u8(a, place), vandq_u8(b, place));
    uint8x16_t high = vpaddq_u8(vandq_u8(c, place), vandq_u8(d, place));
    uint8x16_t sums = vpaddq_u8(low, high);
    sums = vpaddq_u8(sums, sums);
    return vgetq_lane_u64(vreinterpretq_u64_u8(sums), 0);
}

#define EACH(of) bits(of(0), of(1), of(2), of(3))

static inline uint64_t block_equal(struct block block, char byte) {
#define IS_EQUAL(i) vceqq_u8(block.part[i], all(byte))
    return EACH(IS_EQUAL);
#undef IS_EQUAL
}

/* Below 0x20. */
static inline uint64_t block_control(struct block block) {
#define IS_CONTROL(i) vcltq_u8(block.part[i], all(0x20))
    return EACH(IS_CONTROL);
#undef IS_CONTROL
}

/* Above 0x7F. */
static inline uint64_t block_high(struct block block) {
#define IS_HIGH(i) vcgeq_u8(block.part[i], all((char)0x80))
    return EACH(IS_HIGH);
#undef IS_HIGH
}

static inline uint64_t block_digit(struct block block) {
#define IS_DIGIT(i) vcltq_u8(veorq_u8(block.part[i], all('0')), all(10))
    return EACH(IS_DIGIT);
#undef IS_DIGIT
}

/* Letters that make an escape of two bytes: most of them, one for each low nibble. */
static inline uint64_t block_simple(struct block block) {
    const uint8x16_t table = {0, 0, 'r', 0, 't', 0, 'f', 0, 0, 0, 0, 0, 0, 0, 'n', '/'};
#define IS_SIMPLE(i) vceqq_u8(vqtbl1q_u8(table, vandq_u8(block.part[i], all(0x0F))), block.part[i])
    return EACH(IS_SIMPLE);
#undef IS_SIMPLE
}

static inline bool is_special_128(const char *at) {
    uint8x16_t hits = is_special(load(at));
    for (int i = 16; i < 128; i += 16) hits = vorrq_u8(hits, is_special(load(at + i)));
    return vmaxvq_u8(hits) != 0;
}

/* ---- UTF-8 ---- */

struct utf8 {
    uint8x16_t last;  /* the 16 bytes before */
    uint8x16_t error; /* not zero where something was wrong */
};

static inline void utf8_vector(struct utf8 *utf8, uint8x16_t bytes) {
    static const char high[16] = {UTF8_HIGH}, low[16] = {UTF8_LOW}, next[16] = {UTF8_NEXT};
    /* The bytes one, two and three places before each. */
    uint8x16_t first = vextq_u8(utf8->last, bytes, 15);
    uint8x16_t second = vextq_u8(utf8->last, bytes, 14);
    uint8x16_t third = vextq_u8(utf8->last, bytes, 13);
    uint8x16_t wrong = vqtbl1q_u8(load(high), vshrq_n_u8(first, 4));
    wrong = vandq_u8(wrong, vqtbl1q_u8(load(low), vandq_u8(first, all(0x0F))));
    wrong = vandq_u8(wrong, vqtbl1q_u8(load(next), vshrq_n_u8(bytes, 4)));
    /* Bit 7 where a third or fourth byte is due. */
    uint8x16_t due = vorrq_u8(vcgeq_u8(second, all((char)0xE0)), vcgeq_u8(third, all((char)0xF0)));
    due = vandq_u8(due, all((char)0x80));
    utf8->error = vorrq_u8(utf8->error, veorq_u8(wrong, due));
    utf8->last = bytes;
}

static inline void utf8_begin(struct utf8 *utf8) {
    utf8->last = utf8->error = vdupq_n_u8(0);
}

/* Whether the last bytes seen begin a sequence that they do not end. */
static inline bool utf8_is_open(const struct utf8 *utf8) {
    return vgetq_lane_u8(utf8->last, 15) >= 0xC0 || vgetq_lane_u8(utf8->last, 14) >= 0xE0 ||
           vgetq_lane_u8(utf8->last, 13) >= 0xF0;
}

static inline void utf8_add(struct utf8 *utf8, struct block block) {
    for (int i = 0; i < 4; i++) utf8_vector(utf8, block.part[i]);
}

static inline bool utf8_is_bad(const struct utf8 *utf8) {
    return vmaxvq_u8(utf8->error) != 0;
}

/* ---- base64 ---- */

/* 48 bytes in, 64 out: the load takes them apart by threes, and the digits of six bits come from a
 * table of 64 bytes. */
static size_t neon_base64(char *to, const unsigned char *from, size_t length) {
    static const char digits64[64] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    struct block table = block_load(digits64);
    uint8x16x4_t digits = {{table.part[0], table.part[1], table.part[2], table.part[3]}};
    const uint8x16_t six = all(0x3F);
    char *out = to;
    for (; length >= 48; length -= 48, from += 48, out += 64) {
        uint8x16x3_t in = vld3q_u8(from);
        uint8x16x4_t sixes;
        sixes.val[0] = vshrq_n_u8(in.val[0], 2);
        sixes.val[1] = vandq_u8(vsliq_n_u8(vshrq_n_u8(in.val[1], 4), in.val[0], 4), six);
        sixes.val[2] = vandq_u8(vsliq_n_u8(vshrq_n_u8(in.val[2], 6), in.val[1], 2), six);
        sixes.val[3] = vandq_u8(in.val[2], six);
        for (int i = 0; i < 4; i++) sixes.val[i] = vqtbl4q_u8(digits, sixes.val[i]);
        vst4q_u8((unsigned char *)out, sixes);
    }
    return (size_t)(out - to) + base64_rest(out, from, length);
}

#include "json_scan.h"

#endif
