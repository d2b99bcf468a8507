/* A multipart/form-data body (RFC 7578), parsed while it arrives. No Lua and no files: what is
 * found goes to a sink, and memory stays at one small window whatever the size of the body.
 *
 * libmicrohttpd has a post processor of its own, but it ends a file name at the first quote, also
 * an escaped one, finds no name unless a space precedes it, and cannot say what is wrong. */
#ifndef OBATCH_MULTIPART_H
#define OBATCH_MULTIPART_H

#include <stdbool.h>
#include <stddef.h>

/* Both calls return NULL, or why the form cannot be accepted: a string that outlives the parser.
 * part: the strings are valid during the call only; filename and type are NULL when not given. */
struct multipart_sink {
    const char *(*part)(void *context, const char *name, const char *filename, const char *type);
    const char *(*data)(void *context, const char *data, size_t size);
    void *context;
};

struct multipart;

/* Whether a Content-Type header says multipart/form-data. */
bool multipart_is(const char *content_type);

/* A parser for that Content-Type; NULL when there is no memory. A boundary that is missing or
 * unusable is an error of the form, told by multipart_feed() and multipart_end(). */
struct multipart *multipart_new(const char *content_type, struct multipart_sink sink);
void multipart_free(struct multipart *form);

/* The next bytes of the body. NULL, or what is wrong; after an error the rest is ignored. */
const char *multipart_feed(struct multipart *form, const char *data, size_t size);

/* The body is over. NULL, or what was wrong with it, a missing end included. */
const char *multipart_end(struct multipart *form);

#endif
