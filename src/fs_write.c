/* Writing files, so that a crash or a full disk leaves no half of anything: fs.write for what is in
 * memory, fs.create for what is not, fs.append for lines.
 *
 * Nothing is ever written through a symbolic link: whoever can lay one into a job's folder cannot
 * make a run write elsewhere. */
#include "digest.h"
#include "fs.h"
#include "options.h"
#include "os.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define APPEND_TYPE "obatch.fs.append"
#define CREATE_TYPE "obatch.fs.create"

enum { CHUNK = 65536 };

/* ---- whole files ---- */

int fs_write_file(const char *part, const char *path, const char *text, size_t length,
                  bool durable) {
    int fd;
    int error = os_create(part, &fd);
    if (error) return error;
    error = os_write_all(fd, text, length);
    if (!error && durable && fsync(fd) != 0) error = errno;
    if (close(fd) != 0 && !error && errno != EINTR) error = errno; /* NFS says ENOSPC here */
    if (!error && rename(part, path) != 0) error = errno;
    if (error) {
        unlink(part);
        return error;
    }
    return durable ? os_sync_parent(path) : 0;
}

/* fs.write(path, text [, "later"]) -> true | nil, message, CODE. The file appears under its name
 * complete and on disk, or not at all; until then it is path .. ".part" (see os_part_name). A link
 * is replaced, not followed. "later" leaves it to an fs.sync, or an fs.rename of it, to put it on
 * disk: after a power cut before that, the file may be missing, or empty. */
int fs_write(lua_State *L) {
    static const char *const options[] = {"", "later", NULL};
    const char *path = obatch_check_path(L, 1);
    size_t length;
    const char *text = luaL_checklstring(L, 2, &length);
    bool durable = luaL_checkoption(L, 3, "", options) == 0;
    char *part = lua_newuserdatauv(L, strlen(path) + OS_PART_ROOM, 0);
    os_part_name(path, part);
    int error = fs_write_file(part, path, text, length, durable);
    return error ? fs_fail(L, "write", error == EEXIST ? part : path, error) : fs_succeed(L);
}

/* ---- files that grow before they get their name ---- */

struct create {
    int fd;     /* -1 when closed */
    int broken; /* the errno of the first failure; nothing can follow it */
    bool whole; /* what was copied last ends with a newline */
    lua_Integer bytes;
    struct digest digest;
    char *buffer;
    size_t buffered;
    char *part; /* where it is written; behind path, in the same memory */
    char path[];
};

static int create_close(lua_State *L) {
    struct create *file = luaL_checkudata(L, 1, CREATE_TYPE);
    if (file->fd >= 0) unlink(file->part);
    fs_close(&file->fd);
    free(file->buffer);
    file->buffer = NULL;
    return fs_succeed(L);
}

/* fs.create(path [, { sha256 = true or fingerprint = true }]) -> file | nil, message, CODE. For
 * what is not in memory as a whole: like fs.write, the file has its name only when it is complete,
 * which is when commit() returns. Closed before that, it leaves nothing. sha256: commit() tells
 * that of the file. */
int fs_create(lua_State *L) {
    const char *path = obatch_check_path(L, 1);
    enum digest_kind kind = DIGEST_NONE;
    if (!lua_isnoneornil(L, 2)) {
        static const char *const known[] = {"fingerprint", "sha256", NULL};
        options_check(L, 2, known);
        if (options_boolean(L, 2, "fingerprint", false)) kind = DIGEST_FINGERPRINT;
        if (options_boolean(L, 2, "sha256", false)) kind = DIGEST_SHA256;
    }
    size_t size = strlen(path) + 1;
    struct create *file = lua_newuserdatauv(L, sizeof *file + 2 * size + OS_PART_ROOM, 0);
    *file = (struct create){.fd = -1};
    memcpy(file->path, path, size);
    file->part = file->path + size;
    os_part_name(path, file->part);
    luaL_setmetatable(L, CREATE_TYPE);
    file->buffer = malloc(CHUNK);
    digest_init(&file->digest, kind);
    if (!file->buffer) return luaL_error(L, "not enough memory");
    int error = os_create(file->part, &file->fd);
    return error ? fs_fail(L, "write", error == EEXIST ? file->part : path, error) : 1;
}

