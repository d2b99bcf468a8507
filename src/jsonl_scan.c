/* jsonl.scan: the lines of a file as records. A record is a table that knows where its line is in a
 * chunk; what it has besides is made when it is asked for. */
#include "chunk.h"
#include "json_lua.h"
#include "jsonl.h"
#include "obatch.h"
#include "options.h"

#include <stdio_ext.h>
#include <unistd.h>

#define SCANNER "obatch.jsonl.scanner"
#define CHUNK "obatch.jsonl.chunk"

/* Chunks of records that Lua has let go of come back when the collector finds them, and it does not
 * see how large they are: from so many bytes on it is called. Where it does not find them, records
 * are kept, and a list is made of those of later chunks: the ones that are left after a collection
 * are made whole, so that their chunk can go. */
enum { OUTSTANDING = 2 * 1024 * 1024 };

/* A chunk whose records are in Lua, as a userdata. Its user values are the scanner, which was there
 * first and so goes last, and the list of records. */
struct box {
    struct chunk *chunk; /* NULL when nobody needs it any more */
    lua_Integer first;   /* number of its first line */
    /* The record that was handed out last, so as to know it again, and its line. Its memory may be
     * another record's by now, but then that one was handed out later. */
    const void *record;
    const struct chunk_line *line;
};

struct scanner {
    struct chunks chunks;
    struct chunk_plan look;
    struct box *box;     /* whose records are being handed out, or NULL */
    struct chunk *chunk; /* the one in it, or NULL */
    size_t next;         /* of its lines */
    lua_Integer number;
    size_t outstanding, most; /* bytes of chunks that are in boxes */
    lua_Integer listed;       /* boxes with a list of records; 0: none has */
    int indexed;              /* the field by which lines are indexed, or -1 */
    bool is_whole;
};

/* User values of a scanner, and of a box. The last three: the metatable of records, the list of the
 * current box, the boxes that have one. */
enum { PATH = 1, FIELDS, TEXTS, LINES_OF, RECORDS, LIST, BOXES, USER_VALUES = BOXES };
enum { BOX_SCANNER = 1, BOX_LIST, BOX_VALUES = BOX_LIST };

/* What a record has besides the fields of the plan; in the table of fields, their names have these
 * numbers, and those of the plan have theirs from 1. Those below SPOILED are in the record from the
 * beginning, or never. */
static const char *const own[] = {"length", "text",     "spoiled", "number",   "offset", "error",
                                  "blank",  "error_at", "is_json", "is_usual", NULL};
enum { LENGTH = -1, TEXT = -2, SPOILED = -3 };

/* ---- what is looked for ---- */

/* Checks the table of names and pointers at a stack index and returns the nodes it may need. */
static size_t check_fields(lua_State *L, int index, size_t *count) {
    size_t nodes = 1;
    luaL_checktype(L, index, LUA_TTABLE);
    lua_pushnil(L);
    for (*count = 0; lua_next(L, index); ++*count) {
        luaL_argcheck(L, lua_type(L, -2) == LUA_TSTRING, index, "field names must be strings");
        luaL_argcheck(L, lua_type(L, -1) == LUA_TSTRING, index, "pointers must be strings");
        for (int i = 0; own[i]; i++)
            if (strcmp(own[i], lua_tostring(L, -2)) == 0)
                luaL_argerror(
                    L, index,
                    lua_pushfstring(L, "every record has a field '%s' of its own", own[i]));
        nodes += json_lua_pointer(L, -1, index) - 1;
        lua_pop(L, 1);
    }
    luaL_argcheck(L, *count < UINT16_MAX, index, "too many fields");
    return nodes;
}

/* The index of the field whose name is at a stack index. */
static size_t find_field(lua_State *L, int numbers, int name, const char *option) {
    lua_pushvalue(L, name);
    lua_rawget(L, numbers);
    lua_Integer number = lua_tointeger(L, -1);
    if (number < 1) luaL_error(L, "%s: there is no field '%s'", option, lua_tostring(L, name));
    lua_pop(L, 1);
    return (size_t)number - 1;
}

