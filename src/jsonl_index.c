/* jsonl.index: which line of a file has which id. It holds about 32 bytes for each line and neither
 * the lines nor the ids: an id is read back from the file before it is believed. */
#include "json_lua.h"
#include "jsonl.h"
#include "obatch.h"

#include <stdlib.h>

#define INDEX "obatch.jsonl.index"

struct entry {
    uint64_t offset; /* of the line in the file */
    uint32_t length;
    uint32_t id_at, id_length; /* the id as JSON text, inside the line */
    uint32_t hash;             /* of the id as it is decoded */
};

struct index {
    struct lines lines; /* kept open for its fd */
    struct entry *entries;
    size_t count, capacity;
    uint32_t *slots; /* ordinals, 0 where free; linear probing, at most 3/4 full */
    size_t slot_count;
    size_t used; /* slots; the first line of every id has one, its duplicates have none */
};

/* FNV-1a. */
static uint32_t hash_id(const char *id, size_t length) {
    uint32_t hash = 2166136261u;
    for (size_t i = 0; i < length; i++) hash = (hash ^ (unsigned char)id[i]) * 16777619u;
    return hash;
}

static int close_index(lua_State *L) {
    struct index *index = luaL_checkudata(L, 1, INDEX);
    lines_close(&index->lines);
    free(index->entries);
    free(index->slots);
    index->entries = NULL;
    index->slots = NULL;
    return 0;
}

static struct index *check_index(lua_State *L) {
    struct index *index = luaL_checkudata(L, 1, INDEX);
    luaL_argcheck(L, index->lines.fd >= 0, 1, "the index is closed");
    return index;
}

static void place_slot(struct index *index, uint32_t ordinal) {
    size_t mask = index->slot_count - 1;
    size_t slot = index->entries[ordinal - 1].hash & mask;
    while (index->slots[slot]) slot = (slot + 1) & mask;
    index->slots[slot] = ordinal;
}

/* Room for one more entry and its slot; false when there is no memory. */
static bool grow(struct index *index) {
    if (index->count == index->capacity) {
        size_t capacity = index->capacity ? index->capacity * 2 : 256;
        struct entry *entries = realloc(index->entries, capacity * sizeof *entries);
        if (!entries) return false;
        index->entries = entries;
        index->capacity = capacity;
    }
    if ((index->used + 1) * 4 > index->slot_count * 3) {
        size_t old_count = index->slot_count;
        uint32_t *old = index->slots;
        size_t slot_count = old_count ? old_count * 2 : 512;
        uint32_t *slots = calloc(slot_count, sizeof *slots);
        if (!slots) return false;
        index->slots = slots;
        index->slot_count = slot_count;
        for (size_t i = 0; i < old_count; i++)
            if (old[i]) place_slot(index, old[i]);
        free(old);
    }
    return true;
}

/* Pushes the bytes of the file at an offset; 0, or an errno with nothing pushed. A file that has
 * become shorter is ESTALE. */
static int push_bytes(lua_State *L, const struct index *index, uint64_t offset, size_t length) {
    luaL_Buffer buffer;
    char *to = luaL_buffinitsize(L, &buffer, length);
    ptrdiff_t n = lines_pread(index->lines.fd, to, length, offset);
    int error = n < 0 ? errno : (size_t)n < length ? ESTALE : 0;
    luaL_pushresultsize(&buffer, error ? 0 : length);
    if (error) lua_pop(L, 1);
    return error;
}

/* Pushes the id of an entry, read from the file; 0, or an errno with nothing pushed. */
static int push_id(lua_State *L, const struct index *index, const struct entry *entry) {
    int error = push_bytes(L, index, entry->offset + entry->id_at, entry->id_length);
    if (error) return error;
    size_t length;
    const char *text = lua_tolstring(L, -1, &length);
    struct json_reader reader;
    struct json_value value;
    struct json_error ignored;
    json_open(&reader, text, length);
    bool good = json_next(&reader, &value) == JSON_STRING && value.length == length &&
                json_lua_push(L, &value, &ignored);
    lua_remove(L, good ? -2 : -1);
    return good ? 0 : ESTALE;
}

/* The ordinal of the first line with the id that is a string at a stack index; 0 when there is
 * none. *error is 0 or an errno. */
static uint32_t find_id(lua_State *L, const struct index *index, int id_index, int *error) {
    size_t length;
    const char *id = lua_tolstring(L, id_index, &length);
    uint32_t hash = hash_id(id, length);
    size_t mask = index->slot_count - 1;
    *error = 0;
    for (size_t slot = hash & mask; index->slot_count && index->slots[slot];
         slot = (slot + 1) & mask) {
        const struct entry *entry = &index->entries[index->slots[slot] - 1];
        if (entry->hash != hash) continue;
        *error = push_id(L, index, entry);
        if (*error) return 0;
        bool same = lua_rawequal(L, id_index, -1);
        lua_pop(L, 1);
        if (same) return index->slots[slot];
    }
    return 0;
}

static int fail_index(lua_State *L, int error) {
    lua_getiuservalue(L, 1, 1);
    const char *path = lua_tostring(L, -1);
    if (error != ESTALE) return obatch_fail_errno(L, path, error);
    lua_pushfstring(L, "%s has changed since it was indexed", path);
    return obatch_fail(L, "CHANGED", lua_tostring(L, -1));
}

/* Adds a line whose id is the string on top of the stack. 0 or an errno. */
static int add_line(lua_State *L, struct index *index, const struct line *line,
                    const struct json_value *id) {
    int error;
    if (index->count == UINT32_MAX) return EOVERFLOW;
    if (!grow(index)) return ENOMEM;
    uint32_t first = find_id(L, index, lua_gettop(L), &error);
    if (error) return error;
    size_t length;
    const char *text = lua_tolstring(L, -1, &length);
    index->entries[index->count++] = (struct entry){
        .offset = line->offset,
        .length = (uint32_t)line->length,
        .id_at = (uint32_t)(id->at - line->text),
        .id_length = (uint32_t)id->length,
        .hash = hash_id(text, length),
    };
    if (!first) {
        place_slot(index, (uint32_t)index->count);
        index->used++;
    }
    return 0;
}

