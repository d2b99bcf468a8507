#include "chunk.h"
#include "obatch.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    PADDING = 1, /* for the NUL behind a last line without a newline: numbers end there, too */
    /* Lines of a chunk: what is known of them must not take far more memory than they do. */
    MOST_LINES = JSONL_BLOCK / 32 + 1,
    /* The same for what is in them, of which there may be a token for two bytes. */
    MOST_TOKENS = 32 * 1024,
    LONGEST_TAPED = 64 * 1024, /* in bytes, as those: */
    TAPED_TEXTS = 128 * 1024,
    /* How much of the end of a block is read at once in search of a newline. */
    STEP = JSONL_BLOCK / 8,
    /* How much the kernel is asked to read ahead. */
    AHEAD = 8 * JSONL_BLOCK,
};

/* ---- scanning, on any thread ---- */

/* Room for an element after `count`; false when there is no memory. */
static bool has_room(void **array, size_t count, size_t *room, size_t size) {
    if (count < *room) return true;
    size_t more = count < 32 ? 64 : count * 2;
    void *grown = realloc(*array, more * size);
    if (!grown) return false;
    *array = grown;
    *room = more;
    return true;
}

static bool judge_inner(struct chunk *chunk, const struct json_value *value, bool *is_json) {
    *is_json = false;
    if (value->type != JSON_STRING) return true;
    if (chunk->scratch_room < value->length + 64) {
        free(chunk->scratch);
        chunk->scratch_room = value->length + value->length / 2 + 4096;
        chunk->scratch = malloc(chunk->scratch_room);
        if (!chunk->scratch) return chunk->scratch_room = 0, false;
    }
    *is_json = json_inner(value, chunk->scratch);
    return true;
}

/* Keeps what a value means for whoever will ask. When there is no room, he reads it himself. */
static void tape(struct chunk *chunk, struct chunk_line *line, const struct json_value *value) {
    if (value->type != JSON_STRING || !value->escaped) return;
    if (value->length > LONGEST_TAPED || chunk->tape.count > MOST_TOKENS) return;
    line->token = (uint32_t)chunk->tape.count;
    line->is_taped = json_tape_quoted(&chunk->tape, value);
}

static bool is_usual(const struct chunk_field *field, const struct json_value *value) {
    if (value->type == JSON_ABSENT) return !field->must_be_there;
    return !field->usual || (value->length == field->usual_length &&
                             memcmp(value->at, field->usual, value->length) == 0);
}

/* Looks into a good line. */
static bool add_spans(struct chunk *chunk, struct chunk_line *line, const char *text) {
    const struct chunk_plan *look = chunk->look;
    bool usual = look->has_usual && !line->is_lone;
    if (!has_room((void **)&chunk->spans, chunk->span_count + look->count, &chunk->span_room,
                  sizeof *chunk->spans))
        return false;
    struct chunk_span *first = &chunk->spans[chunk->span_count], *span = first;
    line->first_span = (uint32_t)chunk->span_count;
    for (uint16_t i = 0; i < look->count; i++) {
        const struct json_value *value = &chunk->nodes[look->fields[i].node].found;
        usual = usual && is_usual(&look->fields[i], value);
        if (value->type == JSON_ABSENT) continue;
        *span++ = (struct chunk_span){
            .at = (uint32_t)(value->at - text),
            .length = (uint32_t)value->length,
            .field = i,
            .type = (uint8_t)value->type,
            .escaped = value->escaped,
        };
        if (i == look->inner && !judge_inner(chunk, value, &line->is_json)) return false;
    }
    line->is_usual = usual;
    if (look->decoded >= 0 && (usual || !look->has_usual))
        tape(chunk, line, &chunk->nodes[look->fields[look->decoded].node].found);
    line->spans = (uint16_t)(span - first);
    chunk->span_count += line->spans;
    return true;
}

static bool is_blank(const char *text, size_t length) {
    size_t i = 0;
    while (i < length && (text[i] == ' ' || text[i] == '\t' || text[i] == '\r')) i++;
    return i == length;
}

