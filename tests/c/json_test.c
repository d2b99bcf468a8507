/* The scanner alone: every text stands in memory of exactly its size, so that the sanitizers see
 * the first byte read beyond it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "json.h"
#include "simd.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct json_error error;

/* json_check on an exact copy. */
static bool check(const char *text, size_t length, bool decodable) {
    char *copy = malloc(length ? length : 1);
    assert_non_null(copy);
    memcpy(copy, text, length);
    bool good = json_check(copy, length, decodable, &error);
    free(copy);
    return good;
}

static bool accepts(const char *text) {
    return check(text, strlen(text), false);
}

#define ACCEPTED(bytes) assert_true(check(bytes, sizeof(bytes) - 1, false))
#define REFUSED(bytes, at)                                                                         \
    do {                                                                                           \
        assert_false(check(bytes, sizeof(bytes) - 1, false));                                      \
        assert_int_equal(error.offset, at);                                                        \
    } while (0)

static void every_fixture_gets_the_verdict_of_its_name(void **state) {
    (void)state;
    int seen[2] = {0, 0};
    DIR *folder = opendir(FIXTURES);
    assert_non_null(folder);
    for (struct dirent *entry; (entry = readdir(folder));) {
        static char text[65536];
        char path[1024];
        if (strncmp(entry->d_name, "y_", 2) != 0 && strncmp(entry->d_name, "n_", 2) != 0) continue;
        bool expected = entry->d_name[0] == 'y';
        snprintf(path, sizeof path, FIXTURES "/%s", entry->d_name);
        FILE *file = fopen(path, "rb");
        assert_non_null(file);
        size_t length = fread(text, 1, sizeof text, file);
        fclose(file);
        if (check(text, length, false) != expected)
            fail_msg("%s: %s", entry->d_name, expected ? error.message : "was accepted");
        if (!expected) assert_true(error.message && error.offset <= length);
        seen[expected]++;
    }
    closedir(folder);
    assert_true(seen[0] >= 70 && seen[1] >= 25);
}

static void bytes_that_are_not_text_are_refused_where_they_are(void **state) {
    (void)state;
    REFUSED("\0", 0);
    REFUSED("[\0]", 1);
    REFUSED("1\0", 1);
    REFUSED("\"a\0b\"", 2);
    REFUSED("\"\x1f\"", 1);
    REFUSED("\"\\\0\"", 1);
    REFUSED("\xff", 0);
    REFUSED("[\xa0]", 1);
    REFUSED("\xef\xbb\xbf[]", 0);
    REFUSED("\xfe\xff\0[\0]", 0); /* UTF-16 */
    REFUSED("\"\x80\"", 1);       /* continuation alone */
    REFUSED("\"\xc0\xaf\"", 1);   /* overlong, two bytes */
    REFUSED("\"\xc1\xbf\"", 1);
    REFUSED("\"\xe0\x9f\xbf\"", 1);     /* overlong, three */
    REFUSED("\"\xf0\x8f\xbf\xbf\"", 1); /* overlong, four */
    REFUSED("\"\xed\xa0\x80\"", 1);     /* a surrogate in UTF-8 (CESU-8) */
    REFUSED("\"\xf4\x90\x80\x80\"", 1); /* above U+10FFFF */
    REFUSED("\"\xf5\x80\x80\x80\"", 1);
    REFUSED("\"\xe9\"", 1); /* Latin-1 */
    REFUSED("\"\xc3", 1);   /* cut */
    REFUSED("\"\xf0\x9f\x98", 1);
    REFUSED("{\"\xe9\": 1}", 2);
    ACCEPTED(
        "\"\xc2\x80\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xf0\x90\x80\x80\xf4\x8f\xbf\xbf\"");
}

/* Decodes one sequence the way the definition says: bits first, then range. */
static bool is_utf8(const unsigned char *bytes, size_t length) {
    static const unsigned least[] = {0, 0, 0x80, 0x800, 0x10000};
    unsigned lead = bytes[0];
    size_t expected = lead < 0xC0 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF8 ? 4 : 0;
    if (expected != length) return false;
    unsigned code = lead & (0xFFu >> (length + 1));
    for (size_t i = 1; i < length; i++) {
        if ((bytes[i] & 0xC0) != 0x80) return false;
        code = code << 6 | (bytes[i] & 0x3F);
    }
    return code >= least[length] && code <= 0x10FFFF && (code < 0xD800 || code > 0xDFFF);
}

