/* What strings mean, and whether that is JSON: a part of json_scan.h, which includes it once for
 * each level. */

/* ---- strings ---- */

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

static bool LEVEL(unescape)(const struct json_value *value, char *out, size_t *size) {
    const char *at = value->at + 1, *end = value->at + value->length - 1;
    char *to = out;
    while (at < end) {
        /* What is copied is never longer than what it comes from, so there is room for all of it.
         */
        while (end - at >= WIDTH) {
            memcpy(to, at, WIDTH);
            size_t plain = slash_prefix(at);
            at += plain;
            to += plain;
            if (plain < WIDTH) break;
        }
        while (at < end && *at != '\\') *to++ = *at++;
        if (at == end) break;
        const char *slash = at;
        int length = read_character(&at, end, to);
        if (length == 0) {
            *size = (size_t)(slash - value->at);
            return false;
        }
        to += length;
    }
    *size = (size_t)(to - out);
    return true;
}

/* ---- JSON in a string ---- */

/* These read what a string means as it stands, escapes and all: a quote is \" there. The bytes are
 * those of a checked string, so that a raw quote comes at its end and nowhere else, and no
 * backslash is the last byte before it. They know the forms that occur, and return false (or NULL)
 * for others, which says nothing: LEVEL(inner) then takes the text out of its escapes and looks
 * again. */

static inline const char *find_slash(const char *at, const char *end) {
    while (end - at >= WIDTH) {
        size_t plain = slash_prefix(at);
        if (plain < WIDTH) return at + plain;
        at += WIDTH; /* not "plain": so the next load need not wait for this one */
    }
    while (at < end && *at != '\\') at++;
    return at;
}

static const char *skip_quoted_white(const char *at, const char *end) {
    for (;;) {
        if (*at == ' ') {
            at += end - at >= WIDTH ? space_prefix(at) : 1;
        } else if (*at == '\\' && (at[1] == 'n' || at[1] == 't' || at[1] == 'r')) {
            at += 2;
        } else {
            return at;
        }
    }
}

static inline bool is_quoted_quote(const char *at) {
    return *at == '\\' && at[1] == '"';
}

/* Most often it is one space or nothing; a branch, which is foreseen, and not an addition, for
 * which all that follows would wait. */
static inline const char *skip_quoted_space(const char *at, const char *end) {
    char byte = *at;
    if (byte == ' ') byte = *++at;
    if (byte == '\\' && at[1] != '"') return skip_quoted_white(at, end);
    return byte == ' ' ? skip_quoted_white(at, end) : at;
}

/* Behind an escape of the string within, whose backslash is two at `at`; or NULL. */
static const char *skip_quoted_escape(const char *at, const char *end) {
    switch (at[2]) {
    case '/':
    case 'b':
    case 'f':
    case 'n':
    case 'r':
    case 't':
        return at + 3;
    case '\\':
        return at[3] == '"' || at[3] == '\\' ? at + 4 : NULL;
    case 'u': {
        int code = hex4(at + 3, end);
        return code < 0 || is_high(code) || is_low(code) ? NULL : at + 7;
    }
    default:
        return NULL;
    }
}

/* Behind what looks like an escape in the string within, but is one of the string around it. */
static const char *skip_escape_in_quoted(const char *at, const char *end) {
    int code;
    if (at == end) return NULL;
    switch (at[1]) {
    case '\\':
        return skip_quoted_escape(at, end);
    case '/':
        return at + 2;
    case 'u':
        code = hex4(at + 2, end);
        return code < 0x80 || is_high(code) || is_low(code) ? NULL : at + 6;
    default:
        return NULL;
    }
}

/* From behind the opening quote of a string within to behind its closing one. */
static inline const char *skip_quoted_string(const char *at, const char *end) {
    for (;;) {
        at = find_slash(at, end);
        if (is_quoted_quote(at)) return at + 2;
        at = skip_escape_in_quoted(at, end);
        if (!at) return NULL;
    }
}

static inline const char *skip_quoted_number(const char *at, const char *end) {
    if (*at == '-' && *++at == '-') return NULL;
    size_t count = digits(at, end);
    if (count == 0 || (*at == '0' && count > 1)) return NULL;
    at += count;
    if (*at == '.') {
        count = digits(++at, end);
        if (count == 0) return NULL;
        at += count;
    }
    if (*at == 'e' || *at == 'E') {
        at++;
        if (*at == '+' || *at == '-') at++;
        count = digits(at, end);
        if (count == 0) return NULL;
        at += count;
    }
    return at;
}

