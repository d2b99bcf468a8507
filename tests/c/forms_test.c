/* What texts looked like, as json_find keeps it, at every level: that it is used, and that what is
 * found is the same as without. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "simd.h"
#include "texts.h"

static struct edge text_edge;

enum { POINTERS = 7 };

static void make_plan(struct json_plan *plan) {
    static const char *const pointers[POINTERS] = {
        "/key/1", "/id", "/body/text", "/body/list/1", "/a\"b/key", "/error", "/body/list/2/key"};
    plan->count = 0;
    for (size_t i = 0; i < POINTERS; i++) json_plan_add(plan, pointers[i], strlen(pointers[i]));
}

/* json_find says the same whether it knows what the texts before looked like or not. */
static void forms_change_nothing(struct json_forms *forms, const char *bytes, size_t length) {
    const char *text = at_edge(&text_edge, bytes, length);
    struct json_node nodes[2][2 * POINTERS + 4];
    struct json_plan plans[2] = {{.nodes = nodes[0]}, {.nodes = nodes[1], .forms = forms}};
    struct json_error errors[2];
    bool good[2];
    for (int i = 0; i < 2; i++) {
        make_plan(&plans[i]);
        plans[i].lone = text + length;
        for (uint32_t j = 0; j < plans[i].count; j++) /* as a text before may have left it */
            nodes[i][j].found = (struct json_value){JSON_TRUE, true, text + length, 1};
        good[i] = json_find(text, length, &plans[i], &errors[i]);
    }
    bool same = good[0] == good[1] && plans[0].lone == plans[1].lone &&
                errors[0].message == errors[1].message && errors[0].offset == errors[1].offset;
    for (uint32_t i = 0; i < plans[0].count; i++) {
        const struct json_value *a = &nodes[0][i].found, *b = &nodes[1][i].found;
        same = same && a->type == b->type && a->escaped == b->escaped && a->at == b->at &&
               a->length == b->length;
    }
    if (!same) fail_msg("%s, compared with others: %s", simd_level(), shown(bytes, length));
}

static const char *const lines[] = {
    ("{\"id\": \"batch_req_c477c79d24b4b9da\", \"body\": {\"list\": [1, -2.5e+1, {\"key\": null}], "
     "\"text\": \"say \\\"yes\\\" \xe2\x82\xac and more than the sixty-four bytes of a block, "
     "\\ud83d\\ude00\", \"flags\": [true, false, null, [], {}]}, \"error\": null}"),
    "{\"id\": \"batch_req_c477c79d24b4b9da\", \"body\": null, \"error\": {\"code\": 1}}",
    (" { \"\\u0069d\" : 1 , \"id\" : [ 2 ] , \"id\" : \"\" , \"a\\\"b\" : { \"key\" : \"\\ud800\" "
     "} , \"key\": [0,1]\r, \"key\": {\"1\": true} }\t"),
    "{\"key\":[10,20,30],\"key\":[40],\"body\":{\"text\":1},\"body\":{\"text\":[]},\"body\":2}",
    "{\"id\":0,\"\\ud800\":1}",
    "{\"id\":0}",
    "\"\\ud800 a string\"",
    "12.5",
};
enum { LINES = sizeof lines / sizeof *lines };

static bool is_known(const struct json_forms *forms, const char *line) {
    struct json_forms copy = *forms;
    copy.doubt = 1;
    forms_change_nothing(&copy, line, strlen(line));
    return copy.doubt == 0;
}

static void what_other_texts_looked_like_changes_nothing(void **state) {
    (void)state;
    static const char others[] = "\"\\{}[]:,019-.eE+tn \n\x80\xc3";
    for (int level = 0; simd_name(level); level++) {
        assert_true(simd_choose(simd_name(level)));
        for (size_t i = 0; i < LINES; i++) {
            struct json_forms forms = {0};
            size_t length = strlen(lines[i]);
            forms_change_nothing(&forms, "", 0);
            forms_change_nothing(&forms, lines[i], length);
            assert_int_equal(is_known(&forms, lines[i]), !strstr(lines[i], "\\ud800"));
            /* With a second one, in either order of use. */
            forms_change_nothing(&forms, lines[(i + 1) % LINES], strlen(lines[(i + 1) % LINES]));
            if (i % 2 == 0) forms_change_nothing(&forms, lines[i], length);
            for (size_t at = 0; at <= length; at++) {
                char text[ROOM];
                memcpy(text, lines[i], at);
                for (size_t j = 0; j < sizeof others; j++) { /* with the zero at its end */
                    text[at] = others[j];
                    for (size_t skip = 0; skip < 2 && at + skip <= length; skip++) {
                        struct json_forms copy = forms;
                        memcpy(text + at + 1, lines[i] + at + skip, length - at - skip);
                        forms_change_nothing(&copy, text, length + 1 - skip);
                    }
                }
                for (size_t skip = 1; skip < 40 && at + skip <= length; skip++) {
                    struct json_forms copy = forms;
                    memcpy(text + at, lines[i] + at + skip, length - at - skip);
                    forms_change_nothing(&copy, text, length - skip);
                }
            }
        }
    }
    assert_true(simd_choose(NULL));
}

