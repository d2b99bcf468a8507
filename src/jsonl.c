/* obatch.jsonl: lines and records of JSONL files. The index is in jsonl_index.c, the writer and its
 * images are in jsonl_writer.c. */
#include "jsonl.h"
#include "json_lua.h"
#include "obatch.h"
#include "options.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define READER "obatch.jsonl.reader"
#define SCANNER "obatch.jsonl.scanner"

/* ---- the line reader ---- */

int lines_open(struct lines *lines, const char *path, size_t max_line) {
    struct stat status;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return errno;
    int error = fstat(fd, &status) != 0 ? errno : S_ISDIR(status.st_mode) ? EISDIR : 0;
    if (error) {
        close(fd);
        return error;
    }
    *lines = (struct lines){.fd = fd, .max_line = max_line};
    return 0;
}

void lines_drop_buffer(struct lines *lines) {
    free(lines->buffer);
    lines->buffer = NULL;
    lines->capacity = lines->start = lines->end = 0;
}

void lines_close(struct lines *lines) {
    if (lines->fd >= 0) close(lines->fd);
    lines_drop_buffer(lines);
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
static ssize_t fill(struct lines *lines) {
    if (!make_room(lines)) return errno = ENOMEM, -1;
    for (;;) {
        ssize_t n = read(lines->fd, lines->buffer + lines->end, JSONL_BLOCK);
        if (n >= 0) lines->end += (size_t)n;
        if (n >= 0 || errno != EINTR || obatch_interrupted) return n;
    }
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
        ssize_t n = fill(lines);
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
    return LINES_LINE;
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

size_t jsonl_options(lua_State *L, int index, bool *text) {
    static const char *const known[] = {"max_line", "text", NULL};
    static const char *const without_text[] = {"max_line", NULL};
    const lua_Integer usual = 64 * 1024 * 1024;
    if (text) *text = false;
    if (lua_isnoneornil(L, index)) return (size_t)usual;
    options_check(L, index, text ? known : without_text);
    if (text) *text = options_boolean(L, index, "text", false);
    /* The index keeps lengths in 32 bits. */
    return (size_t)options_integer(L, index, "max_line", usual, 1, UINT32_MAX);
}

void jsonl_push_too_long(lua_State *L, size_t max_line) {
    lua_pushfstring(L, "longer than %I bytes", (lua_Integer)max_line);
}

/* The world failed in the middle of a loop, which has no other way to say so. */
static int raise_read_error(lua_State *L, const struct lines *lines, const char *path) {
    int error = errno;
    if (error == EINTR) return luaL_error(L, "interrupted");
    return luaL_error(L, "%s: %s (after byte %I)", path, strerror(error),
                      (lua_Integer)(lines->offset + lines->end - lines->start));
}

/* Pushes a closed reader or scanner whose user value is the path at stack index 1. */
static struct lines *new_lines(lua_State *L, size_t size, const char *type) {
    struct lines *lines = lua_newuserdatauv(L, size, 2);
    memset(lines, 0, size);
    lines->fd = -1;
    luaL_setmetatable(L, type);
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, -2, 1);
    return lines;
}

static const char *path_of(lua_State *L, int index) {
    lua_getiuservalue(L, index, 1);
    return lua_tostring(L, -1); /* stays on the stack, and in the user value */
}

/* ---- open: a reader ---- */

/* open(path [, { max_line = bytes }]) -> reader */
static int jsonl_open(lua_State *L) {
    const char *path = obatch_check_path(L, 1);
    size_t max_line = jsonl_options(L, 2, NULL);
    struct lines *lines = new_lines(L, sizeof *lines, READER);
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
    if (result == LINES_FAILED) return raise_read_error(L, lines, path_of(L, 1));
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

/* ---- scan: records ---- */

struct scanner {
    struct lines lines;
    bool with_text;
    size_t fields; /* their names and nodes are rows of a table, the second user value */
    struct json_plan plan;
};

/* What a record has besides the fields of the plan. */
static bool is_reserved(const char *name) {
    static const char *const reserved[] = {"number", "offset",   "length", "text",
                                           "error",  "error_at", "blank",  "spoiled"};
    for (size_t i = 0; i < sizeof reserved / sizeof *reserved; i++)
        if (strcmp(name, reserved[i]) == 0) return true;
    return false;
}

/* Checks the table of names and pointers at a stack index and returns the nodes it may need. */
static size_t check_fields(lua_State *L, int index) {
    size_t nodes = 1;
    luaL_checktype(L, index, LUA_TTABLE);
    lua_pushnil(L);
    while (lua_next(L, index)) {
        luaL_argcheck(L, lua_type(L, -2) == LUA_TSTRING, index, "field names must be strings");
        luaL_argcheck(L, lua_type(L, -1) == LUA_TSTRING, index, "pointers must be strings");
        if (is_reserved(lua_tostring(L, -2)))
            luaL_argerror(L, index,
                          lua_pushfstring(L, "every record has a field '%s' of its own",
                                          lua_tostring(L, -2)));
        nodes += json_lua_pointer(L, -1, index) - 1;
        lua_pop(L, 1);
    }
    return nodes;
}

/* scan(path, { field = pointer, ... } [, { text = bool, max_line = bytes }]) -> what a for loop
 * takes: an iterator that can also be closed, and closes itself at the end. Its records have
 * number, offset, length (of the text, in bytes) and the fields; `text` when asked; `error` (and
 * error_at, a byte of the line) for a bad line, with `blank` for an empty one; spoiled = { field =
 * message } for what cannot be decoded. */
static int jsonl_scan(lua_State *L) {
    const char *path = obatch_check_path(L, 1);
    size_t nodes = check_fields(L, 2);
    bool with_text;
    size_t max_line = jsonl_options(L, 3, &with_text);
    size_t size = sizeof(struct scanner) + nodes * sizeof(struct json_node);
    struct scanner *scanner = (struct scanner *)new_lines(L, size, SCANNER);
    scanner->plan.nodes = (struct json_node *)(scanner + 1);
    scanner->with_text = with_text;

    json_plan_add(&scanner->plan, "", 0);
    lua_newtable(L); /* name, pointer (for its bytes), node, name, ... */
    lua_pushnil(L);
    for (lua_Integer i = 1; lua_next(L, 2); i += 3) {
        size_t length;
        const char *pointer = lua_tolstring(L, -1, &length);
        lua_rawseti(L, -3, i + 1);
        lua_pushvalue(L, -1);
        lua_rawseti(L, -3, i);
        lua_pushinteger(L, json_plan_add(&scanner->plan, pointer, length));
        lua_rawseti(L, -3, i + 2);
        scanner->fields++;
    }
    lua_setiuservalue(L, -2, 2);
    int error = lines_open(&scanner->lines, path, max_line);
    if (error) return obatch_fail_errno(L, path, error);
    lua_pushnil(L);
    lua_pushnil(L);
    lua_pushvalue(L, -3);
    return 4;
}

/* record.error = "<path>:<line>: <what>" of the record at stack index 2; pops `what`. */
static void set_error(lua_State *L, const struct scanner *scanner) {
    const char *what = lua_tostring(L, -1), *path = path_of(L, 1);
    lua_pushfstring(L, "%s:%I: %s", path, scanner->lines.number, what);
    lua_setfield(L, 2, "error");
    lua_pop(L, 2);
}

/* Sets the plan's fields in the record at stack index 2. */
static void set_fields(lua_State *L, const struct scanner *scanner, const struct line *line) {
    lua_getiuservalue(L, 1, 2);
    for (size_t i = 0; i < scanner->fields; i++) {
        struct json_error error;
        lua_settop(L, 3);
        lua_rawgeti(L, 3, (lua_Integer)i * 3 + 3);
        const struct json_value *found = &scanner->plan.nodes[lua_tointeger(L, -1)].found;
        if (found->type == JSON_ABSENT) continue;
        lua_rawgeti(L, 3, (lua_Integer)i * 3 + 1);
        if (json_lua_push(L, found, &error)) {
            lua_rawset(L, 2);
            continue;
        }
        if (lua_getfield(L, 2, "spoiled") == LUA_TNIL) {
            lua_newtable(L);
            lua_pushvalue(L, -1);
            lua_setfield(L, 2, "spoiled");
        }
        size_t offset = (size_t)(found->at - line->text) + error.offset;
        lua_pushvalue(L, 5); /* the name */
        lua_pushfstring(L, "byte %I: %s", (lua_Integer)offset + 1, error.message);
        lua_rawset(L, -3);
    }
    lua_settop(L, 2);
}

static bool is_blank(const struct line *line) {
    return line->text && strspn(line->text, " \t\r") == line->length;
}

static int scanner_next(lua_State *L) {
    struct scanner *scanner = luaL_checkudata(L, 1, SCANNER);
    struct line line;
    if (scanner->lines.fd < 0) return lua_pushnil(L), 1; /* at the end, it has closed itself */
    int result = lines_next(&scanner->lines, &line);
    if (result == LINES_FAILED) return raise_read_error(L, &scanner->lines, path_of(L, 1));
    if (result == LINES_END) {
        lines_close(&scanner->lines);
        return lua_pushnil(L), 1;
    }
    lua_settop(L, 1);
    lua_createtable(L, 0, (int)scanner->fields + 4);
    lua_pushinteger(L, scanner->lines.number);
    lua_setfield(L, 2, "number");
    lua_pushinteger(L, (lua_Integer)line.offset);
    lua_setfield(L, 2, "offset");
    lua_pushinteger(L, (lua_Integer)line.length);
    lua_setfield(L, 2, "length");
    if (scanner->with_text && line.text) {
        lua_pushlstring(L, line.text, line.length);
        lua_setfield(L, 2, "text");
    }
    struct json_error error;
    if (!line.text) {
        jsonl_push_too_long(L, scanner->lines.max_line);
        set_error(L, scanner);
    } else if (is_blank(&line)) {
        lua_pushboolean(L, 1);
        lua_setfield(L, 2, "blank");
        lua_pushliteral(L, "empty line");
        set_error(L, scanner);
    } else if (json_find(line.text, line.length, &scanner->plan, &error)) {
        set_fields(L, scanner, &line);
    } else {
        lua_Integer position = (lua_Integer)error.offset + 1;
        lua_pushinteger(L, position);
        lua_setfield(L, 2, "error_at");
        lua_pushfstring(L, "byte %I: %s", position, error.message);
        set_error(L, scanner);
    }
    return 1;
}

static int close_scanner(lua_State *L) {
    struct scanner *scanner = luaL_checkudata(L, 1, SCANNER);
    lines_close(&scanner->lines);
    return 0;
}

/* ---- the module ---- */

static const luaL_Reg reader_methods[] = {
    {"at", reader_at},         {"close", close_reader}, {"lines", reader_lines},
    {"__close", close_reader}, {"__gc", close_reader},  {NULL, NULL},
};

static const luaL_Reg scanner_methods[] = {
    {"close", close_scanner},
    {"__call", scanner_next},
    {"__close", close_scanner},
    {"__gc", close_scanner},
    {NULL, NULL},
};

static const luaL_Reg functions[] = {
    {"create", jsonl_create}, {"image", jsonl_image}, {"index", jsonl_index},
    {"open", jsonl_open},     {"scan", jsonl_scan},   {NULL, NULL},
};

static void new_type(lua_State *L, const char *name, const luaL_Reg *methods) {
    luaL_newmetatable(L, name);
    luaL_setfuncs(L, methods, 0);
    lua_pushvalue(L, -1);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
}

int luaopen_obatch_jsonl(lua_State *L) {
    luaL_requiref(L, "obatch.json", luaopen_obatch_json, 0); /* null and arrays are named there */
    new_type(L, READER, reader_methods);
    new_type(L, SCANNER, scanner_methods);
    jsonl_open_index(L);
    jsonl_open_writer(L);
    luaL_newlib(L, functions);
    return 1;
}
