/* fs.files: many small files, written by other threads while Lua goes on.
 *
 * Texts are gathered in batches, and a batch is a task of the pool. A file is written without a
 * name, which it gets when it is whole; where the system cannot do that, or something has the name,
 * it is written beside it and takes its place, as fs.write does it. */
#include "fs.h"
#include "os.h"
#include "pool.h"

#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#define FILES_TYPE "obatch.fs.files"

/* A batch is given away when it holds so many files, or bytes. */
enum { BATCH_FILES = 48, BATCH_BYTES = 128 * 1024 };

/* How many batches there are for each thread, so that none waits for Lua. */
enum { BATCHES = 3 };

struct request {
    size_t path, text, length; /* where they are in the batch's bytes */
    uint64_t hash;             /* of the path */
    int error;                 /* once the batch has run */
};

struct batch {
    struct pool_task task;
    struct batch *next;
    struct files *files;
    char *bytes;
    size_t length, room;
    int count;
    int told; /* how many of them have been looked at for failures */
    struct request requests[BATCH_FILES];
};

struct files {
    struct batch *first, **last; /* given to the pool, and with failures to tell; in order */
    int sent;                    /* how many these are */
    struct batch *filling;       /* what write() adds to */
    struct batch *idle;
    atomic_bool over; /* closed: what is not written yet will not be */
};

/* ---- one file; these return 0 or an errno ---- */

/* Some systems have no files without names, others do not let everybody name one. */
static atomic_bool has_no_nameless;

/* EEXIST: something has the name. */
static int write_nameless(int folder, const char *name, const char *text, size_t length) {
    int fd = openat(folder, ".", O_WRONLY | O_TMPFILE | O_CLOEXEC, 0666);
    if (fd < 0) return errno;
    int error = os_write_all(fd, text, length);
    if (!error && linkat(fd, "", folder, name, AT_EMPTY_PATH) != 0) {
        error = errno;
        if (error == ENOENT) atomic_store(&has_no_nameless, true); /* before Linux 6.10 */
    }
    if (close(fd) != 0 && !error && errno != EINTR) {
        error = errno;
        unlinkat(folder, name, 0);
    }
    return error;
}

static int write_beside(const char *path, const char *text, size_t length) {
    char part[PATH_MAX + OS_PART_ROOM];
    if (strlen(path) >= PATH_MAX) return ENAMETOOLONG;
    os_part_name(path, part);
    return fs_write_file(part, path, text, length, false);
}

/* The folder of the file before, kept open for the next. */
struct place {
    int fd;
    size_t length;
    const char *path;
};

