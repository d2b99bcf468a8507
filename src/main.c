/* obatch: a Lua state, its paths, its signals and an exit code. Everything else is Lua
 * (lua/obatch/cli.lua) or one of the modules: those in the table below, and those of module.c. */
#include "commit.h"
#include "heap.h"
#include "module.h"
#include "obatch.h"
#include "os.h"
#include "pool.h"
#include "simd.h"

#include <limits.h>
#include <locale.h>
#include <lualib.h>
#include <nettle/version.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

volatile sig_atomic_t obatch_interrupted = 0;

enum { EXIT_USAGE = 2 };

static lua_State *volatile main_state; /* NULL when it must not be touched any more */

static const luaL_Reg modules[] = {
    {"obatch.json", luaopen_obatch_json},
    {"obatch.jsonl", luaopen_obatch_jsonl},
    {"obatch.fs", luaopen_obatch_fs},
    {"obatch.term", luaopen_obatch_term},
    {NULL, NULL},
};

/* Lua instructions between the signal and stop_hook. What waits reports the stop itself, and a
 * script has so many to end well; this is for one that does not listen. */
enum { STOP_AFTER = 1000000 };

/* Runs between two Lua instructions, where raising is safe. Coroutines have hooks of their own and
 * are not stopped here: they stop at the next call that blocks, which sees obatch_interrupted. */
static void stop_hook(lua_State *L, lua_Debug *record) {
    (void)record;
    lua_sethook(L, NULL, 0, 0);
    luaL_error(L, "interrupted");
}

/* timeout(1) and closing terminals send the same signal twice in a row: within this many
 * milliseconds it is one request. */
enum { ONE_REQUEST = 100 };

/* The first signal asks for a clean stop, the next one kills. */
static void on_signal(int number) {
    static struct timespec first;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (obatch_interrupted) {
        long long passed =
            (now.tv_sec - first.tv_sec) * 1000LL + (now.tv_nsec - first.tv_nsec) / 1000000;
        if (passed < ONE_REQUEST) return;
        signal(number, SIG_DFL);
        raise(number); /* comes as soon as this handler returns */
        return;
    }
    first = now;
    obatch_interrupted = number;
    if (main_state) lua_sethook(main_state, stop_hook, LUA_MASKCOUNT, STOP_AFTER);
}

static void catch_signals(void) {
    struct sigaction action = {.sa_handler = on_signal};
    sigemptyset(&action.sa_mask);
    for (int i = 0; i < OS_STOPS; i++) {
        struct sigaction old;
        /* nohup and "&" in a shell script set these to "ignore", and mean it. */
        if (sigaction(os_stops[i], NULL, &old) == 0 && old.sa_handler == SIG_IGN) continue;
        sigaction(os_stops[i], &action, NULL);
    }
    signal(SIGPIPE, SIG_IGN); /* a closed pipe is an error of write(), never the end of a run */
}

/* A core dump would hold the API key. One byte is too little for any file, and unlike 0 it also
 * keeps the kernel from handing the dump to a program (core(5) and fs/coredump.c). */
static void forbid_core_dumps(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_CORE, &limit) != 0) return;
    limit.rlim_cur = limit.rlim_max < 1 ? limit.rlim_max : 1;
    setrlimit(RLIMIT_CORE, &limit);
}

/* A variable that is set to what cannot be meant. */
static bool complain(const char *name, const char *expected) {
    fprintf(stderr, "obatch: %s is \"%s\": set it to %s, or unset it\n", name, getenv(name),
            expected);
    return false;
}

/* What the environment says of how the work is done; false when it makes no sense. */
static bool take_variables(void) {
    char expected[128];
    if (!simd_choose(getenv("OBATCH_SIMD"))) {
        int n = snprintf(expected, sizeof expected, "what this machine has (%s", simd_name(0));
        for (int i = 1; simd_name(i); i++)
            n += snprintf(expected + n, sizeof expected - (size_t)n, ", %s", simd_name(i));
        snprintf(expected + n, sizeof expected - (size_t)n, ")");
        return complain("OBATCH_SIMD", expected);
    }
    snprintf(expected, sizeof expected, "a whole number from 1 to %d", POOL_THREADS);
    return pool_choose(getenv("OBATCH_THREADS")) || complain("OBATCH_THREADS", expected);
}

static bool is_home(const char *dir) {
    char file[PATH_MAX];
    int n = snprintf(file, sizeof file, "%s/lua/obatch/cli.lua", dir);
    return n > 0 && (size_t)n < sizeof file && access(file, R_OK) == 0;
}

/* What belongs to the program: `home` has lua/ and scripts/, `modules` the loaded ones. In a build
 * directory there is a file obatch.home beside the binary, which names the one, and the other is
 * beside it too; for an installed binary both have fixed places. $OBATCH_HOME changes the first. */
struct places {
    char home[PATH_MAX], modules[PATH_MAX];
};

static bool find_places(struct places *places) {
    char self[PATH_MAX] = ".", marker[PATH_MAX + 16], line[PATH_MAX] = "";
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    if (length > 0) {
        self[length] = '\0';
        *strrchr(self, '/') = '\0';
    }
    snprintf(marker, sizeof marker, "%s/obatch.home", self);
    FILE *file = fopen(marker, "re");
    if (file) {
        if (!fgets(line, sizeof line, file)) *line = '\0';
        fclose(file);
        line[strcspn(line, "\n")] = '\0';
    }
    int n = snprintf(places->modules, PATH_MAX, "%s/%s", self, file ? "modules" : OBATCH_MODULES);
    if (n <= 0 || n >= PATH_MAX) return false;
    const char *home = getenv("OBATCH_HOME");
    if (!home && file) home = line;
    n = home ? snprintf(places->home, PATH_MAX, "%s", home)
             : snprintf(places->home, PATH_MAX, "%s/../share/obatch", self);
    return n > 0 && n < PATH_MAX && is_home(places->home);
}

