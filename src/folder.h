/* The names in a folder, read in one go. No Lua here. */
#ifndef OBATCH_FOLDER_H
#define OBATCH_FOLDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct folder_entry {
    size_t name; /* where it starts in the folder's text; ended by a NUL */
    size_t length;
    bool is_folder;
    int error; /* what stat said of it, where it was asked */
    int64_t size;
    double mtime; /* seconds */
};

/* Zeroed it is empty. */
struct folder {
    char *text;
    size_t text_length, text_room;
    struct folder_entry *entries; /* sorted */
    size_t count, room;
    size_t seen; /* names in the folder, whether they are wanted or not */
};

/* What a walk takes of a folder: folders, and files whose names have one of the endings, in any
 * case, and something before it. */
struct folder_filter {
    const char *endings; /* each ended by a NUL, the list by an empty one; NULL: all */
    bool stat;           /* size and mtime are wanted */
};

/* Reads a folder; 0 or an errno. Without a filter every name is taken, nothing is looked at, and
 * the order is that of the bytes.
 *
 * With one, folders sort as "name/", so that whole paths come in bytewise order: "a.jpg" before
 * "a/1.jpg". Links to files are files, links to folders are left out, as is what is neither; what
 * cannot be looked at has its error. */
int folder_read(struct folder *folder, const char *path, const struct folder_filter *filter);

/* The same below a folder: a link that has meanwhile taken the name is not followed. */
int folder_read_below(struct folder *folder, const char *path, const struct folder_filter *filter);

void folder_free(struct folder *folder);

#endif
