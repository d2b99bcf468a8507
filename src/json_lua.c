/* obatch.json: JSON text read, spliced, decoded and encoded. A text that breaks a rule of json.h is
 * the world's failure: nil, message, position (in bytes, from 1). Wrong arguments raise. */
#include "json_lua.h"
#include "obatch.h"

#include <stdlib.h>

#define OUT_TYPE "obatch.json.out"

/* nil, message, position. Lua counts bytes from 1. */
static int fail_at(lua_State *L, const struct json_error *error) {
    lua_pushnil(L);
    lua_pushstring(L, error->message);
    lua_pushinteger(L, (lua_Integer)error->offset + 1);
    return 3;
}

/* ---- from text to Lua ---- */

/* check(text [, "decodable"]) -> true. "decodable" refuses lone surrogates in any string or key. */
static int check(lua_State *L) {
    static const char *const options[] = {"", "decodable", NULL};
    size_t length;
    const char *text = luaL_checklstring(L, 1, &length);
    bool decodable = luaL_checkoption(L, 2, "", options) == 1;
    struct json_error error;
    if (!json_check(text, length, decodable, &error)) return fail_at(L, &error);
    lua_pushboolean(L, 1);
    return 1;
}

/* decode(text) -> value: null is json.null, arrays are marked, integers that fit are integers. */
static int decode(lua_State *L) {
    size_t length;
    const char *text = luaL_checklstring(L, 1, &length);
    struct json_error error;
    return json_lua_decode(L, text, length, &error) ? 1 : fail_at(L, &error);
}

/* ---- pointers ---- */

size_t json_lua_pointer(lua_State *L, int index, int argument) {
    size_t length, nodes;
    const char *pointer = lua_tolstring(L, index, &length);
    nodes = pointer ? json_pointer_nodes(pointer, length) : 0;
    luaL_argcheck(L, nodes > 0, argument, "not a JSON pointer (RFC 6901), such as \"/body/model\"");
    return nodes;
}

struct json_plan *json_lua_plan(lua_State *L, size_t nodes) {
    struct json_plan *plan =
        lua_newuserdatauv(L, sizeof *plan + nodes * sizeof(struct json_node), 0);
    *plan = (struct json_plan){.nodes = (struct json_node *)(plan + 1)};
    return plan;
}

/* Finds argument 2, a pointer, in argument 1, a text, and pushes the plan, whose nodes are the
 * tokens of the pointer in order. NULL after pushing nil, message, position. */
static struct json_plan *find(lua_State *L) {
    size_t length, pointer_length;
    const char *text = luaL_checklstring(L, 1, &length);
    const char *pointer = luaL_checklstring(L, 2, &pointer_length);
    struct json_plan *plan = json_lua_plan(L, json_lua_pointer(L, 2, 2));
    struct json_error error;
    json_plan_add(plan, pointer, pointer_length);
    if (json_find(text, length, plan, &error)) return plan;
    fail_at(L, &error);
    return NULL;
}

/* get(text, pointer) -> the value there as decode gives it; a lone nil when there is none. */
static int get(lua_State *L) {
    struct json_plan *plan = find(L);
    if (!plan) return 3;
    const struct json_value *found = &plan->nodes[plan->count - 1].found;
    struct json_error error;
    if (found->type == JSON_ABSENT) {
        lua_pushnil(L);
        return 1;
    }
    if (json_lua_push(L, found, &error)) return 1;
    error.offset += (size_t)(found->at - lua_tostring(L, 1));
    return fail_at(L, &error);
}

/* raw(text, pointer) -> the bytes of the value there; a lone nil when there is none. */
static int raw(lua_State *L) {
    struct json_plan *plan = find(L);
    if (!plan) return 3;
    const struct json_value *found = &plan->nodes[plan->count - 1].found;
    if (found->type == JSON_ABSENT) {
        lua_pushnil(L);
    } else {
        lua_pushlstring(L, found->at, found->length);
    }
    return 1;
}

/* find(text, { name = pointer, ... }) -> { name = value, ... } in one pass: what get gives for
 * each. `spoiled` in it, if it is there, has a message for each name whose value cannot be decoded.
 */
