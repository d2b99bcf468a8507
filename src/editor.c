/* Line editing with libedit: what term.editor() gives. A module of its own, loaded when an editor
 * is first made, for no other command needs libedit. */
#include "obatch.h"
#include "options.h"
#include "os.h"
#include "term.h"

#include <fcntl.h>
#include <langinfo.h>
#include <limits.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>
#include <wchar.h>

#include <histedit.h>

#define EDITOR_TYPE "obatch.term.editor"
#define HISTORY_ENTRIES 1000
#define FOREVER 1e18
#define CONTROL_D 4

/* Whether the program goes on after Ctrl-Z and fg, which an editor has to know. */
static volatile sig_atomic_t continued;

static void on_continue(int number) {
    (void)number;
    continued = 1;
}

struct editor {
    EditLine *edit;   /* NULL without a terminal: lines are read plainly then */
    History *history; /* of the entries; NULL when closed */
    char *line;       /* what line() gives */
    size_t room;
    char *history_path; /* NULL: not kept */
    const char *prompt; /* belongs to Lua: the user value of the editor keeps it */
    bool marks;         /* the terminal obeys escape sequences: see ask_for_paste_marks */
    bool editing;       /* a line has been begun and not ended */
    bool pasting;       /* between the marks of what is pasted */
    bool stopped;       /* Ctrl-C */
    bool ended;         /* end of input, or Ctrl-C, or the terminal broke */
    bool asked;         /* libedit has asked for a key */
    bool tab;           /* Tab was pressed, and Lua has been asked what to do */
    bool redraw;        /* Lua has answered: the next key is ours */
    size_t before;      /* when Tab was pressed: characters before the cursor, */
    int behind;         /* and behind it */
};

/* Terminals that know it put what is pasted between two marks: so it is never taken for keys. */
static void ask_for_paste_marks(const struct editor *editor, bool on) {
    if (!editor->marks) return;
    fputs(on ? "\033[?2004h" : "\033[?2004l", stdout);
    fflush(stdout);
}

/* The shell in between has set the terminal as it likes it: sets it for editing, and shows the
 * line again. */
static void go_on_after_stop(struct editor *editor) {
    continued = 0;
    if (!editor->edit || !editor->editing) return;
    el_set(editor->edit, EL_PREP_TERM, 0);
    el_set(editor->edit, EL_PREP_TERM, 1);
    ask_for_paste_marks(editor, true);
    el_set(editor->edit, EL_REFRESH);
}

/* One byte from the keyboard: 1, or 0 at the end of input, or -1 when stopped or broken. Byte by
 * byte, so that what follows is left for a program that the session may start. */
static int read_byte(struct editor *editor, char *byte) {
    for (;;) {
        enum wake wake = term_wait(STDIN_FILENO, FOREVER, &continued);
        if (wake == STOP) {
            editor->stopped = true;
            return -1;
        }
        if (wake == FLAGGED) {
            go_on_after_stop(editor);
            continue;
        }
        ssize_t n = read(STDIN_FILENO, byte, 1);
        if (n >= 0) return (int)n;
        if (errno != EINTR && errno != EAGAIN) return -1;
    }
}

static struct editor *editor_of(EditLine *edit) {
    struct editor *editor = NULL;
    el_get(edit, EL_CLIENTDATA, &editor);
    return editor;
}

/* libedit's own reader retries when a signal comes; this one stops. Never touches Lua. */
static int read_character(EditLine *edit, wchar_t *character) {
    struct editor *editor = editor_of(edit);
    editor->asked = true;
    if (editor->redraw) {
        *character = L'\t';
        return 1;
    }
    mbstate_t state = {0};
    for (;;) {
        char byte;
        int n = read_byte(editor, &byte);
        editor->ended = n <= 0;
        if (n <= 0) return n;
        size_t length = mbrtowc(character, &byte, 1, &state);
        if (length == (size_t)-2) continue;
        if (length == (size_t)-1) *character = L'?';
        /* what the line starts gets the terminal as it was */
        if (!editor->pasting && (byte == '\r' || byte == '\n')) ask_for_paste_marks(editor, false);
        return 1;
    }
}

static char *give_prompt(EditLine *edit) {
    return (char *)editor_of(edit)->prompt;
}

/* Tab. What to do is for Lua to say, which no callback may touch: el_gets() returns after every
 * key, so this one only notes where the cursor is. It goes to the end of the line, where a list can
 * be shown below all of it. Called again when Lua has answered, by a key that read_character()
 * makes up, it lets libedit draw what has become of the line. */
