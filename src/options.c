#include "options.h"

#include <lauxlib.h>
#include <string.h>

void options_check(lua_State *L, int table, const char *const known[]) {
    luaL_checktype(L, table, LUA_TTABLE);
    lua_pushnil(L);
    while (lua_next(L, table)) {
        lua_pop(L, 1);
        const char *name = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "?";
        size_t i = 0;
        while (known[i] && strcmp(known[i], name) != 0) i++;
        if (!known[i]) luaL_error(L, "unknown option '%s'", name);
    }
}

int options_get(lua_State *L, int table, const char *name) {
    lua_pushstring(L, name);
    return lua_rawget(L, table);
}

const char *options_bytes(lua_State *L, int table, const char *name, size_t *size) {
    int type = options_get(L, table, name);
    if (type != LUA_TNIL && type != LUA_TSTRING) luaL_error(L, "%s: a string expected", name);
    const char *text = lua_tolstring(L, -1, size);
    lua_pop(L, 1);
    return text;
}

const char *options_string(lua_State *L, int table, const char *name) {
    size_t size;
    const char *text = options_bytes(L, table, name, &size);
    if (text && strlen(text) != size) luaL_error(L, "%s: a NUL byte is in it", name);
    return text;
}

bool options_boolean(lua_State *L, int table, const char *name, bool otherwise) {
    int type = options_get(L, table, name);
    if (type != LUA_TNIL && type != LUA_TBOOLEAN) luaL_error(L, "%s: a boolean expected", name);
    bool value = type == LUA_TNIL ? otherwise : lua_toboolean(L, -1);
    lua_pop(L, 1);
    return value;
}

double options_number(lua_State *L, int table, const char *name, double otherwise) {
    int type = options_get(L, table, name);
    double value = type == LUA_TNIL ? otherwise : lua_tonumber(L, -1);
    if (type != LUA_TNIL && (type != LUA_TNUMBER || !(value >= 0)))
        luaL_error(L, "%s: a number >= 0 expected", name);
    lua_pop(L, 1);
    return value;
}

lua_Integer options_integer(lua_State *L, int table, const char *name, lua_Integer otherwise,
                            lua_Integer least, lua_Integer most) {
    int whole, type = options_get(L, table, name);
    lua_Integer value = lua_tointegerx(L, -1, &whole);
    if (type != LUA_TNIL && (type != LUA_TNUMBER || !whole || value < least || value > most))
        luaL_error(L, "%s: an integer from %I to %I expected", name, (LUAI_UACINT)least,
                   (LUAI_UACINT)most);
    lua_pop(L, 1);
    return type == LUA_TNIL ? otherwise : value;
}