static void utf8_is_judged_as_its_definition_does(void **state) {
    (void)state;
    static const unsigned char third[] = {0x00, 0x22, 0x7F, 0x80, 0x8F,
                                          0x90, 0x9F, 0xA0, 0xBF, 0xC0};
    for (unsigned lead = 0x80; lead <= 0xFF; lead++) {
        for (unsigned second = 0; second <= 0xFF; second++) {
            unsigned char bytes[4] = {(unsigned char)lead, (unsigned char)second};
            assert_int_equal(json_utf8_prefix((char *)bytes, 2) == 2, is_utf8(bytes, 2));
            for (size_t i = 0; i < sizeof third; i++) {
                bytes[2] = third[i];
                /* is_utf8 knows one sequence; "two bytes and ASCII" is not what is asked here */
                if (!is_utf8(bytes, 2))
                    assert_int_equal(json_utf8_prefix((char *)bytes, 3) == 3, is_utf8(bytes, 3));
                for (size_t j = 0; j < sizeof third; j++) {
                    bytes[3] = third[j];
                    if (!is_utf8(bytes, 2) && !is_utf8(bytes, 3))
                        assert_int_equal(json_utf8_prefix((char *)bytes, 4) == 4,
                                         is_utf8(bytes, 4));
                }
            }
        }
    }
    assert_int_equal(json_utf8_prefix("ab\xc3\xa9\xc3", 5), 4);
}

static void a_special_byte_is_seen_at_every_distance_from_the_quote(void **state) {
    (void)state;
    static const struct {
        const char *bytes;
        bool good;
    } cases[] = {{"\\n", true},     {"\xc3\xa9", true},
                 {"\x7f", true},    {"\x01", false},
                 {"\x1f", false},   {"\xff", false},
                 {"\x80", false},   {"\"", false},
                 {"\\x", false},    {"\xe2\x82\xac", true},
                 {" ", true},       {"!", true},
                 {"\\u00e9", true}, {"#", true},
                 {"[", true},       {"]", true}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (size_t before = 0; before < 40; before++) {
            char text[100] = "\"";
            memset(text + 1, 'x', before);
            strcpy(text + 1 + before, cases[i].bytes);
            for (int after = 0; after < 20; after++) {
                size_t length = strlen(text);
                text[length] = '"';
                assert_int_equal(check(text, length + 1, false), cases[i].good);
                assert_false(check(text, length, false) && *cases[i].bytes != '"');
                text[length] = 'x';
            }
        }
    }
}

static void no_beginning_of_a_text_passes_for_the_whole(void **state) {
    (void)state;
    static const char text[] =
        "{\"a\" : [1.5e+10, -0, true, false, null, {}, [] , \"x\\u00e9\\ud83d\\ude00\\n\xc3\xa9\"],"
        " \"a\\/b\": {\"c\": \"0123456789abcdef\"} }";
    for (size_t length = 0; length < sizeof text - 1; length++) {
        assert_false(check(text, length, false));
        assert_true(error.offset <= length);
    }
    assert_true(accepts(text));
}

static void nesting_ends_at_1024(void **state) {
    (void)state;
    static const char *const open[] = {"[", "{\"a\":"}, *const close[] = {"]", "}"};
    for (int kind = 0; kind < 3; kind++) {
        for (int depth = JSON_DEPTH - 1; depth <= JSON_DEPTH + 1; depth++) {
            static char text[8 * JSON_DEPTH];
            *text = '\0';
            for (int i = 0; i < depth; i++) strcat(text, open[kind == 2 ? i % 2 : kind]);
            strcat(text, "0");
            for (int i = depth - 1; i >= 0; i--) strcat(text, close[kind == 2 ? i % 2 : kind]);
            assert_int_equal(accepts(text), depth <= JSON_DEPTH);
        }
    }
    static char open_only[1000000]; /* must not need the C stack */
    memset(open_only, '[', sizeof open_only);
    assert_false(check(open_only, sizeof open_only, false));
    assert_int_equal(error.offset, JSON_DEPTH);
}

