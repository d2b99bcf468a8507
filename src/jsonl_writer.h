/* What the writer of JSONL files is for those that write into it: jsonl_writer.c and
 * jsonl_image.c. */
#ifndef OBATCH_JSONL_WRITER_H
#define OBATCH_JSONL_WRITER_H

#include "digest.h"
#include "json_lua.h"
#include "pool.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>

struct image {
    const char *mime;
    struct stat status; /* as it was when it was looked at first */
    bool hashed;
    unsigned char sha256[DIGEST_LENGTH]; /* of the bytes that went into the line */
    char path[];
};

/* The image at a stack index; NULL for anything else. */
struct image *jsonl_test_image(lua_State *L, int index);

/* Where an image belongs in the text of a line. */
struct insert {
    size_t at;
    struct image *image;
    unsigned char sha256[DIGEST_LENGTH];
};

/* A block on its way to the file, while the next ones are filled. */
struct block {
    struct pool_task task;
    struct writer *writer;
    char *bytes; /* NULL before it is used first */
    size_t length;
    size_t line; /* where the unfinished line begins; length when it does not begin here */
    int error;   /* of this block or one before it */
    /* The one to submit when this one is written, NULL as long as there is none; the block itself
     * from then on. */
    _Atomic(struct block *) after;
};

/* One that is being written, and one that is ready when it is: so whoever writes need not wait for
 * who fills them. */
enum { WRITER_BLOCKS = 2 };

struct writer {
    int fd;     /* -1 when closed */
    int broken; /* the errno of the first write that failed; nothing can follow it */
    lua_Integer lines, bytes, max_lines, max_bytes;
    struct digest digest;      /* of what was given to the file */
    struct digest digest_line; /* the same up to where the unfinished line begins */
    char *buffer;
    size_t buffered;
    size_t line; /* where the unfinished line begins in the buffer */
    bool torn;   /* it begins before the buffer */
    struct block blocks[WRITER_BLOCKS];
    unsigned sent, landed; /* how many blocks have gone, and how many of them are waited for */
    struct json_out text;  /* the line being composed by put() */
    struct insert *inserts;
    size_t insert_count, insert_capacity;
    bool is_composing; /* then Lua runs, and nobody else may use the writer */
    char *part;        /* where it is written; behind path, in the same memory */
    char path[];
};

/* Whether it makes SHA-256, of images too. */
static inline bool writer_hashes(const struct writer *writer) {
    return writer->digest.kind == DIGEST_SHA256;
}

/* The argument, which must be an open writer. */
struct writer *jsonl_check_writer(lua_State *L, int arg);

/* Is there room for so many lines of `size` bytes in all, their newlines included? 0, or the number
 * of results: nil, message, "FULL" or "TOO_BIG", or an errno name. */
int writer_refuse(lua_State *L, const struct writer *writer, lua_Integer lines, lua_Integer size);

/* Adds bytes; 0, or the errno of this or an earlier write. */
int writer_emit(struct writer *writer, const char *bytes, size_t length);

/* Room in the buffer for at least `least` bytes, at most JSONL_BLOCK: how many there are, at
 * writer->buffer + writer->buffered. 0 when the writer is broken. */
size_t writer_room(struct writer *writer, size_t least);

/* Lines that writer_refuse() let through are in: true, or a failure. The number of results. */
int writer_done(lua_State *L, struct writer *writer, lua_Integer lines, lua_Integer size);

/* Streams an image as base64. 0, or an errno: of the image (ESTALE when it is not what it was) or
 * of the writer, which is then broken. */
int writer_emit_image(struct writer *writer, struct insert *insert);

#endif
