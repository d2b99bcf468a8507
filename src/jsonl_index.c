/* jsonl.index: which line of a file has which id. It holds about 32 bytes for each line and neither
 * the lines nor the ids: an id is read back from the file before it is believed. */
#include "chunk.h"
#include "json_lua.h"
#include "jsonl.h"
#include "obatch.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define INDEX "obatch.jsonl.index"

struct entry {
    uint64_t offset; /* of the line in the file */
    uint32_t length;
    uint32_t id_at, id_length; /* the id as JSON text, inside the line */
    uint32_t hash;             /* of the id as it is decoded */
};

struct index {
    int fd;             /* -1: closed */
    struct stat status; /* of the file, before it was read */
    struct entry *entries;
    size_t count, capacity;
    uint32_t *slots; /* ordinals, 0 where free; linear probing, at most 7/8 full */
    size_t slot_count;
    size_t used;   /* slots; the first line of every id has one, its duplicates have none */
    char *scratch; /* for an id: as JSON text, and what it means */
    size_t scratch_room;
};

/* FNV-1a. */
static uint32_t hash_id(const char *id, size_t length) {
    uint32_t hash = 2166136261u;
    for (size_t i = 0; i < length; i++) hash = (hash ^ (unsigned char)id[i]) * 16777619u;
    return hash;
}

static int close_index(lua_State *L) {
    struct index *index = luaL_checkudata(L, 1, INDEX);
    if (index->fd >= 0) close(index->fd);
    free(index->entries);
    free(index->slots);
    free(index->scratch);
    *index = (struct index){.fd = -1};
    return 0;
}

static struct index *check_index(lua_State *L) {
    struct index *index = luaL_checkudata(L, 1, INDEX);
    luaL_argcheck(L, index->fd >= 0, 1, "the index is closed");
    return index;
}

/* The slot where a search for a hash begins: not its low bits, because the number of slots is no
 * power of two, which would waste memory. */
static size_t first_slot(const struct index *index, uint32_t hash) {
    return (size_t)((uint64_t)(hash * 2654435769u) * index->slot_count >> 32);
}

static size_t next_slot(const struct index *index, size_t slot) {
    return slot + 1 < index->slot_count ? slot + 1 : 0;
}

static void place_slot(struct index *index, uint32_t ordinal) {
    size_t slot = first_slot(index, index->entries[ordinal - 1].hash);
    while (index->slots[slot]) slot = next_slot(index, slot);
    index->slots[slot] = ordinal;
}

