#include "json.h"

#include <string.h>

/* What json_next may meet next. */
enum { VALUE, FIRST_VALUE, KEY, FIRST_KEY, COMMA, END };

/* ---- bytes ---- */

/* Eight bytes at a time: a bit is set for every byte that is below 0x20, above 0x7F, '"' or '\'.
 * (Borrows may set bits of bytes above the first hit, never below it.) */
static uint64_t special_bytes(const char *at) {
    const uint64_t ones = 0x0101010101010101u, tops = 0x8080808080808080u;
    uint64_t word;
    memcpy(&word, at, 8);
    uint64_t quote = word ^ (ones * '"'), slash = word ^ (ones * '\\');
    return ((word - ones * 0x20) | (quote - ones) | (slash - ones) | word) & tops;
}

/* The length of the valid UTF-8 sequence at a byte above 0x7F, or 0. Unicode, table 3-7: no
 * overlong forms, no surrogates, nothing above U+10FFFF. */
static int utf8_length(const char *text, const char *end) {
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

size_t json_utf8_prefix(const char *bytes, size_t length) {
    const char *at = bytes, *end = bytes + length;
    while (at < end) {
        int step = (unsigned char)*at < 0x80 ? 1 : utf8_length(at, end);
        if (step == 0) break;
        at += step;
    }
    return (size_t)(at - bytes);
}

static bool is_digit(const char *at, const char *end) {
    return at < end && *at >= '0' && *at <= '9';
}

/* The four hex digits at `at`, or -1. */
static int hex4(const char *at, const char *end) {
    if (end - at < 4) return -1;
    int code = 0;
    for (int i = 0; i < 4; i++) {
        char c = at[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0) return -1;
        code = code << 4 | digit;
    }
    return code;
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
    reader->expects = END;
    return JSON_ERROR;
}

void json_open(struct json_reader *reader, const char *text, size_t length) {
    *reader = (struct json_reader){.text = text, .at = text, .end = text + length};
    reader->expects = VALUE;
}

static void skip_space(struct json_reader *reader) {
    const char *at = reader->at;
    while (at < reader->end && (*at == ' ' || *at == '\n' || *at == '\r' || *at == '\t')) at++;
    reader->at = at;
}

/* Reads an escape at the backslash; returns the byte after it, or NULL after fail(). */
static const char *read_escape(struct json_reader *reader, const char *at) {
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

/* Reads the string whose opening quote is at reader->at. */
static bool read_string(struct json_reader *reader, struct json_value *value) {
    const char *at = reader->at + 1, *end = reader->end;
    for (;;) {
        while (end - at >= 8) {
            uint64_t special = special_bytes(at);
            if (special) break;
            at += 8;
        }
        while (at < end && (unsigned char)*at >= 0x20 && (unsigned char)*at < 0x80 && *at != '"' &&
               *at != '\\')
            at++;
        if (at == end) return fail(reader, at, ""), false;
        if (*at == '"') break;
        if (*at == '\\') {
            value->escaped = true;
            at = read_escape(reader, at);
            if (!at) return false;
        } else if ((unsigned char)*at < 0x20) {
            return fail(reader, at, "control character in a string (must be escaped)"), false;
        } else {
            /* Text in other scripts comes in runs. */
            do {
                int step = utf8_length(at, end);
                if (step == 0) return fail(reader, at, "invalid UTF-8"), false;
                at += step;
            } while (at < end && (unsigned char)*at >= 0x80);
        }
    }
    value->at = reader->at;
    value->length = (size_t)(at + 1 - reader->at);
    reader->at = at + 1;
    return true;
}

static bool read_number(struct json_reader *reader) {
    const char *at = reader->at, *end = reader->end;
    if (*at == '-') at++;
    if (!is_digit(at, end)) return fail(reader, at, "expected a digit"), false;
    if (*at == '0') {
        at++;
        if (is_digit(at, end)) return fail(reader, at, "a number cannot begin with 0"), false;
    }
    while (is_digit(at, end)) at++;
    if (at < end && *at == '.') {
        at++;
        if (!is_digit(at, end)) return fail(reader, at, "expected a digit"), false;
        while (is_digit(at, end)) at++;
    }
    if (at < end && (*at == 'e' || *at == 'E')) {
        at++;
        if (at < end && (*at == '+' || *at == '-')) at++;
        if (!is_digit(at, end)) return fail(reader, at, "expected a digit"), false;
        while (is_digit(at, end)) at++;
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

static bool in_object(const struct json_reader *reader) {
    int level = reader->depth - 1;
    return reader->objects[level / 64] >> (level % 64) & 1;
}

static void after_value(struct json_reader *reader) {
    reader->expects = reader->depth ? COMMA : END;
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
        reader->expects = FIRST_VALUE;
    }
    reader->at++;
    return type;
}

static enum json_type read_value(struct json_reader *reader, struct json_value *value) {
    bool good;
    value->at = reader->at;
    switch (*reader->at) {
    case '{':
        value->length = 1;
        return value->type = open_container(reader, JSON_OBJECT);
    case '[':
        value->length = 1;
        return value->type = open_container(reader, JSON_ARRAY);
    case '"':
        value->type = JSON_STRING;
        good = read_string(reader, value);
        break;
    case 't':
        value->type = JSON_TRUE;
        good = read_word(reader, "true", 4);
        break;
    case 'f':
        value->type = JSON_FALSE;
        good = read_word(reader, "false", 5);
        break;
    case 'n':
        value->type = JSON_NULL;
        good = read_word(reader, "null", 4);
        break;
    case '\xEF':
        if (reader->end - reader->at >= 3 && memcmp(reader->at, "\xEF\xBB\xBF", 3) == 0)
            return fail(reader, reader->at, "byte order mark");
        return fail(reader, reader->at, "expected a value");
    default:
        if (*reader->at != '-' && !is_digit(reader->at, reader->end))
            return fail(reader, reader->at, "expected a value");
        value->type = JSON_NUMBER;
        good = read_number(reader);
    }
    if (!good) return JSON_ERROR;
    value->length = (size_t)(reader->at - value->at);
    after_value(reader);
    return value->type;
}

static enum json_type read_key(struct json_reader *reader, struct json_value *value) {
    if (reader->at == reader->end || *reader->at != '"')
        return fail(reader, reader->at,
                    reader->expects == FIRST_KEY ? "expected a key or '}'" : "expected a key");
    if (!read_string(reader, value)) return JSON_ERROR;
    skip_space(reader);
    if (reader->at == reader->end || *reader->at != ':')
        return fail(reader, reader->at, "expected ':'");
    reader->at++;
    reader->expects = VALUE;
    return value->type = JSON_KEY;
}

static enum json_type close_container(struct json_reader *reader, struct json_value *value) {
    value->at = reader->at++;
    value->length = 1;
    reader->depth--;
    after_value(reader);
    return value->type = JSON_CLOSE;
}

enum json_type json_next(struct json_reader *reader, struct json_value *value) {
    *value = (struct json_value){.type = JSON_ERROR};
    if (reader->error.message) return JSON_ERROR;
    skip_space(reader);
    char next = reader->at < reader->end ? *reader->at : '\0';
    switch (reader->expects) {
    case END:
        if (reader->at < reader->end) return fail(reader, reader->at, "text after the value");
        return value->type = JSON_ABSENT;
    case COMMA: {
        bool object = in_object(reader);
        if (next == (object ? '}' : ']')) return close_container(reader, value);
        if (next != ',')
            return fail(reader, reader->at, object ? "expected ',' or '}'" : "expected ',' or ']'");
        reader->at++;
        skip_space(reader);
        if (object) {
            reader->expects = KEY;
            return value->type = read_key(reader, value);
        }
        break;
    }
    case FIRST_KEY:
        if (next == '}') return close_container(reader, value);
        return value->type = read_key(reader, value);
    case FIRST_VALUE:
        if (next == ']') return close_container(reader, value);
        break;
    default:
        break;
    }
    if (reader->at == reader->end) return fail(reader, reader->at, "");
    return value->type = read_value(reader, value);
}

/* ---- whole texts ---- */

bool json_check(const char *text, size_t length, bool decodable, struct json_error *error) {
    struct json_reader reader;
    struct json_value value;
    json_open(&reader, text, length);
    while (json_next(&reader, &value) > JSON_ERROR) {
        if (decodable && reader.lone) {
            error->message = "lone surrogate";
            error->offset = (size_t)(reader.lone - text);
            return false;
        }
    }
    *error = reader.error;
    return !error->message;
}

size_t json_pointer_nodes(const char *pointer, size_t length) {
    size_t nodes = 1;
    if (length > 0 && pointer[0] != '/') return 0;
    for (size_t i = 0; i < length; i++) {
        if (pointer[i] == '/') nodes++;
        if (pointer[i] == '~' &&
            (i + 1 == length || (pointer[i + 1] != '0' && pointer[i + 1] != '1')))
            return 0;
    }
    return nodes <= JSON_DEPTH + 1 ? nodes : 0;
}

/* RFC 6901, section 4: digits without a leading zero. */
static size_t array_index(const char *token, size_t length) {
    size_t index = 0;
    if (length == 0 || length > 18 || (token[0] == '0' && length > 1)) return SIZE_MAX;
    for (size_t i = 0; i < length; i++) {
        if (token[i] < '0' || token[i] > '9') return SIZE_MAX;
        index = index * 10 + (size_t)(token[i] - '0');
    }
    return index;
}

static uint32_t add_node(struct json_plan *plan, const char *token, size_t length) {
    struct json_node *node = &plan->nodes[plan->count];
    *node = (struct json_node){.token = token, .length = length};
    node->index = array_index(token, length);
    return plan->count++;
}

uint32_t json_plan_add(struct json_plan *plan, const char *pointer, size_t length) {
    const char *at = pointer, *end = pointer + length;
    uint32_t here = 0;
    if (plan->count == 0) add_node(plan, "", 0);
    while (at < end) {
        const char *token = at + 1;
        const char *slash = memchr(token, '/', (size_t)(end - token));
        at = slash ? slash : end;
        size_t size = (size_t)(at - token);
        uint32_t *link = &plan->nodes[here].child;
        while (*link && (plan->nodes[*link].length != size ||
                         memcmp(plan->nodes[*link].token, token, size) != 0))
            link = &plan->nodes[*link].sibling;
        here = *link ? *link : (*link = add_node(plan, token, size));
    }
    return here;
}

/* Decodes what is at *at in a checked string: one escape, or else one byte. Returns its length in
 * UTF-8, or 0 for a lone surrogate. */
static int read_character(const char **at, const char *end, char out[4]) {
    const char *from = *at;
    if (*from != '\\') {
        out[0] = *from;
        *at = from + 1;
        return 1;
    }
    *at = from + 2;
    switch (from[1]) {
    case 'b':
        out[0] = '\b';
        return 1;
    case 'f':
        out[0] = '\f';
        return 1;
    case 'n':
        out[0] = '\n';
        return 1;
    case 'r':
        out[0] = '\r';
        return 1;
    case 't':
        out[0] = '\t';
        return 1;
    case 'u':
        break;
    default:
        out[0] = from[1];
        return 1;
    }
    uint32_t code = (uint32_t)hex4(from + 2, end);
    *at = from + 6;
    if (is_low((int)code)) return 0;
    if (is_high((int)code)) {
        int low = end - from >= 12 && from[6] == '\\' && from[7] == 'u' ? hex4(from + 8, end) : -1;
        if (!is_low(low)) return 0;
        code = 0x10000 + ((code - 0xD800) << 10) + (uint32_t)(low - 0xDC00);
        *at = from + 12;
    }
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    int length = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (int i = length - 1; i > 0; i--, code >>= 6) out[i] = (char)(0x80 | (code & 0x3F));
    out[0] = (char)((length == 2 ? 0xC0 : length == 3 ? 0xE0 : 0xF0) | code);
    return length;
}

bool json_unescape(const struct json_value *value, char *out, size_t *size) {
    const char *at = value->at + 1, *end = value->at + value->length - 1;
    char *to = out;
    while (at < end) {
        const char *slash = memchr(at, '\\', (size_t)(end - at));
        size_t plain = (size_t)((slash ? slash : end) - at);
        memcpy(to, at, plain);
        to += plain;
        at += plain;
        if (!slash) break;
        char character[4];
        int length = read_character(&at, end, character);
        if (length == 0) {
            *size = (size_t)(slash - value->at);
            return false;
        }
        memcpy(to, character, (size_t)length);
        to += length;
    }
    *size = (size_t)(to - out);
    return true;
}

static bool is_space(char byte) {
    return byte == ' ' || (byte >= '\t' && byte <= '\r');
}

bool json_inner(const struct json_value *value, char *scratch) {
    const char *at = value->at + 1;
    size_t length = value->length - 2;
    if (value->escaped) {
        if (!json_unescape(value, scratch, &length)) return false;
        at = scratch;
    }
    while (length > 0 && is_space(at[length - 1])) length--;
    while (length > 0 && is_space(*at)) at++, length--;
    struct json_error ignored;
    return json_check(at, length, true, &ignored);
}

/* Is this key, unescaped, that token with ~0 and ~1 resolved? */
static bool is_key(const struct json_value *key, const struct json_node *node) {
    const char *at = key->at + 1, *end = key->at + key->length - 1;
    const char *token = node->token, *token_end = token + node->length;
    if (!key->escaped && key->length - 2 == node->length && memcmp(at, token, node->length) == 0 &&
        !memchr(token, '~', node->length))
        return true;
    if (!key->escaped && !memchr(token, '~', node->length)) return false;
    while (at < end) {
        char character[4];
        int length = read_character(&at, end, character);
        if (length == 0) return false;
        for (int i = 0; i < length; i++) {
            if (token == token_end) return false;
            char expected = *token++;
            if (expected == '~') expected = *token++ == '0' ? '~' : '/';
            if (character[i] != expected) return false;
        }
    }
    return token == token_end;
}

static void forget(struct json_plan *plan, uint32_t here) {
    if (plan->nodes[here].found.type == JSON_ABSENT) return;
    plan->nodes[here].found = (struct json_value){0};
    for (uint32_t child = plan->nodes[here].child; child; child = plan->nodes[child].sibling)
        forget(plan, child);
}

/* Reads the rest of the container that has just been opened. */
static bool skip_rest(struct json_reader *reader) {
    int depth = reader->depth;
    struct json_value value;
    while (reader->depth >= depth)
        if (json_next(reader, &value) == JSON_ERROR) return false;
    return true;
}

/* Reads the value that begins with the token `first`, for node `here` (0 < here, or the root) and
 * everything below it. Recursion goes as deep as the plan and the text both do. */
static bool find_value(struct json_reader *reader, struct json_plan *plan, uint32_t here,
                       const struct json_value *first) {
    plan->nodes[here].found = *first;
    if (first->type != JSON_ARRAY && first->type != JSON_OBJECT) return true;
    if (!plan->nodes[here].child) {
        if (!skip_rest(reader)) return false;
    } else {
        for (size_t index = 0;; index++) {
            struct json_value item;
            enum json_type type = json_next(reader, &item);
            if (type == JSON_ERROR) return false;
            if (type == JSON_CLOSE) break;
            uint32_t child = plan->nodes[here].child;
            if (type == JSON_KEY) {
                while (child && !is_key(&item, &plan->nodes[child]))
                    child = plan->nodes[child].sibling;
                /* An earlier value of the same key, and all that was found in it, is void. */
                if (child) forget(plan, child);
                if (json_next(reader, &item) == JSON_ERROR) return false;
            } else {
                while (child && plan->nodes[child].index != index)
                    child = plan->nodes[child].sibling;
            }
            if (child) {
                if (!find_value(reader, plan, child, &item)) return false;
            } else if (item.type == JSON_ARRAY || item.type == JSON_OBJECT) {
                if (!skip_rest(reader)) return false;
            }
        }
    }
    plan->nodes[here].found.length = (size_t)(reader->at - first->at);
    return true;
}

bool json_find(const char *text, size_t length, struct json_plan *plan, struct json_error *error) {
    struct json_reader reader;
    struct json_value value;
    json_open(&reader, text, length);
    for (uint32_t i = 0; i < plan->count; i++) plan->nodes[i].found = (struct json_value){0};
    bool good = json_next(&reader, &value) != JSON_ERROR && find_value(&reader, plan, 0, &value) &&
                json_next(&reader, &value) == JSON_ABSENT;
    plan->lone = reader.lone;
    *error = reader.error;
    return good;
}