static void a_lone_surrogate_is_text_that_cannot_be_decoded(void **state) {
    (void)state;
    static const struct {
        const char *text;
        size_t at; /* 0 when it can */
    } cases[] = {
        {"\"\\ud83d\\ude00\"", 0},
        {"\"\\uD83D\\uDE00\"", 0},
        {"\"\\ud800\"", 1},
        {"[\"\\udc00\"]", 2},
        {"{\"\\udfff\": 1}", 2},
        {"\"\\ud83dx\"", 1},
        {"\"\\ud83d\\n\"", 1},
        {"\"\\ud83d\\u0041\"", 1},
        {"\"\\ude00\\ud83d\"", 1},
        {"\"\\ud83d\\ud83d\\ude00\"", 1},
        {"\"\\\\ud800\"", 0},
        {"\"\\ud7ff\\ue000\"", 0},
        {"[\"\\ud83d\\ude00\\udbff\"]", 14},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_true(accepts(cases[i].text));
        assert_int_equal(check(cases[i].text, strlen(cases[i].text), true), cases[i].at == 0);
        if (cases[i].at) assert_int_equal(error.offset, cases[i].at);
    }
}

static void a_reader_that_failed_goes_on_failing(void **state) {
    (void)state;
    struct json_reader reader;
    struct json_value value;
    json_open(&reader, "[1 2]", 5);
    assert_int_equal(json_next(&reader, &value), JSON_ARRAY);
    assert_int_equal(json_next(&reader, &value), JSON_NUMBER);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(json_next(&reader, &value), JSON_ERROR);
        assert_int_equal(reader.error.offset, 3);
    }
}

static void the_end_is_told_again_and_again(void **state) {
    (void)state;
    struct json_reader reader;
    struct json_value value;
    json_open(&reader, " 1 ", 3);
    assert_int_equal(json_next(&reader, &value), JSON_NUMBER);
    for (int i = 0; i < 3; i++) assert_int_equal(json_next(&reader, &value), JSON_ABSENT);
}

/* What the text has at a pointer, as its own bytes; "-" for nothing, "!" for a malformed text. */
static const char *found_at(const char *text, const char *pointer) {
    static struct json_node nodes[64];
    static char found[256];
    struct json_plan plan = {.nodes = nodes};
    size_t length = strlen(text);
    char *copy = malloc(length + 1);
    assert_non_null(copy);
    memcpy(copy, text, length);
    assert_in_range(json_pointer_nodes(pointer, strlen(pointer)), 1, 64);
    uint32_t node = json_plan_add(&plan, pointer, strlen(pointer));
    strcpy(found, "!");
    if (json_find(copy, length, &plan, &error)) {
        const struct json_value *value = &nodes[node].found;
        snprintf(found, sizeof found, "%.*s", value->type ? (int)value->length : 1,
                 value->type ? value->at : "-");
    }
    free(copy);
    return found;
}

