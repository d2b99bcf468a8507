/* obatch.term: the terminal, the clock and the environment. Whatever waits here wakes up at once
 * when a stop is asked for (see obatch_interrupted). */
#include "obatch.h"
#include "options.h"
#include "os.h"

#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>
#include <wchar.h>

#include <histedit.h>

#define EDITOR_TYPE "obatch.term.editor"
#define HISTORY_ENTRIES 1000
#define FOREVER 1e18

/* ---- time ---- */

enum wake { TIME_UP, READABLE, STOP };

/* Waits until fd (-1: none) can be read, the monotonic clock says deadline, or a stop is asked for.
 * The slices are for a signal that the kernel gives to another thread (libcurl's resolver). */
static enum wake wait_for(int fd, double deadline) {
    sigset_t before;
    os_block_stops(&before);
    enum wake wake = STOP;
    while (!obatch_interrupted) {
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
    if (wait_for(-1, os_clock() + seconds) == STOP) return obatch_fail_interrupted(L);
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

/* ---- line editing ---- */

struct editor {
    EditLine *edit;   /* NULL without a terminal: lines are read plainly then */
    History *history; /* of the entries; NULL when closed */
    char *line;       /* without a terminal: the line being read */
    size_t room;
    char *history_path; /* NULL: not kept */
    const char *prompt; /* belongs to Lua, valid while a line is read */
    bool stopped;
};

/* One byte from the keyboard: 1, or 0 at the end of input, or -1 when stopped or broken. Byte by
 * byte, so that what follows is left for a program that the session may start. */
static int read_byte(struct editor *editor, char *byte) {
    for (;;) {
        if (wait_for(STDIN_FILENO, FOREVER) == STOP) {
            editor->stopped = true;
            return -1;
        }
        ssize_t n = read(STDIN_FILENO, byte, 1);
        if (n >= 0) return (int)n;
        if (errno != EINTR && errno != EAGAIN) return -1;
    }
}

/* libedit's own reader retries when a signal comes; this one stops. Never touches Lua. */
static int read_character(EditLine *edit, wchar_t *character) {
    struct editor *editor = NULL;
    el_get(edit, EL_CLIENTDATA, &editor);
    mbstate_t state = {0};
    for (;;) {
        char byte;
        int n = read_byte(editor, &byte);
        if (n <= 0) return n;
        size_t length = mbrtowc(character, &byte, 1, &state);
        if (length == (size_t)-2) continue;
        if (length == (size_t)-1) *character = L'?';
        return 1;
    }
}

static char *give_prompt(EditLine *edit) {
    struct editor *editor = NULL;
    el_get(edit, EL_CLIENTDATA, &editor);
    return (char *)editor->prompt;
}

static int editor_gc(lua_State *L) {
    struct editor *editor = luaL_checkudata(L, 1, EDITOR_TYPE);
    if (editor->edit) el_end(editor->edit);
    if (editor->history) history_end(editor->history);
    free(editor->line);
    free(editor->history_path);
    *editor = (struct editor){0};
    return 0;
}

static int editor_close(lua_State *L) {
    editor_gc(L);
    lua_pushboolean(L, 1);
    return 1;
}

static struct editor *check_editor(lua_State *L) {
    struct editor *editor = luaL_checkudata(L, 1, EDITOR_TYPE);
    luaL_argcheck(L, editor->history, 1, "closed");
    return editor;
}

/* Without a terminal: nothing is shown. Gives the length, or -1 when there is no line. */
static int read_plain(struct editor *editor) {
    size_t length = 0;
    for (;;) {
        if (length == editor->room) {
            size_t room = editor->room * 2 + 256;
            char *line = realloc(editor->line, room);
            if (!line) return -1;
            editor->line = line;
            editor->room = room;
        }
        int n = read_byte(editor, editor->line + length);
        if (n < 0 || (n == 0 && length == 0)) return -1;
        if (n == 0 || editor->line[length] == '\n') return (int)length;
        length++;
    }
}

/* editor:line(prompt) -> text without its newline | nil at the end of input | nil, "interrupted",
 * "INTERRUPTED" */
static int editor_line(lua_State *L) {
    struct editor *editor = check_editor(L);
    editor->prompt = luaL_checkstring(L, 2);
    editor->stopped = false;
    const char *line;
    int length;
    if (editor->edit) {
        el_resize(editor->edit); /* the window may have changed since the last line */
        line = el_gets(editor->edit, &length);
        if (!line) length = -1;
    } else {
        length = read_plain(editor);
        line = editor->line;
    }
    if (editor->stopped) return obatch_fail_interrupted(L);
    if (length < 0 || (editor->edit && length == 0)) {
        lua_pushnil(L);
        return 1;
    }
    if (length > 0 && line[length - 1] == '\n') length--;
    lua_pushlstring(L, line, (size_t)length);
    return 1;
}

/* The history file has one entry per line, oldest first, with \\ for a backslash and \n for a
 * newline. (libedit's own H_NSAVE_FP writes one entry too many, and H_SAVE forgets what another
 * session has added.) */
static int save_entry(const char *path, const char *text) {
    char *line = malloc(2 * strlen(text) + 1);
    if (!line) return ENOMEM;
    size_t length = 0;
    for (; *text; text++) {
        char byte = *text;
        if (byte == '\\' || byte == '\n') line[length++] = '\\';
        if (byte == '\n') byte = 'n';
        line[length++] = byte;
    }
    line[length++] = '\n';
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    int error = fd < 0 ? errno : os_write_all(fd, line, length);
    if (fd >= 0) close(fd);
    free(line);
    return error;
}

static void load_entries(History *entries, const char *path) {
    FILE *file = fopen(path, "re");
    if (!file) return;
    char *line = NULL;
    size_t room = 0;
    HistEvent event;
    while (getline(&line, &room, file) > 0) {
        char *end = line;
        for (const char *from = line; *from && *from != '\n'; from++) {
            char byte = *from;
            if (byte == '\\' && from[1] && from[1] != '\n') {
                byte = *++from;
                if (byte == 'n') byte = '\n';
            }
            *end++ = byte;
        }
        *end = '\0';
        history(entries, &event, H_ENTER, line);
    }
    free(line);
    fclose(file);
}

/* editor:add(text) -> true | nil, message, CODE. Remembers a line, here and in the history file. */
static int editor_add(lua_State *L) {
    struct editor *editor = check_editor(L);
    const char *text = luaL_checkstring(L, 2);
    HistEvent event;
    history(editor->history, &event, H_ENTER, text);
    int error = editor->history_path ? save_entry(editor->history_path, text) : 0;
    if (error) {
        lua_pushfstring(L, "cannot write %s", editor->history_path);
        return obatch_fail_errno(L, lua_tostring(L, -1), error);
    }
    lua_pushboolean(L, 1);
    return 1;
}

/* term.editor{ history = path } -> editor with line(prompt), add(text), close(). The file (0600)
 * keeps what add() was given; one that cannot be read is an empty one. */
static int term_editor(lua_State *L) {
    const char *path = NULL;
    if (!lua_isnoneornil(L, 1)) {
        static const char *const known[] = {"history", NULL};
        options_check(L, 1, known);
        path = options_string(L, 1, "history");
    }
    struct editor *editor = lua_newuserdatauv(L, sizeof *editor, 0);
    *editor = (struct editor){0};
    luaL_setmetatable(L, EDITOR_TYPE);
    editor->history = history_init();
    if (path) editor->history_path = strdup(path);
    if (!editor->history || (path && !editor->history_path))
        return luaL_error(L, "not enough memory");

    HistEvent event;
    history(editor->history, &event, H_SETSIZE, HISTORY_ENTRIES);
    history(editor->history, &event, H_SETUNIQUE, 1);
    if (path) load_entries(editor->history, path);
    if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO)) return 1;

