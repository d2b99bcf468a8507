/* fs.list and fs.walk.
 *
 * A walk is cut into pieces: a piece is a folder and as much of what is below it as is read in one
 * go. What is left becomes pieces of their own, which other threads may read ahead. Lua's thread
 * takes them one by one in the order of their paths, so that a walk gives the same whoever read it.
 */
#include "folder.h"
#include "fs.h"
#include "options.h"
#include "pool.h"

#include <limits.h>
#include <stdatomic.h>
#include <stdlib.h>

#define FOLDER_TYPE "obatch.fs.folder"
#define WALK_TYPE "obatch.fs.walk"

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
    int error = folder_read(folder, path, NULL);
    if (error) return fs_fail(L, "list", path, error);
    lua_createtable(L, (int)(folder->count < INT_MAX ? folder->count : 0), 0);
    for (size_t i = 0; i < folder->count; i++) {
        const struct folder_entry *entry = &folder->entries[i];
        lua_pushlstring(L, folder->text + entry->name, entry->length);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    folder_free(folder);
    return 1;
}

/* ---- pieces ---- */

/* So much is read in one go: names, and a folder counts as so many, which is what opening costs. */
enum { PIECE = 2000, PIECE_FOLDER = 20 };

/* So many pieces are read ahead of one that is being delivered. */
enum { AHEAD = 4 };

enum kind { FILE_ITEM, FAILED_ITEM, FOLDER_ITEM /* to be read as a piece of its own */ };

/* Followed in the piece's memory by the path and a NUL. */
struct item {
    int64_t size;
    double mtime;
    size_t length;
    enum kind kind;
    int error;
};

struct piece {
    struct pool_task task;
    struct walk *walk;
    struct piece *next;          /* among the pieces of one parent; down the stack of the walk */
    struct piece *first, **last; /* those that it has left to others, in order */
    struct piece *unsent;        /* the first of them that is not submitted */
    int ahead;                   /* submitted, and not delivered yet */
    bool is_root, is_sent, is_read, lacks_memory;
    char *items;
    size_t length, room, at; /* at: what is delivered */
    char path[];
};

struct walk {
    struct piece *top; /* what is being delivered: the innermost piece, then those above it */
    char *endings;
    struct folder_filter filter;
    atomic_bool over; /* nobody wants what is being read */
};

static struct piece *piece_new(struct walk *walk, const char *path, size_t length) {
    struct piece *piece = calloc(1, sizeof *piece + length + 1);
    if (!piece) return NULL;
    piece->walk = walk;
    piece->last = &piece->first;
    memcpy(piece->path, path, length);
    return piece;
}

/* With its path and a NUL, and so that the next one begins where its numbers may. */
static size_t item_size(const struct item *item) {
    enum { STEP = sizeof item->size };
    return (sizeof *item + item->length + STEP) / STEP * STEP;
}

static void piece_add(struct piece *piece, struct item item, const char *path) {
    size_t size = item_size(&item);
    if (piece->length + size > piece->room) {
        size_t room = (piece->length + size) * 2 + 512;
        char *items = realloc(piece->items, room);
        if (!items) {
            piece->lacks_memory = true;
            return;
        }
        piece->items = items;
        piece->room = room;
    }
    memcpy(piece->items + piece->length, &item, sizeof item);
    memcpy(piece->items + piece->length + sizeof item, path, item.length);
    piece->items[piece->length + sizeof item + item.length] = '\0';
    piece->length += size;
}

static void piece_free(struct piece *piece) {
    free(piece->items);
    free(piece);
}

/* A folder on the way down, and how far it has been walked. */
struct level {
    struct folder folder;
    size_t next;
    size_t path_length; /* of its own path */
    struct level *above;
};

struct descent {
    struct piece *piece;
    struct level *level; /* the innermost */
    size_t read;
    char path[PATH_MAX]; /* the innermost folder's, then that of the entry looked at */
};

/* descent->path is a folder: it becomes the innermost level, or an item that says why not. */
static void enter(struct descent *descent, size_t length) {
    struct piece *piece = descent->piece;
    struct level *level = calloc(1, sizeof *level);
    int error = ENOMEM;
    if (level) {
        bool is_root = piece->is_root && !descent->level;
        const struct folder_filter *filter = &piece->walk->filter;
        error = is_root ? folder_read(&level->folder, descent->path, filter)
                        : folder_read_below(&level->folder, descent->path, filter);
    }
    if (error) {
        piece_add(piece, (struct item){.kind = FAILED_ITEM, .error = error, .length = length},
                  descent->path);
        if (level) folder_free(&level->folder);
        free(level);
        return;
    }
    level->path_length = length;
    level->above = descent->level;
    descent->level = level;
    descent->read += level->folder.seen + PIECE_FOLDER;
}

