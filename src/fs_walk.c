/* fs.list and fs.walk: folders are read whole and sorted, one per level, into memory that a
 * userdata owns. */
#include "fs.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/stat.h>

#define FOLDER_TYPE "obatch.fs.folder"
#define WALK_TYPE "obatch.fs.walk"

#define CHUNK 65536

struct entry {
    size_t name; /* where it starts in the folder's text */
    bool is_folder;
};

struct folder {
    char *text; /* the names, each ended by a NUL */
    size_t text_length, text_room;
    struct entry *entries;
    size_t count, room;
    size_t next;        /* walk: the next entry to visit */
    size_t path_length; /* walk: of the folder's own path */
};

static void folder_free(struct folder *folder) {
    free(folder->text);
    free(folder->entries);
    *folder = (struct folder){0};
}

static int folder_add(struct folder *folder, const char *name, bool is_folder) {
    size_t size = strlen(name) + 1;
    if (folder->text_length + size > folder->text_room) {
        size_t room = folder->text_room * 2 + CHUNK;
        char *text = realloc(folder->text, room);
        if (!text) return ENOMEM;
        folder->text = text;
        folder->text_room = room;
    }
    if (folder->count == folder->room) {
        size_t room = folder->room * 2 + 64;
        struct entry *entries = realloc(folder->entries, room * sizeof *entries);
        if (!entries) return ENOMEM;
        folder->entries = entries;
        folder->room = room;
    }
    memcpy(folder->text + folder->text_length, name, size);
    folder->entries[folder->count++] = (struct entry){folder->text_length, is_folder};
    folder->text_length += size;
    return 0;
}

/* A folder sorts as "name/", so that a walk delivers whole paths in bytewise order: "a.jpg" comes
 * before "a/1.jpg". */
static int by_path(const void *left, const void *right, void *text) {
    const struct entry *a = left, *b = right;
    const unsigned char *x = (const unsigned char *)text + a->name;
    const unsigned char *y = (const unsigned char *)text + b->name;
    while (*x && *x == *y) x++, y++;
    int cx = *x ? *x : a->is_folder ? '/' : 0;
    int cy = *y ? *y : b->is_folder ? '/' : 0;
    return cx - cy;
}

static int by_name(const void *left, const void *right, void *text) {
    const struct entry *a = left, *b = right;
    return strcmp((const char *)text + a->name, (const char *)text + b->name);
}

static int folder_fill(struct folder *folder, DIR *dir) {
    for (;;) {
        errno = 0;
        struct dirent *item = readdir(dir);
        if (!item) return errno;
        const char *name = item->d_name;
        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0) continue;
        bool is_folder = item->d_type == DT_DIR;
        struct stat info;
        if (item->d_type == DT_UNKNOWN &&
            fstatat(dirfd(dir), name, &info, AT_SYMLINK_NOFOLLOW) == 0)
            is_folder = S_ISDIR(info.st_mode);
        int error = folder_add(folder, name, is_folder);
        if (error) return error;
    }
}

static int folder_read(struct folder *folder, const char *path,
                       int (*order)(const void *, const void *, void *)) {
    DIR *dir = opendir(path);
    if (!dir) return errno;
    int error = folder_fill(folder, dir);
    closedir(dir);
    if (!error && folder->count > 0)
        qsort_r(folder->entries, folder->count, sizeof *folder->entries, order, folder->text);
    return error;
}

static int folder_gc(lua_State *L) {
    folder_free(luaL_checkudata(L, 1, FOLDER_TYPE));
    return 0;
}

