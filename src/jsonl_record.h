/* The records of jsonl.scan: tables that know where their line is in a chunk. What they have
 * besides is made when it is asked for. */
#ifndef OBATCH_JSONL_RECORD_H
#define OBATCH_JSONL_RECORD_H

#include "chunk.h"

#include <lua.h>

/* A chunk whose records are in Lua, in a userdata. */
struct jsonl_box {
    struct chunk *chunk; /* NULL when nobody needs it any more */
    lua_Integer first;   /* number of its first line */
    /* The record that was handed out last, so as to know it again, and its line. Its memory may be
     * another record's by now, but then that one was handed out later. */
    const void *record;
    const struct chunk_line *line;
    /* Not 0 while values are made of its bytes: making them runs finalizers, and a finalizer may
     * take records of the same scanner. The chunk stays until then. */
    int readers;
};

/* What a record has besides the fields of the plan, NULL at the end. In the table of fields, their
 * names have the numbers -1, -2, ..., and those of the plan have theirs from 1. */
extern const char *const jsonl_record_own[];

/* __index and __pairs of records. Their upvalues: the box, the table of fields. */
int jsonl_record_index(lua_State *L);
int jsonl_record_pairs(lua_State *L);

/* Makes everything that the record at a stack index has, so that it needs the chunk no more. */
void jsonl_record_make(lua_State *L, int record, struct jsonl_box *box, int fields);

#endif
