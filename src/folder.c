#include "folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BLOCK = 32 * 1024 }; /* of names, from the kernel */

void folder_free(struct folder *folder) {
    free(folder->text);
    free(folder->entries);
    *folder = (struct folder){0};
}

static int add(struct folder *folder, const char *name, struct folder_entry entry) {
    size_t size = entry.length + 1;
    if (folder->text_length + size > folder->text_room) {
        size_t room = (folder->text_length + size) * 2 + 1024;
        char *text = realloc(folder->text, room);
        if (!text) return ENOMEM;
        folder->text = text;
        folder->text_room = room;
    }
    if (folder->count == folder->room) {
        size_t room = folder->room * 2 + 32;
        struct folder_entry *entries = realloc(folder->entries, room * sizeof *entries);
        if (!entries) return ENOMEM;
        folder->entries = entries;
        folder->room = room;
    }
    memcpy(folder->text + folder->text_length, name, size);
    entry.name = folder->text_length;
    folder->entries[folder->count++] = entry;
    folder->text_length += size;
    return 0;
}

static bool has_ending(const char *endings, const char *name, size_t length) {
    for (const char *ending = endings; *ending;) {
        size_t n = strlen(ending);
        if (length > n && strcasecmp(name + length - n, ending) == 0) return true;
        ending += n + 1;
    }
    return false;
}

/* Finds out what a name is; false for what a walk leaves out. The kernel mostly says so with the
 * name; where it does not, or where the name is a link, the file is looked at. */
static bool look(int fd, const struct dirent64 *item, const struct folder_filter *filter,
                 struct folder_entry *entry) {
    const char *name = item->d_name;
    int type = item->d_type;
    struct stat info;
    if (type == DT_UNKNOWN && fstatat(fd, name, &info, AT_SYMLINK_NOFOLLOW) == 0)
        type = (int)IFTODT(info.st_mode);
    entry->is_folder = type == DT_DIR;
    if (entry->is_folder) return true;
    if (type != DT_REG && type != DT_LNK && type != DT_UNKNOWN) return false;
    if (filter->endings && !has_ending(filter->endings, name, entry->length)) return false;
    if (type == DT_REG && !filter->stat) return true;
    if (fstatat(fd, name, &info, 0) != 0) {
        entry->error = errno;
        return true;
    }
    entry->size = info.st_size;
    entry->mtime = (double)info.st_mtim.tv_sec + (double)info.st_mtim.tv_nsec / 1e9;
    return S_ISREG(info.st_mode);
}

static int fill(struct folder *folder, int fd, const struct folder_filter *filter) {
    _Alignas(struct dirent64) char block[BLOCK];
    for (;;) {
        ssize_t size = getdents64(fd, block, sizeof block);
        if (size <= 0) return size < 0 ? errno : 0;
        for (ssize_t at = 0; at < size;) {
            const struct dirent64 *item = (const void *)(block + at);
            const char *name = item->d_name;
            at += item->d_reclen;
            if (name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2]))) continue;
            folder->seen++;
            struct folder_entry entry = {.length = strlen(name)};
            if (filter && !look(fd, item, filter, &entry)) continue;
            int error = add(folder, name, entry);
            if (error) return error;
        }
    }
}

/* What follows a name in a path decides where one of two names is the beginning of the other. */
static int by_path(const void *left, const void *right, void *text) {
    const struct folder_entry *a = left, *b = right;
    size_t shorter = a->length < b->length ? a->length : b->length;
    const char *x = (const char *)text + a->name, *y = (const char *)text + b->name;
    int order = memcmp(x, y, shorter);
    if (order != 0) return order;
    unsigned char cx = a->length > shorter ? (unsigned char)x[shorter] : a->is_folder ? '/' : 0;
    unsigned char cy = b->length > shorter ? (unsigned char)y[shorter] : b->is_folder ? '/' : 0;
    return cx - cy;
}

static int read_with(struct folder *folder, const char *path, const struct folder_filter *filter,
                     int flags) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | flags);
    if (fd < 0) return errno;
    int error = fill(folder, fd, filter);
    close(fd);
    if (!error && folder->count > 1)
        qsort_r(folder->entries, folder->count, sizeof *folder->entries, by_path, folder->text);
    return error;
}

int folder_read(struct folder *folder, const char *path, const struct folder_filter *filter) {
    return read_with(folder, path, filter, 0);
}

int folder_read_below(struct folder *folder, const char *path, const struct folder_filter *filter) {
    return read_with(folder, path, filter, O_NOFOLLOW);
}