static int place_open(struct place *place, const char *path, size_t length) {
    if (place->fd >= 0 && place->length == length && memcmp(place->path, path, length) == 0)
        return 0;
    char folder[PATH_MAX];
    if (length >= sizeof folder) return ENAMETOOLONG;
    memcpy(folder, path, length);
    folder[length] = '\0';
    fs_close(&place->fd);
    *place = (struct place){.length = length, .path = path};
    place->fd = open(length ? folder : ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    return place->fd < 0 ? errno : 0;
}

/* The disk itself, with which another way to write the same file has no better luck. */
static bool is_of_disk(int error) {
    return error == ENOSPC || error == EDQUOT || error == EFBIG || error == EIO || error == EROFS;
}

static int write_one(struct place *place, const char *path, const char *text, size_t length) {
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    if (!atomic_load_explicit(&has_no_nameless, memory_order_relaxed) && *name &&
        place_open(place, path, (size_t)(name - path)) == 0) {
        int error = write_nameless(place->fd, name, text, length);
        if (!error || is_of_disk(error)) return error;
    }
    /* Whatever it was: the usual way gets over it, or says what is wrong. */
    return write_beside(path, text, length);
}

static void batch_run(struct pool_task *task) {
    struct batch *batch = (struct batch *)task;
    struct place place = {.fd = -1};
    for (int i = 0; i < batch->count; i++) {
        struct request *request = &batch->requests[i];
        if (atomic_load_explicit(&batch->files->over, memory_order_relaxed)) break;
        request->error = write_one(&place, batch->bytes + request->path,
                                   batch->bytes + request->text, request->length);
    }
    fs_close(&place.fd);
}

/* ---- batches ---- */

static void free_list(struct batch *batch) {
    while (batch) {
        struct batch *next = batch->next;
        free(batch->bytes);
        free(batch);
        batch = next;
    }
}

static struct batch *batch_get(struct files *files) {
    struct batch *batch = files->idle;
    if (batch) {
        files->idle = batch->next;
    } else {
        batch = malloc(sizeof *batch);
        if (!batch) return NULL;
        batch->bytes = NULL;
        batch->room = 0;
        batch->files = files;
        batch->task.run = batch_run;
    }
    batch->next = NULL;
    batch->count = batch->told = 0;
    batch->length = 0;
    return batch;
}

static bool batch_add(struct batch *batch, const char *path, const char *text, size_t length,
                      uint64_t hash) {
    size_t size = strlen(path) + 1, wanted = batch->length + size + length;
    if (!batch->bytes || wanted > batch->room) {
        if (wanted < BATCH_BYTES + BATCH_BYTES / 4) wanted = BATCH_BYTES + BATCH_BYTES / 4;
        char *bytes = realloc(batch->bytes, wanted);
        if (!bytes) return false;
        batch->bytes = bytes;
        batch->room = wanted;
    }
    size_t at = batch->length;
    memcpy(batch->bytes + at, path, size);
    memcpy(batch->bytes + at + size, text, length);
    batch->requests[batch->count++] =
        (struct request){.path = at, .text = at + size, .length = length, .hash = hash};
    batch->length += size + length;
    return true;
}

static void batch_put_back(struct files *files, struct batch *batch) {
    if (batch->room > (size_t)2 * BATCH_BYTES) { /* made so large for a single text */
        free(batch->bytes);
        batch->bytes = NULL;
        batch->room = 0;
    }
    batch->next = files->idle;
    files->idle = batch;
}

/* Gives what has been gathered to the pool. */
static void send(struct files *files) {
    struct batch *batch = files->filling;
    files->filling = NULL;
    if (!batch) return;
    *files->last = batch;
    files->last = &batch->next;
    files->sent++;
    pool_submit(&batch->task);
}

/* Waits until at most so many batches are on their way. The next failure, which is valid until a
 * file is added; or NULL. */
static const struct request *settle(struct files *files, int most) {
    for (struct batch *batch; files->sent > most && (batch = files->first);) {
        pool_wait(&batch->task);
        while (batch->told < batch->count) {
            const struct request *request = &batch->requests[batch->told++];
            if (request->error) return request;
        }
        files->first = batch->next;
        if (!files->first) files->last = &files->first;
        files->sent--;
        batch_put_back(files, batch);
    }
    return NULL;
}

/* Of the name that it may have at first: long paths that end differently may have the same. */
static uint64_t hash_path(const char *path) { /* FNV-1a */
    char part[PATH_MAX + OS_PART_ROOM];
    uint64_t hash = 0xcbf29ce484222325U;
    if (strlen(path) < PATH_MAX) {
        os_part_name(path, part);
        path = part;
    }
    for (; *path; path++) hash = (hash ^ (unsigned char)*path) * 0x100000001b3U;
    return hash;
}

static bool is_on_its_way(const struct files *files, uint64_t hash) {
    for (const struct batch *batch = files->first; batch; batch = batch->next)
        for (int i = 0; i < batch->count; i++)
            if (batch->requests[i].hash == hash) return true;
    return false;
}

/* ---- for Lua ---- */

static int files_close(lua_State *L) {
    struct files *files = luaL_checkudata(L, 1, FILES_TYPE);
    atomic_store(&files->over, true);
    for (struct batch *batch = files->first; batch; batch = batch->next) pool_wait(&batch->task);
    free_list(files->first);
    free_list(files->idle);
    free_list(files->filling);
    files->first = files->idle = files->filling = NULL;
    return fs_succeed(L);
}

/* fs.files() -> files, with write, finish and close. For thousands of small files: each is written
 * as fs.write(path, text, "later") does it, by other threads while Lua goes on; but what an earlier
 * run has left of it (see os_part_name) may stay. Closed without a finish, those that were given
 * last may not be there. */
int fs_files(lua_State *L) {
    struct files *files = lua_newuserdatauv(L, sizeof *files, 0);
    memset(files, 0, sizeof *files);
    files->last = &files->first;
    luaL_setmetatable(L, FILES_TYPE);
    return 1;
}

static struct files *check_files(lua_State *L) {
    struct files *files = luaL_checkudata(L, 1, FILES_TYPE);
    luaL_argcheck(L, !files->over, 1, "closed");
    return files;
}

/* nil, message, CODE, path */
static int tell(lua_State *L, const struct files *files, const struct request *request) {
    const char *bytes = files->first->bytes;
    fs_fail(L, "write", bytes + request->path, request->error);
    lua_pushstring(L, bytes + request->path);
    return 4;
}

/* files:write(path, text) -> true | nil, message, CODE, path
 *
 * The file will appear under its name, complete, or a failure will be told: that is what the second
 * form does, of an earlier file, whose path is the fourth value. The file at hand has then not been
 * taken. Every failure is told once, here or by finish(), in the order of the files. Of two texts
 * for one path, the second stays. */
static int files_write(lua_State *L) {
    struct files *files = check_files(L);
    const char *path = obatch_check_path(L, 2);
    size_t length;
    const char *text = luaL_checklstring(L, 3, &length);
    int most = pool_threads() > 1 ? BATCHES * pool_threads() : 1;
    uint64_t hash = hash_path(path);
    const struct request *failure = settle(files, is_on_its_way(files, hash) ? 0 : most - 1);
    if (failure) return tell(L, files, failure);
    if (!files->filling) files->filling = batch_get(files);
    if (!files->filling || !batch_add(files->filling, path, text, length, hash))
        return luaL_error(L, "not enough memory");
    if (files->filling->count == BATCH_FILES || files->filling->length >= BATCH_BYTES) send(files);
    return fs_succeed(L);
}

/* files:finish() -> true | nil, message, CODE, path
 *
 * Waits until all files that were given are written. true when there is no failure left to tell;
 * otherwise call it again. On disk they are with the next fs.sync. */
static int files_finish(lua_State *L) {
    struct files *files = check_files(L);
    send(files);
    const struct request *failure = settle(files, 0);
    return failure ? tell(L, files, failure) : fs_succeed(L);
}

void fs_files_open(lua_State *L) {
    static const luaL_Reg methods[] = {
        {"write", files_write}, {"finish", files_finish}, {"close", files_close}, {NULL, NULL}};
    fs_make_type(L, FILES_TYPE, methods, files_close);
}
