/* The levels against each other: what the vectors say is what plain C says, for every length, at
 * every place of a block, with nothing readable behind the text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "simd.h"
#include "texts.h"

#include <stdlib.h>

static struct edge text_edge, scratch_edge;

static int make_edges(void **state) {
    (void)state;
    text_edge = make_edge();
    scratch_edge = make_edge();
    return 0;
}

/* All that is said about some bytes. */
struct verdict {
    bool good[2], found, inner, unescaped;
    char why[3][48];
    size_t at[3], valid, plain, size, lone, value_at, value_length;
    enum json_type type;
    char meaning[ROOM];
};

static void keep(struct verdict *verdict, int i, const struct json_error *error) {
    verdict->at[i] = error->offset;
    if (error->message) strncpy(verdict->why[i], error->message, sizeof verdict->why[i] - 1);
}

static void judge(const char *bytes, size_t length, struct verdict *verdict) {
    memset(verdict, 0, sizeof *verdict);
    const char *text = at_edge(&text_edge, bytes, length);
    struct json_error error;
    for (int i = 0; i < 2; i++) {
        verdict->good[i] = json_check(text, length, i, &error);
        if (!verdict->good[i]) keep(verdict, i, &error);
    }
    verdict->valid = json_utf8_prefix(text, length);
    verdict->plain = simd_json_plain(text, length);
    struct json_node nodes[8];
    struct json_plan plan = {.nodes = nodes};
    uint32_t node = json_plan_add(&plan, "/key/1", 6);
    verdict->found = json_find(text, length, &plan, &error);
    if (!verdict->found) {
        keep(verdict, 2, &error);
        return;
    }
    verdict->lone = plan.lone ? (size_t)(plan.lone - text) : SIZE_MAX;
    verdict->type = nodes[node].found.type;
    if (verdict->type) verdict->value_at = (size_t)(nodes[node].found.at - text);
    verdict->value_length = nodes[node].found.length;
    if (nodes[0].found.type != JSON_STRING) return;
    struct json_value string = nodes[0].found;
    verdict->unescaped =
        json_unescape(&string, at_edge(&scratch_edge, NULL, string.length), &verdict->size);
    if (verdict->unescaped)
        memcpy(verdict->meaning, at_edge(&scratch_edge, NULL, string.length), verdict->size);
    verdict->inner = json_inner(&string, at_edge(&scratch_edge, NULL, string.length + 64));
}

/* Whether the string's meaning, trimmed, is decodable JSON: by way of the meaning. */
static bool holds_json(const struct verdict *verdict) {
    const char *at = verdict->meaning, *end = at + verdict->size;
    static const char space[] = " \t\n\v\f\r";
    struct json_error ignored;
    while (at < end && memchr(space, *at, 6)) at++;
    while (at < end && memchr(space, end[-1], 6)) end--;
    return verdict->unescaped && json_check(at, (size_t)(end - at), true, &ignored);
}

static void levels_agree(const char *bytes, size_t length) {
    static struct verdict plain, other;
    assert_true(simd_choose("portable"));
    judge(bytes, length, &plain);
    if (plain.inner != (plain.found && holds_json(&plain)))
        fail_msg("inner: %s", shown(bytes, length));
    for (int i = 0; simd_name(i); i++) {
        assert_true(simd_choose(simd_name(i)));
        judge(bytes, length, &other);
        if (memcmp(&plain, &other, sizeof plain) != 0)
            fail_msg("portable and %s differ: %s", simd_name(i), shown(bytes, length));
    }
    assert_true(simd_choose(NULL));
}

static const struct {
    const char *bytes;
    size_t length;
} pieces[] = {
#define PIECE(bytes)                                                                               \
    { bytes, sizeof(bytes) - 1 }
    PIECE("\""),           PIECE("\\"),
    PIECE("\\\""),         PIECE("\\\\"),
    PIECE("\\n"),          PIECE("\\/"),
    PIECE("\\b"),          PIECE("\\x"),
    PIECE("\\u00e9"),      PIECE("\\u00"),
    PIECE("\\ud83d"),      PIECE("\\ud83d\\ude00"),
    PIECE("\\ud83d\\n"),   PIECE("\0"),
    PIECE("\x1f"),         PIECE(" "),
    PIECE("\x7f"),         PIECE("\x80"),
    PIECE("\xc3"),         PIECE("\xc3\xa9"),
    PIECE("\xc1\xbf"),     PIECE("\xe2\x82\xac"),
    PIECE("\xe2\x82"),     PIECE("\xe0\x9f\xbf"),
    PIECE("\xed\xa0\x80"), PIECE("\xf4\x90\x80\x80"),
    PIECE("\xf0\x9f\x98"), PIECE("\xf0\x9f\x98\x80"),
    PIECE("\xff"),         PIECE("\\\\\\\""),
    PIECE("\\\\n"),        PIECE("\n"),
};