/* Any error value becomes a message with a traceback; the traceback holds no values, so no key. One
 * that was caught and is raised once more may have its own. */
static int with_traceback(lua_State *L) {
    const char *message = luaL_tolstring(L, 1, NULL);
    if (strstr(message, "\nstack traceback:\n")) return 1;
    luaL_traceback(L, L, message, 1);
    return 1;
}

/* warn() as in lua(1): off until warn("@on"). A message comes in pieces, all but the last with
 * to_continue set. */
static void warn(void *data, const char *message, int to_continue) {
    static bool on, within;
    (void)data;
    if (!within && !to_continue && *message == '@') {
        if (strcmp(message, "@on") == 0) on = true;
        if (strcmp(message, "@off") == 0) on = false;
        return;
    }
    if (on)
        fprintf(stderr, "%s%s%s", within ? "" : "Lua warning: ", message, to_continue ? "" : "\n");
    within = to_continue;
}

/* The libraries that are loaded now, which may be newer than those it was built with: for
 * --version. Modules know theirs. */
static void push_libraries(lua_State *L) {
    lua_createtable(L, 0, 2);
    lua_pushstring(L, lua_ident);
    lua_setfield(L, -2, "lua");
    lua_pushfstring(L, "%d.%d", nettle_version_major(), nettle_version_minor());
    lua_setfield(L, -2, "nettle");
}

/* Arguments: argc, argv. Returns the exit code that lua/obatch/cli.lua gives. */
static int run(lua_State *L) {
    int argc = (int)lua_tointeger(L, 1);
    char **argv = lua_touserdata(L, 2);
    struct places places;
    if (!find_places(&places))
        return luaL_error(L, "cannot find lua/obatch/cli.lua: set OBATCH_HOME to the folder that "
                             "holds obatch's lua/ and scripts/");

    luaL_checkversion(L);
    luaL_openlibs(L);
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
    luaL_setfuncs(L, modules, 0);
    module_add_loaders(L, places.modules);
    lua_pop(L, 1);

    lua_getglobal(L, "package");
    lua_getfield(L, -1, "path");
    lua_pushfstring(L, "%s/lua/?.lua;%s", places.home, lua_tostring(L, -1));
    lua_setfield(L, -3, "path");
    lua_pop(L, 2);

    lua_getglobal(L, "require");
    lua_pushstring(L, "obatch.cli");
    lua_call(L, 1, 1);
    lua_getfield(L, -1, "main");
    lua_createtable(L, argc, 4);
    for (int i = 0; i < argc; i++) {
        lua_pushstring(L, argv[i]);
        lua_rawseti(L, -2, i);
    }
    lua_pushstring(L, places.home);
    lua_setfield(L, -2, "home");
    lua_pushstring(L, OBATCH_VERSION);
    lua_setfield(L, -2, "version");
    lua_pushstring(L, OBATCH_COMMIT);
    lua_setfield(L, -2, "commit");
    push_libraries(L);
    lua_setfield(L, -2, "libraries");
    lua_call(L, 1, 1);
    return 1;
}

/* Is some of the output missing, which somebody may still be waiting for? A pipe whose reader has
 * gone, or no standard output at all, is what the caller wanted. */
static bool is_output_lost(void) {
    struct pollfd output = {.fd = STDOUT_FILENO, .events = POLLOUT};
    if (fflush(stdout) == 0 && !ferror(stdout)) return false;
    return poll(&output, 1, 0) < 0 || !(output.revents & (POLLERR | POLLHUP | POLLNVAL));
}

int main(int argc, char **argv) {
    setlocale(LC_CTYPE, ""); /* and nothing else: numbers keep their point */
    forbid_core_dumps();
    if (!take_variables()) return EXIT_USAGE;
    lua_State *L = lua_newstate(heap_alloc, NULL);
    if (!L) {
        fputs("obatch: not enough memory\n", stderr);
        return EXIT_FAILURE;
    }
    main_state = L;
    lua_setwarnf(L, warn, NULL);
    catch_signals();

    lua_pushcfunction(L, with_traceback);
    lua_pushcfunction(L, run);
    lua_pushinteger(L, argc);
    lua_pushlightuserdata(L, argv);
    int code = EXIT_FAILURE;
    if (lua_pcall(L, 2, 1, 1) == LUA_OK) {
        code = (int)lua_tointeger(L, -1);
    } else if (obatch_interrupted) {
        fputs("obatch: interrupted\n", stderr);
        code = 130;
    } else {
        fprintf(stderr, "obatch: %s\n", lua_tostring(L, -1));
    }
    main_state = NULL;
    lua_close(L);
    if (code == EXIT_SUCCESS && is_output_lost()) {
        fputs("obatch: not all of the output could be written\n", stderr);
        code = EXIT_FAILURE;
    }
#ifdef OBATCH_SANITIZE /* which looks for leaks at exit */
    return code;
#else
    /* Not exit(): all that the destructors of libcurl's many libraries do is take time and memory.
     */
    fflush(NULL);
    _exit(code);
#endif
}
