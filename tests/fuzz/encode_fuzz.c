/* libFuzzer: the encoder. An input is a program of single bytes that builds a Lua value: what JSON
 * can hold comes back the same, and what it cannot hold is refused with the reason. */
#include "fuzz.h"

#include <math.h>

struct program {
    const uint8_t *at, *end;
    bool sound; /* JSON can hold all of it */
};

static int next_byte(struct program *program) {
    return program->at < program->end ? *program->at++ : -1;
}

/* The next bytes of the input as a number of this size; what is missing is zero. */
static void next_bytes(struct program *program, void *to, size_t size) {
    size_t left = (size_t)(program->end - program->at), taken = left < size ? left : size;
    memset(to, 0, size);
    if (taken > 0) memcpy(to, program->at, taken);
    program->at += taken;
}

/* A string behind its length, which is one byte. */
static void push_string(lua_State *L, struct program *program) {
    int wanted = next_byte(program);
    size_t left = (size_t)(program->end - program->at);
    size_t length = wanted < 0 ? 0 : (size_t)wanted < left ? (size_t)wanted : left;
    const char *bytes = (const char *)program->at;
    lua_pushlstring(L, bytes, length);
    program->at += length;
    if (json_utf8_prefix(bytes, length) < length) program->sound = false;
}

/* Pushes the next value; false at the end of a container, and of the input. */
static bool push_value(lua_State *L, struct program *program, int depth) {
    int kind = next_byte(program);
    if (kind < 0 || !lua_checkstack(L, 8)) return false;
    switch (kind % 9) {
    case 0:
        return false;
    case 1:
        lua_pushlightuserdata(L, NULL);
        return true;
    case 2:
        lua_pushboolean(L, kind & 16);
        return true;
    case 3: {
        lua_Integer number;
        next_bytes(program, &number, sizeof number);
        lua_pushinteger(L, number);
        return true;
    }
    case 4: {
        lua_Number number;
        next_bytes(program, &number, sizeof number);
        if (!isfinite(number)) program->sound = false;
        lua_pushnumber(L, number);
        return true;
    }
    case 5:
        push_string(L, program);
        return true;
    case 6:
        lua_getglobal(L, "array");
        lua_newtable(L);
        lua_call(L, 1, 1);
        if (depth > JSON_DEPTH) program->sound = false;
        for (lua_Integer i = 1; push_value(L, program, depth + 1); i++) lua_rawseti(L, -2, i);
        return true;
    case 7:
        lua_newtable(L);
        if (depth > JSON_DEPTH) program->sound = false;
        for (;;) {
            push_string(L, program);
            if (!push_value(L, program, depth + 1)) return lua_pop(L, 1), true;
            lua_rawset(L, -3);
        }
    default: { /* deeper than JSON goes, for few bytes */
        int levels = 3 * (kind / 9) * (kind / 9) / 2;
        lua_newtable(L);
        for (int i = 0; i < levels; i++) {
            lua_createtable(L, 1, 0);
            lua_insert(L, -2);
            lua_rawseti(L, -2, 1);
        }
        if (depth + levels > JSON_DEPTH) program->sound = false;
        return true;
    }
    }
}

/* Arguments: value, whether JSON can hold it. A key may have been overwritten, so that a value
 * which was not sound has gone again: only sound ones must pass. */
static const char properties[] =
    "local json = require 'obatch.json'\n"
    "array = json.array\n"
    "local function same(a, b)\n"
    "  if type(a) ~= 'table' or type(b) ~= 'table' then\n"
    "    return rawequal(a, b) and math.type(a) == math.type(b)\n"
    "      and (a ~= 0 or math.type(a) == 'integer' or 1 / a == 1 / b)\n"
    "  end\n"
    "  for key, value in pairs(a) do if not same(value, b[key]) then return false end end\n"
    "  for key in pairs(b) do if a[key] == nil then return false end end\n"
    "  return next(a) ~= nil or json.is_array(a) == json.is_array(b)\n"
    "end\n"
    "return function(value, sound)\n"
    "  local good, text = pcall(json.encode, value)\n"
    "  if not good then\n"
    "    assert(text:find('cannot encode as JSON', 1, true), text)\n"
    "    return assert(not sound, text)\n"
    "  end\n"
    "  assert(json.check(text, 'decodable'))\n"
    "  local back = json.decode(text)\n"
    "  assert(same(value, back), text)\n"
    "  assert(json.encode(back) == text)\n"
    "  assert(same(value, json.decode(json.pretty(text))))\n"
    "  assert(json.set('[0]', '/0', text) == nil or json.get(json.set('[0]', '/0', text), '/0') ~= "
    "nil)\n"
    "end\n";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const luaL_Reg modules[] = {{"obatch.json", luaopen_obatch_json}, {NULL, NULL}};
    static lua_State *L;
    if (!L) L = fuzz_start(modules, NULL, properties);
    struct program program = {data, data + size, true};
    if (!push_value(L, &program, 1)) return 0;
    lua_pushboolean(L, program.sound);
    fuzz_call(L, 2);
    return 0;
}