static void every_piece_at_every_place_of_a_string(void **state) {
    (void)state;
    static const char *const fillers[] = {"x", "\xc3\xa9"};
    for (size_t filler = 0; filler < 2; filler++) {
        size_t step = strlen(fillers[filler]);
        for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
            for (size_t before = 0; before < 140; before++) {
                static const size_t afters[] = {0, 1, 30, 64, 70};
                for (size_t j = 0; j < sizeof afters / sizeof *afters; j++) {
                    char text[1000] = "\"";
                    size_t length = 1;
                    for (size_t k = 0; k < before; k++, length += step)
                        memcpy(text + length, fillers[filler], step);
                    memcpy(text + length, pieces[i].bytes, pieces[i].length);
                    length += pieces[i].length;
                    for (size_t k = 0; k < afters[j]; k++, length += step)
                        memcpy(text + length, fillers[filler], step);
                    text[length++] = '"';
                    levels_agree(text, length);
                    if (j == 0) levels_agree(text + 1, length - 2); /* cut, and no string */
                }
            }
        }
    }
}

static void runs_of_backslashes_of_every_length(void **state) {
    (void)state;
    for (size_t before = 0; before < 66; before++) {
        for (size_t run = 0; run < 135; run += run < 6 || run > 58 ? 1 : 7) {
            char text[400] = "\"";
            memset(text + 1, 'x', before);
            memset(text + 1 + before, '\\', run);
            strcpy(text + 1 + before + run, "\"n\\\"\"");
            levels_agree(text, strlen(text));
        }
    }
}

static void whatever_comes_at_random(void **state) {
    (void)state;
    for (int round = 0; round < 20000; round++) {
        char text[ROOM];
        size_t length = 0, wanted = random_below(300), faults = random_below(3);
        bool string = random_below(4) > 0;
        if (string) text[length++] = '"';
        while (length < wanted) {
            /* Mostly what is legal, or nothing would get far. */
            size_t i = random_below(sizeof pieces / sizeof *pieces * 4);
            if (i < sizeof pieces / sizeof *pieces && (faults == 0 || random_below(20) == 0)) {
                struct json_error ignored;
                char alone[32] = "\"";
                memcpy(alone + 1, pieces[i].bytes, pieces[i].length);
                alone[pieces[i].length + 1] = '"';
                if (faults == 0 && !json_check(alone, pieces[i].length + 2, false, &ignored))
                    continue;
                memcpy(text + length, pieces[i].bytes, pieces[i].length);
                length += pieces[i].length;
            } else {
                text[length++] = "abn{}[]:,0 1tu-e."[random_below(17)];
            }
        }
        if (string) text[length++] = '"';
        levels_agree(text, length);
    }
}

/* Some JSON, at most as deep, and of about 1,500 bytes. */
static size_t add_json(char *text, size_t length, size_t depth) {
    static const char *const leaves[] = {
        "0",
        "-1.5e+10",
        "12345678",
        "123456789.012",
        "true",
        "false",
        "null",
        "\"\"",
        "\"key\"",
        "\"say \\\"yes\\\"\\n\"",
        "\"\\u20ac\\ud83d\\ude00 \\\\ \\/\"",
        "\"\xe6\x97\xa5\xe6\x9c\xac\"",
        "\"a text of more than sixty-four bytes, so that it fills one or two of those\""};
    static const char *const spaces[] = {
        "", "", "", " ", " ", "\n    ", "\r\n\t", "\n                                    "};
    size_t kind = random_below(depth > 0 && length < 1500 ? 4 : 2);
    if (kind < 2) return add(text, length, leaves[random_below(sizeof leaves / sizeof *leaves)]);
    length = add(text, length, kind == 2 ? "[" : "{");
    for (size_t count = random_below(5), i = 0; i < count; i++) {
        if (i > 0) length = add(text, length, ",");
        length = add(text, length, spaces[random_below(8)]);
        if (kind == 3) {
            length = add(text, length, i == 1 ? "\"key\"" : "\"a\\\"b\"");
            length = add(text, length, spaces[random_below(8)]);
            length = add(text, length, ":");
            length = add(text, length, spaces[random_below(8)]);
        }
        length = add_json(text, length, depth - 1);
        length = add(text, length, spaces[random_below(8)]);
    }
    return add(text, length, kind == 2 ? "]" : "}");
}

