/* The lines of a file, one after the other, for readers that take them as they come. What looks
 * into the lines of large files takes whole chunks of them instead: chunk.h. */
#ifndef OBATCH_LINES_H
#define OBATCH_LINES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Reads and writes go in blocks of this size: as fast as larger ones, and faster than mmap. The
 * fuzzer has smaller ones, so that its short files have many. */
#ifndef JSONL_BLOCK
#define JSONL_BLOCK (256 * 1024)
#endif

/* Reads a file line by line through one buffer that grows to the longest line, never beyond
 * max_line. Zeroed and with fd = -1 it is closed. */
struct lines {
    int fd;
    char *buffer;
    size_t capacity, start, end; /* the bytes read and not yet delivered */
    uint64_t offset;             /* of `start` in the file */
    int64_t number;              /* of the line delivered last */
    size_t max_line;
};

struct line {
    char *text; /* in the buffer until the next call, with a NUL after it; NULL when too long */
    size_t length;
    uint64_t offset;
};

enum { LINES_END, LINES_MORE, LINES_FAILED };

/* Opens a file to be read, never a folder. 0 or an errno. */
int lines_open_file(const char *path, int *fd);

/* read, again where a signal came that asks for nothing; errno EINTR means a stop was asked for. */
ptrdiff_t lines_read(int fd, char *to, size_t length);

/* pread in a loop; stops early only at the end of the file. The bytes read, or -1 and errno. */
ptrdiff_t lines_pread(int fd, char *to, size_t length, uint64_t offset);

/* 0 or an errno. */
int lines_open(struct lines *lines, const char *path, size_t max_line);
void lines_close(struct lines *lines);

/* LINES_FAILED leaves the reason in errno. */
int lines_next(struct lines *lines, struct line *line);

#endif
