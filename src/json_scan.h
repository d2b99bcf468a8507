/* The scanner behind json.h, compiled once for each level: simd_<level>.c includes it after it has
 * defined, for its processor,
 *
 * - LEVEL(name): the name with that of the level
 * - WIDTH: how many bytes the following look at, each of which returns WIDTH when all are such
 * bytes
 * - same_prefix: leading bytes that two places have in common
 * - ascii_prefix: leading bytes that are ASCII and stand for themselves in a string
 * - slash_prefix: leading bytes that are no backslash
 * - space_prefix: leading spaces
 *
 * and, with BLOCKS, 64 bytes as bit masks and UTF-8 in vectors. Nothing reads outside the text. */
#include "json.h"
#include "json_utf8.h"
#include "simd_level.h"

#include <float.h>
#include <string.h>

/* What comes next in a text; json_open begins with the first. */
enum { VALUE, MEMBER_VALUE, FIRST_KEY, NEXT_KEY, FIRST_ITEM, NEXT_ITEM, END, FAILED };

/* ---- bytes ---- */

/* How many decimal digits are at `at`. */
static inline size_t digits(const char *at, const char *end) {
    const char *from = at;
    while (end - at >= 8) {
        /* In each byte: 0 to 9 for a digit. What is more sets the top bit, by itself or when 0x76
         * is added; a carry only reaches what comes after. */
        uint64_t word = load_8(at) ^ 0x3030303030303030u;
        uint64_t others = ((word + 0x7676767676767676u) | word) & 0x8080808080808080u;
        if (others) return (size_t)(at - from) + ((size_t)__builtin_ctzll(others) >> 3);
        at += 8;
    }
    while (at < end && *at >= '0' && *at <= '9') at++;
    return (size_t)(at - from);
}

/* By character: what it is worth as a hex digit, plus one, or 0. */
static const unsigned char hex_digits[256] = {
    ['0'] = 1,  ['1'] = 2,  ['2'] = 3,  ['3'] = 4,  ['4'] = 5,  ['5'] = 6,  ['6'] = 7,  ['7'] = 8,
    ['8'] = 9,  ['9'] = 10, ['A'] = 11, ['B'] = 12, ['C'] = 13, ['D'] = 14, ['E'] = 15, ['F'] = 16,
    ['a'] = 11, ['b'] = 12, ['c'] = 13, ['d'] = 14, ['e'] = 15, ['f'] = 16,
};

/* The four hex digits at `at`, or -1. Digits and letters come as they like, so no branch tells them
 * apart. */
static inline int hex4(const char *at, const char *end) {
    if (end - at < 4) return -1;
    const unsigned char *bytes = (const unsigned char *)at;
    int a = hex_digits[bytes[0]] - 1, b = hex_digits[bytes[1]] - 1;
    int c = hex_digits[bytes[2]] - 1, d = hex_digits[bytes[3]] - 1;
    if ((a | b | c | d) < 0) return -1;
    return a << 12 | b << 8 | c << 4 | d;
}

static bool is_high(int code) {
    return code >= 0xD800 && code <= 0xDBFF;
}

static bool is_low(int code) {
    return code >= 0xDC00 && code <= 0xDFFF;
}

/* ---- tokens ---- */

static enum json_type fail(struct json_reader *reader, const char *at, const char *message) {
    /* Every complaint about something missing is the same complaint when the text is over. */
    reader->error.message = at < reader->end ? message : "unexpected end of the text";
    reader->error.offset = (size_t)(at - reader->text);
    reader->expects = FAILED;
    return JSON_ERROR;
}

static bool is_white(char byte) {
    return byte == ' ' || byte == '\n' || byte == '\r' || byte == '\t';
}

static const char *skip_white_run(const char *at, const char *end) {
    while (at < end && is_white(*at)) {
        at++;
        /* Indentation. */
        while (end - at >= WIDTH) {
            size_t spaces = space_prefix(at);
            at += spaces;
            if (spaces < WIDTH) break;
        }
    }
    return at;
}