static size_t add_string(char *to, const char *text, size_t length) {
    size_t size = add(to, 0, "\"");
    for (size_t i = 0; i < length; i++) {
        const char *escape = text[i] == '"'    ? "\\\""
                             : text[i] == '\\' ? "\\\\"
                             : text[i] == '\n' ? "\\n"
                             : text[i] == '\r' ? "\\r"
                             : text[i] == '\t' ? "\\t"
                                               : NULL;
        if (escape)
            size = add(to, size, escape);
        else
            to[size++] = text[i];
    }
    return add(to, size, "\"");
}

static void json_in_a_string_whole_and_damaged(void **state) {
    (void)state;
    for (int round = 0; round < 4000; round++) {
        char text[ROOM], string[2 * ROOM];
        size_t length = add_json(text, 0, 5);
        levels_agree(text, length);
        size_t size = add_string(string, text, length);
        if (size > ROOM) continue;
        levels_agree(string, size);
        for (int i = 0; i < 4; i++) {
            char damaged[ROOM];
            memcpy(damaged, string, size);
            damaged[1 + random_below(size - 2)] = "\\\"{}[]:,0nu \xc3"[random_below(13)];
            levels_agree(damaged, size);
        }
    }
}

/* Containers that are open are bits of one word, as long as they fit. */
static void json_in_a_string_closes_what_it_opens_at_every_depth(void **state) {
    (void)state;
    for (size_t kind = 0; kind < 3; kind++) {
        for (size_t depth = 60; depth < 70; depth++) {
            for (size_t closed = 0; closed <= depth + 1; closed++) {
                char text[ROOM];
                size_t length = add(text, 0, "\"");
                for (size_t i = 0; i < depth; i++)
                    length = add(text, length, (kind + i) % 3 ? "{\\\"a\\\":" : "[");
                length = add(text, length, "0");
                for (size_t i = depth + 1; i-- > depth + 1 - closed;)
                    length = add(text, length, (kind + i + 2) % 3 ? "}" : "]");
                levels_agree(text, add(text, length, "\""));
                if (kind > 0) continue;
                /* And all of one kind. */
                length = add(text, 0, "\"");
                for (size_t i = 0; i < depth; i++) length = add(text, length, "{\\\"a\\\":");
                length = add(text, length, "0");
                for (size_t i = 0; i < closed; i++) length = add(text, length, "}");
                levels_agree(text, add(text, length, "\""));
            }
        }
    }
}

/* What has come before is not read again, so it must be what comes now: the same bytes, with the
 * same containers around them, behind a value. */
static void json_in_a_string_that_repeats_itself(void **state) {
    (void)state;
    static const char *const values[] = {
        "1",
        "-0.25",
        "true",
        "null",
        "\"\"",
        "\"said \\\"yes\\\"\"",
        "[]",
        "{}",
        "[1, 20]",
        "[\"a\", \"b\"]",
        "\"as long as a description of what is there to be seen, or longer\"",
        "{\"x\": 1}"};
    static const char *const faults[] = {",", ":", " ", "]", "}", "[", "{", "\"", "1", "x", ""};
    for (int round = 0; round < 600; round++) {
        const char *between = round % 3 ? ", " : ",\n    ", *colon = round % 2 ? ":" : ": ";
        size_t length = 0, fields = 1 + random_below(4), usual[4];
        char text[ROOM], string[2 * ROOM];
        for (int i = 0; i < 4; i++) usual[i] = random_below(12);
        length = add(text, length, round % 5 ? "{\"items\": [" : "[");
        while (length < 900) {
            if (text[length - 1] != '[') length = add(text, length, between);
            length = add(text, length, round % 7 ? "{" : "[");
            for (size_t i = 0; i < fields; i++) {
                size_t kind = random_below(6) ? usual[i] : random_below(12);
                if (i > 0) length = add(text, length, between);
                if (round % 7) {
                    length = add(text, length, i == 0 ? "\"key\"" : i == 1 ? "\"box\"" : "\"a\"");
                    length = add(text, length, colon);
                }
                length = add(text, length, values[kind]);
            }
            length = add(text, length, round % 7 ? "}" : "]");
            /* One fault in some of the texts, at the end of any of the items. */
            if (random_below(40) == 0) length = add(text, length, faults[random_below(11)]);
        }
        length = add(text, length, round % 5 ? "]}" : "]");
        size_t size = add_string(string, text, length);
        if (size > ROOM) continue;
        levels_agree(string, size);
        for (int i = 0; i < 20; i++) {
            char damaged[ROOM];
            size_t at = 1 + random_below(size - 2);
            memcpy(damaged, string, size);
            damaged[at] = "\\\"{}[]:,0nu x"[random_below(13)];
            levels_agree(damaged, size);
        }
    }
}

