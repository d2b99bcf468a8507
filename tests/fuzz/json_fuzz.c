/* libFuzzer: the scanner on memory of exactly the text's size, then obatch.json on the same text.
 * An input is "text \xFF pointer \xFF value"; the byte is in no valid text, and without it a few
 * pointers are tried. */
#include "json.h"
#include "obatch.h"

#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>

volatile sig_atomic_t obatch_interrupted = 0;

static void require_that(bool truth, const char *claim) {
    if (truth) return;
    fprintf(stderr, "not true: %s\n", claim);
    abort();
}

/* json_check, json_find and the reader must agree on a text; returns their verdict. */
static bool scan(const char *bytes, size_t length) {
    char *text = malloc(length ? length : 1);
    require_that(text != NULL, "there is memory");
    memcpy(text, bytes, length);
    struct json_error error;
    struct json_node nodes[8];
    struct json_plan plan = {nodes, 0};
    json_plan_add(&plan, "/a/b", 4);
    json_plan_add(&plan, "/0", 2);
    json_plan_add(&plan, "/a~1b", 5);
    bool good = json_check(text, length, false, &error);
    require_that(good || (error.message && error.offset <= length), "an error is inside the text");
    require_that(json_find(text, length, &plan, &error) == good, "check and find agree");
    for (uint32_t i = 0; good && i < plan.count; i++) {
        const struct json_value *found = &nodes[i].found;
        require_that(!found->type || json_check(found->at, found->length, false, &error),
                     "what is found is JSON");
    }
    free(text);
    return good;
}

/* The properties of the Lua side, as a chunk: text, verdict, pointer or nil, value or nil. */
static const char properties[] =
    "local json = require 'obatch.json'\n"
    "return function(text, verdict, pointer, value)\n"
    "  assert((json.check(text) or false) == verdict)\n"
    "  local decoded, problem = json.decode(text)\n"
    "  assert((decoded ~= nil) == (json.check(text, 'decodable') == true)\n"
    "    or problem == 'number too large')\n"
    "  if not verdict then return end\n"
    "  if decoded ~= nil then\n"
    "    local encoded = json.encode(decoded)\n"
    "    assert(json.encode(json.decode(encoded)) == encoded)\n"
    "  end\n"
    "  if not value or not json.check(value) then value = '[0]' end\n"
    "  value = value:match('^[ \\t\\r\\n]*(.-)[ \\t\\r\\n]*$')\n"
    "  for _, at in ipairs(pointer and { pointer } or { '', '/a', '/a/b', '/0', '/-', '/' }) do\n"
    "    local good, raw = pcall(json.raw, text, at)\n"
    "    if not good then return end\n" /* not a pointer */
    "    local set, changed = pcall(json.set, text, at, value)\n"
    "    if not set then changed = nil end\n" /* a key that is not UTF-8 */
    "    if raw then\n"
    "      assert(json.check(raw) and json.set(text, at, raw) == text)\n"
    "      assert(not changed or json.raw(changed, at) == value and json.set(changed, at, raw) == "
    "text)\n"
    "    end\n"
    "    assert(not changed or json.check(changed))\n"
    "  end\n"
    "end\n";

static lua_State *start(void) {
    lua_State *L = luaL_newstate();
    luaL_openlibs(L);
    luaL_requiref(L, "obatch.json", luaopen_obatch_json, 0);
    require_that(luaL_dostring(L, properties) == LUA_OK, lua_tostring(L, -1));
    return L;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static lua_State *L;
    if (!L) L = start();
    const char *text = (const char *)data, *end = text + size;
    const char *pointer = memchr(text, 0xFF, size);
    const char *value = pointer ? memchr(pointer + 1, 0xFF, (size_t)(end - pointer - 1)) : NULL;
    size_t length = (size_t)((pointer ? pointer : end) - text);

    int top = lua_gettop(L);
    lua_pushvalue(L, -1);
    lua_pushlstring(L, text, length);
    lua_pushboolean(L, scan(text, length));
    if (pointer) lua_pushlstring(L, pointer + 1, (size_t)((value ? value : end) - pointer - 1));
    if (value) lua_pushlstring(L, value + 1, (size_t)(end - value - 1));
    require_that(lua_pcall(L, lua_gettop(L) - top - 1, 0, 0) == LUA_OK, lua_tostring(L, -1));
    return 0;
}
