/* jsonl.create and jsonl.image: a JSONL file that has its name only when it is whole, and images
 * that go into its lines without passing through Lua. */
#include "digest.h"
#include "json_lua.h"
#include "jsonl.h"
#include "obatch.h"
#include "options.h"
#include "os.h"

#include <fcntl.h>
#include <nettle/base64.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define WRITER "obatch.jsonl.writer"
#define IMAGE "obatch.jsonl.image"

struct image {
    const char *mime;
    struct stat status; /* as it was when it was looked at first */
    bool written;
    unsigned char sha256[DIGEST_LENGTH]; /* once written: of the bytes that went into the line */
    char path[];
};

/* Where an image belongs in the text of a line. */
struct insert {
    size_t at;
    struct image *image;
    unsigned char sha256[DIGEST_LENGTH];
};

struct writer {
    int fd;     /* -1 when closed */
    int broken; /* the errno of the first write that failed; nothing can follow it */
    lua_Integer lines, bytes, max_lines, max_bytes;
    struct digest sha, sha_before; /* before: as it was at the end of the last whole line */
    struct digest sha_image;
    char *buffer;
    size_t buffered;
    struct json_out text; /* the line being composed by put() */
    struct insert *inserts;
    size_t insert_count, insert_capacity;
    char *part; /* where it is written; behind path, in the same memory */
    char path[];
};

/* ---- bytes to the file; these return 0 or an errno ---- */

static int flush(struct writer *writer) {
    if (!writer->broken)
        writer->broken = os_write_all(writer->fd, writer->buffer, writer->buffered);
    writer->buffered = 0;
    return writer->broken;
}

static int emit(struct writer *writer, const char *bytes, size_t length) {
    digest_update(&writer->sha, bytes, length);
    if (writer->buffered + length > JSONL_BLOCK && flush(writer)) return writer->broken;
    if (length >= JSONL_BLOCK) {
        writer->broken = os_write_all(writer->fd, bytes, length);
    } else {
        memcpy(writer->buffer + writer->buffered, bytes, length);
        writer->buffered += length;
    }
    return writer->broken;
}

/* ---- images ---- */

static const char *image_mime(const char *head, size_t length) {
    static const struct {
        size_t at, length;
        const char *bytes, *mime;
    } known[] = {
        {0, 8, "\x89PNG\r\n\x1A\n", "image/png"},
        {0, 3, "\xFF\xD8\xFF", "image/jpeg"},
        {0, 6, "GIF87a", "image/gif"},
        {0, 6, "GIF89a", "image/gif"},
        {8, 4, "WEBP", "image/webp"},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (length < known[i].at + known[i].length) continue;
        if (known[i].at > 0 && memcmp(head, "RIFF", 4) != 0) continue;
        if (memcmp(head + known[i].at, known[i].bytes, known[i].length) == 0) return known[i].mime;
    }
    return NULL;
}

/* image(path) -> what put() writes as "data:<type>;base64,...", or nil, message, "NOT_IMAGE" or an
 * errno name. The file is read when the line is written, and must then still be the same file, with
 * the same size and time of change. */
int jsonl_image(lua_State *L) {
    const char *path = obatch_check_path(L, 1);
    size_t length = strlen(path);
    struct image *image = lua_newuserdatauv(L, sizeof *image + length + 1, 0);
    *image = (struct image){0};
    memcpy(image->path, path, length + 1);
    luaL_setmetatable(L, IMAGE);

    char head[16];
    ptrdiff_t n = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not hang us */
    int error = fd < 0 || fstat(fd, &image->status) != 0 ? errno : 0;
    if (!error && S_ISDIR(image->status.st_mode)) error = EISDIR;
    if (!error && S_ISREG(image->status.st_mode)) {
        n = lines_pread(fd, head, sizeof head, 0);
        if (n < 0) error = errno;
    }
    if (fd >= 0) close(fd);
    if (error) return obatch_fail_errno(L, path, error);
    image->mime = image_mime(head, (size_t)n);
    if (!image->mime)
        return obatch_fail(
            L, "NOT_IMAGE",
            lua_pushfstring(L, "%s: not a PNG, JPEG, GIF or WebP image (by its first bytes)",
                            path));
    return 1;
}

static int name_image(lua_State *L) {
    const struct image *image = luaL_checkudata(L, 1, IMAGE);
    lua_pushfstring(L, "%s (%s, %I bytes)", image->path, image->mime,
                    (lua_Integer)image->status.st_size);
    return 1;
}

/* image:bytes() -> the size of the file */
static int image_bytes(lua_State *L) {
    const struct image *image = luaL_checkudata(L, 1, IMAGE);
    lua_pushinteger(L, (lua_Integer)image->status.st_size);
    return 1;
}