static void leave(struct descent *descent) {
    struct level *level = descent->level;
    descent->level = level->above;
    folder_free(&level->folder);
    free(level);
}

/* Puts the name behind the innermost folder's path; false when the path gets too long. */
static bool name_entry(struct descent *descent, const struct folder_entry *entry, size_t *length) {
    const struct level *level = descent->level;
    size_t at = level->path_length, n = entry->length;
    if (at > 0 && descent->path[at - 1] != '/') descent->path[at++] = '/';
    bool fits = at + n < sizeof descent->path;
    if (!fits) n = sizeof descent->path - at - 1;
    memcpy(descent->path + at, level->folder.text + entry->name, n);
    descent->path[at + n] = '\0';
    *length = at + n;
    return fits;
}

static void piece_run(struct pool_task *task) {
    struct piece *piece = (struct piece *)task;
    struct descent descent = {.piece = piece};
    size_t length = strlen(piece->path);
    memcpy(descent.path, piece->path, length + 1);
    if (!atomic_load_explicit(&piece->walk->over, memory_order_relaxed)) enter(&descent, length);
    while (descent.level) {
        struct level *level = descent.level;
        if (level->next == level->folder.count || piece->lacks_memory) {
            leave(&descent);
            continue;
        }
        const struct folder_entry *entry = &level->folder.entries[level->next++];
        struct item item = {.size = entry->size, .mtime = entry->mtime, .error = entry->error};
        if (!name_entry(&descent, entry, &item.length)) item.error = ENAMETOOLONG;
        item.kind = item.error ? FAILED_ITEM : entry->is_folder ? FOLDER_ITEM : FILE_ITEM;
        if (item.kind == FOLDER_ITEM && descent.read < PIECE) {
            enter(&descent, item.length);
        } else {
            piece_add(piece, item, descent.path);
        }
    }
}

/* ---- their order ---- */

static const struct item *next_item(const struct piece *piece) {
    return piece->at < piece->length ? (const void *)(piece->items + piece->at) : NULL;
}

static const char *item_path(const struct item *item) {
    return (const char *)(item + 1);
}

static void send_ahead(struct piece *piece) {
    while (piece->unsent && piece->ahead < AHEAD) {
        piece->unsent->task.run = piece_run;
        piece->unsent->is_sent = true;
        pool_submit(&piece->unsent->task);
        piece->unsent = piece->unsent->next;
        piece->ahead++;
    }
}

/* Sees to it that a piece is read, and makes pieces of what it has left. 0 or ENOMEM. */
static int receive(struct piece *piece) {
    if (piece->is_sent) {
        pool_wait(&piece->task);
    } else {
        piece_run(&piece->task);
    }
    piece->is_read = true;
    if (piece->lacks_memory) return ENOMEM;
    for (const struct item *item; (item = next_item(piece)); piece->at += item_size(item)) {
        if (item->kind != FOLDER_ITEM) continue;
        struct piece *child = piece_new(piece->walk, item_path(item), item->length);
        if (!child) return ENOMEM;
        *piece->last = child;
        piece->last = &child->next;
    }
    piece->at = 0;
    piece->unsent = piece->first;
    return 0;
}

/* The next item is a folder: its piece goes on top. */
static void descend(struct walk *walk) {
    struct piece *parent = walk->top, *child = parent->first;
    if (pool_threads() > 1) send_ahead(parent);
    parent->first = child->next;
    if (!parent->first) parent->last = &parent->first;
    if (parent->unsent == child) parent->unsent = child->next;
    if (child->is_sent) parent->ahead--;
    child->next = parent;
    walk->top = child;
}

static void walk_free(struct walk *walk) {
    atomic_store_explicit(&walk->over, true, memory_order_relaxed);
    while (walk->top) {
        struct piece *piece = walk->top;
        walk->top = piece->next;
        while (piece->first) {
            struct piece *child = piece->first;
            piece->first = child->next;
            if (child->is_sent) pool_wait(&child->task);
            piece_free(child);
        }
        if (piece->is_sent && !piece->is_read) pool_wait(&piece->task);
        piece_free(piece);
    }
    free(walk->endings);
    walk->endings = NULL;
}

