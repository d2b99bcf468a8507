/* The tokens of a whole JSON text, kept, with the size of every array and object and the worth of
 * every number: for those who build values of it. No Lua, so that any thread may do it. */
#ifndef OBATCH_JSON_TAPE_H
#define OBATCH_JSON_TAPE_H

#include "json.h"

enum json_tape_type {
    TAPE_NULL,
    TAPE_FALSE,
    TAPE_TRUE,
    TAPE_INTEGER, /* written like one, and fits; but -0 is a float, as only those have one */
    TAPE_FLOAT,
    TAPE_STRING,  /* or key: `at` and `size` without the quotes, no escape in it */
    TAPE_ESCAPED, /* the same with at least one backslash, and no lone surrogate */
    TAPE_ARRAY,   /* `size` values follow */
    TAPE_OBJECT,  /* `size` keys follow, each with its value behind it */
};

/* So deep json_tape_quoted looks at most. */
enum { JSON_TAPE_QUOTED_DEPTH = 63 };

struct json_token {
    uint64_t type : 8, size : 56;
    union {
        const char *at; /* in the text, or in those of the tape */
        int64_t integer;
        double number;
    };
};

/* Zeroed at first. The memory stays for the next text; json_tape_free gives it back. */
struct json_tape {
    struct json_token *tokens; /* the value, then what is in it, in the order of the text */
    size_t count, capacity;
    int depth; /* of the text, at most: 0 for a scalar */
    char *texts,
        *text;   /* of json_tape_quoted: what strings mean, and where there is room for more */
    size_t room; /* of all texts, in bytes */
};

/* Forgets the tokens and makes room for texts of so many bytes. False when memory is short. */
bool json_tape_begin(struct json_tape *tape, size_t texts);

/* Reads the text; the byte after it must be readable, and no digit. False when it breaks a rule, a
 * lone surrogate is in it or a number beyond all doubles; without error->message when memory is
 * short. */
bool json_tape_read(struct json_tape *tape, const char *text, size_t length,
                    struct json_error *error);

/* Narrows a text, which may be that of a string as it stands, to what one Markdown fence around all
 * of it holds: what is there is the answer if it is JSON, as no line of JSON begins with a fence.
 * False for others, and for rare forms. A backtick is behind the new end. */
bool json_unfence(const char **at, const char **end, bool is_quoted);

/* Adds the tokens of the JSON text that a string of a checked text means, in a fence or not. False,
 * with nothing added, when it is none, and also when it has rare forms or there is no room:
 * json_unescape and json_tape_read then know more. Uses up to JSON_TAPE_TEXTS(length) bytes of the
 * texts. */
bool json_tape_quoted(struct json_tape *tape, const struct json_value *string);

#define JSON_TAPE_TEXTS(length) ((length) + 64)

void json_tape_free(struct json_tape *tape);

bool json_tape_grow(struct json_tape *tape);

/* Room for one more token, or NULL. */
static inline struct json_token *json_tape_add(struct json_tape *tape) {
    if (tape->count == tape->capacity && !json_tape_grow(tape)) return NULL;
    return &tape->tokens[tape->count++];
}

/* The token of a scalar or key, whose surrogates are not looked at. False for a number beyond all
 * doubles. */
bool json_tape_scalar(const struct json_value *value, struct json_token *token);

#endif
