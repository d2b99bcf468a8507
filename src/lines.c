#include "lines.h"
#include "obatch.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

int lines_open_file(const char *path, int *fd) {
    struct stat status;
    *fd = open(path, O_RDONLY | O_CLOEXEC);
    if (*fd < 0) return errno;
    int error = fstat(*fd, &status) != 0 ? errno : S_ISDIR(status.st_mode) ? EISDIR : 0;
    if (error) close(*fd);
    return error;
}

ptrdiff_t lines_read(int fd, char *to, size_t length) {
    for (;;) {
        ssize_t n = read(fd, to, length);
        if (n >= 0 || errno != EINTR || obatch_interrupted) return n;
    }
}

ptrdiff_t lines_pread(int fd, char *to, size_t length, uint64_t offset) {
    size_t done = 0;
    while (done < length) {
        ssize_t n = pread(fd, to + done, length - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR && !obatch_interrupted) continue;
        if (n < 0) return -1;
        if (n == 0) break;
        done += (size_t)n;
    }
    return (ptrdiff_t)done;
}

int lines_open(struct lines *lines, const char *path, size_t max_line) {
    int fd, error = lines_open_file(path, &fd);
    if (!error) *lines = (struct lines){.fd = fd, .max_line = max_line};
    return error;
}

void lines_close(struct lines *lines) {
    if (lines->fd >= 0) close(lines->fd);
    free(lines->buffer);
    *lines = (struct lines){.fd = -1};
}

/* Makes room for a block after `end`, with a byte to spare for the NUL after the last line. */
static bool make_room(struct lines *lines) {
    size_t held = lines->end - lines->start;
    if (lines->capacity - lines->end > JSONL_BLOCK) return true;
    if (lines->start > 0) {
        memmove(lines->buffer, lines->buffer + lines->start, held);
        lines->start = 0;
        lines->end = held;
    }
    if (lines->capacity - held > JSONL_BLOCK) return true;
    size_t most = lines->max_line + 2 * JSONL_BLOCK;
    size_t capacity = lines->capacity ? lines->capacity * 2 : 2 * JSONL_BLOCK;
    if (capacity > most) capacity = most;
    char *buffer = realloc(lines->buffer, capacity);
    if (!buffer) return false;
    lines->buffer = buffer;
    lines->capacity = capacity;
    return true;
}

/* Reads one more block; the bytes read, 0 at the end of the file, -1 and errno. */
static ptrdiff_t fill(struct lines *lines) {
    if (!make_room(lines)) return errno = ENOMEM, -1;
    ptrdiff_t n = lines_read(lines->fd, lines->buffer + lines->end, JSONL_BLOCK);
    if (n > 0) lines->end += (size_t)n;
    return n;
}

int lines_next(struct lines *lines, struct line *line) {
    size_t seen = 0;    /* bytes from `start` on that hold no newline */
    size_t skipped = 0; /* of a line that is too long to keep */
    char last = '\0';   /* the byte before the buffer, when something was skipped */
    char *newline;
    for (;;) {
        size_t held = lines->end - lines->start;
        newline =
            held > seen ? memchr(lines->buffer + lines->start + seen, '\n', held - seen) : NULL;
        if (newline) break;
        seen = held;
        /* One byte of grace: the "\r" of a CRLF is not part of the line. */
        if (held > lines->max_line + 1 || (skipped && held > 0)) {
            last = lines->buffer[lines->end - 1];
            skipped += held;
            lines->start = lines->end = seen = 0;
        }
        ptrdiff_t n = fill(lines);
        if (n < 0) return LINES_FAILED;
        if (n == 0) break;
    }
    char *text = lines->buffer + lines->start;
    size_t held = newline ? (size_t)(newline - text) : lines->end - lines->start;
    if (!newline && held + skipped == 0) return LINES_END;
    if (held > 0) last = text[held - 1];

    bool crlf = newline && last == '\r';
    line->offset = lines->offset;
    line->length = skipped + held - crlf;
    line->text = line->length > lines->max_line ? NULL : text;
    if (line->text) text[line->length] = '\0';
    lines->start += held + (newline != NULL);
    lines->offset += skipped + held + (newline != NULL);
    lines->number++;
    return LINES_MORE;
}
