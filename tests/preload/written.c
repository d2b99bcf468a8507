/* A Lua module whose read-only pages were written to after it was loaded, as a debugger does for
 * its breakpoints, and the loader for relocations in code. It gives a function that tells whether
 * what was written is still there. */
#include <lua.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

static const int written = 1;

static int is_there(lua_State *L) {
    lua_pushboolean(L, *(const volatile int *)&written == 2);
    return 1;
}

int luaopen_written(lua_State *L);
int luaopen_written(lua_State *L) {
    size_t size = (size_t)sysconf(_SC_PAGESIZE);
    void *page = (void *)((uintptr_t)&written / size * size);
    mprotect(page, size, PROT_READ | PROT_WRITE);
    *(volatile int *)&written = 2;
    mprotect(page, size, PROT_READ);
    lua_pushcfunction(L, is_there);
    return 1;
}
