/* jsonl.scan: the lines of a file as records. */
#include "json_lua.h"
#include "jsonl.h"
#include "jsonl_record.h"
#include "obatch.h"
#include "options.h"

#define SCANNER "obatch.jsonl.scanner"
#define CHUNK "obatch.jsonl.chunk"

/* Chunks of records that Lua has let go of come back when the collector finds them, and it does not
 * see how large they are: from so many bytes on it is called. Where it does not find them, records
 * are kept, and a list is made of those of later chunks: the ones that are left after a collection
 * are made whole, so that their chunk can go. */
enum { OUTSTANDING = 2 * 1024 * 1024 };

struct scanner {
    struct chunks chunks;
    struct chunk_plan look;
    struct jsonl_box *box; /* whose records are being handed out, or NULL */
    struct chunk *chunk;   /* the one in it, or NULL */
    size_t next;           /* of its lines */
    lua_Integer number;
    size_t outstanding, most; /* bytes of chunks that are in boxes */
    lua_Integer listed;       /* boxes with a list of records; 0: none has */
    int indexed;              /* the field by which lines are indexed, or -1 */
    bool is_whole;
};

/* User values of a scanner; the last three: the metatable of records, the list of the current box,
 * the boxes that have one. Those of a box: the scanner, which was there first and so goes last, and
 * the list of its records. */
enum { PATH = 1, FIELDS, TEXTS, LINES_OF, RECORDS, LIST, BOXES, USER_VALUES = BOXES };
enum { BOX_SCANNER = 1, BOX_LIST, BOX_VALUES = BOX_LIST };

/* ---- what is looked for ---- */