static bool scan_line(struct chunk *chunk, size_t at, uint64_t length) {
    const char *text = chunk->bytes + at;
    if (!has_room((void **)&chunk->lines, chunk->line_count, &chunk->line_room,
                  sizeof *chunk->lines))
        return false;
    struct chunk_line *line = &chunk->lines[chunk->line_count++];
    *line = (struct chunk_line){.at = at, .length = length};
    if (length > chunk->look->max_line) {
        line->kind = CHUNK_TOO_LONG;
        return true;
    }
    struct json_plan plan = {
        .nodes = chunk->nodes, .count = chunk->look->plan.count, .forms = &chunk->forms};
    struct json_error error;
    if (json_find(text, length, &plan, &error)) {
        line->is_lone = plan.lone != NULL;
        return add_spans(chunk, line, text);
    }
    line->kind = is_blank(text, length) ? CHUNK_BLANK : CHUNK_BAD;
    line->message = error.message;
    line->error_at = (uint32_t)error.offset;
    return true;
}

/* False when there is no memory. */
static bool scan(struct chunk *chunk) {
    size_t next;
    chunk->line_count = chunk->span_count = 0;
    if (chunk->look->decoded >= 0) json_tape_begin(&chunk->tape, JSON_TAPE_TEXTS(TAPED_TEXTS));
    if (chunk->skipped && !scan_line(chunk, 0, chunk->skipped)) return false;
    chunk->scanned = chunk->length;
    for (size_t at = 0; at < chunk->length; at = next) {
        if (chunk->line_count == MOST_LINES) {
            chunk->scanned = at;
            return true;
        }
        const char *newline = memchr(chunk->bytes + at, '\n', chunk->length - at);
        size_t length = newline ? (size_t)(newline - chunk->bytes) - at : chunk->length - at;
        next = at + length + (newline != NULL);
        if (newline && length > 0 && newline[-1] == '\r') length--;
        if (!scan_line(chunk, at, length)) return false;
    }
    return true;
}

/* ---- reading, by the task whose turn it is ---- */

/* False when there is no memory. */
static bool reserve(char **bytes, size_t *capacity, size_t wanted) {
    if (*capacity >= wanted) return true;
    char *grown = realloc(*bytes, wanted + PADDING);
    if (!grown) return false;
    *bytes = grown;
    *capacity = wanted;
    return true;
}

/* Makes room for a fair read after the bytes held. */
static bool make_room(struct chunks *chunks, struct chunk *chunk) {
    size_t most = chunks->look->max_line + 2 * (size_t)JSONL_BLOCK;
    if (chunk->capacity - chunks->held >= (JSONL_BLOCK + 1) / 2) return true;
    size_t capacity = chunk->capacity * 2;
    return reserve(&chunk->bytes, &chunk->capacity, capacity < most ? capacity : most);
}

/* Ends the chunk that is being read after so many of the bytes held, the last of which may be a
 * newline; the others begin the next chunk. False when there is no memory, with nothing done. */
static bool end_chunk(struct chunks *chunks, struct chunk *chunk, size_t length, bool has_newline) {
    size_t left = chunks->held - length, line = length - has_newline;
    if (!reserve(&chunks->rest, &chunks->rest_capacity, left)) return false;
    if (left > 0) memcpy(chunks->rest, chunk->bytes + length, left);
    chunk->offset = chunks->offset;
    chunk->length = length;
    if (!has_newline) chunk->bytes[length] = '\0';
    chunk->skipped = 0;
    if (chunks->skipped) {
        char last = line > 0 ? chunk->bytes[line - 1] : chunks->last_skipped;
        chunk->skipped = chunks->skipped + line - (has_newline && last == '\r');
        chunk->length = 0;
    }
    chunks->offset += chunks->skipped + length;
    chunks->skipped = 0;
    chunks->held = left;
    /* After a line that was too long, whole lines may come. */
    chunks->searched = chunk->skipped ? 0 : left;
    return true;
}

/* The kernel reads ahead where a file is read from one end to the other, which blocks whose ends
 * are read first do not look like. */
static void ask_ahead(struct chunks *chunks) {
    if (chunks->offset + AHEAD / 2 < chunks->asked) return;
    if (chunks->asked < chunks->offset) chunks->asked = chunks->offset;
    posix_fadvise(chunks->fd, (off_t)chunks->asked, AHEAD, POSIX_FADV_WILLNEED);
    chunks->asked += AHEAD;
}

/* Reads the end of the block, from the back, up to a piece with a newline, and returns the last
 * one; what is before that piece is left as the gap. NULL when this has to be done from the front:
 * where the file may end, where something is the matter with it, and when there is no newline (then
 * all of the block has been read). */