static inline const char *skip_space(const char *at, const char *end) {
    if (at < end && *at == ' ') at++; /* most often it is one space or nothing */
    return at == end || (unsigned char)*at > ' ' ? at : skip_white_run(at, end);
}

/* Reads an escape at the backslash; returns the byte after it, or NULL after fail(). */
static __attribute__((noinline)) const char *read_escape(struct json_reader *reader,
                                                         const char *at) {
    const char *end = reader->end;
    if (at + 1 == end) return fail(reader, end, ""), NULL;
    if (at[1] != 'u') {
        if (at[1] && strchr("\"\\/bfnrt", at[1])) return at + 2;
        return fail(reader, at, "invalid escape"), NULL;
    }
    int code = hex4(at + 2, end);
    if (code < 0) return fail(reader, at, "invalid \\u escape"), NULL;
    if (is_high(code) && end - at >= 8 && at[6] == '\\' && at[7] == 'u' &&
        is_low(hex4(at + 8, end)))
        return at + 12;
    if ((is_high(code) || is_low(code)) && !reader->lone) reader->lone = at;
    return at + 6;
}

/* From `at` in a string to its closing quote, one character after the other; NULL after fail(). */
static __attribute__((noinline)) const char *walk_string(struct json_reader *reader, const char *at,
                                                         bool *escaped) {
    const char *end = reader->end;
    for (;;) {
        while (end - at >= WIDTH) {
            size_t plain = ascii_prefix(at);
            at += plain;
            if (plain < WIDTH) break;
        }
        while (at < end && (unsigned char)*at >= 0x20 && (unsigned char)*at < 0x80 && *at != '"' &&
               *at != '\\')
            at++;
        if (at == end) return fail(reader, at, ""), NULL;
        if (*at == '"') return at;
        if (*at == '\\') {
            *escaped = true;
            at = read_escape(reader, at);
            if (!at) return NULL;
        } else if ((unsigned char)*at < 0x20) {
            return fail(reader, at, "control character in a string (must be escaped)"), NULL;
        } else {
            /* Text in other scripts comes in runs. */
            do {
                int step = utf8_length(at, end);
                if (step == 0) return fail(reader, at, "invalid UTF-8"), NULL;
                at += step;
            } while (at < end && (unsigned char)*at >= 0x80);
        }
    }
}

#ifdef BLOCKS
/* Which of 64 bytes come after an odd number of backslashes. *carry is 1 when the first one does
 * because of the bytes before, and then when the first one of the next 64 does. */
static inline uint64_t after_slash(uint64_t slashes, uint64_t *carry) {
    const uint64_t odd = 0xAAAAAAAAAAAAAAAAu;
    uint64_t starts = slashes & ~*carry; /* the first one is escaped, and begins nothing */
    /* Taken away from ones at the odd places and behind the backslashes, each run changes what is
     * at its end according to where it begins; what differs from the odd places then are the
     * backslashes that escape, and what the last one of a run escapes. */
    uint64_t escapes = ((starts << 1 | odd) - starts) ^ odd;
    uint64_t after = escapes ^ (slashes | *carry);
    *carry = (escapes & slashes) >> 63;
    return after;
}

/* Where a string is read 64 bytes at a time. */
struct leap {
    const char *at;
    const char *read; /* escapes before this have been read */
    uint64_t carry;   /* as after_slash has it */
    uint64_t slashes; /* not 0 when there were some */
    uint64_t wrong;   /* not 0 when there were control characters */
};

/* The escapes of these 64 bytes, of which `others` are more than two letters. */
static inline bool read_escapes(struct json_reader *reader, struct leap *leap, uint64_t others) {
    for (; others; others &= others - 1) {
        const char *slash = leap->at + __builtin_ctzll(others) - 1;
        if (slash < leap->read) continue; /* the second half of a pair */
        int code = reader->end - slash >= 6 && slash[1] == 'u' ? hex4(slash + 2, reader->end) : -1;
        if (code >= 0 && (code & 0xF800) != 0xD800) continue;
        leap->read = read_escape(reader, slash);
        if (!leap->read) return false;
    }
    return true;
}

