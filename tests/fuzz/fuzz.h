/* What the fuzz targets share: a claim that must be true, and a Lua state with the properties of a
 * target, a chunk that returns a function. */
#ifndef OBATCH_FUZZ_H
#define OBATCH_FUZZ_H

#include "json_lua.h"
#include "obatch.h"

#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

volatile sig_atomic_t obatch_interrupted = 0;

static inline void require_that(bool truth, const char *claim) {
    if (truth) return;
    fprintf(stderr, "not true: %s\n", claim);
    abort();
}

/* The message of a Lua error, with where it was raised. */
static inline int fuzz_traceback(lua_State *L) {
    luaL_traceback(L, L, luaL_tolstring(L, 1, NULL), 1);
    return 1;
}

/* A state that has the modules and, as globals, the helpers (NULL for none); what the chunk returns
 * is on top of its stack. */
static inline lua_State *fuzz_start(const luaL_Reg *modules, const luaL_Reg *helpers,
                                    const char *chunk) {
    lua_State *L = luaL_newstate();
    require_that(L != NULL, "there is memory");
    luaL_openlibs(L);
    for (; modules->name; modules++) {
        luaL_requiref(L, modules->name, modules->func, 0);
        lua_pop(L, 1);
    }
    for (; helpers && helpers->name; helpers++) lua_register(L, helpers->name, helpers->func);
    lua_pushcfunction(L, fuzz_traceback);
    require_that(luaL_dostring(L, chunk) == LUA_OK, lua_tostring(L, -1));
    return L;
}

/* Calls that function with the arguments on top of it; it stays there. */
static inline void fuzz_call(lua_State *L, int arguments) {
    int function = lua_gettop(L) - arguments;
    lua_pushvalue(L, function);
    lua_insert(L, function + 1);
    int result = lua_pcall(L, arguments, 0, function - 1);
    require_that(result == LUA_OK, lua_tostring(L, -1));
}

#endif
