/* A library to preload: counts the calls by which a process changes what is below one folder, and
 * lets one of them fail, or the process die there.
 *
 *   STRIKE_UNDER  the folder (an absolute path without links)
 *   STRIKE_CALLS  which calls count, as "write,fsync"; all of them when it is not set
 *   STRIKE_NAME   a pattern (see fnmatch, extended) of paths below it that count, as "/a/!(*.part)"
 *   STRIKE_AT     the number, from 1, of the call to strike; none when it is not set
 *   STRIKE_WITH   an errno name; "SHORT": half of a write is written, the next one has no space; or
 *                 "KILL"
 *   STRIKE_ON     when set, every counted call from then on fails in the same way
 *   STRIKE_LOG    a file that gets "NUMBER CALL PATH" for each counted call
 *
 * The calls: open (for writing), write (pwrite too), fsync (and fdatasync), syncfs, rename, close
 * (of what can be written), ftruncate, mkdir, remove (and unlink), lock (of an open file). What is
 * done to a file that has no name yet counts as done to one called "#" in its folder; linkat, which
 * gives it one, counts as rename.
 *
 * The real calls are made by syscall(), not through the next library: that is the sanitizer's,
 * which may not be ready yet. Files of the C library's own streams do not pass through here. */
#undef _FILE_OFFSET_BITS /* open and open64 are two names here */

#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_int count;
static atomic_int struck; /* whether the call at STRIKE_AT has been made */
static atomic_int is_short;

static int error_of(const char *name) {
    static const struct {
        const char *name;
        int error;
    } known[] = {{"ENOSPC", ENOSPC}, {"EDQUOT", EDQUOT}, {"EIO", EIO},     {"EROFS", EROFS},
                 {"EACCES", EACCES}, {"ENOLCK", ENOLCK}, {"SHORT", ENOSPC}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(known[i].name, name) == 0) return known[i].error;
    fprintf(stderr, "STRIKE_WITH: no such error: %s\n", name);
    abort();
}

static bool is_wanted(const char *call) {
    const char *list = getenv("STRIKE_CALLS");
    size_t length = strlen(call);
    if (!list) return true;
    for (const char *at = list; (at = strstr(at, call)); at += length)
        if ((at == list || at[-1] == ',') && (at[length] == ',' || !at[length])) return true;
    return false;
}

/* Also whether its name is wanted. */
static bool is_under(const char *path) {
    const char *folder = getenv("STRIKE_UNDER");
    char full[2 * PATH_MAX];
    if (!folder) return false;
    if (*path != '/') {
        char here[PATH_MAX];
        if (syscall(SYS_getcwd, here, sizeof here) < 0) return false;
        snprintf(full, sizeof full, "%s/%s", here, path);
        path = full;
    }
    size_t length = strlen(folder);
    if (strncmp(path, folder, length) != 0 || (path[length] && path[length] != '/')) return false;
    const char *name = getenv("STRIKE_NAME");
    return !name || fnmatch(name, path + length, FNM_EXTMATCH) == 0;
}

static void note(int number, const char *call, const char *path) {
    const char *name = getenv("STRIKE_LOG");
    char line[PATH_MAX + 64];
    if (!name) return;
    int n = snprintf(line, sizeof line, "%d %s %s\n", number, call, path);
    int fd = (int)syscall(SYS_openat, AT_FDCWD, name, O_WRONLY | O_CREAT | O_APPEND, 0666);
    if (n < 0 || fd < 0 || syscall(SYS_write, fd, line, (size_t)n) != n) abort();
    syscall(SYS_close, fd);
}

/* Counts a call. The errno it is to fail with, 0 when it is to be made; and whether only half of it
 * is to be written. */
static int strike(const char *call, const char *path, bool *half) {
    const char *at = getenv("STRIKE_AT"), *with = getenv("STRIKE_WITH");
    if (!is_under(path) || !is_wanted(call)) return 0;
    int number = atomic_fetch_add(&count, 1) + 1;
    note(number, call, path);
    if (!at || !with) return 0;
    if (half && atomic_exchange(&is_short, 0)) return ENOSPC;
    int aim = atoi(at);
    if (number < aim || (number > aim && !getenv("STRIKE_ON"))) return 0;
    if (strcmp(with, "KILL") == 0) {
        kill(getpid(), SIGKILL);
        for (;;) pause();
    }
    if (strcmp(with, "SHORT") == 0 && half && !atomic_exchange(&struck, 1)) {
        *half = true;
        atomic_store(&is_short, 1);
        return 0;
    }
    return error_of(with);
}

/* The path of an open file, which has room for PATH_MAX bytes. One that has no name (O_TMPFILE) is
 * called "#" here: the system's name of it differs from run to run. */
static bool path_of(int fd, char *path) {
    char link[32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, PATH_MAX - 1);
    if (n < 0 || path[0] != '/') return false;
    path[n] = '\0';
    char *name = strrchr(path, '/') + 1, *end;
    if (*name == '#' && strtoull(name + 1, &end, 10) && strcmp(end, " (deleted)") == 0)
        name[1] = '\0';
    return true;
}

