/* jsonl.create: a JSONL file that has its name only when it is whole.
 *
 * What is written goes through a buffer. A full one is given to the pool, which hashes and writes
 * it while others are filled. */
#include "jsonl_writer.h"
#include "jsonl.h"
#include "obatch.h"
#include "options.h"
#include "os.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#define WRITER "obatch.jsonl.writer"

/* ---- bytes to the file; these return 0 or an errno ---- */

/* Hashes so that the state at the beginning of an unfinished line is kept. */
static int block_write(struct writer *writer, const char *bytes, size_t length, size_t line) {
    digest_update(&writer->digest, bytes, line);
    if (line < length) {
        writer->digest_line = writer->digest;
        digest_update(&writer->digest, bytes + line, length - line);
    }
    return os_write_all(writer->fd, bytes, length);
}

/* A block goes when the one before it is written. */
static void block_run(struct pool_task *task) {
    struct block *block = (struct block *)task;
    if (!block->error)
        block->error = block_write(block->writer, block->bytes, block->length, block->line);
    struct block *after = atomic_exchange(&block->after, block);
    if (!after) return;
    after->error = block->error;
    pool_submit(&after->task);
}

/* Waits until at most so many blocks are on their way. */
static int land(struct writer *writer, unsigned most) {
    while (writer->sent - writer->landed > most) {
        struct block *block = &writer->blocks[writer->landed++ % WRITER_BLOCKS];
        pool_wait(&block->task);
        if (!writer->broken) writer->broken = block->error;
    }
    return writer->broken;
}

/* Hands the buffer to the pool and takes another one. Where there are no other threads, or no
 * memory, it is written here. */
static void flush_ahead(struct writer *writer) {
    if (land(writer, WRITER_BLOCKS - 1)) return;
    struct block *block = &writer->blocks[writer->sent % WRITER_BLOCKS];
    size_t line = writer->torn ? writer->buffered : writer->line;
    if (!block->bytes && pool_threads() > 1) block->bytes = malloc(JSONL_BLOCK);
    if (!block->bytes) {
        if (!land(writer, 0))
            writer->broken = block_write(writer, writer->buffer, writer->buffered, line);
        return;
    }
    char *buffer = block->bytes;
    *block = (struct block){.task.run = block_run,
                            .writer = writer,
                            .bytes = writer->buffer,
                            .length = writer->buffered,
                            .line = line};
    writer->buffer = buffer;
    struct block *before = &writer->blocks[(writer->sent - 1) % WRITER_BLOCKS];
    bool is_first = writer->sent++ == writer->landed;
    if (!is_first && !atomic_exchange(&before->after, block)) return;
    if (!is_first) block->error = before->error;
    pool_submit(&block->task);
}

/* Empties the buffer. A line that has begun in it is torn then. */
static int flush(struct writer *writer) {
    flush_ahead(writer);
    writer->torn = writer->torn || writer->line < writer->buffered;
    writer->buffered = writer->line = 0;
    return writer->broken;
}

size_t writer_room(struct writer *writer, size_t least) {
    if (JSONL_BLOCK - writer->buffered < least) flush(writer);
    return writer->broken ? 0 : JSONL_BLOCK - writer->buffered;
}

int writer_emit(struct writer *writer, const char *bytes, size_t length) {
    while (length > 0 && !writer->broken) {
        size_t room = writer_room(writer, 1);
        if (room > length) room = length;
        memcpy(writer->buffer + writer->buffered, bytes, room);
        writer->buffered += room;
        bytes += room;
        length -= room;
    }
    return writer->broken;
}

/* The unfinished line goes again; the file ends with the last whole one. */
static void take_back(struct writer *writer) {
    if (!writer->torn) {
        writer->buffered = writer->line;
        return;
    }
    if (land(writer, 0)) return;
    writer->buffered = writer->line = 0;
    writer->torn = false;
    writer->digest = writer->digest_line;
    if (ftruncate(writer->fd, (off_t)writer->bytes) != 0 ||
        lseek(writer->fd, (off_t)writer->bytes, SEEK_SET) < 0)
        writer->broken = errno;
}

/* ---- the writer ---- */

static const char composing[] = "the writer is composing a line";