/* Room for one more entry and its slot; false when there is no memory. */
static bool grow(struct index *index) {
    if (index->count == index->capacity) {
        size_t capacity = index->capacity ? index->capacity + index->capacity / 2 : 256;
        struct entry *entries = realloc(index->entries, capacity * sizeof *entries);
        if (!entries) return false;
        index->entries = entries;
        index->capacity = capacity;
    }
    if ((index->used + 1) * 8 > index->slot_count * 7) {
        size_t old_count = index->slot_count;
        uint32_t *old = index->slots;
        size_t slot_count = old_count ? old_count + old_count / 2 : 512;
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

/* ---- ids ---- */

/* Twice the room for `length` bytes; false when there is no memory. */
static bool need_scratch(struct index *index, size_t length) {
    if (index->scratch && index->scratch_room >= length) return true;
    char *scratch = realloc(index->scratch, 2 * length);
    if (!scratch) return false;
    index->scratch = scratch;
    index->scratch_room = length;
    return true;
}

/* What a string means; the bytes are those of the value, or of the scratch. ENOMEM, or ESTALE when
 * it cannot be decoded. */
static int decode_id(struct index *index, const struct json_value *value, const char **id,
                     size_t *length) {
    *id = value->at + 1;
    *length = value->length - 2;
    if (!value->escaped) return 0;
    if (!need_scratch(index, value->length)) return ENOMEM;
    char *out = index->scratch + index->scratch_room;
    *id = out;
    return json_unescape(value, out, length) ? 0 : ESTALE;
}

/* Reads the id of an entry from the file: 0 or an errno. A file where it is not any more is ESTALE.
 */
static int read_id(struct index *index, const struct entry *entry, const char **id,
                   size_t *length) {
    if (!need_scratch(index, (size_t)entry->id_length + 1)) return ENOMEM;
    char *text = index->scratch;
    ptrdiff_t n = lines_pread(index->fd, text, entry->id_length, entry->offset + entry->id_at);
    if (n < 0) return errno;
    if ((size_t)n < entry->id_length) return ESTALE;
    text[n] = '\0';
    struct json_reader reader;
    struct json_value value;
    json_open(&reader, text, entry->id_length);
    bool good = json_next(&reader, &value) == JSON_STRING && value.length == entry->id_length;
    return good ? decode_id(index, &value, id, length) : ESTALE;
}

/* The ordinal of the first line with an id, 0 when there is none. *error is 0 or an errno. */
static uint32_t find_id(struct index *index, const char *id, size_t length, uint32_t hash,
                        int *error) {
    *error = 0;
    if (!index->slot_count) return 0;
    for (size_t slot = first_slot(index, hash); index->slots[slot]; slot = next_slot(index, slot)) {
        const struct entry *entry = &index->entries[index->slots[slot] - 1];
        if (entry->hash != hash) continue;
        const char *other = NULL;
        size_t other_length = 0;
        *error = read_id(index, entry, &other, &other_length);
        if (*error) return 0;
        if (other && length == other_length && memcmp(id, other, length) == 0)
            return index->slots[slot];
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

/* ---- building ---- */

/* Adds a line whose id is a span. 0 or an errno. */
static int add_line(struct index *index, const struct chunk *chunk, const struct chunk_line *line,
                    const struct chunk_span *span) {
    struct json_value value = chunk_value(chunk->bytes + line->at, span);
    const char *id = NULL;
    size_t length = 0;
    char *own = NULL; /* what read_id would write over */
    int error = decode_id(index, &value, &id, &length);
    if (error) return error == ESTALE ? 0 : error;
    if (index->count == UINT32_MAX) return EOVERFLOW;
    if (value.escaped) {
        own = malloc(length + 1);
        if (!own) return ENOMEM;
        id = memcpy(own, id, length);
    }
    uint32_t hash = hash_id(id, length), first = 0;
    if (!grow(index)) error = ENOMEM;
    if (!error) first = find_id(index, id, length, hash, &error);
    free(own);
    if (error) return error;
    index->entries[index->count++] = (struct entry){
        .offset = chunk->offset + line->at,
        .length = (uint32_t)line->length,
        .id_at = span->at,
        .id_length = span->length,
        .hash = hash,
    };
    if (!first) {
        place_slot(index, (uint32_t)index->count);
        index->used++;
    }
    return 0;
}

/* Adds the lines of a chunk that have a string in a field. 0 or an errno. */
static int add_chunk(struct index *index, const struct chunk *chunk, size_t field) {
    int error = 0;
    for (size_t i = 0; i < chunk->line_count && !error; i++) {
        const struct chunk_line *line = &chunk->lines[i];
        if (line->spans == 0) continue; /* perhaps no line has any, and there is no array */
        const struct chunk_span *span = &chunk->spans[line->first_span], *end = span + line->spans;
        while (span < end && span->field != field) span++;
        if (span < end && span->type == JSON_STRING) error = add_line(index, chunk, line, span);
    }
    return error;
}

/* Reads the whole file; 0 or an errno. */
static int build(struct index *index, struct chunks *chunks) {
    struct chunk *chunk;
    int result, error = 0;
    while ((result = chunks_next(chunks, &chunk)) == LINES_MORE) {
        error = add_chunk(index, chunk, 0);
        chunks_give_back(chunks, chunk);
        if (!error && obatch_interrupted) error = EINTR;
        if (error) return error;
    }
    return result == LINES_FAILED ? errno : 0;
}

/* Pushes a closed index of the path at stack index 1. */
static struct index *new_index(lua_State *L) {
    struct index *index = lua_newuserdatauv(L, sizeof *index, 1);
    *index = (struct index){.fd = -1};
    luaL_setmetatable(L, INDEX);
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, -2, 1);
    return index;
}

/* Takes a file to read ids and lines from. 0 or an errno. */
static int open_file(struct index *index, int fd) {
    index->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    return index->fd < 0 || fstat(fd, &index->status) != 0 ? errno : 0;
}

int jsonl_index_begin(lua_State *L, int fd) {
    return open_file(new_index(L), fd);
}

int jsonl_index_add(lua_State *L, int at, const struct chunk *chunk, size_t field) {
    struct index *index = luaL_checkudata(L, at, INDEX);
    return index->fd < 0 ? 0 : add_chunk(index, chunk, field);
}

/* index(path, pointer [, { max_line = bytes }]) -> index of the well-formed lines that have a
 * string at the pointer; their ordinals are 1, 2, ... in the order of the file. */
int jsonl_index(lua_State *L) {
    size_t length;
    const char *path = obatch_check_path(L, 1);
    const char *pointer = luaL_checklstring(L, 2, &length);
    size_t nodes = json_lua_pointer(L, 2, 2);
    size_t max_line = jsonl_max_line(L, 3, NULL);
    lua_settop(L, 2);
    struct json_plan *plan = json_lua_plan(L, nodes);
    struct chunk_field field = {.node = json_plan_add(plan, pointer, length)};
    struct chunk_plan look = {.plan = *plan,
                              .fields = &field,
                              .count = 1,
                              .max_line = max_line,
                              .inner = -1,
                              .decoded = -1};
    struct index *index = new_index(L);
    lua_replace(L, 1); /* as for a method; the user value holds the path */

    struct chunks chunks;
    int error = chunks_open(&chunks, path, &look);
    if (error) return obatch_fail_errno(L, path, error);
    error = open_file(index, chunks.fd);
    if (!error) error = build(index, &chunks);
    chunks_close(&chunks);
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
    size_t length;
    luaL_checktype(L, 2, LUA_TSTRING);
    const char *id = lua_tolstring(L, 2, &length);
    uint32_t ordinal = find_id(index, id, length, hash_id(id, length), &error);
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
    luaL_Buffer buffer;
    char *to = luaL_buffinitsize(L, &buffer, entry->length);
    ptrdiff_t n = lines_pread(index->fd, to, entry->length, entry->offset);
    int error = n < 0 ? errno : (size_t)n < entry->length ? ESTALE : 0;
    luaL_pushresultsize(&buffer, error ? 0 : entry->length);
    return error ? fail_index(L, error) : 1;
}

/* id(ordinal) -> the decoded id */
static int index_id(lua_State *L) {
    struct index *index = check_index(L);
    const struct entry *entry = check_ordinal(L, index);
    const char *id = NULL;
    size_t length = 0;
    if (!entry) return lua_pushnil(L), 1;
    int error = read_id(index, entry, &id, &length);
    if (error) return fail_index(L, error);
    lua_pushlstring(L, id, length);
    return 1;
}

static bool is_as_it_was(const struct index *index, const struct stat *now) {
    return now->st_size == index->status.st_size &&
           now->st_mtim.tv_sec == index->status.st_mtim.tv_sec &&
           now->st_mtim.tv_nsec == index->status.st_mtim.tv_nsec;
}

/* 0, or ESTALE where the file is not what it was; else an errno. */
static int look_again(const struct index *index) {
    struct stat now;
    if (fstat(index->fd, &now) != 0) return errno;
    return is_as_it_was(index, &now) ? 0 : ESTALE;
}

/* Looks at the path of the index at stack index 1: 0, or ESTALE where another file, or one of
 * another size, is there now; else an errno. The file is open, so no other one gets its number. */
static int look_at_path(lua_State *L, const struct index *index, struct stat *now) {
    lua_getiuservalue(L, 1, 1);
    int error = stat(lua_tostring(L, -1), now) != 0 ? errno : 0;
    lua_pop(L, 1);
    if (error) return error;
    bool same = now->st_dev == index->status.st_dev && now->st_ino == index->status.st_ino &&
                now->st_size == index->status.st_size;
    return same ? 0 : ESTALE;
}

/* check() -> true: the file is what was indexed, as far as its size and time tell */
static int index_check(lua_State *L) {
    int error = look_again(check_index(L));
    if (error) return fail_index(L, error);
    lua_pushboolean(L, 1);
    return 1;
}

/* check_path() -> true: moreover, it is what now stands at the path */
static int index_check_path(lua_State *L) {
    const struct index *index = check_index(L);
    struct stat now;
    int error = look_at_path(L, index, &now);
    if (!error && !is_as_it_was(index, &now)) error = ESTALE;
    if (error) return fail_index(L, error);
    lua_pushboolean(L, 1);
    return 1;
}

/* renew(is_same) -> true: the file was touched, and is_same() has found that its content is what it
 * was. Its time is that of before is_same(), so that what is written meanwhile is noticed. */
static int index_renew(lua_State *L) {
    luaL_checktype(L, 2, LUA_TFUNCTION);
    struct stat now;
    int error = look_at_path(L, check_index(L), &now);
    if (error) return fail_index(L, error);
    lua_settop(L, 2);
    lua_call(L, 0, 3);
    if (lua_isnil(L, 2)) return 3;
    if (!lua_toboolean(L, 2)) return fail_index(L, ESTALE);
    check_index(L)->status = now;
    return index_check_path(L);
}

int jsonl_index_span(lua_State *L, int at, int ordinal, struct jsonl_span *span) {
    const struct index *index = luaL_checkudata(L, at, INDEX);
    lua_Integer number = luaL_checkinteger(L, ordinal);
    luaL_argcheck(L, index->fd >= 0, at, "the index is closed");
    luaL_argcheck(L, number >= 1 && (lua_Unsigned)number <= index->count, ordinal, "no such line");
    const struct entry *entry = &index->entries[number - 1];
    lua_getiuservalue(L, at, 1);
    *span = (struct jsonl_span){lua_tostring(L, -1), index->fd, entry->offset, entry->length};
    lua_pop(L, 1);
    return look_again(index);
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
    {"at", index_at},         {"check", index_check}, {"check_path", index_check_path},
    {"close", close_index},   {"find", index_find},   {"id", index_id},
    {"line", index_line},     {"renew", index_renew}, {"__len", index_length},
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
