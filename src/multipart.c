#include "multipart.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum {
    WINDOW = 16 * 1024, /* also the longest header line of a part */
    BOUNDARY = 200,     /* RFC 2046 allows 70 */
    PARTS = 1000,       /* each may cost a file */
};

struct multipart {
    struct multipart_sink sink;
    const char *error;
    enum { PREAMBLE, DELIMITER, HEADERS, DATA, EPILOGUE } state;
    int parts;
    char *name, *filename, *type; /* of the part whose headers are being read */
    size_t delimiter_size;
    char delimiter[4 + BOUNDARY + 1]; /* CR LF - - boundary */
    size_t size;
    char window[WINDOW];
};

static void forget_headers(struct multipart *form) {
    free(form->name);
    free(form->filename);
    free(form->type);
    form->name = form->filename = form->type = NULL;
}

/* The value of a parameter of a header such as `form-data; name="x"`, unquoted, in new memory; NULL
 * when it is absent or not terminated. In a quoted string only \" and \\ are escapes: browsers send
 * the backslashes of a file name as they are. */
static char *parameter(const char *header, const char *wanted) {
    size_t wanted_size = strlen(wanted);
    const char *at = header;
    while ((at = strchr(at, ';'))) {
        at += 1 + strspn(at + 1, " \t");
        bool found = strncasecmp(at, wanted, wanted_size) == 0 && at[wanted_size] == '=';
        at += strcspn(at, ";=");
        if (*at != '=') continue;
        at++;
        char *value = malloc(strlen(at) + 1), *end = value;
        if (!value) return NULL;
        if (*at == '"') {
            for (at++; *at && *at != '"'; at++) {
                if (at[0] == '\\' && (at[1] == '"' || at[1] == '\\')) at++;
                *end++ = *at;
            }
            if (!*at) found = false;
        } else {
            while (*at && !strchr("; \t", *at)) *end++ = *at++;
        }
        *end = '\0';
        if (found) return value;
        free(value);
    }
    return NULL;
}

/* Undoes the three escapes that the WHATWG form encoding (browsers, undici, curl) puts in names. */
static void unescape(char *text) {
    static const struct {
        const char *escape;
        char plain;
    } escapes[] = {{"%22", '"'}, {"%0D", '\r'}, {"%0A", '\n'}};
    if (!text) return;
    char *end = text;
    for (const char *at = text; *at; at++) {
        *end = *at;
        for (size_t i = 0; i < sizeof escapes / sizeof *escapes; i++) {
            if (strncasecmp(at, escapes[i].escape, 3) != 0) continue;
            *end = escapes[i].plain;
            at += 2;
            break;
        }
        end++;
    }
    *end = '\0';
}

bool multipart_is(const char *content_type) {
    static const char kind[] = "multipart/form-data";
    return strncasecmp(content_type, kind, sizeof kind - 1) == 0 &&
           strchr("; \t", content_type[sizeof kind - 1]) != NULL;
}

struct multipart *multipart_new(const char *content_type, struct multipart_sink sink) {
    struct multipart *form = calloc(1, sizeof *form);
    if (!form) return NULL;
    form->sink = sink;
    char *boundary = parameter(content_type, "boundary");
    size_t size = boundary ? strlen(boundary) : 0;
    if (size == 0) {
        form->error = "the Content-Type names no boundary";
    } else if (size > BOUNDARY) {
        form->error = "the boundary is too long";
    } else {
        memcpy(form->delimiter, "\r\n--", 4);
        memcpy(form->delimiter + 4, boundary, size + 1);
        form->delimiter_size = size + 4;
    }
    free(boundary);
    memcpy(form->window, "\r\n", 2); /* so that the first boundary is found like all others */
    form->size = 2;
    return form;
}

void multipart_free(struct multipart *form) {
    if (!form) return;
    forget_headers(form);
    free(form);
}

/* One header line of a part, without its CR LF. */
static const char *header_line(struct multipart *form, const char *line) {
    const char *colon = strchr(line, ':');
    if (!colon) return "a header line of a part has no colon";
    size_t size = (size_t)(colon - line);
    const char *value = colon + 1 + strspn(colon + 1, " \t");
    if (size == 19 && strncasecmp(line, "Content-Disposition", size) == 0) {
        free(form->name);
        free(form->filename);
        form->name = parameter(value, "name");
        form->filename = parameter(value, "filename");
        unescape(form->name);
        unescape(form->filename);
    } else if (size == 12 && strncasecmp(line, "Content-Type", size) == 0) {
        free(form->type);
        form->type = strdup(value);
    }
    return NULL;
}

/* Consumes what can be decided of the window from `at` on, one step of it. Returns the new `at`;
 * the same one when more bytes are needed. */
static size_t step(struct multipart *form, size_t at) {
    char *here = form->window + at;
    size_t size = form->size - at;
    switch (form->state) {
    case PREAMBLE:
    case DATA: {
        char *found = memmem(here, size, form->delimiter, form->delimiter_size);
        size_t held = form->delimiter_size - 1; /* may be the beginning of a delimiter */
        size_t data = found ? (size_t)(found - here) : size > held ? size - held : 0;
        if (form->state == DATA && data > 0)
            form->error = form->sink.data(form->sink.context, here, data);
        if (!found) return at + data;
        form->state = DELIMITER;
        return at + data + form->delimiter_size;
    }
    case DELIMITER: {
        size_t blank = 0;
        while (blank < size && (here[blank] == ' ' || here[blank] == '\t')) blank++;
        if (blank > 0) return at + blank;
        if (size < 2) return at;
        if (memcmp(here, "--", 2) == 0) {
            form->state = EPILOGUE;
        } else if (memcmp(here, "\r\n", 2) == 0) {
            form->state = HEADERS;
            if (++form->parts > PARTS) form->error = "more than 1000 parts";
        } else {
            form->error = "a boundary is followed by neither a line end nor --";
        }
        return at + 2;
    }
    case HEADERS: {
        char *end = memmem(here, size, "\r\n", 2);
        if (!end) {
            if (size == WINDOW) form->error = "a header line of a part is too long";
            return at;
        }
        *end = '\0';
        if (memchr(here, '\0', (size_t)(end - here))) {
            form->error = "a header line of a part holds a NUL";
        } else if (end > here) {
            form->error = header_line(form, here);
        } else if (!form->name) {
            form->error = "a part has no name (Content-Disposition: form-data; name=\"...\")";
        } else {
            form->error =
                form->sink.part(form->sink.context, form->name, form->filename, form->type);
            forget_headers(form);
            form->state = DATA;
        }
        return at + (size_t)(end - here) + 2;
    }
    default:
        return form->size; /* what follows the end is to be ignored (RFC 2046, 5.1.1) */
    }
}

const char *multipart_feed(struct multipart *form, const char *data, size_t size) {
    while (size > 0 && !form->error) {
        size_t taken = WINDOW - form->size;
        if (taken > size) taken = size;
        memcpy(form->window + form->size, data, taken);
        form->size += taken;
        data += taken;
        size -= taken;

        size_t at = 0, before;
        do {
            before = at;
            at = step(form, at);
        } while (at > before && !form->error);
        memmove(form->window, form->window + at, form->size - at);
        form->size -= at;
    }
    return form->error;
}

const char *multipart_end(struct multipart *form) {
    if (!form->error && form->state != EPILOGUE)
        form->error = form->state == PREAMBLE ? "the boundary of the Content-Type does not occur"
                                              : "the body ends before its closing boundary";
    return form->error;
}