    editor->edit = el_init("obatch", stdin, stdout, stderr);
    if (!editor->edit) return luaL_error(L, "not enough memory");
    el_set(editor->edit, EL_CLIENTDATA, editor);
    el_set(editor->edit, EL_GETCFN, read_character);
    el_set(editor->edit, EL_PROMPT, give_prompt);
    el_set(editor->edit, EL_EDITOR, "emacs");
    el_set(editor->edit, EL_HIST, history, editor->history);
    el_set(editor->edit, EL_BIND, "^R", "em-inc-search-prev", NULL);
    el_source(editor->edit, NULL); /* the user's ~/.editrc */
    return 1;
}

int luaopen_obatch_term(lua_State *L) {
    static const luaL_Reg editor_methods[] = {{"add", editor_add},    {"close", editor_close},
                                              {"line", editor_line},  {"__gc", editor_gc},
                                              {"__close", editor_gc}, {NULL, NULL}};
    static const luaL_Reg functions[] = {
        {"clock", term_clock},
        {"editor", term_editor},
        {"interrupted", term_interrupted},
        {"isatty", term_isatty},
        {"resume", term_resume},
        {"size", term_size},
        {"sleep", term_sleep},
        {"take_env", term_take_env},
        {"time", term_time},
        {NULL, NULL},
    };
    luaL_newmetatable(L, EDITOR_TYPE);
    luaL_setfuncs(L, editor_methods, 0);
    lua_pushvalue(L, -1);
    lua_setfield(L, -2, "__index");
    luaL_newlib(L, functions);
    return 1;
}
