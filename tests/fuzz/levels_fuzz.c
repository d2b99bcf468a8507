/* libFuzzer: the scanner of every level on the same text, in memory of exactly its size, as it
 * comes and as the inside of a string. */
#include "json_tape.h"
#include "simd.h"

#include <stdlib.h>
#include <string.h>

struct verdict {
    bool good, decodable, found, inner, unescaped, taped;
    char why[3][48];
    size_t at[3], places[4], lengths[4], lone, valid, plain, size;
    enum json_type types[4];
};

static void keep(struct verdict *verdict, int i, const struct json_error *error) {
    verdict->at[i] = error->offset;
    strncpy(verdict->why[i], error->message, sizeof verdict->why[i] - 1);
}

/* The tape of a string's text as it stands, if it is made, is that of the text once it is out of
 * its escapes. */
static bool tape(const struct json_value *string, const char *text, size_t length) {
    struct json_tape tapes[2] = {0};
    struct json_error error;
    if (!json_tape_begin(&tapes[0], JSON_TAPE_TEXTS(string->length))) abort();
    bool taped = json_tape_quoted(&tapes[0], string);
    /* Exactly its size and a byte that is no digit. */
    char *copy = malloc(length + 1);
    if (!copy) abort();
    memcpy(copy, text, length);
    copy[length] = '"';
    if (taped && !(json_tape_read(&tapes[1], copy, length, &error) &&
                   tapes[0].count == tapes[1].count && tapes[0].depth >= tapes[1].depth))
        abort();
    char *meant = malloc(length + 1);
    if (!meant) abort();
    for (size_t i = 0; taped && i < tapes[0].count; i++) {
        const struct json_token *a = &tapes[0].tokens[i], *b = &tapes[1].tokens[i];
        if (b->type == TAPE_STRING || b->type == TAPE_ESCAPED) {
            struct json_value value = {JSON_STRING, true, b->at - 1, b->size + 2};
            size_t size;
            if (!json_unescape(&value, meant, &size) || a->type != TAPE_STRING || a->size != size ||
                memcmp(a->at, meant, size) != 0)
                abort();
        } else if (a->type != b->type ||
                   ((b->type == TAPE_ARRAY || b->type == TAPE_OBJECT) && a->size != b->size) ||
                   ((b->type == TAPE_INTEGER || b->type == TAPE_FLOAT) &&
                    a->integer != b->integer)) {
            abort();
        }
    }
    free(meant);
    free(copy);
    json_tape_free(&tapes[0]);
    json_tape_free(&tapes[1]);
    return taped;
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
    if (verdict.unescaped) verdict.taped = tape(&nodes[0].found, out, verdict.size);
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

/* json_find says the same of every line whether it knows what others looked like or not. */
static void forms_change_nothing(struct json_forms *forms, const char *line, size_t length) {
    char *text = malloc(length ? length : 1);
    if (!text) abort();
    memcpy(text, line, length);
    struct json_node nodes[2][8];
    struct json_plan plans[2] = {{.nodes = nodes[0]}, {.nodes = nodes[1], .forms = forms}};
    struct json_error errors[2];
    bool good[2];
    for (int i = 0; i < 2; i++) {
        json_plan_add(&plans[i], "/a/b", 4);
        json_plan_add(&plans[i], "/0", 2);
        json_plan_add(&plans[i], "/a~1b", 5);
        good[i] = json_find(text, length, &plans[i], &errors[i]);
    }
    if (good[0] != good[1] || plans[0].lone != plans[1].lone ||
        errors[0].message != errors[1].message || errors[0].offset != errors[1].offset)
        abort();
    for (uint32_t i = 0; i < plans[0].count; i++) {
        const struct json_value *a = &nodes[0][i].found, *b = &nodes[1][i].found;
        if (a->type != b->type || a->escaped != b->escaped || a->at != b->at ||
            a->length != b->length)
            abort();
    }
    free(text);
}

/* The lines of a text, in order, each also with a byte changed and one left out. */
static void lines_are_read_alike(char *text, size_t size) {
    struct json_forms forms = {0};
    for (size_t at = 0, next; at <= size; at = next) {
        char *line = text + at, *newline = at < size ? memchr(line, '\n', size - at) : NULL;
        size_t length = newline ? (size_t)(newline - line) : size - at;
        next = at + length + 1;
        forms_change_nothing(&forms, line, length);
        for (size_t i = 0; i < 8 && length > 0; i++) {
            size_t place = (length * i / 8 + (unsigned char)line[i % length]) % length;
            char byte = line[place];
            line[place] = "\"0{[,}] "[i];
            forms_change_nothing(&forms, line, length);
            memmove(line + place, line + place + 1, length - place - 1);
            forms_change_nothing(&forms, line, length - 1);
            memmove(line + place + 1, line + place, length - place - 1);
            line[place] = byte;
        }
        forms_change_nothing(&forms, line, length);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *text = malloc(2 * size + 2);
    if (!text) abort();
    if (size > 0) memcpy(text, data, size);
    char *exact = realloc(text, size ? size : 1);
    if (!exact) abort();
    levels_agree(exact, size);
    for (int i = 0; simd_name(i); i++) {
        if (!simd_choose(simd_name(i))) abort();
        lines_are_read_alike(exact, size);
    }
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
