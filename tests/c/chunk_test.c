/* The chunks of a file, read in blocks of a few bytes: by one thread and by several at once, with
 * faults at every place. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "chunk.h"
#include "obatch.h"

volatile sig_atomic_t obatch_interrupted;

enum { MOST = 100 * JSONL_BLOCK };

static struct {
    int fd;
    char path[64];
    char bytes[2 * MOST];
    size_t length;
} file;

/* What happens to reads. */
static struct {
    size_t error_at, error_end; /* the bytes that cannot be read */
    atomic_int calls;           /* until the call before which */
    size_t truncate_to;         /* the file becomes so long, */
    bool is_signal, is_stop;    /* or a signal comes, which asks to stop or does not */
} fault;

/* chunk.c and lines.c call this one instead of pread. */
ssize_t faulty_pread(int fd, void *to, size_t length, off_t at) {
    if (atomic_fetch_sub(&fault.calls, 1) == 1) {
        if (fault.is_stop) obatch_interrupted = 1;
        if (fault.is_signal) return errno = EINTR, -1;
        if (ftruncate(file.fd, (off_t)fault.truncate_to) != 0) abort();
    }
    if (fault.is_signal && obatch_interrupted) return errno = EINTR, -1;
    if ((size_t)at < fault.error_end && (size_t)at + length > fault.error_at) {
        if ((size_t)at >= fault.error_at) return errno = EIO, -1;
        length = fault.error_at - (size_t)at;
    }
    return (ssize_t)syscall(SYS_pread64, fd, to, length, at);
}

static size_t below(size_t limit) {
    return (size_t)rand() % limit;
}

/* Appends a line of random length, often one that ends at or next to the end of a block. */
static void add_line(size_t longest) {
    size_t length = below(longest), to_border = JSONL_BLOCK - file.length % JSONL_BLOCK;
    if (below(3) == 0) length = to_border - 1 + below(3) - (to_border > 1);
    char *text = file.bytes + file.length;
    if (length < 10) {
        memset(text, '7', length);
    } else {
        memset(text, 'x', length);
        memcpy(text, "{\"id\":\"", 7);
        memcpy(text + length - 2, "\"}", 2);
    }
    file.length += length;
    if (below(4) == 0) file.bytes[file.length++] = '\r';
    file.bytes[file.length++] = '\n';
}

static void write_file(size_t from) {
    size_t length = file.length - from;
    assert_int_equal(ftruncate(file.fd, (off_t)from), 0);
    assert_int_equal(pwrite(file.fd, file.bytes + from, length, (off_t)from), length);
}

static void make_file(void) {
    static const size_t longest[] = {3, 20, JSONL_BLOCK, 3 * JSONL_BLOCK, 9 * JSONL_BLOCK};
    size_t length = below(MOST - 10 * JSONL_BLOCK), lines = longest[below(5)];
    file.length = 0;
    while (file.length <= length) add_line(lines);
    if (below(2) == 0) file.length--; /* no newline at the end */
    write_file(0);
    fault.error_at = fault.error_end = 0;
    fault.is_signal = fault.is_stop = false;
    atomic_store(&fault.calls, 0);
    obatch_interrupted = 0;
}

/* A reader of the file, and how far it has come. */
static struct reader {
    struct json_node nodes[2];
    struct chunk_field field;
    struct chunk_plan look;
    struct chunks chunks;
    size_t at; /* what is handed out next */
} reader;

static void start(bool is_pooled, size_t max_line) {
    memset(&reader, 0, sizeof reader);
    reader.look = (struct chunk_plan){.plan.nodes = reader.nodes,
                                      .fields = &reader.field,
                                      .count = 1,
                                      .max_line = max_line,
                                      .inner = -1,
                                      .decoded = -1};
    json_plan_add(&reader.look.plan, "", 0);
    reader.field.node = json_plan_add(&reader.look.plan, "/id", 3);
    assert_int_equal(chunks_open(&reader.chunks, file.path, &reader.look), 0);
    reader.chunks.reads_ahead = reader.chunks.reads_ahead && is_pooled;
}

/* Checks the next line against the file's bytes up to `length`. */
static void check_line(const struct chunk *chunk, const struct chunk_line *line, size_t length) {
    const char *text = file.bytes + reader.at;
    const char *newline = memchr(text, '\n', length - reader.at);
    size_t whole = newline ? (size_t)(newline - text) : length - reader.at;
    size_t bare = whole - (newline && whole > 0 && text[whole - 1] == '\r');
    assert_int_equal(chunk->offset + line->at, reader.at);
    assert_int_equal(line->length, bare);
    if (bare > reader.look.max_line) {
        assert_int_equal(line->kind, CHUNK_TOO_LONG);
    } else {
        assert_memory_equal(chunk->bytes + line->at, text, bare);
        assert_int_equal(line->spans, line->kind == CHUNK_GOOD && text[0] == '{');
    }
    reader.at += whole + (newline != NULL);
}

/* Takes chunks, so many at most, from a file that ends at `length`. */
static int take(size_t most, size_t length) {
    struct chunk *chunk;
    for (; most > 0; most--) {
        int result = chunks_next(&reader.chunks, &chunk);
        if (result != LINES_MORE) return result;
        for (size_t i = 0; i < chunk->line_count; i++) check_line(chunk, &chunk->lines[i], length);
        chunks_give_back(&reader.chunks, chunk);
    }
    return LINES_MORE;
}

static size_t some_max_line(void) {
    return below(2) ? MOST : 1 + below(4 * JSONL_BLOCK);
}

/* The end of the last whole line that ends at or before a byte. */
static size_t whole_lines(size_t end) {
    while (end > 0 && file.bytes[end - 1] != '\n') end--;
    return end;
}