/* fs.list(folder) -> names without "." and "..", sorted bytewise | nil, message, CODE */
int fs_list(lua_State *L) {
    const char *path = obatch_check_path(L, 1);
    struct folder *folder = lua_newuserdatauv(L, sizeof *folder, 0);
    *folder = (struct folder){0};
    luaL_setmetatable(L, FOLDER_TYPE);
    int error = folder_read(folder, path, by_name);
    if (error) return fs_fail(L, "list", path, error);
    lua_createtable(L, (int)(folder->count < INT_MAX ? folder->count : 0), 0);
    for (size_t i = 0; i < folder->count; i++) {
        lua_pushstring(L, folder->text + folder->entries[i].name);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    folder_free(folder);
    return 1;
}

struct walk {
    char path[PATH_MAX]; /* the folder being read, then the entry being looked at */
    struct folder *folders;
    size_t depth, room;
    char *endings; /* wanted endings, each ended by a NUL, the list by an empty one; NULL: all */
    bool started;
};

static void walk_free(struct walk *walk) {
    while (walk->depth > 0) folder_free(&walk->folders[--walk->depth]);
    free(walk->folders);
    free(walk->endings);
    walk->folders = NULL;
    walk->endings = NULL;
    walk->room = 0;
    walk->started = true; /* a closed walk is over */
}

static int walk_gc(lua_State *L) {
    walk_free(luaL_checkudata(L, 1, WALK_TYPE));
    return 0;
}

/* walk->path is a folder: read it and make it the innermost one. */
static int walk_enter(struct walk *walk) {
    if (walk->depth == walk->room) {
        size_t room = walk->room * 2 + 8;
        struct folder *folders = realloc(walk->folders, room * sizeof *folders);
        if (!folders) return ENOMEM;
        walk->folders = folders;
        walk->room = room;
    }
    struct folder *folder = &walk->folders[walk->depth];
    *folder = (struct folder){.path_length = strlen(walk->path)};
    int error = folder_read(folder, walk->path, by_path);
    if (error)
        folder_free(folder);
    else
        walk->depth++;
    return error;
}

static bool walk_wants(const struct walk *walk, const char *name) {
    if (!walk->endings) return true;
    size_t length = strlen(name);
    for (const char *ending = walk->endings; *ending; ending += strlen(ending) + 1) {
        size_t n = strlen(ending);
        if (length > n && strcasecmp(name + length - n, ending) == 0) return true;
    }
    return false;
}

/* Puts the name behind the folder's path; false when the path gets too long. */
static bool walk_name(struct walk *walk, const struct folder *folder, const char *name) {
    size_t at = folder->path_length;
    size_t length = strlen(name);
    if (at > 0 && walk->path[at - 1] != '/') walk->path[at++] = '/';
    bool fits = at + length < sizeof walk->path;
    if (!fits) length = sizeof walk->path - at - 1;
    memcpy(walk->path + at, name, length);
    walk->path[at + length] = '\0';
    return fits;
}

/* The next thing to deliver is in walk->path. 1: a file; 0: the end; below 0: -errno. */
static int walk_step(struct walk *walk, struct stat *info) {
    if (!walk->started) {
        walk->started = true;
        int error = walk_enter(walk);
        if (error) return -error;
    }
    while (walk->depth > 0) {
        struct folder *folder = &walk->folders[walk->depth - 1];
        if (folder->next == folder->count) {
            folder_free(folder);
            walk->depth--;
            continue;
        }
        const struct entry *entry = &folder->entries[folder->next++];
        const char *name = folder->text + entry->name;
        if (!entry->is_folder && !walk_wants(walk, name)) continue;
        if (!walk_name(walk, folder, name)) return -ENAMETOOLONG;
        if (entry->is_folder) {
            int error = walk_enter(walk);
            if (error) return -error;
        } else {
            if (stat(walk->path, info) != 0) return -errno;
            if (S_ISREG(info->st_mode)) return 1; /* and not a link to a folder, a socket, ... */
        }
    }
    return 0;
}

static int walk_next(lua_State *L) {
    struct walk *walk = luaL_checkudata(L, 1, WALK_TYPE);
    struct stat info = {0};
    int step = walk_step(walk, &info);
    if (step == 0) {
        walk_free(walk);
        return 0;
    }
    lua_pushstring(L, walk->path);
    if (step < 0) return 1 + fs_fail(L, "read", walk->path, -step);
    lua_pushinteger(L, (lua_Integer)info.st_size);
    lua_pushnumber(L, (lua_Number)info.st_mtim.tv_sec + (lua_Number)info.st_mtim.tv_nsec / 1e9);
    return 3;
}

/* for path, size, mtime in fs.walk(folder [, { ext = { [".jpg"] = true } }]) do
 *
 * Every regular file below the folder, in bytewise order of its path, with links to files followed
 * and links to folders not. ext: only names with one of these endings, in any case, and something
 * before it. What cannot be read comes as path, nil, message, CODE, and the walk goes on. */
int fs_walk(lua_State *L) {
    const char *path = obatch_check_path(L, 1);
    luaL_argcheck(L, strlen(path) < PATH_MAX, 1, "path too long");
    size_t size = 0;
    bool all = true;
    lua_settop(L, 2);
    if (!lua_isnil(L, 2)) {
        luaL_checktype(L, 2, LUA_TTABLE);
        all = lua_getfield(L, 2, "ext") == LUA_TNIL;
        if (!all) {
            luaL_argcheck(L, lua_istable(L, 3), 2, "ext must be a table such as {[\".jpg\"]=true}");
            for (lua_pushnil(L); lua_next(L, 3); lua_pop(L, 1)) {
                luaL_argcheck(L, lua_type(L, -2) == LUA_TSTRING && lua_rawlen(L, -2) > 0, 2,
                              "ext must be a table such as {[\".jpg\"]=true}");
                if (lua_toboolean(L, -1)) size += lua_rawlen(L, -2) + 1;
            }
        }
    }

    lua_pushcfunction(L, walk_next);
    struct walk *walk = lua_newuserdatauv(L, sizeof *walk, 0);
    memset(walk, 0, sizeof *walk);
    luaL_setmetatable(L, WALK_TYPE);
    memcpy(walk->path, path, strlen(path) + 1);
    if (!all) {
        walk->endings = calloc(size + 1, 1);
        if (!walk->endings) return luaL_error(L, "not enough memory");
        char *end = walk->endings;
        for (lua_pushnil(L); lua_next(L, 3); lua_pop(L, 1))
            if (lua_toboolean(L, -1)) end = stpcpy(end, lua_tostring(L, -2)) + 1;
    }
    lua_pushnil(L);
    lua_pushvalue(L, -2);
    return 4;
}

void fs_walk_open(lua_State *L) {
    fs_make_type(L, FOLDER_TYPE, NULL, folder_gc);
    fs_make_type(L, WALK_TYPE, NULL, walk_gc);
}
