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

struct json_token {
    uint64_t type : 8, size : 56;
    union {
        const char *at; /* in the text */
        int64_t integer;
        double number;
    };
};

/* Zeroed at first. The memory stays for the next text; json_tape_free gives it back. */
struct json_tape {
    struct json_token *tokens; /* the value, then what is in it, in the order of the text */
    size_t count, capacity;
    int depth; /* of the text: 0 for a scalar */
};

/* Reads the text; the byte after it must be readable, and no digit. False when it breaks a rule, a
 * lone surrogate is in it or a number beyond all doubles; without error->message when memory is
 * short. */
bool json_tape_read(struct json_tape *tape, const char *text, size_t length,
                    struct json_error *error);

void json_tape_free(struct json_tape *tape);

/* The token of a scalar or key, whose surrogates are not looked at. False for a number beyond all
 * doubles. */
bool json_tape_scalar(const struct json_value *value, struct json_token *token);

#endif