static void pointers_find_what_rfc_6901_says(void **state) {
    (void)state;
    static const char text[] =
        " {\"foo\": [\"bar\", [1, 2 ]], \"\": 0, \"a/b\": 1, \"c%d\": 2, "
        "\"k\\\"l\": 6, \" \": 7, \"m~n\": 8, \"~1\": 9, \"0\": {\"1\": []}, "
        "\"\\u0065\\u00e9\": {\"x\":3} , \"-\": 4} ";
    static const char *const cases[][2] = {
        {"/foo", "[\"bar\", [1, 2 ]]"},
        {"/foo/0", "\"bar\""},
        {"/foo/1/1", "2"},
        {"/", "0"},
        {"/a~1b", "1"},
        {"/c%d", "2"},
        {"/k\"l", "6"},
        {"/ ", "7"},
        {"/m~0n", "8"},
        {"/~01", "9"},
        {"/0/1", "[]"},
        {"/e\xc3\xa9/x", "3"},
        {"/-", "4"},
        {"/foo/2", "-"},
        {"/foo/-", "-"},
        {"/foo/00", "-"},
        {"/foo/01", "-"},
        {"/foo/+1", "-"},
        {"/foo/1e0", "-"},
        {"/foo/18446744073709551616", "-"},
        {"/foo/0/0", "-"},
        {"/e", "-"},
        {"/fo", "-"},
        {"/fooo", "-"},
        {"/0/1/0", "-"},
        {"//", "-"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_string_equal(found_at(text, cases[i][0]), cases[i][1]);
    assert_string_equal(found_at(" [1 ] ", ""), "[1 ]");
    assert_string_equal(found_at("{\"a\": 1", "/a"), "!");
}

static void of_duplicate_keys_the_last_answers_also_on_the_way(void **state) {
    (void)state;
    assert_string_equal(found_at("{\"a\": 1, \"a\": 2}", "/a"), "2");
    assert_string_equal(found_at("{\"a\": 1, \"\\u0061\": 2}", "/a"), "2");
    assert_string_equal(found_at("{\"a\": {\"b\": 1}, \"a\": {}}", "/a/b"), "-");
    assert_string_equal(found_at("{\"a\": {\"b\": {\"c\": 1}}, \"a\": {\"b\": {}}}", "/a/b/c"),
                        "-");
    assert_string_equal(found_at("{\"a\": {\"b\": 1}, \"a\": 5}", "/a/b"), "-");
    assert_string_equal(found_at("{\"a\": [1, 2], \"a\": [3]}", "/a/1"), "-");
    assert_string_equal(found_at("{\"a\": {\"b\": 1}, \"x\": {\"b\": 2}}", "/a/b"), "1");
}

static void only_rfc_6901_pointers_are_pointers(void **state) {
    (void)state;
    assert_int_equal(json_pointer_nodes("", 0), 1);
    assert_int_equal(json_pointer_nodes("/a/~0~1", 7), 3);
    assert_int_equal(json_pointer_nodes("a", 1), 0);
    assert_int_equal(json_pointer_nodes("#/a", 3), 0);
    assert_int_equal(json_pointer_nodes("/~", 2), 0);
    assert_int_equal(json_pointer_nodes("/~2", 3), 0);
    static char deep[JSON_DEPTH + 1];
    memset(deep, '/', sizeof deep);
    assert_int_equal(json_pointer_nodes(deep, JSON_DEPTH), JSON_DEPTH + 1);
    assert_int_equal(json_pointer_nodes(deep, JSON_DEPTH + 1), 0);
}

static void a_plan_finds_all_its_pointers_in_one_pass(void **state) {
    (void)state;
    struct json_node nodes[16];
    struct json_plan plan = {.nodes = nodes};
    uint32_t id = json_plan_add(&plan, "/custom_id", 10);
    uint32_t status = json_plan_add(&plan, "/response/status_code", 21);
    uint32_t content = json_plan_add(&plan, "/response/body/choices/0", 24);
    uint32_t again = json_plan_add(&plan, "/custom_id", 10);
    assert_int_equal(again, id);
    assert_int_equal(plan.count, 7);
    static const char good[] = "{\"custom_id\": \"x\", \"response\": {\"status_code\": 200, "
                               "\"body\": {\"choices\": [{\"a\": 1}, 2]}}}";
    assert_true(json_find(good, sizeof good - 1, &plan, &error));
    assert_int_equal(nodes[0].found.length, sizeof good - 1);
    assert_int_equal(nodes[id].found.type, JSON_STRING);
    assert_int_equal(nodes[status].found.type, JSON_NUMBER);
    assert_memory_equal(nodes[content].found.at, "{\"a\": 1}", nodes[content].found.length);
    /* What one text had must not show up in the next. */
    assert_true(json_find("{\"response\": null}", 18, &plan, &error));
    assert_int_equal(nodes[id].found.type, JSON_ABSENT);
    assert_int_equal(nodes[status].found.type, JSON_ABSENT);
    assert_int_equal(nodes[content].found.type, JSON_ABSENT);
}

static void strings_mean_what_their_escapes_say(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"\"\"", ""},
        {"\"plain\"", "plain"},
        {"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\/\b\f\n\r\t"},
        {"\"\\u0041\\u007f\\u0080\\u07FF\\u0800\\uffff\"",
         "A\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80\xef\xbf\xbf"},
        {"\"\\ud800\\udc00\\udbff\\udfff\"", "\xf0\x90\x80\x80\xf4\x8f\xbf\xbf"},
        {"\"x\\\\u0041\xc3\xa9\\ny\"", "x\\u0041\xc3\xa9\ny"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct json_reader reader;
        struct json_value value;
        size_t size;
        json_open(&reader, cases[i][0], strlen(cases[i][0]));
        assert_int_equal(json_next(&reader, &value), JSON_STRING);
        char *out = malloc(value.length); /* and not a byte more */
        assert_non_null(out);
        assert_true(json_unescape(&value, out, &size));
        assert_int_equal(size, strlen(cases[i][1]));
        assert_memory_equal(out, cases[i][1], size);
        free(out);
    }
}

static void a_string_with_a_lone_surrogate_is_not_decoded(void **state) {
    (void)state;
    static const struct {
        const char *text;
        size_t at;
    } cases[] = {
        {"\"ab\\ud800\"", 3},      {"\"\\udc00\"", 1},    {"\"\\ud83d\\ude00\\ude00\"", 13},
        {"\"\\ud83d\\u0041\"", 1}, {"\"\\n\\ud83d\"", 3}, {"\"\\ud83d\\ud83d\\ude00\"", 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct json_value value = {JSON_STRING, true, cases[i].text, strlen(cases[i].text)};
        char out[64];
        size_t at;
        assert_false(json_unescape(&value, out, &at));
        assert_int_equal(at, cases[i].at);
    }
}

static void a_string_may_hold_a_json_text(void **state) {
    (void)state;
    static const struct {
        const char *text;
        bool good;
    } cases[] = {
        {"\"{}\"", true},
        {"\"[1, 2]\"", true},
        {"\"{\\\"a\\\":\\n [\\\"x\\\\ny\\\"]}\"", true},
        {"\"{\\\"a\\\":\\n [\\\"x\\ny\\\"]}\"", false}, /* a raw line break in the string within */
        {"\"\"", false},
        {"\" \\n\\t\"", false},
        {"\" 1 \"", true},
        {"\"\\u000b\\f\\r [] \\n\\u000b\"", true}, /* white space to Lua, not to JSON */
        {"\"[\\f]\"", false},
        {"\"\\u0000[]\"", false},
        {"\"[] x\"", false},
        {"\"[\"", false},
        {"\"\\u005b\\u005D\"", true},
        {"\"[\\\"\\ud83d\\ude00\\\"]\"", true},
        {"\"[\\\"\\ud83d\\\"]\"", false},   /* lone outside */
        {"\"[\\\"\\\\ud83d\\\"]\"", false}, /* lone within */
        {"\"[\\\"\\\\ud83d\\\\ude00\\\"]\"", true},
        {"\"[\\\"\xc3\xa9\\\"]\"", true},
        {"\"\\ufeff[]\"", false}, /* a byte order mark */
        {"\"\\u00a0[]\"", false}, /* a space, but not Lua's */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct json_reader reader;
        struct json_value value;
        size_t length = strlen(cases[i].text);
        char *copy = malloc(length), *scratch = malloc(length + 64);
        assert_true(copy && scratch);
        memcpy(copy, cases[i].text, length);
        json_open(&reader, copy, length);
        assert_int_equal(json_next(&reader, &value), JSON_STRING);
        if (json_inner(&value, scratch) != cases[i].good) fail_msg("%s", cases[i].text);
        free(copy);
        free(scratch);
    }
}

static void a_plan_tells_of_a_lone_surrogate_anywhere(void **state) {
    (void)state;
    struct json_node nodes[4];
    struct json_plan plan = {.nodes = nodes};
    json_plan_add(&plan, "/a", 2);
    static const char text[] = "{\"a\": 1, \"b\": [\"\\ud800\", \"\\udfff\"]}";
    assert_true(json_find(text, sizeof text - 1, &plan, &error));
    assert_ptr_equal(plan.lone, strchr(text, '\\'));
    assert_true(json_find("{\"a\": \"\\ud83d\\ude00\"}", 21, &plan, &error));
    assert_null(plan.lone);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_fixture_gets_the_verdict_of_its_name),
        cmocka_unit_test(bytes_that_are_not_text_are_refused_where_they_are),
        cmocka_unit_test(utf8_is_judged_as_its_definition_does),
        cmocka_unit_test(a_special_byte_is_seen_at_every_distance_from_the_quote),
        cmocka_unit_test(no_beginning_of_a_text_passes_for_the_whole),
        cmocka_unit_test(nesting_ends_at_1024),
        cmocka_unit_test(a_lone_surrogate_is_text_that_cannot_be_decoded),
        cmocka_unit_test(a_reader_that_failed_goes_on_failing),
        cmocka_unit_test(the_end_is_told_again_and_again),
        cmocka_unit_test(pointers_find_what_rfc_6901_says),
        cmocka_unit_test(of_duplicate_keys_the_last_answers_also_on_the_way),
        cmocka_unit_test(only_rfc_6901_pointers_are_pointers),
        cmocka_unit_test(a_plan_finds_all_its_pointers_in_one_pass),
        cmocka_unit_test(strings_mean_what_their_escapes_say),
        cmocka_unit_test(a_string_with_a_lone_surrogate_is_not_decoded),
        cmocka_unit_test(a_string_may_hold_a_json_text),
        cmocka_unit_test(a_plan_tells_of_a_lone_surrogate_anywhere),
    };
    int failed = 0;
    for (int i = 0; simd_name(i); i++) {
        simd_choose(simd_name(i));
        printf("# %s\n", simd_level());
        failed += cmocka_run_group_tests(tests, NULL, NULL);
    }
    return failed;
}
