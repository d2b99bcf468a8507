/* Makes the data of the benchmark. The same arguments give the same bytes.
 *
 *   data results N BYTES FILE    N result lines of about BYTES each: an answer that is JSON again,
 * half of them laid out over lines, half with \u escapes; some in a Markdown fence, 3 % bad data
 * requests N BYTES FILE   N requests with an image of about BYTES in base64 data ids N STEP FILE
 * every STEP-th custom_id of such requests data images N BYTES DIR      N files of about BYTES that
 * begin like a JPEG, in 16 folders data tree N DIR              N empty files with eight endings,
 * 100 in a folder */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- chance: splitmix64 ---- */

static uint64_t state = 6;

static uint64_t chance(void) {
    uint64_t z = state += UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

static unsigned below(unsigned n) {
    return (unsigned)((chance() >> 32) * n >> 32);
}

/* About `mean`: from half to one and a half of it. */
static size_t about(size_t mean) {
    return mean / 2 + below((unsigned)mean);
}

static void fail(const char *what) {
    fprintf(stderr, "data: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* ---- files ---- */

static FILE *create(const char *path) {
    FILE *file = fopen(path, "wb");
    if (!file) fail(path);
    setvbuf(file, NULL, _IOFBF, 1 << 18);
    return file;
}

static void done(FILE *file, const char *path) {
    if (ferror(file) | fclose(file)) fail(path);
}

static void folder(const char *path) {
    if (mkdir(path, 0777) != 0 && errno != EEXIST) fail(path);
}

/* ---- answers ---- */

struct text {
    char *bytes;
    size_t length, room;
};

__attribute__((format(printf, 2, 3))) static void add(struct text *text, const char *format, ...) {
    char piece[1024];
    va_list values;
    va_start(values, format);
    size_t length = (size_t)vsnprintf(piece, sizeof piece, format, values);
    va_end(values);
    if (text->length + length > text->room) {
        text->room = 2 * text->room + sizeof piece;
        text->bytes = realloc(text->bytes, text->room);
        if (!text->bytes) fail("memory");
    }
    memcpy(text->bytes + text->length, piece, length);
    text->length += length;
}

static void add_words(struct text *text, unsigned count) {
    static const char *const words[] = {
        "a",       "and",     "at",      "before",  "below",  "blue",  "born", "by",      "clerk",
        "copy",    "county",  "crossed", "dated",   "entry",  "folio", "for",  "in",      "ink",
        "left",    "letter",  "margin",  "married", "number", "of",    "on",   "page",    "parish",
        "reading", "seal",    "signed",  "sold",    "stamp",  "the",   "then", "torn",    "two",
        "under",   "unclear", "word",    "year",    "house",  "of",    "land", "sixteen", "für",
        "Łódź",    "naïve",   "東京",    "£12"};
    for (unsigned i = 0; i < count; i++)
        add(text, "%s%s", i ? " " : "", words[below(sizeof words / sizeof *words)]);
}

/* An object with a list of findings, about `size` bytes. */
static void add_answer(struct text *text, size_t size, bool on_lines) {
    const char *line = on_lines ? "\n    " : "", *space = on_lines ? " " : "";
    add(text, "{%s\"page\":%s\"", on_lines ? "\n  " : "", space);
    add_words(text, 6);
    add(text, "\",%s\"items\":%s[", on_lines ? "\n  " : "", space);
    for (unsigned i = 0; i == 0 || text->length + 180 < size; i++) {
        add(text, "%s%s{\"text\":%s\"", i ? "," : "", line, space);
        add_words(text, 6 + below(24));
        if (below(3) == 0) add(text, ", \\\"as written\\\",\\nover two lines");
        add(text, "\",%s\"bbox\":%s[%u,%u,%u,%u],%s", space, space, below(3000), below(3000),
            below(3000), below(3000), space);
        add(text, "\"score\":%s%u.%03ue-%u,%s\"checked\":%s%s}", space, 1 + below(9), below(1000),
            below(3), space, space,
            below(3) == 0 ? "null"
            : below(2)    ? "true"
                          : "false");
    }
    add(text, "%s],%s\"total\":%s%u%s}", on_lines ? "\n  " : "", on_lines ? "\n  " : "", space,
        below(5000), on_lines ? "\n" : "");
}

/* Adds the bytes between the quotes of a JSON string; `ascii`: other characters as \uXXXX. */
static void add_escaped(struct text *text, const struct text *from, bool ascii) {
    for (size_t i = 0; i < from->length;) {
        unsigned char c = (unsigned char)from->bytes[i];
        size_t length = c < 0x80 ? 1 : c < 0xE0 ? 2 : 3;
        if (c == '\n' || c == '"' || c == '\\') {
            add(text, "\\%c", c == '\n' ? 'n' : c);
        } else if (c >= 0x80 && ascii) {
            unsigned code = c & (length == 2 ? 0x1Fu : 0x0Fu);
            for (size_t k = 1; k < length; k++)
                code = code << 6 | ((unsigned char)from->bytes[i + k] & 0x3Fu);
            add(text, "\\u%04x", code);
        } else {
            add(text, "%.*s", (int)length, from->bytes + i);
        }
        i += length;
    }
}

/* ---- results ---- */

/* What is unusual about a line; so many of 1,000. */
enum habit {
    CUT_OFF,
    FENCED,
    COMMA,
    LINE_BREAK,
    PROSE,
    REFUSED,
    BLANK,
    BAD_REQUEST,
    TOO_MANY,
    BROKEN,
    USUAL
};
static const unsigned share[] = {10, 8, 5, 3, 3, 2, 1, 2, 2, 1};

static enum habit some_habit(void) {
    unsigned at = below(1000), habit = 0;
    while (habit < USUAL && at >= share[habit]) at -= share[habit++];
    return (enum habit)habit;
}

static void add_result(struct text *line, unsigned number, size_t size) {
    static struct text answer;
    enum habit habit = some_habit();
    bool ascii = below(2);
    answer.length = 0;
    if (habit == PROSE) {
        add(&answer, "This page says: ");
        add_words(&answer, 60);
    } else if (habit != BLANK && habit != REFUSED) {
        if (habit == FENCED) add(&answer, "```json\n");
        add_answer(&answer, about(size * 7 / 10), below(2));
        if (habit == FENCED) add(&answer, "\n```");
    }
    if (habit == CUT_OFF) {
        answer.length = answer.length * (20 + below(70)) / 100;
        while (answer.bytes[answer.length - 1] & 0x80) answer.length--;
    } else if (habit == COMMA) {
        answer.bytes[answer.length - 1] = ',';
        add(&answer, "}");
    } else if (habit == LINE_BREAK) {
        answer.bytes[answer.length / 8 + 20] = '\n';
        answer.bytes[answer.length - 1] = '\n';
    }

    uint64_t a = chance(), b = chance();
    add(line, "{\"id\": \"batch_req_%016" PRIx64 "\", \"custom_id\": \"scans/%04u/img-%07u.jpg\", ",
        a, number / 1000, number);
    add(line, "\"response\": {\"status_code\": %d, \"request_id\": \"%016" PRIx64 "\", \"body\": {",
        habit == BAD_REQUEST ? 400
        : habit == TOO_MANY  ? 429
                             : 200,
        b);
    if (habit == BAD_REQUEST || habit == TOO_MANY) {
        add(line,
            "\"error\": {\"message\": \"%s\", \"type\": \"%s\", \"param\": null, \"code\": "
            "null}}}, ",
            habit == TOO_MANY ? "Rate limit reached." : "Not an image.",
            habit == TOO_MANY ? "requests" : "invalid_request_error");
    } else {
        add(line,
            "\"id\": \"chatcmpl-%016" PRIx64
            "\", \"object\": \"chat.completion\", \"created\": %u, ",
            a ^ b, 1760000000 + number);
        add(line, "\"model\": \"gpt-4o-mini-2024-07-18\", \"choices\": [{\"index\": 0, "
                  "\"message\": {\"role\": "
                  "\"assistant\", \"content\": ");
        if (habit == REFUSED) {
            add(line, "null, \"refusal\": \"I cannot help with that page.\"");
        } else {
            add(line, "\"");
            add_escaped(line, &answer, ascii);
            add(line, "\", \"refusal\": null, \"annotations\": []");
        }
        add(line, "}, \"logprobs\": null, \"finish_reason\": \"%s\"}], ",
            habit == CUT_OFF ? "length" : "stop");
        unsigned in = 500 + below(30000), out = (unsigned)answer.length / 3;
        add(line,
            "\"usage\": {\"prompt_tokens\": %u, \"completion_tokens\": %u, \"total_tokens\": %u, ",
            in, out, in + out);
        add(line, "\"prompt_tokens_details\": {\"cached_tokens\": 0, \"audio_tokens\": 0}, "
                  "\"completion_tokens_details\": {\"reasoning_tokens\": 0}}, ");
        add(line, "\"service_tier\": \"default\", \"system_fingerprint\": \"fp_%010x\"}}, ",
            below(1 << 30));
    }
    add(line, "\"error\": null}");
    if (habit == BROKEN) line->length -= 9;
    add(line, "\n");
}

static void results(unsigned count, size_t size, const char *path) {
    FILE *file = create(path);
    struct text line = {0};
    for (unsigned i = 0; i < count; i++) {
        line.length = 0;
        add_result(&line, i, size);
        fwrite(line.bytes, 1, line.length, file);
    }
    free(line.bytes);
    done(file, path);
}

/* ---- requests and images ---- */

static void requests(unsigned count, size_t size, const char *path) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    FILE *file = create(path);
    char *image = malloc(size * 2);
    if (!image) fail("memory");
    for (unsigned i = 0; i < count; i++) {
        size_t length = about(size) / 4 * 4;
        for (size_t k = 0; k < length;)
            for (uint64_t bits = chance(), left = 8; left > 0 && k < length; left--, bits >>= 6)
                image[k++] = digits[bits & 63];
        fprintf(file,
                "{\"custom_id\": \"scans/%04u/img-%07u.jpg\", \"method\": \"POST\", \"url\": "
                "\"/v1/chat/completions\", "
                "\"body\": {\"model\": \"gpt-4o-mini\", \"messages\": [{\"role\": \"system\", "
                "\"content\": \"You read "
                "scans.\\nAnswer in \\\"strict\\\" JSON.\"}, {\"role\": \"user\", \"content\": "
                "[{\"type\": \"text\", "
                "\"text\": \"What does page № %u say?\"}, {\"type\": \"image_url\", \"image_url\": "
                "{\"url\": "
                "\"data:image/jpeg;base64,",
                i / 1000, i, i);
        fwrite(image, 1, length, file);
        fputs(
            "\", \"detail\": \"high\"}}]}], \"max_tokens\": 2000, \"response_format\": {\"type\": "
            "\"json_object\"}}}\n",
            file);
    }
    free(image);
    done(file, path);
}

static void ids(unsigned count, unsigned step, const char *path) {
    FILE *file = create(path);
    for (unsigned i = step / 2; i < count; i += step)
        fprintf(file, "scans/%04u/img-%07u.jpg\n", i / 1000, i);
    done(file, path);
}

static void images(unsigned count, size_t size, const char *dir) {
    char path[4096];
    uint64_t *bytes = malloc(size * 2);
    if (!bytes) fail("memory");
    folder(dir);
    for (unsigned i = 0; i < count; i++) {
        size_t length = about(size);
        for (size_t k = 0; k < (length + 7) / 8; k++) bytes[k] = chance();
        memcpy(bytes, "\xFF\xD8\xFF\xE0\0\x10JFIF", length < 10 ? length : 10);
        snprintf(path, sizeof path, "%s/box-%02u", dir, i % 16);
        folder(path);
        snprintf(path, sizeof path, "%s/box-%02u/page-%06u.jpg", dir, i % 16, i);
        FILE *file = create(path);
        fwrite(bytes, 1, length, file);
        done(file, path);
    }
    free(bytes);
}

static void tree(unsigned count, const char *dir) {
    static const char *const endings[] = {"jpg", "jpeg", "png", "tif", "txt", "json", "xml", "pdf"};
    char path[4096];
    folder(dir);
    for (unsigned i = 0; i < count; i++) {
        unsigned shelf = i / 2000, box = i / 100 % 20;
        snprintf(path, sizeof path, "%s/shelf-%04u", dir, shelf);
        if (i % 2000 == 0) folder(path);
        snprintf(path, sizeof path, "%s/shelf-%04u/box-%02u", dir, shelf, box);
        if (i % 100 == 0) folder(path);
        snprintf(path, sizeof path, "%s/shelf-%04u/box-%02u/page-%07u.%s", dir, shelf, box, i,
                 endings[below(sizeof endings / sizeof *endings)]);
        FILE *file = fopen(path, "wb");
        if (!file) fail(path);
        fclose(file);
    }
}

int main(int argc, char **argv) {
    const char *what = argc > 3 ? argv[1] : "", *last = argv[argc - 1];
    unsigned count = argc > 3 ? (unsigned)strtoul(argv[2], NULL, 10) : 0;
    size_t size = argc > 4 ? strtoul(argv[3], NULL, 10) : 0;
    if (argc == 5 && strcmp(what, "results") == 0) {
        results(count, size, last);
    } else if (argc == 5 && strcmp(what, "requests") == 0) {
        requests(count, size, last);
    } else if (argc == 5 && strcmp(what, "ids") == 0) {
        ids(count, (unsigned)size, last);
    } else if (argc == 5 && strcmp(what, "images") == 0) {
        images(count, size, last);
    } else if (argc == 4 && strcmp(what, "tree") == 0) {
        tree(count, last);
    } else {
        fputs("data: see the head of data.c\n", stderr);
        return 2;
    }
    return 0;
}