static int strike_fd(const char *call, int fd, bool *half) {
    char path[PATH_MAX];
    return path_of(fd, path) ? strike(call, path, half) : 0;
}

/* A name in a folder. */
static int strike_at(const char *call, int folder, const char *name) {
    char path[2 * PATH_MAX];
    if (folder == AT_FDCWD || *name == '/') return strike(call, name, NULL);
    if (!path_of(folder, path)) return 0;
    size_t length = strlen(path);
    snprintf(path + length, sizeof path - length, "/%s", name);
    return strike(call, path, NULL);
}

static int failed(int error) {
    errno = error;
    return -1;
}

static int open_file(int folder, const char *path, int flags, mode_t mode) {
    const char *name = (flags & O_TMPFILE) == O_TMPFILE ? "#" : path;
    int error = (flags & O_ACCMODE) != O_RDONLY ? strike_at("open", folder, name) : 0;
    if (error) return failed(error);
    return (int)syscall(SYS_openat, folder, path, flags, mode);
}

#define OPEN(declaration, folder)                                                                  \
    int declaration {                                                                              \
        va_list rest;                                                                              \
        va_start(rest, flags);                                                                     \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;                    \
        va_end(rest);                                                                              \
        return open_file(folder, path, flags, mode);                                               \
    }
OPEN(open(const char *path, int flags, ...), AT_FDCWD)
OPEN(open64(const char *path, int flags, ...), AT_FDCWD)
OPEN(openat(int folder, const char *path, int flags, ...), folder)
OPEN(openat64(int folder, const char *path, int flags, ...), folder)

ssize_t write(int fd, const void *bytes, size_t length) {
    bool half = false;
    int error = strike_fd("write", fd, &half);
    if (error) return failed(error);
    return syscall(SYS_write, fd, bytes, half ? length / 2 : length);
}

static ssize_t write_at(int fd, const void *bytes, size_t length, off_t offset) {
    bool half = false;
    int error = strike_fd("write", fd, &half);
    if (error) return failed(error);
    return syscall(SYS_pwrite64, fd, bytes, half ? length / 2 : length, offset);
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) {
    return write_at(fd, bytes, length, offset);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t offset) {
    return write_at(fd, bytes, length, offset);
}

#define OF_FD(name, call, number)                                                                  \
    int name(int fd) {                                                                             \
        int error = strike_fd(call, fd, NULL);                                                     \
        return error ? failed(error) : (int)syscall(number, fd);                                   \
    }
OF_FD(fsync, "fsync", SYS_fsync)
OF_FD(fdatasync, "fsync", SYS_fdatasync)
OF_FD(syncfs, "syncfs", SYS_syncfs)

/* The file is closed all the same, as the kernel does it. */
int close(int fd) {
    long flags = syscall(SYS_fcntl, fd, F_GETFL);
    int error = flags >= 0 && (flags & O_ACCMODE) != O_RDONLY ? strike_fd("close", fd, NULL) : 0;
    int result = (int)syscall(SYS_close, fd);
    return error ? failed(error) : result;
}

int ftruncate(int fd, off_t length) {
    int error = strike_fd("ftruncate", fd, NULL);
    return error ? failed(error) : (int)syscall(SYS_ftruncate, fd, length);
}

int ftruncate64(int fd, off64_t length) {
    return ftruncate(fd, length);
}

int rename(const char *from, const char *to) {
    int error = strike("rename", to, NULL);
    return error ? failed(error) : (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int mkdir(const char *path, mode_t mode) {
    int error = strike("mkdir", path, NULL);
    return error ? failed(error) : (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}

/* A file gets its name by either of them. */
int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags) {
    int error = strike_at("rename", to_folder, to);
    if (error) return failed(error);
    return (int)syscall(SYS_linkat, from_folder, from, to_folder, to, flags);
}

int unlinkat(int folder, const char *path, int flags) {
    int error = strike_at("remove", folder, path);
    return error ? failed(error) : (int)syscall(SYS_unlinkat, folder, path, flags);
}

int unlink(const char *path) {
    return unlinkat(AT_FDCWD, path, 0);
}

int remove(const char *path) {
    int error = strike("remove", path, NULL);
    if (error) return failed(error);
    int result = (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    if (result != 0 && (errno == EISDIR || errno == EPERM))
        result = (int)syscall(SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR);
    return result;
}

/* Only locks count: everything else that fcntl does changes no file. */
static int control(int fd, int command, void *argument) {
    int error = command == F_OFD_SETLK ? strike_fd("lock", fd, NULL) : 0;
    return error ? failed(error) : (int)syscall(SYS_fcntl, fd, command, argument);
}

#define FCNTL(name)                                                                                \
    int name(int fd, int command, ...) {                                                           \
        va_list rest;                                                                              \
        va_start(rest, command);                                                                   \
        void *argument = va_arg(rest, void *);                                                     \
        va_end(rest);                                                                              \
        return control(fd, command, argument);                                                     \
    }
FCNTL(fcntl)
FCNTL(fcntl64)