/* image:mime() -> such as "image/png", by the first bytes */
static int image_type(lua_State *L) {
    const struct image *image = luaL_checkudata(L, 1, IMAGE);
    lua_pushstring(L, image->mime);
    return 1;
}

/* image:sha256() -> 64 hex digits of the bytes that the last successful put() wrote; nil before */
static int image_sha256(lua_State *L) {
    const struct image *image = luaL_checkudata(L, 1, IMAGE);
    if (image->written) {
        obatch_push_hex(L, image->sha256, sizeof image->sha256);
    } else {
        lua_pushnil(L);
    }
    return 1;
}

static bool is_same(const struct image *image, const struct stat *now) {
    const struct stat *then = &image->status;
    return now->st_dev == then->st_dev && now->st_ino == then->st_ino &&
           now->st_size == then->st_size && now->st_mtim.tv_sec == then->st_mtim.tv_sec &&
           now->st_mtim.tv_nsec == then->st_mtim.tv_nsec;
}

/* The bytes of an open image, as base64 and into sha_image. */
static int emit_base64(struct writer *writer, int fd, uint64_t size) {
    enum { STEP = 3 * 8192 };
    char bytes[STEP], text[STEP / 3 * 4];
    digest_init(&writer->sha_image);
    uint64_t done = 0;
    for (;;) {
        ptrdiff_t n = lines_pread(fd, bytes, sizeof bytes, done);
        if (n < 0) return errno;
        if (n == 0) return done == size ? 0 : ESTALE;
        done += (uint64_t)n;
        if (done > size) return ESTALE;
        digest_update(&writer->sha_image, bytes, (size_t)n);
        base64_encode_raw(text, (size_t)n, (const uint8_t *)bytes);
        int error = emit(writer, text, BASE64_ENCODE_RAW_LENGTH((size_t)n));
        if (error) return error;
    }
}

/* Streams an image. 0, or an errno: of the image (ESTALE when it is not what it was) or of the
 * writer, which is then broken. It is looked at again before and after, and by its name in the end,
 * which may meanwhile have been given to another file. */
