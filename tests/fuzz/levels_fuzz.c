/* libFuzzer: the scanner of every level on the same text, in memory of exactly its size, as it
 * comes and as the inside of a string. */
#include "json.h"
#include "simd.h"

#include <stdlib.h>
#include <string.h>

struct verdict {
    bool good, decodable, found, inner, unescaped;
    char why[3][48];
    size_t at[3], places[4], lengths[4], lone, valid, plain, size;
    enum json_type types[4];
};

static void keep(struct verdict *verdict, int i, const struct json_error *error) {
    verdict->at[i] = error->offset;
    strncpy(verdict->why[i], error->message, sizeof verdict->why[i] - 1);
}

static struct verdict judge(const char *text, size_t length, char *out) {
    struct verdict verdict;
    struct json_node nodes[8];
    struct json_plan plan = {.nodes = nodes};
    memset(&verdict, 0, sizeof verdict); /* the padding too: it is compared */
    uint32_t wanted[] = {0, json_plan_add(&plan, "/a/b", 4), json_plan_add(&plan, "/0", 2),
                         json_plan_add(&plan, "/a~1b", 5)};
    struct json_error error;
    verdict.good = json_check(text, length, false, &error);
    if (!verdict.good) keep(&verdict, 0, &error);
    verdict.decodable = json_check(text, length, true, &error);
    if (!verdict.decodable) keep(&verdict, 1, &error);
    verdict.valid = json_utf8_prefix(text, length);
    verdict.plain = simd_json_plain(text, length);
    verdict.found = json_find(text, length, &plan, &error);
    if (!verdict.found) {
        keep(&verdict, 2, &error);
        return verdict;
    }
    verdict.lone = plan.lone ? (size_t)(plan.lone - text) : SIZE_MAX;
    for (int i = 0; i < 4; i++) {
        const struct json_value *found = &nodes[wanted[i]].found;
        verdict.types[i] = found->type;
        verdict.lengths[i] = found->length;
        verdict.places[i] = found->type ? (size_t)(found->at - text) : 0;
    }
    if (nodes[0].found.type != JSON_STRING) return verdict;
    verdict.inner = json_inner(&nodes[0].found, out);
    verdict.unescaped = json_unescape(&nodes[0].found, out, &verdict.size);
    return verdict;
}

static void levels_agree(const char *text, size_t length) {
    struct verdict first;
    char *expected = malloc(length + 64), *out = malloc(length + 64);
    if (!expected || !out) abort();
    for (int i = 0; simd_name(i); i++) {
        if (!simd_choose(simd_name(i))) abort();
        struct verdict verdict = judge(text, length, i == 0 ? expected : out);
        if (i == 0) {
            first = verdict;
        } else if (memcmp(&first, &verdict, sizeof first) != 0 ||
                   (first.unescaped && memcmp(expected, out, first.size) != 0)) {
            abort();
        }
    }
    if (first.found && first.types[0] == JSON_STRING) {
        /* What json_inner says, by way of what the string means. */
        const char *at = expected, *end = expected + first.size;
        struct json_error ignored;
        while (first.unescaped && at < end && memchr(" \t\n\v\f\r", *at, 6)) at++;
        while (first.unescaped && at < end && memchr(" \t\n\v\f\r", end[-1], 6)) end--;
        if (first.inner != (first.unescaped && json_check(at, (size_t)(end - at), true, &ignored)))
            abort();
    }
    free(expected);
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *text = malloc(2 * size + 2);
    if (!text) abort();
    if (size > 0) memcpy(text, data, size);
    char *exact = realloc(text, size ? size : 1);
    if (!exact) abort();
    levels_agree(exact, size);
    free(exact);
    /* As a string: quotes and backslashes escaped, unless the first byte says that they are. */
    text = malloc(2 * size + 2);
    if (!text) abort();
    size_t length = 0;
    text[length++] = '"';
    for (size_t i = 0; i < size; i++) {
        bool line = data[i] == '\n';
        if (line || ((data[i] == '"' || data[i] == '\\') && data[0] != ' ')) text[length++] = '\\';
        text[length++] = line ? 'n' : (char)data[i];
    }
    text[length++] = '"';
    exact = realloc(text, length);
    if (!exact) abort();
    levels_agree(exact, length);
    free(exact);
    return 0;
}
