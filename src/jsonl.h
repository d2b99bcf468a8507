/* What the files of the Lua module obatch.jsonl share. */
#ifndef OBATCH_JSONL_H
#define OBATCH_JSONL_H

#include "lines.h"

#include <lua.h>

/* Checks the table of options at a stack index (or none), where it may have those that are known
 * (NULL: only max_line). Returns max_line, 64 MiB by default. */
size_t jsonl_max_line(lua_State *L, int index, const char *const known[]);

/* "longer than N bytes" */
void jsonl_push_too_long(lua_State *L, size_t max_line);

/* An index that is built by whoever scans its file: pushes an empty one for the path at stack index
 * 1, and adds the lines of a chunk (chunk.h) that have a string in a field of its plan. 0 or an
 * errno. */
struct chunk;
int jsonl_index_begin(lua_State *L, int fd);
int jsonl_index_add(lua_State *L, int at, const struct chunk *chunk, size_t field);

/* Where a line of an index stands. */
struct jsonl_span {
    const char *path; /* of the index's file; belongs to the index */
    int fd;
    uint64_t offset;
    size_t length; /* without its newline */
};

/* The line with an ordinal in the index at a stack index; another argument, or no such line, is an
 * error of the caller. 0, or an errno: ESTALE when the file is not what was indexed. */
int jsonl_index_span(lua_State *L, int at, int ordinal, struct jsonl_span *span);

/* The world failed in the middle of a loop, which has no other way to say so: raises, with so many
 * bytes read. */
int jsonl_raise(lua_State *L, const char *path, int error, uint64_t bytes);

/* The functions of obatch.jsonl that live in other files, and what registers their types. */
int jsonl_scan(lua_State *L);
int jsonl_index(lua_State *L);
int jsonl_create(lua_State *L);
int jsonl_image(lua_State *L);
void jsonl_push_lines(lua_State *L); /* into the table of the module, which is on top */
void jsonl_open_scan(lua_State *L);
void jsonl_open_index(lua_State *L);
void jsonl_open_writer(lua_State *L);
void jsonl_open_image(lua_State *L);

#endif
