#include "module.h"
#include "obatch.h"

#include <dlfcn.h>
#include <link.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static const char *const names[] = {"editor", "http", "httpd"};

/* Gives the pages back that a library never writes to. A dl_iterate_phdr callback. */
static int give_back_of(struct dl_phdr_info *library, size_t size, void *context) {
    (void)size, (void)context;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (size_t i = 0; i < library->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &library->dlpi_phdr[i];
        if (segment->p_type != PT_LOAD || segment->p_flags & PF_W) continue;
        size_t from = library->dlpi_addr + segment->p_vaddr, lead = from % page;
        void *start = (void *)(from - lead); /* NOLINT(performance-no-int-to-ptr): so it is told */
        madvise(start, lead + segment->p_memsz, MADV_DONTNEED);
    }
    return 0;
}

/* To bind libcurl's libraries, the loader reads all their relocations and symbols, and each of them
 * initialises itself: 5 MB of pages that nobody needs a second time. What is needed comes back from
 * the page cache when it is touched. */
static void give_pages_back(void) {
    dl_iterate_phdr(give_back_of, NULL);
}

/* Functions are bound when they are first called: few of those that the libraries need of each
 * other ever are. */
static void *load(const char *path) {
    /* libcurl links GnuTLS, for a protocol that is never used here. Unless this is set, it
     * initialises itself when it is loaded, and looks for smart cards and the like. */
    static const char quiet[] = "GNUTLS_NO_IMPLICIT_INIT";
    bool set = !getenv(quiet) && setenv(quiet, "1", 1) == 0;
    give_pages_back();
    void *library = dlopen(path, RTLD_LAZY | RTLD_LOCAL);
    give_pages_back();
    if (set) unsetenv(quiet);
    return library;
}

/* The loader; the argument is a name such as "obatch.http", the upvalue its file. */
static int load_module(lua_State *L) {
    const char *name = luaL_checkstring(L, 1);
    void *library = load(lua_tostring(L, lua_upvalueindex(1)));
    if (!library) return luaL_error(L, "cannot load %s: %s", name, dlerror());
    void *found = dlsym(library, luaL_gsub(L, lua_pushfstring(L, "luaopen_%s", name), ".", "_"));
    if (!found) return luaL_error(L, "cannot load %s: %s", name, dlerror());
    lua_CFunction open;
    memcpy(&open, &found, sizeof open); /* POSIX allows what ISO C has no cast for */
    lua_settop(L, 1);
    int results = open(L); /* which initialises OpenSSL, for one */
    give_pages_back();
    return results;
}

void module_add_loaders(lua_State *L, const char *folder) {
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        lua_pushfstring(L, "obatch.%s", names[i]);
        lua_pushfstring(L, "%s/%s.so", folder, names[i]);
        lua_pushcclosure(L, load_module, 1);
        lua_settable(L, -3);
    }
}
