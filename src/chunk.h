/* The lines of a file in chunks, each line checked and looked into by a plan.
 *
 * A chunk holds whole lines: JSONL_BLOCK bytes, or one line that is longer. Where a chunk ends is
 * known when the one before it has found its last newline, and no sooner, so tasks take turns at
 * that. Of a regular file this is little: a task reads the end of its block first, lets the next
 * one go on from the last newline there, and then reads what is before that and scans it all. Pipes
 * and short files are read from one end to the other, by Lua's thread. Chunks are handed out in the
 * order of the file. */
#ifndef OBATCH_CHUNK_H
#define OBATCH_CHUNK_H

#include "json_tape.h"
#include "lines.h"
#include "pool.h"

#include <pthread.h>

/* What is looked for. */
struct chunk_field {
    uint32_t node; /* of the plan */
    /* The usual value as JSON text, NULL when any value is usual */
    const char *usual;
    size_t usual_length;
    bool must_be_there; /* nothing at all is not usual */
};

struct chunk_plan {
    struct json_plan plan; /* each chunk has a copy of its nodes */
    struct chunk_field *fields;
    uint16_t count;
    size_t max_line; /* longer ones are told of, not read */
    int inner;       /* the field whose text is judged as JSON, or -1 */
    int decoded;     /* the field whose text will be wanted as values, or -1 */
    bool has_usual;
};

/* A field that a line has. */
struct chunk_span {
    uint32_t at, length; /* of the value in the line */
    uint16_t field;
    uint8_t type; /* enum json_type */
    bool escaped;
};

enum chunk_kind { CHUNK_GOOD, CHUNK_BAD, CHUNK_BLANK, CHUNK_TOO_LONG };

struct chunk_line {
    uint64_t at,
        length; /* in the chunk, without the line end; the bytes of one too long are gone */
    const char *message; /* what makes a bad line bad, */
    uint32_t error_at;   /* and the byte, from 0 */
    uint32_t first_span; /* of a good line */
    uint32_t token;      /* where the decoded field begins on the tape, when it is there */
    uint16_t spans;
    uint8_t kind;
    bool is_json;  /* the text of the inner field is decodable JSON */
    bool is_usual; /* every field has its usual value */
    bool is_lone;  /* a lone surrogate is in it */
    bool is_taped; /* the text of the decoded field is on the tape */
};

struct chunk {
    struct pool_task task;
    struct chunk *next;    /* of those in flight, or idle */
    struct chunks *source; /* while it is in flight */
    uint64_t turn;         /* when it is to be read */
    const struct chunk_plan *look;
    char *bytes; /* a newline or a NUL is behind each line */
    size_t capacity, length;
    size_t scanned;   /* of the length: less when there are very many lines in it */
    uint64_t offset;  /* of the first byte in the file */
    uint64_t skipped; /* instead of bytes: the length of a single line that was too long */
    struct chunk_line *lines;
    struct chunk_span *spans;
    struct json_tape tape; /* of usual lines, if any are: of as many as fit */
    char *scratch;
    size_t line_count, line_room, span_count, span_room, scratch_room;
    size_t gap, gap_length; /* of the bytes: what is read when the next one may begin */
    int result;             /* LINES_MORE, or why there is nothing in it */
    int error;              /* of LINES_FAILED */
    bool is_pooled;
    bool is_read;
    struct json_forms forms; /* of its lines, from one use of the chunk to the next */
    struct json_node nodes[];
};

/* A file that is read. Zeroed and with fd = -1 it is closed. */
struct chunks {
    int fd;
    bool is_regular;  /* it is read by position */
    bool reads_ahead; /* by the pool */
    const struct chunk_plan *look;
    uint64_t size;      /* of a regular file when it was opened */
    uint64_t failed_at; /* after LINES_FAILED: the byte in the file */

    struct chunk *first, *last; /* in flight, the oldest first */
    int in_flight;
    uint64_t turns; /* given out */
    struct chunk *idle;

    pthread_mutex_t mutex; /* of the next two */
    pthread_cond_t passed;
    uint64_t turn; /* whose it is */
    bool is_dropped;

    /* Of the task whose turn it is. */
    char *rest;            /* the beginning of the next chunk: */
    size_t rest_capacity;  /* so large, */
    size_t held, searched; /* with so many bytes, of which these have no newline */
    uint64_t skipped;      /* of the same line before them, when it is too long */
    uint64_t offset;       /* of the line in the file */
    uint64_t asked;        /* the kernel was asked to read so far */
    char last_skipped;
    int end; /* LINES_MORE until reading ended or failed */
};

/* 0 or an errno. The plan is the caller's and must outlive the chunks. */
int chunks_open(struct chunks *chunks, const char *path, const struct chunk_plan *look);

/* Nothing of it runs any more after that. Chunks that were handed out stay. */
void chunks_close(struct chunks *chunks);

/* LINES_MORE and the next chunk, the caller's until he gives it back; LINES_FAILED leaves the
 * reason in errno: EINTR means that a stop was asked for. */
int chunks_next(struct chunks *chunks, struct chunk **chunk);

/* Gives a chunk back, to be used again as long as there is more to read. */
void chunks_give_back(struct chunks *chunks, struct chunk *chunk);

/* What a chunk takes of memory, about. */
size_t chunk_size(const struct chunk *chunk);

static inline struct json_value chunk_value(const char *line, const struct chunk_span *span) {
    return (struct json_value){.type = (enum json_type)span->type,
                               .escaped = span->escaped,
                               .at = line + span->at,
                               .length = span->length};
}

#endif
