/* The modules that need a large library are files of their own, loaded when they are first
 * required: most commands need none of them, and libcurl alone brings more than thirty libraries
 * along, which take longer to load than all that such a command does. */
#ifndef OBATCH_MODULE_H
#define OBATCH_MODULE_H

#include <lua.h>

/* Adds their loaders to the table (package.preload) at the top of the stack. */
void module_add_loaders(lua_State *L, const char *folder);

#endif
