/* obatch.fs: files as a job needs them. A final name never holds half a file, an appended line is
 * on disk or not there at all, and a lock ends with its holder. What writes is in fs_write.c.
 *
 * The work between "open" and "close" is plain C that returns an errno and never calls Lua, so that
 * no Lua error can leave a descriptor behind; what has to live longer is a userdata. */
#include "fs.h"
#include "digest.h"
#include "os.h"

#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define FD_TYPE "obatch.fs.fd"
#define LOCK_TYPE "obatch.fs.lock"

#define CHUNK 65536

/* ---- what everything below uses ---- */

int fs_fail(lua_State *L, const char *verb, const char *path, int error) {
    obatch_fail_errno(L, lua_pushfstring(L, "cannot %s %s", verb, path), error);
    lua_remove(L, -4); /* the words the message was made of */
    return 3;
}

/* true, or what fs_fail() says when error is not 0. */
static int result(lua_State *L, const char *verb, const char *path, int error) {
    return error ? fs_fail(L, verb, path, error) : fs_succeed(L);
}

/* ---- looking ---- */

static int push_stat(lua_State *L, const struct stat *info) {
    const char *type = S_ISREG(info->st_mode)   ? "file"
                       : S_ISDIR(info->st_mode) ? "dir"
                       : S_ISLNK(info->st_mode) ? "link"
                                                : "other";
    lua_createtable(L, 0, 4);
    lua_pushstring(L, type);
    lua_setfield(L, -2, "type");
    lua_pushinteger(L, (lua_Integer)info->st_size);
    lua_setfield(L, -2, "size");
    lua_pushnumber(L, (lua_Number)info->st_mtim.tv_sec + (lua_Number)info->st_mtim.tv_nsec / 1e9);
    lua_setfield(L, -2, "mtime");
    lua_pushinteger(L, (lua_Integer)(info->st_mode & 07777));
    lua_setfield(L, -2, "mode");
    return 1;
}

/* state(path) -> a word that is another one when the file was replaced or written to since, as far
 * as the clock of its file system can tell */
static int fs_state(lua_State *L) {
    const char *path = obatch_check_path(L, 1);
    struct stat info;
    if (stat(path, &info) != 0) return obatch_fail_errno(L, path, errno);
    lua_pushfstring(L, "%I:%I:%I:%I.%I:%I.%I", (lua_Integer)info.st_dev, (lua_Integer)info.st_ino,
                    (lua_Integer)info.st_size, (lua_Integer)info.st_mtim.tv_sec,
                    (lua_Integer)info.st_mtim.tv_nsec, (lua_Integer)info.st_ctim.tv_sec,
                    (lua_Integer)info.st_ctim.tv_nsec);
    return 1;
}

/* fs.stat(path) -> { type = "file"|"dir"|"other", size = bytes, mtime = seconds (float),
 * mode = permission bits } | nil, message, CODE. Follows links. */
static int fs_stat(lua_State *L) {
    const char *path = obatch_check_path(L, 1);
    struct stat info;
    if (stat(path, &info) != 0) return fs_fail(L, "look at", path, errno);
    return push_stat(L, &info);
}

/* The same for the link itself, whose type is "link". */
static int fs_lstat(lua_State *L) {
    const char *path = obatch_check_path(L, 1);
    struct stat info;
    if (lstat(path, &info) != 0) return fs_fail(L, "look at", path, errno);
    return push_stat(L, &info);
}

/* fs.absolute(path) -> the path from the root, without links, of something that exists. */
static int fs_absolute(lua_State *L) {
    const char *path = obatch_check_path(L, 1);
    char full[PATH_MAX];
    if (!realpath(path, full)) return fs_fail(L, "find", path, errno);
    lua_pushstring(L, full);
    return 1;
}

/* ---- folders ---- */

static int make_folders(char *path) {
    for (char *slash = path;; slash++) {
        slash += strcspn(slash, "/");
        char end = *slash;
        if (slash > path) {
            *slash = '\0';
            int error = mkdir(path, 0777) == 0 ? 0 : errno;
            struct stat info;
            if (!error) {
                error = os_sync_parent(path);
            } else if (stat(path, &info) == 0) { /* EEXIST, but also EROFS, EACCES */
                error = S_ISDIR(info.st_mode) ? 0 : ENOTDIR;
            }
            if (error) return error;
            *slash = end;
        }
        /* Also of one that is there: the run that made it may have ended before it could do so. */
        if (!end) return os_sync_parent(path);
    }
}

/* fs.mkdir(path) -> true | nil, message, CODE. Makes the parents too; an existing folder is fine.
 */
