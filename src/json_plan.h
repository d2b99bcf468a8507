/* Finds what a plan looks for: a part of json_scan.h, which includes it once for each level. */

/* memcmp(...) == 0 for what is most often shorter than 16 bytes: two words that may overlap. */
static inline bool is_same(const char *a, const char *b, size_t length) {
    if (length > 16) return memcmp(a, b, length) == 0;
    if (length >= 8)
        return load_8(a) == load_8(b) && load_8(a + length - 8) == load_8(b + length - 8);
    for (size_t i = 0; i < length; i++)
        if (a[i] != b[i]) return false;
    return true;
}

/* Is this key, unescaped, that token with ~0 and ~1 resolved? */
static bool is_key_slowly(const struct json_value *key, const struct json_node *node) {
    const char *at = key->at + 1, *end = key->at + key->length - 1;
    const char *token = node->token, *token_end = token + node->length;
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

static inline bool is_key(const struct json_value *key, const struct json_node *node) {
    if (key->escaped || node->escaped) return is_key_slowly(key, node);
    return key->length - 2 == node->length && is_same(key->at + 1, node->token, node->length);
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
        if (LEVEL(next)(reader, &value) == JSON_ERROR) return false;
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
            enum json_type type = LEVEL(next)(reader, &item);
            if (type == JSON_ERROR) return false;
            if (type == JSON_CLOSE) break;
            uint32_t child = plan->nodes[here].child;
            if (type == JSON_KEY) {
                while (child && !is_key(&item, &plan->nodes[child]))
                    child = plan->nodes[child].sibling;
                /* An earlier value of the same key, and all that was found in it, is void. */
                if (child) forget(plan, child);
                if (LEVEL(next)(reader, &item) == JSON_ERROR) return false;
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

#include "json_template.h"

static bool find_generally(struct json_reader *reader, struct json_plan *plan) {
    struct json_value value;
    for (uint32_t i = 0; i < plan->count; i++) plan->nodes[i].found = (struct json_value){0};
    return LEVEL(next)(reader, &value) != JSON_ERROR && find_value(reader, plan, 0, &value) &&
           LEVEL(next)(reader, &value) == JSON_ABSENT;
}

static bool LEVEL(find)(const char *text, size_t length, struct json_plan *plan,
                        struct json_error *error) {
    struct json_reader reader;
    json_open(&reader, text, length);
    bool compares = plan->forms && !rests(plan->forms);
    if (compares && recall(&reader, plan)) {
        plan->lone = reader.lone;
        *error = (struct json_error){0};
        return true;
    }
    if (compares) {
        doubt(plan->forms);
        json_open(&reader, text, length);
    }
    bool good = find_generally(&reader, plan);
    plan->lone = reader.lone;
    *error = reader.error;
    if (compares && good && !reader.lone) learn(text, length, plan);
    return good;
}
