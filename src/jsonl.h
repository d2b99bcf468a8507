/* What the files of the Lua module obatch.jsonl share: the line reader. */
#ifndef OBATCH_JSONL_H
#define OBATCH_JSONL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <lua.h>

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
    lua_Integer number;          /* of the line delivered last */
    size_t max_line;
};

struct line {
    char *text; /* in the buffer until the next call, with a NUL after it; NULL when too long */
    size_t length;
    uint64_t offset;
};

enum { LINES_END, LINES_LINE, LINES_FAILED };

/* 0 or an errno; folders are refused. */
int lines_open(struct lines *lines, const char *path, size_t max_line);
void lines_close(struct lines *lines);

/* Keeps the file open for lines_pread and gives the memory back. */
void lines_drop_buffer(struct lines *lines);

/* LINES_FAILED leaves the reason in errno; EINTR means that a stop was asked for. */
int lines_next(struct lines *lines, struct line *line);

/* pread in a loop; stops early only at the end of the file. The bytes read, or -1 and errno. */
ptrdiff_t lines_pread(int fd, char *to, size_t length, uint64_t offset);

/* Checks the table of options at a stack index (or none). Returns max_line, 64 MiB by default; the
 * option text is known only where it is asked for. */
size_t jsonl_options(lua_State *L, int index, bool *text);

/* "longer than N bytes" */
void jsonl_push_too_long(lua_State *L, size_t max_line);

/* The functions of obatch.jsonl that live in jsonl_index.c and jsonl_writer.c, and what registers
 * the types of those files. */
int jsonl_index(lua_State *L);
int jsonl_create(lua_State *L);
int jsonl_image(lua_State *L);
void jsonl_open_index(lua_State *L);
void jsonl_open_writer(lua_State *L);

#endif