static const char *find_end(struct chunks *chunks, struct chunk *chunk) {
    bool is_whole_line = !chunks->skipped && chunks->searched == chunks->held;
    if (!chunks->reads_ahead || !is_whole_line) return NULL;
    if (chunks->offset + chunk->capacity > chunks->size) return NULL;
    ask_ahead(chunks);
    for (size_t at = chunk->capacity; at > chunks->held;) {
        size_t length = at - chunks->held < STEP ? at - chunks->held : STEP;
        char *piece = chunk->bytes + (at -= length);
        ptrdiff_t n = lines_pread(chunks->fd, piece, length, chunks->offset + at);
        if (n < 0 || (size_t)n < length) return NULL;
        const char *newline = memrchr(piece, '\n', length);
        if (!newline) continue;
        chunk->gap = chunks->held;
        chunk->gap_length = at - chunks->held;
        chunks->held = chunk->capacity;
        return newline;
    }
    chunks->searched = chunks->held = chunk->capacity;
    return NULL;
}

/* What comes next, as much as one call gives. */
static ptrdiff_t read_on(struct chunks *chunks, char *to, size_t length) {
    if (!chunks->is_regular) return lines_read(chunks->fd, to, length);
    uint64_t at = chunks->offset + chunks->skipped + chunks->held;
    for (;;) {
        ssize_t n = pread(chunks->fd, to, length, (off_t)at);
        if (n >= 0 || errno != EINTR || obatch_interrupted) return n;
    }
}

/* Reads the chunk up to its last newline; what is held is in it. LINES_FAILED leaves it there, and
 * the reason in errno. */
static int read_lines(struct chunks *chunks, struct chunk *chunk) {
    if (!reserve(&chunk->bytes, &chunk->capacity, JSONL_BLOCK)) return LINES_FAILED;
    const char *newline = find_end(chunks, chunk);
    for (;;) {
        const char *fresh = chunk->bytes + chunks->searched;
        size_t length = chunks->held - chunks->searched;
        if (!newline && length > 0)
            newline = chunks->skipped ? memchr(fresh, '\n', length) : memrchr(fresh, '\n', length);
        if (newline) {
            if (end_chunk(chunks, chunk, (size_t)(newline + 1 - chunk->bytes), true))
                return LINES_MORE;
            if (chunk->gap_length > 0) chunks->held = chunk->gap; /* what is behind was not read */
            return LINES_FAILED;
        }
        /* One byte of grace: the "\r" of a CRLF is not part of the line. */
        if (chunks->held > chunks->look->max_line + 1 || (chunks->skipped && chunks->held > 0)) {
            chunks->last_skipped = chunk->bytes[chunks->held - 1];
            chunks->skipped += chunks->held;
            chunks->held = 0;
        }
        chunks->searched = chunks->held;
        if (!make_room(chunks, chunk)) return LINES_FAILED;
        ptrdiff_t n = read_on(chunks, chunk->bytes + chunks->held, chunk->capacity - chunks->held);
        if (n < 0) return LINES_FAILED;
        if (n == 0 && chunks->held + chunks->skipped == 0) return LINES_END;
        if (n == 0)
            return end_chunk(chunks, chunk, chunks->held, false) ? LINES_MORE : LINES_FAILED;
        chunks->held += (size_t)n;
    }
}

static void swap_rest(struct chunks *chunks, struct chunk *chunk) {
    char *bytes = chunk->bytes;
    size_t capacity = chunk->capacity;
    chunk->bytes = chunks->rest;
    chunk->capacity = chunks->rest_capacity;
    chunks->rest = bytes;
    chunks->rest_capacity = capacity;
}

static void take_turn(struct chunks *chunks, struct chunk *chunk) {
    chunk->gap_length = 0;
    chunk->result = chunks->end;
    chunk->error = 0;
    if (chunk->result != LINES_MORE) return;
    swap_rest(chunks, chunk);
    errno = ENOMEM; /* unless something else fails */
    chunk->result = chunks->end = read_lines(chunks, chunk);
    chunk->error = chunk->result == LINES_FAILED ? errno : 0;
    if (chunk->result != LINES_MORE) swap_rest(chunks, chunk);
}