/* The usual answer is judged as it stands: it is never copied. Nor is one whose items are not quite
 * like those before. */
static void usual_json_in_a_string_is_not_taken_out_of_it(void **state) {
    (void)state;
    static const char first[] =
        "{\\n  \\\"title\\\": \\\"caf\\u00e9 \xe6\x97\xa5\\\",\\n  \\\"items\\\": [";
    static const char *const items[] = {
        "{\\n\\\"bbox\\\": [8,13], \\\"said\\\" : \\\"\\\\\\\"yes\\\\\\\"\\\\n\\\"}",
        "{\\n\\\"bbox\\\": [], \\\"c\\\":   null}",
        "{\\n\\\"bbox\\\": [-1], \\\"c\\\": {}}",
        "{}",
    };
    for (int i = 0; simd_name(i); i++) {
        char string[ROOM], scratch[ROOM + 64], untouched[sizeof scratch];
        size_t length = add(string, add(string, 0, "\""), first);
        for (int item = 0; item < 40; item++) {
            if (item > 0) length = add(string, length, ",");
            length = add(string, length, items[item < 8 ? 0 : random_below(4)]);
        }
        length = add(string, length, "\\n  ]\\n}\"");
        struct json_value value = {JSON_STRING, true, string, length};
        memset(scratch, '#', sizeof scratch);
        memset(untouched, '#', sizeof untouched);
        assert_true(simd_choose(simd_name(i)));
        assert_true(json_inner(&value, scratch));
        assert_memory_equal(scratch, untouched, sizeof scratch);
    }
    assert_true(simd_choose(NULL));
}

static void base64_is_that_of_rfc_4648(void **state) {
    (void)state;
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (int level = 0; simd_name(level); level++) {
        assert_true(simd_choose(simd_name(level)));
        for (size_t length = 0; length < 800; length++) {
            unsigned char bytes[800];
            char expected[1100], *to = expected;
            /* All 4096 pairs of digits come by. */
            for (size_t i = 0; i < length; i++)
                bytes[i] = (unsigned char)(length < 400 ? random_below(256) : i * 7 + length);
            for (size_t i = 0; i < length; i += 3) {
                unsigned group = (unsigned)bytes[i] << 16;
                if (i + 1 < length) group |= (unsigned)bytes[i + 1] << 8;
                if (i + 2 < length) group |= bytes[i + 2];
                *to++ = digits[group >> 18];
                *to++ = digits[group >> 12 & 63];
                *to++ = i + 1 < length ? digits[group >> 6 & 63] : '=';
                *to++ = i + 2 < length ? digits[group & 63] : '=';
            }
            size_t size = (size_t)(to - expected);
            char *out = at_edge(&scratch_edge, NULL, size);
            const void *from = at_edge(&text_edge, bytes, length);
            assert_int_equal(simd_base64(out, from, length), size);
            assert_memory_equal(out, expected, size);
        }
    }
    assert_true(simd_choose(NULL));
}

static void a_level_that_is_not_here_is_not_taken(void **state) {
    (void)state;
    const char *best = simd_name(0);
    assert_true(simd_choose("portable"));
    assert_false(simd_choose("sse9"));
    assert_false(simd_choose(strcmp(best, "neon") == 0 ? "avx2" : "neon"));
    assert_string_equal(simd_level(), "portable");
    assert_true(simd_choose(""));
    assert_string_equal(simd_level(), best);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_piece_at_every_place_of_a_string),
        cmocka_unit_test(runs_of_backslashes_of_every_length),
        cmocka_unit_test(whatever_comes_at_random),
        cmocka_unit_test(json_in_a_string_whole_and_damaged),
        cmocka_unit_test(json_in_a_string_closes_what_it_opens_at_every_depth),
        cmocka_unit_test(json_in_a_string_that_repeats_itself),
        cmocka_unit_test(usual_json_in_a_string_is_not_taken_out_of_it),
        cmocka_unit_test(base64_is_that_of_rfc_4648),
        cmocka_unit_test(a_level_that_is_not_here_is_not_taken),
    };
    return cmocka_run_group_tests(tests, make_edges, NULL);
}