static int find_all(lua_State *L) {
    size_t length, nodes = 1, size;
    const char *text = luaL_checklstring(L, 1, &length);
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_settop(L, 2);
    for (lua_pushnil(L); lua_next(L, 2); lua_pop(L, 1)) {
        bool are_strings = lua_type(L, 3) == LUA_TSTRING && lua_type(L, 4) == LUA_TSTRING;
        luaL_argcheck(L, are_strings, 2, "names and pointers must be strings");
        luaL_argcheck(L, strcmp(lua_tostring(L, 3), "spoiled") != 0, 2, "no name for a field");
        nodes += json_lua_pointer(L, 4, 2) - 1;
    }
    struct json_plan *plan = json_lua_plan(L, nodes);
    struct json_error error;
    json_plan_add(plan, "", 0);
    for (lua_pushnil(L); lua_next(L, 2); lua_pop(L, 1)) {
        const char *pointer = lua_tolstring(L, 5, &size);
        json_plan_add(plan, pointer, size);
    }
    if (!json_find(text, length, plan, &error)) return fail_at(L, &error);
    lua_newtable(L); /* the result; the plan is at 3 */
    for (lua_pushnil(L); lua_next(L, 2); lua_settop(L, 5)) {
        const char *pointer = lua_tolstring(L, 6, &size);
        const struct json_value *found = &plan->nodes[json_plan_add(plan, pointer, size)].found;
        lua_pushvalue(L, 5);
        if (found->type == JSON_ABSENT) continue;
        if (json_lua_push(L, found, &error)) {
            lua_rawset(L, 4);
            continue;
        }
        luaL_getsubtable(L, 4, "spoiled");
        lua_insert(L, 7);
        lua_pushfstring(L, "byte %I: %s",
                        (lua_Integer)(found->at - text) + (lua_Integer)error.offset + 1,
                        error.message);
        lua_rawset(L, 7);
    }
    return 1;
}

/* ---- from Lua to text ---- */

static int free_out(lua_State *L) {
    struct json_out *out = luaL_checkudata(L, 1, OUT_TYPE);
    free(out->data);
    *out = (struct json_out){0};
    return 0;
}

/* Pushes an empty json_out; __gc frees it when an error comes between. */
static struct json_out *new_out(lua_State *L) {
    struct json_out *out = lua_newuserdatauv(L, sizeof *out, 0);
    *out = (struct json_out){0};
    if (luaL_newmetatable(L, OUT_TYPE)) {
        lua_pushcfunction(L, free_out);
        lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, -2);
    return out;
}

/* Pushes what was written and gives the memory back at once. */
static void push_out(lua_State *L, struct json_out *out) {
    lua_pushlstring(L, out->data ? out->data : "", out->length);
    free(out->data);
    *out = (struct json_out){0};
}

/* encode(value) -> text; see json_lua_encode. */
static int encode(lua_State *L) {
    luaL_checkany(L, 1);
    struct json_out *out = new_out(L);
    json_lua_encode(L, 1, out, NULL, NULL);
    push_out(L, out);
    return 1;
}

/* ---- from text to text ---- */

static void new_line(lua_State *L, struct json_out *out, int level) {
    static const char spaces[] = "                                ";
    json_out_add(L, out, "\n", 1);
    for (size_t left = 2 * (size_t)level, step; left > 0; left -= step) {
        step = left < sizeof spaces - 1 ? left : sizeof spaces - 1;
        json_out_add(L, out, spaces, step);
    }
}

/* pretty(text) -> the same text on many lines, two spaces a level and no newline at its end: every
 * scalar and key keeps its own bytes and its place, duplicate keys too. */
static int pretty(lua_State *L) {
    size_t length;
    const char *text = luaL_checklstring(L, 1, &length);
    struct json_error error;
    if (!json_check(text, length, false, &error)) return fail_at(L, &error);
    struct json_out *out = new_out(L);
    struct json_reader reader;
    struct json_value token;
    json_open(&reader, text, length);
    enum json_type before = JSON_ABSENT;
    while (json_next(&reader, &token) != JSON_ABSENT) {
        bool opens = token.type == JSON_ARRAY || token.type == JSON_OBJECT;
        bool first = before == JSON_ARRAY || before == JSON_OBJECT;
        if (before == JSON_KEY) {
            json_out_add(L, out, ": ", 2);
        } else if (token.type == JSON_CLOSE) {
            if (!first) new_line(L, out, reader.depth);
        } else if (before != JSON_ABSENT) {
            if (!first) json_out_add(L, out, ",", 1);
            new_line(L, out, reader.depth - opens);
        }
        json_out_add(L, out, token.at, token.length);
        before = token.type;
    }
    push_out(L, out);
    return 1;
}

/* ---- splicing ---- */

/* The value in argument 3, without the space around it; raises unless it is strict JSON. *depth is
 * how many levels it has. */
static struct json_value check_raw(lua_State *L, int *depth) {
    size_t length;
    const char *text = luaL_checklstring(L, 3, &length);
    struct json_reader reader;
    struct json_value value, token;
    json_open(&reader, text, length);
    *depth = 0;
    if (json_next(&reader, &value) != JSON_ERROR) {
        const char *end;
        do {
            if (reader.depth > *depth) *depth = reader.depth;
            end = reader.at;
        } while (json_next(&reader, &token) > JSON_ERROR);
        value.length = (size_t)(end - value.at);
    }
    if (reader.error.message)
        luaL_error(L, "bad argument #3 to 'set' (not JSON: byte %d: %s)",
                   (int)reader.error.offset + 1, reader.error.message);
    return value;
}

