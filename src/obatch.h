/* What the Lua bindings of the host share: their openers, the stop flag, and the one way to say
 * that something in the world failed.
 *
 * A failure of the world returns nil, message, CODE to Lua, where CODE is an errno name or a word
 * such as "TIMEOUT" or "INTERRUPTED". Misuse (a wrong argument) raises instead. */
#ifndef OBATCH_H
#define OBATCH_H

#include <errno.h>
#include <signal.h>
#include <string.h>

#include <lauxlib.h>
#include <lua.h>

int luaopen_obatch_fs(lua_State *L);
int luaopen_obatch_json(lua_State *L);
int luaopen_obatch_jsonl(lua_State *L);
int luaopen_obatch_term(lua_State *L);

/* Those of the modules that are files of their own, in which nothing else is visible. What they use
 * of the host is in exports.txt. */
#define OBATCH_VISIBLE __attribute__((visibility("default")))
OBATCH_VISIBLE int luaopen_obatch_editor(lua_State *L);
OBATCH_VISIBLE int luaopen_obatch_http(lua_State *L);
OBATCH_VISIBLE int luaopen_obatch_httpd(lua_State *L);

/* The number of the first SIGINT, SIGTERM or SIGHUP, 0 before; cleared only by term.resume().
 * Everything that blocks watches it and returns nil, "interrupted", "INTERRUPTED". Signals are
 * delivered with SA_RESTART off, so that a blocking system call ends with EINTR. */
extern volatile sig_atomic_t obatch_interrupted;

/* nil, message, code. */
static inline int obatch_fail(lua_State *L, const char *code, const char *message) {
    lua_pushnil(L);
    lua_pushstring(L, message);
    lua_pushstring(L, code);
    return 3;
}

static inline int obatch_fail_interrupted(lua_State *L) {
    return obatch_fail(L, "INTERRUPTED", "interrupted");
}

/* nil, "<what>: <system's words>", "<ERRNO NAME>"; EINTR after a request to stop is that request.
 * errno is an argument because anything called in between may change it. */
static inline int obatch_fail_errno(lua_State *L, const char *what, int error) {
    if (error == EINTR && obatch_interrupted) return obatch_fail_interrupted(L);
    const char *name = strerrorname_np(error);
    lua_pushnil(L);
    lua_pushfstring(L, "%s: %s", what, strerror(error));
    lua_pushstring(L, name ? name : "EUNKNOWN");
    return 3;
}

/* Pushes bytes as twice as many hex digits. */
static inline void obatch_push_hex(lua_State *L, const unsigned char *bytes, size_t length) {
    static const char digits[] = "0123456789abcdef";
    luaL_Buffer text;
    char *out = luaL_buffinitsize(L, &text, length * 2);
    for (size_t i = 0; i < length; i++) {
        *out++ = digits[bytes[i] >> 4];
        *out++ = digits[bytes[i] & 15];
    }
    luaL_pushresultsize(&text, length * 2);
}

/* The argument, which must be a string that can name a file: what follows a NUL byte would silently
 * be left out, and another file would be meant. */
static inline const char *obatch_check_path(lua_State *L, int arg) {
    size_t length;
    const char *path = luaL_checklstring(L, arg, &length);
    luaL_argcheck(L, strlen(path) == length, arg, "a path cannot contain a NUL byte");
    return path;
}

#endif