static int fs_mkdir(lua_State *L) {
    const char *path = obatch_check_path(L, 1);
    char copy[PATH_MAX];
    if (!*path) return fs_fail(L, "make folder", path, ENOENT);
    if (strlen(path) >= sizeof copy) return fs_fail(L, "make folder", path, ENAMETOOLONG);
    memcpy(copy, path, strlen(path) + 1);
    return result(L, "make folder", path, make_folders(copy));
}

/* ---- whole files ---- */

static int fd_gc(lua_State *L) {
    fs_close(luaL_checkudata(L, 1, FD_TYPE));
    return 0;
}

/* fs.read(path [, max]) -> the file, or its first max bytes when it is longer | nil, message, CODE
 */
static int fs_read(lua_State *L) {
    const char *path = obatch_check_path(L, 1);
    lua_Integer max = luaL_optinteger(L, 2, LUA_MAXINTEGER);
    luaL_argcheck(L, max >= 0, 2, "a number of bytes expected");
    lua_settop(L, 2);
    int *fd = lua_newuserdatauv(L, sizeof *fd, 0);
    *fd = -1;
    luaL_setmetatable(L, FD_TYPE);
    *fd = open(path, O_RDONLY | O_CLOEXEC);
    if (*fd < 0) return fs_fail(L, "open", path, errno);

    struct stat info;
    size_t chunk = CHUNK;
    if (fstat(*fd, &info) == 0 && S_ISREG(info.st_mode))
        chunk = (size_t)info.st_size + 1; /* one more, to see the end without growing */
    luaL_Buffer text;
    luaL_buffinit(L, &text);
    while (max > 0) {
        if ((lua_Integer)chunk > max) chunk = (size_t)max;
        ssize_t n = read(*fd, luaL_prepbuffsize(&text, chunk), chunk);
        int error = errno;
        if (n < 0 && error == EINTR && !obatch_interrupted) continue;
        if (n < 0) {
            fs_close(fd);
            return fs_fail(L, "read", path, error);
        }
        if (n == 0) break;
        luaL_addsize(&text, (size_t)n);
        max -= n;
        chunk = (size_t)n < chunk ? chunk - (size_t)n : CHUNK;
    }
    fs_close(fd);
    luaL_pushresult(&text);
    return 1;
}

/* fs.last_byte(path) -> the last byte, "" for an empty file | nil, message, CODE. A file of lines
 * that does not end with a newline has been cut off. */
static int fs_last_byte(lua_State *L) {
    const char *path = obatch_check_path(L, 1);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return fs_fail(L, "open", path, errno);
    struct stat info;
    char byte = 0;
    ssize_t n = fstat(fd, &info);
    if (n == 0 && info.st_size > 0) n = pread(fd, &byte, 1, info.st_size - 1);
    int error = errno;
    close(fd);
    if (n < 0) return fs_fail(L, "read", path, error);
    lua_pushlstring(L, &byte, (size_t)n);
    return 1;
}

/* Makes the content of a file (or the names in a folder) durable. What is neither, or is not there,
 * is for the caller's next step to complain about. */
static int sync_content(const char *path) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return 0;
    int error = fsync(fd) != 0 && errno != EINVAL && errno != ENOTSUP ? errno : 0;
    close(fd);
    return error;
}

static bool in_one_folder(const char *a, const char *b) {
    const char *a_name = strrchr(a, '/'), *b_name = strrchr(b, '/');
    size_t length = a_name ? (size_t)(a_name - a) : 0;
    if (!a_name || !b_name) return a_name == b_name;
    return length == (size_t)(b_name - b) && memcmp(a, b, length) == 0;
}

/* fs.rename(from, to) -> true | nil, message, CODE. The content is on disk before it gets the name,
 * and the name when it returns. Replaces a file. */
static int fs_rename(lua_State *L) {
    const char *from = obatch_check_path(L, 1);
    const char *to = obatch_check_path(L, 2);
    int error = sync_content(from);
    if (!error && rename(from, to) != 0) error = errno;
    if (!error) error = os_sync_parent(to);
    if (!error && !in_one_folder(from, to)) error = os_sync_parent(from);
    if (!error) return fs_succeed(L);
    return fs_fail(L, "rename", lua_pushfstring(L, "%s to %s", from, to), error);
}

/* fs.remove(path) -> true | nil, message, CODE. A file or an empty folder; a missing one is fine.
 */
static int fs_remove(lua_State *L) {
    const char *path = obatch_check_path(L, 1);
    if (remove(path) == 0 || errno == ENOENT) return fs_succeed(L);
    return fs_fail(L, "remove", path, errno);
}

/* fs.sync(folder) -> true | nil, message, CODE. Everything that was written to the file system that
 * holds the folder is on disk: one call for thousands of small files. */