static struct create *check_create(lua_State *L) {
    struct create *file = luaL_checkudata(L, 1, CREATE_TYPE);
    luaL_argcheck(L, file->fd >= 0, 1, "closed");
    return file;
}

/* These return 0 or an errno, which is that of the file from then on. */

static int create_flush(struct create *file) {
    if (!file->broken) file->broken = os_write_all(file->fd, file->buffer, file->buffered);
    file->buffered = 0;
    return file->broken;
}

static int create_emit(struct create *file, const char *bytes, size_t length) {
    if (file->broken) return file->broken;
    digest_update(&file->digest, bytes, length);
    if (file->buffered + length > CHUNK && create_flush(file)) return file->broken;
    if (length >= CHUNK) {
        file->broken = os_write_all(file->fd, bytes, length);
    } else {
        memcpy(file->buffer + file->buffered, bytes, length);
        file->buffered += length;
    }
    file->bytes += (lua_Integer)length;
    return file->broken;
}

/* file:write(text, ...) -> true | nil, message, CODE. Bytes are buffered: the error of an earlier
 * call may come with a later one, or with commit. */
static int create_write(lua_State *L) {
    struct create *file = check_create(L);
    int top = lua_gettop(L);
    for (int i = 2; i <= top; i++) luaL_checkstring(L, i);
    for (int i = 2; i <= top; i++) {
        size_t length;
        const char *text = lua_tolstring(L, i, &length);
        create_emit(file, text, length);
    }
    return file->broken ? fs_fail(L, "write", file->path, file->broken) : fs_succeed(L);
}

/* The errno of reading; that of writing is in file->broken. */
static int copy_bytes(struct create *file, int from, lua_Integer *bytes) {
    char block[CHUNK];
    file->whole = true;
    while (!file->broken) {
        ssize_t n = read(from, block, sizeof block);
        if (n < 0 && errno == EINTR && !obatch_interrupted) continue;
        if (n < 0) return errno;
        if (n == 0) break;
        create_emit(file, block, (size_t)n);
        *bytes += n;
        file->whole = block[n - 1] == '\n';
    }
    return 0;
}

/* file:copy(path) -> bytes, whole | nil, message, CODE. Adds the bytes of another file; whole tells
 * that they end with a newline, or that there are none. What could not be read to its end spoils
 * the file: commit() fails then, too. */
static int create_copy(lua_State *L) {
    struct create *file = check_create(L);
    const char *path = obatch_check_path(L, 2);
    lua_Integer bytes = 0;
    int from = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not hang us */
    if (from < 0) return fs_fail(L, "open", path, errno);
    int error = copy_bytes(file, from, &bytes);
    close(from);
    if (file->broken) return fs_fail(L, "write", file->path, file->broken);
    if (error) {
        file->broken = error;
        return fs_fail(L, "read", path, error);
    }
    lua_pushinteger(L, bytes);
    lua_pushboolean(L, file->whole);
    return 2;
}

static int create_finish(struct create *file) {
    int error = create_flush(file);
    if (!error && fsync(file->fd) != 0) error = errno;
    if (!error && rename(file->part, file->path) != 0) error = errno;
    if (error) return file->broken = error;
    fs_close(&file->fd); /* every byte is on disk: what close() says now changes nothing */
    return os_sync_parent(file->path);
}

/* file:commit() -> { bytes =, sha256 or fingerprint = hex } | nil, message, CODE. The file has its
 * name, and both are on disk; it is closed. */
