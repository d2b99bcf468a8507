#include "chunk.h"
#include "obatch.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    PADDING = 1, /* for the NUL behind a last line without a newline: numbers end there, too */
    /* Lines of a chunk: what is known of them must not take far more memory than they do. */
    MOST_LINES = JSONL_BLOCK / 32 + 1,
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

static void scan(struct pool_task *task) {
    struct chunk *chunk = (struct chunk *)task;
    size_t next;
    chunk->line_count = chunk->span_count = 0;
    chunk->error = 0;
    if (chunk->skipped && !scan_line(chunk, 0, chunk->skipped)) chunk->error = ENOMEM;
    chunk->scanned = chunk->length;
    for (size_t at = 0; at < chunk->length; at = next) {
        if (chunk->line_count == MOST_LINES) {
            chunk->scanned = at;
            return;
        }
        const char *newline = memchr(chunk->bytes + at, '\n', chunk->length - at);
        size_t length = newline ? (size_t)(newline - chunk->bytes) - at : chunk->length - at;
        next = at + length + (newline != NULL);
        if (newline && length > 0 && newline[-1] == '\r') length--;
        if (!scan_line(chunk, at, length)) {
            chunk->error = ENOMEM;
            return;
        }
    }
}

/* ---- reading, on Lua's ---- */

size_t chunk_size(const struct chunk *chunk) {
    return sizeof *chunk + chunk->capacity + chunk->line_room * sizeof *chunk->lines +
           chunk->span_room * sizeof *chunk->spans + chunk->scratch_room;
}

static void free_chunk(struct chunk *chunk) {
    if (!chunk) return;
    free(chunk->bytes);
    free(chunk->lines);
    free(chunk->spans);
    free(chunk->scratch);
    free(chunk);
}

/* False when there is no memory. */
static bool reserve(struct chunk *chunk, size_t capacity) {
    if (chunk->capacity >= capacity) return true;
    char *bytes = realloc(chunk->bytes, capacity + PADDING);
    if (!bytes) return false;
    chunk->bytes = bytes;
    chunk->capacity = capacity;
    return true;
}

/* An empty one with room for a block, or NULL. */
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
        chunk->task.run = scan;
        memcpy(chunk->nodes, plan->nodes, nodes);
        if (!reserve(chunk, JSONL_BLOCK)) return free_chunk(chunk), NULL;
    }
    chunk->next = NULL;
    chunk->length = chunk->line_count = 0;
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
    *chunks = (struct chunks){.fd = fd, .look = look};
    /* What comes through a pipe is handed out when it is there; a short file is done before another
     * thread has woken up. */
    chunks->reads_ahead = fstat(fd, &status) == 0 && S_ISREG(status.st_mode) &&
                          status.st_size > JSONL_BLOCK && pool_threads() > 1;
    return 0;
}

void chunks_close(struct chunks *chunks) {
    if (chunks->fd >= 0) close(chunks->fd);
    while (chunks->first) {
        struct chunk *chunk = chunks->first;
        chunks->first = chunk->next;
        if (chunk->is_pooled) pool_cancel(&chunk->task);
        free_chunk(chunk);
    }
    while (chunks->idle) {
        struct chunk *chunk = chunks->idle;
        chunks->idle = chunk->next;
        free_chunk(chunk);
    }
    free_chunk(chunks->filling);
    *chunks = (struct chunks){.fd = -1};
}

/* Makes room for a fair read after the bytes held. */
static bool make_room(struct chunks *chunks) {
    struct chunk *chunk = chunks->filling;
    size_t most = chunks->look->max_line + 2 * (size_t)JSONL_BLOCK;
    if (chunk->capacity - chunks->held >= (JSONL_BLOCK + 1) / 2) return true;
    size_t capacity = chunk->capacity * 2;
    return reserve(chunk, capacity < most ? capacity : most);
}

/* Ends the chunk that is being filled after so many of the bytes held, the last of which may be a
 * newline; the others begin the next chunk. False when there is no memory, with nothing done. */
static bool end_chunk(struct chunks *chunks, size_t length, bool has_newline) {
    struct chunk *chunk = chunks->filling, *next = new_chunk(chunks);
    size_t left = chunks->held - length, line = length - has_newline;
    if (!next || !reserve(next, left)) {
        if (next) chunks_give_back(chunks, next);
        return false;
    }
    if (left > 0) memcpy(next->bytes, chunk->bytes + length, left);
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
    chunks->filling = next;
    chunks->held = left;
    /* After a line that was too long, whole lines may come. */
    chunks->searched = chunk->skipped ? 0 : left;
    return true;
}

