/* obatch.jsonl: files of lines that are JSON each. The reader is here, records are in jsonl_scan.c,
 * the index is in jsonl_index.c, the writer and its images are in jsonl_writer.c. */
#include "jsonl.h"
#include "obatch.h"
#include "options.h"

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

/* open(path [, { max_line = bytes }]) -> reader */
static int jsonl_open(lua_State *L) {
    const char *path = obatch_check_path(L, 1);
    size_t max_line = jsonl_max_line(L, 2, NULL);
    struct lines *lines = lua_newuserdatauv(L, sizeof *lines, 1);
    *lines = (struct lines){.fd = -1};
    luaL_setmetatable(L, READER);
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, -2, 1);
    int error = lines_open(lines, path, max_line);
    return error ? obatch_fail_errno(L, path, error) : 1;
}

static struct lines *check_reader(lua_State *L) {
    struct lines *lines = luaL_checkudata(L, 1, READER);
    luaL_argcheck(L, lines->fd >= 0, 1, "the reader is closed");
    return lines;
}

/* { text =, number = from 1, offset = bytes from 0 }, with `error` instead of `text` for a line
 * that is too long. */
static int reader_next(lua_State *L) {
    struct lines *lines = check_reader(L);
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

/* The line that starts at an offset, by pread: the position of lines() stays where it is. */
static int reader_at(lua_State *L) {
    struct lines *lines = check_reader(L);
    lua_Integer offset = luaL_checkinteger(L, 2);
    luaL_argcheck(L, offset >= 0, 2, "negative offset");
    const char *path = path_of(L, 1);
    luaL_Buffer buffer;
    luaL_buffinit(L, &buffer);
    size_t length = 0, block = JSONL_BLOCK < 4096 ? JSONL_BLOCK : 4096;
    for (;;) {
        char *to = luaL_prepbuffsize(&buffer, block);
        ptrdiff_t n = lines_pread(lines->fd, to, block, (uint64_t)offset + length);
        if (n < 0) {
            int error = errno;
            return obatch_fail_errno(L, path, error);
        }
        char *newline = memchr(to, '\n', (size_t)n);
        size_t more = newline ? (size_t)(newline - to) : (size_t)n;
        luaL_addsize(&buffer, more);
        length += more;
        if (newline) {
            bool crlf = length > 0 && luaL_buffaddr(&buffer)[length - 1] == '\r';
            luaL_buffsub(&buffer, crlf);
            length -= crlf;
            if (length <= lines->max_line) break;
        } else if ((size_t)n < block && length <= lines->max_line) {
            if (length > 0) break;
            return obatch_fail(L, "NOT_FOUND",
                               lua_pushfstring(L, "%s: no line at byte %I", path, offset));
        }
        if (length > lines->max_line + 1 || newline || (size_t)n < block) {
            jsonl_push_too_long(L, lines->max_line);
            return obatch_fail(L, "TOO_BIG",
                               lua_pushfstring(L, "%s: the line at byte %I is %s", path, offset,
                                               lua_tostring(L, -1)));
        }
        if (block < JSONL_BLOCK) block *= 4;
    }
    luaL_pushresult(&buffer);
    return 1;
}

static int close_reader(lua_State *L) {
    lines_close(luaL_checkudata(L, 1, READER));
    return 0;
}

/* ---- the module ---- */

static const luaL_Reg reader_methods[] = {
    {"at", reader_at},         {"close", close_reader}, {"lines", reader_lines},
    {"__close", close_reader}, {"__gc", close_reader},  {NULL, NULL},
};

static const luaL_Reg functions[] = {
    {"create", jsonl_create}, {"image", jsonl_image}, {"index", jsonl_index}, {"open", jsonl_open},
    {"scan", jsonl_scan},     {"write", jsonl_write}, {NULL, NULL},
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
    luaL_newlib(L, functions);
    return 1;
}