/* Pushes the scalar at a stack index as JSON text. */
static void push_usual(lua_State *L, int index) {
    size_t length;
    const char *text;
    switch (lua_type(L, index)) {
    case LUA_TSTRING:
        text = lua_tolstring(L, index, &length);
        for (size_t i = 0; i < length; i++)
            if (text[i] < ' ' || text[i] > '~' || text[i] == '"' || text[i] == '\\')
                luaL_error(L, "usual: a string of plain ASCII expected");
        lua_pushfstring(L, "\"%s\"", text);
        break;
    case LUA_TBOOLEAN:
        lua_pushstring(L, lua_toboolean(L, index) ? "true" : "false");
        break;
    case LUA_TLIGHTUSERDATA:
        lua_pushliteral(L, "null");
        break;
    default:
        if (!lua_isinteger(L, index))
            luaL_error(L, "usual: a string, an integer, a boolean or null expected");
        lua_pushfstring(L, "%I", lua_tointeger(L, index));
    }
}

/* The index of the field that the option names, or -1. */
static int get_field(lua_State *L, int numbers, const char *option) {
    int top = lua_gettop(L), field = -1;
    if (options_get(L, 3, option) != LUA_TNIL) {
        if (lua_type(L, -1) != LUA_TSTRING)
            luaL_argerror(L, 3, lua_pushfstring(L, "%s: the name of a field expected", option));
        field = (int)find_field(L, numbers, top + 1, option);
    }
    lua_settop(L, top);
    return field;
}

/* Takes the options decode, json and usual of the table at stack index 3; texts is a table that
 * keeps. */
static void look_for_more(lua_State *L, struct chunk_plan *look, int numbers, int texts) {
    look->inner = look->decoded = -1;
    if (lua_isnoneornil(L, 3)) return;
    int top = lua_gettop(L);
    look->inner = get_field(L, numbers, "json");
    look->decoded = get_field(L, numbers, "decode");
    if (options_get(L, 3, "usual") != LUA_TNIL) {
        luaL_argcheck(L, lua_type(L, -1) == LUA_TTABLE, 3, "usual: a table expected");
        look->has_usual = true;
        for (lua_pushnil(L); lua_next(L, top + 1); lua_settop(L, top + 2)) {
            luaL_argcheck(L, lua_type(L, top + 2) == LUA_TSTRING, 3, "usual: names expected");
            struct chunk_field *field = &look->fields[find_field(L, numbers, top + 2, "usual")];
            push_usual(L, top + 3);
            field->usual = lua_tolstring(L, -1, &field->usual_length);
            field->must_be_there = strcmp(field->usual, "null") != 0;
            lua_rawseti(L, texts, (lua_Integer)lua_rawlen(L, texts) + 1);
        }
    }
    lua_settop(L, top);
}

/* scan(path, { field = pointer, ... } [, options]) -> what a for loop takes: an iterator that can
 * also be closed, and closes itself at the end. Its records have number, offset, length (of the
 * text, in bytes), text and the fields; `error` (and error_at, a byte of the line) for a bad line,
 * with `blank` for an empty one; spoiled = { field = message } for what cannot be decoded.
 *
 * Options: max_line (bytes); json = the name of a field: record.is_json where that is a string that
 * holds decodable JSON, white space around it or not; usual = { field = scalar, ... }: .is_usual
 * where all these fields are exactly that (null: or are not there) and no lone surrogate is in the
 * line. Both are found out by the threads that scan; they also prepare jsonl.decode for the field
 * that the option decode names. */
