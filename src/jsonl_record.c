#include "jsonl_record.h"
#include "json_lua.h"
#include "jsonl.h"
#include "obatch.h"

#include <stdio_ext.h>
#include <unistd.h>

const char *const jsonl_record_own[] = {"length",  "text",     "spoiled", "number",
                                        "offset",  "error",    "blank",   "error_at",
                                        "is_json", "is_usual", NULL};
/* Of the others, each is in the record from the beginning, or never. */
enum { LENGTH = -1, TEXT = -2, SPOILED = -3 };

/* ---- fields ---- */

/* The line of the record at a stack index: the one with its number, unless somebody has written
 * something else there. NULL when he has done so to its offset, too. */
static const struct chunk_line *find_line(lua_State *L, int record, struct jsonl_box *box) {
    const struct chunk *chunk = box->chunk;
    int has_number, has_offset;
    if (!chunk) return NULL; /* made whole; or in a finalizer that comes after the box's own */
    if (lua_topointer(L, record) == box->record) return box->line;
    box->readers++;
    lua_pushliteral(L, "number");
    lua_rawget(L, record);
    lua_pushliteral(L, "offset");
    lua_rawget(L, record);
    box->readers--;
    lua_Unsigned n = (lua_Unsigned)lua_tointegerx(L, -2, &has_number) - (lua_Unsigned)box->first;
    lua_Unsigned at = (lua_Unsigned)lua_tointegerx(L, -1, &has_offset) - chunk->offset;
    lua_pop(L, 2);
    if (!has_number || n >= chunk->line_count) n = SIZE_MAX;
    if (!has_offset) return n == SIZE_MAX ? NULL : &chunk->lines[n];
    if (n != SIZE_MAX && chunk->lines[n].at == at) return &chunk->lines[n];
    for (size_t i = 0; i < chunk->line_count; i++)
        if (chunk->lines[i].at == at) return &chunk->lines[i];
    return n == SIZE_MAX ? NULL : &chunk->lines[n];
}

/* Pushes the value of a span. False, with nothing pushed, when it cannot be decoded. */
static bool push_value(lua_State *L, const char *line, const struct chunk_span *span,
                       struct json_error *error) {
    struct json_value value = chunk_value(line, span);
    if (value.type != JSON_STRING || value.escaped) return json_lua_push(L, &value, error);
    lua_pushlstring(L, value.at + 1, value.length - 2);
    return true;
}

/* Pushes record.spoiled, nil when nothing is. */
static void push_spoiled(lua_State *L, const struct chunk *chunk, const struct chunk_line *line,
                         int fields) {
    const char *text = chunk->bytes + line->at;
    bool is_spoiled = false;
    lua_pushnil(L);
    for (uint16_t i = 0; i < line->spans; i++) {
        const struct chunk_span *span = &chunk->spans[line->first_span + i];
        struct json_error error;
        if (span->type < JSON_NUMBER || (span->type == JSON_STRING && !line->is_lone)) continue;
        if (push_value(L, text, span, &error)) {
            lua_pop(L, 1);
            continue;
        }
        if (!is_spoiled) {
            lua_pop(L, 1);
            lua_newtable(L);
        }
        is_spoiled = true;
        for (lua_pushnil(L); lua_next(L, fields); lua_pop(L, 1)) {
            if (lua_tointeger(L, -1) != span->field + 1) continue;
            lua_pushvalue(L, -2);
            lua_pushfstring(L, "byte %I: %s", (lua_Integer)span->at + (lua_Integer)error.offset + 1,
                            error.message);
            lua_rawset(L, -5);
        }
    }
}

/* Pushes what the line has under the number of a name, and returns whether it is worth keeping in
 * the record. A table must be: it is the same one each time it is asked for. */
static bool push_field(lua_State *L, const struct chunk *chunk, const struct chunk_line *line,
                       lua_Integer number, int fields) {
    const char *text = chunk->bytes + line->at;
    if (number == LENGTH) {
        lua_pushinteger(L, (lua_Integer)line->length);
        return false;
    }
    if (number == TEXT && line->kind != CHUNK_TOO_LONG) {
        lua_pushlstring(L, text, line->length);
        return true;
    }
    if (number == SPOILED && line->kind == CHUNK_GOOD) {
        push_spoiled(L, chunk, line, fields);
        return lua_istable(L, -1);
    }
    for (uint16_t i = 0; i < line->spans; i++) {
        const struct chunk_span *span = &chunk->spans[line->first_span + i];
        struct json_error ignored;
        if (span->field + 1 == number && push_value(L, text, span, &ignored))
            return span->type > JSON_STRING || (span->type == JSON_STRING && span->length > 40);
    }
    lua_pushnil(L);
    return false;
}