static int fs_sync(lua_State *L) {
    const char *path = obatch_check_path(L, 1);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int error = fd < 0 || syncfs(fd) != 0 ? errno : 0;
    fs_close(&fd);
    return result(L, "sync", path, error);
}

/* ---- locks ---- */

static int lock_gc(lua_State *L) {
    fs_close(luaL_checkudata(L, 1, LOCK_TYPE)); /* the lock goes with its last descriptor */
    return 0;
}

static int lock_close(lua_State *L) {
    lock_gc(L);
    return fs_succeed(L);
}

/* The file is overwritten in place and cut afterwards: that needs no space on a full disk, and
 * whoever fails to get the lock reads the old holder or the new one. */
static int sign_lock(int fd) {
    char host[256] = "unknown", text[300];
    gethostname(host, sizeof host - 1);
    int n = snprintf(text, sizeof text, "%s %ld\n", host, (long)getpid());
    if (pwrite(fd, text, (size_t)n, 0) != n) return errno ? errno : EIO;
    return ftruncate(fd, n) == 0 ? 0 : errno;
}

static int take_lock(const char *path, int *fd) {
    *fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (*fd < 0) return errno;
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(*fd, F_OFD_SETLK, &lock) != 0) return errno == EACCES ? EAGAIN : errno;
    errno = 0;
    return sign_lock(*fd);
}

/* Pushes "pid 12 on host x", or "another process" where the file does not say. */
static void push_holder(lua_State *L, int fd) {
    char text[300], host[256] = "", pid[20] = "";
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    text[n > 0 ? n : 0] = '\0';
    if (sscanf(text, "%255s %19[0-9]", host, pid) == 2)
        lua_pushfstring(L, "pid %s on host %s", pid, host);
    else
        lua_pushstring(L, "another process");
}

static int push_locked(lua_State *L, int fd, const char *path) {
    push_holder(L, fd);
    lua_pushfstring(L, "%s is held by %s", path, lua_tostring(L, -1));
    return obatch_fail(L, "LOCKED", lua_tostring(L, -1));
}

static int push_lock_failure(lua_State *L, const char *path, int error) {
    int results = fs_fail(L, "lock", path, error);
    if (error != ENOLCK && error != EOPNOTSUPP && error != ENOSYS) return results;
    lua_pushfstring(L,
                    "%s. The file system that holds it has no locks, so nothing would keep a "
                    "second run out: use a folder on another one (NFS needs its lock service, "
                    "rpc.statd, or the mount option local_lock=all)",
                    lua_tostring(L, -2));
    lua_replace(L, -3);
    return results;
}

/* fs.lock(path) -> lock with close() | nil, "PATH is held by pid 12 on host x", "LOCKED" | nil,
 * message, CODE. An fcntl lock of the open file (so it works over NFS, and twice in one process),
 * which ends with close() or with the process, however that ends. The file stays: removing it would
 * let two holders lock two files of one name. */
static int fs_lock(lua_State *L) {
    const char *path = obatch_check_path(L, 1);
    int *fd = lua_newuserdatauv(L, sizeof *fd, 0);
    *fd = -1;
    luaL_setmetatable(L, LOCK_TYPE);
    int error = take_lock(path, fd);
    if (!error) return 1;
    int results = error == EAGAIN ? push_locked(L, *fd, path) : push_lock_failure(L, path, error);
    fs_close(fd);
    return results;
}

/* fs.holder(path) -> "pid 12 on host x" while somebody holds the lock of that name; nil when nobody
 * does, or there is no such file | nil, message, CODE. Changes nothing. */
static int fs_holder(lua_State *L) {
    const char *path = obatch_check_path(L, 1);
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    int error = fd < 0 || fcntl(fd, F_OFD_GETLK, &lock) != 0 ? errno : 0;
    if (!error && lock.l_type != F_UNLCK) {
        push_holder(L, fd);
    } else {
        lua_pushnil(L);
    }
    fs_close(&fd);
    return error && error != ENOENT ? push_lock_failure(L, path, error) : 1;
}

/* ---- digests and chance ---- */

/* Takes in what comes, at most so many bytes. */
static int hash_fd(int fd, struct digest *hash, lua_Integer most, lua_Integer *length) {
    unsigned char bytes[CHUNK];
    *length = 0;
    while (*length < most) {
        lua_Integer left = most - *length;
        ssize_t n = read(fd, bytes, left < CHUNK ? (size_t)left : sizeof bytes);
        if (n < 0 && errno == EINTR && !obatch_interrupted) continue;
        if (n < 0) return errno;
        if (n == 0) break;
        digest_update(hash, bytes, (size_t)n);
        *length += n;
    }
    return 0;
}