/* Waits for a turn; false when the chunk is to be dropped. */
static bool wait_for_turn(struct chunks *chunks, uint64_t turn) {
    pthread_mutex_lock(&chunks->mutex);
    while (chunks->turn != turn && !chunks->is_dropped)
        pthread_cond_wait(&chunks->passed, &chunks->mutex);
    bool is_dropped = chunks->is_dropped;
    pthread_mutex_unlock(&chunks->mutex);
    return !is_dropped;
}

static void pass_turn(struct chunks *chunks) {
    pthread_mutex_lock(&chunks->mutex);
    chunks->turn++;
    pthread_cond_broadcast(&chunks->passed);
    pthread_mutex_unlock(&chunks->mutex);
}

static bool read_gap(const struct chunk *chunk) {
    if (chunk->gap_length == 0) return true;
    ptrdiff_t n = lines_pread(chunk->source->fd, chunk->bytes + chunk->gap, chunk->gap_length,
                              chunk->offset + chunk->gap);
    return n >= 0 && (size_t)n == chunk->gap_length;
}

/* The task of a chunk. */
static void read_and_scan(struct pool_task *task) {
    struct chunk *chunk = (struct chunk *)task;
    if (!chunk->is_read) {
        if (!wait_for_turn(chunk->source, chunk->turn)) return;
        take_turn(chunk->source, chunk);
        pass_turn(chunk->source);
        chunk->is_read = chunk->result == LINES_MORE && read_gap(chunk);
    }
    if (!chunk->is_read || scan(chunk)) return;
    chunk->result = LINES_FAILED;
    chunk->error = ENOMEM;
}

/* ---- handing out, on Lua's thread ---- */

size_t chunk_size(const struct chunk *chunk) {
    return sizeof *chunk + chunk->capacity + chunk->line_room * sizeof *chunk->lines +
           chunk->span_room * sizeof *chunk->spans + chunk->scratch_room +
           chunk->tape.capacity * sizeof *chunk->tape.tokens + chunk->tape.room;
}

static void free_chunk(struct chunk *chunk) {
    free(chunk->bytes);
    free(chunk->lines);
    free(chunk->spans);
    json_tape_free(&chunk->tape);
    free(chunk->scratch);
    free(chunk);
}

/* One of those given back, or NULL. */
static struct chunk *new_chunk(struct chunks *chunks) {
    struct chunk *chunk = chunks->idle;
    if (chunk) {
        chunks->idle = chunk->next;
    } else {
        const struct json_plan *plan = &chunks->look->plan;
        size_t nodes = plan->count * sizeof *plan->nodes;
        chunk = calloc(1, sizeof *chunk + nodes);
        if (!chunk) return NULL;
        chunk->look = chunks->look;
        chunk->task.run = read_and_scan;
        memcpy(chunk->nodes, plan->nodes, nodes);
    }
    chunk->next = NULL;
    chunk->source = chunks;
    chunk->is_read = false;
    return chunk;
}

void chunks_give_back(struct chunks *chunks, struct chunk *chunk) {
    if (chunks->fd < 0 || chunk_size(chunk) > 8 * (size_t)JSONL_BLOCK) {
        free_chunk(chunk);
    } else {
        chunk->next = chunks->idle;
        chunks->idle = chunk;
    }
}

int chunks_open(struct chunks *chunks, const char *path, const struct chunk_plan *look) {
    int fd, error = lines_open_file(path, &fd);
    if (error) return error;
    struct stat status;
    *chunks = (struct chunks){.fd = fd,
                              .look = look,
                              .end = LINES_MORE,
                              .mutex = PTHREAD_MUTEX_INITIALIZER,
                              .passed = PTHREAD_COND_INITIALIZER};
    /* What comes through a pipe is handed out when it is there; a short file is done before another
     * thread has woken up. */
    if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && status.st_size > JSONL_BLOCK) {
        chunks->is_regular = true;
        chunks->reads_ahead = pool_threads() > 1;
        chunks->size = (uint64_t)status.st_size;
    }
    return 0;
}

/* Takes back what is in flight; what of it has been read is lost. */
static void drop(struct chunks *chunks) {
    if (!chunks->first) return;
    pthread_mutex_lock(&chunks->mutex);
    chunks->is_dropped = true;
    pthread_cond_broadcast(&chunks->passed);
    pthread_mutex_unlock(&chunks->mutex);
    while (chunks->first) {
        struct chunk *chunk = chunks->first;
        chunks->first = chunk->next;
        if (chunk->is_pooled) pool_cancel(&chunk->task);
        chunks_give_back(chunks, chunk);
    }
    chunks->in_flight = 0;
    chunks->turn = chunks->turns;
    chunks->is_dropped = false;
}

