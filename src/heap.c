/* Decoding an answer makes and drops a hundred small blocks, of few sizes. Lua tells the size of a
 * block when it gives it back, so a block needs no header, and one list of free blocks for each
 * size is all the bookkeeping there is. Free blocks wait for the next of their size; larger blocks
 * are malloc's. */
#include "heap.h"

#include <stdlib.h>
#include <string.h>

/* Under AddressSanitizer every block is malloc's, so that it watches their ends. */
#if defined(__SANITIZE_ADDRESS__)
#define ALL_LARGE
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ALL_LARGE
#endif
#endif

enum {
    GRAIN = 8, /* what Lua aligns to */
#ifdef ALL_LARGE
    LIMIT = 0,
#else
    LIMIT = 512, /* the largest small block */
#endif
    SLAB = 16 * 1024,
};

struct block {
    struct block *next;
};

static struct block *free_blocks[LIMIT / GRAIN + 1];
static char *slab;       /* what is left of the one that was taken last */
static size_t slab_left; /* in bytes */

/* Sizes of one class share a list: (0, 8], (8, 16], ... */
static size_t class_of(size_t size) {
    return (size + GRAIN - 1) / GRAIN;
}

static void give(void *memory, size_t size) {
    struct block *block = memory;
    struct block **list = &free_blocks[class_of(size)];
    block->next = *list;
    *list = block;
}

static void *take(size_t size) {
    struct block **list = &free_blocks[class_of(size)];
    struct block *block = *list;
    if (block) {
        *list = block->next;
        return block;
    }
    size = class_of(size) * GRAIN;
    if (slab_left < size) {
        char *more = malloc(SLAB);
        if (!more) return NULL;
        if (slab_left > 0) give(slab, slab_left);
        slab = more;
        slab_left = SLAB;
    }
    slab_left -= size;
    slab += size;
    return slab - size;
}

void *heap_alloc(void *data, void *block, size_t old_size, size_t new_size) {
    (void)data;
    if (!block) {
        if (new_size == 0) return NULL;
        return new_size <= LIMIT ? take(new_size) : malloc(new_size);
    }
    if (new_size == 0) {
        if (old_size <= LIMIT) {
            give(block, old_size);
        } else {
            free(block);
        }
        return NULL;
    }
    if (old_size > LIMIT && new_size > LIMIT) return realloc(block, new_size);
    if (old_size <= LIMIT && class_of(old_size) == class_of(new_size)) return block;
    void *moved = new_size <= LIMIT ? take(new_size) : malloc(new_size);
    if (!moved) return new_size < old_size ? block : NULL;
    memcpy(moved, block, old_size < new_size ? old_size : new_size);
    heap_alloc(data, block, old_size, 0);
    return moved;
}