/* The digest of a file, see fs.sha256. */
static int push_digest(lua_State *L, enum digest_kind kind) {
    const char *path = obatch_check_path(L, 1);
    lua_Integer offset = luaL_optinteger(L, 2, 0), most = luaL_optinteger(L, 3, LUA_MAXINTEGER);
    luaL_argcheck(L, offset >= 0, 2, "negative offset");
    luaL_argcheck(L, most >= 0, 3, "negative length");
    struct digest hash;
    unsigned char digest[DIGEST_LENGTH];
    lua_Integer length = 0;
    digest_init(&hash, kind);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return fs_fail(L, "open", path, errno);
    int error = offset > 0 && lseek(fd, (off_t)offset, SEEK_SET) < 0 ? errno : 0;
    if (!error) error = hash_fd(fd, &hash, most, &length);
    close(fd);
    if (error) return fs_fail(L, "read", path, error);
    obatch_push_hex(L, digest, digest_finish(&hash, digest));
    lua_pushinteger(L, length);
    return 2;
}

/* fs.sha256(path [, offset, length]) -> 64 hex digits, bytes read | nil, message, CODE. Of the
 * whole file, or of so many of its bytes from the offset (from 0) on, as far as there are any. */
static int fs_sha256(lua_State *L) {
    return push_digest(L, DIGEST_SHA256);
}

/* fs.fingerprint: the same with what is enough to know a file again, in 32 hex digits. */
static int fs_fingerprint(lua_State *L) {
    return push_digest(L, DIGEST_FINGERPRINT);
}

/* fs.sha256_text(text) -> 64 hex digits */
static int fs_sha256_text(lua_State *L) {
    size_t length;
    const char *text = luaL_checklstring(L, 1, &length);
    struct digest hash;
    unsigned char digest[DIGEST_LENGTH];
    digest_init(&hash, DIGEST_SHA256);
    digest_update(&hash, text, length);
    obatch_push_hex(L, digest, digest_finish(&hash, digest));
    return 1;
}

/* fs.random(n) -> n random bytes (1 to 256) as 2n hex digits */
static int fs_random(lua_State *L) {
    lua_Integer n = luaL_checkinteger(L, 1);
    luaL_argcheck(L, n >= 1 && n <= 256, 1, "1 to 256 bytes expected");
    unsigned char bytes[256]; /* getrandom() never cuts these short */
    while (getrandom(bytes, (size_t)n, 0) != n)
        if (errno != EINTR) return luaL_error(L, "getrandom: %s", strerror(errno));
    obatch_push_hex(L, bytes, (size_t)n);
    return 1;
}

void fs_make_type(lua_State *L, const char *name, const luaL_Reg *methods, lua_CFunction end) {
    luaL_newmetatable(L, name);
    lua_pushcfunction(L, end);
    lua_setfield(L, -2, "__gc");
    lua_pushcfunction(L, end);
    lua_setfield(L, -2, "__close");
    if (methods) {
        lua_newtable(L);
        luaL_setfuncs(L, methods, 0);
        lua_setfield(L, -2, "__index");
    }
    lua_pop(L, 1);
}

int luaopen_obatch_fs(lua_State *L) {
    static const luaL_Reg lock_methods[] = {{"close", lock_close}, {NULL, NULL}};
    static const luaL_Reg functions[] = {
        {"absolute", fs_absolute},
        {"append", fs_append},
        {"create", fs_create},
        {"files", fs_files},
        {"holder", fs_holder},
        {"last_byte", fs_last_byte},
        {"list", fs_list},
        {"lock", fs_lock},
        {"lstat", fs_lstat},
        {"mkdir", fs_mkdir},
        {"random", fs_random},
        {"read", fs_read},
        {"remove", fs_remove},
        {"rename", fs_rename},
        {"sha256", fs_sha256},
        {"sha256_text", fs_sha256_text},
        {"fingerprint", fs_fingerprint},
        {"stat", fs_stat},
        {"state", fs_state},
        {"sync", fs_sync},
        {"walk", fs_walk},
        {"write", fs_write},
        {NULL, NULL},
    };
    /* A file at the size limit of the process is an error of write(), which append takes back; by
     * default it would kill, behind a torn line. */
    signal(SIGXFSZ, SIG_IGN);
    fs_make_type(L, FD_TYPE, NULL, fd_gc);
    fs_walk_open(L);
    fs_write_open(L);
    fs_files_open(L);
    fs_make_type(L, LOCK_TYPE, lock_methods, lock_gc);
    luaL_newlib(L, functions);
    return 1;
}