/* From leap->at to the closing quote, or NULL: without `text`, there may be more than ASCII at
 * leap->at; with it, something is wrong. */
static inline __attribute__((always_inline)) const char *leap_on(struct json_reader *reader,
                                                                 struct leap *state, bool text) {
    const char *end = reader->end;
    struct leap leap = *state;
    struct utf8 utf8;
    utf8_begin(&utf8);
    while (leap.at < end) {
        struct block block = end - leap.at >= 64
                                 ? block_load(leap.at)
                                 : block_load_part(leap.at, (size_t)(end - leap.at));
        uint64_t high = block_high(block);
        if (!text && high) break;
        if (text) utf8_add(&utf8, block);
        uint64_t slashes = block_equal(block, '\\'), quotes = block_equal(block, '"');
        uint64_t control = block_control(block);
        uint64_t after = after_slash(slashes, &leap.carry);
        uint64_t close = quotes & ~after;
        uint64_t inside = close ^ (close - 1); /* all up to the first, or all */
        leap.wrong |= control & inside;
        leap.slashes |= slashes & inside;
        uint64_t others = after & inside & ~(slashes | quotes | block_simple(block));
        if (others && !read_escapes(reader, &leap, others)) return NULL;
        if (close) {
            if (leap.wrong || (text && utf8_is_bad(&utf8))) return NULL;
            *state = leap;
            return leap.at + __builtin_ctzll(close);
        }
        leap.at += 64;
        if (text || slashes | control | leap.carry) continue;
        while (end - leap.at >= 128 && !is_special_128(leap.at)) leap.at += 128;
    }
    *state = leap;
    return NULL;
}

/* The same as walk_string, 64 bytes at a time; NULL, and no fail(), as soon as something is wrong,
 * or the text is over: the slow way then finds out what and where. Most strings are all ASCII, or
 * not so now and then: UTF-8 is looked at from where it first occurs to the end. */
static __attribute__((noinline)) const char *leap_string(struct json_reader *reader, const char *at,
                                                         bool *escaped) {
    struct leap leap = {.at = at, .read = at};
    const char *lone = reader->lone;
    const char *close = leap_on(reader, &leap, false);
    if (!close && leap.at < reader->end) close = leap_on(reader, &leap, true);
    if (!close) reader->lone = lone;
    if (leap.slashes) *escaped = true;
    return close;
}
#endif

/* Reads the string whose opening quote is at reader->at. */
static inline bool read_string(struct json_reader *reader, struct json_value *value) {
    const char *from = reader->at, *at = from + 1, *close = NULL;
    for (int i = 0; i < 2 && reader->end - at >= WIDTH; i++) {
        size_t plain = ascii_prefix(at);
        at += plain;
        if (plain == WIDTH) continue;
        if (*at == '"') close = at;
        break;
    }
#ifdef BLOCKS
    if (!close) close = leap_string(reader, at, &value->escaped);
#endif
    if (!close) close = walk_string(reader, at, &value->escaped);
    if (!close) return false;
    value->at = from;
    value->length = (size_t)(close + 1 - from);
    reader->at = close + 1;
    return true;
}

static bool read_number(struct json_reader *reader) {
    const char *at = reader->at, *end = reader->end;
    if (*at == '-') at++;
    size_t count = digits(at, end);
    if (count == 0) return fail(reader, at, "expected a digit"), false;
    if (*at == '0' && count > 1) return fail(reader, at + 1, "a number cannot begin with 0"), false;
    at += count;
    if (at < end && *at == '.') {
        at++;
        count = digits(at, end);
        if (count == 0) return fail(reader, at, "expected a digit"), false;
        at += count;
    }
    if (at < end && (*at == 'e' || *at == 'E')) {
        at++;
        if (at < end && (*at == '+' || *at == '-')) at++;
        count = digits(at, end);
        if (count == 0) return fail(reader, at, "expected a digit"), false;
        at += count;
    }
    reader->at = at;
    return true;
}

