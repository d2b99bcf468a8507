/* libFuzzer: the scanner on memory of exactly the text's size, then obatch.json on the same text:
 * reading, pointers, splicing and laying out. An input is "text \xFF pointer \xFF value"; the byte
 * is in no valid text, and without it a few pointers are tried. */
#include "fuzz.h"

/* json_check, json_find and the reader must agree on a text; returns their verdict. */
static bool scan(const char *bytes, size_t length) {
    char *text = malloc(length ? length : 1);
    require_that(text != NULL, "there is memory");
    memcpy(text, bytes, length);
    struct json_error error;
    struct json_node nodes[8];
    struct json_plan plan = {.nodes = nodes};
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

/* same_tokens(a, b): two valid texts have the same tokens, byte for byte. */
static int same_tokens(lua_State *L) {
    struct json_reader readers[2];
    struct json_value values[2];
    for (int i = 0; i < 2; i++) {
        size_t length;
        const char *text = luaL_checklstring(L, i + 1, &length);
        json_open(&readers[i], text, length);
    }
    bool same = true;
    do {
        for (int i = 0; i < 2; i++) json_next(&readers[i], &values[i]);
        same = values[0].type == values[1].type && values[0].length == values[1].length &&
               (!values[0].at || memcmp(values[0].at, values[1].at, values[0].length) == 0);
    } while (same && values[0].type > JSON_ERROR);
    lua_pushboolean(L, same && values[0].type == JSON_ABSENT);
    return 1;
}

/* place(text, pointer): where the value at the pointer begins (from 1) and ends, in bytes; nil when
 * there is none. */
static int place(lua_State *L) {
    size_t length, pointer_length;
    const char *text = luaL_checklstring(L, 1, &length);
    const char *pointer = luaL_checklstring(L, 2, &pointer_length);
    size_t count = json_pointer_nodes(pointer, pointer_length);
    struct json_plan plan = {.nodes = calloc(count, sizeof *plan.nodes)};
    require_that(count > 0 && plan.nodes != NULL, "it is a pointer, and there is memory");
    struct json_error error;
    uint32_t node = json_plan_add(&plan, pointer, pointer_length);
    require_that(plan.count <= count, "a pointer has the nodes that were counted");
    require_that(json_find(text, length, &plan, &error), "a checked text can be searched");
    struct json_value found = plan.nodes[node].found;
    free(plan.nodes);
    if (!found.type) return lua_pushnil(L), 1;
    lua_pushinteger(L, found.at - text + 1);
    lua_pushinteger(L, found.at - text + (lua_Integer)found.length);
    return 2;
}

/* Arguments: text, verdict, pointer or nil, value or nil. */
static const char properties[] =
    "local json = require 'obatch.json'\n"
    "local function length_shared(a, b, from_end)\n"
    "  if from_end then a, b = a:reverse(), b:reverse() end\n"
    "  local low, high = 0, math.min(#a, #b)\n"
    "  while low < high do\n"
    "    local middle = (low + high + 1) // 2\n"
    "    if a:sub(1, middle) == b:sub(1, middle) then low = middle else high = middle - 1 end\n"
    "  end\n"
    "  return low\n"
    "end\n"
    "return function(text, verdict, pointer, value)\n"
    "  assert((json.check(text) or false) == verdict)\n"
    "  local decoded, problem = json.decode(text)\n"
    "  assert((decoded ~= nil) == (json.check(text, 'decodable') == true)\n"
    "    or problem == 'number too large')\n"
    "  local pretty = json.pretty(text)\n"
    "  assert((pretty ~= nil) == verdict)\n"
    "  if not verdict then return end\n"
    "  assert(same_tokens(text, pretty) and json.pretty(pretty) == pretty)\n"
    "  if decoded ~= nil then\n"
    "    local encoded = json.encode(decoded)\n"
    "    assert(json.encode(json.decode(encoded)) == encoded)\n"
    "    assert(json.encode(json.decode(pretty)) == encoded)\n"
    "  end\n"
    "  if not value or not json.check(value) then value = '[0]' end\n"
    "  value = value:match('^[ \\t\\r\\n]*(.-)[ \\t\\r\\n]*$')\n"
    "  local meant = json.decode(value)\n"
    "  for _, at in ipairs(pointer and { pointer } or { '', '/a', '/a/b', '/0', '/-', '/' }) do\n"
    "    local good, raw = pcall(json.raw, text, at)\n"
    "    if not good then return end\n" /* not a pointer */
    "    local got = json.get(text, at)\n"
    "    assert(raw or got == nil)\n"
    "    local set, changed = pcall(json.set, text, at, value)\n"
    "    if not set then changed = nil end\n" /* a key that is not UTF-8 */
    "    assert(not changed or json.check(changed))\n"
    "    local first, last = place(text, at)\n"
    "    if raw then\n"
    "      assert(text:sub(first, last) == raw and json.check(raw))\n"
    "      if got ~= nil then assert(json.encode(got) == json.encode(json.decode(raw))) end\n"
    "      assert(json.set(text, at, raw) == text)\n"
    "      if changed then\n"
    "        assert(changed == text:sub(1, first - 1) .. value .. text:sub(last + 1))\n"
    "        assert(json.raw(changed, at) == value)\n"
    "        assert(json.set(changed, at, raw) == text)\n"
    "      end\n"
    "    elseif changed then\n"
    "      local added = #changed - #text\n" /* in one piece, and the value is its end */
    "      local before, after = length_shared(text, changed), length_shared(text, changed, true)\n"
    "      assert(added >= #value and before + after >= #text)\n"
    "      if at:sub(-2) ~= '/-' then assert(json.raw(changed, at) == value) end\n"
    "    end\n"
    "    if changed and meant ~= nil and at:sub(-2) ~= '/-' then\n"
    "      assert(json.encode(json.get(changed, at)) == json.encode(meant))\n"
    "    end\n"
    "  end\n"
    "end\n";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const luaL_Reg modules[] = {{"obatch.json", luaopen_obatch_json}, {NULL, NULL}};
    static const luaL_Reg helpers[] = {
        {"same_tokens", same_tokens}, {"place", place}, {NULL, NULL}};
    static lua_State *L;
    if (!L) L = fuzz_start(modules, helpers, properties);
    const char *text = (const char *)data, *end = text + size;
    const char *pointer = memchr(text, 0xFF, size);
    const char *value = pointer ? memchr(pointer + 1, 0xFF, (size_t)(end - pointer - 1)) : NULL;
    size_t length = (size_t)((pointer ? pointer : end) - text);

    int top = lua_gettop(L);
    lua_pushlstring(L, text, length);
    lua_pushboolean(L, scan(text, length));
    if (pointer) lua_pushlstring(L, pointer + 1, (size_t)((value ? value : end) - pointer - 1));
    if (value) lua_pushlstring(L, value + 1, (size_t)(end - value - 1));
    fuzz_call(L, lua_gettop(L) - top);
    return 0;
}