/* The line with every scalar that is no key replaced by another one. */
static size_t add_other_scalars(char *to, const char *line) {
    static const char *const scalars[] = {
        "0",
        "-1.5e+10",
        "true",
        "null",
        "\"\"",
        "\"key\"",
        "\"\\\\\"",
        "\"\\udc00\"",
        "\"a text of thirty-one bytes, all in all\"",
        "\"a text of more than sixty-four bytes, so that it fills one or two of those\""};
    struct json_reader reader;
    struct json_value value;
    const char *from = line;
    size_t size = 0;
    json_open(&reader, line, strlen(line));
    while (json_next(&reader, &value) > JSON_ERROR) {
        if (value.type > JSON_STRING) continue;
        memcpy(to + size, from, (size_t)(value.at - from));
        size = add(to, size + (size_t)(value.at - from), scalars[random_below(10)]);
        from = value.at + value.length;
    }
    return add(to, size, from);
}

static void texts_of_one_form_are_found_in_alike(void **state) {
    (void)state;
    for (int level = 0; simd_name(level); level++) {
        assert_true(simd_choose(simd_name(level)));
        for (size_t kinds = 1; kinds <= LINES; kinds++) {
            struct json_forms forms = {0};
            for (int round = 0; round < 2000; round++) {
                char text[ROOM];
                size_t length = add_other_scalars(text, lines[random_below(kinds)]);
                if (random_below(50) == 0) text[random_below(length)] ^= 1;
                forms_change_nothing(&forms, text, length);
            }
            if (kinds <= 2) assert_true(is_known(&forms, lines[0]));
        }
        /* Always new ones, and others now and then. */
        struct json_forms forms = {0};
        for (int round = 0; round < 4000; round++) {
            char text[ROOM];
            snprintf(text, sizeof text, "{\"%zu\":{\"key\":[1,2]},\"key\":[1,%zu]}",
                     random_below(round % 1000 < 500 ? 1000 : 3), random_below(1000));
            forms_change_nothing(&forms, text, strlen(text));
        }
    }
    assert_true(simd_choose(NULL));
}

/* Texts of many parts, or long ones, at and beyond what is kept of them. */
static void large_forms_are_not_kept(void **state) {
    (void)state;
    static char text[2 * JSON_FORM_BYTES];
    for (size_t values = JSON_FORM_VALUES - 2; values <= JSON_FORM_VALUES + 2; values++) {
        struct json_forms forms = {0};
        size_t length = add(text, 0, "{\"key\":[0");
        for (size_t i = 1; i < values; i++) length = add(text, length, ",1");
        text[add(text, length, "]}")] = '\0';
        forms_change_nothing(&forms, text, strlen(text));
        assert_int_equal(is_known(&forms, text), values <= JSON_FORM_VALUES);
    }
    for (size_t bytes = JSON_FORM_BYTES - 2; bytes <= JSON_FORM_BYTES + 2; bytes++) {
        struct json_forms forms = {0};
        snprintf(text, sizeof text, "{\"key\":[0,%*d]}", (int)bytes - 10, 1);
        forms_change_nothing(&forms, text, strlen(text));
        assert_int_equal(is_known(&forms, text), strlen(text) - 2 <= JSON_FORM_BYTES);
    }
}

static int make_edges(void **state) {
    (void)state;
    text_edge = make_edge();
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_other_texts_looked_like_changes_nothing),
        cmocka_unit_test(texts_of_one_form_are_found_in_alike),
        cmocka_unit_test(large_forms_are_not_kept),
    };
    return cmocka_run_group_tests(tests, make_edges, NULL);
}
