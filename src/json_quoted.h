/* The tape of JSON in a string, made of the string as it stands: a part of json_scan.h, which
 * includes it once for each level. It knows the forms that json_inner.h knows. */

/* The number of these eight bytes, all of them decimal digits less '0', the first one lowest: two,
 * then four, then eight digits at a time. */
static inline uint64_t sum_of_8(uint64_t word) {
    word = word * 10 + (word >> 8);
    return ((word & 0x000000FF000000FF) * (100 + ((uint64_t)1000000 << 32)) +
            (word >> 16 & 0x000000FF000000FF) * (1 + ((uint64_t)10000 << 32))) >>
           32;
}

/* One to seven digits at `at`, where eight bytes must be; returns how many, or 0 for others. No
 * branch depends on how many. */
static inline unsigned read_few_digits(const char *at, uint64_t *sum) {
    uint64_t word = load_8(at) ^ 0x3030303030303030u;
    uint64_t others = ((word + 0x7676767676767676u) | word) & 0x8080808080808080u;
    unsigned bits = others ? (unsigned)__builtin_ctzll(others) & ~7u : 0;
    if (bits == 0) return 0;
    *sum = sum_of_8(word << (64 - bits));
    return bits / 8;
}

/* Behind the number at `at`, or NULL. */
static inline const char *read_quoted_number(const char *at, const char *end,
                                             struct json_token *token) {
    static const uint64_t powers[8] = {1, 10, 100, 1000, 10000, 100000, 1000000, 10000000};
    bool negative = *at == '-';
    const char *from = at + negative;
    uint64_t whole, decimals;
    unsigned count = end - from >= 8 ? read_few_digits(from, &whole) : 0;
    if (count == 1 || (count > 1 && *from != '0')) {
        const char *behind = from + count;
        if (*behind != '.' && *behind != 'e' && *behind != 'E' && !(negative && whole == 0)) {
            token->type = TAPE_INTEGER;
            token->integer = negative ? -(int64_t)whole : (int64_t)whole;
            return behind;
        }
        count = *behind == '.' && end - behind > 8 ? read_few_digits(behind + 1, &decimals) : 0;
        behind += 1 + count;
        /* Fewer than 15 digits and a power of ten are doubles, and their quotient is rounded once:
         * see json_tape.c. */
        if (FLT_EVAL_METHOD == 0 && count > 0 && *behind != 'e' && *behind != 'E') {
            double number = (double)(whole * powers[count] + decimals) / (double)powers[count];
            token->type = TAPE_FLOAT;
            token->number = negative ? -number : number;
            return behind;
        }
    }
    const char *behind = skip_quoted_number(at, end);
    if (!behind) return NULL;
    struct json_value value = {.type = JSON_NUMBER, .at = at, .length = (size_t)(behind - at)};
    return json_tape_scalar(&value, token) ? behind : NULL;
}

/* The rest of a string or key that begins at `from` and whose first escape is at `at`: writes what
 * it means to *to, and moves that on. Returns the place of its closing quote, or NULL. */
static const char *unquote_string(const char *from, const char *at, const char *end, char **to) {
    char *out = *to;
    memcpy(out, from, (size_t)(at - from));
    out += at - from;
    while (!is_quoted_quote(at)) {
        const char *behind = skip_escape_in_quoted(at, end);
        if (!behind) return NULL;
        bool within = at[1] == '\\'; /* an escape of the string within */
        if (within && at[2] == '\\') {
            *out++ = at[3];
        } else {
            at += within;
            out += read_character(&at, end, out);
        }
        at = behind;
        while (end - at >= WIDTH) {
            memcpy(out, at, WIDTH);
            size_t plain = slash_prefix(at);
            at += plain;
            out += plain;
            if (plain < WIDTH) break;
        }
        while (at < end && *at != '\\') *out++ = *at++;
    }
    *to = out;
    return at;
}

/* From behind the opening quote of a string or key within to behind its closing one, or NULL. */
static inline const char *read_quoted_string(const char *at, const char *end,
                                             struct json_tape *tape, struct json_token *token) {
    const char *from = at;
    token->type = TAPE_STRING;
    at = find_slash(at, end);
    if (is_quoted_quote(at)) {
        token->size = (size_t)(at - from);
        token->at = from;
        return at + 2;
    }
    token->at = tape->text;
    at = unquote_string(from, at, end, &tape->text);
    if (!at) return NULL;
    token->size = (size_t)(tape->text - token->at);
    return at + 2;
}

static inline const char *read_quoted_word(const char *at, const char *end,
                                           struct json_token *token) {
    token->type = *at == 't' ? TAPE_TRUE : *at == 'f' ? TAPE_FALSE : TAPE_NULL;
    return skip_quoted_word(at, end);
}

static bool LEVEL(quoted)(struct json_tape *tape, const char *at, const char *end) {
    struct {
        size_t token, size;
    } around[64], inner = {0, 0}; /* the arrays and objects open, and the innermost */
    uint64_t open = 1;            /* as in is_quoted_json */
    int depth = 0;
    struct json_token *token;
    at = skip_quoted_space(at, end);
    for (;;) {
        token = json_tape_add(tape);
        if (!token) return false;
        /* A value. */
        switch (*at) {
        case '\\':
            if (at[1] != '"') return false;
            at = read_quoted_string(at + 2, end, tape, token);
            break;
        case '{':
        case '[': {
            if (open >> 63) return false;
            bool object = *at == '{';
            token->type = object ? TAPE_OBJECT : TAPE_ARRAY;
            open = open << 1 | object;
            around[depth++] = inner;
            inner.token = tape->count - 1;
            inner.size = 0;
            at = skip_quoted_space(at + 1, end);
            if (*at == (object ? '}' : ']')) goto close;
            if (object) goto key;
            continue;
        }
        case 't':
        case 'f':
        case 'n':
            at = read_quoted_word(at, end, token);
            break;
        default:
            at = read_quoted_number(at, end, token);
        }
        if (!at) return false;
        inner.size++;
        /* What may follow it. */
        for (;;) {
            at = skip_quoted_space(at, end);
            if (open == 1) return at == end;
            if (*at != (open & 1 ? '}' : ']')) break;
        close:
            tape->tokens[inner.token].size = inner.size;
            inner = around[--depth];
            inner.size++;
            open >>= 1;
            at++;
        }
        if (*at != ',') return false;
        at = skip_quoted_space(at + 1, end);
        if (!(open & 1)) continue;
    key:
        token = json_tape_add(tape);
        if (!token || !is_quoted_quote(at)) return false;
        at = read_quoted_string(at + 2, end, tape, token);
        if (!at) return false;
        at = skip_quoted_space(at, end);
        if (*at != ':') return false;
        at = skip_quoted_space(at + 1, end);
    }
}
