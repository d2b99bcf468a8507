/* The memory of the Lua state: lua_newstate(heap_alloc, NULL). */
#ifndef OBATCH_HEAP_H
#define OBATCH_HEAP_H

#include <stddef.h>

/* A lua_Alloc. It keeps one heap for the process, which only the thread of Lua may touch. */
void *heap_alloc(void *data, void *block, size_t old_size, size_t new_size);

#endif