static int create_commit(lua_State *L) {
    struct create *file = check_create(L);
    unsigned char digest[DIGEST_LENGTH];
    int error = create_finish(file);
    enum digest_kind kind = file->digest.kind;
    size_t size = digest_finish(&file->digest, digest);
    create_close(L);
    if (error) return fs_fail(L, "write", file->path, error);
    lua_createtable(L, 0, 2);
    lua_pushinteger(L, file->bytes);
    lua_setfield(L, -2, "bytes");
    if (size > 0) {
        obatch_push_hex(L, digest, size);
        lua_setfield(L, -2, kind == DIGEST_SHA256 ? "sha256" : "fingerprint");
    }
    return 1;
}

/* ---- appending ---- */

struct append {
    int fd; /* -1 when closed */
    bool durable;
    char path[];
};

static int append_close(lua_State *L) {
    struct append *file = luaL_checkudata(L, 1, APPEND_TYPE);
    fs_close(&file->fd);
    return fs_succeed(L);
}

/* Takes back whatever a failed write left, so that the file still ends where it did. */
static int append_text(const struct append *file, const char *text, size_t length, bool *torn) {
    struct stat info;
    if (fstat(file->fd, &info) != 0) return errno;
    int error = os_write_all(file->fd, text, length);
    if (!error && file->durable && fdatasync(file->fd) != 0) error = errno;
    if (error && S_ISREG(info.st_mode))
        *torn = ftruncate(file->fd, info.st_size) != 0 || fdatasync(file->fd) != 0;
    return error;
}

/* file:write(text) -> true | nil, message, CODE. All of it is on disk, or none of it is there. */
static int append_write(lua_State *L) {
    struct append *file = luaL_checkudata(L, 1, APPEND_TYPE);
    size_t length;
    const char *text = luaL_checklstring(L, 2, &length);
    luaL_argcheck(L, file->fd >= 0, 1, "closed");
    bool torn = false;
    int error = append_text(file, text, length, &torn);
    if (!error) return fs_succeed(L);
    const char *path = file->path;
    if (torn) { /* nothing may be written behind a torn line */
        fs_close(&file->fd);
        path = lua_pushfstring(L, "%s (its last line may now be incomplete)", path);
    }
    return fs_fail(L, "append to", path, error);
}

/* The name is made durable even where the file is found: the run that made it may have ended before
 * it could do so. */
static int open_append(struct append *file) {
    const int flags = O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_CLOEXEC;
    file->fd = open(file->path, flags, 0666);
    if (file->fd < 0) return errno;
    int error = file->durable ? os_sync_parent(file->path) : 0;
    if (error) fs_close(&file->fd);
    return error;
}

/* fs.append(path [, "later"]) -> file with write(text) and close() | nil, message, CODE. Makes the
 * file when it is missing, and refuses a symbolic link (ELOOP). One writer at a time: hold an
 * fs.lock where there could be two. "later" does not wait for the disk, for logs. */
int fs_append(lua_State *L) {
    static const char *const options[] = {"", "later", NULL};
    const char *path = obatch_check_path(L, 1);
    bool durable = luaL_checkoption(L, 2, "", options) == 0;
    size_t size = strlen(path) + 1;
    struct append *file = lua_newuserdatauv(L, sizeof *file + size, 0);
    *file = (struct append){.fd = -1, .durable = durable};
    memcpy(file->path, path, size);
    luaL_setmetatable(L, APPEND_TYPE);
    int error = open_append(file);
    return error ? fs_fail(L, "append to", path, error) : 1;
}

void fs_write_open(lua_State *L) {
    static const luaL_Reg append_methods[] = {
        {"write", append_write}, {"close", append_close}, {NULL, NULL}};
    static const luaL_Reg create_methods[] = {{"write", create_write},
                                              {"copy", create_copy},
                                              {"commit", create_commit},
                                              {"close", create_close},
                                              {NULL, NULL}};
    fs_make_type(L, APPEND_TYPE, append_methods, append_close);
    fs_make_type(L, CREATE_TYPE, create_methods, create_close);
}