static unsigned char on_tab(EditLine *edit, wint_t key) {
    (void)key;
    struct editor *editor = editor_of(edit);
    if (editor->redraw) {
        editor->redraw = false;
        return CC_REFRESH;
    }
    const LineInfoW *line = el_wline(edit);
    editor->before = (size_t)(line->cursor - line->buffer);
    editor->behind = (int)(line->lastchar - line->cursor);
    el_cursor(edit, editor->behind);
    editor->tab = true;
    return CC_CURSOR;
}

/* What is pasted becomes text of the line, its newlines too; those at its end and control
 * characters do not. */
static unsigned char on_paste(EditLine *edit, wint_t key) {
    (void)key;
    static const wchar_t end[] = L"\033[201~";
    struct editor *editor = editor_of(edit);
    editor->pasting = true;
    size_t matched = 0;
    int newlines = 0;
    wchar_t next[2] = {0}, last = 0;
    while (end[matched] && el_wgetc(edit, next) == 1) {
        if (*next == end[matched]) {
            matched++;
            continue;
        }
        matched = *next == end[0];
        if (*next == L'\r' || (*next == L'\n' && last != L'\r')) newlines++;
        last = *next;
        if (*next != L'\t' && (*next < L' ' || *next == 0x7f)) continue;
        for (; newlines > 0; newlines--) el_winsertstr(edit, L"\n");
        el_winsertstr(edit, next);
    }
    editor->pasting = false;
    return CC_REFRESH;
}

