/* Bytes whose number is not known beforehand: in memory while they are few, then in a file. */
#ifndef OBATCH_SPOOL_H
#define OBATCH_SPOOL_H

#include <stddef.h>
#include <stdint.h>

/* text in memory, or the file path in the spool folder; both NULL: none, or discarded. */
struct content {
    uint64_t size;
    char *text, *path;
    size_t room; /* of text */
    int fd;      /* of path while it is written, otherwise -1 */
};

/* The functions that can fail return 0 or an errno. */

/* Opens the file, for bytes that are not to be in memory at all. */
int content_spool(struct content *content, const char *folder);

/* Moves what is in memory to a file; after a failure it is still in memory. */
int content_to_file(struct content *content, const char *folder);

/* Adds bytes; beyond in_memory all of them go to a file. */
int content_add(struct content *content, const char *folder, size_t in_memory, const char *data,
                size_t size);

/* No more bytes will come: closes the file, which can tell of a write that failed late. */
int content_end(struct content *content);

/* Removes all of it but the size; can be called again. */
void content_discard(struct content *content);

#endif