int jsonl_scan(lua_State *L) {
    static const char *const known[] = {"decode", "index", "json", "max_line", "usual", NULL};
    const char *path = obatch_check_path(L, 1);
    size_t count, nodes = check_fields(L, 2, &count);
    size_t max_line = jsonl_max_line(L, 3, known);
    lua_settop(L, 3);
    size_t rows = count * sizeof(struct chunk_field) + nodes * sizeof(struct json_node);
    struct scanner *scanner = lua_newuserdatauv(L, sizeof *scanner + rows, USER_VALUES);
    *scanner = (struct scanner){.chunks.fd = -1, .most = OUTSTANDING, .indexed = -1};
    luaL_setmetatable(L, SCANNER);
    struct chunk_plan *look = &scanner->look;
    look->plan.nodes = (struct json_node *)(scanner + 1);
    look->fields = (struct chunk_field *)(look->plan.nodes + nodes);
    look->max_line = max_line;
    json_plan_add(&look->plan, "", 0);

    lua_newtable(L);
    lua_newtable(L);
    int numbers = lua_gettop(L) - 1, texts = numbers + 1;
    for (int i = 0; own[i]; i++) {
        lua_pushinteger(L, -i - 1);
        lua_setfield(L, numbers, own[i]);
    }
    for (lua_pushnil(L); lua_next(L, 2); lua_pop(L, 1)) {
        size_t length;
        const char *pointer = lua_tolstring(L, -1, &length);
        look->fields[look->count++] =
            (struct chunk_field){.node = json_plan_add(&look->plan, pointer, length)};
        lua_pushvalue(L, -1);
        lua_rawseti(L, texts, look->count);
        lua_pushvalue(L, -2);
        lua_pushinteger(L, look->count);
        lua_rawset(L, numbers);
    }
    look_for_more(L, look, numbers, texts);
    if (!lua_isnoneornil(L, 3)) scanner->indexed = get_field(L, numbers, "index");
    lua_setiuservalue(L, 4, TEXTS);
    lua_setiuservalue(L, 4, FIELDS);
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, 4, PATH);
    int error = chunks_open(&scanner->chunks, path, look);
    if (!error && scanner->indexed >= 0) {
        error = jsonl_index_begin(L, scanner->chunks.fd);
        lua_setiuservalue(L, 4, LINES_OF);
    }
    if (error) return obatch_fail_errno(L, path, error);
    lua_pushnil(L);
    lua_pushnil(L);
    lua_pushvalue(L, -3);
    return 4;
}

/* ---- records ---- */

/* The line of the record at a stack index: the one with its number, unless somebody has written
 * something else there. NULL when he has done so to its offset, too. */