/* Behind true, false or null, or NULL; which of them comes is no branch. */
static inline const char *skip_quoted_word(const char *at, const char *end) {
    static const struct word {
        char text[8];
        uint64_t mask;
        ptrdiff_t length;
    } words[4] = {{"true", 0xFFFFFFFFu, 4},
                  {"false", 0xFFFFFFFFFFu, 5},
                  {"null", 0xFFFFFFFFu, 4},
                  {"", 0, 99}};
    const struct word *word = &words[*at == 't' ? 0 : *at == 'f' ? 1 : *at == 'n' ? 2 : 3];
    if (end - at < 8)
        return end - at >= word->length && memcmp(at, word->text, (size_t)word->length) == 0
                   ? at + word->length
                   : NULL;
    return (load_8(at) & word->mask) == load_8(word->text) ? at + word->length : NULL;
}

#ifdef BLOCKS
/* Behind the ']' of an array of numbers, which begins behind its '[' with a digit or a minus, when
 * that comes within 64 bytes and what is between them is simple: no exponents, and white space only
 * as one space behind a comma. NULL for others. */
static inline const char *skip_quoted_numbers(const char *at) {
    struct block block = block_load(at);
    uint64_t close = block_equal(block, ']'), upto = close ^ (close - 1);
    uint64_t digit = block_digit(block), zero = block_equal(block, '0');
    uint64_t comma = block_equal(block, ','), space = block_equal(block, ' ');
    uint64_t minus = block_equal(block, '-'), point = block_equal(block, '.');
    uint64_t behind_digit = digit << 1, behind_comma = comma << 1, behind_point = point << 1;
    uint64_t sign_or_digit = digit | minus;
    uint64_t wrong = ~(sign_or_digit | comma | space | point | close);
    wrong |= behind_comma & ~(sign_or_digit | space);
    wrong |= space << 1 & ~sign_or_digit;
    wrong |= (minus << 1 | behind_point) & ~digit;
    wrong |= (comma | point) & ~behind_digit;
    wrong |= space & ~behind_comma;
    wrong |= minus & ~(behind_comma | space << 1 | 1);
    /* A second point: behind the digits behind a point. */
    wrong |= (behind_point + digit) & point;
    /* Digits behind a zero that begins a number. */
    wrong |= zero & ~(behind_digit | behind_point) & digit >> 1;
    return close && !(wrong & upto) ? at + __builtin_ctzll(close) + 1 : NULL;
}
#endif

static bool is_quoted_json(const char *at, const char *end) {
    uint64_t open = 1; /* a bit for each container, set for an object, below one that stays */
    at = skip_quoted_space(at, end);
    for (;;) {
        /* A value. */
        switch (*at) {
        case '\\':
            if (at[1] != '"') return false;
            at = skip_quoted_string(at + 2, end);
            break;
        case '{':
        case '[': {
            if (open >> 63) return false;
            bool object = *at == '{';
            open = open << 1 | object;
            at = skip_quoted_space(at + 1, end);
            if (*at == (object ? '}' : ']')) {
                at++;
                open >>= 1;
                break;
            }
            if (object) goto key;
#ifdef BLOCKS
            if (end - at >= 64 && (*at == '-' || (*at >= '0' && *at <= '9'))) {
                const char *behind = skip_quoted_numbers(at);
                if (behind) {
                    at = behind;
                    open >>= 1;
                    break;
                }
            }
#endif
            continue;
        }
        case 't':
        case 'f':
        case 'n':
            at = skip_quoted_word(at, end);
            break;
        default:
            at = skip_quoted_number(at, end);
        }
        if (!at) return false;
        /* What may follow it. */
        for (;; at++, open >>= 1) {
            at = skip_quoted_space(at, end);
            if (open == 1) return at == end;
            if (*at != (open & 1 ? '}' : ']')) break;
        }
        if (*at != ',') return false;
        at = skip_quoted_space(at + 1, end);
        if (!(open & 1)) continue;
    key:
        if (!is_quoted_quote(at)) return false;
        at = skip_quoted_string(at + 2, end);
        if (!at) return false;
        at = skip_quoted_space(at, end);
        if (*at != ':') return false;
        at = skip_quoted_space(at + 1, end);
    }
}

static bool is_space(char byte) {
    return byte == ' ' || (byte >= '\t' && byte <= '\r');
}

static bool LEVEL(inner)(const struct json_value *value, char *scratch) {
    const char *at = value->at + 1;
    size_t length = value->length - 2;
    if (value->escaped) {
        if (is_quoted_json(at, at + length)) return true;
        if (!LEVEL(unescape)(value, scratch, &length)) return false;
        at = scratch;
    }
    while (length > 0 && is_space(at[length - 1])) length--;
    while (length > 0 && is_space(*at)) at++, length--;
    struct json_error ignored;
    return LEVEL(check)(at, length, true, &ignored);
}