static int walk_gc(lua_State *L) {
    walk_free(luaL_checkudata(L, 1, WALK_TYPE));
    return 0;
}

/* The next file or failure, in *found. 0, or ENOMEM; NULL at the end. */
static int walk_step(struct walk *walk, const struct item **found) {
    for (*found = NULL; walk->top;) {
        struct piece *piece = walk->top;
        int error = piece->is_read ? 0 : receive(piece);
        if (error) return error;
        const struct item *item = next_item(piece);
        if (!item) {
            walk->top = piece->next;
            piece_free(piece);
            continue;
        }
        piece->at += item_size(item);
        if (item->kind != FOLDER_ITEM) {
            *found = item;
            return 0;
        }
        descend(walk);
    }
    return 0;
}

static int walk_next(lua_State *L) {
    struct walk *walk = luaL_checkudata(L, 1, WALK_TYPE);
    const struct item *item;
    if (walk_step(walk, &item) != 0) {
        walk_free(walk);
        return luaL_error(L, "not enough memory");
    }
    if (!item) {
        walk_free(walk);
        return 0;
    }
    lua_pushlstring(L, item_path(item), item->length);
    if (item->kind == FAILED_ITEM) return 1 + fs_fail(L, "read", item_path(item), item->error);
    if (!walk->filter.stat) {
        lua_pushboolean(L, 1);
        return 2;
    }
    lua_pushinteger(L, (lua_Integer)item->size);
    lua_pushnumber(L, item->mtime);
    return 3;
}

/* How many bytes the wanted endings take; -1 where all names are wanted. Leaves ext at the top. */
static ptrdiff_t measure_endings(lua_State *L) {
    ptrdiff_t size = 0;
    if (options_get(L, 2, "ext") == LUA_TNIL) return -1;
    luaL_argcheck(L, lua_istable(L, -1), 2, "ext must be a table such as {[\".jpg\"]=true}");
    for (lua_pushnil(L); lua_next(L, 3); lua_pop(L, 1)) {
        luaL_argcheck(L, lua_type(L, -2) == LUA_TSTRING && lua_rawlen(L, -2) > 0, 2,
                      "ext must be a table such as {[\".jpg\"]=true}");
        if (lua_toboolean(L, -1)) size += (ptrdiff_t)lua_rawlen(L, -2) + 1;
    }
    return size;
}

/* for path, size, mtime in fs.walk(folder [, { ext = { [".jpg"] = true }, stat = false }]) do
 *
 * Every regular file below the folder, in bytewise order of its path, with links to files followed
 * and links to folders not. ext: only names with one of these endings, in any case, and something
 * before it. stat = false: names are enough, and true comes instead of size and time; this is much
 * faster. What cannot be read comes as path, nil, message, CODE, and the walk goes on. Folders are
 * read ahead: what is made or removed meanwhile may be seen or not. */
int fs_walk(lua_State *L) {
    static const char *const known[] = {"ext", "stat", NULL};
    const char *path = obatch_check_path(L, 1);
    luaL_argcheck(L, strlen(path) < PATH_MAX, 1, "path too long");
    ptrdiff_t size = -1;
    bool stat = true;
    lua_settop(L, 2);
    if (!lua_isnil(L, 2)) {
        options_check(L, 2, known);
        size = measure_endings(L);
        stat = options_boolean(L, 2, "stat", true);
    }

    lua_pushcfunction(L, walk_next);
    struct walk *walk = lua_newuserdatauv(L, sizeof *walk, 0);
    memset(walk, 0, sizeof *walk);
    luaL_setmetatable(L, WALK_TYPE);
    walk->filter.stat = stat;
    walk->top = piece_new(walk, path, strlen(path));
    if (size >= 0) walk->filter.endings = walk->endings = calloc((size_t)size + 1, 1);
    if (!walk->top || (size >= 0 && !walk->endings)) return luaL_error(L, "not enough memory");
    walk->top->is_root = true;
    char *end = walk->endings;
    if (size >= 0)
        for (lua_pushnil(L); lua_next(L, 3); lua_pop(L, 1))
            if (lua_toboolean(L, -1)) end = stpcpy(end, lua_tostring(L, -2)) + 1;
    lua_pushnil(L);
    lua_pushvalue(L, -2);
    return 4;
}

void fs_walk_open(lua_State *L) {
    fs_make_type(L, FOLDER_TYPE, NULL, folder_gc);
    fs_make_type(L, WALK_TYPE, NULL, walk_gc);
}
