/* What the Lua modules obatch.json and obatch.jsonl share: values from JSON text to Lua and back.
 * JSON null is the light userdata NULL (as in lua-cjson); arrays carry a metatable as their mark.
 */
#ifndef OBATCH_JSON_LUA_H
#define OBATCH_JSON_LUA_H

#include "json_tape.h"

#include <lua.h>

/* The name of the metatable that marks arrays. */
#define JSON_ARRAY_MARK "obatch.json.array"

/* Pushes the value of a whole text, after which a byte must be readable that is no digit. False,
 * with nothing pushed, when it is not JSON or cannot be decoded. */
bool json_lua_decode(lua_State *L, const char *text, size_t length, struct json_error *error);

/* The same for JSON that may be in one Markdown fence (see json_unfence), in a text or in the text
 * that a string means, which was found in a checked text. The error's place is of no use. */
bool json_lua_decode_answer(lua_State *L, const char *text, size_t length,
                            struct json_error *error);
bool json_lua_decode_string(lua_State *L, const struct json_value *string,
                            struct json_error *error);

/* Pushes the value that begins with a token of a tape, whose depth is that. */
void json_lua_push_tape(lua_State *L, const struct json_token *token, int depth);

/* Pushes the Lua value of a JSON value found in a checked text. The byte after the value must be
 * readable (the NUL of a Lua string will do). False, with nothing pushed and error->offset counted
 * from the value's first byte, when a lone surrogate or a number beyond all doubles is in it. */
bool json_lua_push(lua_State *L, const struct json_value *value, struct json_error *error);

/* Does the table at a stack index carry the mark of an array? */
bool json_lua_is_array(lua_State *L, int index);

/* Pushes a userdata that holds a plan with the room for `nodes` nodes. */
struct json_plan *json_lua_plan(lua_State *L, size_t nodes);

/* json_pointer_nodes for the string at a stack index; raises when that is no pointer. */
size_t json_lua_pointer(lua_State *L, int index, int argument);

/* Growing memory. Whoever embeds it frees `data`; the functions that fill it may raise, so it lives
 * in a userdata whose __gc does that. */
struct json_out {
    char *data;
    size_t length, capacity;
};

void json_out_add(lua_State *L, struct json_out *out, const char *bytes, size_t length);

/* Adds valid UTF-8 as a JSON string, with its quotes. */
void json_out_string(lua_State *L, struct json_out *out, const char *bytes, size_t length);

/* Called for a userdata inside the value: writes what stands for it, or returns false when it is
 * nothing it knows. */
typedef bool json_foreign(lua_State *L, int index, struct json_out *out, void *context);

/* Appends the JSON text of the value at a stack index. Raises with the RFC 6901 pointer of the
 * culprit when there is none. foreign may be NULL. */
void json_lua_encode(lua_State *L, int index, struct json_out *out, json_foreign *foreign,
                     void *context);

#endif