static bool read_word(struct json_reader *reader, const char *word, size_t length) {
    if ((size_t)(reader->end - reader->at) < length || memcmp(reader->at, word, length) != 0)
        return fail(reader, reader->at, "expected a value"), false;
    reader->at += length;
    return true;
}

static enum json_type open_container(struct json_reader *reader, enum json_type type) {
    if (reader->depth == JSON_DEPTH) return fail(reader, reader->at, "nested too deep");
    int level = reader->depth++;
    uint64_t bit = (uint64_t)1 << (level % 64);
    if (type == JSON_OBJECT) {
        reader->objects[level / 64] |= bit;
        reader->expects = FIRST_KEY;
    } else {
        reader->objects[level / 64] &= ~bit;
        reader->expects = FIRST_ITEM;
    }
    reader->at++;
    return type;
}

static enum json_type close_container(struct json_reader *reader, struct json_value *value) {
    *value = (struct json_value){JSON_CLOSE, false, reader->at++, 1};
    int level = --reader->depth - 1; /* of the one around it */
    reader->expects = level < 0                                         ? END
                      : reader->objects[level / 64] >> (level % 64) & 1 ? NEXT_KEY
                                                                        : NEXT_ITEM;
    return JSON_CLOSE;
}

static enum json_type no_value(struct json_reader *reader) {
    if (reader->end - reader->at >= 3 && memcmp(reader->at, "\xEF\xBB\xBF", 3) == 0)
        return fail(reader, reader->at, "byte order mark");
    return fail(reader, reader->at, "expected a value");
}

/* Reads the value at reader->at, after which comes what `then` says, if it is no container. */
static inline enum json_type read_value(struct json_reader *reader, struct json_value *value,
                                        int then) {
    const char *at = reader->at;
    value->at = at;
    value->escaped = false;
    switch (*at) {
    case '{':
        value->length = 1;
        return open_container(reader, JSON_OBJECT);
    case '[':
        value->length = 1;
        return open_container(reader, JSON_ARRAY);
    case '"':
        if (!read_string(reader, value)) return JSON_ERROR;
        reader->expects = then;
        return JSON_STRING;
    case 't':
        value->type = JSON_TRUE;
        if (!read_word(reader, "true", 4)) return JSON_ERROR;
        break;
    case 'f':
        value->type = JSON_FALSE;
        if (!read_word(reader, "false", 5)) return JSON_ERROR;
        break;
    case 'n':
        value->type = JSON_NULL;
        if (!read_word(reader, "null", 4)) return JSON_ERROR;
        break;
    case '-':
    case '0':
    case '1':
    case '2':
    case '3':
    case '4':
    case '5':
    case '6':
    case '7':
    case '8':
    case '9':
        value->type = JSON_NUMBER;
        if (!read_number(reader)) return JSON_ERROR;
        break;
    default:
        return no_value(reader);
    }
    value->length = (size_t)(reader->at - at);
    reader->expects = then;
    return value->type;
}

static inline enum json_type read_key(struct json_reader *reader, struct json_value *value,
                                      const char *complaint) {
    value->escaped = false;
    if (reader->at == reader->end || *reader->at != '"') return fail(reader, reader->at, complaint);
    if (!read_string(reader, value)) return JSON_ERROR;
    reader->at = skip_space(reader->at, reader->end);
    if (reader->at == reader->end || *reader->at != ':')
        return fail(reader, reader->at, "expected ':'");
    reader->at++;
    reader->expects = MEMBER_VALUE;
    return JSON_KEY;
}