static int emit_image(struct writer *writer, struct insert *insert) {
    const struct image *image = insert->image;
    struct stat now;
    int fd = open(image->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return errno;
    int error = fstat(fd, &now) != 0 ? errno : is_same(image, &now) ? 0 : ESTALE;
    if (!error) error = emit_base64(writer, fd, (uint64_t)now.st_size);
    close(fd);
    if (error) return error;
    if (stat(image->path, &now) != 0) return errno;
    if (!is_same(image, &now)) return ESTALE;
    digest_finish(&writer->sha_image, insert->sha256);
    return 0;
}

/* Stands in for an image in the composed text; see json_foreign. */
static bool insert_image(lua_State *L, int index, struct json_out *out, void *context) {
    struct writer *writer = context;
    struct image *image = luaL_testudata(L, index, IMAGE);
    if (!image) return false;
    if (writer->insert_count == writer->insert_capacity) {
        size_t capacity = writer->insert_capacity ? writer->insert_capacity * 2 : 16;
        struct insert *inserts = realloc(writer->inserts, capacity * sizeof *inserts);
        if (!inserts) return luaL_error(L, "not enough memory");
        writer->inserts = inserts;
        writer->insert_capacity = capacity;
    }
    json_out_add(L, out, "\"data:", 6);
    json_out_add(L, out, image->mime, strlen(image->mime));
    json_out_add(L, out, ";base64,\"", 9);
    writer->inserts[writer->insert_count++] =
        (struct insert){.at = out->length - 1, .image = image};
    return true;
}

/* ---- the writer ---- */

static int close_writer(lua_State *L) {
    struct writer *writer = luaL_checkudata(L, 1, WRITER);
    if (writer->fd >= 0) {
        close(writer->fd);
        unlink(writer->part);
    }
    writer->fd = -1;
    free(writer->buffer);
    free(writer->text.data);
    free(writer->inserts);
    writer->buffer = NULL;
    writer->text = (struct json_out){0};
    writer->inserts = NULL;
    return 0;
}

/* create(path [, { max_lines =, max_bytes = }]) -> writer. Without a limit there is none. */
int jsonl_create(lua_State *L) {
    const char *path = obatch_check_path(L, 1);
    size_t length = strlen(path);
    lua_Integer max_lines = LUA_MAXINTEGER, max_bytes = LUA_MAXINTEGER;
    if (!lua_isnoneornil(L, 2)) {
        static const char *const known[] = {"max_lines", "max_bytes", NULL};
        options_check(L, 2, known);
        max_lines = options_integer(L, 2, "max_lines", max_lines, 1, LUA_MAXINTEGER);
        max_bytes = options_integer(L, 2, "max_bytes", max_bytes, 1, LUA_MAXINTEGER);
    }
    size_t room = (length + 1) + (length + OS_PART_ROOM);
    struct writer *writer = lua_newuserdatauv(L, sizeof *writer + room, 0);
    *writer = (struct writer){.fd = -1, .max_lines = max_lines, .max_bytes = max_bytes};
    memcpy(writer->path, path, length + 1);
    writer->part = writer->path + length + 1;
    os_part_name(path, writer->part);
    luaL_setmetatable(L, WRITER);

    writer->buffer = malloc(JSONL_BLOCK);
    digest_init(&writer->sha);
    if (!writer->buffer) return luaL_error(L, "not enough memory");
    int error = os_create(writer->part, &writer->fd);
    return error ? obatch_fail_errno(L, writer->part, error) : 1;
}

static struct writer *check_writer(lua_State *L) {
    struct writer *writer = luaL_checkudata(L, 1, WRITER);
    luaL_argcheck(L, writer->fd >= 0, 1, "the writer is closed");
    return writer;
}

/* Is there room for a line of `size` bytes, its newline included? 0, or the number of results. */
static int refuse_line(lua_State *L, const struct writer *writer, lua_Integer size) {
    if (writer->broken) return obatch_fail_errno(L, writer->part, writer->broken);
    if (size > writer->max_bytes) {
        lua_pushfstring(L, "%s: a line of %I bytes; a file may have %I", writer->path, size,
                        writer->max_bytes);
        return obatch_fail(L, "TOO_BIG", lua_tostring(L, -1));
    }
    if (writer->lines >= writer->max_lines || size > writer->max_bytes - writer->bytes) {
        lua_pushfstring(L, "%s is full: %I lines, %I bytes", writer->path, writer->lines,
                        writer->bytes);
        return obatch_fail(L, "FULL", lua_tostring(L, -1));
    }
    return 0;
}

static int line_done(lua_State *L, struct writer *writer, lua_Integer size) {
    if (writer->broken) return obatch_fail_errno(L, writer->part, writer->broken);
    writer->lines++;
    writer->bytes += size;
    lua_pushboolean(L, 1);
    return 1;
}

/* raw(line) -> true | nil, message, "FULL" (a fresh file would take it), "TOO_BIG" (none would), or
 * an errno name. Errors of buffered bytes may come with a later line, or with commit. */
static int writer_raw(lua_State *L) {
    struct writer *writer = check_writer(L);
    size_t length;
    const char *line = luaL_checklstring(L, 2, &length);
    if (length > 0 && line[length - 1] == '\n') length--;
    luaL_argcheck(L, !memchr(line, '\n', length), 2, "more than one line");
    lua_Integer size = (lua_Integer)length + 1;
    int results = refuse_line(L, writer, size);
    if (results) return results;
    if (!emit(writer, line, length)) emit(writer, "\n", 1);
    return line_done(L, writer, size);
}

/* Bytes of another file, read straight into the buffer. */
static int emit_from(struct writer *writer, int fd, uint64_t offset, size_t length) {
    while (length > 0) {
        if (writer->buffered == JSONL_BLOCK && flush(writer)) return writer->broken;
        char *to = writer->buffer + writer->buffered;
        size_t room = JSONL_BLOCK - writer->buffered, wanted = length < room ? length : room;
        ptrdiff_t n = lines_pread(fd, to, wanted, offset);
        if (n < 0) return writer->broken = errno;
        if ((size_t)n < wanted) return writer->broken = ESTALE;
        digest_update(&writer->sha, to, wanted);
        writer->buffered += wanted;
        offset += wanted;
        length -= wanted;
    }
    return 0;
}

/* copy(index, ordinal): the same with a line of a jsonl.index, whose bytes do not pass through Lua.
 * Also "CHANGED": the file is not what was indexed. */
static int writer_copy(lua_State *L) {
    struct writer *writer = check_writer(L);
    struct jsonl_span span;
    int error = jsonl_index_span(L, 2, 3, &span);
    lua_Integer size = (lua_Integer)span.length + 1;
    int results = error ? 0 : refuse_line(L, writer, size);
    if (results) return results;
    if (!error) error = emit_from(writer, span.fd, span.offset, span.length);
    if (error == ESTALE) {
        lua_pushfstring(L, "%s has changed since it was indexed", span.path);
        return obatch_fail(L, "CHANGED", lua_tostring(L, -1));
    }
    if (error && !writer->broken) return obatch_fail_errno(L, span.path, error);
    if (!error) emit(writer, "\n", 1);
    return line_done(L, writer, size);
}

/* An image could not be read to its end: the file ends with the last whole line again. */
static int take_back(lua_State *L, struct writer *writer, const struct image *image, int error) {
    writer->buffered = 0;
    if (ftruncate(writer->fd, (off_t)writer->bytes) != 0 ||
        lseek(writer->fd, (off_t)writer->bytes, SEEK_SET) < 0)
        writer->broken = errno;
    writer->sha = writer->sha_before;
    if (error != ESTALE) return obatch_fail_errno(L, image->path, error);
    lua_pushfstring(L, "%s has changed while it was used", image->path);
    return obatch_fail(L, "CHANGED", lua_tostring(L, -1));
}

/* put(value): the same with the JSON text of a value, which may have images in it. "CHANGED" when
 * one is not what it was; the file then ends with the line before. After a success each of them
 * knows the SHA-256 of what was written of it. */
static int writer_put(lua_State *L) {
    struct writer *writer = check_writer(L);
    struct json_out *text = &writer->text;
    luaL_checkany(L, 2);
    text->length = 0;
    writer->insert_count = 0;
    json_lua_encode(L, 2, text, insert_image, writer);
    lua_Integer size = (lua_Integer)text->length + 1;
    for (size_t i = 0; i < writer->insert_count; i++)
        size += ((lua_Integer)writer->inserts[i].image->status.st_size + 2) / 3 * 4;
    int results = refuse_line(L, writer, size);
    if (results) return results;

    if (writer->insert_count > 0) {
        flush(writer);
        writer->sha_before = writer->sha;
    }
    size_t done = 0;
    for (size_t i = 0; i < writer->insert_count && !writer->broken; i++) {
        struct insert *insert = &writer->inserts[i];
        emit(writer, text->data + done, insert->at - done);
        done = insert->at;
        int error = writer->broken ? 0 : emit_image(writer, insert);
        if (error && !writer->broken) return take_back(L, writer, insert->image, error);
    }
    if (!writer->broken && !emit(writer, text->data + done, text->length - done))
        emit(writer, "\n", 1);
    for (size_t i = 0; i < writer->insert_count && !writer->broken; i++) {
        struct image *image = writer->inserts[i].image;
        image->written = true;
        memcpy(image->sha256, writer->inserts[i].sha256, sizeof image->sha256);
    }
    return line_done(L, writer, size);
}

/* commit() -> { lines =, bytes =, sha256 = hex }; the file has its name, durably. */
static int writer_commit(lua_State *L) {
    struct writer *writer = check_writer(L);
    int error = flush(writer);
    if (!error && fsync(writer->fd) != 0) error = writer->broken = errno;
    if (!error && rename(writer->part, writer->path) != 0) error = errno;
    if (error) return obatch_fail_errno(L, writer->path, error);
    close(writer->fd);
    writer->fd = -1;
    error = os_sync_parent(writer->path);

    unsigned char digest[DIGEST_LENGTH];
    digest_finish(&writer->sha, digest);
    close_writer(L);
    if (error) return obatch_fail_errno(L, writer->path, error);
    lua_createtable(L, 0, 3);
    lua_pushinteger(L, writer->lines);
    lua_setfield(L, -2, "lines");
    lua_pushinteger(L, writer->bytes);
    lua_setfield(L, -2, "bytes");
    obatch_push_hex(L, digest, sizeof digest);
    lua_setfield(L, -2, "sha256");
    return 1;
}

/* Methods, and the two numbers. */
static int writer_get(lua_State *L) {
    struct writer *writer = luaL_checkudata(L, 1, WRITER);
    const char *name = luaL_checkstring(L, 2);
    if (strcmp(name, "lines") == 0) {
        lua_pushinteger(L, writer->lines);
    } else if (strcmp(name, "bytes") == 0) {
        lua_pushinteger(L, writer->bytes);
    } else {
        lua_getfield(L, lua_upvalueindex(1), name);
    }
    return 1;
}

static const luaL_Reg methods[] = {
    {"close", close_writer}, {"commit", writer_commit}, {"put", writer_put},    {"raw", writer_raw},
    {"copy", writer_copy},   {"__close", close_writer}, {"__gc", close_writer}, {NULL, NULL},
};

static const luaL_Reg image_methods[] = {
    {"bytes", image_bytes},     {"mime", image_type}, {"sha256", image_sha256},
    {"__tostring", name_image}, {NULL, NULL},
};

void jsonl_open_writer(lua_State *L) {
    luaL_newmetatable(L, WRITER);
    luaL_setfuncs(L, methods, 0);
    lua_pushvalue(L, -1);
    lua_pushcclosure(L, writer_get, 1);
    lua_setfield(L, -2, "__index");
    luaL_newmetatable(L, IMAGE);
    luaL_setfuncs(L, image_methods, 0);
    lua_pushvalue(L, -1);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 2);
}
