/* obatch.term: the terminal, the clock and the environment. Whatever waits here wakes up at once
 * when a stop is asked for (see obatch_interrupted). */
#include "term.h"
#include "obatch.h"
#include "os.h"

#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define SESSION_TYPE "obatch.term.session"

/* ---- time ---- */

/* The slices are for a signal that the kernel gives to another thread (libcurl's resolver), or that
 * comes before the waiting. */
enum wake term_wait(int fd, double deadline, const volatile sig_atomic_t *flag) {
    sigset_t before;
    os_block_stops(&before);
    enum wake wake = STOP;
    while (!obatch_interrupted) {
        wake = FLAGGED;
        if (flag && *flag) break;
        double left = deadline - os_clock();
        wake = TIME_UP;
        if (left <= 0) break;
        struct timespec slice = {.tv_sec = 1};
        if (left < 1) slice = (struct timespec){.tv_nsec = (long)(left * 1e9)};
        struct pollfd input = {.fd = fd, .events = POLLIN};
        int n = ppoll(&input, fd >= 0, &slice, &before);
        wake = READABLE;
        if (n > 0) break;
        wake = STOP;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return wake;
}

/* term.sleep(seconds) -> true | nil, "interrupted", "INTERRUPTED" */
static int term_sleep(lua_State *L) {
    lua_Number seconds = luaL_checknumber(L, 1);
    luaL_argcheck(L, seconds == seconds, 1, "a number of seconds expected, got NaN");
    if (term_wait(-1, os_clock() + seconds, NULL) == STOP) return obatch_fail_interrupted(L);
    lua_pushboolean(L, 1);
    return 1;
}

/* term.clock() -> seconds that never jump, from an unknown start */
static int term_clock(lua_State *L) {
    lua_pushnumber(L, os_clock());
    return 1;
}

/* term.time() -> seconds since 1970 */
static int term_time(lua_State *L) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    lua_pushnumber(L, (lua_Number)now.tv_sec + (lua_Number)now.tv_nsec / 1e9);
    return 1;
}

/* ---- being stopped ---- */

/* term.interrupted() -> whether a stop was asked for */
static int term_interrupted(lua_State *L) {
    lua_pushboolean(L, obatch_interrupted);
    return 1;
}

/* Lua instructions between Ctrl-C and the error that stops what runs in a session, and then between
 * that one and the next: what catches the first is stopped by another. */
enum { STOP_AFTER = 10000 };

static lua_State *volatile session_state; /* NULL outside a session */
static struct sigaction before_session;

static void stop_hook(lua_State *L, lua_Debug *record) {
    (void)record;
    luaL_error(L, "interrupted");
}

/* Unlike that of a script, a session's Ctrl-C never kills, however often it comes. */
static void on_session_stop(int number) {
    if (obatch_interrupted) return;
    obatch_interrupted = number;
    lua_State *L = session_state;
    if (L) lua_sethook(L, stop_hook, LUA_MASKCOUNT, STOP_AFTER);
}

static int session_close(lua_State *L) {
    bool *open = luaL_checkudata(L, 1, SESSION_TYPE);
    if (*open) {
        sigaction(SIGINT, &before_session, NULL);
        session_state = NULL;
    }
    *open = false;
    return 0;
}

/* term.session() -> something to close: from now on Ctrl-C stops what runs and never the program.
 * There can be one; a program that ignores Ctrl-C (nohup) still does. */
static int term_session(lua_State *L) {
    if (session_state) return luaL_error(L, "there is a session already");
    bool *open = lua_newuserdatauv(L, sizeof *open, 0);
    *open = false;
    luaL_setmetatable(L, SESSION_TYPE);
    sigaction(SIGINT, NULL, &before_session);
    if (before_session.sa_handler == SIG_IGN) return 1;
    lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
    session_state = lua_tothread(L, -1);
    lua_pop(L, 1);
    *open = true;
    struct sigaction action = {.sa_handler = on_session_stop};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    return 1;
}

/* term.resume() -> true: Ctrl-C stopped what ran, the session goes on and the next Ctrl-C stops
 * again. false: SIGTERM or SIGHUP came, which mean the session itself. For the REPL only. */
static int term_resume(lua_State *L) {
    bool stays = obatch_interrupted == 0 || obatch_interrupted == SIGINT;
    if (stays) {
        obatch_interrupted = 0;
        lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
        lua_sethook(lua_tothread(L, -1), NULL, 0, 0);
    }
    lua_pushboolean(L, stays);
    return 1;
}

/* ---- the environment ---- */

/* term.take_env(name) -> text | nil. For secrets: the variable is gone then, for the programs that
 * this one starts and from /proc/PID/environ, which shows the bytes that the process began with. */
static int term_take_env(lua_State *L) {
    const char *name = luaL_checkstring(L, 1);
    luaL_argcheck(L, *name && !strchr(name, '='), 1, "not the name of a variable");
    size_t length = strlen(name);
    lua_pushstring(L, getenv(name));
    for (char **entry = environ; entry && *entry; entry++) /* it may be there more than once */
        if (strncmp(*entry, name, length) == 0 && (*entry)[length] == '=')
            explicit_bzero(*entry + length + 1, strlen(*entry + length + 1));
    unsetenv(name);
    return 1;
}

/* ---- the terminal ---- */

/* term.isatty(fd) -> boolean */
static int term_isatty(lua_State *L) {
    lua_pushboolean(L, isatty((int)luaL_checkinteger(L, 1)));
    return 1;
}

/* term.size() -> columns, rows; 80, 24 when there is no terminal to ask */
static int term_size(lua_State *L) {
    struct winsize size = {0};
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO && size.ws_col == 0; fd++)
        if (ioctl(fd, TIOCGWINSZ, &size) != 0) size = (struct winsize){0};
    lua_pushinteger(L, size.ws_col ? size.ws_col : 80);
    lua_pushinteger(L, size.ws_row ? size.ws_row : 24);
    return 2;
}

/* term.editor{ history = path } -> editor; see editor.c. */
static int term_editor(lua_State *L) {
    lua_settop(L, 1);
    lua_getglobal(L, "require");
    lua_pushliteral(L, "obatch.editor");
    lua_call(L, 1, 1);
    lua_insert(L, 1);
    lua_call(L, 1, 1);
    return 1;
}

int luaopen_obatch_term(lua_State *L) {
    static const luaL_Reg session_methods[] = {{"close", session_close},
                                               {"__gc", session_close},
                                               {"__close", session_close},
                                               {NULL, NULL}};
    static const luaL_Reg functions[] = {
        {"clock", term_clock},
        {"editor", term_editor},
        {"interrupted", term_interrupted},
        {"isatty", term_isatty},
        {"resume", term_resume},
        {"session", term_session},
        {"size", term_size},
        {"sleep", term_sleep},
        {"take_env", term_take_env},
        {"time", term_time},
        {NULL, NULL},
    };
    luaL_newmetatable(L, SESSION_TYPE);
    luaL_setfuncs(L, session_methods, 0);
    lua_pushvalue(L, -1);
    lua_setfield(L, -2, "__index");
    luaL_newlib(L, functions);
    return 1;
}
