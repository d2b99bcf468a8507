#include "os.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

const int os_stops[OS_STOPS] = {SIGINT, SIGTERM, SIGHUP};

void os_block_stops(sigset_t *before) {
    sigset_t stops;
    sigemptyset(&stops);
    for (int i = 0; i < OS_STOPS; i++) sigaddset(&stops, os_stops[i]);
    pthread_sigmask(SIG_BLOCK, &stops, before);
}

double os_clock(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

int os_write_all(int fd, const char *bytes, size_t length) {
    while (length > 0) {
        ssize_t n = write(fd, bytes, length);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return errno;
        bytes += n;
        length -= (size_t)n;
    }
    return 0;
}

/* Some file systems (CIFS, some FUSE) have no fsync for folders and say EINVAL or ENOTSUP, and a
 * folder may be entered and written but not read; there is nothing more to do there. */
int os_sync_parent(const char *path) {
    const char *slash = strrchr(path, '/');
    size_t length = slash ? (size_t)(slash - path) : 0;
    char folder[PATH_MAX];
    if (length >= sizeof folder) return ENAMETOOLONG;
    if (!slash) {
        strcpy(folder, ".");
    } else if (length == 0) {
        strcpy(folder, "/");
    } else {
        memcpy(folder, path, length);
        folder[length] = '\0';
    }
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return errno == EACCES ? 0 : errno;
    int error = fsync(fd) == 0 ? 0 : errno;
    close(fd);
    return error == EINVAL || error == ENOTSUP ? 0 : error;
}

void os_part_name(const char *path, char *part) {
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    size_t keep = strlen(name), most = NAME_MAX - (sizeof ".part" - 1);
    if (keep > most && keep <= NAME_MAX) { /* a longer one is no name at all; open() will say so */
        keep = most;
        /* Not inside a UTF-8 character: some file systems take no other names. */
        for (int i = 0; i < 3 && ((unsigned char)name[keep] & 0xC0) == 0x80; i++) keep--;
    }
    size_t length = (size_t)(name - path) + keep;
    memcpy(part, path, length);
    memcpy(part + length, ".part", sizeof ".part");
}

int os_create(const char *path, int *fd) {
    const int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
    struct stat info;
    *fd = open(path, flags, 0666);
    if (*fd >= 0) return 0;
    if (errno != EEXIST) return errno;
    if (lstat(path, &info) == 0 && !S_ISREG(info.st_mode) && !S_ISLNK(info.st_mode)) return EEXIST;
    if (unlink(path) != 0 && errno != ENOENT) return errno;
    *fd = open(path, flags, 0666);
    return *fd < 0 ? errno : 0;
}
