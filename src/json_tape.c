#include "json_tape.h"
#include "simd_level.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

/* ---- numbers ---- */

/* Takes the digits at *at into *sum, which is of no use after more than 19 of them. Returns how
 * many. */
static size_t read_digits(const char **at, const char *end, uint64_t *sum) {
    const char *from = *at;
    for (; *at < end && **at >= '0' && **at <= '9'; ++*at)
        *sum = *sum * 10 + (uint64_t)(**at - '0');
    return (size_t)(*at - from);
}

/* Powers of ten that are doubles. */
static const double POWERS[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,
                                1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19};

/* Where the digits as a whole number and the power of ten are both doubles, dividing them rounds
 * once, as strtod does (Clinger 1990). Not where the machine has other floats between operations.
 */
static bool is_exact(uint64_t sum, size_t digits) {
    return FLT_EVAL_METHOD == 0 && digits <= 19 && sum <= (uint64_t)1 << DBL_MANT_DIG;
}

/* False when there is no such double. */
static inline bool read_number(const struct json_value *value, struct json_token *token) {
    const char *at = value->at, *end = at + value->length;
    bool negative = *at == '-';
    uint64_t sum = 0;
    at += negative;
    size_t digits = read_digits(&at, end, &sum);
    if (at == end && digits <= 19 && sum <= (uint64_t)INT64_MAX + negative &&
        !(negative && sum == 0)) {
        token->type = TAPE_INTEGER;
        token->integer = (int64_t)(negative ? 0 - sum : sum);
        return true;
    }
    size_t decimals = 0;
    if (at < end && *at == '.') {
        at++;
        decimals = read_digits(&at, end, &sum);
        digits += decimals;
    }
    token->type = TAPE_FLOAT;
    if (at == end && is_exact(sum, digits)) {
        double number = (double)sum / POWERS[decimals];
        token->number = negative ? -number : number;
        return true;
    }
    token->number = strtod(value->at, NULL);
    return !isinf(token->number);
}

/* ---- texts ---- */

bool json_tape_grow(struct json_tape *tape) {
    size_t capacity = tape->capacity ? tape->capacity * 2 : 256;
    struct json_token *tokens = realloc(tape->tokens, capacity * sizeof *tokens);
    if (!tokens) return false;
    tape->tokens = tokens;
    tape->capacity = capacity;
    return true;
}

void json_tape_free(struct json_tape *tape) {
    free(tape->tokens);
    free(tape->texts);
    *tape = (struct json_tape){0};
}

static bool fail(struct json_error *error, const char *message, size_t offset) {
    error->message = message;
    error->offset = offset;
    return false;
}

static inline bool read_scalar(const struct json_value *value, struct json_token *token) {
    switch (value->type) {
    case JSON_NULL:
        token->type = TAPE_NULL;
        return true;
    case JSON_FALSE:
        token->type = TAPE_FALSE;
        return true;
    case JSON_TRUE:
        token->type = TAPE_TRUE;
        return true;
    case JSON_NUMBER:
        return read_number(value, token);
    default:
        token->type = value->escaped ? TAPE_ESCAPED : TAPE_STRING;
        token->at = value->at + 1;
        token->size = value->length - 2;
        return true;
    }
}

bool json_tape_scalar(const struct json_value *value, struct json_token *token) {
    return read_scalar(value, token);
}

bool json_tape_read(struct json_tape *tape, const char *text, size_t length,
                    struct json_error *error) {
    struct json_reader reader;
    struct json_value value;
    size_t open[JSON_DEPTH]; /* where the tokens of the arrays and objects around this place are */
    tape->count = 0;
    tape->depth = 0;
    json_open(&reader, text, length);
    while (json_next(&reader, &value) > JSON_ERROR) {
        if (value.type == JSON_CLOSE) continue;
        struct json_token *token = json_tape_add(tape);
        if (!token) return fail(error, NULL, 0);
        int depth = reader.depth; /* of what this token stands in */
        if (value.type == JSON_ARRAY || value.type == JSON_OBJECT) {
            token->type = value.type == JSON_ARRAY ? TAPE_ARRAY : TAPE_OBJECT;
            token->size = 0;
            open[--depth] = tape->count - 1;
            if (reader.depth > tape->depth) tape->depth = reader.depth;
        } else {
            if (reader.lone) return fail(error, "lone surrogate", (size_t)(reader.lone - text));
            if (!read_scalar(&value, token))
                return fail(error, "number too large", (size_t)(value.at - text));
        }
        if (depth > 0 && value.type != JSON_KEY) tape->tokens[open[depth - 1]].size++;
    }
    *error = reader.error;
    return !error->message;
}

bool json_tape_begin(struct json_tape *tape, size_t texts) {
    tape->count = 0;
    tape->depth = 0;
    if (tape->room < texts) {
        free(tape->texts);
        tape->texts = malloc(texts);
        tape->room = tape->texts ? texts : 0;
    }
    tape->text = tape->texts;
    return tape->room >= texts;
}

static bool is_language(char byte) {
    return (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') ||
           (byte >= '0' && byte <= '9') || byte == ' ';
}

bool json_unfence(const char **at, const char **end, bool is_quoted) {
    const char *from = *at, *to = *end, *newline = is_quoted ? "\\n" : "\n";
    ptrdiff_t size = is_quoted ? 2 : 1;
    if (to - from < 3 || memcmp(from, "```", 3) != 0) return false;
    for (from += 3; from < to && is_language(*from);) from++;
    if (to - from < size || memcmp(from, newline, (size_t)size) != 0) return false;
    from += size;
    while (to - from >= size && (to[-1] == ' ' || memcmp(to - size, newline, (size_t)size) == 0))
        to -= to[-1] == ' ' ? 1 : size;
    const char *close = to;
    while (close > from && close[-1] == '`') close--;
    const char *line = close;
    while (line > from && line[-1] == ' ') line--;
    /* Behind a backslash it is no newline, but neither is what is before it JSON then. */
    if (to - close < 3 || line - from < size || memcmp(line - size, newline, (size_t)size) != 0)
        return false;
    *at = from;
    *end = close;
    return true;
}

bool json_tape_quoted(struct json_tape *tape, const struct json_value *string) {
    size_t count = tape->count;
    char *text = tape->text;
    const char *at = string->at + 1, *end = string->at + string->length - 1;
    if (tape->room - (size_t)(text - tape->texts) < JSON_TAPE_TEXTS(string->length)) return false;
    if (*at == '`' && !json_unfence(&at, &end, true)) return false;
    if (simd->quoted(tape, at, end)) {
        if (tape->depth < JSON_TAPE_QUOTED_DEPTH) tape->depth = JSON_TAPE_QUOTED_DEPTH;
        return true;
    }
    tape->count = count;
    tape->text = text;
    return false;
}