/* Checks the table of names and pointers at a stack index and returns the nodes it may need. */
static size_t check_fields(lua_State *L, int index, size_t *count) {
    size_t nodes = 1;
    luaL_checktype(L, index, LUA_TTABLE);
    lua_pushnil(L);
    for (*count = 0; lua_next(L, index); ++*count) {
        luaL_argcheck(L, lua_type(L, -2) == LUA_TSTRING, index, "field names must be strings");
        luaL_argcheck(L, lua_type(L, -1) == LUA_TSTRING, index, "pointers must be strings");
        for (int i = 0; jsonl_record_own[i]; i++)
            if (strcmp(jsonl_record_own[i], lua_tostring(L, -2)) == 0)
                luaL_argerror(L, index,
                              lua_pushfstring(L, "every record has a field '%s' of its own",
                                              jsonl_record_own[i]));
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
    for (int i = 0; jsonl_record_own[i]; i++) {
        lua_pushinteger(L, -i - 1);
        lua_setfield(L, numbers, jsonl_record_own[i]);
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

/* ---- the scanner ---- */

static const char *path_of(lua_State *L, int index) {
    lua_getiuservalue(L, index, PATH);
    return lua_tostring(L, -1); /* stays on the stack, and in the user value */
}

static void release_chunk(struct scanner *scanner, struct jsonl_box *box) {
    if (!box->chunk) return;
    scanner->outstanding -= chunk_size(box->chunk);
    chunks_give_back(&scanner->chunks, box->chunk);
    box->chunk = NULL;
    box->record = NULL;
}

static int free_box(lua_State *L) {
    struct jsonl_box *box = luaL_checkudata(L, 1, CHUNK);
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

/* Has the records of the box at a stack index listed in the table behind it, and the box itself. */
static void list_box(lua_State *L, struct scanner *scanner, int box) {
    lua_pushvalue(L, box + 1);
    lua_setiuservalue(L, box, BOX_LIST);
    lua_pushvalue(L, box + 1);
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
        struct jsonl_box *box = lua_touserdata(L, top + 4);
        /* A finalizer takes records of it, or has done so while others read. */
        if (box->readers > 0 || box == scanner->box) continue;
        lua_getiuservalue(L, top + 4, BOX_LIST);
        for (lua_pushnil(L); lua_next(L, top + 5); lua_settop(L, top + 6))
            jsonl_record_make(L, top + 7, box, top + 1);
        release_chunk(scanner, box);
        lua_pushvalue(L, top + 3);
        lua_pushnil(L);
        lua_rawset(L, top + 2);
    }
    lua_settop(L, top);
}

static void collect(lua_State *L, struct scanner *scanner) {
    if (lua_gc(L, LUA_GCCOLLECT) != 0) return; /* in a finalizer, nothing is collected */
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

/* Lets the records of the last chunk go and takes the next one; false at the end. Whatever makes
 * objects of Lua may run finalizers, and these may close the scanner or take records of it: that
 * comes first. */
static bool next_chunk(lua_State *L, struct scanner *scanner) {
    leave_box(L, 1, scanner);
    if (scanner->outstanding > scanner->most) collect(L, scanner);
    int top = lua_gettop(L);
    struct jsonl_box *box = lua_newuserdatauv(L, sizeof *box, BOX_VALUES);
    *box = (struct jsonl_box){0};
    luaL_setmetatable(L, CHUNK);
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, -2, BOX_SCANNER);
    push_list(L);
    lua_createtable(L, 0, 3);
    push_method(L, jsonl_record_index, top + 1);
    lua_setfield(L, -2, "__index");
    push_method(L, jsonl_record_pairs, top + 1);
    lua_setfield(L, -2, "__pairs");
    if (scanner->chunk) return lua_settop(L, top), true;
    if (scanner->chunks.fd < 0) return false;
    struct chunk *chunk;
    int result = chunks_next(&scanner->chunks, &chunk);
    if (result == LINES_FAILED) jsonl_raise(L, path_of(L, 1), errno, scanner->chunks.failed_at);
    if (result == LINES_END) {
        scanner->is_whole = true;
        close_chunks(L, 1, scanner);
        return false;
    }
    box->chunk = chunk;
    box->first = scanner->number + 1;
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
    if (scanner->listed > 0) list_box(L, scanner, top + 1);
    lua_settop(L, top);
    return true;
}

/* record.error = "<path>:<line>: <what>" and what goes with it, in the record at stack index 2. */
static void set_error(lua_State *L, const struct scanner *scanner, const struct chunk_line *line,
                      lua_Integer number) {
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
    lua_pushfstring(L, "%s:%I: %s", path, number, lua_tostring(L, -1));
    lua_setfield(L, 2, "error");
    lua_settop(L, 2);
}

/* Upvalues: the metatable of scanners, "number", "offset", "is_json", "is_usual". */
static int scanner_next(lua_State *L) {
    struct scanner *scanner = lua_touserdata(L, 1);
    if (!scanner || !lua_getmetatable(L, 1) || !lua_rawequal(L, -1, lua_upvalueindex(1)))
        scanner = luaL_checkudata(L, 1, SCANNER);
    lua_settop(L, 1);
    /* Finalizers may run now, and when next_chunk begins; not from there to the end. */
    lua_createtable(L, 0, 4);
    while (!scanner->chunk || scanner->next == scanner->chunk->line_count)
        if (scanner->chunks.fd < 0 || !next_chunk(L, scanner))
            return lua_pushnil(L), 1; /* at the end, it has closed itself */
    const struct chunk_line *line = &scanner->chunk->lines[scanner->next++];
    lua_Integer number = ++scanner->number;
    scanner->box->record = lua_topointer(L, 2);
    scanner->box->line = line;
    lua_pushvalue(L, lua_upvalueindex(2));
    lua_pushinteger(L, number);
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
    lua_getiuservalue(L, 1, RECORDS);
    lua_setmetatable(L, 2);
    if (scanner->listed > 0 && lua_getiuservalue(L, 1, LIST) == LUA_TTABLE) {
        lua_pushvalue(L, 2);
        lua_rawseti(L, -2, (lua_Integer)scanner->next);
    }
    lua_settop(L, 2);
    if (line->kind != CHUNK_GOOD) { /* the chunk may go while the words are made */
        struct chunk_line bad = *line;
        set_error(L, scanner, &bad, number);
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