static int editor_gc(lua_State *L) {
    struct editor *editor = luaL_checkudata(L, 1, EDITOR_TYPE);
    if (editor->editing) ask_for_paste_marks(editor, false);
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

/* Puts characters into editor->line, and gives how many bytes they are; -1: no memory. (libedit's
 * own conversion ends at a NUL, which a line can have, and says otherwise.) */
static int encode(struct editor *editor, const wchar_t *from, size_t count) {
    if (editor->room < (count + 1) * MB_LEN_MAX) {
        char *line = realloc(editor->line, (count + 1) * MB_LEN_MAX);
        if (!line) return -1;
        editor->line = line;
        editor->room = (count + 1) * MB_LEN_MAX;
    }
    size_t length = 0;
    for (size_t i = 0; i < count; i++) {
        mbstate_t state = {0};
        size_t n = wcrtomb(editor->line + length, from[i], &state);
        if (n != (size_t)-1)
            length += n;
        else
            editor->line[length++] = '?';
    }
    return (int)length;
}

/* libedit reads no key when it cannot set the terminal, because that is gone. */
static bool terminal_is_gone(void) {
    struct termios mode;
    return tcgetattr(STDIN_FILENO, &mode) != 0 || tcsetattr(STDIN_FILENO, TCSANOW, &mode) != 0;
}

/* Goes on with the line, or begins one. Gives its length with the newline, in editor->line; 0 when
 * Tab was pressed; -1 when there is no line. */
static int read_edited(struct editor *editor) {
    EditLine *edit = editor->edit;
    if (editor->tab) {
        el_cursor(edit, -editor->behind);
        editor->tab = false;
        editor->redraw = true;
    }
    if (!editor->editing) {
        el_set(edit, EL_UNBUFFERED,
               1); /* begins a line, and el_gets() returns after each key of it */
        ask_for_paste_marks(editor, true);
    }
    editor->editing = true;
    const wchar_t *line;
    int length;
    do {
        editor->asked = false;
        line = el_wgets(edit, &length);
        if (editor->tab) return 0;
        if (!line) length = 0;
        if (!line && !editor->asked && terminal_is_gone()) editor->ended = true;
        if (editor->ended || (length == 1 && *line == CONTROL_D)) length = -1;
    } while (length == 0 || (length > 0 && line[length - 1] != L'\n'));
    length = length < 0 ? -1 : encode(editor, line, (size_t)length);
    if (length < 0) ask_for_paste_marks(editor, false);
    el_set(edit, EL_UNBUFFERED, 0);
    editor->editing = false;
    return length;
}

/* editor:line(prompt) -> text without its newline | nil at the end of input | nil, "interrupted",
 * "INTERRUPTED" | nil, text before the cursor, "TAB": when Tab was pressed; the next call of line
 * goes on with the same line, in which insert() and list() have their effect. */
static int editor_line(lua_State *L) {
    struct editor *editor = check_editor(L);
    editor->prompt = luaL_checkstring(L, 2);
    lua_pushvalue(L, 2);
    lua_setiuservalue(L, 1, 1);
    editor->stopped = editor->ended = false;
    int length = editor->edit ? read_edited(editor) : read_plain(editor);
    if (editor->tab) {
        length = encode(editor, el_wline(editor->edit)->buffer, editor->before);
        if (length < 0) return luaL_error(L, "not enough memory");
        lua_pushnil(L);
        lua_pushlstring(L, editor->line, (size_t)length);
        lua_pushliteral(L, "TAB");
        return 3;
    }
    if (editor->stopped) return obatch_fail_interrupted(L);
    if (length < 0) {
        lua_pushnil(L);
        return 1;
    }
    if (length > 0 && editor->line[length - 1] == '\n') length--;
    lua_pushlstring(L, editor->line, (size_t)length);
    return 1;
}

/* editor:insert(text): into the line that is being edited, where the cursor was when Tab was
 * pressed. */
static int editor_insert(lua_State *L) {
    struct editor *editor = check_editor(L);
    const char *text = luaL_checkstring(L, 2);
    luaL_argcheck(L, editor->tab, 1, "Tab was not pressed");
    el_cursor(editor->edit, -editor->behind);
    el_insertstr(editor->edit, text);
    el_cursor(editor->edit, editor->behind);
    return 0;
}

/* editor:list(text): shows lines below the line that is being edited, and the line again below
 * them. */
static int editor_list(lua_State *L) {
    struct editor *editor = check_editor(L);
    const char *text = luaL_checkstring(L, 2);
    luaL_argcheck(L, editor->tab, 1, "Tab was not pressed");
    fprintf(stdout, "\n%s\n", text); /* libedit leaves the terminal to end lines properly */
    el_set(editor->edit, EL_REFRESH);
    return 0;
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
static int editor_new(lua_State *L) {
    const char *path = NULL;
    if (!lua_isnoneornil(L, 1)) {
        static const char *const known[] = {"history", NULL};
        options_check(L, 1, known);
        path = options_string(L, 1, "history");
    }
    struct editor *editor = lua_newuserdatauv(L, sizeof *editor, 1);
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

    /* where nobody has chosen a locale, a terminal shows UTF-8 all the same */
    if (strcmp(nl_langinfo(CODESET), "ANSI_X3.4-1968") == 0) setlocale(LC_CTYPE, "C.UTF-8");
    editor->edit = el_init("obatch", stdin, stdout, stderr);
    if (!editor->edit) return luaL_error(L, "not enough memory");
    struct sigaction action = {.sa_handler = on_continue, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGCONT, &action, NULL);
    const char *terminal = getenv("TERM");
    editor->marks = terminal && *terminal && strcmp(terminal, "dumb") != 0;
    el_set(editor->edit, EL_CLIENTDATA, editor);
    el_set(editor->edit, EL_GETCFN, read_character);
    el_set(editor->edit, EL_PROMPT, give_prompt);
    el_set(editor->edit, EL_EDITOR, "emacs");
    el_set(editor->edit, EL_HIST, history, editor->history);
    el_set(editor->edit, EL_BIND, "^R", "em-inc-search-prev", NULL);
    /* by the wide name of the call: libedit never frees the copies that the other one makes */
    el_wset(editor->edit, EL_ADDFN, L"obatch-complete", L"Completes a name", on_tab);
    el_wset(editor->edit, EL_ADDFN, L"obatch-paste", L"Takes what is pasted", on_paste);
    el_source(editor->edit, NULL); /* the user's ~/.editrc; "bind -v" in it forgets all keys */
    el_set(editor->edit, EL_BIND, "^I", "obatch-complete", NULL);
    /* in vi's keys Escape is a key of its own, and cannot begin a mark */
    const char *keys = NULL;
    if (el_get(editor->edit, EL_EDITOR, &keys) == 0 && keys && strcmp(keys, "vi") == 0)
        editor->marks = false;
    if (editor->marks) el_set(editor->edit, EL_BIND, "\\e[200~", "obatch-paste", NULL);
    return 1;
}

/* The module is the function. */
int luaopen_obatch_editor(lua_State *L) {
    static const luaL_Reg methods[] = {{"add", editor_add},       {"close", editor_close},
                                       {"insert", editor_insert}, {"line", editor_line},
                                       {"list", editor_list},     {"__gc", editor_gc},
                                       {"__close", editor_gc},    {NULL, NULL}};
    luaL_newmetatable(L, EDITOR_TYPE);
    luaL_setfuncs(L, methods, 0);
    lua_pushvalue(L, -1);
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, editor_new);
    return 1;
}