/* record[name], where the record has nothing yet. */
int jsonl_record_index(lua_State *L) {
    struct jsonl_box *box = lua_touserdata(L, lua_upvalueindex(1));
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 2);
    lua_pushvalue(L, 2);
    lua_rawget(L, lua_upvalueindex(2));
    lua_Integer number = lua_tointeger(L, 3);
    bool is_made = number > 0 || (number < 0 && number >= SPOILED);
    const struct chunk_line *line = is_made ? find_line(L, 1, box) : NULL;
    if (!line) return lua_pushnil(L), 1;
    box->readers++;
    bool keep = push_field(L, box->chunk, line, number, lua_upvalueindex(2));
    box->readers--;
    if (keep) {
        lua_pushvalue(L, 2);
        lua_pushvalue(L, -2);
        lua_rawset(L, 1);
    }
    return 1;
}

static int raw_next(lua_State *L) {
    lua_settop(L, 2);
    return lua_next(L, 1) ? 2 : (lua_pushnil(L), 1);
}

void jsonl_record_make(lua_State *L, int record, struct jsonl_box *box, int fields) {
    const struct chunk_line *line = find_line(L, record, box);
    if (!line) return;
    int name = lua_gettop(L) + 1;
    box->readers++;
    for (lua_pushnil(L); lua_next(L, fields); lua_settop(L, name)) {
        lua_pushvalue(L, name);
        if (lua_rawget(L, record) != LUA_TNIL) continue;
        push_field(L, box->chunk, line, lua_tointeger(L, name + 1), fields);
        lua_pushvalue(L, name);
        lua_insert(L, -2);
        lua_rawset(L, record);
    }
    box->readers--;
}

/* pairs(record): everything is made first. */
int jsonl_record_pairs(lua_State *L) {
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    jsonl_record_make(L, 1, lua_touserdata(L, lua_upvalueindex(1)), lua_upvalueindex(2));
    lua_pushcfunction(L, raw_next);
    lua_pushvalue(L, 1);
    return 2;
}

/* ---- lines ---- */

/* stdio's own buffer is about as large as a line: one call of write(2) for each. */
enum { WRITE_BUFFER = 64 * 1024 };

/* Gives a file of io.open that is at stack index 1 a larger buffer. It lives as long as the file:
 * as a value of a table with weak keys, which outlives the finalizer of its key. */
static void widen(lua_State *L, FILE *file) {
    static const char buffers; /* its address is a key of the registry */
    bool is_foreign = file == stdout || file == stderr || file == stdin;
    if (is_foreign || __flbf(file) || __fbufsize(file) == 1 || isatty(fileno(file))) return;
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &buffers) != LUA_TTABLE) {
        lua_newtable(L);
        lua_createtable(L, 0, 1);
        lua_pushliteral(L, "k");
        lua_setfield(L, -2, "__mode");
        lua_setmetatable(L, -2);
        lua_pushvalue(L, -1);
        lua_rawsetp(L, LUA_REGISTRYINDEX, &buffers);
    }
    lua_pushvalue(L, 1);
    char *buffer = lua_newuserdatauv(L, WRITE_BUFFER, 0);
    lua_rawset(L, -3);
    if (fflush(file) == 0) setvbuf(file, buffer, _IOFBF, WRITE_BUFFER);
}

/* The line of a record of jsonl.scan at a stack index, and its box; NULL when it is none, or the
 * script has given it other methods. Pushes a few values: the last one is the table of fields. */
static const struct chunk_line *line_of_record(lua_State *L, int record, int index_name,
                                               struct jsonl_box **box) {
    *box = NULL;
    if (!lua_istable(L, record) || !lua_getmetatable(L, record)) return NULL;
    lua_pushvalue(L, index_name);
    lua_rawget(L, -2);
    if (lua_tocfunction(L, -1) != jsonl_record_index || !lua_getupvalue(L, -1, 1)) return NULL;
    *box = lua_touserdata(L, -1);
    lua_getupvalue(L, -2, 2);
    return *box ? find_line(L, record, *box) : NULL;
}

/* The bytes of the line of the record that is an argument (or its `text`, when somebody has set
 * that), which stay until something runs a finalizer; NULL when there is no record with a text.
 * Upvalues: see jsonl_push_lines. */
static const char *line_of(lua_State *L, int record, size_t *length) {
    *length = 0;
    if (!lua_istable(L, record)) return NULL;
    lua_pushvalue(L, lua_upvalueindex(2));
    if (lua_rawget(L, record) != LUA_TNIL) return lua_tolstring(L, -1, length);
    struct jsonl_box *box;
    const struct chunk_line *line = line_of_record(L, record, lua_upvalueindex(3), &box);
    if (!line || line->kind == CHUNK_TOO_LONG) return NULL;
    *length = (size_t)line->length;
    return box->chunk->bytes + line->at;
}

