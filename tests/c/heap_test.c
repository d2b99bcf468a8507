/* The heap of the Lua state, without AddressSanitizer, as users run it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "heap.h"

struct held {
    unsigned char *block;
    size_t size;
    unsigned char fill;
};

static void check_fill(const struct held *held, size_t size) {
    for (size_t i = 0; i < size; i++) assert_int_equal(held->block[i], held->fill);
}

/* Blocks that overlap, lose bytes when they grow or shrink, or are not aligned. */
static void blocks_keep_their_bytes(void **state) {
    static struct held all[500];
    (void)state;
    srand(1);
    for (int round = 0; round < 200000; round++) {
        struct held *held = &all[rand() % 500];
        size_t limit = rand() % 8 ? 100 : 1200, size = (size_t)rand() % limit;
        check_fill(held, held->size);
        held->block = heap_alloc(NULL, held->block, held->size, size);
        assert_true((held->block == NULL) == (size == 0));
        assert_int_equal((uintptr_t)held->block % 8, 0);
        check_fill(held, held->size < size ? held->size : size);
        held->size = size;
        held->fill = (unsigned char)rand();
        if (size > 0) memset(held->block, held->fill, size);
    }
    for (int i = 0; i < 500; i++) assert_null(heap_alloc(NULL, all[i].block, all[i].size, 0));
}

/* Free blocks that are not used again: a heap that grows with the time it is in use. */
static void what_is_given_back_is_taken_again(void **state) {
    (void)state;
    void *first = heap_alloc(NULL, NULL, 0, 56);
    heap_alloc(NULL, first, 56, 0);
    for (int i = 0; i < 1000; i++) {
        void *block = heap_alloc(NULL, NULL, 0, 50 + (size_t)i % 7);
        assert_ptr_equal(block, first);
        heap_alloc(NULL, block, 50 + (size_t)i % 7, 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_keep_their_bytes),
        cmocka_unit_test(what_is_given_back_is_taken_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