void chunks_close(struct chunks *chunks) {
    drop(chunks);
    if (chunks->fd >= 0) close(chunks->fd);
    while (chunks->idle) {
        struct chunk *chunk = chunks->idle;
        chunks->idle = chunk->next;
        free_chunk(chunk);
    }
    free(chunks->rest);
    *chunks = (struct chunks){.fd = -1};
}

/* Has a chunk read and scanned, now or by whoever has time. */
static void begin(struct chunks *chunks, struct chunk *chunk) {
    if (chunks->first) {
        chunks->last->next = chunk;
    } else {
        chunks->first = chunk;
    }
    chunks->last = chunk;
    chunks->in_flight++;
    if (!chunk->is_read) chunk->turn = chunks->turns++;
    chunk->is_pooled = chunks->reads_ahead;
    if (chunk->is_pooled) {
        pool_submit(&chunk->task);
    } else {
        read_and_scan(&chunk->task);
    }
}

/* Puts what has not been scanned of a chunk before those in flight. False when there is no memory.
 */
static bool split(struct chunks *chunks, struct chunk *chunk) {
    struct chunk *rest = new_chunk(chunks), *others = chunks->first, *last = chunks->last;
    size_t left = chunk->length - chunk->scanned;
    if (!rest || !reserve(&rest->bytes, &rest->capacity, left)) {
        if (rest) chunks_give_back(chunks, rest);
        return false;
    }
    memcpy(rest->bytes, chunk->bytes + chunk->scanned, left);
    rest->bytes[left] = '\0';
    rest->length = left;
    rest->offset = chunk->offset + chunk->scanned;
    rest->skipped = 0;
    rest->result = LINES_MORE;
    rest->is_read = true;
    chunk->length = chunk->scanned;
    chunks->first = NULL;
    begin(chunks, rest);
    rest->next = others;
    if (others) chunks->last = last;
    return true;
}

/* After a chunk that could not be read as it was expected: from its beginning on, the file is read
 * from the front, which meets what is the matter where it is. */
static void start_again(struct chunks *chunks, const struct chunk *chunk) {
    drop(chunks);
    chunks->offset = chunk->offset;
    chunks->held = chunks->searched = 0;
    chunks->skipped = 0;
    chunks->end = LINES_MORE;
    chunks->reads_ahead = false;
}

/* The oldest chunk in flight when it is ready; NULL when there is no memory for any. */
static struct chunk *take_oldest(struct chunks *chunks) {
    /* Enough for the others to go on with while this thread is at one, and in Lua. */
    int most = chunks->reads_ahead ? pool_threads() + 2 : 1;
    while (chunks->in_flight < most) {
        struct chunk *chunk = new_chunk(chunks);
        if (!chunk) break;
        begin(chunks, chunk);
    }
    struct chunk *oldest = chunks->first;
    if (!oldest) return NULL;
    if (oldest->is_pooled) pool_wait(&oldest->task);
    chunks->first = oldest->next;
    chunks->in_flight--;
    return oldest;
}

int chunks_next(struct chunks *chunks, struct chunk **chunk) {
    for (;;) {
        /* Only what is in flight may be reading. */
        if (!chunks->first && chunks->end == LINES_END) return LINES_END;
        struct chunk *oldest = *chunk = take_oldest(chunks);
        if (!oldest) return errno = ENOMEM, LINES_FAILED;
        if (oldest->result == LINES_MORE && !oldest->is_read) {
            start_again(chunks, oldest);
            chunks_give_back(chunks, oldest);
            continue;
        }
        bool is_good = oldest->result == LINES_MORE;
        if (is_good && (oldest->scanned == oldest->length || split(chunks, oldest)))
            return LINES_MORE;
        int result = is_good ? LINES_FAILED : oldest->result;
        int error = is_good ? ENOMEM : oldest->error;
        if (oldest->is_read) {
            chunks->failed_at = oldest->offset;
        } else {
            drop(chunks);
            chunks->failed_at = chunks->offset + chunks->skipped + chunks->held;
            /* Whoever goes on after a failure reads on. */
            if (result == LINES_FAILED) chunks->end = LINES_MORE;
        }
        chunks_give_back(chunks, oldest);
        errno = error;
        return result;
    }
}