/* write(file, record) -> true. The line's own bytes and a newline, without a Lua string between. */
static int jsonl_write(lua_State *L) {
    const luaL_Stream *stream = lua_touserdata(L, 1);
    if (!stream || !lua_getmetatable(L, 1) || !lua_rawequal(L, -1, lua_upvalueindex(1)))
        stream = luaL_checkudata(L, 1, LUA_FILEHANDLE);
    lua_settop(L, 2);
    size_t length;
    luaL_argcheck(L, stream->closef, 1, "the file is closed");
    FILE *file = stream->f; /* nobody else's: no need to lock it */
    if (__fbufsize(file) < WRITE_BUFFER) widen(L, file);
    lua_settop(L, 2);
    const char *line = line_of(L, 2, &length);
    luaL_argcheck(L, line, 2, "a record with a text expected");
    if (fwrite_unlocked(line, 1, length, file) == length && putc_unlocked('\n', file) != EOF)
        return lua_pushboolean(L, 1), 1;
    int error = errno;
    return obatch_fail_errno(L, "write", error);
}

/* find(record, text [, from]) -> first, last | nil: string.find(record.text, text, from, true), and
 * the line does not become a Lua string. */
static int jsonl_find(lua_State *L) {
    size_t length, size;
    const char *text = luaL_checklstring(L, 2, &size);
    lua_Integer from = luaL_optinteger(L, 3, 1);
    luaL_argcheck(L, size > 0, 2, "empty");
    luaL_argcheck(L, from >= 1, 3, "positions begin with 1");
    lua_settop(L, 2);
    const char *line = line_of(L, 1, &length);
    luaL_argcheck(L, line, 1, "a record with a text expected");
    for (size_t at = (size_t)from - 1; at < length && length - at >= size; at++) {
        const char *begin = memchr(line + at, text[0], length - at - size + 1);
        if (!begin) break;
        at = (size_t)(begin - line);
        if (memcmp(begin, text, size) != 0) continue;
        lua_pushinteger(L, (lua_Integer)at + 1);
        lua_pushinteger(L, (lua_Integer)at + (lua_Integer)size);
        return 2;
    }
    return lua_pushnil(L), 1;
}

/* sub(record, first, last) -> string.sub(record.text, first, last), positions from 1. */
static int jsonl_sub(lua_State *L) {
    size_t length;
    lua_Integer first = luaL_checkinteger(L, 2), last = luaL_checkinteger(L, 3);
    luaL_argcheck(L, first >= 1, 2, "positions begin with 1");
    lua_settop(L, 1);
    const char *line = line_of(L, 1, &length);
    luaL_argcheck(L, line, 1, "a record with a text expected");
    if (last > (lua_Integer)length) last = (lua_Integer)length;
    if (first > last) return lua_pushliteral(L, ""), 1;
    lua_pushlstring(L, line + first - 1, (size_t)(last - first) + 1);
    return 1;
}

/* decode(record, name) -> the value of the JSON that the field, a string, holds, in one Markdown
 * fence or not: json.decode of it without a Lua string between. nil when it is no string, or not
 * JSON that can be decoded. */
static int jsonl_decode(lua_State *L) {
    struct jsonl_box *box;
    struct json_error ignored;
    luaL_checktype(L, 1, LUA_TTABLE);
    luaL_checktype(L, 2, LUA_TSTRING);
    lua_settop(L, 2);
    lua_pushvalue(L, 2);
    if (lua_rawget(L, 1) != LUA_TNIL) { /* made before, or by the script */
        size_t length;
        if (lua_type(L, 3) != LUA_TSTRING) return lua_pushnil(L), 1;
        const char *text = lua_tolstring(L, 3, &length);
        if (!json_lua_decode_answer(L, text, length, &ignored)) lua_pushnil(L);
        return 1;
    }
    const struct chunk_line *line = line_of_record(L, 1, lua_upvalueindex(3), &box);
    if (box && !box->chunk) return lua_pushnil(L), 1; /* made whole, and it has no such field */
    if (!line) return luaL_argerror(L, 1, "a record of jsonl.scan expected");
    lua_pushvalue(L, 2);
    lua_rawget(L, -2);
    lua_Integer number = lua_tointeger(L, -1);
    const struct chunk *chunk = box->chunk;
    bool good = false;
    box->readers++;
    if (line->is_taped && number == chunk->look->decoded + 1) {
        json_lua_push_tape(L, &chunk->tape.tokens[line->token], chunk->tape.depth);
        good = true;
    }
    for (uint16_t i = 0; i < line->spans && !good; i++) {
        const struct chunk_span *span = &chunk->spans[line->first_span + i];
        if (span->field + 1 != number || span->type != JSON_STRING) continue;
        struct json_value value = chunk_value(chunk->bytes + line->at, span);
        good = json_lua_decode_string(L, &value, &ignored);
    }
    box->readers--;
    if (!good) lua_pushnil(L);
    return 1;
}

/* Adds the functions that take a line where it stands to the module, which is on top. Upvalues: the
 * metatable of files, "text", "__index". */
void jsonl_push_lines(lua_State *L) {
    static const luaL_Reg functions[] = {{"decode", jsonl_decode},
                                         {"find", jsonl_find},
                                         {"sub", jsonl_sub},
                                         {"write", jsonl_write},
                                         {NULL, NULL}};
    luaL_getmetatable(L, LUA_FILEHANDLE);
    lua_pushliteral(L, "text");
    lua_pushliteral(L, "__index");
    luaL_setfuncs(L, functions, 3);
}
