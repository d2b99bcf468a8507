/* Whether what a string means is JSON: a part of json_scan.h, which includes it once for each
 * level.
 *
 * These read what a string means as it stands, escapes and all: a quote is \" there. The bytes are
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
    if (at == end) return NULL;
    switch (at[1]) {
    case '\\':
        return skip_quoted_escape(at, end);
    case '/':
        return at + 2;
    case 'u':
        /* Four hex digits, for the string around it is good; neither ASCII nor a surrogate. */
        if (at[2] == '0' && at[3] == '0' && at[4] < '8') return NULL;
        return (at[2] == 'd' || at[2] == 'D') && at[3] >= '8' ? NULL : at + 6;
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
    if (*at == '-') at++;
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
    } words[3] = {{"true", 0xFFFFFFFFu, 4}, {"false", 0xFFFFFFFFFFu, 5}, {"null", 0xFFFFFFFFu, 4}};
    const struct word *word = &words[*at == 't' ? 0 : *at == 'f' ? 1 : 2];
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
#else
static inline const char *skip_quoted_numbers(const char *at) {
    (void)at;
    return NULL;
}
#endif

/* ---- gaps ---- */

/* What is between two scalars: "}, {" and a key, say. Texts have few of these, and most come by
 * again and again, after the same ones as before. So the one that came after the last one when that
 * was here is compared first; it is only read where it is another one. Its bytes mean the same as
 * they did there when the same containers are open. */
struct gap {
    const char *from;       /* where it was read, in the same text */
    uint64_t before, after; /* the containers that are open */
    uint8_t length, next;   /* what came after it */
    bool opens;             /* an array, whose first item comes */
};

enum { GAP_BITS = 6, GAP_BYTES = 64 };

/* The bytes at its end, where keys differ; there must be eight of the text before that. */
static inline uint64_t gap_end(const struct gap *gap) {
    uint64_t word = load_8(gap->from + gap->length - 8);
    return gap->length < 8 ? word >> (64 - 8 * gap->length) : word;
}

/* Each has two places, one of which is its own or free most often. */
static inline uint8_t gap_place(const struct gap *gaps, const struct gap *gap) {
    uint64_t word = gap_end(gap);
    uint8_t place = (uint8_t)((word ^ gap->before << 56) * 0x9E3779B97F4A7C15u >> (64 - GAP_BITS));
    const struct gap *there = &gaps[place];
    bool is_other = there->length > 0 && (there->before != gap->before ||
                                          there->length != gap->length || gap_end(there) != word);
    return is_other ? place ^ 1 : place;
}

static inline bool begins_scalar(char byte) {
    static const bool begins[256] = {
        ['"'] = false, ['\\'] = true, ['-'] = true, ['0'] = true, ['1'] = true, ['2'] = true,
        ['3'] = true,  ['4'] = true,  ['5'] = true, ['6'] = true, ['7'] = true, ['8'] = true,
        ['9'] = true,  ['t'] = true,  ['f'] = true, ['n'] = true};
    return begins[(unsigned char)byte];
}

/* Is this the gap at `at`? A text that ends soon is read. */
static inline bool is_gap(const char *at, const char *end, const struct gap *gap, uint64_t open) {
    if (gap->before != open || end - at < GAP_BYTES) return false;
    for (size_t i = 0;; i += WIDTH) {
        size_t same = i + same_prefix(at + i, gap->from + i);
        if (same >= gap->length) return begins_scalar(at[gap->length]);
        if (same < i + WIDTH) return false;
    }
}

/* From behind a scalar, or, when is_first, from the beginning of the text, to the next one, or the
 * end of the text; NULL when something is wrong. In `open`, a bit for each container that is open,
 * set for an object, is below one that stays. */
static const char *skip_gap(const char *at, const char *end, uint64_t *opened, bool is_first,
                            bool *opens) {
    uint64_t open = *opened;
    *opens = false;
    at = skip_quoted_space(at, end);
    if (is_first) goto value;
    for (;;) {
    behind_value:
        for (; open != 1 && *at == (open & 1 ? '}' : ']'); open >>= 1)
            at = skip_quoted_space(at + 1, end);
        *opened = open;
        if (open == 1) return at == end ? at : NULL;
        if (*at != ',') return NULL;
        at = skip_quoted_space(at + 1, end);
        if (open & 1) goto key;
    value:
        for (*opens = false; *at == '[' || *at == '{'; *opens = true) {
            if (open >> 63) return NULL;
            bool is_object = *at == '{';
            open = open << 1 | is_object;
            at = skip_quoted_space(at + 1, end);
            if (*at == (is_object ? '}' : ']')) goto behind_value;
            if (!is_object) continue;
        key:
            if (!is_quoted_quote(at)) return NULL;
            at = skip_quoted_string(at + 2, end);
            if (!at) return NULL;
            at = skip_quoted_space(at, end);
            if (*at != ':') return NULL;
            at = skip_quoted_space(at + 1, end);
            goto value;
        }
        *opened = open;
        return at < end ? at : NULL;
    }
}

static bool is_quoted_json(const char *at, const char *end) {
    struct gap gaps[1 << GAP_BITS] = {0};
    const char *begin = at;
    uint64_t open = 1;
    for (uint8_t last = 0;;) {
        struct gap *gap = &gaps[gaps[last].next], read;
        if (is_gap(at, end, gap, open)) {
            last = gaps[last].next;
            at += gap->length;
            open = gap->after;
        } else {
            gap = &read;
            read = (struct gap){.from = at, .before = open};
            at = skip_gap(at, end, &open, at == begin, &read.opens);
            if (!at || at == end) return at != NULL;
            if (read.from > begin && at - begin >= 8 && at - read.from <= GAP_BYTES) {
                read.length = (uint8_t)(at - read.from);
                read.after = open;
                uint8_t place = gap_place(gaps, &read);
                read.next = gaps[place].next;
                gaps[place] = read;
                last = gaps[last].next = place;
            }
        }
        switch (*at) {
        case '\\':
            if (at[1] != '"') return false;
            at = skip_quoted_string(at + 2, end);
            break;
        case 't':
        case 'f':
        case 'n':
            at = skip_quoted_word(at, end);
            break;
        default:
            if (gap->opens && !(open & 1) && end - at >= 64) {
                const char *behind = skip_quoted_numbers(at);
                if (behind) {
                    at = behind;
                    open >>= 1;
                    break;
                }
            }
            at = skip_quoted_number(at, end);
        }
        if (!at) return false;
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
