/* libFuzzer: a form is the same form whatever the pieces it comes in. An input is the Content-Type,
 * a newline, and the body, which is parsed whole, byte by byte, and in pieces that depend on its
 * bytes; the pieces also go through spooled contents, in memory while they are few and then in
 * files. */
#include "fuzz.h"
#include "multipart.h"
#include "spool.h"

#include <strings.h>
#include <unistd.h>

enum { IN_MEMORY = 64 };

/* All that a parser told, one text after the other, each behind its size. */
struct story {
    char *text;
    size_t size, room;
    size_t data_at;     /* where the size of the last part's data stands */
    const char *folder; /* NULL: data is not spooled */
    struct content content;
    int parts;
};

static void tell(struct story *story, const char *text, size_t size) {
    if (story->size + size > story->room) {
        story->room = 2 * (story->size + size);
        story->text = realloc(story->text, story->room);
        require_that(story->text != NULL, "there is memory");
    }
    if (size > 0) memcpy(story->text + story->size, text, size);
    story->size += size;
}

static void tell_string(struct story *story, const char *text) {
    size_t size = text ? strlen(text) : SIZE_MAX;
    tell(story, (const char *)&size, sizeof size);
    if (text) tell(story, text, size);
}

/* The data of the last part is over: what was spooled becomes part of the story. */
static void end_part(struct story *story) {
    struct content *content = &story->content;
    if (!story->parts) return;
    if (story->folder) {
        require_that(content_end(content) == 0, "a spooled content can be closed");
        require_that((content->path != NULL) == (content->size > IN_MEMORY), "a file, or memory");
        if (content->text) tell(story, content->text, content->size);
        if (content->path) {
            FILE *file = fopen(content->path, "rb");
            require_that(file != NULL, "a spooled content can be opened");
            char bytes[4096];
            size_t n, sum = 0;
            while ((n = fread(bytes, 1, sizeof bytes, file)) > 0) {
                tell(story, bytes, n);
                sum += n;
            }
            fclose(file);
            require_that(sum == content->size, "a spooled content has its size");
        }
        content_discard(content);
        content_discard(content);
        *content = (struct content){.fd = -1};
    }
    size_t size = story->size - story->data_at - sizeof size;
    memcpy(story->text + story->data_at, &size, sizeof size);
}

static const char *on_part(void *context, const char *name, const char *filename,
                           const char *type) {
    struct story *story = context;
    end_part(story);
    require_that(name != NULL && ++story->parts <= 1000,
                 "parts have names, and there are not many");
    tell_string(story, name);
    tell_string(story, filename);
    tell_string(story, type);
    story->data_at = story->size;
    tell_string(story, "");
    return strcmp(name, "refused") == 0 ? "the sink refuses it" : NULL;
}

static const char *on_data(void *context, const char *data, size_t size) {
    struct story *story = context;
    require_that(story->parts > 0 && size > 0, "data belongs to a part");
    if (story->folder) {
        require_that(content_add(&story->content, story->folder, IN_MEMORY, data, size) == 0,
                     "data can be spooled");
    } else {
        tell(story, data, size);
    }
    return NULL;
}

/* step 0: all at once; 1: byte by byte; otherwise up to so many bytes at a time. */
static struct story parse(const char *type, const char *body, size_t size, size_t step,
                          const char *folder) {
    struct story story = {.folder = folder, .content.fd = -1};
    struct multipart_sink sink = {on_part, on_data, &story};
    struct multipart *form = multipart_new(type, sink);
    require_that(form != NULL, "there is memory");
    for (size_t done = 0; done < size;) {
        size_t piece = step ? 1 + (unsigned char)body[done] % step : size;
        if (piece > size - done) piece = size - done;
        char *exact = malloc(piece); /* so that reading beyond it is seen */
        require_that(exact != NULL, "there is memory");
        memcpy(exact, body + done, piece);
        multipart_feed(form, exact, piece);
        free(exact);
        done += piece;
    }
    const char *error = multipart_end(form);
    end_part(&story);
    tell_string(&story, error);
    require_that(multipart_end(form) == error, "the verdict stays");
    multipart_free(form);
    return story;
}

static char spool[] = "/tmp/multipart_fuzz-XXXXXX";

static void remove_spool(void) {
    rmdir(spool); /* it is empty, unless something is wrong */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static bool started;
    if (!started) {
        require_that(mkdtemp(spool) != NULL, "there is a folder for temporary files");
        atexit(remove_spool);
        started = true;
    }
    const char *text = (const char *)data, *newline = size > 0 ? memchr(text, '\n', size) : NULL;
    if (!newline) return 0;
    char *type = strndup(text, (size_t)(newline - text));
    require_that(type != NULL, "there is memory");
    multipart_is(type);
    const char *body = newline + 1;
    size_t body_size = size - (size_t)(body - text);

    static const size_t steps[] = {1, 7, 64};
    struct story whole = parse(type, body, body_size, 0, NULL);
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        struct story pieces = parse(type, body, body_size, steps[i], i > 0 ? spool : NULL);
        require_that(pieces.size == whole.size && memcmp(pieces.text, whole.text, whole.size) == 0,
                     "the pieces tell the same as the whole");
        free(pieces.text);
    }
    free(whole.text);
    free(type);
    return 0;
}
