/* jsonl.image: images that go into the lines of a JSONL file without passing through Lua. */
#include "jsonl.h"
#include "jsonl_writer.h"
#include "obatch.h"
#include "simd.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define IMAGE "obatch.jsonl.image"

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

/* The image that was looked at last stays open: it is usually the next to be written. */
static struct {
    const struct image *image; /* NULL: none */
    int fd;
} latest;

static void keep_open(const struct image *image, int fd) {
    if (latest.image) close(latest.fd);
    latest.image = image;
    latest.fd = fd;
}

static int image_gc(lua_State *L) {
    if (latest.image == luaL_checkudata(L, 1, IMAGE)) keep_open(NULL, -1);
    return 0;
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
    image->mime = error ? NULL : image_mime(head, (size_t)n);
    if (image->mime) {
        keep_open(image, fd);
    } else if (fd >= 0) {
        close(fd);
    }
    if (error) return obatch_fail_errno(L, path, error);
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

/* image:sha256() -> 64 hex digits of the bytes that the last successful put() of a writer with that
 * option wrote; nil before */
static int image_sha256(lua_State *L) {
    const struct image *image = luaL_checkudata(L, 1, IMAGE);
    if (image->hashed) {
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

/* The bytes of an open image, encoded straight into the writer's buffer; not more of them than
 * there were. */
static int emit_base64(struct writer *writer, int fd, uint64_t size, struct digest *sha) {
    enum { STEP = 3 * 16384, LEAST = 3 * 1024 };
    unsigned char bytes[STEP];
    for (uint64_t done = 0; done < size;) {
        size_t room = writer_room(writer, LEAST / 3 * 4) / 4 * 3;
        if (room == 0) return writer->broken;
        if (room > STEP) room = STEP;
        if (room > size - done) room = (size_t)(size - done);
        ptrdiff_t n = lines_pread(fd, (char *)bytes, room, done);
        if (n < 0) return errno;
        if (n == 0) return ESTALE;
        done += (uint64_t)n;
        digest_update(sha, bytes, (size_t)n);
        writer->buffered += simd_base64(writer->buffer + writer->buffered, bytes, (size_t)n);
    }
    return 0;
}

/* Opens it again, if it is still the same; 0 or an errno. */
static int reopen(const struct image *image) {
    struct stat now;
    int fd = open(image->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return errno;
    int error = fstat(fd, &now) != 0 ? errno : is_same(image, &now) ? 0 : ESTALE;
    if (error) {
        close(fd);
    } else {
        keep_open(image, fd);
    }
    return error;
}

/* It is looked at again afterwards, by its name, which may meanwhile have been given to another
 * file. */
int writer_emit_image(struct writer *writer, struct insert *insert) {
    const struct image *image = insert->image;
    struct stat now;
    struct digest sha;
    digest_init(&sha, writer_hashes(writer) ? DIGEST_SHA256 : DIGEST_NONE);
    int error = latest.image == image ? 0 : reopen(image);
    if (error) return error;
    error = emit_base64(writer, latest.fd, (uint64_t)image->status.st_size, &sha);
    keep_open(NULL, -1);
    if (error) return error;
    if (stat(image->path, &now) != 0) return errno;
    if (!is_same(image, &now)) return ESTALE;
    digest_finish(&sha, insert->sha256);
    return 0;
}

struct image *jsonl_test_image(lua_State *L, int index) {
    return luaL_testudata(L, index, IMAGE);
}

static const luaL_Reg methods[] = {
    {"bytes", image_bytes},     {"mime", image_type}, {"sha256", image_sha256},
    {"__tostring", name_image}, {"__gc", image_gc},   {NULL, NULL},
};

void jsonl_open_image(lua_State *L) {
    luaL_newmetatable(L, IMAGE);
    luaL_setfuncs(L, methods, 0);
    lua_pushvalue(L, -1);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
}
