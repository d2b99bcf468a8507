/* What the files of obatch.fs share: fs.c (files and locks), fs_write.c (writing), fs_files.c (many
 * files) and fs_walk.c (folders). */
#ifndef OBATCH_FS_H
#define OBATCH_FS_H

#include "obatch.h"

#include <stdbool.h>
#include <unistd.h>

/* nil, "cannot <verb> <path>: <why>", CODE */
int fs_fail(lua_State *L, const char *verb, const char *path, int error);

/* true */
static inline int fs_succeed(lua_State *L) {
    lua_pushboolean(L, 1);
    return 1;
}

static inline void fs_close(int *fd) {
    if (*fd >= 0) close(*fd);
    *fd = -1;
}

/* A metatable whose __gc and __close are end; methods may be NULL. */
void fs_make_type(lua_State *L, const char *name, const luaL_Reg *methods, lua_CFunction end);

/* The Lua functions of fs_walk.c, and the types they need. */
int fs_list(lua_State *L);
int fs_walk(lua_State *L);
void fs_walk_open(lua_State *L);

/* Those of fs_write.c. */
int fs_append(lua_State *L);
int fs_create(lua_State *L);
int fs_write(lua_State *L);
void fs_write_open(lua_State *L);

/* A whole file, by way of part. 0 or an errno; EEXIST means that something has the name of part. */
int fs_write_file(const char *part, const char *path, const char *text, size_t length,
                  bool durable);

/* Those of fs_files.c. */
int fs_files(lua_State *L);
void fs_files_open(lua_State *L);

#endif