/* Stands in for an image in the composed text; see json_foreign. */
static bool insert_image(lua_State *L, int index, struct json_out *out, void *context) {
    struct writer *writer = context;
    struct image *image = jsonl_test_image(L, index);
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

static int close_writer(lua_State *L) {
    struct writer *writer = luaL_checkudata(L, 1, WRITER);
    luaL_argcheck(L, !writer->is_composing, 1, composing);
    land(writer, 0);
    if (writer->fd >= 0) {
        close(writer->fd);
        unlink(writer->part);
    }
    writer->fd = -1;
    free(writer->buffer);
    free(writer->text.data);
    free(writer->inserts);
    for (int i = 0; i < WRITER_BLOCKS; i++) {
        free(writer->blocks[i].bytes);
        writer->blocks[i].bytes = NULL;
    }
    writer->buffer = NULL;
    writer->text = (struct json_out){0};
    writer->inserts = NULL;
    return 0;
}

/* create(path [, { max_lines =, max_bytes =, sha256 = true or fingerprint = true }]) -> writer.
 * Without a limit there is none. sha256: commit() tells that of the file, and images know theirs;
 * fingerprint: commit() tells what the file can be known by again, which is had sooner. */
int jsonl_create(lua_State *L) {
    const char *path = obatch_check_path(L, 1);
    size_t length = strlen(path);
    lua_Integer max_lines = LUA_MAXINTEGER, max_bytes = LUA_MAXINTEGER;
    enum digest_kind kind = DIGEST_NONE;
    if (!lua_isnoneornil(L, 2)) {
        static const char *const known[] = {"fingerprint", "max_bytes", "max_lines", "sha256",
                                            NULL};
        options_check(L, 2, known);
        max_lines = options_integer(L, 2, "max_lines", max_lines, 1, LUA_MAXINTEGER);
        max_bytes = options_integer(L, 2, "max_bytes", max_bytes, 1, LUA_MAXINTEGER);
        if (options_boolean(L, 2, "fingerprint", false)) kind = DIGEST_FINGERPRINT;
        if (options_boolean(L, 2, "sha256", false)) kind = DIGEST_SHA256;
    }
    size_t room = (length + 1) + (length + OS_PART_ROOM);
    struct writer *writer = lua_newuserdatauv(L, sizeof *writer + room, 0);
    *writer = (struct writer){.fd = -1, .max_lines = max_lines, .max_bytes = max_bytes};
    memcpy(writer->path, path, length + 1);
    writer->part = writer->path + length + 1;
    os_part_name(path, writer->part);
    luaL_setmetatable(L, WRITER);

    writer->buffer = malloc(JSONL_BLOCK);
    digest_init(&writer->digest, kind);
    if (!writer->buffer) return luaL_error(L, "not enough memory");
    int error = os_create(writer->part, &writer->fd);
    return error ? obatch_fail_errno(L, writer->part, error) : 1;
}

struct writer *jsonl_check_writer(lua_State *L, int arg) {
    struct writer *writer = luaL_checkudata(L, arg, WRITER);
    luaL_argcheck(L, writer->fd >= 0, arg, "the writer is closed");
    luaL_argcheck(L, !writer->is_composing, arg, composing);
    return writer;
}

int writer_refuse(lua_State *L, const struct writer *writer, lua_Integer lines, lua_Integer size) {
    if (writer->broken) return obatch_fail_errno(L, writer->part, writer->broken);
    if (size > writer->max_bytes) {
        lua_pushfstring(L, "%s: a line of %I bytes; a file may have %I", writer->path, size,
                        writer->max_bytes);
        return obatch_fail(L, "TOO_BIG", lua_tostring(L, -1));
    }
    if (lines > writer->max_lines - writer->lines || size > writer->max_bytes - writer->bytes) {
        lua_pushfstring(L, "%s is full: %I lines, %I bytes", writer->path, writer->lines,
                        writer->bytes);
        return obatch_fail(L, "FULL", lua_tostring(L, -1));
    }
    return 0;
}

int writer_done(lua_State *L, struct writer *writer, lua_Integer lines, lua_Integer size) {
    if (writer->broken) return obatch_fail_errno(L, writer->part, writer->broken);
    writer->lines += lines;
    writer->bytes += size;
    writer->line = writer->buffered;
    writer->torn = false;
    lua_pushboolean(L, 1);
    return 1;
}

/* raw(line) -> true | nil, message, "FULL" (a fresh file would take it), "TOO_BIG" (none would), or
 * an errno name. Errors of buffered bytes may come with a later line, or with commit. */
static int writer_raw(lua_State *L) {
    struct writer *writer = jsonl_check_writer(L, 1);
    size_t length;
    const char *line = luaL_checklstring(L, 2, &length);
    if (length > 0 && line[length - 1] == '\n') length--;
    luaL_argcheck(L, !memchr(line, '\n', length), 2, "more than one line");
    lua_Integer size = (lua_Integer)length + 1;
    int results = writer_refuse(L, writer, 1, size);
    if (results) return results;
    if (!writer_emit(writer, line, length)) writer_emit(writer, "\n", 1);
    return writer_done(L, writer, 1, size);
}

/* Bytes of another file, read straight into the buffer. 0 or the errno of reading; that of writing
 * is in writer->broken. */
static int emit_from(struct writer *writer, int fd, uint64_t offset, size_t length) {
    while (length > 0) {
        size_t room = writer_room(writer, 1);
        if (room == 0) return 0;
        if (room > length) room = length;
        ptrdiff_t n = lines_pread(fd, writer->buffer + writer->buffered, room, offset);
        if (n < 0) return errno;
        if ((size_t)n < room) return ESTALE;
        writer->buffered += room;
        offset += room;
        length -= room;
    }
    return 0;
}

/* copy(index, ordinal): the same with a line of a jsonl.index, whose bytes do not pass through Lua.
 * Also "CHANGED": the file is not what was indexed. */
static int writer_copy(lua_State *L) {
    struct writer *writer = jsonl_check_writer(L, 1);
    struct jsonl_span span;
    int error = jsonl_index_span(L, 2, 3, &span);
    lua_Integer size = (lua_Integer)span.length + 1;
    int results = error ? 0 : writer_refuse(L, writer, 1, size);
    if (results) return results;
    if (!error) error = emit_from(writer, span.fd, span.offset, span.length);
    if (!error) {
        writer_emit(writer, "\n", 1);
        return writer_done(L, writer, 1, size);
    }
    take_back(writer);
    if (error != ESTALE) return obatch_fail_errno(L, span.path, error);
    lua_pushfstring(L, "%s has changed since it was indexed", span.path);
    return obatch_fail(L, "CHANGED", lua_tostring(L, -1));
}

/* An image could not be read to its end: nil, message, CODE. */
static int refuse_image(lua_State *L, struct writer *writer, const struct image *image, int error) {
    take_back(writer);
    if (error != ESTALE) return obatch_fail_errno(L, image->path, error);
    lua_pushfstring(L, "%s has changed while it was used", image->path);
    return obatch_fail(L, "CHANGED", lua_tostring(L, -1));
}

/* Composes the text of the value at stack index 2. */
static int compose(lua_State *L) {
    struct writer *writer = lua_touserdata(L, 1);
    json_lua_encode(L, 2, &writer->text, insert_image, writer);
    return 0;
}

/* put(value): the same with the JSON text of a value, which may have images in it. "CHANGED" when
 * one is not what it was; the file then ends with the line before. */
static int writer_put(lua_State *L) {
    struct writer *writer = jsonl_check_writer(L, 1);
    struct json_out *text = &writer->text;
    luaL_checkany(L, 2);
    text->length = 0;
    writer->insert_count = 0;
    lua_settop(L, 2);
    lua_pushcfunction(L, compose);
    lua_pushvalue(L, 1);
    lua_pushvalue(L, 2);
    writer->is_composing = true; /* __pairs and finalizers run */
    int status = lua_pcall(L, 2, 0, 0);
    writer->is_composing = false;
    if (status != LUA_OK) return lua_error(L);
    lua_Integer size = (lua_Integer)text->length + 1;
    for (size_t i = 0; i < writer->insert_count; i++)
        size += ((lua_Integer)writer->inserts[i].image->status.st_size + 2) / 3 * 4;
    int results = writer_refuse(L, writer, 1, size);
    if (results) return results;

    size_t done = 0;
    for (size_t i = 0; i < writer->insert_count && !writer->broken; i++) {
        struct insert *insert = &writer->inserts[i];
        writer_emit(writer, text->data + done, insert->at - done);
        done = insert->at;
        int error = writer->broken ? 0 : writer_emit_image(writer, insert);
        if (error && !writer->broken) return refuse_image(L, writer, insert->image, error);
    }
    if (!writer_emit(writer, text->data + done, text->length - done)) writer_emit(writer, "\n", 1);
    for (size_t i = 0; i < writer->insert_count && writer_hashes(writer) && !writer->broken; i++) {
        struct image *image = writer->inserts[i].image;
        image->hashed = true;
        memcpy(image->sha256, writer->inserts[i].sha256, sizeof image->sha256);
    }
    return writer_done(L, writer, 1, size);
}

/* What is left in the buffer, here: a small file is not worth a thread. */
static int finish(struct writer *writer) {
    if (!land(writer, 0))
        writer->broken = block_write(writer, writer->buffer, writer->buffered, writer->buffered);
    writer->buffered = writer->line = 0;
    if (!writer->broken && fsync(writer->fd) != 0) writer->broken = errno;
    return writer->broken;
}

/* commit() -> { lines =, bytes =, sha256 or fingerprint = hex }; the file has its name, durably. */
static int writer_commit(lua_State *L) {
    struct writer *writer = jsonl_check_writer(L, 1);
    int error = finish(writer);
    if (!error && rename(writer->part, writer->path) != 0) error = errno;
    if (error) return obatch_fail_errno(L, writer->path, error);
    close(writer->fd);
    writer->fd = -1;
    error = os_sync_parent(writer->path);

    unsigned char digest[DIGEST_LENGTH];
    enum digest_kind kind = writer->digest.kind;
    size_t size = digest_finish(&writer->digest, digest);
    close_writer(L);
    if (error) return obatch_fail_errno(L, writer->path, error);
    lua_createtable(L, 0, 3);
    lua_pushinteger(L, writer->lines);
    lua_setfield(L, -2, "lines");
    lua_pushinteger(L, writer->bytes);
    lua_setfield(L, -2, "bytes");
    if (size > 0) {
        obatch_push_hex(L, digest, size);
        lua_setfield(L, -2, kind == DIGEST_SHA256 ? "sha256" : "fingerprint");
    }
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

void jsonl_open_writer(lua_State *L) {
    luaL_newmetatable(L, WRITER);
    luaL_setfuncs(L, methods, 0);
    lua_pushvalue(L, -1);
    lua_pushcclosure(L, writer_get, 1);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
}