static const struct chunk_line *find_line(lua_State *L, int record, const struct box *box) {
    const struct chunk *chunk = box->chunk;
    int has_number, has_offset;
    if (!chunk) return NULL; /* made whole; or in a finalizer that comes after the box's own */
    if (lua_topointer(L, record) == box->record) return box->line;
    lua_pushliteral(L, "number");
    lua_rawget(L, record);
    lua_pushliteral(L, "offset");
    lua_rawget(L, record);
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
                         int numbers) {
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
        for (lua_pushnil(L); lua_next(L, numbers); lua_pop(L, 1)) {
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
                       lua_Integer number, int numbers) {
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
        push_spoiled(L, chunk, line, numbers);
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
static int record_index(lua_State *L) {
    const struct box *box = lua_touserdata(L, lua_upvalueindex(1));
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 2);
    lua_pushvalue(L, 2);
    lua_rawget(L, lua_upvalueindex(2));
    lua_Integer number = lua_tointeger(L, 3);
    bool is_made = number > 0 || (number < 0 && number >= SPOILED);
    const struct chunk_line *line = is_made ? find_line(L, 1, box) : NULL;
    if (!line) return lua_pushnil(L), 1;
    if (push_field(L, box->chunk, line, number, lua_upvalueindex(2))) {
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

/* Makes everything that the record at a stack index has. */
static void make_whole(lua_State *L, int record, const struct box *box, int numbers) {
    const struct chunk_line *line = find_line(L, record, box);
    if (!line) return;
    int name = lua_gettop(L) + 1;
    for (lua_pushnil(L); lua_next(L, numbers); lua_settop(L, name)) {
        lua_pushvalue(L, name);
        if (lua_rawget(L, record) != LUA_TNIL) continue;
        push_field(L, box->chunk, line, lua_tointeger(L, name + 1), numbers);
        lua_pushvalue(L, name);
        lua_insert(L, -2);
        lua_rawset(L, record);
    }
}

/* pairs(record): everything is made first. */
static int record_pairs(lua_State *L) {
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    make_whole(L, 1, lua_touserdata(L, lua_upvalueindex(1)), lua_upvalueindex(2));
    lua_pushcfunction(L, raw_next);
    lua_pushvalue(L, 1);
    return 2;
}

/* ---- writing them ---- */

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
 * script has given it other methods. Pushes a few values: the last one is the table with the
 * numbers of the fields. */
static const struct chunk_line *line_of_record(lua_State *L, int record, int index_name,
                                               const struct box **box) {
    *box = NULL;
    if (!lua_istable(L, record) || !lua_getmetatable(L, record)) return NULL;
    lua_pushvalue(L, index_name);
    lua_rawget(L, -2);
    if (lua_tocfunction(L, -1) != record_index || !lua_getupvalue(L, -1, 1)) return NULL;
    *box = lua_touserdata(L, -1);
    lua_getupvalue(L, -2, 2);
    return *box ? find_line(L, record, *box) : NULL;
}

/* The bytes of the line of the record that is an argument (or its `text`, when somebody has set
 * that), which live as long as the record; NULL when there is no record with a text. Upvalues: see
 * jsonl_push_lines. */
static const char *line_of(lua_State *L, int record, size_t *length) {
    *length = 0;
    if (!lua_istable(L, record)) return NULL;
    lua_pushvalue(L, lua_upvalueindex(2));
    if (lua_rawget(L, record) != LUA_TNIL) return lua_tolstring(L, -1, length);
    const struct box *box;
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
    const char *line = line_of(L, 2, &length);
    luaL_argcheck(L, stream->closef, 1, "the file is closed");
    luaL_argcheck(L, line, 2, "a record with a text expected");
    FILE *file = stream->f; /* nobody else's: no need to lock it */
    if (__fbufsize(file) < WRITE_BUFFER) widen(L, file);
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

/* decode(record, name) -> the value of the JSON that the field, a string, holds: json.decode of it
 * without a Lua string between. nil when it is no string, or not JSON that can be decoded. */
static int jsonl_decode(lua_State *L) {
    const struct box *box;
    struct json_error ignored;
    luaL_checktype(L, 1, LUA_TTABLE);
    luaL_checktype(L, 2, LUA_TSTRING);
    lua_settop(L, 2);
    lua_pushvalue(L, 2);
    if (lua_rawget(L, 1) != LUA_TNIL) { /* made before, or by the script */
        size_t length;
        if (lua_type(L, 3) != LUA_TSTRING) return lua_pushnil(L), 1;
        const char *text = lua_tolstring(L, 3, &length);
        if (!json_lua_decode(L, text, length, &ignored)) lua_pushnil(L);
        return 1;
    }
    const struct chunk_line *line = line_of_record(L, 1, lua_upvalueindex(3), &box);
    if (box && !box->chunk) return lua_pushnil(L), 1; /* made whole, and it has no such field */
    if (!line) return luaL_argerror(L, 1, "a record of jsonl.scan expected");
    lua_pushvalue(L, 2);
    lua_rawget(L, -2);
    lua_Integer number = lua_tointeger(L, -1);
    const struct chunk *chunk = box->chunk;
    if (line->is_taped && number == chunk->look->decoded + 1) {
        json_lua_push_tape(L, &chunk->tape.tokens[line->token], chunk->tape.depth);
        return 1;
    }
    for (uint16_t i = 0; i < line->spans; i++) {
        const struct chunk_span *span = &chunk->spans[line->first_span + i];
        if (span->field + 1 != number || span->type != JSON_STRING) continue;
        struct json_value value = chunk_value(chunk->bytes + line->at, span);
        if (json_lua_decode_string(L, &value, &ignored)) return 1;
    }
    return lua_pushnil(L), 1;
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

/* ---- the scanner ---- */

static const char *path_of(lua_State *L, int index) {
    lua_getiuservalue(L, index, PATH);
    return lua_tostring(L, -1); /* stays on the stack, and in the user value */
}

static void release_chunk(struct scanner *scanner, struct box *box) {
    if (!box->chunk) return;
    scanner->outstanding -= chunk_size(box->chunk);
    chunks_give_back(&scanner->chunks, box->chunk);
    box->chunk = NULL;
    box->record = NULL;
}

static int free_box(lua_State *L) {
    struct box *box = luaL_checkudata(L, 1, CHUNK);
    if (lua_getiuservalue(L, 1, BOX_SCANNER) == LUA_TUSERDATA)
        release_chunk(lua_touserdata(L, -1), box);
    return 0;
}

/* Lets go of the box whose records are being handed out. */
static void leave_box(lua_State *L, int index, struct scanner *scanner) {
    if (scanner->box) scanner->box->record = NULL;
    scanner->box = NULL;
    scanner->chunk = NULL;
    lua_pushnil(L);
    lua_setiuservalue(L, index, RECORDS);
    lua_pushnil(L);
    lua_setiuservalue(L, index, LIST);
}

static void close_chunks(lua_State *L, int index, struct scanner *scanner) {
    chunks_close(&scanner->chunks);
    leave_box(L, index, scanner);
}

/* Pushes a table whose values may go. */
static void push_list(lua_State *L) {
    lua_newtable(L);
    lua_createtable(L, 0, 1);
    lua_pushliteral(L, "v");
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
}

/* Has the records of the box at a stack index listed, and the box itself. */
static void list_box(lua_State *L, struct scanner *scanner, int box) {
    push_list(L);
    lua_pushvalue(L, -1);
    lua_setiuservalue(L, box, BOX_LIST);
    lua_setiuservalue(L, 1, LIST);
    lua_getiuservalue(L, 1, BOXES);
    lua_pushvalue(L, box);
    lua_rawseti(L, -2, scanner->listed++);
    lua_pop(L, 1);
}

/* Makes the listed records whole that are still there, and gives their chunks back. */
static void settle_boxes(lua_State *L, struct scanner *scanner) {
    int top = lua_gettop(L);
    luaL_checkstack(L, 2 * LUA_MINSTACK, NULL);
    lua_getiuservalue(L, 1, FIELDS);
    lua_getiuservalue(L, 1, BOXES);
    for (lua_pushnil(L); lua_next(L, top + 2); lua_settop(L, top + 3)) {
        struct box *box = lua_touserdata(L, top + 4);
        lua_getiuservalue(L, top + 4, BOX_LIST);
        for (lua_pushnil(L); lua_next(L, top + 5); lua_settop(L, top + 6))
            make_whole(L, top + 7, box, top + 1);
        release_chunk(scanner, box);
        lua_pushvalue(L, top + 3);
        lua_pushnil(L);
        lua_rawset(L, top + 2);
    }
    lua_settop(L, top);
}

static void collect(lua_State *L, struct scanner *scanner) {
    lua_gc(L, LUA_GCCOLLECT);
    if (scanner->listed > 0) {
        settle_boxes(L, scanner);
    } else if (scanner->outstanding > OUTSTANDING / 2) {
        push_list(L);
        lua_setiuservalue(L, 1, BOXES);
        scanner->listed = 1;
    }
    /* Where much is kept, or the collector has much to do, it is called less often. */
    size_t heap = (size_t)lua_gc(L, LUA_GCCOUNT) * 1024;
    scanner->most = 2 * scanner->outstanding + heap / 2;
    if (scanner->most < OUTSTANDING) scanner->most = OUTSTANDING;
}

/* Pushes a method of records, whose upvalues are their box and the numbers of fields. */
static void push_method(lua_State *L, lua_CFunction method, int box) {
    lua_pushvalue(L, box);
    lua_getiuservalue(L, 1, FIELDS);
    lua_pushcclosure(L, method, 2);
}

/* Lets the records of the last chunk go and takes the next one; false at the end. */
static bool next_chunk(lua_State *L, struct scanner *scanner) {
    leave_box(L, 1, scanner);
    if (scanner->outstanding > scanner->most) collect(L, scanner);
    int top = lua_gettop(L);
    struct box *box = lua_newuserdatauv(L, sizeof *box, BOX_VALUES);
    *box = (struct box){.first = scanner->number + 1};
    luaL_setmetatable(L, CHUNK);
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, -2, BOX_SCANNER);
    if (scanner->listed > 0) list_box(L, scanner, top + 1);
    lua_createtable(L, 0, 3);
    push_method(L, record_index, top + 1);
    lua_setfield(L, -2, "__index");
    push_method(L, record_pairs, top + 1);
    lua_setfield(L, -2, "__pairs");
    if (scanner->chunks.fd < 0) return false; /* a finalizer has closed it meanwhile */
    struct chunk *chunk;
    int result = chunks_next(&scanner->chunks, &chunk);
    if (result == LINES_FAILED) jsonl_raise(L, path_of(L, 1), errno, scanner->chunks.failed_at);
    if (result == LINES_END) {
        scanner->is_whole = true;
        close_chunks(L, 1, scanner);
        return false;
    }
    box->chunk = chunk;
    scanner->outstanding += chunk_size(chunk);
    if (scanner->indexed >= 0) {
        lua_getiuservalue(L, 1, LINES_OF);
        int error = jsonl_index_add(L, -1, chunk, (size_t)scanner->indexed);
        if (error) jsonl_raise(L, path_of(L, 1), error, chunk->offset);
        lua_pop(L, 1);
    }
    scanner->box = box;
    scanner->chunk = chunk;
    scanner->next = 0;
    lua_setiuservalue(L, 1, RECORDS);
    lua_settop(L, top);
    return true;
}

/* record.error = "<path>:<line>: <what>" and what goes with it, in the record at stack index 2. */
static void set_error(lua_State *L, struct scanner *scanner, const struct chunk_line *line) {
    lua_Integer position = (lua_Integer)line->error_at + 1;
    const char *path = path_of(L, 1);
    if (line->kind == CHUNK_TOO_LONG) {
        jsonl_push_too_long(L, scanner->look.max_line);
    } else if (line->kind == CHUNK_BLANK) {
        lua_pushboolean(L, 1);
        lua_setfield(L, 2, "blank");
        lua_pushliteral(L, "empty line");
    } else {
        lua_pushinteger(L, position);
        lua_setfield(L, 2, "error_at");
        lua_pushfstring(L, "byte %I: %s", position, line->message);
    }
    lua_pushfstring(L, "%s:%I: %s", path, scanner->number, lua_tostring(L, -1));
    lua_setfield(L, 2, "error");
    lua_settop(L, 2);
}

/* Upvalues: the metatable of scanners, "number", "offset", "is_json", "is_usual". */
static int scanner_next(lua_State *L) {
    struct scanner *scanner = lua_touserdata(L, 1);
    if (!scanner || !lua_getmetatable(L, 1) || !lua_rawequal(L, -1, lua_upvalueindex(1)))
        scanner = luaL_checkudata(L, 1, SCANNER);
    lua_settop(L, 1);
    while (!scanner->chunk || scanner->next == scanner->chunk->line_count)
        if (scanner->chunks.fd < 0 || !next_chunk(L, scanner))
            return lua_pushnil(L), 1; /* at the end, it has closed itself */
    const struct chunk_line *line = &scanner->chunk->lines[scanner->next++];
    scanner->number++;
    lua_createtable(L, 0, 4);
    scanner->box->record = lua_topointer(L, 2);
    scanner->box->line = line;
    lua_pushvalue(L, lua_upvalueindex(2));
    lua_pushinteger(L, scanner->number);
    lua_rawset(L, 2);
    lua_pushvalue(L, lua_upvalueindex(3));
    lua_pushinteger(L, (lua_Integer)scanner->chunk->offset + (lua_Integer)line->at);
    lua_rawset(L, 2);
    for (int i = 0; i < 2; i++) {
        if (!(i ? line->is_usual : line->is_json)) continue;
        lua_pushvalue(L, lua_upvalueindex(4 + i));
        lua_pushboolean(L, 1);
        lua_rawset(L, 2);
    }
    if (line->kind != CHUNK_GOOD) set_error(L, scanner, line);
    lua_getiuservalue(L, 1, RECORDS);
    lua_setmetatable(L, 2);
    if (scanner->listed > 0 && lua_getiuservalue(L, 1, LIST) == LUA_TTABLE) {
        lua_pushvalue(L, 2);
        lua_rawseti(L, -2, (lua_Integer)scanner->next);
        lua_settop(L, 2);
    }
    return 1;
}

/* index() -> the jsonl.index by the field that the option index names; nil before the end of the
 * file */
static int scanner_index(lua_State *L) {
    const struct scanner *scanner = luaL_checkudata(L, 1, SCANNER);
    if (!scanner->is_whole) return lua_pushnil(L), 1;
    lua_getiuservalue(L, 1, LINES_OF);
    return 1;
}

static int close_scanner(lua_State *L) {
    close_chunks(L, 1, luaL_checkudata(L, 1, SCANNER));
    return 0;
}

void jsonl_open_scan(lua_State *L) {
    static const luaL_Reg methods[] = {{"close", close_scanner},
                                       {"index", scanner_index},
                                       {"__close", close_scanner},
                                       {"__gc", close_scanner},
                                       {NULL, NULL}};
    static const char *const names[] = {"number", "offset", "is_json", "is_usual"};
    luaL_newmetatable(L, SCANNER);
    luaL_setfuncs(L, methods, 0);
    lua_pushvalue(L, -1);
    lua_setfield(L, -2, "__index");
    lua_pushvalue(L, -1);
    for (int i = 0; i < 4; i++) lua_pushstring(L, names[i]);
    lua_pushcclosure(L, scanner_next, 5);
    lua_setfield(L, -2, "__call");
    luaL_newmetatable(L, CHUNK);
    lua_pushcfunction(L, free_box);
    lua_setfield(L, -2, "__gc");
    lua_pop(L, 2);
}