/* Adds the last token of the pointer as a key: `"key":`. */
static void add_key(lua_State *L, struct json_out *out, const struct json_node *node) {
    luaL_argcheck(L, json_utf8_prefix(node->token, node->length) == node->length, 2,
                  "the key is not valid UTF-8");
    luaL_Buffer buffer;
    luaL_buffinit(L, &buffer);
    for (const char *at = node->token, *end = at + node->length; at < end; at++) {
        char c = *at;
        if (c == '~') c = *++at == '0' ? '~' : '/';
        luaL_addchar(&buffer, c);
    }
    luaL_pushresult(&buffer);
    size_t length;
    const char *key = lua_tolstring(L, -1, &length);
    json_out_string(L, out, key, length);
    json_out_add(L, out, ":", 1);
}

/* set(text, pointer, raw) -> the text with the value at the pointer replaced, or added: to an array
 * by "-", to an object by a key that it has not. Every other byte stays. nil, message when there is
 * nothing it could be put into. */
static int set(lua_State *L) {
    int raw_depth;
    struct json_value value = check_raw(L, &raw_depth);
    size_t length;
    const char *text = luaL_checklstring(L, 1, &length);
    struct json_plan *plan = find(L);
    if (!plan) return 3;
    const struct json_node *node = &plan->nodes[plan->count - 1];
    struct json_value old = node->found;
    struct json_out *out = new_out(L);
    if (raw_depth + (int)plan->count - 1 > JSON_DEPTH)
        return lua_pushnil(L), lua_pushliteral(L, "nested too deep"), 2;
    if (old.type == JSON_ABSENT) {
        const struct json_value *parent = &node[-1].found;
        bool append = node->length == 1 && *node->token == '-';
        if (parent->type != JSON_OBJECT && !(parent->type == JSON_ARRAY && append)) {
            lua_pushnil(L);
            lua_pushfstring(L, "nothing can be set at %s: %s", lua_tostring(L, 2),
                            parent->type == JSON_ARRAY    ? "the array has no such element"
                            : parent->type == JSON_ABSENT ? "there is nothing above it"
                                                          : "what is above it is a scalar");
            return 2;
        }
        const char *last = parent->at + parent->length - 2; /* before the closing bracket */
        while (strchr(" \t\r\n", *last)) last--;
        old.at = last + 1;
        json_out_add(L, out, text, (size_t)(old.at - text));
        if (last > parent->at) json_out_add(L, out, ",", 1);
        if (parent->type == JSON_OBJECT) add_key(L, out, node);
    } else {
        json_out_add(L, out, text, (size_t)(old.at - text));
    }
    json_out_add(L, out, value.at, value.length);
    const char *rest = old.at + old.length;
    json_out_add(L, out, rest, (size_t)(text + length - rest));
    push_out(L, out);
    return 1;
}

/* ---- the module ---- */

bool json_lua_is_array(lua_State *L, int index) {
    if (!lua_getmetatable(L, index)) return false;
    luaL_newmetatable(L, JSON_ARRAY_MARK);
    bool marked = lua_rawequal(L, -1, -2);
    lua_pop(L, 2);
    return marked;
}

/* array(table) -> the same table, marked as an array. */
static int array(lua_State *L) {
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    luaL_argcheck(L, !lua_getmetatable(L, 1) || json_lua_is_array(L, 1), 1,
                  "has a metatable of its own");
    luaL_newmetatable(L, JSON_ARRAY_MARK);
    lua_setmetatable(L, 1);
    lua_settop(L, 1);
    return 1;
}

static int is_array_value(lua_State *L) {
    luaL_checkany(L, 1);
    lua_pushboolean(L, lua_type(L, 1) == LUA_TTABLE && json_lua_is_array(L, 1));
    return 1;
}

static int name_null(lua_State *L) {
    if (lua_touserdata(L, 1)) {
        lua_pushfstring(L, "userdata: %p", lua_touserdata(L, 1));
    } else {
        lua_pushliteral(L, "null");
    }
    return 1;
}

static const luaL_Reg functions[] = {
    {"array", array},
    {"check", check},
    {"decode", decode},
    {"encode", encode},
    {"find", find_all},
    {"get", get},
    {"is_array", is_array_value},
    {"pretty", pretty},
    {"raw", raw},
    {"set", set},
    {NULL, NULL},
};

int luaopen_obatch_json(lua_State *L) {
    luaL_newlib(L, functions);
    lua_pushlightuserdata(L, NULL);
    lua_newtable(L); /* the metatable of all light userdata; no one else here has any */
    lua_pushcfunction(L, name_null);
    lua_setfield(L, -2, "__tostring");
    lua_setmetatable(L, -2);
    lua_setfield(L, -2, "null");
    return 1;
}