static inline enum json_type next_token(struct json_reader *reader, struct json_value *value) {
    reader->at = skip_space(reader->at, reader->end);
    char next = reader->at < reader->end ? *reader->at : '\0';
    int then = NEXT_ITEM;
    switch (reader->expects) {
    case MEMBER_VALUE:
        then = NEXT_KEY;
        break;
    case NEXT_KEY:
        if (next == '}') return close_container(reader, value);
        if (next != ',') return fail(reader, reader->at, "expected ',' or '}'");
        reader->at = skip_space(reader->at + 1, reader->end);
        return read_key(reader, value, "expected a key");
    case FIRST_KEY:
        if (next == '}') return close_container(reader, value);
        return read_key(reader, value, "expected a key or '}'");
    case NEXT_ITEM:
        if (next == ']') return close_container(reader, value);
        if (next != ',') return fail(reader, reader->at, "expected ',' or ']'");
        reader->at = skip_space(reader->at + 1, reader->end);
        break;
    case FIRST_ITEM:
        if (next == ']') return close_container(reader, value);
        break;
    case VALUE:
        then = END;
        break;
    case END:
        if (reader->at < reader->end) return fail(reader, reader->at, "text after the value");
        return JSON_ABSENT;
    default:
        return JSON_ERROR;
    }
    if (reader->at == reader->end) return fail(reader, reader->at, "");
    return read_value(reader, value, then);
}

static inline enum json_type LEVEL(next)(struct json_reader *reader, struct json_value *value) {
    enum json_type type = next_token(reader, value);
    if (type <= JSON_ERROR) *value = (struct json_value){.type = type};
    return value->type = type;
}

/* ---- whole texts ---- */

static bool LEVEL(check)(const char *text, size_t length, bool decodable,
                         struct json_error *error) {
    struct json_reader reader;
    struct json_value value;
    json_open(&reader, text, length);
    while (LEVEL(next)(&reader, &value) > JSON_ERROR) {
        if (decodable && reader.lone) {
            error->message = "lone surrogate";
            error->offset = (size_t)(reader.lone - text);
            return false;
        }
    }
    *error = reader.error;
    return !error->message;
}

#include "json_strings.h"

#include "json_inner.h"

#include "json_quoted.h"

#include "json_plan.h"

/* ---- other kernels ---- */

/* A plain prefix of as many bytes as the text may have. */
static size_t LEVEL(json_plain)(const char *bytes, size_t length) {
    const char *at = bytes, *end = bytes + length;
    while (end - at >= WIDTH) {
        size_t plain = plain_prefix(at);
        at += plain;
        if (plain < WIDTH) return (size_t)(at - bytes);
    }
    while (at < end && (unsigned char)*at >= 0x20 && *at != '"' && *at != '\\') at++;
    return (size_t)(at - bytes);
}

static size_t LEVEL(utf8_prefix)(const char *bytes, size_t length) {
    const char *at = bytes, *end = bytes + length;
#ifdef BLOCKS
    struct utf8 utf8;
    utf8_begin(&utf8);
    const char *sure = at; /* everything before this is valid, and ends a character */
    for (; end - at >= 64; at += 64) {
        struct block block = block_load(at);
        bool ascii = block_high(block) == 0;
        if (ascii && sure == at) {
            sure += 64;
            continue;
        }
        utf8_add(&utf8, block);
        if (utf8_is_bad(&utf8)) break;
        if (!utf8_is_open(&utf8)) sure = at + 64;
    }
    at = sure;
#endif
    while (at < end) {
        int step = (unsigned char)*at < 0x80 ? 1 : utf8_length(at, end);
        if (step == 0) break;
        at += step;
    }
    return (size_t)(at - bytes);
}

const struct simd_level LEVEL_TABLE = {
    .name = LEVEL_NAME,
    .base64 = LEVEL(base64),
    .json_plain = LEVEL(json_plain),
    .utf8_prefix = LEVEL(utf8_prefix),
    .next = LEVEL(next),
    .check = LEVEL(check),
    .find = LEVEL(find),
    .unescape = LEVEL(unescape),
    .inner = LEVEL(inner),
    .quoted = LEVEL(quoted),
};
