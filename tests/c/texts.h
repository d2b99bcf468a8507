/* For tests that make texts; they include cmocka.h before this. */
#ifndef OBATCH_TEXTS_H
#define OBATCH_TEXTS_H

#include "json.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ROOM = 4096 };

/* A copy that ends where the memory does. */
struct edge {
    char *pages;
    size_t page; /* or some of them */
};

static inline struct edge make_edge(void) {
    struct edge edge = {.page = 4 * (size_t)sysconf(_SC_PAGESIZE)};
    edge.pages =
        mmap(NULL, 2 * edge.page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(edge.pages, MAP_FAILED);
    assert_int_equal(mprotect(edge.pages + edge.page, edge.page, PROT_NONE), 0);
    return edge;
}

static inline char *at_edge(struct edge *edge, const void *bytes, size_t length) {
    char *at = edge->pages + edge->page - length;
    assert_in_range(length, 0, edge->page);
    if (bytes && length > 0) memcpy(at, bytes, length);
    return at;
}

static inline const char *shown(const char *bytes, size_t length) {
    static char out[16 * ROOM + 1];
    char *to = out;
    for (size_t i = 0; i < length; i++)
        to += sprintf(to, bytes[i] >= ' ' && bytes[i] <= '~' ? "%c" : "\\x%02x",
                      (unsigned char)bytes[i]);
    *to = '\0';
    return out;
}

static uint64_t seed = 1;

static inline size_t random_below(size_t limit) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (size_t)(seed >> 11) % limit;
}

static inline size_t add(char *text, size_t length, const char *bytes) {
    memcpy(text + length, bytes, strlen(bytes));
    return length + strlen(bytes);
}

#endif
