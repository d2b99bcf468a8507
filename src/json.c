#include "json.h"
#include "simd_level.h"

#include <string.h>

/* The scanner itself is in json_scan.h, once for each level of the processor. */

void json_open(struct json_reader *reader, const char *text, size_t length) {
    *reader = (struct json_reader){.text = text, .at = text, .end = text + length};
}

enum json_type json_next(struct json_reader *reader, struct json_value *value) {
    return simd->next(reader, value);
}

bool json_check(const char *text, size_t length, bool decodable, struct json_error *error) {
    return simd->check(text, length, decodable, error);
}

bool json_find(const char *text, size_t length, struct json_plan *plan, struct json_error *error) {
    return simd->find(text, length, plan, error);
}

bool json_unescape(const struct json_value *value, char *out, size_t *size) {
    return simd->unescape(value, out, size);
}

bool json_inner(const struct json_value *value, char *scratch) {
    return simd->inner(value, scratch);
}

size_t json_utf8_prefix(const char *bytes, size_t length) {
    return simd->utf8_prefix(bytes, length);
}

/* ---- plans ---- */

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
    node->escaped = memchr(token, '~', length) != NULL;
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