/* Reads the whole file; 0 or an errno. */
static int build(lua_State *L, struct index *index, struct json_plan *plan, uint32_t node) {
    struct line line;
    struct json_error ignored;
    const struct json_value *id = &plan->nodes[node].found;
    int result, top = lua_gettop(L);
    while ((result = lines_next(&index->lines, &line)) == LINES_LINE) {
        if (obatch_interrupted) return EINTR;
        if (!line.text || !json_find(line.text, line.length, plan, &ignored)) continue;
        if (id->type != JSON_STRING || !json_lua_push(L, id, &ignored)) continue;
        int error = add_line(L, index, &line, id);
        if (error) return error;
        lua_settop(L, top);
    }
    return result == LINES_FAILED ? errno : 0;
}

/* index(path, pointer [, { max_line = bytes }]) -> index of the well-formed lines that have a
 * string at the pointer; their ordinals are 1, 2, ... in the order of the file. */
int jsonl_index(lua_State *L) {
    size_t length;
    const char *path = obatch_check_path(L, 1);
    const char *pointer = luaL_checklstring(L, 2, &length);
    size_t nodes = json_lua_pointer(L, 2, 2);
    size_t max_line = jsonl_options(L, 3, NULL);
    lua_settop(L, 2);
    struct json_plan *plan = json_lua_plan(L, nodes);
    uint32_t node = json_plan_add(plan, pointer, length);
    struct index *index = lua_newuserdatauv(L, sizeof *index, 1);
    *index = (struct index){.lines.fd = -1};
    luaL_setmetatable(L, INDEX);
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, -2, 1);
    lua_replace(L, 1); /* as for a method; the user value holds the path */

    int error = lines_open(&index->lines, path, max_line);
    if (error) return obatch_fail_errno(L, path, error);
    error = build(L, index, plan, node);
    lines_drop_buffer(&index->lines);
    lua_settop(L, 1);
    if (error) {
        close_index(L);
        return fail_index(L, error);
    }
    if (index->count > 0) { /* shrinking cannot fail in a way that matters */
        struct entry *entries = realloc(index->entries, index->count * sizeof *entries);
        if (entries) index->entries = entries;
    }
    return 1;
}

/* ---- methods ---- */

/* find(id) -> ordinal of the first line with this id */
static int index_find(lua_State *L) {
    struct index *index = check_index(L);
    int error;
    luaL_checktype(L, 2, LUA_TSTRING);
    uint32_t ordinal = find_id(L, index, 2, &error);
    if (error) return fail_index(L, error);
    if (!ordinal) return lua_pushnil(L), 1;
    lua_pushinteger(L, ordinal);
    return 1;
}

/* The entry of the ordinal at stack index 2, or NULL. */
static const struct entry *check_ordinal(lua_State *L, const struct index *index) {
    lua_Integer ordinal = luaL_checkinteger(L, 2);
    if (ordinal < 1 || (lua_Unsigned)ordinal > index->count) return NULL;
    return &index->entries[ordinal - 1];
}

/* at(ordinal) -> offset, length */
static int index_at(lua_State *L) {
    const struct entry *entry = check_ordinal(L, check_index(L));
    if (!entry) return lua_pushnil(L), 1;
    lua_pushinteger(L, (lua_Integer)entry->offset);
    lua_pushinteger(L, entry->length);
    return 2;
}

/* line(id or ordinal) -> text */
static int index_line(lua_State *L) {
    struct index *index = check_index(L);
    if (lua_type(L, 2) == LUA_TSTRING) {
        int results = index_find(L);
        if (lua_isnil(L, -results)) return results;
        lua_replace(L, 2);
    }
    const struct entry *entry = check_ordinal(L, index);
    if (!entry) return lua_pushnil(L), 1;
    int error = push_bytes(L, index, entry->offset, entry->length);
    return error ? fail_index(L, error) : 1;
}

/* id(ordinal) -> the decoded id */
static int index_id(lua_State *L) {
    struct index *index = check_index(L);
    const struct entry *entry = check_ordinal(L, index);
    if (!entry) return lua_pushnil(L), 1;
    int error = push_id(L, index, entry);
    return error ? fail_index(L, error) : 1;
}

static int index_length(lua_State *L) {
    lua_pushinteger(L, (lua_Integer)check_index(L)->count);
    return 1;
}

/* Methods, and the two numbers. */
static int index_get(lua_State *L) {
    const struct index *index = luaL_checkudata(L, 1, INDEX);
    const char *name = luaL_checkstring(L, 2);
    if (strcmp(name, "count") == 0) {
        lua_pushinteger(L, (lua_Integer)index->count);
    } else if (strcmp(name, "duplicates") == 0) {
        lua_pushinteger(L, (lua_Integer)(index->count - index->used));
    } else {
        lua_getfield(L, lua_upvalueindex(1), name);
    }
    return 1;
}

static const luaL_Reg methods[] = {
    {"at", index_at},         {"close", close_index}, {"find", index_find},
    {"id", index_id},         {"line", index_line},   {"__len", index_length},
    {"__close", close_index}, {"__gc", close_index},  {NULL, NULL},
};

void jsonl_open_index(lua_State *L) {
    luaL_newmetatable(L, INDEX);
    luaL_setfuncs(L, methods, 0);
    lua_pushvalue(L, -1);
    lua_pushcclosure(L, index_get, 1);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
}
