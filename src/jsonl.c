/* obatch.jsonl: files of lines that are JSON each. The reader is here, the scanner and its records
 * are in jsonl_scan.c and jsonl_record.c, the index is in jsonl_index.c, the writer and its images
 * are in jsonl_writer.c. */
#include "jsonl.h"
#include "obatch.h"
#include "options.h"

#include <stdlib.h>

#define READER "obatch.jsonl.reader"

size_t jsonl_max_line(lua_State *L, int index, const char *const known[]) {
    static const char *const alone[] = {"max_line", NULL};
    const lua_Integer usual = 64 * 1024 * 1024;
    if (lua_isnoneornil(L, index)) return (size_t)usual;
    options_check(L, index, known ? known : alone);
    /* Lengths are kept in 32 bits. */
    return (size_t)options_integer(L, index, "max_line", usual, 1, UINT32_MAX);
}

void jsonl_push_too_long(lua_State *L, size_t max_line) {
    lua_pushfstring(L, "longer than %I bytes", (lua_Integer)max_line);
}

int jsonl_raise(lua_State *L, const char *path, int error, uint64_t bytes) {
    if (error == EINTR) return luaL_error(L, "interrupted");
    return luaL_error(L, "%s: %s (after byte %I)", path, strerror(error), (lua_Integer)bytes);
}

static const char *path_of(lua_State *L, int index) {
    lua_getiuservalue(L, index, 1);
    return lua_tostring(L, -1); /* stays on the stack, and in the user value */
}

/* ---- open: a reader ---- */

struct reader {
    struct lines lines;
    char *found;        /* the line that at() found last; its memory is used again */
    size_t room, usual; /* `usual`: how much is read at first */
};

/* open(path [, { max_line = bytes }]) -> reader */
static int jsonl_open(lua_State *L) {
    const char *path = obatch_check_path(L, 1);
    size_t max_line = jsonl_max_line(L, 2, NULL);
    struct reader *reader = lua_newuserdatauv(L, sizeof *reader, 1);
    *reader = (struct reader){.lines.fd = -1, .usual = JSONL_BLOCK < 4096 ? JSONL_BLOCK : 4096};
    luaL_setmetatable(L, READER);
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, -2, 1);
    int error = lines_open(&reader->lines, path, max_line);
    return error ? obatch_fail_errno(L, path, error) : 1;
}

static struct reader *check_reader(lua_State *L) {
    struct reader *reader = luaL_checkudata(L, 1, READER);
    luaL_argcheck(L, reader->lines.fd >= 0, 1, "the reader is closed");
    return reader;
}

/* { text =, number = from 1, offset = bytes from 0 }, with `error` instead of `text` for a line
 * that is too long. */
static int reader_next(lua_State *L) {
    struct lines *lines = &check_reader(L)->lines;
    struct line line;
    int result = lines_next(lines, &line);
    if (result == LINES_FAILED) {
        int error = errno;
        return jsonl_raise(L, path_of(L, 1), error, lines->offset + lines->end - lines->start);
    }
    if (result == LINES_END) return lua_pushnil(L), 1;
    lua_createtable(L, 0, 3);
    lua_pushinteger(L, lines->number);
    lua_setfield(L, -2, "number");
    lua_pushinteger(L, (lua_Integer)line.offset);
    lua_setfield(L, -2, "offset");
    if (line.text) {
        lua_pushlstring(L, line.text, line.length);
        lua_setfield(L, -2, "text");
    } else {
        jsonl_push_too_long(L, lines->max_line);
        lua_setfield(L, -2, "error");
    }
    return 1;
}

/* The reader belongs to whoever opened it, so the loop does not close it: at() works after it. */
static int reader_lines(lua_State *L) {
    check_reader(L);
    lua_pushcfunction(L, reader_next);
    lua_pushvalue(L, 1);
    return 2;
}

/* Reads the line that starts at an offset into reader->found, and its length without the line end
 * into *length, which is beyond max_line where it is too long. 0, ENOENT when there is none, or
 * what pread says. */
static int find_line(struct reader *reader, uint64_t offset, size_t *length) {
    const size_t max_line = reader->lines.max_line;
    size_t held = 0, block = reader->usual;
    for (;;) {
        if (reader->room < held + block) {
            char *found = realloc(reader->found, held + block);
            if (!found) return ENOMEM;
            reader->found = found;
            reader->room = held + block;
        }
        ptrdiff_t n = lines_pread(reader->lines.fd, reader->found + held, block, offset + held);
        if (n < 0) return errno;
        char *newline = memchr(reader->found + held, '\n', (size_t)n);
        held += newline ? (size_t)(newline - (reader->found + held)) : (size_t)n;
        if (newline || (size_t)n < block) {
            *length = held - (newline && held > 0 && reader->found[held - 1] == '\r');
            return !newline && held == 0 ? ENOENT : 0;
        }
        *length = held;
        if (held > max_line + 1) return 0;
        block = block * 4 < JSONL_BLOCK ? block * 4 : JSONL_BLOCK;
    }
}

/* The line that starts at an offset, by pread: the position of lines() stays where it is. */
static int reader_at(lua_State *L) {
    struct reader *reader = check_reader(L);
    lua_Integer offset = luaL_checkinteger(L, 2);
    luaL_argcheck(L, offset >= 0, 2, "negative offset");
    const char *path = path_of(L, 1);
    size_t length = 0;
    int error = find_line(reader, (uint64_t)offset, &length);
    if (error == ENOENT)
        return obatch_fail(L, "NOT_FOUND",
                           lua_pushfstring(L, "%s: no line at byte %I", path, offset));
    if (error) return obatch_fail_errno(L, path, error);
    if (length > reader->lines.max_line) {
        jsonl_push_too_long(L, reader->lines.max_line);
        return obatch_fail(
            L, "TOO_BIG",
            lua_pushfstring(L, "%s: the line at byte %I is %s", path, offset, lua_tostring(L, -1)));
    }
    lua_pushlstring(L, reader->found, length);
    /* The next line asked for will be about as long. */
    reader->usual = length + length / 8 + 64;
    if (reader->usual > JSONL_BLOCK) reader->usual = JSONL_BLOCK;
    if (reader->room > 2 * JSONL_BLOCK) {
        free(reader->found);
        reader->found = NULL;
        reader->room = 0;
    }
    return 1;
}

static int close_reader(lua_State *L) {
    struct reader *reader = luaL_checkudata(L, 1, READER);
    lines_close(&reader->lines);
    free(reader->found);
    reader->found = NULL;
    reader->room = 0;
    return 0;
}

/* ---- the module ---- */

static const luaL_Reg reader_methods[] = {
    {"at", reader_at},         {"close", close_reader}, {"lines", reader_lines},
    {"__close", close_reader}, {"__gc", close_reader},  {NULL, NULL},
};

static const luaL_Reg functions[] = {
    {"create", jsonl_create}, {"image", jsonl_image}, {"index", jsonl_index},
    {"open", jsonl_open},     {"scan", jsonl_scan},   {NULL, NULL},
};

int luaopen_obatch_jsonl(lua_State *L) {
    luaL_requiref(L, "obatch.json", luaopen_obatch_json, 0); /* null and arrays are named there */
    luaL_newmetatable(L, READER);
    luaL_setfuncs(L, reader_methods, 0);
    lua_pushvalue(L, -1);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
    jsonl_open_scan(L);
    jsonl_open_index(L);
    jsonl_open_writer(L);
    jsonl_open_image(L);
    luaL_newlib(L, functions);
    jsonl_push_lines(L);
    return 1;
}
