#include "module.h"
#include "obatch.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <link.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* `quiet` is set in the environment while the module is loaded, or NULL. libcurl links GnuTLS, for
 * a protocol that is never used here. Unless this is set, it initialises itself when it is loaded,
 * and looks for smart cards and the like. (libmicrohttpd initialises it in any case.) */
static const struct {
    const char *name, *quiet;
} modules[] = {{"editor", NULL}, {"http", "GNUTLS_NO_IMPLICIT_INIT"}, {"httpd", NULL}};

/* Gives pages back that are still those of the file; others may follow. What was written to, which
 * a debugger does for its breakpoints, and the loader for relocations in a library's code, would be
 * lost: the block of pages that it is in stays. */
static void give_back(int pagemap, uintptr_t from, uintptr_t end, size_t page) {
    enum { BLOCK = 512 };
    const uint64_t is_file = (uint64_t)1 << 61, is_swapped = (uint64_t)1 << 62; /* proc(5) */
    const uint64_t is_present = (uint64_t)1 << 63;
    uint64_t states[BLOCK];
    for (from -= from % page; from < end; from += BLOCK * page) {
        size_t count = (end - from + page - 1) / page, touched = 0;
        if (count > BLOCK) count = BLOCK;
        ssize_t size = (ssize_t)(count * sizeof *states);
        if (pread(pagemap, states, (size_t)size, (off_t)(from / page * sizeof *states)) != size)
            return;
        for (size_t i = 0; i < count; i++)
            touched += states[i] & is_swapped || (states[i] & is_present && !(states[i] & is_file));
        if (touched > 0) continue;
        void *start = (void *)from; /* NOLINT(performance-no-int-to-ptr): so it is told */
        madvise(start, count * page, MADV_DONTNEED);
    }
}

/* A dl_iterate_phdr callback; the context is the descriptor of the pagemap. */
static int give_back_of(struct dl_phdr_info *library, size_t size, void *context) {
    (void)size;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (size_t i = 0; i < library->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &library->dlpi_phdr[i];
        if (segment->p_type != PT_LOAD || segment->p_flags & PF_W) continue;
        uintptr_t from = library->dlpi_addr + segment->p_vaddr;
        give_back(*(int *)context, from, from + segment->p_memsz, page);
    }
    return 0;
}

/* To bind libcurl's libraries, the loader reads all their relocations and symbols, and each of them
 * initialises itself: 5 MB of pages that nobody needs a second time. What is needed comes back from
 * the page cache when it is touched. */
static void give_pages_back(void) {
    int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (pagemap < 0) return;
    dl_iterate_phdr(give_back_of, &pagemap);
    close(pagemap);
}

/* Functions are bound when they are first called: few of those that the libraries need of each
 * other ever are. */
static void *load(const char *path, const char *quiet) {
    bool set = quiet && !getenv(quiet) && setenv(quiet, "1", 1) == 0;
    give_pages_back();
    void *library = dlopen(path, RTLD_LAZY | RTLD_LOCAL);
    give_pages_back();
    if (set) unsetenv(quiet);
    return library;
}

/* The loader; the argument is a name such as "obatch.http", the upvalues its file and `quiet`. */
static int load_module(lua_State *L) {
    const char *name = luaL_checkstring(L, 1);
    void *library =
        load(lua_tostring(L, lua_upvalueindex(1)), lua_tostring(L, lua_upvalueindex(2)));
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
    for (size_t i = 0; i < sizeof modules / sizeof *modules; i++) {
        lua_pushfstring(L, "obatch.%s", modules[i].name);
        lua_pushfstring(L, "%s/%s.so", folder, modules[i].name);
        lua_pushstring(L, modules[i].quiet);
        lua_pushcclosure(L, load_module, 2);
        lua_settable(L, -3);
    }
}