enum { ROUNDS = 400 };

/* Lines that are lost, cut, doubled or in another order, where they lie across borders of blocks.
 */
static void every_line_comes_in_order(void **state) {
    (void)state;
    for (int i = 0; i < ROUNDS; i++) {
        make_file();
        start(i % 4 > 0, some_max_line());
        assert_int_equal(take(SIZE_MAX, file.length), LINES_END);
        assert_int_equal(reader.at, file.length);
        assert_int_equal(take(1, file.length), LINES_END);
        chunks_close(&reader.chunks);
    }
}

/* A fault that hides lines before it, is not told of with its place, or loses some when reading
 * goes on after it. */
static void a_fault_stops_where_it_is(void **state) {
    (void)state;
    for (int i = 0; i < ROUNDS; i++) {
        make_file();
        start(i % 4 > 0, MOST);
        size_t at = fault.error_at = 1 + below(file.length - 1);
        fault.error_end = below(2) ? SIZE_MAX : at + 1;
        if (!reader.chunks.is_regular) { /* read(2) is not struck */
            chunks_close(&reader.chunks);
            continue;
        }
        for (int again = 0; again < 2; again++) {
            assert_int_equal(take(SIZE_MAX, file.length), LINES_FAILED);
            assert_int_equal(errno, EIO);
            assert_int_equal(reader.chunks.failed_at, at);
            assert_int_equal(reader.at, whole_lines(at));
        }
        fault.error_end = 0;
        assert_int_equal(take(SIZE_MAX, file.length), LINES_END);
        assert_int_equal(reader.at, file.length);
        chunks_close(&reader.chunks);
    }
}

/* A file that becomes shorter at any moment, also between the reading of the end of a block and of
 * what is before it: lines behind a hole, or the same ones again. */
static void a_shorter_file_ends_sooner(void **state) {
    (void)state;
    for (int i = 0; i < ROUNDS; i++) {
        make_file();
        size_t length = file.length, cut = fault.truncate_to = below(length);
        start(i % 4 > 0, MOST);
        atomic_store(&fault.calls, 1 + (int)below(60));
        struct chunk *chunk;
        int result;
        while ((result = chunks_next(&reader.chunks, &chunk)) == LINES_MORE) {
            for (size_t n = 0; n < chunk->line_count; n++) {
                /* Only the last line may be cut, where the file ends or a read has found its end.
                 */
                const struct chunk_line *line = &chunk->lines[n];
                size_t begin = reader.at, end = begin + line->length;
                bool is_cut = file.bytes[end] == '\n' ? end > begin && file.bytes[end - 1] == '\r'
                                                      : file.bytes[end] != '\r';
                check_line(chunk, line, is_cut ? end : length);
                if (!is_cut) continue;
                assert_int_equal(n + 1, chunk->line_count);
                assert_true(end >= cut);
                length = end;
            }
            chunks_give_back(&reader.chunks, chunk);
        }
        assert_int_equal(result, LINES_END);
        assert_true(reader.at >= whole_lines(cut));
        chunks_close(&reader.chunks);
    }
}

/* What is appended while the file is read: lost, or taken for the end of a line. */
static void a_longer_file_is_read_to_its_end(void **state) {
    (void)state;
    for (int i = 0; i < ROUNDS; i++) {
        make_file();
        if (file.bytes[file.length - 1] != '\n') file.bytes[file.length++] = '\n';
        write_file(0);
        size_t before = file.length;
        start(i % 4 > 0, MOST);
        for (int n = 0; n < 8; n++) add_line(JSONL_BLOCK);
        /* Other threads see at once what is written to a page. */
        if (before / 4096 == file.length / 4096 && take(1 + below(4), before) == LINES_MORE) {
            write_file(before);
            assert_int_equal(take(SIZE_MAX, file.length), LINES_END);
            /* A task may have found the end before. */
            assert_true(reader.at == file.length || reader.at == before);
        }
        chunks_close(&reader.chunks);
    }
}

/* A signal that ends a read which nobody asked to end, and one that asks to stop. */
static void a_stop_is_told_of(void **state) {
    (void)state;
    for (int i = 0; i < ROUNDS; i++) {
        make_file();
        start(i % 4 > 0, MOST);
        fault.is_signal = true;
        fault.is_stop = i % 2 == 0;
        atomic_store(&fault.calls, 1 + (int)below(20));
        int result = take(SIZE_MAX, file.length);
        assert_int_equal(result, obatch_interrupted ? LINES_FAILED : LINES_END);
        if (result == LINES_END) {
            assert_int_equal(reader.at, file.length);
        } else {
            assert_int_equal(errno, EINTR);
            assert_true(reader.at <= reader.chunks.failed_at);
        }
        chunks_close(&reader.chunks);
    }
}

/* Tasks that wait for a turn which never comes, or read what has been closed. */
static void it_can_be_closed_at_any_time(void **state) {
    (void)state;
    for (int i = 0; i < ROUNDS; i++) {
        make_file();
        start(true, some_max_line());
        take(below(6), file.length);
        chunks_close(&reader.chunks);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_line_comes_in_order),
        cmocka_unit_test(a_fault_stops_where_it_is),
        cmocka_unit_test(a_shorter_file_ends_sooner),
        cmocka_unit_test(a_longer_file_is_read_to_its_end),
        cmocka_unit_test(a_stop_is_told_of),
        cmocka_unit_test(it_can_be_closed_at_any_time),
    };
    setenv("OBATCH_THREADS", "3", 1);
    file.fd = memfd_create("chunk_test", MFD_CLOEXEC);
    snprintf(file.path, sizeof file.path, "/proc/self/fd/%d", file.fd);
    srand(8);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
