/* The tables of options that the bindings take. A wrong one raises "NAME: what was expected", and a
 * misspelt one would be silently ignored, so it raises too. Fields are read raw: a metamethod could
 * hand out a string that nothing else keeps alive. */
#ifndef OBATCH_OPTIONS_H
#define OBATCH_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>

#include <lua.h>

/* Raises unless there is a table at the stack index whose keys are all in the NULL-terminated list.
 */
void options_check(lua_State *L, int table, const char *const known[]);

/* Pushes a field and returns its type. */
int options_get(lua_State *L, int table, const char *name);

/* A string without NUL bytes, or NULL; and one of any bytes. The table keeps it alive. */
const char *options_string(lua_State *L, int table, const char *name);
const char *options_bytes(lua_State *L, int table, const char *name, size_t *size);

bool options_boolean(lua_State *L, int table, const char *name, bool otherwise);

/* 0 or more; may be infinite. */
double options_number(lua_State *L, int table, const char *name, double otherwise);

lua_Integer options_integer(lua_State *L, int table, const char *name, lua_Integer otherwise,
                            lua_Integer least, lua_Integer most);

#endif