/* Reads one more chunk. */
static int fill(struct chunks *chunks, struct chunk **filled) {
    if (!chunks->filling) chunks->filling = new_chunk(chunks);
    if (!chunks->filling) return errno = ENOMEM, LINES_FAILED;
    struct chunk *chunk = *filled = chunks->filling;
    for (;;) {
        const char *fresh = chunk->bytes + chunks->searched, *newline = NULL;
        size_t length = chunks->held - chunks->searched;
        if (length > 0)
            newline = chunks->skipped ? memchr(fresh, '\n', length) : memrchr(fresh, '\n', length);
        if (newline) {
            if (end_chunk(chunks, (size_t)(newline + 1 - chunk->bytes), true)) return LINES_MORE;
            return errno = ENOMEM, LINES_FAILED;
        }
        /* One byte of grace: the "\r" of a CRLF is not part of the line. */
        if (chunks->held > chunks->look->max_line + 1 || (chunks->skipped && chunks->held > 0)) {
            chunks->last_skipped = chunk->bytes[chunks->held - 1];
            chunks->skipped += chunks->held;
            chunks->held = 0;
        }
        chunks->searched = chunks->held;
        if (!make_room(chunks)) return errno = ENOMEM, LINES_FAILED;
        ptrdiff_t n =
            lines_read(chunks->fd, chunk->bytes + chunks->held, chunk->capacity - chunks->held);
        if (n < 0) return LINES_FAILED;
        if (n == 0 && chunks->held + chunks->skipped == 0) return LINES_END;
        if (n == 0) {
            if (end_chunk(chunks, chunks->held, false)) return LINES_MORE;
            return errno = ENOMEM, LINES_FAILED;
        }
        chunks->held += (size_t)n;
    }
}

/* Has a chunk scanned, now or by whoever has time. */
static void begin(struct chunks *chunks, struct chunk *chunk) {
    chunk->next = NULL;
    if (chunks->first) {
        chunks->last->next = chunk;
    } else {
        chunks->first = chunk;
    }
    chunks->last = chunk;
    chunks->in_flight++;
    chunk->is_pooled = chunks->reads_ahead;
    if (chunk->is_pooled) {
        pool_submit(&chunk->task);
    } else {
        scan(&chunk->task);
    }
}

/* Puts what has not been scanned of a chunk before those in flight. False when there is no memory.
 */
static bool split(struct chunks *chunks, struct chunk *chunk) {
    struct chunk *rest = new_chunk(chunks), *others = chunks->first, *last = chunks->last;
    size_t left = chunk->length - chunk->scanned;
    if (!rest || !reserve(rest, left)) {
        if (rest) chunks_give_back(chunks, rest);
        return false;
    }
    memcpy(rest->bytes, chunk->bytes + chunk->scanned, left);
    rest->length = left;
    rest->offset = chunk->offset + chunk->scanned;
    rest->skipped = 0;
    chunk->length = chunk->scanned;
    chunks->first = NULL;
    begin(chunks, rest);
    rest->next = others;
    if (others) chunks->last = last;
    return true;
}

int chunks_next(struct chunks *chunks, struct chunk **chunk) {
    int most = chunks->reads_ahead ? pool_threads() + 1 : 1;
    while (chunks->in_flight < most && !chunks->has_ended && !chunks->error) {
        struct chunk *filled;
        int result = fill(chunks, &filled);
        if (result == LINES_MORE) begin(chunks, filled);
        chunks->has_ended = result == LINES_END;
        if (result == LINES_FAILED) chunks->error = errno;
    }
    struct chunk *oldest = *chunk = chunks->first;
    if (!oldest) {
        if (chunks->has_ended) return LINES_END;
        errno = chunks->error;
        chunks->error = 0; /* whoever goes on nevertheless reads on */
        return LINES_FAILED;
    }
    chunks->first = oldest->next;
    chunks->in_flight--;
    if (oldest->is_pooled) pool_wait(&oldest->task);
    if (!oldest->error && oldest->scanned < oldest->length && !split(chunks, oldest))
        oldest->error = ENOMEM;
    if (!oldest->error) return LINES_MORE;
    errno = oldest->error;
    chunks_give_back(chunks, oldest);
    return LINES_FAILED;
}
