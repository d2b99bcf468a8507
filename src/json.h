/* Strict JSON over bytes: RFC 8259 and nothing more. UTF-8 must be valid everywhere, no byte order
 * mark, nothing after the value, nesting up to JSON_DEPTH, and of duplicate keys the last answers.
 *
 * No Lua, no allocation, no copies: every value handed out is a range of the caller's text and
 * lives as long as that text. Nothing outside json*.[ch] looks into the bytes of a text in any
 * other way, so the scanner behind this header can be replaced. */
#ifndef OBATCH_JSON_H
#define OBATCH_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { JSON_DEPTH = 1024 };

enum json_type {
    JSON_ABSENT, /* json_next: the text has ended well. A plan: nothing is at this pointer */
    JSON_ERROR,
    JSON_NULL,
    JSON_FALSE,
    JSON_TRUE,
    JSON_NUMBER,
    JSON_STRING,
    JSON_ARRAY,
    JSON_OBJECT,
    JSON_KEY,   /* a string, followed by its value */
    JSON_CLOSE, /* of the innermost array or object */
};

struct json_value {
    enum json_type type;
    bool escaped; /* string or key: has a backslash, so its bytes are not the text it means */
    const char *at;
    size_t length; /* in bytes, with the quotes of a string; 1 for the bracket json_next gives */
};

struct json_error {
    const char *message; /* static; no position in it */
    size_t offset;       /* in bytes, from 0; the length of the text when it ends too early */
};

/* ---- one token after another ---- */

struct json_reader {
    const char *text, *at, *end;
    const char *lone; /* the first \uD800..\uDFFF escape without its partner, or NULL */
    struct json_error error;
    int depth; /* arrays and objects open */
    int expects;
    uint64_t objects[JSON_DEPTH / 64]; /* one bit for each open container: set for an object */
};

void json_open(struct json_reader *reader, const char *text, size_t length);

/* The next token, also in *value; JSON_ABSENT after the last one, JSON_ERROR (with reader->error)
 * as soon as the text breaks a rule, and the same again from then on. */
enum json_type json_next(struct json_reader *reader, struct json_value *value);

/* ---- a whole text in one pass ---- */

/* A lone surrogate is legal text; decodable refuses it, in any string or key. */
bool json_check(const char *text, size_t length, bool decodable, struct json_error *error);

/* A plan is a set of RFC 6901 pointers, kept as a tree whose nodes are their tokens. */
struct json_node {
    struct json_value found; /* what the last json_find saw here: the whole value */
    const char *token;       /* in the pointer, still with ~0 and ~1 */
    size_t length;
    bool escaped;            /* it has any of those */
    size_t index;            /* the array index that the token is, or SIZE_MAX */
    uint32_t child, sibling; /* 0 for none */
};

/* What texts that were good looked like, for those that look the same: json_template.h. Larger ones
 * are not kept. */
enum { JSON_FORM_BYTES = 4096, JSON_FORM_VALUES = 200, JSON_FORM_FOUND = 32 };

struct json_place {
    uint16_t part, offset;
};

struct json_form_found {
    uint32_t node;
    enum json_type type; /* of an array or object; a scalar may be any */
    struct json_place from, to;
};

struct json_form {
    uint16_t found_count; /* 0: no form is known */
    uint16_t values;      /* scalars; there is one part more */
    struct json_form_found found[JSON_FORM_FOUND];
    uint16_t parts[JSON_FORM_VALUES + 2]; /* where in the bytes each begins, and the end */
    char bytes[JSON_FORM_BYTES + 64];
};

struct json_forms {
    struct json_form form[2];
    uint16_t last;   /* the one that fitted last */
    uint16_t common; /* so many parts are the same in both */
    uint16_t doubt;  /* more with each text that fits neither, less with others */
    uint16_t rest;   /* so many texts will not be compared */
};

struct json_plan {
    struct json_node *nodes; /* the caller's memory; nodes[0] is the whole text */
    uint32_t count;          /* starts at 0 */
    const char *lone;        /* the first lone surrogate that the last json_find saw, or NULL */
    /* The caller's memory, zeroed at first, for many texts that may look alike; or NULL. It is of
     * use to this plan alone, and not once pointers are added. */
    struct json_forms *forms;
};

/* How many nodes json_plan_add may need for this pointer, the root included; 0 when it is not an
 * RFC 6901 pointer, or has more tokens than a text may have levels. */
size_t json_pointer_nodes(const char *pointer, size_t length);

/* Adds a pointer for which there is room and returns the number of its node. The pointer's bytes
 * stay the caller's and must outlive the plan. */
uint32_t json_plan_add(struct json_plan *plan, const char *pointer, size_t length);

/* Checks the text and fills in `found` of every node, and `lone`. */
bool json_find(const char *text, size_t length, struct json_plan *plan, struct json_error *error);

/* ---- strings ---- */

/* The text a string or key means, written to out, which has room for value->length bytes. False,
 * and in *size the offset of the culprit in the value, when a lone surrogate spoils it. */
bool json_unescape(const struct json_value *value, char *out, size_t *size);

/* Whether what a string means is itself a decodable JSON text, once the white space around it (that
 * of isspace) is gone. The string is one that was found in a checked text; scratch has room for
 * value->length + 64 bytes. */
bool json_inner(const struct json_value *value, char *scratch);

/* The length of the longest prefix that is valid UTF-8. */
size_t json_utf8_prefix(const char *bytes, size_t length);

#endif
